//! Renders the nginx side: one `nginx.conf`, everything in fragments, nothing that changes without a reload.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{ProxyKind, ServiceClusterSpec};
use ipnet::IpNet;
use serde::Serialize;

use super::{RenderError, Templates};
use crate::bundle::{Bundle, DIGEST, Fragment, Live, SECRETS, SecretRef};
use crate::model::{Digest, HostPattern, PathPrefix, Port};
use crate::plan::{Abilities, Backend, BackendId, Balance, Plan, Route};

/// The embedded templates by name.
pub(super) const TEMPLATES: &[(&str, &str)] = &[
    ("nginx/main.j2", include_str!("../../../../templates/nginx/main.j2")),
    ("nginx/http.j2", include_str!("../../../../templates/nginx/http.j2")),
    ("nginx/identity.j2", include_str!("../../../../templates/nginx/identity.j2")),
    ("nginx/backend.j2", include_str!("../../../../templates/nginx/backend.j2")),
    ("nginx/host.j2", include_str!("../../../../templates/nginx/host.j2")),
    ("nginx/end.j2", include_str!("../../../../templates/nginx/end.j2")),
];

/// The file that all fragments belong to.
const FILE: &str = "nginx.conf";
/// The host that the agent asks for the digest; RFC 6761 keeps it from ever being anyone's.
const IDENTITY_HOST: &str = "interlock.invalid";
/// The system's authorities, where Debian's and both official images (Debian, Alpine) keep them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Client connections of one worker where the cluster sets none; each proxied one takes two descriptors.
const MAX_CONNECTIONS: u32 = 4096;
/// The most that a cluster may ask for: beyond it a worker could not allocate its table.
const MOST_CONNECTIONS: u32 = 500_000;
/// How long an idle connection outlives a reload where nginx can do that (milliseconds).
const KEEP_ALIVE_MIN: u64 = 5_000;
/// Times of the access log: its name there, nginx's variable in seconds.
const TIMES: &[(&str, &str)] = &[
    ("duration", "request_time"),
    ("connect", "upstream_connect_time"),
    ("response", "upstream_header_time"),
];

/// Texts of the access log: its name there, nginx's variable, the most bytes of it.
const TEXTS: &[(&str, &str, u16)] = &[
    ("host", "http_host", 255),
    ("uri", "request_uri", 2048),
    ("route", "interlock_route", 2048),
    ("agent", "http_user_agent", 512),
];

/// The nginx bundle of a plan.
pub(super) fn render(
    plan: &Plan,
    abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    let listens = Listens::of(plan, abilities);
    let mut fragments = vec![
        base("main", templates.fill("nginx/main.j2", Main::of(plan))?),
        base("http", templates.fill("nginx/http.j2", Http::of(plan, abilities, &listens))?),
        base("identity", templates.fill("nginx/identity.j2", Identity::of(plan, &listens))?),
    ];
    for backend in &plan.backends {
        if let Some(view) = Upstream::of(backend) {
            fragments.push(Fragment {
                file: FILE.to_owned(),
                name: format!("backend {}", backend.id),
                text: templates.fill("nginx/backend.j2", view)?,
                servers: None,
                intents: backend.intents.clone(),
            });
        }
    }
    let backends: BTreeMap<&BackendId, &Backend> = plan.backends.iter().map(|b| (&b.id, b)).collect();
    for (host, routes) in by_host(&plan.routes) {
        let intents: BTreeSet<Digest> = routes
            .iter()
            .filter_map(|route| backends.get(&route.backend))
            .flat_map(|backend| backend.intents.iter().cloned())
            .collect();
        fragments.push(Fragment {
            file: FILE.to_owned(),
            name: format!("host {host}"),
            text: templates.fill("nginx/host.j2", Server::of(plan, host, &routes, &backends, &listens))?,
            servers: None,
            intents: intents.into_iter().collect(),
        });
    }
    fragments.push(base("end", templates.fill("nginx/end.j2", ())?));
    let secrets = plan
        .certificates
        .values()
        .map(|it| SecretRef { file: format!("{}.pem", it.digest.as_str()), digest: it.digest.clone() })
        .collect();
    let bundle = Bundle::new(
        plan.target.clone(),
        plan.cluster.clone(),
        ProxyKind::Nginx,
        fragments,
        Live::default(),
        secrets,
    );
    Ok(match Port::try_from(plan.settings.listeners.http) {
        Ok(port) => bundle.with_confirm_port(port),
        Err(_) => bundle,
    })
}

