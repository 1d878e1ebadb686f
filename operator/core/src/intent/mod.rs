//! Intents: what one workload asks for, parsed out of its dialect into types that cannot be wrong.

pub(crate) mod check;
pub(crate) mod claims;
mod data;
mod host;
pub mod keys;
mod labels;
mod owner;
mod read;
mod route;
pub(crate) mod said;
pub(crate) mod value;

pub(crate) use read::digest;
pub use read::parse;

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::model::{
    CertificateName, ContainerId, Digest, DocumentId, EngineId, HostPattern, Owner, PathPrefix, Port,
    RouteName, UpstreamAddr,
};
use crate::plan::{Balance, HaproxyOption, UpstreamTls};
use crate::policy::Policy;
use interlock_crds::{Period, ReadinessMode};

/// One route that one workload asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Intent {
    /// Digest of everything below but the workload: what quarantine remembers.
    pub digest: Digest,
    /// The engine of the workload.
    pub engine: EngineId,
    /// The workload's container.
    pub container: ContainerId,
    /// The container's name, for people.
    pub name: String,
    /// Who stands behind it.
    pub owner: Owner,
    /// The name in `interlock.<name>.host`; none for the unnamed route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteName>,
    /// The document that asks; none: the workload's own labels do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentId>,
    /// Where it is, where no container decides that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Fixed>,
    /// Every host, the primary one first, no duplicates; never empty.
    pub hosts: Vec<HostPattern>,
    /// The path prefix.
    pub path: PathPrefix,
    /// Whether the prefix is stripped.
    #[serde(default)]
    pub rewrite: bool,
    /// The container's port, where one was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The network, as the label has it (compose's short name or the full one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Whether only the container's own host name asked for it: then it must publish the port.
    #[serde(default)]
    pub by_container_hostname: bool,
    /// Settings that belong to the host and path: within a shared backend the oldest container's win.
    #[serde(default)]
    pub settings: RouteSettings,
    /// Whether an HTTP answer is waited for before the first request (`warm`).
    #[serde(default)]
    pub warm: bool,
    /// The declared health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// What admits it, where it differs from the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<ReadinessMode>,
}

/// A backend of whom no engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fixed {
    /// At this address.
    At(UpstreamAddr),
    /// Nobody: the host and path are known, and requests are answered 503.
    Nobody,
}

/// Settings of a host and path, on which the containers that share it should agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouteSettings {
    /// Plain HTTP is redirected.
    pub https_only: bool,
    /// TLS is wanted (`interlock.ssl`): without a certificate name the default one serves.
    pub tls: bool,
    /// The certificate by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateName>,
    /// The key's file name, where it is not in the certificate's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_key: Option<CertificateName>,
    /// Paths whose responses may idle as long as a tunnel.
    pub websocket: Vec<PathPrefix>,
    /// How requests are spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// HAProxy options.
    pub options: Vec<HaproxyOption>,
    /// How long an endpoint that has just become ready gets less than its share; none: as the cluster has it, 0: not
    /// at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Period>,
    /// TLS to the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_tls: Option<UpstreamTls>,
    /// What is asked of a request beyond host and path.
    #[serde(skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
}

/// A declared health check; run by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Between two checks in milliseconds; none: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum CheckKind {
    /// A TCP connection.
    Tcp,
    /// An HTTP request that must be answered 200 to 399.
    Http {
        /// `GET`, `HEAD` or `OPTIONS`.
        method: String,
        /// Path and query; validated: begins with `/`, no control characters or spaces.
        path: String,
        /// `Host`, where the check names one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
}

/// What one container asks for, and what is wrong with how it asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Parsed {
    /// One intent for each route: the unnamed one first, then by name.
    pub intents: Vec<Intent>,
    /// Sorted, without duplicates.
    pub findings: Vec<Finding>,
}
