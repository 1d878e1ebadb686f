//! Which containers ask for a route of a cluster, and which of them count.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::ServiceClusterSpec;

use super::targets::Proxies;
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::intent::{self, Intent};
use crate::model::{
    Container, ContainerState, EngineId, EngineView, HostPattern, Observed, Owner, PathPrefix,
};

/// The label that the operator's own image carries.
const OPERATOR_LABEL: &str = "interlock.app";
const ONE_OFF_LABEL: &str = "com.docker.compose.oneoff";

/// A running container and one route that it asks for.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'a> {
    pub(super) engine: &'a EngineId,
    pub(super) view: &'a EngineView,
    pub(super) container: &'a Container,
    pub(super) intent: Intent,
}

impl Candidate<'_> {
    /// What its findings are about.
    pub(super) fn subject(&self) -> Subject {
        Subject::container(self.engine, self.container).with_route(primary(&self.intent))
    }
}

/// What a cluster's workloads ask for.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    /// Those that count, oldest first.
    pub(super) candidates: Vec<Candidate<'a>>,
    /// Who lays claim to each `host/path`, also by containers that do not run at the moment: an owner in
    /// the middle of a redeploy still claims.
    pub(super) owners: BTreeMap<String, BTreeSet<Owner>>,
}

/// A host and path as people write them: `shop.example.com/app`.
pub(super) fn label(host: &HostPattern, path: &PathPrefix) -> String {
    format!("{host}{path}")
}

/// The intent's first host with its path.
pub(super) fn primary(intent: &Intent) -> String {
    intent.hosts.first().map(|host| label(host, &intent.path)).unwrap_or_default()
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
    findings: &mut Vec<Finding>,
) -> Claims<'a> {
    let mut claims = Claims::default();
    for (engine, view) in &observed.engines {
        for container in view.containers.values().filter(|c| is_workload(c, observed, proxies)) {
            let parsed = intent::parse(engine, container, spec);
            let counts = standing(container);
            if counts.is_none() {
                findings.extend(parsed.findings);
            }
            for intent in parsed.intents {
                let candidate = Candidate { engine, view, container, intent };
                if claiming(container) {
                    for host in &candidate.intent.hosts {
                        let owners = claims.owners.entry(label(host, &candidate.intent.path)).or_default();
                        owners.insert(candidate.intent.owner.clone());
                    }
                }
                match counts {
                    None => claims.candidates.push(candidate),
                    Some(why) => findings.push(left_out(&candidate, why)),
                }
            }
        }
    }
    claims.candidates.sort_by(|a, b| age(a).cmp(&age(b)));
    claims
}

/// Oldest first; of one container its routes by name.
fn age<'c>(candidate: &'c Candidate<'_>) -> impl Ord + use<'c> {
    (candidate.container.created, &candidate.container.id, &candidate.intent.route, &candidate.intent.digest)
}

/// Why a container does not count, if it does not.
fn standing(container: &Container) -> Option<Reason> {
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

fn claiming(container: &Container) -> bool {
    !is_one_off(container) && !matches!(container.state, ContainerState::Removing | ContainerState::Dead)
}

fn left_out(candidate: &Candidate<'_>, why: Reason) -> Finding {
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
