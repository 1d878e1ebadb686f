//! Why a host and path, or a container, is served the way it is: the findings put in order for one question.

mod types;

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::ProxyKind;

use crate::compile::{Compiled, Config, Placement};
use crate::finding::{Finding, Reason, Verdict};
use crate::intent;
use crate::model::{Container, ContainerId, HostPattern, Hostname, Observed, TargetId};
use crate::plan::{Abilities, Ability, Plan, Route};

pub use types::{Answer, EndpointAnswer, Explanation, Question, RouteAnswer, TargetAnswer};

/// Answers for `host` and `path`: which containers serve it on each proxy, or exactly why nothing does.
///
/// The host may carry a port, any case and a trailing dot, as a request may. A `host` that nothing claims
/// but that is the name of a container (or its id, twelve digits or more) is answered as [`why_container`].
pub fn why(compiled: &Compiled, observed: &Observed, config: &Config, host: &str, path: &str) -> Explanation {
    let bare = without_port(host);
    let path = if path.is_empty() { "/" } else { path };
    let known = Known::gather(compiled, observed, config);
    let parsed = bare.parse::<Hostname>();
    let claimed = parsed.as_ref().is_ok_and(|host| known.of(host).next().is_some());
    if !claimed && let Some(container) = by_name(observed, host) {
        return why_container(compiled, container);
    }
    let Ok(host) = parsed else {
        let question = Question::Route { host: crate::finding::shown(bare), path: path.to_owned() };
        return Explanation {
            summary: format!("`{}` is no host name: proxies answer 400", crate::finding::shown(bare)),
            question,
            answer: Answer::InvalidHost,
            targets: BTreeMap::new(),
            findings: Vec::new(),
            nearest: known.nearest(bare),
        };
    };
    let targets: BTreeMap<TargetId, TargetAnswer> = compiled
        .plans
        .iter()
        .map(|(id, plan)| (id.clone(), on_target(compiled, id, plan, &host, path)))
        .collect();
    let answer = targets.values().map(|target| target.answer).min().unwrap_or(Answer::NoProxy);
    let findings = known.findings(compiled, &host, answer);
    let nearest = if claimed { Vec::new() } else { known.nearest(host.as_str()) };
    let summary = summary(&host, path, answer, &targets, &findings, &nearest);
    let question = Question::Route { host: host.to_string(), path: path.to_owned() };
    Explanation { question, answer, summary, targets, findings, nearest }
}

/// Answers for a container: its routes on each proxy, and everything that was found about it.
pub fn why_container(compiled: &Compiled, container: &Container) -> Explanation {
    let mine: Vec<&Placement> =
        compiled.placements.iter().map(|it| &**it).filter(|it| it.container == container.id).collect();
    let mut targets = BTreeMap::new();
    for (id, plan) in &compiled.plans {
        let routes: BTreeSet<&str> =
            mine.iter().filter(|p| p.target == *id).map(|p| p.route.as_str()).collect();
        let routes: Vec<RouteAnswer> = plan
            .routes
            .iter()
            .filter(|route| routes.contains(route.label().as_str()))
            .map(|route| RouteAnswer {
                endpoints: endpoints(compiled, id, route)
                    .into_iter()
                    .filter(|endpoint| endpoint.container == container.id)
                    .collect(),
                ..route_answer(compiled, id, plan, route)
            })
            .collect();
        let serving = routes.iter().flat_map(|route| &route.endpoints).any(|endpoint| endpoint.serving);
        let answer = match (serving, routes.is_empty()) {
            (true, _) => Answer::Served,
            (false, false) => Answer::NoEndpoint,
            (false, true) => Answer::UnknownHost,
        };
        let (cluster, proxy) = (plan.cluster.clone(), plan.settings.proxy);
        let (paths, remains) = (Vec::new(), remains(compiled, id, plan, answer));
        let answer = TargetAnswer { cluster, proxy, answer, status: None, routes, paths, remains };
        targets.insert(id.clone(), answer);
    }
    let mut findings: Vec<Finding> = compiled
        .findings
        .iter()
        .filter(|finding| finding.subject.container.as_ref() == Some(&container.id))
        .cloned()
        .collect();
    gravest_first(&mut findings);
    let answer = targets.values().map(|target: &TargetAnswer| target.answer).min().unwrap_or(Answer::NoProxy);
    let name = &container.name;
    let summary = match (answer, findings.first()) {
        (Answer::Served, _) => {
            let routes: BTreeSet<&str> =
                mine.iter().filter(|p| p.serving).map(|p| p.route.as_str()).collect();
            format!("`{name}` serves {}", routes.into_iter().collect::<Vec<_>>().join(", "))
        }
        (_, Some(finding)) => finding.message.clone(),
        (Answer::NoProxy, None) => "there is no proxy that could answer".to_owned(),
        (_, None) => format!("`{name}` asks for no route: it has no routing label and no `INTERLOCK_DATA`"),
    };
    let question = Question::Container { name: name.clone(), id: container.id.clone() };
    Explanation { question, answer, summary, targets, findings, nearest: Vec::new() }
}

