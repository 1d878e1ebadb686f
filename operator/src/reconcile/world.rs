//! World: the tables that the loop keeps between cycles, and the snapshot that is cut from them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interlock_core::bundle::Receipt;
use interlock_core::declared::Declared;
use interlock_core::model::{
    AgentView, CertificateName, CertificateView, ClusterName, ContainerId, EngineId, EngineView, Observed,
    ProbeKey, ProbeResult, Shared, Standings, TargetId, Timestamp,
};
use interlock_core::plan::Abilities;
use interlock_core::protocol::{ProbeSet, ProxyFacts, Welcome};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::source::EngineSnapshot;
use crate::source::credentials::Credentials;
use crate::store::Kept;

/// Certificates of each cluster, as their source publishes them.
pub type Certificates = BTreeMap<ClusterName, BTreeMap<CertificateName, CertificateView>>;

/// The sources that a cycle reads.
pub struct Sources {
    /// Engines.
    pub engines: BTreeMap<EngineId, watch::Receiver<EngineSnapshot>>,
    /// Certificate folders.
    pub certificates: watch::Receiver<Certificates>,
    /// Credentials of statistics pages, by digest.
    pub credentials: watch::Receiver<Credentials>,
    /// Documents.
    pub declared: watch::Receiver<Shared<Declared>>,
    /// The number of the last write of an object; 0: nothing was ever applied, or the store was lost.
    pub written: watch::Receiver<u64>,
    /// Agent sockets.
    pub sockets: watch::Receiver<BTreeSet<TargetId>>,
}

/// What an agent gets for its first look at all endpoints: a probe's timeout and as much again.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// What it gets for that where its proxy serves nothing yet, from its last word on: an endpoint that never answers
/// holds up the others no longer.
const FIRST_GLANCE: Duration = Duration::from_secs(2);
/// The same in all, however many endpoints there are.
const LONGEST_GLANCE: Duration = Duration::from_secs(30);

/// A first look that is under way, by a clock that never jumps.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// When it is over.
    until: Instant,
    /// When it is over although the agent goes on finding somebody.
    latest: Instant,
}

/// What agents have said.
#[derive(Debug, Default)]
pub(super) struct Agents {
    views: BTreeMap<TargetId, AgentView>,
    /// The first look of each agent; none: it has looked.
    first_look: BTreeMap<TargetId, Option<Look>>,
    probes: BTreeMap<TargetId, Shared<BTreeMap<ProbeKey, ProbeResult>>>,
}

impl Agents {
    /// A connection came up.
    pub(super) fn connected(
        &mut self,
        target: &TargetId,
        welcome: Welcome,
        receipt: Option<Shared<Receipt>>,
        at: Timestamp,
    ) {
        // A new connection probes from nothing: what an agent before it had found is not its word.
        self.probes.remove(target);
        self.first_look.remove(target);
        self.views.insert(
            target.clone(),
            AgentView {
                abilities: welcome.proxy.abilities,
                hostname: welcome.hostname,
                addresses: welcome.addresses,
                receipt,
                since: at,
            },
        );
    }

    /// A stock proxy's container was read in place of hearing an agent.
    pub(super) fn read(
        &mut self,
        target: &TargetId,
        abilities: Abilities,
        receipt: Option<Shared<Receipt>>,
        at: Timestamp,
    ) {
        let known = self.views.get(target).map_or(at, |view| view.since);
        let view = AgentView {
            abilities,
            since: known,
            hostname: String::new(),
            addresses: BTreeSet::new(),
            receipt,
        };
        self.views.insert(target.clone(), view);
    }

    /// Takes every probe of a target for passed that nobody has answered; whether there was one.
    pub(super) fn assume(&mut self, target: &TargetId, wanted: &ProbeSet) -> bool {
        let known = self.probes.entry(target.clone()).or_default().change();
        let before = known.len();
        for key in wanted.probes.keys() {
            known.entry(key.clone()).or_insert(ProbeResult {
                passing: true,
                passed_once: true,
                error: None,
                took_ms: None,
            });
        }
        known.len() > before
    }

    /// All results.
    pub(super) const fn probes(&self) -> &BTreeMap<TargetId, Shared<BTreeMap<ProbeKey, ProbeResult>>> {
        &self.probes
    }

    /// The proxy behind an agent changed.
    pub(super) fn proxy_changed(
        &mut self,
        target: &TargetId,
        facts: &ProxyFacts,
        receipt: Option<Shared<Receipt>>,
    ) {
        if let Some(view) = self.views.get_mut(target) {
            view.abilities = facts.abilities;
            view.receipt = receipt;
        }
    }

    /// Probe results came in.
    pub(super) fn probed(&mut self, target: &TargetId, results: BTreeMap<ProbeKey, ProbeResult>) {
        self.probes.entry(target.clone()).or_default().change().extend(results);
        if let Some(Some(look)) = self.first_look.get_mut(target) {
            look.until = look.until.max(Instant::now() + FIRST_GLANCE).min(look.latest);
        }
    }

