//! Documents: whom their references name, and how they stand against labels for the same host and path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use interlock_crds::ServiceClusterSpec;

use super::memory::Asked;
use super::select::{self, Candidate, Claims, label};
use super::targets::Proxies;
use super::{Config, Memory};
use crate::declared::{self, Backend, Declared, Named, Reading, Rule};
use crate::finding::{Finding, Reason, Verdict, shown};
use crate::intent::Intent;
use crate::model::{
    ClusterName, Container, ContainerId, DocumentId, EngineId, EngineView, HostPattern, Observed, Timestamp,
};

const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";

/// What documents ask of one cluster.
pub(super) fn of(
    name: &ClusterName,
    spec: &ServiceClusterSpec,
    declared: &Declared,
    memory: &mut Memory,
) -> Vec<Arc<Reading>> {
    let here = |parents: &[interlock_crds::ParentRef]| {
        parents.is_empty() || parents.iter().any(|parent| parent.name == name.as_str())
    };
    let routes = declared.routes.iter().filter(|(_, route)| here(&route.parent_refs));
    memory.of(name, spec).documents(routes, spec)
}

/// Tells every document that names a cluster which is not there.
pub(super) fn parents(declared: &Declared, config: &Config, findings: &mut Vec<Finding>) {
    let names: Vec<&str> = config.clusters.keys().map(ClusterName::as_str).collect();
    for (id, route) in &declared.routes {
        for (at, parent) in route.parent_refs.iter().enumerate() {
            if names.contains(&parent.name.as_str()) {
                continue;
            }
            let alone = route.parent_refs.len() == 1;
            let verdict = if alone { Verdict::Refused } else { Verdict::Degraded };
            let message = format!("`spec.parentRefs[{at}]`: there is no cluster `{}`", shown(&parent.name));
            let subject = declared::subject(id).with_key(format!("spec.parentRefs[{at}]"));
            let subject = match route.hostnames.first() {
                Some(host) => subject.with_route(format!("{}/", shown(host))),
                None => subject,
            };
            let fix = format!("name one of `{}`, or none for all", names.join("`, `"));
            findings.push(Finding::new(verdict, Reason::ParentNotFound, subject, message).fix(fix));
        }
    }
}

/// Everything that the candidates of documents follow from.
pub(super) struct Asking<'a, 'p> {
    pub(super) observed: &'a Observed,
    pub(super) spec: &'p ServiceClusterSpec,
    pub(super) proxies: &'p Proxies<'p>,
    pub(super) readings: &'a [Arc<Reading>],
}

/// A container that may be named, and until when its run counts where it has ended.
#[derive(Clone, Copy)]
struct Seen<'a> {
    engine: &'a EngineId,
    view: &'a EngineView,
    container: &'a Container,
    ended: Option<Timestamp>,
}

/// Containers by what documents may call them.
#[derive(Default)]
struct Index<'a> {
    all: Vec<Seen<'a>>,
    by_name: BTreeMap<&'a str, Vec<usize>>,
    by_service: BTreeMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> Index<'a> {
    fn add(&mut self, seen: Seen<'a>) {
        let at = self.all.len();
        self.by_name.entry(seen.container.name.as_str()).or_default().push(at);
        let label = |key: &str| seen.container.labels.get(key).map(String::as_str);
        if let (Some(project), Some(service)) = (label(PROJECT_LABEL), label(SERVICE_LABEL)) {
            self.by_service.entry((project, service)).or_default().push(at);
        }
        self.all.push(seen);
    }

    fn named(&self, named: &Named) -> Vec<Seen<'a>> {
        let at = |indices: Option<&Vec<usize>>| -> Vec<Seen<'a>> {
            indices.into_iter().flatten().filter_map(|at| self.all.get(*at).copied()).collect()
        };
        match named {
            Named::Container(name) => at(self.by_name.get(name.as_str())),
            Named::Service { project, name } => at(self.by_service.get(&(project.as_str(), name.as_str()))),
            Named::Labels(labels) => {
                let has = |seen: &&Seen<'_>| {
                    labels.iter().all(|(key, value)| seen.container.labels.get(key) == Some(value))
                };
                self.all.iter().filter(has).copied().collect()
            }
            Named::Fixed(_) => Vec::new(),
        }
    }
}

