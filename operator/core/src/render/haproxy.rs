//! Renders HAProxy's side: one frontend whose every decision is a look-up in a map, and a backend of
//! server slots for each backend of the plan. A host, path or endpoint more is an entry more.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{Period, ProxyKind, ServiceClusterSpec};
use serde::Serialize;

use super::{RenderError, Templates};
use crate::assign::Assignment;
use crate::bundle::{Bundle, Fragment, Live, SecretRef, ServerLines};
use crate::model::{Digest, HostPattern};
use crate::plan::{Abilities, Backend, Balance, Plan, PlanCertificate, Route, UpstreamTls};

/// The proxy's main file.
const CONFIG: &str = "haproxy.cfg";
/// The list of certificates and the names that they answer for.
const CERTIFICATES: &str = "certificates.list";

/// The embedded templates by name.
pub(super) const TEMPLATES: &[(&str, &str)] = &[
    ("haproxy/global.j2", include_str!("../../../../templates/haproxy/global.j2")),
    ("haproxy/identity.j2", include_str!("../../../../templates/haproxy/identity.j2")),
    ("haproxy/defaults.j2", include_str!("../../../../templates/haproxy/defaults.j2")),
    ("haproxy/frontend.j2", include_str!("../../../../templates/haproxy/frontend.j2")),
    ("haproxy/stats.j2", include_str!("../../../../templates/haproxy/stats.j2")),
    ("haproxy/backend.j2", include_str!("../../../../templates/haproxy/backend.j2")),
    ("haproxy/certificates.j2", include_str!("../../../../templates/haproxy/certificates.j2")),
    ("haproxy/certificate.j2", include_str!("../../../../templates/haproxy/certificate.j2")),
];

/// HAProxy's largest span of time in milliseconds (about 24.8 days; management of timers is 32 bit).
const LONGEST: u64 = 2_147_483_646;
/// Labels of a host that are looked at for wildcards, unless a wildcard of the plan is longer.
const LABELS: usize = 6;
/// Segments of a prefix that can be stripped, unless a prefix of the plan is longer.
const DEPTH: usize = 4;
/// Names on one line of the certificate list; HAProxy takes at most 2047.
const NAMES: usize = 100;

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
    for backend in &plan.backends {
        fragments.push(backend_fragment(plan, backend, templates)?);
    }
    if https(plan).is_some() {
        fragments.extend(certificate_fragments(plan, templates)?);
    }
    let live = Live { servers: assignment.servers.clone(), maps: maps(plan) };
    Ok(Bundle::new(plan.target.clone(), plan.cluster.clone(), ProxyKind::Haproxy, fragments, live, secrets))
}

