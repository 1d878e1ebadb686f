//! What a configuration must fulfil beyond its types.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use interlock_core::model::ClusterName;
use interlock_crds::{API_VERSION, Configuration, DockerSpec, ProxyKind, ServiceClusterSpec};
use tracing_subscriber::EnvFilter;

use super::layers::Layers;
use super::{Environment, Invalid, SettingsError, cluster};

/// The longest that changes may be gathered (ARCHITECTURE.md, "Pace").
const MAX_CEILING: Duration = Duration::from_millis(500);
const MIN_RESYNC: Duration = Duration::from_secs(1);

type Check = Result<(), SettingsError>;

/// Checks the operator's own part; returns the parsed address for metrics.
pub(super) fn configuration(
    configuration: &Configuration,
    layers: &Layers,
) -> Result<SocketAddr, SettingsError> {
    document(configuration, layers)?;
    let listen = &configuration.listen;
    absolute("listen.api", &listen.api, layers)?;
    absolute("listen.agents", &listen.agents, layers)?;
    absolute("stateDirectory", &configuration.state_directory.0, layers)?;
    if let Some(path) = &configuration.manifests {
        absolute("manifests", path, layers)?;
    }
    pace(configuration, layers)?;
    let id = &configuration.operator_id.0;
    if id.is_empty() || id.len() > 128 || id.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let message = format!("`{}` must be 1 to 128 characters without spaces", shown(id));
        return Err(layers.invalid("operatorId", message, None).into());
    }
    if let Err(error) = EnvFilter::try_new(&configuration.log.level) {
        let message = format!("`{}` is no level or filter: {error}", shown(&configuration.log.level));
        let fix = "write `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `interlock=debug`";
        return Err(layers.invalid("log.level", message, Some(fix.to_owned())).into());
    }
    listen.metrics.parse().map_err(|_| {
        let message = format!("`{}` is not an address with a port", shown(&listen.metrics));
        let fix = "write an IP address and a port, as in `127.0.0.1:9090` or `[::1]:9090`";
        layers.invalid("listen.metrics", message, Some(fix.to_owned())).into()
    })
}

fn document(configuration: &Configuration, layers: &Layers) -> Check {
    for (field, given, wanted) in [
        ("apiVersion", &configuration.api_version, API_VERSION),
        ("kind", &configuration.kind, "Configuration"),
    ] {
        if let Some(given) = given.as_deref().filter(|given| *given != wanted) {
            let message = format!("`{}` is not one that this version knows", shown(given));
            return Err(layers.invalid(field, message, Some(format!("write `{wanted}`"))).into());
        }
    }
    Ok(())
}

fn absolute(field: &str, path: &str, layers: &Layers) -> Check {
    if Path::new(path).is_absolute() {
        return Ok(());
    }
    let message = format!("`{}` is not an absolute path", shown(path));
    Err(layers.invalid(field, message, Some("begin it with `/`".to_owned())).into())
}

fn pace(configuration: &Configuration, layers: &Layers) -> Check {
    let pace = &configuration.pace;
    if pace.ceiling.get() > MAX_CEILING {
        let message = format!("`{}` is longer than 500ms", pace.ceiling);
        return Err(layers.invalid("pace.ceiling", message, Some("write at most `500ms`".to_owned())).into());
    }
    if pace.resync.get() < MIN_RESYNC {
        let message = format!("`{}` is shorter than 1s", pace.resync);
        let fix = "write at least `1s`; events are acted on at once, this is only the safety net";
        return Err(layers.invalid("pace.resync", message, Some(fix.to_owned())).into());
    }
    Ok(())
}

/// Checks how the engine is reached, once Docker's own variables have been taken in.
pub(super) fn docker(docker: &DockerSpec, layers: &Layers, environment: &Environment) -> Check {
    let host = docker.host.as_deref().unwrap_or_default();
    let rest = ["unix://", "tcp://", "http://", "https://"].iter().find_map(|s| host.strip_prefix(s));
    let fix = match (rest, host) {
        (Some(""), _) => "name a socket or a host behind `://`".to_owned(),
        (Some(_), _) => return tls(docker, host, layers),
        (None, host) if host.starts_with('/') => format!("write `unix://{}`", shown(host)),
        (None, host) if host.starts_with("ssh://") => {
            "forward the socket (`ssh -L /tmp/docker.sock:/var/run/docker.sock …`) and write its `unix://` path"
                .to_owned()
        }
        _ => "write `unix:///var/run/docker.sock` or `tcp://host:2375`".to_owned(),
    };
    let message = format!("`{}` is not the address of a Docker engine", shown(host));
    let mut invalid = layers.invalid("docker.host", message, Some(fix));
    if invalid.position.is_none() && environment.docker_host.as_deref() == Some(host) {
        invalid = Invalid { origin: "DOCKER_HOST".to_owned(), field: String::new(), ..invalid };
    }
    Err(invalid.into())
}

fn tls(docker: &DockerSpec, host: &str, layers: &Layers) -> Check {
    if docker.tls.is_some() && host.starts_with("unix://") {
        let message = "a unix socket speaks no TLS".to_owned();
        let fix = "remove `docker.tls`, or write a `tcp://` host".to_owned();
        return Err(layers.invalid("docker.tls", message, Some(fix)).into());
    }
    Ok(())
}

/// Checks names and settings of the clusters that are written down.
pub(super) fn clusters(
    configuration: &Configuration,
    layers: &Layers,
) -> Result<Vec<(ClusterName, ServiceClusterSpec)>, SettingsError> {
    let mut seen = BTreeSet::new();
    let mut clusters = Vec::new();
    for (index, cluster) in configuration.clusters.iter().enumerate() {
        let field = format!("clusters[{index}].name");
        let name: ClusterName = cluster.name.parse().map_err(|error| {
            let fix = "letters, digits, `-`, `.` and `_` make a name".to_owned();
            SettingsError::from(layers.invalid(&field, format!("{error}"), Some(fix)))
        })?;
        if !seen.insert(name.clone()) {
            let message = format!("`{name}` names another cluster already");
            return Err(layers.invalid(&field, message, Some("give it a name of its own".to_owned())).into());
        }
        cluster::check(&cluster.spec).map_err(|unfit| {
            let field = format!("clusters[{index}].spec.{}", unfit.field);
            SettingsError::from(layers.invalid(&field, unfit.message, Some(unfit.fix)))
        })?;
        clusters.push((name, cluster.spec.clone()));
    }
    Ok(clusters)
}

/// The embedded proxy's cluster: the only one of its kind, or the one that bears the kind's name.
pub(super) fn embedded(
    kind: Option<ProxyKind>,
    clusters: &[(ClusterName, ServiceClusterSpec)],
) -> Result<Option<ClusterName>, SettingsError> {
    let Some(kind) = kind else { return Ok(None) };
    let of_kind = || clusters.iter().filter(|(_, spec)| spec.proxy == kind).map(|(name, _)| name);
    let named = of_kind().find(|name| name.as_str() == kind.as_str());
    let only = if of_kind().count() == 1 { of_kind().next() } else { None };
    if let Some(name) = named.or(only) {
        return Ok(Some(name.clone()));
    }
    let kind = kind.as_str();
    let message = if of_kind().next().is_none() {
        format!("no cluster of the configuration runs {kind}")
    } else {
        format!("several clusters run {kind} and none is called `{kind}`")
    };
    let fix = Some(format!("add or rename one: `{{name: {kind}, spec: {{proxy: {kind}}}}}`"));
    let origin = "--embedded".to_owned();
    Err(Invalid { origin, position: None, line: None, field: String::new(), message, fix }.into())
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