/// Which hosts and paths documents decide, and what they left open.
#[derive(Default)]
pub(super) struct Taken<'a> {
    routes: BTreeMap<String, (&'a DocumentId, BTreeSet<ContainerId>)>,
    /// Rules without anybody: they yield to labels.
    open: Vec<(&'a Reading, &'a Rule)>,
    /// What labels serve of those.
    labelled: BTreeSet<String>,
}

impl<'a> Asking<'a, '_> {
    /// Adds what documents ask for; what they decide no label decides.
    pub(super) fn claims(&self, claims: &mut Claims<'a>, findings: &mut Vec<Finding>) -> Taken<'a> {
        let mut taken = Taken::default();
        if self.readings.is_empty() {
            return taken;
        }
        let index = self.index();
        for reading in self.readings {
            findings.extend_from_slice(&reading.findings);
            for rule in &reading.rules {
                taken.rule(reading, rule, &index, claims, findings);
            }
        }
        taken
    }

    fn index(&self) -> Index<'a> {
        let mut index = Index::default();
        for (engine, view) in &self.observed.engines {
            let workloads = view.containers.values().map(|container| &**container);
            for container in workloads.filter(|c| select::is_workload(c, self.observed, self.proxies)) {
                index.add(Seen { engine, view, container, ended: None });
            }
            for (container, until) in select::ended(view, self.spec, self.observed, self.proxies) {
                index.add(Seen { engine, view, container, ended: Some(until) });
            }
        }
        index
    }
}

impl<'a> Taken<'a> {
    fn rule(
        &mut self,
        reading: &'a Reading,
        rule: &'a Rule,
        index: &Index<'a>,
        claims: &mut Claims<'a>,
        findings: &mut Vec<Finding>,
    ) {
        claims.claim(&rule.nobody.intent);
        if rule.closed {
            claims.candidates.extend(stands_in(reading, &rule.nobody));
            self.take(reading, rule, []);
            return;
        }
        let mut chosen = BTreeSet::new();
        let before = claims.candidates.len();
        for backend in &rule.backends {
            if let Some(candidate) = stands_in(reading, backend) {
                claims.candidates.push(candidate);
                continue;
            }
            let mut seen = index.named(&backend.named);
            // Of a selector's or a service's containers those that do not run are beside the point.
            let told = matches!(backend.named, Named::Container(_));
            let all = seen.len();
            seen.retain(|one| one.ended.is_some() || select::standing(one.container).is_none());
            if seen.is_empty() {
                findings.push(not_found(reading, backend, all));
            }
            if told {
                let left_out = index.named(&backend.named).into_iter().filter(|one| one.ended.is_none());
                findings.extend(left_out.filter_map(|one| {
                    let why = select::standing(one.container)?;
                    Some(select::left_out(&candidate(one, backend), why))
                }));
            }
            for one in seen {
                chosen.insert(one.container.id.clone());
                claims.candidates.push(candidate(one, backend));
            }
        }
        if claims.candidates.len() == before {
            self.open.push((reading, rule));
        } else {
            self.take(reading, rule, chosen);
        }
    }

