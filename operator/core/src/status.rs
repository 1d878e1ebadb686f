//! Status: what is true of each document, from what was compiled and what proxies provably run. No times: when a
//! condition changed is noted by whoever keeps it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{ConditionStatus, RouteSpec, TargetStatus};

use crate::bundle::Fragment;
use crate::compile::Compiled;
use crate::declared;
use crate::finding::{Finding, Reason, Verdict};
use crate::intent::value;
use crate::model::{ClusterName, Digest, DocumentId, EngineId, Freshness, Shared, TargetId};
use crate::plan::{Backend, BackendId, Plan, Route};

/// What is known of one proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its cluster.
    pub cluster: Option<ClusterName>,
    /// The plan that it provably runs.
    pub running: Option<Shared<Plan>>,
    /// The digest of that.
    pub digest: Option<Digest>,
    /// How it stands as a whole, in one word: `Programmed`, `Pending`, `Refused` …
    pub state: &'static str,
    /// Why, for people.
    pub message: Option<String>,
}

/// The word for a proxy that cannot be reached: what it runs is not known any more.
const UNREACHABLE: &str = "Unreachable";
/// The word for a proxy that has everything that it should.
const PROGRAMMED: &str = "Programmed";

/// A condition without times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// What it is about.
    pub kind: &'static str,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// What is true of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// One for each type.
    pub conditions: Vec<Said>,
    /// Proxy by proxy.
    pub targets: Vec<TargetStatus>,
}

fn is(kind: &'static str, message: impl Into<String>) -> Said {
    Said { kind, status: ConditionStatus::True, reason: kind.to_owned(), message: message.into() }
}

fn not(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Said {
    Said { kind, status: ConditionStatus::False, reason: reason.into(), message: message.into() }
}

fn unknown(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Said {
    Said { status: ConditionStatus::Unknown, ..not(kind, reason, message) }
}

/// What was compiled and what runs, by what is looked up for each document.
pub struct World<'a> {
    compiled: &'a Compiled,
    proxies: &'a BTreeMap<TargetId, Proxy>,
    /// Made for the first route that is asked about: where labels alone count there is none.
    indices: OnceCell<Indices<'a>>,
    findings: BTreeMap<&'a str, Vec<&'a Finding>>,
    ready: BTreeSet<(&'a DocumentId, &'a TargetId)>,
}

/// Whose a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A document declares it.
    Document,
    /// It is the configuration's, or implicit.
    Own,
    /// It was implicit, and a document takes its place.
    Taken,
}

/// Routes of a plan by their label, each with its backend.
type Index<'a> = BTreeMap<String, (&'a Shared<Route>, Option<&'a Shared<Backend>>)>;

/// Both by proxy.
struct Indices<'a> {
    wanted: BTreeMap<&'a TargetId, Index<'a>>,
    running: BTreeMap<&'a TargetId, Index<'a>>,
}

fn index(plan: &Plan) -> Index<'_> {
    let backends: BTreeMap<&BackendId, &Shared<Backend>> =
        plan.backends.iter().map(|backend| (&backend.id, backend)).collect();
    plan.routes.iter().map(|route| (route.label(), (route, backends.get(&route.backend).copied()))).collect()
}

impl<'a> World<'a> {
    /// Looks at what was compiled, and at what each proxy provably runs.
    pub fn new(compiled: &'a Compiled, proxies: &'a BTreeMap<TargetId, Proxy>) -> Self {
        let mut findings: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
        for finding in &compiled.findings {
            if let Some(document) = &finding.subject.document {
                findings.entry(document).or_default().push(finding);
            }
        }
        let serving = compiled.placements.iter().filter(|placement| placement.serving);
        Self {
            compiled,
            proxies,
            indices: OnceCell::new(),
            findings,
            ready: serving.filter_map(|one| Some((one.document.as_ref()?, &one.target))).collect(),
        }
    }

