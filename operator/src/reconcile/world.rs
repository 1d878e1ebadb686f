//! World: the tables that the loop keeps between cycles, and the snapshot that is cut from them.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::model::{
    AgentView, CertificateName, CertificateView, ClusterName, ContainerId, EngineId, EngineView, Observed,
    ProbeKey, ProbeResult, TargetId, Timestamp,
};
use interlock_core::protocol::{ProbeSet, ProxyFacts, Welcome};
use tokio::sync::watch;

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
    /// Agent sockets.
    pub sockets: watch::Receiver<BTreeSet<TargetId>>,
}

/// Milliseconds that an agent gets for its first look at all endpoints: a probe's timeout and as much again.
const FIRST_LOOK: u64 = 5_000;

/// What agents have said.
#[derive(Debug, Default)]
pub(super) struct Agents {
    views: BTreeMap<TargetId, AgentView>,
    probes: BTreeMap<TargetId, BTreeMap<ProbeKey, ProbeResult>>,
}

impl Agents {
    /// A connection came up.
    pub(super) fn connected(&mut self, target: &TargetId, welcome: Welcome, at: Timestamp) {
        // A new connection probes from nothing: what an agent before it had found is not its word.
        self.probes.remove(target);
        self.views.insert(
            target.clone(),
            AgentView {
                abilities: welcome.proxy.abilities,
                hostname: welcome.hostname,
                addresses: welcome.addresses,
                receipt: welcome.proxy.receipt,
                since: at,
            },
        );
    }

    /// The proxy behind an agent changed.
    pub(super) fn proxy_changed(&mut self, target: &TargetId, facts: ProxyFacts) {
        if let Some(view) = self.views.get_mut(target) {
            view.abilities = facts.abilities;
            view.receipt = facts.receipt;
        }
    }

    /// Probe results came in.
    pub(super) fn probed(&mut self, target: &TargetId, results: BTreeMap<ProbeKey, ProbeResult>) {
        self.probes.entry(target.clone()).or_default().extend(results);
    }

    /// Results of probes that nobody asks for any more are forgotten.
    pub(super) fn prune(&mut self, target: &TargetId, wanted: &ProbeSet) {
        if let Some(known) = self.probes.get_mut(target) {
            known.retain(|key, _| wanted.probes.contains_key(key));
        }
    }

    /// Whether a proxy that serves already has an agent that has not looked at every endpoint yet. Nothing is known
    /// of their readiness then, which must not empty routes that work: after a restart of the operator, or of a
    /// connection.
    pub(super) fn looking(&self, target: &TargetId, wanted: &ProbeSet, at: Timestamp) -> bool {
        let serves =
            |view: &AgentView| view.receipt.is_some() && at.0 < view.since.0.saturating_add(FIRST_LOOK);
        let seen = |key| self.probes.get(target).is_some_and(|known| known.contains_key(key));
        self.views.get(target).is_some_and(serves) && !wanted.probes.keys().all(seen)
    }

    /// The target is gone or another one.
    pub(super) fn forget(&mut self, target: &TargetId) {
        self.views.remove(target);
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
) -> Observed {
    let mut observed = Observed {
        at,
        own_container: own_container.cloned(),
        agents: agents.views.clone(),
        probes: agents.probes.clone(),
        certificates: sources.certificates.borrow_and_update().clone(),
        stats: sources.credentials.borrow_and_update().clone(),
        sockets: sources.sockets.borrow_and_update().clone(),
        receipted: kept.receipted.clone(),
        booted: kept.booted.clone(),
        quarantine: kept.quarantine.clone(),
        ownership: kept.ownership.clone(),
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
