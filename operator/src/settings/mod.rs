//! Settings: the configuration file, flags and environment, joined into one value with every default.

pub mod cluster;
mod environment;
mod error;
mod layers;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use interlock_core::compile::Config;
use interlock_core::model::ClusterName;
use interlock_crds::schema::Kind;
use interlock_crds::{
    API_VERSION, Configuration, DEFAULT_NAMESPACE, DockerSpec, DockerTls, EngineSpec, LogSpec, Metadata,
    NamedCluster, PaceSpec, ProxyKind, ServiceClusterSpec,
};

pub use environment::Environment;
pub use error::{Invalid, SettingsError};
use layers::Layers;

use crate::store::{CONFIGURATION, IMPLICIT, Key, ORIGIN, Spec, Stored};

/// The socket of an engine on this machine, where nothing names another.
pub const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";

/// The engine of a configuration, which has one.
pub const ENGINE: &str = "local";
/// What the command line says; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`: the configuration file.
    pub config: Option<PathBuf>,
    /// `--docker-host`: the engine.
    pub docker_host: Option<String>,
    /// `--label-selector`: only containers with this label are seen.
    pub label_selector: Option<String>,
    /// `--read-only-docker`: refuse everything but reading.
    pub read_only_docker: bool,
    /// `--embedded`: run this proxy as the operator's own.
    pub embedded: Option<ProxyKind>,
    /// `--observe`: compute and compare, deliver nothing.
    pub observe: bool,
    /// `--log-format`.
    pub log_format: Option<interlock_crds::LogFormat>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--metrics`: where health and metrics listen.
    pub metrics: Option<String>,
    /// `--api`: the API's unix socket.
    pub api: Option<String>,
    /// `--agents`: the folder of the agents' sockets.
    pub agents: Option<String>,
    /// `--state-dir`: the folder of what must survive a restart.
    pub state_dir: Option<String>,
}

/// Everything that the operator was told, with every default, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The effective configuration: what `interlock config view` shows.
    pub configuration: Configuration,
    /// The part that compiling depends on.
    pub config: Config,
    /// The engine; `host` is always set, `tls` where it is used.
    pub docker: DockerSpec,
    /// Where health and metrics listen.
    pub metrics: SocketAddr,
    /// The API's unix socket.
    pub api: PathBuf,
    /// The folder of the agents' sockets.
    pub agents: PathBuf,
    /// The folder of what must survive a restart.
    pub state: PathBuf,
    /// The folder, or the file, of documents.
    pub manifests: Option<PathBuf>,
    /// The identity that fences proxies against other operators.
    pub operator_id: String,
    /// Logging.
    pub log: LogSpec,
    /// How changes are gathered.
    pub pace: PaceSpec,
    /// The proxy that the outer process owns, and its cluster is `config.embedded`.
    pub embedded: Option<ProxyKind>,
    /// Whether nothing is delivered.
    pub observe: bool,
}

impl Settings {
    /// Joins `flags`, the environment's `INTERLOCK_CONFIG`, the file and the defaults, in this order of
    /// precedence, field by field (a list counts as one field), and checks the result.
    pub fn load(flags: &Flags, environment: &Environment) -> Result<Self, SettingsError> {
        let layers = Layers::read(flags, environment)?;
        let mut configuration = layers.join()?;
        let metrics = validate::configuration(&configuration, &layers)?;
        resolve_docker(&mut configuration.docker, environment);
        validate::docker(&configuration.docker, &layers, environment)?;
        let clusters = validate::clusters(&configuration, &layers)?;
        let written = !clusters.is_empty();
        let clusters = if written { clusters } else { implicit_clusters() };
        let names = clusters.iter().map(|(name, _)| name.clone());
        let config = Config {
            embedded: validate::embedded(flags.embedded, &clusters)?,
            read_only: configuration.docker.read_only,
            implicit: if written { BTreeSet::new() } else { names.collect() },
            documents: BTreeSet::new(),
            clusters: clusters.iter().cloned().collect(),
        };
        show_defaults(&mut configuration, clusters);
        Ok(Self {
            config,
            docker: configuration.docker.clone(),
            metrics,
            api: PathBuf::from(&configuration.listen.api),
            agents: PathBuf::from(&configuration.listen.agents),
            state: PathBuf::from(&configuration.state_directory.0),
            manifests: configuration.manifests.as_ref().map(PathBuf::from),
            operator_id: configuration.operator_id.0.clone(),
            log: configuration.log.clone(),
            pace: configuration.pace.clone(),
            embedded: flags.embedded,
            observe: flags.observe,
            configuration,
        })
    }
}

impl Settings {
    /// The clusters and the engine as objects, which can be read where others can be written.
    pub fn objects(&self) -> Vec<Stored> {
        let clusters = self.config.clusters.iter();
        let clusters = clusters.filter_map(|(name, spec)| {
            let origin = if self.config.implicit.contains(name) { IMPLICIT } else { CONFIGURATION };
            fixed(Kind::ServiceCluster, name.as_str(), Spec::ServiceCluster(spec.clone().into()), origin)
        });
        let address = self.docker.host.clone().unwrap_or_else(|| DEFAULT_DOCKER_HOST.to_owned());
        let engine = EngineSpec { address, tls: self.docker.tls.clone(), labels: BTreeMap::new() };
        clusters.chain(fixed(Kind::Engine, ENGINE, Spec::Engine(engine.into()), CONFIGURATION)).collect()
    }
}

/// An object of the configuration. A cluster's name may be one that no document can have: then there is none.
fn fixed(kind: Kind, name: &str, spec: Spec, origin: &str) -> Option<Stored> {
    let key = Key::new(kind, DEFAULT_NAMESPACE, name).ok()?;
    let metadata = Metadata {
        name: name.to_owned(),
        annotations: BTreeMap::from([(ORIGIN.to_owned(), origin.to_owned())]),
        resource_version: Some("0".to_owned()),
        generation: Some(1),
        ..Metadata::default()
    };
    Some(Stored { key, metadata, spec })
}

/// Where the configuration is silent, Docker's own variables count, as they do for `docker` itself.
fn resolve_docker(docker: &mut DockerSpec, environment: &Environment) {
    let host = docker.host.get_or_insert_with(|| {
        environment.docker_host.clone().unwrap_or_else(|| DEFAULT_DOCKER_HOST.to_owned())
    });
    let remote = host.starts_with("tcp://") || host.starts_with("https://");
    if docker.tls.is_none() && remote && environment.docker_tls_verify {
        let folder = environment.certificates();
        let file = |name: &str| folder.join(name).display().to_string();
        docker.tls = Some(DockerTls { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") });
    }
}

/// One cluster for each kind of proxy, by the kind's name.
fn implicit_clusters() -> Vec<(ClusterName, ServiceClusterSpec)> {
    [ProxyKind::Haproxy, ProxyKind::Nginx]
        .into_iter()
        .filter_map(|proxy| {
            Some((proxy.as_str().parse::<ClusterName>().ok()?, ServiceClusterSpec::implicit(proxy)))
        })
        .collect()
}

/// Fills in what was implied, so that the shown configuration, fed back, means the same.
fn show_defaults(configuration: &mut Configuration, clusters: Vec<(ClusterName, ServiceClusterSpec)>) {
    configuration.api_version = Some(API_VERSION.to_owned());
    configuration.kind = Some("Configuration".to_owned());
    configuration.clusters =
        clusters.into_iter().map(|(name, spec)| NamedCluster { name: name.to_string(), spec }).collect();
}
