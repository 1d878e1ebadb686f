//! Which containers ask for a route of a cluster, and which of them count.

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_crds::ServiceClusterSpec;

use super::documents;
use super::memory::{self, Asked};
use super::targets::Proxies;
use crate::declared::Reading;
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::intent::Intent;
use crate::model::{
    Container, ContainerState, EngineId, EngineView, HostPattern, Observed, Owner, PathPrefix, Timestamp,
};
use crate::plan::BackendId;

/// The label that the operator's own image carries.
pub(super) const OPERATOR_LABEL: &str = "interlock.app";
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";

/// A container that runs, or did a moment ago, and one route that it asks for.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'a> {
    pub(super) engine: &'a EngineId,
    pub(super) view: &'a EngineView,
    pub(super) container: &'a Container,
    pub(super) intent: Arc<Asked>,
    /// Until when its route stays for the sake of a successor, where its run has ended.
    pub(super) ended: Option<Timestamp>,
}

impl Candidate<'_> {
    /// What its findings are about.
    pub(super) fn subject(&self) -> Subject {
        let subject = match self.intent.fixed {
            None => Subject::container(self.engine, self.container),
            Some(_) => Subject { name: Some(self.container.name.clone()), ..Subject::default() },
        };
        let document = self.intent.document.as_ref().map(crate::declared::title);
        Subject { document, ..subject }.with_route(self.intent.primary())
    }
}

impl Candidate<'_> {
    /// What says a setting: the label, or the document's field.
    pub(super) fn key<'k>(&self, label: &'k str, field: &'k str) -> &'k str {
        if self.intent.document.is_some() { field } else { label }
    }
}

/// What a cluster's workloads ask for.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    /// Those that count, oldest first, and those that have just ended.
    pub(super) candidates: Vec<Candidate<'a>>,
    /// Who lays claim to each `host/path`, also by containers that do not run at the moment: an owner in
    /// the middle of a redeploy still claims.
    pub(super) owners: BTreeMap<BackendId, Vec<Owner>>,
}

impl Claims<'_> {
    pub(super) fn claim(&mut self, intent: &Intent) {
        for host in &intent.hosts {
            let id = BackendId { host: host.clone(), path: intent.path.clone() };
            let owners = self.owners.entry(id).or_default();
            if !owners.contains(&intent.owner) {
                owners.push(intent.owner.clone());
            }
        }
    }
}

/// A host and path as people write them: `shop.example.com/app`.
pub(super) fn label(host: &HostPattern, path: &PathPrefix) -> String {
    format!("{host}{path}")
}

/// Whether a container can be a workload at all: the operator and the proxies never are.
pub(super) fn is_workload(container: &Container, observed: &Observed, proxies: &Proxies<'_>) -> bool {
    observed.own_container.as_ref() != Some(&container.id)
        && !container.labels.contains_key(OPERATOR_LABEL)
        && !proxies.containers.contains(&container.id)
}

/// Every route that the workloads ask of a cluster with these settings.
pub(super) fn claims<'a>(
    observed: &'a Observed,
    spec: &ServiceClusterSpec,
    proxies: &Proxies<'_>,
    readings: &'a [Arc<Reading>],
    memory: &mut memory::OfCluster<'_>,
    findings: &mut Vec<Finding>,
) -> Claims<'a> {
    let mut claims = Claims::default();
    let asking = documents::Asking { observed, spec, proxies, readings };
    let mut taken = asking.claims(&mut claims, findings);
    for (engine, view) in &observed.engines {
        for container in view.containers.values().filter(|c| is_workload(c, observed, proxies)) {
            let parsed = memory.parse(engine, container, spec);
            let counts = standing(container);
            if counts.is_none() {
                findings.extend_from_slice(&parsed.findings);
            }
            for intent in parsed.intents.iter().cloned() {
                let candidate = Candidate { engine, view, container, intent, ended: None };
                let Some(candidate) = taken.leave(candidate, findings) else { continue };
                if claiming(container) {
                    claims.claim(&candidate.intent);
                }
                match counts {
                    None => claims.candidates.push(candidate),
                    Some(why) => findings.push(left_out(&candidate, why)),
                }
            }
        }
        for (container, until) in ended(view, spec, observed, proxies) {
            for intent in crate::intent::parse(engine, container, spec).intents {
                let intent = Arc::new(Asked::from(intent));
                let candidate = Candidate { engine, view, container, intent, ended: Some(until) };
                let Some(candidate) = taken.leave(candidate, &mut Vec::new()) else { continue };
                claims.claim(&candidate.intent);
                claims.candidates.push(candidate);
            }
        }
    }
    taken.unanswered(&mut claims);
    claims.candidates.sort_by(|a, b| age(a).cmp(&age(b)));
    claims
}

/// Runs that ended so lately that a successor may come, and until when their routes stay: a host that is being
/// deployed must not be unknown in between, nor one that crashes come and go.
pub(super) fn ended<'a>(
    view: &'a EngineView,
    spec: &ServiceClusterSpec,
    observed: &Observed,
    proxies: &Proxies<'_>,
) -> impl Iterator<Item = (&'a Container, Timestamp)> {
    let until = |at: Timestamp| Timestamp(at.0.saturating_add(spec.hold.as_millis()));
    view.departed
        .values()
        .map(move |gone| (&*gone.container, until(gone.at)))
        .filter(|(container, until)| *until > observed.at && standing(container).is_none())
        .filter(|(container, _)| is_workload(container, observed, proxies))
}

/// Oldest first; of one container its routes by name.
fn age<'c>(candidate: &'c Candidate<'_>) -> impl Ord + use<'c> {
    (candidate.container.created, &candidate.container.id, &candidate.intent.route, &candidate.intent.digest)
}

/// Why a container does not count, if it does not.
pub(super) fn standing(container: &Container) -> Option<Reason> {
    if is_one_off(container) {
        return Some(Reason::OneOff);
    }
    match container.state {
        ContainerState::Running => None,
        ContainerState::Paused => Some(Reason::Paused),
        ContainerState::Created
        | ContainerState::Restarting
        | ContainerState::Removing
        | ContainerState::Exited
        | ContainerState::Dead => Some(Reason::NotRunning),
    }
}

fn is_one_off(container: &Container) -> bool {
    container.labels.get(ONE_OFF_LABEL).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

pub(super) fn claiming(container: &Container) -> bool {
    !is_one_off(container) && !matches!(container.state, ContainerState::Removing | ContainerState::Dead)
}

pub(super) fn left_out(candidate: &Candidate<'_>, why: Reason) -> Finding {
    let name = &candidate.container.name;
    let (verdict, message, fix) = match why {
        Reason::OneOff => (
            Verdict::Note,
            format!("`{name}` is a one-off of compose (`docker compose run`), which gets no route"),
            "start the service with `docker compose up -d`".to_owned(),
        ),
        Reason::Paused => (Verdict::Refused, format!("`{name}` is paused"), format!("docker unpause {name}")),
        _ => {
            let (state, fix) = match candidate.container.state {
                ContainerState::Created => ("was created and not started", format!("docker start {name}")),
                ContainerState::Restarting => {
                    ("keeps exiting and is being restarted", format!("see why: docker logs {name}"))
                }
                ContainerState::Exited => ("has exited", format!("docker start {name}")),
                _ => ("is being removed", format!("see what is left of it: docker inspect {name}")),
            };
            (Verdict::Note, format!("`{name}` {state}"), fix)
        }
    };
    Finding::new(verdict, why, candidate.subject(), message).fix(fix)
}
