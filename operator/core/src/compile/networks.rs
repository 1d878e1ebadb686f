//! Attachments of proxies to networks: made where a label asks, undone when nobody needs them any more.

use std::collections::BTreeSet;

use super::merge::Placed;
use super::targets::Member;
use super::{Config, NetworkAction};
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::model::{Freshness, Observed};

/// What to attach a proxy to for the sake of these, and what to detach it from.
///
/// A draining container needs its network no longer: the stop signal of the last one frees the network, so
/// that whoever removes it next finds nobody on it.
pub(super) fn actions(
    member: &Member<'_>,
    placed: &[&Placed<'_, '_>],
    observed: &Observed,
    config: &Config,
    actions: &mut BTreeSet<NetworkAction>,
    findings: &mut Vec<Finding>,
) {
    let (Some(engine), Some(proxy)) = (member.stand.engine, member.stand.container) else { return };
    let leaving = |one: &Placed<'_, '_>| observed.draining.contains(&one.candidate.container.id);
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for one in placed.iter().filter(|one| !leaving(one)) {
        let Some(network) = &one.network else { continue };
        needed.insert(network);
        if one.endpoint.is_some() {
            continue;
        }
        actions.insert(NetworkAction::Attach {
            engine: engine.clone(),
            container: proxy.id.clone(),
            network: network.clone(),
        });
        let message = format!(
            "the proxy `{}` is being attached to the network `{network}` to reach `{}`",
            proxy.name, one.candidate.container.name
        );
        let subject = Subject {
            cluster: Some(member.cluster.clone()),
            target: Some(member.id.clone()),
            ..one.candidate.subject()
        };
        findings.push(Finding::new(Verdict::Waiting, Reason::AttachingNetwork, subject, message));
    }
    // On a view that may be old nothing is undone.
    let fresh = observed.engines.get(engine).is_some_and(|view| view.freshness == Freshness::Fresh);
    if config.read_only || !fresh {
        return;
    }
    let unneeded = proxy
        .networks
        .iter()
        .filter(|(network, attachment)| attachment.ours && !needed.contains(network.as_str()));
    actions.extend(unneeded.map(|(network, _)| NetworkAction::Detach {
        engine: engine.clone(),
        container: proxy.id.clone(),
        network: network.clone(),
    }));
}
