//! The operator's own configuration file: where the engine is, what to listen on, which clusters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Period, ServiceClusterSpec};

/// Everything that `interlock run` can be told. Every field has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    /// `interlock.dev/v1alpha1`, where given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `Configuration`, where given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The engine.
    pub docker: DockerSpec,
    /// Sockets and ports of the operator itself.
    pub listen: ListenSpec,
    /// Logging.
    pub log: LogSpec,
    /// How changes are gathered and how often the world is looked at without any.
    pub pace: PaceSpec,
    /// The identity that fences proxies against other operators.
    pub operator_id: OperatorId,
    /// The folder that holds what must survive a restart of the operator.
    pub state_directory: StateDirectory,
    /// A folder, or one file, of `Route` documents (`.yaml`, `.yml`, `.json`); watched. None: labels alone count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<String>,
    /// The clusters; none: one implicit cluster for each kind of proxy.
    pub clusters: Vec<NamedCluster>,
}

macro_rules! text_default {
    ($(#[$doc:meta])* $name:ident = $default:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub String);
        impl Default for $name {
            fn default() -> Self {
                Self($default.to_owned())
            }
        }
    };
}

text_default! {
    /// The identity that fences proxies against other operators.
    OperatorId = "interlock"
}
text_default! {
    /// The folder that holds what must survive a restart of the operator.
    StateDirectory = "/var/lib/interlock"
}

/// How the engine is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DockerSpec {
    /// `unix:///var/run/docker.sock`, `tcp://host:2375`; none: `DOCKER_HOST`, else the default socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// TLS for a `tcp://` host; none: `DOCKER_CERT_PATH` with `DOCKER_TLS_VERIFY`, else plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<DockerTls>,
    /// Only containers with this label are seen, as `key` or `key=value`; none: all. For several operators
    /// on one engine, each with containers of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Refuse everything but reading: no exec, no upload, no network attachment, no start.
    pub read_only: bool,
}

/// Files for TLS to an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DockerTls {
    /// The authority that signed the engine's certificate.
    pub ca: String,
    /// The client's certificate.
    pub cert: String,
    /// The client's key.
    pub key: String,
}

/// Sockets and ports of the operator itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListenSpec {
    /// Health and metrics.
    pub metrics: String,
    /// The API's unix socket (mode 0600).
    pub api: String,
    /// The folder in which the agent images put their sockets.
    pub agents: String,
}

impl Default for ListenSpec {
    fn default() -> Self {
        Self {
            metrics: "127.0.0.1:9090".to_owned(),
            api: "/run/interlock/api.sock".to_owned(),
            agents: "/run/interlock/agents".to_owned(),
        }
    }
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogSpec {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// A level or a filter as `tracing` takes it: `info`, `interlock=debug`.
    pub level: String,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How changes are gathered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PaceSpec {
    /// The longest that a change is gathered with others before it is applied; at most 500 ms.
    pub ceiling: Period,
    /// Between two looks at the world without any event.
    pub resync: Period,
}

impl Default for PaceSpec {
    fn default() -> Self {
        Self { ceiling: Period::millis(500), resync: Period::secs(30) }
    }
}

/// A cluster and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedCluster {
    /// The name, unique.
    pub name: String,
    /// Its settings.
    pub spec: ServiceClusterSpec,
}
