//! A `Route` document read into rules: each value parsed into its type, or why it cannot be.

mod filters;
mod policy;
mod redirects;

use interlock_crds::{
    BackendKind, BackendRef, ClaimSpec, RouteMatch, RouteRule, RouteSpec, ServiceClusterSpec,
};

use self::filters::Filters;
use super::fields::{self, Asked, Cost, Support};
use super::{Backend, Named, Reading, Rule, subject, title};
use crate::finding::{Finding, Reason, Verdict, shown};
use crate::intent::claims;
use crate::intent::said::Fault;
use crate::intent::{self, Check, Fixed, Intent, RouteSettings, value};
use crate::model::{
    Container, ContainerId, Digest, DocumentId, EngineId, EngineView, HostPattern, Owner, PathPrefix, Port,
    UpstreamAddr,
};

/// Labels that a selector may name: what is kept of a container's labels and means nothing else.
const SELECTABLE: [&str; 3] = ["interlock.select.", "com.docker.compose.", "com.docker.swarm."];
/// The most hosts times paths of one document.
const MOST_ROUTES: usize = 1_000;
/// The most backends of one rule.
const MOST_BACKENDS: usize = 256;

pub(super) struct Reader<'a> {
    id: &'a DocumentId,
    spec: &'a RouteSpec,
    cluster: &'a ServiceClusterSpec,
    route: Option<String>,
    findings: Vec<Finding>,
}

/// What holds for every rule.
struct Common {
    hosts: Vec<HostPattern>,
    settings: RouteSettings,
    check: Option<Check>,
    closed: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(id: &'a DocumentId, spec: &'a RouteSpec, cluster: &'a ServiceClusterSpec) -> Self {
        Self { id, spec, cluster, route: None, findings: Vec::new() }
    }

    pub(super) fn read(mut self) -> Reading {
        let rules = self.rules();
        self.findings.sort();
        self.findings.dedup();
        Reading {
            id: self.id.clone(),
            engine: EngineId::nowhere(),
            view: EngineView::default(),
            rules,
            findings: self.findings,
        }
    }