    fn indices(&self) -> &Indices<'a> {
        self.indices.get_or_init(|| {
            let running =
                |(id, proxy): (&'a TargetId, &'a Proxy)| Some((id, index(proxy.running.as_deref()?)));
            Indices {
                wanted: self.compiled.plans.iter().map(|(id, plan)| (id, index(plan))).collect(),
                running: self.proxies.iter().filter_map(running).collect(),
            }
        })
    }

    /// What is true of a `Route`.
    pub fn route(&self, id: &DocumentId, spec: &RouteSpec) -> Standing {
        let title = declared::title(id);
        let told = self.findings.get(title.as_str()).map(Vec::as_slice).unwrap_or_default();
        let accepted = accepted(told);
        let labels = labels(spec);
        let here = |cluster: &ClusterName| {
            let parents = &spec.parent_refs;
            parents.is_empty() || parents.iter().any(|parent| parent.name == cluster.as_str())
        };
        let plans: Vec<&TargetId> = self
            .compiled
            .plans
            .iter()
            .filter(|(_, plan)| here(&plan.cluster))
            .map(|(target, _)| target)
            .collect();
        let targets: Vec<TargetStatus> = plans.iter().map(|target| self.target(target, &labels)).collect();
        let conditions = vec![
            accepted.clone(),
            resolved(told),
            self.ready(id, &labels, &plans, told),
            self.programmed(&accepted, &plans, &targets),
        ];
        Standing { conditions, targets }
    }

    /// Of the pieces of a proxy's files those that serve a `Route`.
    pub fn pieces<'f>(
        &self,
        target: &TargetId,
        spec: &RouteSpec,
        all: &'f [Shared<Fragment>],
    ) -> Vec<&'f Shared<Fragment>> {
        let Some(running) = self.indices().running.get(target) else { return Vec::new() };
        let backends = labels(spec).into_iter().filter_map(|label| running.get(&label)?.1);
        let intents: BTreeSet<&Digest> = backends.flat_map(|backend| &backend.intents).collect();
        all.iter().filter(|piece| piece.intents.iter().any(|intent| intents.contains(intent))).collect()
    }

    /// Whether one proxy provably runs what is asked for, route by route.
    fn target(&self, target: &TargetId, labels: &[String]) -> TargetStatus {
        let none = Index::new();
        let wanted = self.indices().wanted.get(target).unwrap_or(&none);
        let running = self.indices().running.get(target).unwrap_or(&none);
        let asked: Vec<_> = labels.iter().filter(|label| wanted.contains_key(*label)).collect();
        let programmed =
            !asked.is_empty() && asked.iter().all(|label| wanted.get(*label) == running.get(*label));
        let proxy = self.proxies.get(target);
        let why = || match proxy {
            _ if asked.is_empty() => "none of its routes are for this proxy".to_owned(),
            Some(Proxy { state: PROGRAMMED, .. }) | None => "it is about to be told".to_owned(),
            Some(Proxy { state, message: None, .. }) => (*state).to_owned(),
            Some(Proxy { state, message: Some(message), .. }) => format!("{state}: {message}"),
        };
        TargetStatus {
            name: target.to_string(),
            programmed,
            digest: proxy.and_then(|proxy| Some(proxy.digest.as_ref()?.to_string())),
            message: (!programmed).then(why),
        }
    }

    fn ready(&self, id: &DocumentId, labels: &[String], plans: &[&TargetId], told: &[&Finding]) -> Said {
        const KIND: &str = "Ready";
        let sends = |target: &TargetId| {
            let routes = self
                .indices()
                .wanted
                .get(target)
                .into_iter()
                .flat_map(|index| labels.iter().filter_map(|it| index.get(it)));
            routes.filter_map(|(_, backend)| *backend).any(|backend| backend.policy.redirect.is_some())
        };
        let without: Vec<&str> = plans
            .iter()
            .filter(|target| !self.ready.contains(&(id, *target)) && !sends(target))
            .map(|target| target.as_str())
            .collect();
        if plans.is_empty() {
            return unknown(KIND, Reason::NoProxy.as_str(), "there is no proxy to serve it");
        }
        if without.is_empty() {
            return is(KIND, "every proxy has a backend that takes requests, or sends them elsewhere");
        }
        let why = told.iter().find(|finding| finding.verdict != Verdict::Note);
        let reason = why.map_or("NoEndpoint", |finding| finding.reason.as_str());
        let because = why.map_or_else(String::new, |finding| format!(": {}", finding.message));
        not(KIND, reason, format!("nobody takes requests behind {}{because}", without.join(", ")))
    }

    fn programmed(&self, accepted: &Said, plans: &[&TargetId], targets: &[TargetStatus]) -> Said {
        const KIND: &str = PROGRAMMED;
        if accepted.status != ConditionStatus::True {
            return not(KIND, "NotAccepted", format!("it is not served as asked: {}", accepted.message));
        }
        if targets.is_empty() {
            return not(KIND, Reason::NoProxy.as_str(), "there is no proxy to serve it");
        }
        let state = |target: &&TargetId| self.proxies.get(*target).map_or("Pending", |proxy| proxy.state);
        if let Some(lost) = plans.iter().find(|target| state(target) == UNREACHABLE) {
            let message = format!("{lost} cannot be reached, so that nobody knows what it runs");
            return unknown(KIND, UNREACHABLE, message);
        }
        let Some((at, missing)) = targets.iter().enumerate().find(|(_, target)| !target.programmed) else {
            return is(KIND, format!("{} of {} proxies provably run it", targets.len(), targets.len()));
        };
        let state = plans.get(at).map_or("Pending", state);
        let reason = if state == PROGRAMMED { "Pending" } else { state };
        let why = missing.message.clone().unwrap_or_default();
        not(KIND, reason, format!("{} does not provably run it: {why}", missing.name))
    }

    /// What is true of a `ServiceCluster`; `place` says whose it is.
    pub fn cluster(&self, name: &ClusterName, place: Place) -> Standing {
        let title = declared::cluster_title(name);
        let told = self.findings.get(title.as_str()).map(Vec::as_slice).unwrap_or_default();
        let accepted = match place {
            Place::Document => accepted(told),
            Place::Own => is("Accepted", "its settings are in force"),
            Place::Taken => not("Accepted", Reason::Overridden.as_str(), "a document takes its place"),
        };
        if accepted.status != ConditionStatus::True {
            let message = format!("it is not in force: {}", accepted.message);
            let programmed = not(PROGRAMMED, "NotAccepted", message);
            return Standing { conditions: vec![accepted, programmed], targets: Vec::new() };
        }
        let own: Vec<(&TargetId, &Proxy)> =
            self.proxies.iter().filter(|(_, proxy)| proxy.cluster.as_ref() == Some(name)).collect();
        let targets: Vec<TargetStatus> = own
            .iter()
            .map(|(id, proxy)| {
                let programmed = proxy.state == PROGRAMMED;
                TargetStatus {
                    name: id.to_string(),
                    programmed,
                    digest: proxy.digest.as_ref().map(ToString::to_string),
                    message: proxy.message.clone().filter(|_| !programmed),
                }
            })
            .collect();
        let is_in = |states: &[&str]| own.iter().find(|(_, proxy)| states.contains(&proxy.state)).copied();
        let lacks = |kind: &'static str, (id, proxy): (&TargetId, &Proxy)| {
            let message = proxy.message.as_deref().unwrap_or("it is about to be told");
            not(kind, proxy.state, format!("{id}: {message}"))
        };
        let checked = match is_in(&["Refused", "ActivationFailed"]) {
            Some(refused) => lacks("Checked", refused),
            None if own.is_empty() => {
                unknown("Checked", Reason::NoProxy.as_str(), "there is no proxy to check it")
            }
            None => is("Checked", "no proxy's checker refuses it"),
        };
        let programmed = match own.iter().find(|(_, proxy)| proxy.state != PROGRAMMED).copied() {
            Some(other) => lacks(PROGRAMMED, other),
            None if own.is_empty() => {
                let why = told.iter().find(|finding| finding.reason == Reason::Overridden);
                let none = "no proxy serves it; nothing is wrong with that";
                not(PROGRAMMED, Reason::NoProxy.as_str(), why.map_or(none, |finding| &finding.message))
            }
            None => is(PROGRAMMED, format!("{} proxies provably run what they should", own.len())),
        };
        Standing { conditions: vec![accepted, checked, programmed], targets }
    }
}

