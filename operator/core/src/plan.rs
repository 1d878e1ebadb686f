//! The Plan: everything one target should serve, proxy-neutral, sorted and complete.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use interlock_crds::{Period, ProxyKind, ServiceClusterSpec};
use serde::{Deserialize, Serialize};

use crate::model::{
    CertificateName, ClusterName, Digest, HostPattern, NameError, PathPrefix, Shared, TargetId, UpstreamAddr,
};
use crate::policy::Policy;

/// Everything one target should serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// The proxy that it is for: addresses are chosen from where that proxy stands.
    pub target: TargetId,
    /// The cluster that the proxy belongs to.
    pub cluster: ClusterName,
    /// The cluster's settings.
    pub settings: ServiceClusterSpec,
    /// Routes, sorted by host, then longest path first.
    #[serde(default)]
    pub routes: Vec<Shared<Route>>,
    /// Backends, sorted by id. Every route's backend is here; each backend has a route.
    #[serde(default)]
    pub backends: Vec<Shared<Backend>>,
    /// The certificates that routes name, and the default one, with the digest of each.
    #[serde(default)]
    pub certificates: BTreeMap<CertificateName, PlanCertificate>,
    /// The digest of the secret that opens HAProxy's statistics page: a text of one line,
    /// `Basic <base64 of user:password>`. None: there is no such page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Digest>,
}

impl Plan {
    /// Whether both serve the same traffic: they may differ in routes and backends without an endpoint. As long as
    /// they do not differ in more, what has changed serves nobody yet and need not hurry.
    pub fn serves_as(&self, other: &Self) -> bool {
        // All of it, so that a field that is added is thought of here.
        let Self { target, cluster, settings, routes: _, backends: _, certificates, stats } = self;
        (target, cluster, settings, certificates, stats)
            == (&other.target, &other.cluster, &other.settings, &other.certificates, &other.stats)
            && {
                let (ours, theirs) = unshared(&self.backends, &other.backends);
                let alive = |backend: &&Shared<Backend>| !backend.endpoints.is_empty();
                ours.iter().filter(alive).eq(theirs.iter().filter(alive))
            }
            && {
                // A route that both have leads to a backend that is alive in both or in neither.
                let (ours, theirs) = unshared(&self.routes, &other.routes);
                let of = |plan: &Self, route: &Route| plan.is_alive(&route.backend);
                let ours = ours.iter().filter(|route| of(self, route));
                ours.eq(theirs.iter().filter(|route| of(other, route)))
            }
    }

    fn is_alive(&self, backend: &BackendId) -> bool {
        let at = self.backends.binary_search_by(|it| it.id.cmp(backend));
        at.is_ok_and(|at| !self.backends[at].endpoints.is_empty())
    }
}

/// Two lists without the very same values that both begin and end with.
pub(crate) fn unshared<'a, T>(
    ours: &'a [Shared<T>],
    theirs: &'a [Shared<T>],
) -> (&'a [Shared<T>], &'a [Shared<T>]) {
    let begin = ours.iter().zip(theirs).take_while(|(a, b)| a.is(b)).count();
    let (ours, theirs) = (&ours[begin..], &theirs[begin..]);
    let end = ours.iter().rev().zip(theirs.iter().rev()).take_while(|(a, b)| a.is(b)).count();
    (&ours[..ours.len() - end], &theirs[..theirs.len() - end])
}

/// A certificate that the target needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanCertificate {
    /// Digest of certificate and key together.
    pub digest: Digest,
    /// Hosts that present it (SNI); empty for one that is only the default.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,
    /// Whether it answers for every other name.
    #[serde(default)]
    pub default: bool,
}

/// One host and path and where its requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Which host.
    pub host: HostPattern,
    /// Which path prefix.
    pub path: PathPrefix,
    /// Whether the prefix is stripped before the endpoint sees the request; the bare prefix is then
    /// redirected to the prefix with a slash, keeping the query.
    #[serde(default)]
    pub rewrite: bool,
    /// Whether plain HTTP is redirected to HTTPS.
    #[serde(default)]
    pub https_only: bool,
    /// The certificate for the host; none: the default one, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateName>,
    /// Paths (below `path`) whose every response may idle as long as a tunnel.
    #[serde(default)]
    pub websocket: Vec<PathPrefix>,
    /// Where its requests go.
    pub backend: BackendId,
}

impl Route {
    /// The route as people write it: `shop.example.com/app`.
    pub fn label(&self) -> String {
        format!("{}{}", self.host, self.path)
    }
}

/// A backend's identity: the host and path of the route that it was made for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendId {
    /// The host.
    pub host: HostPattern,
    /// The path.
    pub path: PathPrefix,
}