    fn rules(&mut self) -> Vec<Rule> {
        let hosts = self.hosts();
        self.route = hosts.first().map(|host| format!("{host}/"));
        let cost = self.refuse("spec", &fields::of_route(self.spec));
        if hosts.is_empty() || cost == Some(Cost::Match) {
            return Vec::new();
        }
        if self.too_large(hosts.len()) {
            return Vec::new();
        }
        let settings = self.settings();
        let check = self.check();
        let common = Common { hosts, settings, check, closed: cost == Some(Cost::Closed) };
        let spec = self.spec;
        if spec.rules.is_empty() {
            self.bad(
                "spec.rules",
                Fault::value("it has no rules, so nothing is routed").verdict(Verdict::Refused),
            );
        }
        let mut rules: Vec<Rule> = Vec::new();
        for (at, rule) in spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{at}]");
            for read in self.rule(&field, rule, &common) {
                if rules.iter().any(|known| known.path == read.path) {
                    let message = format!("another rule before it has the path `{}`", read.path);
                    self.bad(&field, Fault::value(message).verdict(Verdict::Refused));
                } else {
                    rules.push(read);
                }
            }
        }
        let covered = |path: &PathPrefix| rules.iter().any(|rule| rule.path.covers(path.as_str()));
        let lost: Vec<PathPrefix> =
            common.settings.websocket.iter().filter(|path| !covered(path)).cloned().collect();
        for path in lost {
            let fault = Fault::value(format!("`{path}` is below no path of the route"));
            self.bad("spec.websocket", fault.reason(Reason::InvalidPath));
        }
        rules
    }

    /// Who a document is where hosts have owners.
    fn owner(&self) -> Owner {
        Owner::lossy(&format!("route:{}", self.id))
    }

    /// A document of megabytes must not become a plan of gigabytes.
    fn too_large(&mut self, hosts: usize) -> bool {
        let rules = &self.spec.rules;
        let paths: usize = rules.iter().map(|rule| rule.matches.len().max(1)).sum();
        let backends = rules.iter().map(|rule| rule.backend_refs.len()).max().unwrap_or_default();
        let routes = hosts.saturating_mul(paths);
        let large = routes > MOST_ROUTES || backends > MOST_BACKENDS;
        if large {
            let message = format!(
                "{routes} hosts and paths, and {backends} backends of one; {MOST_ROUTES} and {MOST_BACKENDS} are \
                 the most of one document"
            );
            self.bad("spec.rules", Fault::value(message).verdict(Verdict::Refused));
        }
        large
    }

    /// A bad host costs only itself, as long as there is a good one.
    fn hosts(&mut self) -> Vec<HostPattern> {
        let spec = self.spec;
        let mut hosts: Vec<HostPattern> = Vec::new();
        let (mut faults, mut denied) = (Vec::new(), Vec::new());
        for (at, text) in spec.hostnames.iter().enumerate() {
            match value::host(text) {
                Ok(host) if hosts.contains(&host) => {}
                Ok(host) => match claims::denies(&self.cluster.claims, &host, &self.owner()) {
                    None => hosts.push(host),
                    Some(claim) => denied.push(self.denied(at, &host, claim)),
                },
                Err(fault) => faults.push((format!("spec.hostnames[{at}]"), fault)),
            }
        }
        if hosts.is_empty() && faults.is_empty() && denied.is_empty() {
            let fault =
                Fault::value("it names no host").reason(Reason::InvalidHost).write("[shop.example.com]");
            faults.push(("spec.hostnames".to_owned(), fault));
        }
        let verdict = if hosts.is_empty() { Verdict::Refused } else { Verdict::Degraded };
        for (field, fault) in faults {
            self.bad(&field, fault.verdict(verdict));
        }
        self.findings.extend(denied.into_iter().map(|finding| Finding { verdict, ..finding }));
        hosts
    }

    fn denied(&self, at: usize, host: &HostPattern, claim: &ClaimSpec) -> Finding {
        let field = format!("spec.hostnames[{at}]");
        let (owner, whom) = (self.owner(), claims::whom(claim));
        let message = format!("`{field}`: the cluster's `claims` give {host} to {whom}");
        let subject = subject(self.id).with_key(field).with_route(format!("{host}/"));
        let fix = format!("choose another host, or add `{owner}` to the `owners` of that entry of `claims`");
        Finding::new(Verdict::Refused, Reason::HostNotAllowed, subject, message).fix(fix)
    }

    fn rule(&mut self, field: &str, rule: &RouteRule, common: &Common) -> Vec<Rule> {
        let cost = self.refuse(field, &fields::of_rule(rule));
        let mut filters = self.filters(field, rule, &common.hosts);
        let closed = common.closed || cost == Some(Cost::Closed) || filters.closed;
        if closed {
            // Nobody is sent on past what would have kept them out.
            filters.policy.redirect = None;
        }
        let nobody = if filters.policy.redirect.is_some() { "the redirect" } else { "nobody" };
        let closed = closed || filters.policy.redirect.is_some();
        let any = [RouteMatch::default()];
        let matches = if rule.matches.is_empty() { any.as_slice() } else { &rule.matches };
        let mut rules = Vec::new();
        for (at, one) in matches.iter().enumerate() {
            let field_of_match = format!("{field}.matches[{at}]");
            let cost = self.refuse(&field_of_match, &fields::of_match(one));
            let Some(path) = self.path(&field_of_match, one).filter(|_| cost.is_none()) else { continue };
            let wish = self.wish(common, path.clone(), &filters);
            let first = rules.is_empty();
            let backends = if closed { Vec::new() } else { self.backends(field, rule, &wish, first) };
            let fixed = Intent { fixed: Some(Fixed::Nobody), ..wish };
            rules.push(Rule { path, closed, backends, nobody: self.stand_in(field, nobody, fixed) });
        }
        rules
    }

    fn path(&mut self, field: &str, one: &RouteMatch) -> Option<PathPrefix> {
        let Some(path) = &one.path else { return Some(PathPrefix::root()) };
        let field = format!("{field}.path.value");
        match value::path(&path.value) {
            Ok(path) => Some(path),
            Err(fault) => {
                self.bad(&field, fault);
                None
            }
        }
    }

    /// What is asked for of every backend of a rule.
    fn wish(&self, common: &Common, path: PathPrefix, filters: &Filters) -> Intent {
        let mut settings = common.settings.clone();
        settings.https_only |= filters.https_only;
        settings.tls |= filters.https_only;
        filters.policy.clone().over(&mut settings.policy, &path);
        settings.websocket.retain(|endpoint| path.covers(endpoint.as_str()));
        Intent {
            digest: Digest::of([]),
            engine: EngineId::nowhere(),
            container: stand_in_id(self.id, ""),
            name: String::new(),
            owner: self.owner(),
            route: None,
            document: Some(self.id.clone()),
            fixed: None,
            hosts: common.hosts.clone(),
            rewrite: filters.rewrite && !path.is_root(),
            path,
            port: None,
            network: None,
            by_container_hostname: false,
            settings,
            warm: self.spec.warm,
            check: common.check.clone(),
            readiness: self.spec.readiness,
        }
    }

    /// The backends of a rule. Of several paths the first one tells what is wrong with them.
    fn backends(&mut self, field: &str, rule: &RouteRule, wish: &Intent, tell: bool) -> Vec<Backend> {
        let told = self.findings.len();
        let mut backends = Vec::new();
        for (at, one) in rule.backend_refs.iter().enumerate().filter(|(_, one)| one.weight > 0) {
            let field = format!("{field}.backendRefs[{at}]");
            let cost = self.refuse(&field, &fields::of_backend(one));
            if cost.is_none() {
                backends.extend(self.backend(&field, one, wish));
            }
        }
        if rule.backend_refs.is_empty() {
            let fault =
                Fault::value("it has no `backendRefs`, so nobody serves it").verdict(Verdict::Refused);
            self.bad(field, fault);
        }
        if !tell {
            self.findings.truncate(told);
        }
        backends
    }

    fn backend(&mut self, field: &str, one: &BackendRef, wish: &Intent) -> Option<Backend> {
        let port = match one.port.map(Port::try_from).transpose() {
            Ok(port) => port,
            Err(error) => {
                self.bad(&format!("{field}.port"), Fault::value(error.to_string()).verdict(Verdict::Refused));
                return None;
            }
        };
        let mut intent = Intent { port, ..wish.clone() };
        if let Some(network) = &one.network {
            match value::network(network) {
                Ok(network) => intent.network = Some(network),
                Err(fault) => {
                    self.bad(&format!("{field}.network"), fault);
                    return None;
                }
            }
        }
        match self.named(field, one, port) {
            Ok(Whom::Known(named)) => {
                intent.digest = intent::digest(&intent);
                Some(Backend { field: field.to_owned(), named, intent })
            }
            Ok(Whom::At(address)) => {
                intent.fixed = Some(Fixed::At(address));
                Some(self.stand_in(field, &address.to_string(), intent))
            }
            Err((inner, fault)) => {
                let field = if inner.is_empty() { field.to_owned() } else { format!("{field}.{inner}") };
                self.bad(&field, fault.verdict(Verdict::Refused));
                None
            }
        }
    }

    fn named(
        &self,
        field: &str,
        one: &BackendRef,
        port: Option<Port>,
    ) -> Result<Whom, (&'static str, Fault)> {
        let name = || {
            let name = one.name.clone().filter(|name| !name.is_empty());
            name.ok_or(("", Fault::value("it names nobody").write("{name: web}")))
        };
        match one.kind {
            BackendKind::Container => match &one.selector {
                None => Ok(Whom::Known(Named::Container(name()?))),
                Some(_) if one.name.is_some() => {
                    Err(("", Fault::value("it has a `name` and a `selector`; one of them is enough")))
                }
                Some(selector) => {
                    let labels = &selector.match_labels;
                    let read = |key: &str| SELECTABLE.iter().any(|prefix| key.starts_with(prefix));
                    if let Some(key) = labels.keys().find(|key| !read(key)) {
                        let message = format!(
                            "`{}` is no label that is read; only those under `{}` are",
                            shown(key),
                            SELECTABLE.join("`, `")
                        );
                        return Err(("selector.matchLabels", Fault::value(message)));
                    }
                    if labels.is_empty() {
                        return Err(("selector.matchLabels", Fault::value("it would select everybody")));
                    }
                    Ok(Whom::Known(Named::Labels(labels.clone())))
                }
            },
            BackendKind::ComposeService => Ok(Whom::Known(Named::Service {
                project: one.project.clone().unwrap_or_else(|| self.id.namespace().to_owned()),
                name: name()?,
            })),
            BackendKind::Address => {
                let text = one.address.as_deref().unwrap_or_default();
                let ip = text.parse().map_err(|_| {
                    let message = format!("`{}` is not an IP address", shown(text));
                    ("address", Fault::value(message).write("192.0.2.7"))
                })?;
                let port =
                    port.ok_or_else(|| ("port", Fault::value("an address needs one").write("8080")))?;
                let address = UpstreamAddr::new(ip, port)
                    .map_err(|error| ("address", Fault::value(error.to_string())))?;
                Ok(Whom::At(address))
            }
            // Refused before.
            BackendKind::SwarmService => Err(("kind", Fault::value(format!("`{field}` is not served")))),
        }
    }

    /// A backend of whom no engine knows.
    fn stand_in(&self, field: &str, name: &str, mut intent: Intent) -> Backend {
        let container = Container::stand_in(stand_in_id(self.id, &format!("{name} {}", intent.path)), name);
        intent.container = container.id.clone();
        name.clone_into(&mut intent.name);
        intent.digest = intent::digest(&intent);
        Backend { field: field.to_owned(), named: Named::Fixed(Box::new(container)), intent }
    }

    /// Tells what is asked for and not done; what the worst of it costs.
    fn refuse(&mut self, at: &str, asked: &[Asked]) -> Option<Cost> {
        let mut worst = None;
        for (field, path) in asked {
            let Some(Support::Not(cost, why)) = fields::support(path) else { continue };
            worst = worst.max(Some(cost));
            let (verdict, so) = match cost {
                Cost::Field => (Verdict::Degraded, "the route is served without it"),
                Cost::Reference => (Verdict::Refused, "the reference is left out"),
                Cost::Match => (Verdict::Refused, "what it is about is left out"),
                Cost::Closed => (Verdict::Refused, "its requests are answered 503"),
            };
            let field = format!("{at}.{field}");
            let message = format!("no proxy does this yet: {why}; {so}");
            let fault = Fault::value(message).reason(Reason::NotSupported).verdict(verdict);
            self.bad(&field, fault);
        }
        worst
    }

    /// Tells what is wrong with a field.
    fn bad(&mut self, field: &str, fault: Fault) {
        let title = title(self.id);
        let mut about = subject(self.id).with_key(field);
        about.route.clone_from(&self.route);
        let message = format!("`{field}`: {}", fault.message);
        let mut finding = Finding::new(fault.verdict, fault.reason, about, message);
        finding.fix = fault.fix.map(|fix| format!("in {title}, set `{field}` to `{fix}`"));
        self.findings.push(finding);
    }
}

/// Whom a reference names.
enum Whom {
    Known(Named),
    At(UpstreamAddr),
}

fn stand_in_id(id: &DocumentId, what: &str) -> ContainerId {
    ContainerId::of(&Digest::of([id.as_str().as_bytes(), what.as_bytes()]))
}
