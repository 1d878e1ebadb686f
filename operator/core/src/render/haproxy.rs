//! Renders HAProxy's side: one frontend whose every decision is a look-up in a map, and a backend of
//! server slots for each seat of the assignment. A host, path or endpoint more is an entry more.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{Period, ProxyKind, ServiceClusterSpec};
use ipnet::IpNet;
use serde::Serialize;

use super::{RenderError, Templates};
use crate::assign::{Assignment, Seat};
use crate::bundle::{
    Bundle, CERTIFICATES, CertificateLines, Fragment, Live, Presented, SEATS, SPARE, SecretRef, ServerLines,
};
use crate::model::{Digest, HostPattern, PathPrefix, Shared};
use crate::plan::{Abilities, BackendId, Balance, Plan, Route, Shape, UpstreamTls};
use crate::policy::{Access, Networks, NewPath, Policy, Redirect, Scheme};

/// The proxy's main file.
const CONFIG: &str = "haproxy.cfg";

/// The embedded templates by name.
pub(super) const TEMPLATES: &[(&str, &str)] = &[
    ("haproxy/global.j2", include_str!("../../../../templates/haproxy/global.j2")),
    ("haproxy/identity.j2", include_str!("../../../../templates/haproxy/identity.j2")),
    ("haproxy/defaults.j2", include_str!("../../../../templates/haproxy/defaults.j2")),
    ("haproxy/frontend.j2", include_str!("../../../../templates/haproxy/frontend.j2")),
    ("haproxy/stats.j2", include_str!("../../../../templates/haproxy/stats.j2")),
    ("haproxy/held.j2", include_str!("../../../../templates/haproxy/held.j2")),
    ("haproxy/backend.j2", include_str!("../../../../templates/haproxy/backend.j2")),
    ("haproxy/certificates.j2", include_str!("../../../../templates/haproxy/certificates.j2")),
];

/// HAProxy's largest span of time in milliseconds (about 24.8 days; management of timers is 32 bit).
const LONGEST: u64 = 2_147_483_646;
/// Labels of a host that are looked at for wildcards, unless a wildcard of the plan is longer.
pub(super) const LABELS: usize = 6;
/// Segments of a prefix that can be stripped, unless a prefix of the plan is longer.
pub(super) const DEPTH: usize = 4;
/// Proxies in front of one another that a client's address is looked for behind.
const HOPS: usize = 8;
/// Networks on one line; HAProxy takes 64 words.
const NETWORKS: usize = 32;
/// How often a connection that was refused is tried again, at least.
const RETRIES: u64 = 3;

/// TLS 1.2 ciphers with forward secrecy and authenticated encryption (Mozilla, "intermediate").
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// The HAProxy bundle of a plan.
pub(super) fn render(
    plan: &Plan,
    assignment: &Assignment,
    _abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    let base = |name: &str, text: String| fragment(CONFIG, name, text, Vec::new());
    let mut fragments = vec![
        base("global", templates.fill("haproxy/global.j2", Global::of(&plan.settings))?),
        base("identity", templates.fill("haproxy/identity.j2", Nothing {})?),
        base("defaults", templates.fill("haproxy/defaults.j2", Defaults::of(&plan.settings))?),
        base("frontend", templates.fill("haproxy/frontend.j2", Frontend::of(plan))?),
    ];
    let mut secrets: Vec<SecretRef> = plan
        .certificates
        .values()
        .map(|certificate| SecretRef { file: pem(&certificate.digest), digest: certificate.digest.clone() })
        .collect();
    if let Some(digest) = &plan.stats {
        let file = format!("{digest}.txt");
        fragments.push(base("stats", templates.fill("haproxy/stats.j2", File { file: &file })?));
        secrets.push(SecretRef { file, digest: digest.clone() });
    }
    if holds(plan) {
        fragments.push(base("held", templates.fill("haproxy/held.j2", Nothing {})?));
    }
    let spare = |name: &str| name.starts_with(SPARE);
    let named = assignment.seats.iter().filter(|(name, _)| !spare(name));
    for (name, seat) in named.chain(assignment.seats.iter().filter(|(name, _)| spare(name))) {
        fragments.push(seat_fragment(plan, name, seat, templates)?);
    }
    if https(plan).is_some() {
        fragments.extend(certificate_fragments(plan, templates)?);
    }
    let servers =
        assignment.seats.iter().map(|(name, seat)| (name.clone(), seat.slots.clone().into())).collect();
    let certificates = https(plan).map(|_| presented(plan)).unwrap_or_default();
    let live = Live { servers, maps: maps(plan, &assignment.places()), certificates };
    let (target, cluster) = (plan.target.clone(), plan.cluster.clone());
    let rest = millis(plan.settings.timeouts.response);
    Ok(Bundle::new(target, cluster, ProxyKind::Haproxy, fragments, live, secrets).with_rest(rest))
}

