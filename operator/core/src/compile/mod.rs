//! Compile: facts to plans and findings. A total function: no IO, no clock, no `Result`.

mod address;
mod again;
mod certificates;
mod clusters;
mod documents;
mod memory;
mod merge;
mod networks;
mod readiness;
mod select;
mod serve;
mod sockets;
mod standing;
mod targets;

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{ProxyKind, ServiceClusterSpec};
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::model::{
    ClusterName, ContainerId, DocumentId, EngineId, Freshness, Observed, Owner, ProbeKey, Readiness, Shared,
    Standings, TargetId, Timestamp, UpstreamAddr,
};
use crate::plan::{Abilities, Plan};
use crate::protocol::ProbeSet;
use again::Last;
pub use memory::Memory;
use select::Claims;
pub(crate) use serve::route_order;
pub use targets::{AGENT_LABEL, EMBEDDED, PROXY_LABEL};

/// The settings that compiling depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Clusters by name. An implicit one carries its proxy kind's name.
    pub clusters: BTreeMap<ClusterName, ServiceClusterSpec>,
    /// Those of them that nobody has written down.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub implicit: BTreeSet<ClusterName>,
    /// Those of them that are from documents: see [`Config::with`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub documents: BTreeSet<ClusterName>,
    /// The embedded proxy's cluster, if this operator has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<ClusterName>,
    /// Whether nothing may be written to Docker.
    #[serde(default)]
    pub read_only: bool,
}

/// Everything that follows from one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compiled {
    /// Every proxy to keep in step.
    pub targets: BTreeMap<TargetId, Target>,
    /// What each should serve.
    pub plans: BTreeMap<TargetId, Shared<Plan>>,
    /// What each target's agent should probe.
    pub probes: BTreeMap<TargetId, Shared<ProbeSet>>,
    /// Every candidate and what became of it on each target: what `why` reads.
    pub placements: Vec<Shared<Placement>>,
    /// Network attachments to make and undo.
    pub networks: BTreeSet<NetworkAction>,
    /// Exited stock proxies that want a first configuration and a start.
    pub boots: BTreeMap<ContainerId, Boot>,
    /// Verdicts, sorted, without duplicates.
    pub findings: Vec<Finding>,
    /// Whether every engine was listed at least once. If not, plans may lack routes that still stand:
    /// nothing may be delivered, attached, detached or started on their account.
    pub complete: bool,
    /// Who holds each claimed host and path, as `cluster host/path` to owner: what [`Observed::ownership`]
    /// shall say next time (`sharing: owner`).
    ///
    /// [`Observed::ownership`]: crate::model::Observed::ownership
    pub ownership: Shared<BTreeMap<String, Owner>>,
    /// How endpoints stand with each proxy now: what [`Observed::standings`] shall say next time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub standings: BTreeMap<TargetId, Shared<Standings>>,
    /// When something changes by itself: a hold or a penalty ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_again: Option<Timestamp>,
}

/// One proxy to keep in step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// Its cluster; none while the agent behind a socket has not said yet what it runs, or when no
    /// cluster takes it. Such a target has no plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// Which proxy it is; none until the agent behind a socket has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyKind>,
    /// How its agent is reached.
    pub transport: Transport,
    /// Its container, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId>,
    /// When that container was started: another start is another proxy process.
    #[serde(default)]
    pub started: Timestamp,
    /// Whether the configuration names it, so that it may hold keys.
    pub trusted: bool,
    /// What it can do, as far as its agent has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abilities: Option<Abilities>,
}

/// How an agent is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "via")]
pub enum Transport {
    /// The outer process of this very operator.
    Embedded,
    /// A unix socket in the agents folder: `<name>.sock`.
    Socket {
        /// The file's stem.
        name: String,
    },
    /// Docker exec into the proxy's container.
    Exec {
        /// The engine.
        engine: EngineId,
        /// The container.
        container: ContainerId,
    },
}

/// What became of one intent on one target, for one host of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// The target.
    pub target: TargetId,
    /// The container.
    pub container: ContainerId,
    /// Its name.
    pub name: String,
    /// The route as `host/path`.
    pub route: String,
    /// The document that asks, where none of the container's labels do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentId>,
    /// The chosen address; none when there is none (a finding says why).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<UpstreamAddr>,
    /// Whether and why it takes requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// Its probe, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeKey>,
    /// Whether requests for the route reach it.
    pub serving: bool,
}

/// An attachment of a proxy container to a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum NetworkAction {
    /// Make it.
    Attach {
        /// The engine.
        engine: EngineId,
        /// The proxy's container.
        container: ContainerId,
        /// The network's full name.
        network: String,
    },
    /// Undo one that Interlock made.
    Detach {
        /// The engine.
        engine: EngineId,
        /// The proxy's container.
        container: ContainerId,
        /// The network's full name.
        network: String,
    },
}

/// A first configuration for a proxy that exited for want of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Boot {
    /// The engine.
    pub engine: EngineId,
    /// Which proxy it is.
    pub proxy: ProxyKind,
    /// Its cluster, for the ports of the first configuration.
    pub cluster: ClusterName,
}

