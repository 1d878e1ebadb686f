//! The Plan: everything one target should serve, proxy-neutral, sorted and complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use interlock_crds::{ProxyKind, ServiceClusterSpec};
use serde::{Deserialize, Serialize};

use crate::model::{
    CertificateName, ClusterName, Digest, HostPattern, NameError, PathPrefix, TargetId, UpstreamAddr,
};

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
    pub routes: Vec<Route>,
    /// Backends, sorted by id. Every route's backend is here; each backend has a route.
    #[serde(default)]
    pub backends: Vec<Backend>,
    /// The certificates that routes name, and the default one, with the digest of each.
    #[serde(default)]
    pub certificates: BTreeMap<CertificateName, PlanCertificate>,
    /// The digest of the secret that opens HAProxy's statistics page: a text of one line,
    /// `Basic <base64 of user:password>`. None: there is no such page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Digest>,
}

impl Plan {
    /// Covers everything but the routes and backends without an endpoint: as long as it stays the same,
    /// what has changed serves nobody yet and need not hurry.
    pub fn urgent_digest(&self) -> Digest {
        let mut urgent = self.clone();
        urgent.backends.retain(|backend| !backend.endpoints.is_empty());
        let alive: BTreeSet<&BackendId> = urgent.backends.iter().map(|backend| &backend.id).collect();
        urgent.routes.retain(|route| alive.contains(&route.backend));
        // Serialising plain data with text keys cannot fail.
        Digest::of([serde_json::to_vec(&urgent).unwrap_or_default().as_slice()])
    }
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
    /// Endpoints, sorted; empty: requests are answered 503.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// The intents that made it, by digest: who is to blame when a checker refuses it.
    #[serde(default)]
    pub intents: Vec<Digest>,
}

/// How requests are spread over endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