impl BackendId {
    /// A name that every proxy takes: letters, digits, `.`, `_`, `-`; distinct ids have distinct names.
    pub fn config_name(&self) -> String {
        let host = self.host.to_string().replace('*', "_any");
        if self.path.is_root() {
            return host;
        }
        // A plain path never makes two underscores in a row, so that no other path's name can be taken.
        // Upper case is not plain: nginx compares upstream names without it.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-./".contains(&b);
        let text = self.path.as_str();
        let path: String = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c.to_ascii_lowercase() } else { '_' })
            .collect();
        if text.bytes().all(plain) {
            return format!("{host}{path}");
        }
        let digest = Digest::of([text.as_bytes()]);
        format!("{host}{path}__{}", &digest.as_str()[..16])
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

/// Endpoints that serve alike, and how requests are spread over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Identity.
    pub id: BackendId,
    /// How requests are spread.
    #[serde(default)]
    pub balance: Balance,
    /// HAProxy `option` lines from the allowlist.
    #[serde(default)]
    pub options: Vec<HaproxyOption>,
    /// TLS to the endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// How long an endpoint that has just become ready gets less than its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Period>,
    /// What is asked of a request beyond host and path.
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
    /// Endpoints, sorted; empty: requests are answered 503.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Whether new requests wait for an endpoint: its last one is being replaced, as far as can be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// The intents that made it, by digest: who is to blame when a checker refuses it.
    #[serde(default)]
    pub intents: Vec<Digest>,
}

impl Backend {
    /// What of it HAProxy cannot change while it runs.
    pub fn shape(&self) -> Shape {
        Shape {
            balance: self.balance,
            options: self.options.clone(),
            tls: self.tls,
            slow_start: self.slow_start,
            policy: self.policy.clone(),
        }
    }
}

/// What is written into a HAProxy backend and cannot be changed while HAProxy runs: any backend of the
/// plan can sit in any declared one of the same shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shape {
    /// How requests are spread.
    pub balance: Balance,
    /// HAProxy `option` lines.
    pub options: Vec<HaproxyOption>,
    /// TLS to the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// How long an endpoint that has just become ready gets less than its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Period>,
    /// What is asked of a request beyond host and path.
    #[serde(skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
}

impl Shape {
    /// That of a backend of which nobody has said anything.
    pub fn plain(settings: &ServiceClusterSpec) -> Self {
        Self { slow_start: slow_start(settings, None), ..Self::default() }
    }
}

/// The slow start of a backend that asks for one, or else the cluster's; none: there is none.
pub fn slow_start(settings: &ServiceClusterSpec, asked: Option<Period>) -> Option<Period> {
    let period = asked.unwrap_or(settings.haproxy.slow_start);
    Some(period).filter(|period| settings.proxy == ProxyKind::Haproxy && period.as_millis() > 0)
}

/// How requests are spread over endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest connections.
    LeastConn,
    /// By the client's address, consistently: adding an endpoint moves few clients.
    ClientAddress,
    /// At random.
    Random,
    /// By the request's path, consistently.
    Uri,
    /// The first with a free slot (HAProxy's `first`).
    First,
}

/// TLS towards endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTls {
    /// Whether the endpoint's certificate must be valid (by the system's authorities) for the host.
    pub verify: bool,
}

/// One endpoint of a backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Where it is.
    pub address: UpstreamAddr,
    /// Container name, for people.
    pub name: String,
    /// Whether it takes new requests.
    #[serde(default)]
    pub draining: bool,
}

/// A HAProxy `option` that is safe in a backend; made only by [`HaproxyOption::from_str`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HaproxyOption(String);

/// Why a text is no [`HaproxyOption`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// HAProxy had it once and has it no longer.
    #[error("HAProxy no longer has `option {name}`: {instead}")]
    Dropped {
        /// The option.
        name: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// It is not in the allowlist.
    #[error("`option {name}` is not allowed in a label")]
    NotAllowed {
        /// The option, shortened and escaped.
        name: String,
        /// The nearest allowed one.
        nearest: Option<&'static str>,
    },
}