fn fragment(file: &str, name: &str, text: String, intents: Vec<Digest>) -> Fragment {
    Fragment { file: file.to_owned(), name: name.to_owned(), text, intents, ..Fragment::default() }
}

fn pem(digest: &Digest) -> String {
    format!("{digest}.pem")
}

/// The HTTPS port, where there is something to answer with or the cluster wants it bound regardless.
fn https(plan: &Plan) -> Option<u16> {
    let listeners = &plan.settings.listeners;
    let wanted = listeners.https_always || !plan.certificates.is_empty();
    Some(listeners.https).filter(|port| wanted && *port != 0)
}

/// Whether requests of a route whose last endpoint has left wait for the next one.
fn holds(plan: &Plan) -> bool {
    plan.settings.hold.as_millis() > 0
}

/// One declared backend: everything but its servers, which are the live part.
fn seat_fragment(
    plan: &Plan,
    name: &str,
    seat: &Seat,
    templates: &Templates,
) -> Result<Fragment, RenderError> {
    let Shape { balance, options, tls, slow_start, policy } = &seat.shape;
    let view = BackendView {
        name,
        balance: match balance {
            Balance::RoundRobin => "roundrobin",
            Balance::LeastConn => "leastconn",
            Balance::ClientAddress => "source",
            Balance::Random => "random",
            Balance::Uri => "uri",
            Balance::First => "first",
        },
        consistent: matches!(balance, Balance::ClientAddress | Balance::Uri),
        options: options.iter().map(crate::plan::HaproxyOption::as_str).collect(),
        tunnel: millis(plan.settings.timeouts.tunnel),
        hold_max: holds(plan).then_some(plan.settings.hold_max),
        redirect: policy.redirect.as_ref().map(|redirect| RedirectView::of(redirect, plan)),
        body_size: policy.body_size,
        host: policy.host.as_ref().map(crate::model::Hostname::as_str),
        path: policy.path.as_ref().map(PathPrefix::as_str),
        headers: headers(policy),
        access: (!policy.access.is_open()).then(|| AccessView::of(&policy.access, plan)),
    };
    let tls = match tls {
        None => "",
        Some(UpstreamTls { verify: false }) => " ssl verify none sni var(txn.host)",
        Some(UpstreamTls { verify: true }) => " ssl verify required ca-file @system-ca sni var(txn.host)",
    };
    // Not at boot: then everybody begins at once.
    let slow_start = slow_start.map(|period| format!(" slowstart {}ms", millis(period))).unwrap_or_default();
    let text = templates.fill("haproxy/backend.j2", view)?;
    let mut fragment = fragment(CONFIG, &format!("backend {name}"), text, seat.intents.clone());
    let (backend, parameters, shape) = (name.to_owned(), format!("{tls}{slow_start}"), seat.shape.clone());
    fragment.servers = Some(ServerLines { backend, parameters, shape });
    Ok(fragment)
}

