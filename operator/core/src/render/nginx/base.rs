//! What the base of an `nginx.conf` is made of: the main part, the `http` block's head, the identity server.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Serialize;

use crate::bundle::{DIGEST, SECRETS};
use crate::model::{Digest, HostPattern, IDENTITY_HOST, Shared};
use crate::plan::{Abilities, Ability, Plan, Route};
use crate::policy::halves;

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
/// One character of well-formed UTF-8, byte by byte (RFC 3629, section 4).
const UTF8: &str = r"[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf][\x80-\xbf]|[\xf1-\xf3][\x80-\xbf][\x80-\xbf][\x80-\xbf]|\xf4[\x80-\x8f][\x80-\xbf][\x80-\xbf]";

/// Where servers listen.
pub(super) struct Listens {
    http: Vec<String>,
    pub(super) all: Vec<String>,
    https: bool,
    /// Whether HTTP/2 is a directive (1.25.1 and newer) instead of a parameter of `listen`.
    http2_directive: bool,
}

impl Listens {
    pub(super) fn of(plan: &Plan, abilities: Abilities) -> Self {
        let listeners = &plan.settings.listeners;
        let https = listeners.https != 0 && (listeners.https_always || !plan.certificates.is_empty());
        let http2_directive = abilities.has(Ability::Http2Directive);
        // Port 0: not at all.
        let both = |port: u16, rest: &str| match port {
            0 => Vec::new(),
            _ if listeners.ipv6 => vec![format!("{port}{rest}"), format!("[::]:{port}{rest}")],
            _ => vec![format!("{port}{rest}")],
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
pub(super) struct Main<'a> {
    target: &'a str,
    processes: String,
    connections: u32,
    files: u32,
    drain: u64,
}

impl<'a> Main<'a> {
    pub(super) fn of(plan: &'a Plan) -> Self {
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
            // With what the connections have beside clients as many as `capacity` leaves beside them.
            files: connections + 64,
            drain: settings.nginx.drain.as_millis(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Http<'a> {
    names_bucket: usize,
    names_max: usize,
    request: u64,
    response: u64,
    keep_alive: u64,
    keep_alive_min: Option<u64>,
    connect: u64,
    redispatch: u64,
    headers: Vec<(&'static str, String)>,
    forwarded: Vec<Header>,
    texts: Vec<Text>,
    utf8: &'static str,
    times: Vec<Time>,
    trusted: Vec<String>,
    monitoring: Vec<String>,
    https: bool,
    http2_directive: bool,
    default_certificate: Option<String>,
    listens: &'a [String],
    unknown_host: u16,
}

/// What endpoints are told in every request. A place that says anything of its own says all of it.
const SENT: &[(&str, &str)] = &[
    ("Host", "$interlock_host_header"),
    ("Connection", "$interlock_connection"),
    ("Upgrade", "$interlock_upgrade"),
    ("Proxy", "\"\""),
    ("X-Real-IP", "$interlock_real_ip"),
    ("X-Request-Id", "$interlock_id"),
    ("X-Forwarded-For", "$interlock_for"),
    ("X-Forwarded-Proto", "$interlock_proto"),
    ("X-Forwarded-Host", "$interlock_host"),
    ("X-Forwarded-Port", "$interlock_port"),
];

/// Every header that nginx sends, and its value as it stands in the file.
pub(super) fn sent() -> Vec<(&'static str, String)> {
    let own = SENT.iter().map(|&(name, value)| (name, value.to_owned()));
    own.chain(forged().map(|header| (header.name, format!("$interlock_{}", header.variable)))).collect()
}

fn forged() -> impl Iterator<Item = Header> {
    crate::render::FORGED_HEADERS.iter().map(|name| Header { name, variable: super::policy::variable(name) })
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
    pub(super) fn of(plan: &Plan, abilities: Abilities, listens: &'a Listens) -> Self {
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
            keep_alive_min: abilities
                .has(Ability::KeepAliveMinTimeout)
                .then(|| keep_alive.min(KEEP_ALIVE_MIN)),
            connect: timeouts.connect.as_millis(),
            // One connect that timed out may be followed by another endpoint's, no more.
            redispatch: timeouts.connect.as_millis().saturating_add(1000),
            headers: sent(),
            forwarded: forged().collect(),
            utf8: UTF8,
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
fn names_hash(routes: &[Shared<Route>]) -> (usize, usize) {
    let names: BTreeSet<&HostPattern> = routes.iter().map(|route| &route.host).collect();
    let longest = names.iter().map(|host| host.to_string().len()).max().unwrap_or_default();
    // A bucket holds a name, its length, two pointers, rounded up: 40 bytes beside the name are enough.
    let bucket = (longest + 40).next_power_of_two().max(128);
    (bucket, (names.len() * 4).next_power_of_two().max(1024))
}

/// Networks for a `geo` block: host bits cleared, each once, and "everything" in two halves, because
/// `geo` warns of a network that equals its default.
pub(super) fn networks(given: &[IpNet], fixed: &[&str]) -> Vec<String> {
    let mut all = BTreeSet::new();
    for net in given {
        all.extend(halves(net.trunc()).iter().map(ToString::to_string));
    }
    all.extend(fixed.iter().map(|&net| net.to_owned()));
    all.into_iter().collect()
}

/// The path of a certificate with its key.
pub(super) fn pem(digest: &Digest) -> String {
    format!("{SECRETS}/{}.pem", digest.as_str())
}

#[derive(Serialize)]
pub(super) struct Identity<'a> {
    listens: &'a [String],
    name: &'static str,
    unknown_host: u16,
    digest: &'static str,
}

impl<'a> Identity<'a> {
    pub(super) fn of(plan: &Plan, listens: &'a Listens) -> Self {
        let unknown_host = plan.settings.unknown_host.status();
        let listens = if listens.http.is_empty() { &listens.all } else { &listens.http };
        Self { listens, name: IDENTITY_HOST, unknown_host, digest: DIGEST }
    }
}
