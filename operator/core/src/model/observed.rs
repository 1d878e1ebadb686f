//! One immutable snapshot of the world: what step 2 cuts and steps 3 to 5 are functions of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    CertificateName, ClusterName, Container, ContainerId, Digest, EngineId, HostPattern, Shared, TargetId,
};
use crate::bundle::Receipt;
use crate::declared::Declared;
use crate::plan::Abilities;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// Everything that was seen, and how fresh it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observed {
    /// When the snapshot was cut.
    #[serde(default)]
    pub at: Timestamp,
    /// The operator's own container id, so that it never routes to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_container: Option<ContainerId>,
    /// What each engine said.
    #[serde(default)]
    pub engines: BTreeMap<EngineId, EngineView>,
    /// What documents ask for.
    #[serde(default, skip_serializing_if = "nothing_declared")]
    pub declared: Shared<Declared>,
    /// The agent sockets found in the agents folder, by file stem.
    #[serde(default)]
    pub sockets: BTreeSet<TargetId>,
    /// Proxy containers that had a Receipt at some time: they are never given a first configuration.
    #[serde(default)]
    pub receipted: BTreeSet<ContainerId>,
    /// Proxy containers that were given a first configuration: never twice.
    #[serde(default)]
    pub booted: BTreeSet<ContainerId>,
    /// What each agent said of itself and its proxy.
    #[serde(default)]
    pub agents: BTreeMap<TargetId, AgentView>,
    /// Containers that were told to stop and have not yet.
    #[serde(default)]
    pub draining: BTreeSet<ContainerId>,
    /// The last probe result of each target's agent.
    #[serde(default)]
    pub probes: BTreeMap<TargetId, Shared<BTreeMap<ProbeKey, ProbeResult>>>,
    /// Containers whose Docker health was `healthy` at least once in this run of theirs.
    #[serde(default)]
    pub was_healthy: BTreeSet<ContainerId>,
    /// Intents that a proxy's checker refused.
    #[serde(default)]
    pub quarantine: Quarantine,
    /// The certificates in each cluster's folder.
    #[serde(default)]
    pub certificates: BTreeMap<ClusterName, BTreeMap<CertificateName, CertificateView>>,
    /// The digest of each cluster's credential for the statistics page, where its password file could be
    /// read; see [`Plan::stats`](crate::plan::Plan::stats).
    #[serde(default)]
    pub stats: BTreeMap<ClusterName, Digest>,
    /// Who holds each claimed host and path (`sharing: owner`), as `cluster host/path` to owner.
    #[serde(default)]
    pub ownership: Shared<BTreeMap<String, super::Owner>>,
    /// How endpoints have stood with each proxy until now: what was compiled last time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub standings: BTreeMap<TargetId, Shared<Standings>>,
}

fn nothing_declared(declared: &Shared<Declared>) -> bool {
    declared.is_empty()
}

/// One engine's containers and whether they can be believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineView {
    /// Whether the list is current.
    #[serde(default)]
    pub freshness: Freshness,
    /// The address at which published ports of this engine are reached from elsewhere; none when
    /// the engine is local and the proxy's own gateway serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its containers, running or not.
    #[serde(default)]
    pub containers: BTreeMap<ContainerId, Shared<Container>>,
    /// Runs that ended lately, each as it was while it lasted; whoever was recreated or restarted may be among
    /// the containers as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub departed: BTreeMap<ContainerId, Departed>,
}

/// A container's run that has ended, or its removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Departed {
    /// When that was noticed.
    pub at: Timestamp,
    /// The container as it last ran, and whether somebody told it to stop.
    pub container: Shared<Container>,
}

/// How a route of one container has stood with one proxy: what holding and damping follow from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Standing {
    /// The start of the run that it was last seen in.
    pub started: Timestamp,
    /// Whether it took requests in that run.
    pub served: bool,
    /// When the last run that took requests ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Timestamp>,
    /// Since when it is ready without a break; none while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
    /// How often it fell by itself while it took requests, without a stable time in between.
    pub falls: u32,
    /// When it last did.
    pub fell: Timestamp,
}

/// The standings with one proxy, by container and then by route (`host/path`).
pub type Standings = BTreeMap<ContainerId, BTreeMap<String, Standing>>;

/// How far a view can be believed. A failed list makes a view stale, never empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Freshness {
    /// Nothing was ever listed: nothing may be withdrawn on its account.
    #[default]
    Never,
    /// Listed and followed.
    Fresh,
    /// The last list failed; this is the one before.
    Stale {
        /// Since when.
        since: Timestamp,
    },
}

/// What an agent reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentView {
    /// What its proxy can do.
    pub abilities: Abilities,
    /// When it was first heard on its present connection. An endpoint that the proxy served then, of a
    /// container that was started before, is believed ready until a probe says otherwise: a restarted
    /// operator must not empty what runs. Zero: nothing is believed.
    #[serde(default)]
    pub since: Timestamp,
    /// The host name it sees, to find its container: Docker's default is the short id.
    #[serde(default)]
    pub hostname: String,
    /// The addresses of its network interfaces, loopback left out.
    #[serde(default)]
    pub addresses: BTreeSet<IpAddr>,
    /// What its proxy runs, read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Shared<Receipt>>,
}

/// Identifies one thing to probe: a change of address, port, kind or container run is a new key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProbeKey(pub Digest);

/// What the agent last found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// Whether it passes now.
    pub passing: bool,
    /// Whether it passed at least once.
    pub passed_once: bool,
    /// The last failure, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long the try behind this verdict took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

impl ProbeResult {
    /// Whether both say the same of the endpoint; how long each try took is beside the point.
    pub fn same_verdict(&self, other: &Self) -> bool {
        let Self { passing, passed_once, error, took_ms: _ } = self;
        (*passing, *passed_once, error) == (other.passing, other.passed_once, &other.error)
    }
}

/// Why an endpoint takes requests or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Readiness {
    /// It takes new requests.
    Ready,
    /// It was never ready in this run.
    Cold,
    /// It was ready and is not now.
    Unhealthy,
    /// It was told to stop: what it has it finishes, nothing new.
    Draining,
}

/// Intents that checkers refused, by their digest: under which abilities, and the checker's words. Several kinds of
/// proxy may refuse one intent. It is kept out until it or the proxy changes.
pub type Quarantine = BTreeMap<Digest, BTreeMap<Abilities, String>>;

/// A certificate file of a cluster's folder, as its watcher parsed it. Never the key itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateView {
    /// Digest of certificate and key together.
    pub digest: Digest,
    /// The names it is valid for.
    #[serde(default)]
    pub names: Vec<HostPattern>,
    /// When it expires.
    #[serde(default)]
    pub not_after: Timestamp,
    /// What is wrong with it (unreadable, key missing, key does not match), if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl EngineView {
    /// Whether the engine was listed at least once.
    pub fn known(&self) -> bool {
        self.freshness != Freshness::Never
    }
}