fn fragment(file: &str, name: &str, text: String, intents: Vec<Digest>) -> Fragment {
    Fragment { file: file.to_owned(), name: name.to_owned(), text, servers: None, intents }
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

/// One backend: everything but its servers, which are the live part.
fn backend_fragment(plan: &Plan, backend: &Backend, templates: &Templates) -> Result<Fragment, RenderError> {
    let name = backend.id.config_name();
    let view = BackendView {
        name: &name,
        balance: match backend.balance {
            Balance::RoundRobin => "roundrobin",
            Balance::LeastConn => "leastconn",
            Balance::ClientAddress => "source",
            Balance::Random => "random",
            Balance::Uri => "uri",
            Balance::First => "first",
        },
        consistent: matches!(backend.balance, Balance::ClientAddress | Balance::Uri),
        options: backend.options.iter().map(crate::plan::HaproxyOption::as_str).collect(),
        tunnel: millis(plan.settings.timeouts.tunnel),
    };
    let parameters = match backend.tls {
        None => "",
        Some(UpstreamTls { verify: false }) => " ssl verify none sni var(txn.host)",
        Some(UpstreamTls { verify: true }) => " ssl verify required ca-file @system-ca sni var(txn.host)",
    };
    let text = templates.fill("haproxy/backend.j2", view)?;
    let mut fragment = fragment(CONFIG, &format!("backend {name}"), text, backend.intents.clone());
    fragment.servers = Some(ServerLines { backend: name, parameters: parameters.to_owned() });
    Ok(fragment)
}

/// The certificate list: the default first, which answers where no line fits.
fn certificate_fragments(plan: &Plan, templates: &Templates) -> Result<Vec<Fragment>, RenderError> {
    let head = templates.fill("haproxy/certificates.j2", Nothing {})?;
    let mut fragments = vec![fragment(CERTIFICATES, "certificates", head, Vec::new())];
    let line = |certificate: &PlanCertificate, names: Vec<String>| {
        templates.fill("haproxy/certificate.j2", Line { file: &pem(&certificate.digest), names })
    };
    let mut lines = Vec::new();
    for (name, certificate) in &plan.certificates {
        if certificate.default {
            // `!*`: for no name of its own, only where nothing else fits.
            let text = line(certificate, vec!["!*".to_owned()])?;
            fragments.push(fragment(CERTIFICATES, "default certificate", text, Vec::new()));
        }
        if certificate.hosts.is_empty() {
            continue;
        }
        let mut text = String::new();
        for hosts in certificate.hosts.chunks(NAMES) {
            text.push_str(&line(certificate, hosts.iter().map(ToString::to_string).collect())?);
        }
        let serves = |route: &&Route| route.certificate.as_ref() == Some(name);
        let backends: BTreeSet<_> = plan.routes.iter().filter(serves).map(|route| &route.backend).collect();
        let intents: BTreeSet<&Digest> = plan
            .backends
            .iter()
            .filter(|backend| backends.contains(&backend.id))
            .flat_map(|backend| &backend.intents)
            .collect();
        let intents = intents.into_iter().cloned().collect();
        lines.push(fragment(CERTIFICATES, &format!("certificate {name}"), text, intents));
    }
    fragments.extend(lines);
    Ok(fragments)
}

/// The look-ups. A route is known by its label (`shop.example.com/app`); what only some routes have
/// stands in maps of its own, so that all others share one shape.
fn maps(plan: &Plan) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut hosts = BTreeMap::new();
    let mut wildcards = BTreeMap::new();
    let mut routes = BTreeMap::new();
    let mut backends = BTreeMap::new();
    let mut https = BTreeMap::new();
    let mut rewrites = BTreeMap::new();
    let mut depths = BTreeMap::new();
    let mut streams = BTreeMap::new();
    for route in &plan.routes {
        let (site, label) = (route.host.to_string(), route.label());
        match &route.host {
            HostPattern::Exact(_) => hosts.insert(site.clone(), site.clone()),
            // `*.example.com` is found by `com.example.` and at least one label more.
            HostPattern::Wildcard(suffix) => {
                let labels: Vec<&str> = suffix.as_str().rsplit('.').collect();
                wildcards.insert(format!("{}.", labels.join(".")), site.clone())
            }
        };
        routes.insert(key(&site, route.path.as_str()), label.clone());
        backends.insert(label.clone(), route.backend.config_name());
        if route.https_only {
            https.insert(label.clone(), "1".to_owned());
        }
        // Stripping `/` changes nothing.
        if route.rewrite && !route.path.is_root() {
            rewrites.insert(label.clone(), route.path.to_string());
            depths.insert(label.clone(), depth(route).to_string());
        }
        for path in &route.websocket {
            streams.insert(key(&site, path.as_str()), label.clone());
        }
    }
    [
        ("backends.map", backends),
        ("depths.map", depths),
        ("hosts.map", hosts),
        ("https.map", https),
        ("rewrites.map", rewrites),
        ("routes.map", routes),
        ("streams.map", streams),
        ("wildcards.map", wildcards),
    ]
    .into_iter()
    .map(|(name, map)| (name.to_owned(), map))
    .collect()
}

/// A prefix as the look-up has it: with a slash behind it, so that `/app` never takes `/apple`.
fn key(site: &str, path: &str) -> String {
    format!("{site}{}/", path.trim_end_matches('/'))
}

/// How many segments a route's path has.
fn depth(route: &Route) -> usize {
    route.path.as_str().split('/').filter(|segment| !segment.is_empty()).count()
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
struct Line<'a> {
    file: &'a str,
    names: Vec<String>,
}

#[derive(Serialize)]
struct BackendView<'a> {
    name: &'a str,
    balance: &'static str,
    consistent: bool,
    options: Vec<&'a str>,
    tunnel: u64,
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
        }
    }
}

#[derive(Serialize)]
struct Frontend {
    http: Option<u16>,
    https: Option<u16>,
    strict_sni: bool,
    trusted: Vec<String>,
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
        let longest = |route: &Route| match &route.host {
            HostPattern::Exact(_) => 0,
            HostPattern::Wildcard(suffix) => suffix.as_str().split('.').count() + 1,
        };
        let labels = plan.routes.iter().map(longest).max().unwrap_or(0).max(LABELS);
        let rewritten = plan.routes.iter().filter(|route| route.rewrite);
        let depths = rewritten.map(depth).max().unwrap_or(0).max(DEPTH);
        Self {
            http: Some(settings.listeners.http).filter(|port| *port != 0),
            https: https(plan),
            strict_sni: !plan.certificates.values().any(|certificate| certificate.default),
            trusted: settings.trusted_proxies.iter().map(ToString::to_string).collect(),
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