    /// Results of probes that nobody asks for any more are forgotten.
    pub(super) fn prune(&mut self, target: &TargetId, wanted: &ProbeSet) {
        let Some(known) = self.probes.get_mut(target) else { return };
        // Side by side: both are sorted.
        let mut asked = wanted.probes.keys();
        if !known.keys().all(|key| asked.any(|other| other == key)) {
            known.change().retain(|key, _| wanted.probes.contains_key(key));
        }
    }

    /// Until when a proxy waits for its agent, which has not looked at every endpoint yet. Nothing is known of their
    /// readiness then, which must not empty routes that work: after a restart of the operator, or of a connection.
    /// A proxy that serves nothing yet gets everything that is ready at once.
    pub(super) fn looking(&mut self, target: &TargetId, wanted: &ProbeSet) -> Option<Instant> {
        let view = self.views.get(target)?;
        let now = Instant::now();
        let (time, longest) = match view.receipt {
            Some(_) => (FIRST_LOOK, FIRST_LOOK),
            None => (FIRST_GLANCE, LONGEST_GLANCE),
        };
        let begun = Look { until: now + time, latest: now + longest };
        let look = self.first_look.entry(target.clone()).or_insert(Some(begun));
        let until = (*look)?.until;
        let seen = |key| self.probes.get(target).is_some_and(|known| known.contains_key(key));
        if until <= now || wanted.probes.keys().all(seen) {
            *look = None;
        }
        look.map(|look| look.until)
    }

    /// The target is gone or another one.
    pub(super) fn forget(&mut self, target: &TargetId) {
        self.views.remove(target);
        self.first_look.remove(target);
        self.probes.remove(target);
    }

    /// What is known of one.
    pub(super) fn view(&self, target: &TargetId) -> Option<&AgentView> {
        self.views.get(target)
    }
}

/// Cuts one immutable snapshot.
pub(super) fn observe(
    at: Timestamp,
    own_container: Option<&ContainerId>,
    sources: &mut Sources,
    agents: &Agents,
    kept: &Kept,
    standings: &BTreeMap<TargetId, Shared<Standings>>,
) -> Observed {
    let mut observed = Observed {
        at,
        own_container: own_container.cloned(),
        agents: agents.views.clone(),
        probes: agents.probes.clone(),
        certificates: sources.certificates.borrow_and_update().clone(),
        stats: sources.credentials.borrow_and_update().clone(),
        declared: sources.declared.borrow_and_update().clone(),
        sockets: sources.sockets.borrow_and_update().clone(),
        receipted: kept.receipted.clone(),
        booted: kept.booted.clone(),
        quarantine: kept.quarantine.clone(),
        ownership: kept.ownership.clone(),
        standings: standings.clone(),
        ..Observed::default()
    };
    for (engine, receiver) in &mut sources.engines {
        let snapshot = receiver.borrow_and_update().clone();
        observed.draining.extend(snapshot.draining);
        observed.was_healthy.extend(snapshot.was_healthy);
        let mut view = snapshot.view;
        share_networks(&mut view);
        observed.engines.insert(engine.clone(), view);
    }
    observed
}

/// A container in another one's network stack is reached where that one is.
fn share_networks(view: &mut EngineView) {
    let shared: Vec<(ContainerId, ContainerId)> = view
        .containers
        .values()
        .filter_map(|container| Some((container.id.clone(), container.network_of.clone()?)))
        .collect();
    for (id, of) in shared {
        let Some(of) = view.containers.get(&of) else { continue };
        let (networks, host, published) = (of.networks.clone(), of.host_network, of.published.clone());
        if let Some(container) = view.containers.get_mut(&id) {
            let container = container.change();
            container.networks = networks;
            container.host_network = host;
            container.published = published;
        }
    }
}

/// Docker's time of the newest event behind the snapshot.
pub(super) fn newest_event(sources: &Sources) -> Option<Timestamp> {
    sources.engines.values().filter_map(|receiver| receiver.borrow().newest_event).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_in_anothers_network_stack_is_reached_there() {
        let text = r#"{"containers": {
            "aa": {"id": "aa", "name": "vpn", "created": 1, "state": "running", "networks": {"web": {"ipv4": "10.0.0.2"}}},
            "bb": {"id": "bb", "name": "app", "created": 1, "state": "running", "networkOf": "aa"}
        }}"#;
        let mut view: EngineView = serde_json::from_str(text).unwrap();
        share_networks(&mut view);
        let app: ContainerId = "bb".parse().unwrap();
        assert_eq!(view.containers[&app].networks["web"].ipv4, Some("10.0.0.2".parse().unwrap()));
    }
}