/// The certificate list: the default first, which answers where no line fits.
fn certificate_fragments(plan: &Plan, templates: &Templates) -> Result<Vec<Fragment>, RenderError> {
    let head = templates.fill("haproxy/certificates.j2", Nothing {})?;
    let mut fragments = vec![fragment(CERTIFICATES, "certificates", head, Vec::new())];
    let lines = |name: &str, digest: &Digest, default: bool, intents: Vec<Digest>| {
        let certificate = Some(CertificateLines { file: pem(digest), default });
        Fragment { certificate, ..fragment(CERTIFICATES, name, String::new(), intents) }
    };
    let default = plan.certificates.values().find(|certificate| certificate.default);
    fragments.extend(default.map(|it| lines("default certificate", &it.digest, true, Vec::new())));
    // One file under two names is one certificate.
    let mut files: BTreeMap<&Digest, (String, BTreeSet<&Digest>)> = BTreeMap::new();
    for (name, certificate) in plan.certificates.iter().filter(|(_, it)| !it.hosts.is_empty()) {
        let serves = |route: &&Shared<Route>| route.certificate.as_ref() == Some(name);
        let backends: BTreeSet<_> = plan.routes.iter().filter(serves).map(|route| &route.backend).collect();
        let intents = plan.backends.iter().filter(|backend| backends.contains(&backend.id));
        let (_, known) = files
            .entry(&certificate.digest)
            .or_insert_with(|| (format!("certificate {name}"), BTreeSet::new()));
        known.extend(intents.flat_map(|backend| &backend.intents));
    }
    let mut named: Vec<Fragment> = files
        .into_iter()
        .map(|(digest, (name, intents))| lines(&name, digest, false, intents.into_iter().cloned().collect()))
        .collect();
    named.sort_by(|a, b| a.name.cmp(&b.name));
    fragments.extend(named);
    Ok(fragments)
}

/// Who is presented which certificate, by file.
fn presented(plan: &Plan) -> BTreeMap<String, Presented> {
    let mut files: BTreeMap<String, Presented> = BTreeMap::new();
    for certificate in plan.certificates.values() {
        let file = files.entry(pem(&certificate.digest)).or_default();
        file.names.extend(certificate.hosts.iter().cloned());
        file.default |= certificate.default;
    }
    files
}

/// The maps that a route may have entries in.
const MAPS: [&str; 8] = [
    SEATS,
    "depths.map",
    "hosts.map",
    "https.map",
    "rewrites.map",
    "routes.map",
    "streams.map",
    "wildcards.map",
];

/// The look-ups. A route is known by its label (`shop.example.com/app`); what only some routes have
/// stands in maps of its own, so that all others share one shape.
fn maps(
    plan: &Plan,
    places: &BTreeMap<&BackendId, &str>,
) -> BTreeMap<String, Shared<BTreeMap<String, String>>> {
    // Lists at first: a map that is made of a whole list is made far quicker than one entry after the other.
    let mut maps: BTreeMap<&str, Vec<(String, String)>> = MAPS.map(|name| (name, Vec::new())).into();
    for route in &plan.routes {
        for (name, key, value) in lookups(route, places.get(&route.backend).copied()) {
            maps.entry(name).or_default().push((key, value));
        }
    }
    maps.into_iter().map(|(name, entries)| (name.to_owned(), entries.into_iter().collect())).collect()
}

/// A route's entries: map, key and value.
pub(super) fn lookups(route: &Route, place: Option<&str>) -> Vec<(&'static str, String, String)> {
    let (site, label) = (route.host.to_string(), route.label());
    let mut entries = Vec::with_capacity(4);
    match &route.host {
        HostPattern::Exact(_) => entries.push(("hosts.map", site.clone(), site.clone())),
        // `*.example.com` is found by `com.example.` and at least one label more.
        HostPattern::Wildcard(suffix) => {
            let labels: Vec<&str> = suffix.as_str().rsplit('.').collect();
            entries.push(("wildcards.map", format!("{}.", labels.join(".")), site.clone()));
        }
    }
    entries.push(("routes.map", key(&site, route.path.as_str()), label.clone()));
    if let Some(place) = place {
        entries.push((SEATS, label.clone(), place.to_owned()));
    }
    if route.https_only {
        entries.push(("https.map", label.clone(), "1".to_owned()));
    }
    // Stripping `/` changes nothing.
    if route.rewrite && !route.path.is_root() {
        entries.push(("rewrites.map", label.clone(), route.path.to_string()));
        entries.push(("depths.map", label.clone(), depth(route).to_string()));
    }
    entries
        .extend(route.websocket.iter().map(|path| ("streams.map", key(&site, path.as_str()), label.clone())));
    entries
}