/// Everything that follows from one snapshot: a total function of its arguments, whatever their order.
pub fn compile(observed: &Observed, config: &Config) -> Compiled {
    pass(observed, &config.with(&observed.declared), &mut Memory::default()).0
}

/// The same, with what was read and followed the last time; the answer does not depend on it.
pub fn compile_with(observed: &Observed, config: &Config, memory: &mut Memory) -> Shared<Compiled> {
    let config = &*config.with(&observed.declared);
    if let Some(compiled) = again::compile(observed, config, memory) {
        return compiled;
    }
    let (compiled, asked) = pass(observed, config, memory);
    memory.forget();
    let compiled = Shared::from(compiled);
    memory.last = Some(Last::new(observed, config, compiled.clone(), asked, memory));
    compiled
}

/// Whose probes there are: a container's, by target.
type Asked = BTreeMap<ContainerId, BTreeSet<(TargetId, ProbeKey)>>;

/// One look at everything there is.
fn pass(observed: &Observed, config: &Config, memory: &mut Memory) -> (Compiled, Asked) {
    let mut compiled = Compiled {
        complete: !observed.engines.is_empty()
            && observed.engines.values().all(crate::model::EngineView::known),
        ..Compiled::default()
    };
    engines(observed, &mut compiled.findings);
    let proxies = targets::find(observed, config, &mut compiled.findings);
    compiled.findings.extend(observed.declared.faults.iter().cloned());
    clusters::documents(&observed.declared, config, &mut compiled.findings);
    documents::parents(&observed.declared, config, &mut compiled.findings);
    let asked: Vec<_> = served_clusters(config, &proxies)
        .map(|(name, spec)| (name, spec, documents::of(name, spec, &observed.declared, memory)))
        .collect();
    let mut claims: BTreeMap<&ClusterName, Claims<'_>> = BTreeMap::new();
    for (name, spec, readings) in &asked {
        let mut memory = memory.of(name, spec);
        let findings = &mut compiled.findings;
        claims.insert(name, select::claims(observed, spec, &proxies, readings, &mut memory, findings));
    }
    let mut ownership = BTreeMap::new();
    let mut probing = Asked::new();
    for member in &proxies.members {
        if let Some(claims) = claims.get(member.cluster) {
            let serving = serve::Serving { member, claims, observed, config };
            serving.serve(&mut compiled, &mut ownership, &mut probing);
        }
    }
    compiled.ownership = remembered(observed, &claims, ownership, compiled.complete).into();
    compiled.targets = proxies.targets;
    compiled.boots = proxies.boots;
    compiled.placements.sort_by(|a, b| placement_order(a).cmp(&placement_order(b)));
    compiled.findings.sort();
    compiled.findings.dedup();
    (compiled, probing)
}

fn placement_order(it: &Placement) -> impl Ord + use<'_> {
    (&it.target, &it.route, &it.name, &it.container, it.address)
}

/// The clusters that have a proxy; while there is none at all, every one, so that mistakes are told early.
fn served_clusters<'a>(
    config: &'a Config,
    proxies: &targets::Proxies<'a>,
) -> impl Iterator<Item = (&'a ClusterName, &'a ServiceClusterSpec)> {
    let served: BTreeSet<&ClusterName> = proxies.members.iter().map(|member| member.cluster).collect();
    config.clusters.iter().filter(move |(name, _)| served.is_empty() || served.contains(name))
}

fn engines(observed: &Observed, findings: &mut Vec<Finding>) {
    for (engine, view) in &observed.engines {
        let (verdict, message) = match view.freshness {
            Freshness::Fresh => continue,
            Freshness::Never => (
                Verdict::Waiting,
                format!("the engine `{engine}` has not been listed yet: nothing is changed until it has"),
            ),
            Freshness::Stale { .. } => (
                Verdict::Degraded,
                format!("the engine `{engine}` does not answer: what it said last is served on"),
            ),
        };
        let subject = Subject { engine: Some(engine.clone()), ..Subject::default() };
        findings.push(Finding::new(verdict, Reason::EngineStale, subject, message));
    }
}

/// What was settled now, and what was before as far as its owner still claims it. While an engine is
/// unknown, nobody's claim lapses.
fn remembered(
    observed: &Observed,
    claims: &BTreeMap<&ClusterName, Claims<'_>>,
    settled: BTreeMap<String, Owner>,
    complete: bool,
) -> BTreeMap<String, Owner> {
    let mut ownership = settled;
    let before: Vec<_> = observed.ownership.iter().filter(|(key, _)| !ownership.contains_key(*key)).collect();
    if before.is_empty() {
        return ownership;
    }
    let claimed: BTreeMap<String, &Vec<Owner>> = claims
        .iter()
        .flat_map(|(cluster, claims)| {
            claims.owners.iter().map(|(id, owners)| (merge::held(cluster, id), owners))
        })
        .collect();
    let still = |key: &String, owner: &Owner| claimed.get(key).is_some_and(|owners| owners.contains(owner));
    let kept = before.into_iter().filter(|(key, owner)| !complete || still(key, owner));
    ownership.extend(kept.map(|(key, owner)| (key.clone(), owner.clone())));
    ownership
}
