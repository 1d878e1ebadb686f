//! Findings: verdicts on intents. Values, never errors; one bad label costs one route.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{ClusterName, Container, ContainerId, EngineId, TargetId};

/// What became of the thing that a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Left out: it is not served.
    Refused,
    /// Served, but without something that was asked for.
    Degraded,
    /// Not served yet; it will be without anybody doing anything.
    Waiting,
    /// Served as asked; worth knowing all the same.
    Note,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Why: a closed list, the same strings in conditions and metric labels.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $name),+ }

        impl Reason {
            /// Every reason, for metrics that must exist from the start and for the docs.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The `PascalCase` text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

reasons! {
    // What an intent says.
    /// `INTERLOCK_DATA` is not a JSON object.
    InvalidData,
    /// A key that no dialect knows.
    UnknownKey,
    /// A value that its key cannot take.
    InvalidValue,
    /// A host name that cannot be one.
    InvalidHost,
    /// A path that cannot be one.
    InvalidPath,
    /// A port that cannot be one.
    InvalidPort,
    /// A source of a setting lost against a stronger one.
    Overridden,
    /// Routing labels came from the image, which the cluster does not trust.
    ImageNotTrusted,
    /// A backend option outside the allowlist.
    OptionNotAllowed,
    /// A backend option that today's HAProxy no longer has.
    OptionDropped,
    /// The cluster's proxy cannot do what was asked.
    NotSupported,
    // What a document says.
    /// A document that cannot be read; the one before it stays.
    InvalidDocument,
    /// Two documents of one kind and name; the first one counts.
    DuplicateDocument,
    /// The `parentRefs` name no cluster.
    ParentNotFound,
    /// A `backendRefs` entry names nobody who runs.
    BackendNotFound,
    // Whether the workload counts.
    /// Paused.
    Paused,
    /// Not running.
    NotRunning,
    /// A one-off of compose (`docker compose run`).
    OneOff,
    /// The container name opted in by its host name but publishes no usable port.
    NotPublished,
    // How it is reached.
    /// Several exposed ports and none chosen.
    AmbiguousPort,
    /// No port at all.
    NoPort,
    /// Proxy and container share several networks.
    AmbiguousNetwork,
    /// No address of the container can be reached from the proxy.
    Unreachable,
    /// The named network is not one of the container's.
    NetworkNotFound,
    /// The proxy is about to be attached to the network.
    AttachingNetwork,
    // Readiness.
    /// Never ready so far.
    NotWarm,
    /// Ready before, not now.
    Unhealthy,
    /// Kept although unhealthy, because the route would be empty otherwise.
    KeptUnhealthy,
    /// Told to stop.
    Draining,
    /// The last endpoint of a route has left; new requests wait for the next one.
    Holding,
    /// Kept out for a while because it falls over and over.
    Flapping,
    // Several workloads on one host.
    /// Another workload's setting won on the shared host and path.
    SettingConflict,
    /// Another owner holds the host and path.
    HostTaken,
    /// The cluster's `claims` give the host to others.
    HostNotAllowed,
    // Certificates.
    /// No such file in the certificate folder.
    CertificateNotFound,
    /// The file cannot be used (unreadable, key missing or not matching).
    CertificateInvalid,
    /// The certificate is not valid for the host.
    CertificateMismatch,
    /// The cluster names no proxies, so that none may hold a key.
    ProxyNotTrusted,
    /// A secret that the configuration names cannot be read.
    SecretUnreadable,
    // Proxies.
    /// A proxy container that a person stopped.
    ProxyStopped,
    /// A proxy container whose image, not whose own labels, says so.
    ProxyLabelFromImage,
    /// `interlock.ext.name` names no proxy that Interlock knows.
    UnknownProxy,
    /// A proxy that no cluster takes in.
    NoCluster,
    /// The agent cannot be put into the container.
    AgentRefused,
    /// The proxy cannot be reached.
    Unreached,
    /// Another operator holds the proxy.
    ForeignOwner,
    /// Something would have to be written to Docker, and the operator runs read-only.
    ReadOnlyDocker,
    /// The proxy's own checker refused the route.
    Quarantined,
    /// The proxy's own checker refused the cluster without any route.
    BaseRefused,
    /// The proxy's own checker refused the cluster, and no single route is to blame.
    NoCulprit,
    /// The configuration passed the check and did not start; the last good one runs.
    ActivationFailed,
    /// `maxConnections` is more than the proxy's place can hold.
    LimitTooLow,
    /// As many old workers as may be still finish what they have: what needs a reload waits.
    OldWorkersBusy,
    /// The store is empty, and the proxy serves what was applied before.
    StoreLost,
    /// No proxy serves the cluster.
    NoProxy,
    /// The engine's list is not current.
    EngineStale,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a finding is about; the more is known, the more is filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Subject {
    /// The engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineId>,
    /// The container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId>,
    /// The container's name, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The route, as `host/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// The proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetId>,
    /// The document that asks, as `Route shop/web`; or the place of one that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The label, key or field that said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A verdict with its reason and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Finding {
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// What it is about.
    pub subject: Subject,
    /// One sentence for people, without a full stop.
    pub message: String,
    /// What to change, down to the line to add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Foreign text as a message may carry it: shortened, with everything but printable ASCII escaped.
pub fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_default).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}

impl Subject {
    /// A container of an engine.
    pub fn container(engine: &EngineId, container: &Container) -> Self {
        Self {
            engine: Some(engine.clone()),
            container: Some(container.id.clone()),
            name: Some(container.name.clone()),
            ..Self::default()
        }
    }

    /// The same subject, seen through one label or key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same subject, narrowed to one route (`host/path`).
    #[must_use]
    pub fn with_route(mut self, route: impl Into<String>) -> Self {
        self.route = Some(route.into());
        self
    }
}

impl Finding {
    /// A finding without a fix.
    pub fn new(verdict: Verdict, reason: Reason, subject: Subject, message: impl Into<String>) -> Self {
        Self { verdict, reason, subject, message: message.into(), fix: None }
    }

    /// Says what to change.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}