/// A prefix as the look-up has it: with a slash behind it, so that `/app` never takes `/apple`.
fn key(site: &str, path: &str) -> String {
    format!("{site}{}/", path.trim_end_matches('/'))
}

/// How many segments a route's path has.
pub(super) fn depth(route: &Route) -> usize {
    route.path.as_str().split('/').filter(|segment| !segment.is_empty()).count()
}

/// How many labels of a host are looked at for a route.
pub(super) fn labels(route: &Route) -> usize {
    match &route.host {
        HostPattern::Exact(_) => 0,
        HostPattern::Wildcard(suffix) => suffix.as_str().split('.').count() + 1,
    }
}

/// A span of time as HAProxy takes it: at least one millisecond, since 0 would mean for ever.
fn millis(period: Period) -> u64 {
    period.as_millis().clamp(1, LONGEST)
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct File<'a> {
    file: &'a str,
}

#[derive(Serialize)]
struct BackendView<'a> {
    name: &'a str,
    balance: &'static str,
    consistent: bool,
    options: Vec<&'a str>,
    tunnel: u64,
    hold_max: Option<u32>,
    access: Option<AccessView>,
    redirect: Option<RedirectView<'a>>,
    body_size: Option<u64>,
    host: Option<&'a str>,
    path: Option<&'a str>,
    /// Message, action, header and value in quotes.
    headers: Vec<(&'static str, &'static str, &'a str, String)>,
}