/// A fragment that every configuration has: no route is to blame for it.
fn base(name: &str, text: String) -> Fragment {
    Fragment { file: FILE.to_owned(), name: name.to_owned(), text, servers: None, intents: Vec::new() }
}

fn by_host(routes: &[Route]) -> BTreeMap<&HostPattern, Vec<&Route>> {
    let mut hosts: BTreeMap<&HostPattern, Vec<&Route>> = BTreeMap::new();
    for route in routes {
        hosts.entry(&route.host).or_default().push(route);
    }
    hosts
}

/// Where servers listen.
struct Listens {
    http: Vec<String>,
    all: Vec<String>,
    https: bool,
    /// Whether HTTP/2 is a directive (1.25.1 and newer) instead of a parameter of `listen`.
    http2_directive: bool,
}

impl Listens {
    fn of(plan: &Plan, abilities: Abilities) -> Self {
        let listeners = &plan.settings.listeners;
        let https = listeners.https != 0 && (listeners.https_always || !plan.certificates.is_empty());
        // 1.25.0, which has `http2` on neither side of 1.25.1's change, counts as newer: nobody runs it.
        let http2_directive = abilities.at_least(1, 25);
        // Port 0: not at all.
        let both = |port: u16, rest: &str| match port {
            0 => Vec::new(),
            _ => vec![format!("{port}{rest}"), format!("[::]:{port}{rest}")],
        };
        let http = both(listeners.http, "");
        let mut all = http.clone();
        if https {
            all.extend(both(listeners.https, if http2_directive { " ssl" } else { " ssl http2" }));
        }
        Self { http, all, https, http2_directive }
    }
}

#[derive(Serialize)]
struct Main<'a> {
    target: &'a str,
    processes: String,
    connections: u32,
    files: u32,
    drain: u64,
}

impl<'a> Main<'a> {
    fn of(plan: &'a Plan) -> Self {
        let settings = &plan.settings;
        let clients = settings.max_connections.unwrap_or(MAX_CONNECTIONS).clamp(1, MOST_CONNECTIONS);
        // A proxied client takes two connections; listeners and the workers' own take some more.
        let connections = clients * 2 + 64;
        Self {
            target: plan.target.as_str(),
            processes: match settings.nginx.worker_processes {
                Some(number) if number > 0 => number.to_string(),
                _ => "auto".to_owned(),
            },
            connections,
            files: connections + 128,
            drain: settings.nginx.drain.as_millis(),
        }
    }
}

#[derive(Serialize)]
struct Http<'a> {
    names_bucket: usize,
    names_max: usize,
    request: u64,
    response: u64,
    keep_alive: u64,
    keep_alive_min: Option<u64>,
    connect: u64,
    redispatch: u64,
    forwarded: Vec<Header>,
    texts: Vec<Text>,
    times: Vec<Time>,
    trusted: Vec<String>,
    monitoring: Vec<String>,
    https: bool,
    http2_directive: bool,
    default_certificate: Option<String>,
    listens: &'a [String],
    unknown_host: u16,
}

/// A header and the part of a variable's name that it makes.
#[derive(Serialize)]
struct Header {
    name: &'static str,
    variable: String,
}

/// A text in the log, and the variable that it is made of.
#[derive(Serialize)]
struct Text {
    name: &'static str,
    of: &'static str,
    longest: u16,
}

/// A time in the log, and the variable that it is made of.
#[derive(Serialize)]
struct Time {
    name: &'static str,
    of: &'static str,
}