/// The container with this name or id.
fn by_name<'o>(observed: &'o Observed, name: &str) -> Option<&'o Container> {
    let mut all =
        observed.engines.values().flat_map(|view| view.containers.values().map(|container| &**container));
    all.find(|container| {
        container.name == name || (name.len() >= 12 && container.id.as_str().starts_with(name))
    })
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// One host that somebody asks for, served or not.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    host: HostPattern,
    /// None where a document asks: its findings carry its routes.
    container: Option<ContainerId>,
    /// The first host of the same intent with its path: what findings on it carry.
    primary: String,
}

/// Everything that somebody asks for.
struct Known {
    claims: Vec<Claim>,
}

impl Known {
    fn gather(compiled: &Compiled, observed: &Observed, config: &Config) -> Self {
        let proxies: BTreeSet<&ContainerId> =
            compiled.targets.values().filter_map(|target| target.container.as_ref()).collect();
        let mut claims = Vec::new();
        for spec in config.with(&observed.declared).clusters.values() {
            for (engine, view) in &observed.engines {
                for container in view.containers.values().filter(|c| !proxies.contains(&c.id)) {
                    for intent in intent::parse(engine, container, spec).intents {
                        let primary = intent.hosts.first().map(|host| format!("{host}{}", intent.path));
                        claims.extend(intent.hosts.iter().map(|host| Claim {
                            host: host.clone(),
                            container: Some(container.id.clone()),
                            primary: primary.clone().unwrap_or_default(),
                        }));
                    }
                }
            }
        }
        for route in observed.declared.routes.values() {
            let hosts = route.hostnames.iter().filter_map(|host| host.parse().ok());
            claims.extend(hosts.map(|host| Claim { host, container: None, primary: String::new() }));
        }
        claims.sort();
        claims.dedup();
        Self { claims }
    }

    fn of<'k>(&'k self, host: &'k Hostname) -> impl Iterator<Item = &'k Claim> {
        self.claims.iter().filter(|claim| claim.host.covers(host))
    }

    /// What concerns a host. For a host that is not served also what could be meant by it, and what keeps
    /// whole engines or proxies back.
    fn findings(&self, compiled: &Compiled, host: &Hostname, answer: Answer) -> Vec<Finding> {
        let routed = |route: &str| {
            let name = route.split('/').next().unwrap_or_default();
            name.parse::<HostPattern>().is_ok_and(|pattern| pattern.covers(host))
        };
        let claims_nothing = self.of(host).next().is_none();
        let concerns = |finding: &&Finding| {
            let subject = &finding.subject;
            let mut mine = self
                .of(host)
                .filter(|claim| claim.container.is_some() && claim.container == subject.container);
            match (&subject.route, &subject.container) {
                (Some(route), _) => routed(route) || mine.any(|claim| claim.primary == *route),
                (None, Some(_)) if claims_nothing => could_hide_a_host(finding.reason),
                (None, Some(_)) => mine.next().is_some(),
                (None, None) => answer != Answer::Served,
            }
        };
        let mut findings: Vec<Finding> = compiled.findings.iter().filter(concerns).cloned().collect();
        gravest_first(&mut findings);
        findings
    }

    fn nearest(&self, host: &str) -> Vec<String> {
        let names: BTreeSet<String> = self.claims.iter().map(|claim| claim.host.to_string()).collect();
        let mut scored: Vec<(f64, String)> = names
            .into_iter()
            .map(|name| (strsim::normalized_damerau_levenshtein(&name, host), name))
            .filter(|(score, _)| *score > 0.6)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        scored.into_iter().take(3).map(|(_, name)| name).collect()
    }
}

/// Reasons for which a container's wish never became one.
fn could_hide_a_host(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidHost
            | Reason::InvalidData
            | Reason::InvalidPath
            | Reason::InvalidPort
            | Reason::ImageNotTrusted
            | Reason::UnknownKey
            | Reason::ProxyStopped
            | Reason::UnknownProxy
    )
}

fn gravest_first(findings: &mut [Finding]) {
    // The order of `Verdict` is that of gravity.
    findings.sort_by(|a, b| a.verdict.cmp(&b.verdict).then_with(|| a.cmp(b)));
}

fn on_target(compiled: &Compiled, id: &TargetId, plan: &Plan, host: &Hostname, path: &str) -> TargetAnswer {
    let of_host = routes_of(plan, host);
    let found = of_host.iter().find(|route| route.path.covers(path));
    let routes: Vec<RouteAnswer> =
        found.iter().map(|route| route_answer(compiled, id, plan, route)).collect();
    let serving = routes.iter().flat_map(|route| &route.endpoints).any(|endpoint| endpoint.serving);
    let sent = routes.iter().find_map(|route| route.redirect.as_ref());
    let (answer, status) = match (found, of_host.is_empty()) {
        (Some(_), _) if sent.is_some() => (Answer::Redirected, sent.map(|it| it.status.into())),
        (Some(_), _) if serving => (Answer::Served, None),
        (Some(_), _) => (Answer::NoEndpoint, Some(503)),
        (None, false) => (Answer::PathNotCovered, Some(404)),
        (None, true) => (Answer::UnknownHost, Some(plan.settings.unknown_host.status())),
    };
    let paths = if answer == Answer::PathNotCovered {
        of_host.iter().map(|route| route.path.to_string()).collect()
    } else {
        Vec::new()
    };
    let (cluster, proxy) = (plan.cluster.clone(), plan.settings.proxy);
    let remains = remains(compiled, id, plan, answer);
    TargetAnswer { cluster, proxy, answer, status, routes, paths, remains }
}