/// Where clients are sent.
#[derive(Serialize)]
struct RedirectView<'a> {
    status: u16,
    /// Scheme, host and port, by the scheme that clients come with.
    there: Vec<(Option<&'static str>, String)>,
    /// The path, or what stands in place of the prefix.
    path: Option<&'a str>,
    /// The prefix without a slash behind it, and how many bytes of the path go.
    from: Option<(&'a str, usize)>,
}

impl<'a> RedirectView<'a> {
    fn of(redirect: &'a Redirect, plan: &Plan) -> Self {
        let host = redirect.host.as_ref().map_or("%[var(txn.host)]", |host| host.as_str());
        let there = redirect.ways(&plan.settings).into_iter().map(|(from, to, behind)| {
            (from.map(Scheme::as_str), format!("{}://{host}{behind}", to.as_str()))
        });
        let (path, from) = match &redirect.path {
            None => (None, None),
            Some(NewPath::Full(path)) => (Some(path), None),
            Some(NewPath::Prefix { from, to }) => {
                let from = from.as_str().trim_end_matches('/');
                // `/` has the slash that the rest begins with.
                (Some(to), Some((from, from.len() + usize::from(to.is_root()))))
            }
        };
        let path = path.map(PathPrefix::as_str);
        Self { status: redirect.status.into(), there: there.collect(), path, from }
    }
}

/// What is done to headers, in HAProxy's words.
fn headers(policy: &Policy) -> Vec<(&'static str, &'static str, &str, String)> {
    let mut all = Vec::new();
    for (message, changes) in [("http-request", &policy.request), ("http-response", &policy.response)] {
        for (action, lines) in [("set-header", &changes.set), ("add-header", &changes.add)] {
            all.extend(
                lines.iter().map(|(name, value)| (message, action, name.as_str(), value.for_haproxy())),
            );
        }
        all.extend(changes.remove.iter().map(|name| (message, "del-header", name.as_str(), String::new())));
    }
    all
}

/// Who is let in. HAProxy takes an IPv6 address that carries an IPv4 one (6to4, for one) for that one, and an IPv4
/// address for one of `::/0`, so each family is compared by itself.
#[derive(Serialize)]
struct AccessView {
    client: &'static str,
    allow: bool,
    /// Networks by the name of their condition, so many on a line.
    networks: Vec<(&'static str, Vec<String>)>,
    named: Vec<&'static str>,
}

impl AccessView {
    fn of(access: &Access, plan: &Plan) -> Self {
        let line =
            |networks: &[&IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let lines = |networks: Option<&Networks>, four: bool| -> Vec<String> {
            let networks: Vec<&IpNet> = networks.into_iter().flat_map(|it| it.of_family(four)).collect();
            networks.chunks(NETWORKS).map(line).collect()
        };
        let (allow, deny) = (access.allow.as_ref(), Some(&access.deny));
        let mut networks = vec![
            ("allowed4", lines(allow, true)),
            ("allowed6", lines(allow, false)),
            ("denied4", lines(deny, true)),
            ("denied6", lines(deny, false)),
        ];
        networks.retain(|(_, lines)| !lines.is_empty());
        Self {
            client: if plan.settings.trusted_proxies.is_empty() { "src" } else { "var(txn.client) -m ip" },
            allow: allow.is_some(),
            named: networks.iter().map(|(name, _)| *name).collect(),
            networks,
        }
    }
}

#[derive(Serialize)]
struct Global {
    drain: u64,
    max_connections: Option<u32>,
    ciphers: &'static str,
}

impl Global {
    fn of(settings: &ServiceClusterSpec) -> Self {
        Self {
            drain: millis(settings.haproxy.drain),
            max_connections: settings.max_connections,
            ciphers: CIPHERS,
        }
    }
}

#[derive(Serialize)]
struct Defaults {
    connect: u64,
    request: u64,
    keep_alive: u64,
    response: u64,
    tunnel: u64,
    retries: u64,
}

impl Defaults {
    fn of(settings: &ServiceClusterSpec) -> Self {
        let timeouts = &settings.timeouts;
        Self {
            connect: millis(timeouts.connect),
            request: millis(timeouts.request),
            keep_alive: millis(timeouts.keep_alive),
            response: millis(timeouts.response),
            tunnel: millis(timeouts.tunnel),
            // While it is held a request is tried once a second.
            retries: settings.hold.as_millis().div_ceil(1000).max(RETRIES),
        }
    }
}

#[derive(Serialize)]
struct Frontend {
    http: Option<u16>,
    ipv6: bool,
    https: Option<u16>,
    strict_sni: bool,
    trusted: Vec<String>,
    hops: Vec<usize>,
    forged: &'static [&'static str],
    stats: bool,
    unknown_host: u16,
    redirect_status: u16,
    redirect_port: String,
    labels: Vec<usize>,
    depths: Vec<usize>,
}

impl Frontend {
    fn of(plan: &Plan) -> Self {
        let settings = &plan.settings;
        let labels = plan.routes.iter().map(|route| labels(route)).max().unwrap_or(0).max(LABELS);
        let rewritten = plan.routes.iter().filter(|route| route.rewrite);
        let depths = rewritten.map(|route| depth(route)).max().unwrap_or(0).max(DEPTH);
        Self {
            http: Some(settings.listeners.http).filter(|port| *port != 0),
            ipv6: settings.listeners.ipv6,
            https: https(plan),
            strict_sni: !plan.certificates.values().any(|certificate| certificate.default),
            trusted: settings.trusted_proxies.iter().map(ToString::to_string).collect(),
            hops: (1..=HOPS).collect(),
            forged: super::FORGED_HEADERS,
            stats: plan.stats.is_some(),
            unknown_host: settings.unknown_host.status(),
            redirect_status: settings.redirect_status.status(),
            redirect_port: match settings.listeners.https {
                443 => String::new(),
                port => format!(":{port}"),
            },
            labels: (1..=labels).collect(),
            depths: (1..=depths).collect(),
        }
    }
}
