//! `ServiceCluster`: a proxy fleet, the workloads that it serves and how it serves them.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Period;

/// Which proxy a cluster runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// HAProxy 2.6 or newer.
    Haproxy,
    /// nginx 1.22 or newer.
    Nginx,
}

impl ProxyKind {
    /// The name as labels and specs write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// The settings of one proxy fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(example = serde_json::json!({
    "proxy": "haproxy", "proxies": ["edge-1"], "certificates": {"directory": "/etc/interlock/certificates"},
}))]
pub struct ServiceClusterSpec {
    /// Which proxy the cluster runs.
    pub proxy: ProxyKind,
    /// Proxy containers by name that belong to this cluster and may hold its keys and secrets. Empty:
    /// every proxy of this kind, without keys.
    #[serde(default)]
    pub proxies: Vec<String>,
    /// Ports that the proxies listen on.
    #[serde(default)]
    pub listeners: ListenersSpec,
    /// Whether workloads of different owners may share one host and path.
    #[serde(default)]
    pub sharing: Sharing,
    /// Who may claim which hosts. The first entry that names a host decides; a host that none names is anybody's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimSpec>,
    /// The answer for a host that nothing claims.
    #[serde(default)]
    pub unknown_host: UnknownHost,
    /// Whether routing labels and `INTERLOCK_DATA` that come from an image count as the container's.
    #[serde(default)]
    pub trust_image_labels: bool,
    /// Whether a container's own host name and domain name (with a published port) make a route.
    #[serde(default = "yes")]
    pub container_hostnames: bool,
    /// The domain for an `interlock.hostname` that is not a full name and has no `interlock.domain`.
    #[serde(default = "default_domain")]
    pub default_domain: String,
    /// The address that replaces an engine's own for published ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_override_address: Option<IpAddr>,
    /// Peers whose `X-Forwarded-*` headers are believed.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// Networks that may read `/nginx_status` besides loopback.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub monitoring_networks: Vec<IpNet>,
    /// Time-outs, the same on every proxy.
    #[serde(default)]
    pub timeouts: TimeoutsSpec,
    /// What admits an endpoint.
    #[serde(default)]
    pub readiness: ReadinessMode,
    /// Whether a route is emptied when all of its endpoints turn unhealthy at once.
    #[serde(default)]
    pub empty_when_all_unhealthy: bool,
    /// How long new requests wait when the last endpoint of a route has gone, for the one that takes its
    /// place (HAProxy); on nginx, how long they are answered 503 with `Retry-After`. 0: not at all.
    #[serde(default = "default_hold")]
    pub hold: Period,
    /// The most requests of one route that wait at once; what comes beyond them is answered 503.
    #[serde(default = "default_hold_max")]
    pub hold_max: u32,
    /// How endpoints are probed.
    #[serde(default)]
    pub probes: ProbeSpec,
    /// The largest number of client connections of one proxy process; none: from its limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Certificates.
    #[serde(default)]
    pub certificates: CertificatesSpec,
    /// The status code that sends plain HTTP to HTTPS.
    #[serde(default)]
    pub redirect_status: RedirectStatus,
    /// HAProxy's statistics page at `/haproxy?stats`; none: there is no such page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<StatsSpec>,
    /// Settings that only HAProxy has.
    #[serde(default)]
    pub haproxy: HaproxySpec,
    /// Settings that only nginx has.
    #[serde(default)]
    pub nginx: NginxSpec,
}

const fn yes() -> bool {
    true
}

fn default_domain() -> String {
    "local".to_owned()
}

const fn default_hold() -> Period {
    Period::secs(10)
}

const fn default_hold_max() -> u32 {
    1_000
}

impl ServiceClusterSpec {
    /// The cluster that a configuration-free run makes for one kind of proxy.
    pub fn implicit(proxy: ProxyKind) -> Self {
        Self {
            proxy,
            proxies: Vec::new(),
            listeners: ListenersSpec::default(),
            sharing: Sharing::Merge,
            claims: Vec::new(),
            unknown_host: UnknownHost::default(),
            trust_image_labels: false,
            container_hostnames: true,
            default_domain: default_domain(),
            backend_override_address: None,
            trusted_proxies: Vec::new(),
            monitoring_networks: Vec::new(),
            timeouts: TimeoutsSpec::default(),
            readiness: ReadinessMode::default(),
            empty_when_all_unhealthy: false,
            hold: default_hold(),
            hold_max: default_hold_max(),
            probes: ProbeSpec::default(),
            max_connections: None,
            certificates: CertificatesSpec::default(),
            redirect_status: RedirectStatus::default(),
            stats: None,
            haproxy: HaproxySpec::default(),
            nginx: NginxSpec::default(),
        }
    }
}

/// Ports that the proxies listen on, on every address of both families.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListenersSpec {
    /// Plain HTTP.
    pub http: u16,
    /// HTTPS; bound only while there is a certificate to serve or `httpsAlways` is set.
    pub https: u16,
    /// Whether the HTTPS port is bound even without any certificate (and refuses every handshake).
    pub https_always: bool,
    /// Whether ports are bound on IPv6 too. Where the proxy's kernel has no IPv6 sockets they are not, whatever this
    /// says.
    pub ipv6: bool,
}