/// What a proxy of this version cannot promise to who it serves.
fn remains(compiled: &Compiled, id: &TargetId, plan: &Plan, answer: Answer) -> Vec<String> {
    let said = compiled.targets.get(id).and_then(|target| target.abilities);
    let abilities = said.unwrap_or(Abilities::oldest(plan.settings.proxy));
    let closes = abilities.proxy == ProxyKind::Nginx && !abilities.has(Ability::KeepAliveMinTimeout);
    if answer != Answer::Served || !closes {
        return Vec::new();
    }
    vec![format!(
        "{abilities} closes kept idle connections of clients when it reloads, so a request that is on its way just \
         then is lost; nginx 1.27.4 and newer (`keepalive_min_timeout`) and HAProxy lose none"
    )]
}

/// The routes of the host, longest path first: its own, else those of the longest wildcard above it.
fn routes_of<'p>(plan: &'p Plan, host: &Hostname) -> Vec<&'p Route> {
    // Routes are sorted: exact hosts first, then wildcards from long to short.
    let first = plan.routes.iter().find(|route| route.host.covers(host)).map(|route| &route.host);
    plan.routes.iter().map(|route| &**route).filter(|route| Some(&route.host) == first).collect()
}

fn route_answer(compiled: &Compiled, target: &TargetId, plan: &Plan, route: &Route) -> RouteAnswer {
    let backend = plan.backends.binary_search_by(|backend| backend.id.cmp(&route.backend)).ok();
    let redirect = backend.and_then(|at| plan.backends[at].policy.redirect.clone());
    RouteAnswer {
        route: route.label(),
        https_only: route.https_only,
        redirect,
        certificate: route.certificate.clone(),
        endpoints: endpoints(compiled, target, route),
    }
}

fn endpoints(compiled: &Compiled, target: &TargetId, route: &Route) -> Vec<EndpointAnswer> {
    let label = route.label();
    compiled
        .placements
        .iter()
        .filter(|placement| placement.target == *target && placement.route == label)
        .map(|placement| EndpointAnswer {
            container: placement.container.clone(),
            name: placement.name.clone(),
            address: placement.address,
            serving: placement.serving,
            readiness: placement.readiness,
        })
        .collect()
}

fn summary(
    host: &Hostname,
    path: &str,
    answer: Answer,
    targets: &BTreeMap<TargetId, TargetAnswer>,
    findings: &[Finding],
    nearest: &[String],
) -> String {
    let asked = format!("{host}{}", crate::finding::shown(path));
    match answer {
        Answer::Served => {
            let names: BTreeSet<String> = targets
                .values()
                .flat_map(|target| &target.routes)
                .flat_map(|route| &route.endpoints)
                .filter(|endpoint| endpoint.serving)
                .map(|endpoint| match endpoint.address {
                    Some(address) => format!("`{}` at {address}", endpoint.name),
                    None => format!("`{}`", endpoint.name),
                })
                .collect();
            format!("{asked} is served by {}", names.into_iter().collect::<Vec<_>>().join(", "))
        }
        Answer::Redirected => {
            let routes = targets.values().flat_map(|target| &target.routes);
            let to: BTreeSet<String> =
                routes.filter_map(|route| Some(route.redirect.as_ref()?.to_string())).collect();
            format!("{asked} is redirected: {}", to.into_iter().collect::<Vec<_>>().join(", "))
        }
        Answer::PathNotCovered => {
            let paths: BTreeSet<&str> =
                targets.values().flat_map(|target| &target.paths).map(String::as_str).collect();
            let paths = paths.into_iter().collect::<Vec<_>>().join(", ");
            format!("no route of {host} covers {}: it has {paths}", crate::finding::shown(path))
        }
        Answer::NoProxy => "there is no proxy that could answer".to_owned(),
        Answer::InvalidHost => format!("`{host}` is no host name"),
        Answer::NoEndpoint | Answer::UnknownHost => {
            let blocker = findings
                .iter()
                .find(|finding| finding.subject.container.is_some() || finding.subject.document.is_some());
            match (blocker, nearest.first()) {
                (Some(finding), _) if nearest.is_empty() || finding.verdict != Verdict::Note => {
                    format!("{asked} is not served: {}", finding.message)
                }
                (_, Some(near)) => format!("nothing asks for {host}; did you mean {near}?"),
                (_, None) if answer == Answer::NoEndpoint => format!("no endpoint of {asked} takes requests"),
                (_, None) => format!("nothing asks for {host}"),
            }
        }
    }
}
