//! What a backend's upstreams and a host's server are made of.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::ServiceClusterSpec;
use serde::Serialize;

use super::base::{Listens, pem};
use super::policy::{self, Own, Sent};
use crate::model::{Digest, HostPattern, PathPrefix};
use crate::plan::{Backend, BackendId, Balance, Plan, Route};

/// The system's authorities, where Debian's and both official images (Debian, Alpine) keep them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Serialize)]
pub(super) struct Upstream {
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
    pub(super) fn of(backend: &Backend) -> Option<Self> {
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
pub(super) struct Server<'a> {
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
    /// Scheme and upstream, where all that goes the long way goes to one: nginx before 1.23.1 makes a TLS
    /// context for every place whose upstream is a variable.
    only_upstream: Option<String>,
    tunnel: u64,
    redirect_status: u16,
    https_port: String,
    authorities: &'static str,
}

/// A named location with the long time-outs.
#[derive(Serialize)]
struct LongWay {
    name: String,
    verify: bool,
    own: Option<Own>,
    /// Scheme and upstream, where it is one place's alone.
    to: Option<String>,
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
    /// Where clients are sent.
    redirect: Option<Sent>,
    /// The path in place of the client's.
    full: Option<String>,
    /// What nginx does not inherit beside it.
    own: Option<Own>,
    /// What follows the name of the location with the long time-outs.
    way: String,
    /// The variable that says whether a client is let in; none: everybody is.
    gate: Option<String>,
    /// None: there is no endpoint.
    upstream: Option<String>,
    scheme: &'static str,
    verify: bool,
    /// Whether everything here has the long time-outs.
    long: bool,
}

impl<'a> Server<'a> {
    pub(super) fn of(
        plan: &Plan,
        host: &HostPattern,
        routes: &[&Route],
        backends: &BTreeMap<&BackendId, &Backend>,
        listens: &'a Listens,
    ) -> Self {
        let settings = &plan.settings;
        let places: Vec<Place> = paths(routes)
            .into_iter()
            .enumerate()
            .map(|(at, (path, (route, long)))| {
                Place::of(at, path, (route, long), backends.get(&route.backend).copied(), settings)
            })
            .collect();
        let mut ways: BTreeMap<String, LongWay> = BTreeMap::new();
        for place in places.iter().filter(|it| it.upstream.is_some() && !it.long) {
            let way = || LongWay {
                name: place.way.clone(),
                verify: place.verify,
                own: place.own.clone(),
                to: place.to().filter(|_| place.own.is_some()),
            };
            ways.entry(place.way.clone()).or_insert_with(way);
        }
        let upstreams: BTreeSet<String> =
            places.iter().filter(|place| !place.long).filter_map(Place::to).collect();
        Self {
            listens: &listens.all,
            name: host.to_string(),
            certificate: certificate(plan, host, routes).map(pem),
            strips: places.iter().any(|place| place.strip.is_some()),
            root: places.iter().any(|place| place.root),
            proxied: places.iter().any(|place| place.upstream.is_some()),
            only_upstream: upstreams.first().filter(|_| upstreams.len() == 1).cloned(),
            long: ways.into_values().collect(),
            places,
            tunnel: settings.timeouts.tunnel.as_millis(),
            redirect_status: settings.redirect_status.status(),
            https_port: https_port(settings),
            authorities: AUTHORITIES,
        }
    }
}

impl Place {
    fn of(
        at: usize,
        path: &PathPrefix,
        (route, long): (&Route, bool),
        backend: Option<&Backend>,
        settings: &ServiceClusterSpec,
    ) -> Self {
        let redirect = backend.and_then(|backend| backend.policy.redirect.as_ref());
        let strips = route.rewrite && !route.path.is_root();
        let served = backend.filter(|_| redirect.is_none());
        let upstream = served.and_then(Upstream::of).map(|upstream| upstream.name);
        let tls = backend.and_then(|backend| backend.tls);
        let own = backend.and_then(|backend| Own::of(&backend.policy));
        let verify = upstream.is_some() && tls.is_some_and(|tls| tls.verify);
        let full = backend.and_then(|backend| backend.policy.path.as_ref());
        Self {
            way: match (&own, verify) {
                (Some(_), _) => format!("_{at}"),
                (None, true) => "_verified".to_owned(),
                (None, false) => String::new(),
            },
            own,
            redirect: redirect.map(|redirect| Sent::of(redirect, settings)),
            full: full.map(|path| path.as_str().to_owned()),
            path: path.as_str().to_owned(),
            route: route.label(),
            root: path.is_root(),
            https_only: route.https_only,
            bare_redirect: strips && *path == route.path,
            strip: strips.then(|| policy::literally(&route.path)),
            gate: backend.and_then(|backend| policy::gate(&backend.policy.access)),
            verify,
            upstream,
            scheme: if tls.is_some() { "https" } else { "http" },
            long,
        }
    }

    /// Scheme and upstream.
    fn to(&self) -> Option<String> {
        Some(format!("{}://{}", self.scheme, self.upstream.as_ref()?))
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