impl<'a> Http<'a> {
    fn of(plan: &Plan, abilities: Abilities, listens: &'a Listens) -> Self {
        let settings = &plan.settings;
        let timeouts = &settings.timeouts;
        let (names_bucket, names_max) = names_hash(&plan.routes);
        let keep_alive = timeouts.keep_alive.as_millis();
        Self {
            names_bucket,
            names_max,
            request: timeouts.request.as_millis(),
            response: timeouts.response.as_millis(),
            keep_alive,
            // `keepalive_min_timeout` came with 1.27.4: the first stable line that has it is 1.28.
            keep_alive_min: abilities.at_least(1, 28).then(|| keep_alive.min(KEEP_ALIVE_MIN)),
            connect: timeouts.connect.as_millis(),
            // One connect that timed out may be followed by another endpoint's, no more.
            redispatch: timeouts.connect.as_millis().saturating_add(1000),
            forwarded: super::FORGED_HEADERS
                .iter()
                .map(|name| Header { name, variable: name.to_ascii_lowercase().replace('-', "_") })
                .collect(),
            texts: TEXTS.iter().map(|&(name, of, longest)| Text { name, of, longest }).collect(),
            times: TIMES.iter().map(|&(name, of)| Time { name, of }).collect(),
            trusted: networks(&settings.trusted_proxies, &[]),
            monitoring: networks(&settings.monitoring_networks, &["127.0.0.0/8", "::1/128"]),
            https: listens.https,
            http2_directive: listens.http2_directive,
            default_certificate: plan
                .certificates
                .values()
                .find(|certificate| certificate.default)
                .map(|certificate| pem(&certificate.digest)),
            listens: &listens.all,
            unknown_host: settings.unknown_host.status(),
        }
    }
}

/// `server_names_hash_bucket_size` and `_max_size`, so that neither long nor many names are refused.
fn names_hash(routes: &[Route]) -> (usize, usize) {
    let names: BTreeSet<&HostPattern> = routes.iter().map(|route| &route.host).collect();
    let longest = names.iter().map(|host| host.to_string().len()).max().unwrap_or_default();
    // A bucket holds a name, its length, two pointers, rounded up: 40 bytes beside the name are enough.
    let bucket = (longest + 40).next_power_of_two().max(128);
    (bucket, (names.len() * 4).next_power_of_two().max(1024))
}

/// Networks for a `geo` block: host bits cleared, each once, and "everything" in two halves, because
/// `geo` warns of a network that equals its default.
fn networks(given: &[IpNet], fixed: &[&str]) -> Vec<String> {
    let mut all = BTreeSet::new();
    for net in given {
        let net = net.trunc();
        match net.subnets(1) {
            Ok(halves) if net.prefix_len() == 0 => all.extend(halves.map(|half| half.to_string())),
            _ => {
                all.insert(net.to_string());
            }
        }
    }
    all.extend(fixed.iter().map(|&net| net.to_owned()));
    all.into_iter().collect()
}

/// The path of a certificate with its key.
fn pem(digest: &Digest) -> String {
    format!("{SECRETS}/{}.pem", digest.as_str())
}

#[derive(Serialize)]
struct Identity<'a> {
    listens: &'a [String],
    name: &'static str,
    unknown_host: u16,
    digest: &'static str,
}

impl<'a> Identity<'a> {
    fn of(plan: &Plan, listens: &'a Listens) -> Self {
        let unknown_host = plan.settings.unknown_host.status();
        let listens = if listens.http.is_empty() { &listens.all } else { &listens.http };
        Self { listens, name: IDENTITY_HOST, unknown_host, digest: DIGEST }
    }
}

#[derive(Serialize)]
struct Upstream {
    name: String,
    balance: Option<&'static str>,
    servers: Vec<UpstreamServer>,
}

#[derive(Serialize)]
struct UpstreamServer {
    address: String,
    backup: bool,
}

impl Upstream {
    /// None where nobody takes new requests: nginx refuses an upstream without servers. A draining
    /// endpoint is left out, the old worker finishes what it has there.
    fn of(backend: &Backend) -> Option<Self> {
        let serving: BTreeSet<_> =
            backend.endpoints.iter().filter(|it| !it.draining).map(|it| it.address).collect();
        let first_only = backend.balance == Balance::First;
        let servers: Vec<UpstreamServer> = serving
            .into_iter()
            .enumerate()
            .map(|(at, address)| UpstreamServer {
                address: address.to_string(),
                backup: first_only && at > 0,
            })
            .collect();
        let balance = match backend.balance {
            Balance::RoundRobin | Balance::First => None,
            Balance::LeastConn => Some("least_conn"),
            Balance::ClientAddress => Some("hash $remote_addr consistent"),
            // As HAProxy's `random`: two are drawn, the less busy one serves.
            Balance::Random => Some("random two"),
            Balance::Uri => Some("hash $uri consistent"),
        };
        (!servers.is_empty()).then(|| Self { name: backend.id.config_name(), balance, servers })
    }
}

#[derive(Serialize)]
struct Server<'a> {
    listens: &'a [String],
    name: String,
    certificate: Option<String>,
    places: Vec<Place>,
    /// Whether any place strips a prefix.
    strips: bool,
    /// Whether a place covers everything.
    root: bool,
    /// Whether any place has endpoints.
    proxied: bool,
    long: Vec<LongWay>,
    tunnel: u64,
    redirect_status: u16,
    https_port: String,
    authorities: &'static str,
}