impl Default for ListenersSpec {
    fn default() -> Self {
        Self { http: 80, https: 443, https_always: false, ipv6: true }
    }
}

/// What happens when workloads of different owners claim one host and path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// They are one backend.
    Merge,
    /// The first owner keeps it; the others are told.
    #[default]
    Owner,
}

/// Hosts, and who may claim them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimSpec {
    /// Host names; `*.example.com` is every name below, the wildcard itself included, and `*` every host.
    pub hosts: Vec<String>,
    /// Owners as findings name them (`compose:shop/web`, `route:shop/web`, the text of `interlock.owner`); one that ends
    /// in `*` is every owner that begins so. Empty: nobody.
    pub owners: Vec<String>,
}

/// The answer for a host that nothing claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnknownHost {
    /// 404, the default.
    #[default]
    #[serde(rename = "404")]
    NotFound,
    /// 503, as Interlock 0 to 3 answered: for migrated configurations.
    #[serde(rename = "503")]
    Unavailable,
}

impl UnknownHost {
    /// The status code.
    pub const fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Unavailable => 503,
        }
    }
}

/// Time-outs, the same on every proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TimeoutsSpec {
    /// To connect to an endpoint.
    pub connect: Period,
    /// To receive a whole request head.
    pub request: Period,
    /// Without a byte from the endpoint.
    pub response: Period,
    /// Without a byte on an upgraded connection, a server-sent event stream included.
    pub tunnel: Period,
    /// For a client's next request on an idle connection.
    pub keep_alive: Period,
}

impl Default for TimeoutsSpec {
    fn default() -> Self {
        Self {
            connect: Period::secs(5),
            request: Period::secs(10),
            response: Period::secs(60),
            tunnel: Period::secs(3600),
            keep_alive: Period::secs(60),
        }
    }
}

/// What admits an endpoint to its backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReadinessMode {
    /// Docker's health check or a probe, whichever admits first; a TCP connect where nothing is declared.
    #[default]
    Auto,
    /// Only Docker's health check; without one, at once.
    Docker,
    /// Only probes.
    Probe,
    /// At once.
    None,
}

/// How endpoints are probed by the agent beside the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProbeSpec {
    /// Probes under way at once, for each proxy.
    pub concurrency: u16,
    /// A probe that takes longer has failed.
    pub timeout: Period,
    /// Between two health checks of one endpoint, where the workload names none.
    pub interval: Period,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_after: u8,
}

impl Default for ProbeSpec {
    fn default() -> Self {
        Self { concurrency: 64, timeout: Period::secs(2), interval: Period::secs(5), unhealthy_after: 2 }
    }
}

/// Certificates of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CertificatesSpec {
    /// The folder that holds them, on the operator's side; watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The file that answers for names without a certificate of their own; none: such handshakes are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// The status code of a redirect to HTTPS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RedirectStatus {
    /// 301, permanent.
    #[serde(rename = "301")]
    Moved,
    /// 302, the default.
    #[default]
    #[serde(rename = "302")]
    Found,
    /// 307, temporary, keeps the method.
    #[serde(rename = "307")]
    Temporary,
    /// 308, permanent, keeps the method.
    #[serde(rename = "308")]
    Permanent,
}

impl RedirectStatus {
    /// The status code.
    pub const fn status(self) -> u16 {
        match self {
            Self::Moved => 301,
            Self::Found => 302,
            Self::Temporary => 307,
            Self::Permanent => 308,
        }
    }
}

/// Access to HAProxy's statistics page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatsSpec {
    /// The user.
    pub user: String,
    /// A file whose first line is the password.
    pub password_file: String,
}

/// Settings that only HAProxy has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HaproxySpec {
    /// How long an old worker may finish what it has after a reload.
    pub drain: Period,
    /// Old workers that may still finish what they have before what needs a reload waits; 0: any number.
    pub max_old_workers: u16,
    /// Server slots of the smallest backend; a fuller backend has the next power of two.
    pub min_slots: u16,
    /// Empty backends that wait for new hosts, so that these need no reload; 0: none.
    pub spares: u16,
    /// How long an endpoint that has just become ready gets less than its share, in whole seconds, where the workload
    /// says nothing; 0: not at all.
    pub slow_start: Period,
}

impl HaproxySpec {
    /// The longest slow start.
    pub const SLOW_START_MOST: Period = Period::secs(60 * 60);
}

impl Default for HaproxySpec {
    fn default() -> Self {
        Self {
            drain: Period::secs(30 * 60),
            max_old_workers: 3,
            min_slots: 4,
            spares: 32,
            slow_start: Period::secs(0),
        }
    }
}

/// Settings that only nginx has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NginxSpec {
    /// Worker processes; none: one for each processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_processes: Option<u16>,
    /// How long an old worker may finish what it has after a reload.
    pub drain: Period,
    /// Reloads whose old workers may still finish what they have before further changes wait; 0: any number.
    /// What takes an endpoint out of rotation never waits.
    pub max_old_workers: u16,
}

impl Default for NginxSpec {
    fn default() -> Self {
        Self { worker_processes: None, drain: Period::secs(30 * 60), max_old_workers: 3 }
    }
}