impl HaproxyOption {
    /// Options without arguments that may stand in a backend and touch nothing outside it
    /// (HAProxy 2.6 configuration manual, section 4.2).
    pub const ALLOWED: &'static [&'static str] = &[
        "abortonclose",
        "allbackups",
        "checkcache",
        "forwardfor",
        "http-keep-alive",
        "http-no-delay",
        "http-pretend-keepalive",
        "http-server-close",
        "httpclose",
        "log-health-checks",
        "nolinger",
        "persist",
        "prefer-last-server",
        "redispatch",
        "splice-auto",
        "splice-request",
        "splice-response",
        "srvtcpka",
        "tcp-smart-connect",
        "tcpka",
    ];

    const DROPPED: &'static [(&'static str, &'static str)] = &[
        ("forceclose", "write `httpclose`, which now does the same"),
        ("http-tunnel", "remove it; upgraded connections are tunnelled anyway"),
        ("http-use-proxy-header", "remove it"),
        ("tcp-smart-accept", "remove it; it belongs to a frontend"),
    ];

    /// The text after `option `.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HaproxyOption {
    type Err = OptionError;
    fn from_str(text: &str) -> Result<Self, OptionError> {
        let name = text.trim();
        let name = name.strip_prefix("option ").unwrap_or(name).trim();
        if let Some((_, instead)) = Self::DROPPED.iter().find(|(dropped, _)| *dropped == name) {
            return Err(OptionError::Dropped { name: name.to_owned(), instead });
        }
        if Self::ALLOWED.contains(&name) {
            return Ok(Self(name.to_owned()));
        }
        let nearest = Self::ALLOWED
            .iter()
            // Comparing takes time in the square of the length, and nobody misspells by that much.
            .filter(|_| name.len() <= 64)
            .map(|allowed| (strsim::jaro_winkler(allowed, name), *allowed))
            .filter(|(score, _)| *score > 0.85)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, allowed)| allowed);
        let name = name.chars().take(60).flat_map(char::escape_default).collect();
        Err(OptionError::NotAllowed { name, nearest })
    }
}

impl TryFrom<String> for HaproxyOption {
    type Error = OptionError;
    fn try_from(text: String) -> Result<Self, OptionError> {
        text.parse()
    }
}

impl From<HaproxyOption> for String {
    fn from(option: HaproxyOption) -> Self {
        option.0
    }
}

/// What newer versions can do and the oldest cannot. Each is exercised with a version that has it, or the matrix of
/// versions (`make test-matrix`) fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ability {
    /// nginx: `http2` is a directive, not a parameter of `listen`.
    Http2Directive,
    /// nginx: `keepalive_min_timeout`, so that a reload closes no kept connection under a request.
    KeepAliveMinTimeout,
}

impl Ability {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Http2Directive, Self::KeepAliveMinTimeout];

    /// The proxy and its first version that has it.
    pub const fn since(self) -> (ProxyKind, u16, u16) {
        match self {
            // 1.25.0, which has `http2` on neither side of 1.25.1's change, counts as newer: nobody runs it.
            Self::Http2Directive => (ProxyKind::Nginx, 1, 25),
            // It came with 1.27.4: the first stable line that has it is 1.28.
            Self::KeepAliveMinTimeout => (ProxyKind::Nginx, 1, 28),
        }
    }

    /// As the matrix of versions writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http2Directive => "http2-directive",
            Self::KeepAliveMinTimeout => "keepalive-min-timeout",
        }
    }
}

/// What a proxy version can do: a plain value, reported by its agent, with names for offline work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Abilities {
    /// Which proxy.
    pub proxy: ProxyKind,
    /// Its version's first number.
    pub major: u16,
    /// Its version's second number.
    pub minor: u16,
}

impl Abilities {
    /// The oldest supported version: what is assumed until an agent says more.
    pub const fn oldest(proxy: ProxyKind) -> Self {
        match proxy {
            ProxyKind::Haproxy => Self { proxy, major: 2, minor: 6 },
            ProxyKind::Nginx => Self { proxy, major: 1, minor: 22 },
        }
    }

    /// Whether the version has this.
    pub const fn has(self, ability: Ability) -> bool {
        let (proxy, major, minor) = ability.since();
        matches!(
            (self.proxy, proxy),
            (ProxyKind::Haproxy, ProxyKind::Haproxy) | (ProxyKind::Nginx, ProxyKind::Nginx)
        ) && self.at_least(major, minor)
    }

    /// Whether the version is at least `major.minor`.
    pub const fn at_least(self, major: u16, minor: u16) -> bool {
        self.major > major || (self.major == major && self.minor >= minor)
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}", self.proxy.as_str(), self.major, self.minor)
    }
}

impl FromStr for Abilities {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parsed = text.split_once('-').and_then(|(kind, version)| {
            let proxy = match kind {
                "haproxy" => ProxyKind::Haproxy,
                "nginx" => ProxyKind::Nginx,
                _ => return None,
            };
            let (major, minor) = version.split_once('.')?;
            Some(Self { proxy, major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            NameError::new("abilities", text, "write a proxy and its version, as in `haproxy-2.6`")
        })
    }
}

impl TryFrom<String> for Abilities {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Abilities> for String {
    fn from(abilities: Abilities) -> Self {
        abilities.to_string()
    }
}