/// A named location with the long time-outs.
#[derive(Serialize)]
struct LongWay {
    verify: bool,
}

/// What happens below one path.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "values for a template, each asked by itself")]
struct Place {
    path: String,
    /// For the log.
    route: String,
    root: bool,
    https_only: bool,
    /// Whether the path without a slash is redirected to the one with it.
    bare_redirect: bool,
    /// The prefix to strip, as a regular expression.
    strip: Option<String>,
    /// None: there is no endpoint.
    upstream: Option<String>,
    scheme: &'static str,
    verify: bool,
    /// Whether everything here has the long time-outs.
    long: bool,
}

impl<'a> Server<'a> {
    fn of(
        plan: &Plan,
        host: &HostPattern,
        routes: &[&Route],
        backends: &BTreeMap<&BackendId, &Backend>,
        listens: &'a Listens,
    ) -> Self {
        let settings = &plan.settings;
        let places: Vec<Place> = paths(routes)
            .into_iter()
            .map(|(path, (route, long))| Place::of(path, route, backends.get(&route.backend).copied(), long))
            .collect();
        let ways: BTreeSet<bool> =
            places.iter().filter(|it| it.upstream.is_some() && !it.long).map(|it| it.verify).collect();
        Self {
            listens: &listens.all,
            name: host.to_string(),
            certificate: certificate(plan, host, routes).map(pem),
            strips: places.iter().any(|place| place.strip.is_some()),
            root: places.iter().any(|place| place.root),
            proxied: places.iter().any(|place| place.upstream.is_some()),
            long: ways.into_iter().map(|verify| LongWay { verify }).collect(),
            places,
            tunnel: settings.timeouts.tunnel.as_millis(),
            redirect_status: settings.redirect_status.status(),
            https_port: https_port(settings),
            authorities: AUTHORITIES,
        }
    }
}

impl Place {
    fn of(path: &PathPrefix, route: &Route, backend: Option<&Backend>, long: bool) -> Self {
        let strips = route.rewrite && !route.path.is_root();
        let upstream = backend.and_then(Upstream::of).map(|upstream| upstream.name);
        let tls = backend.and_then(|backend| backend.tls);
        Self {
            path: path.as_str().to_owned(),
            route: route.label(),
            root: path.is_root(),
            https_only: route.https_only,
            bare_redirect: strips && *path == route.path,
            strip: strips.then(|| route.path.as_str().replace('.', "[.]").replace('+', "[+]")),
            verify: upstream.is_some() && tls.is_some_and(|tls| tls.verify),
            upstream,
            scheme: if tls.is_some() { "https" } else { "http" },
            long,
        }
    }
}

/// The paths of a host that have something of their own: whose route they are, and whether everything
/// below may idle as long as a tunnel. A route's own path is never another's WebSocket path.
fn paths<'a>(routes: &[&'a Route]) -> BTreeMap<&'a PathPrefix, (&'a Route, bool)> {
    let mut all: BTreeMap<&PathPrefix, (&Route, bool)> = BTreeMap::new();
    for &route in routes {
        let long = route.websocket.iter().any(|path| path.covers(route.path.as_str()));
        all.entry(&route.path).or_insert((route, long));
    }
    for &route in routes {
        for path in &route.websocket {
            let holder = routes
                .iter()
                .filter(|other| other.path.covers(path.as_str()))
                .max_by_key(|other| other.path.as_str().len());
            if holder.is_some_and(|holder| holder.path == route.path) {
                all.entry(path).or_insert((route, true));
            }
        }
    }
    all
}

/// The certificate that a host presents.
fn certificate<'a>(plan: &'a Plan, host: &HostPattern, routes: &[&Route]) -> Option<&'a Digest> {
    let presenting = plan.certificates.values().find(|certificate| certificate.hosts.contains(host));
    let named = || routes.iter().find_map(|route| plan.certificates.get(route.certificate.as_ref()?));
    presenting.or_else(named).map(|certificate| &certificate.digest)
}

/// What stands behind the host in a redirect to HTTPS.
fn https_port(settings: &ServiceClusterSpec) -> String {
    match settings.listeners.https {
        443 => String::new(),
        port => format!(":{port}"),
    }
}