/// What is true of an `Engine`.
pub fn engine(id: &EngineId, freshness: Option<Freshness>) -> Standing {
    let (connected, synced) = match freshness {
        Some(Freshness::Fresh) => (
            is("Connected", format!("`{id}` answers")),
            is("Synced", "its containers were listed and are followed"),
        ),
        Some(Freshness::Stale { .. }) => {
            let why = "it does not answer: what it said last is served on";
            (not("Connected", "EngineStale", why), not("Synced", "EngineStale", why))
        }
        Some(Freshness::Never) | None => {
            let why = "it has not been listed yet";
            (unknown("Connected", "EngineStale", why), unknown("Synced", "EngineStale", why))
        }
    };
    Standing { conditions: vec![connected, synced], targets: Vec::new() }
}

/// Reasons that are about whom a document names.
const REFERENCES: [Reason; 10] = [
    Reason::BackendNotFound,
    Reason::NotRunning,
    Reason::Paused,
    Reason::OneOff,
    Reason::NotPublished,
    Reason::AmbiguousPort,
    Reason::NoPort,
    Reason::Unreachable,
    Reason::NetworkNotFound,
    Reason::AttachingNetwork,
];

fn accepted(told: &[&Finding]) -> Said {
    const KIND: &str = "Accepted";
    let refused = told
        .iter()
        .find(|finding| finding.verdict == Verdict::Refused && !REFERENCES.contains(&finding.reason));
    match refused {
        Some(finding) => not(KIND, finding.reason.as_str(), &finding.message),
        None => is(KIND, "everything that it asks for is understood"),
    }
}

fn resolved(told: &[&Finding]) -> Said {
    const KIND: &str = "ResolvedRefs";
    let lost =
        told.iter().find(|finding| finding.verdict != Verdict::Note && REFERENCES.contains(&finding.reason));
    match lost {
        Some(finding) => not(KIND, finding.reason.as_str(), &finding.message),
        None => is(KIND, "everybody whom it names is there"),
    }
}

/// The routes that a document asks for, as `host/path`.
fn labels(spec: &RouteSpec) -> Vec<String> {
    let paths = spec.rules.iter().flat_map(|rule| {
        let any = rule.matches.is_empty().then(|| "/".to_owned());
        let each =
            rule.matches.iter().map(|one| one.path.as_ref().map_or("/", |path| &path.value).to_owned());
        any.into_iter().chain(each)
    });
    let paths: BTreeSet<_> = paths.filter_map(|path| value::path(&path).ok()).collect();
    let hosts = spec.hostnames.iter().filter_map(|host| value::host(host).ok());
    hosts.flat_map(|host| paths.iter().map(move |path| format!("{host}{path}")).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests;