    /// What a label still decides: the hosts that no document has taken. Whoever loses one is told.
    pub(super) fn leave<'c>(
        &mut self,
        candidate: Candidate<'c>,
        findings: &mut Vec<Finding>,
    ) -> Option<Candidate<'c>> {
        if self.routes.is_empty() && self.open.is_empty() {
            return Some(candidate);
        }
        let path = &candidate.intent.path;
        let winner = |host: &HostPattern| self.routes.get(&label(host, path));
        let (lost, kept): (Vec<_>, Vec<_>) =
            candidate.intent.hosts.iter().cloned().partition(|host| winner(host).is_some());
        for host in &lost {
            let Some((document, adopted)) = winner(host) else { continue };
            findings.push(overridden(&candidate, &label(host, path), document, adopted));
        }
        if candidate.ended.is_some() || select::standing(candidate.container).is_none() {
            self.labelled.extend(kept.iter().map(|host| label(host, path)));
        }
        if lost.is_empty() {
            return Some(candidate);
        }
        if kept.is_empty() {
            return None;
        }
        let intent = Arc::new(Asked::from(Intent { hosts: kept, ..Intent::clone(&candidate.intent) }));
        Some(Candidate { intent, ..candidate })
    }

    /// Rules without anybody: their hosts are known all the same, unless a label serves them.
    pub(super) fn unanswered(self, claims: &mut Claims<'a>) {
        let Self { open, labelled, .. } = self;
        for (reading, rule) in open {
            let hosts = rule.nobody.intent.hosts.iter();
            let hosts: Vec<_> =
                hosts.filter(|host| !labelled.contains(&label(host, &rule.path))).cloned().collect();
            if hosts.is_empty() {
                continue;
            }
            claims.candidates.extend(stands_in(reading, &rule.nobody).map(|candidate| Candidate {
                intent: Arc::new(Asked::from(Intent { hosts, ..Intent::clone(&candidate.intent) })),
                ..candidate
            }));
        }
    }

    fn take(&mut self, reading: &'a Reading, rule: &Rule, chosen: impl IntoIterator<Item = ContainerId>) {
        let chosen: BTreeSet<ContainerId> = chosen.into_iter().collect();
        for host in &rule.nobody.intent.hosts {
            let entry = self.routes.entry(label(host, &rule.path));
            entry.or_insert_with(|| (&reading.id, BTreeSet::new())).1.extend(chosen.iter().cloned());
        }
    }
}

/// The candidate for a backend of whom no engine knows.
fn stands_in<'a>(reading: &'a Reading, backend: &'a Backend) -> Option<Candidate<'a>> {
    let Named::Fixed(container) = &backend.named else { return None };
    let intent = Arc::new(Asked::from(backend.intent.clone()));
    Some(Candidate { engine: &reading.engine, view: &reading.view, container, intent, ended: None })
}

fn candidate<'a>(seen: Seen<'a>, backend: &Backend) -> Candidate<'a> {
    let Seen { engine, view, container, ended } = seen;
    let intent = Arc::new(Asked::from(Intent {
        engine: engine.clone(),
        container: container.id.clone(),
        name: container.name.clone(),
        ..backend.intent.clone()
    }));
    Candidate { engine, view, container, intent, ended }
}

fn not_found(reading: &Reading, backend: &Backend, stopped: usize) -> Finding {
    let whom = match &backend.named {
        Named::Container(name) => format!("container `{}`", shown(name)),
        Named::Service { project, name } => {
            format!("container of the service `{}` in the project `{}`", shown(name), shown(project))
        }
        Named::Labels(labels) => {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("container with `{}`", shown(&labels.join(" ")))
        }
        Named::Fixed(container) => container.name.clone(),
    };
    let message = match stopped {
        0 => format!("`{}`: there is no {whom}", backend.field),
        _ => format!("`{}`: no {whom} is running", backend.field),
    };
    let intent = &backend.intent;
    let route = intent.hosts.first().map(|host| label(host, &intent.path)).unwrap_or_default();
    let subject = declared::subject(&reading.id).with_key(&backend.field).with_route(route);
    Finding::new(Verdict::Waiting, Reason::BackendNotFound, subject, message)
        .fix("start it, or name another one")
}

fn overridden(
    candidate: &Candidate<'_>,
    route: &str,
    document: &DocumentId,
    adopted: &BTreeSet<ContainerId>,
) -> Finding {
    let name = &candidate.container.name;
    let title = declared::title(document);
    let (verdict, so) = if adopted.contains(&candidate.container.id) {
        (Verdict::Note, "its settings are set aside")
    } else {
        (Verdict::Refused, "it is not served there")
    };
    let message = format!("`{name}` asks for {route} by its labels, but {title} decides it: {so}");
    let subject = candidate.subject().with_route(route);
    Finding::new(verdict, Reason::Overridden, subject, message)
        .fix(format!("take the labels for {route} away from `{name}`, or the host out of {title}"))
}
