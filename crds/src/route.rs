//! `Route`: hosts and paths, where their requests go and how. Fields that the Gateway API has carry its names.

use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Period, ReadinessMode};

/// Hosts and paths, where their requests go and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(
    example = json!({
        "hostnames": ["shop.example.com"],
        "rules": [{"backendRefs": [{"name": "web", "port": 8080}]}],
    }),
    example = json!({
        "parentRefs": [{"name": "edge"}],
        "hostnames": ["shop.example.com", "*.shop.example.com"],
        "tls": {"certificate": "shop.example.com.pem", "redirect": true},
        "healthCheck": {"path": "/ping", "interval": "2s"},
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/api"}}],
                "filters": [{
                    "type": "URLRewrite",
                    "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
                }],
                "backendRefs": [{"kind": "ComposeService", "project": "shop", "name": "api", "port": 3000}],
            },
            {"backendRefs": [{"kind": "Address", "address": "192.0.2.7", "port": 8080}]},
        ],
    })
)]
pub struct RouteSpec {
    /// The clusters that serve it; none: every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentRef>,
    /// The hosts: full names, or a wildcard for everything below a name, as `*.example.com`.
    #[schemars(length(min = 1))]
    pub hostnames: Vec<String>,
    /// Paths and where their requests go.
    #[schemars(length(min = 1))]
    pub rules: Vec<RouteRule>,
    /// TLS towards clients; none: plain HTTP, and HTTPS where the cluster has a default certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouteTls>,
    /// TLS towards the backends; none: plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<BackendTls>,
    /// How requests are spread over the backends; none: `RoundRobin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceAlgorithm>,
    /// Requests of one client go to one backend; none: they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// How backends are checked; none: one TCP connection, before the first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Whether an HTTP answer is waited for before the first request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warm: bool,
    /// How long a backend that has just become ready gets less than its share, in whole seconds, at most an hour; none: as
    /// the cluster has it, `0s`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Period>,
    /// What admits a backend; none: as the cluster has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<ReadinessMode>,
    /// Paths whose responses may idle as long as a tunnel: WebSocket, server-sent events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub websocket: Vec<String>,
    /// What is spoken to the backends; none: `HTTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<BackendProtocol>,
    /// When a request is sent again; none: as ARCHITECTURE.md's promises say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// The most that is let through; none: no bound of the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Users and passwords; none: everybody is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Somebody else decides who is let in; none: everybody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_auth: Option<ForwardAuth>,
    /// Networks that are let in; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// Networks that are not let in, whatever `allow` says; empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<IpNet>,
    /// Which other sites' scripts may ask; none: the backends' own headers decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Whether answers are compressed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compression: bool,
    /// Pages in place of the proxy's own for some status codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_pages: Vec<ErrorPage>,
    /// A TCP port in place of hosts and paths; none: HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpRoute>,
    /// Settings that only HAProxy has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub haproxy: Option<RouteHaproxy>,
}

/// A cluster that serves a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// The `ServiceCluster`'s name.
    pub name: String,
}

/// Paths, what is done to their requests and where these go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteRule {
    /// A name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The requests that it is for: those that any one of these matches; empty: all of the hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RouteMatch>,
    /// What is done to a request and its answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<RouteFilter>,
    /// Where the requests go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// Time-outs of this rule; none: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RouteTimeouts>,
}

/// Everything that a request must fulfil.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// The path; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Headers; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// The parameters of the query; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<ValueMatch>,
    /// The method, as `GET`; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// The path, from `/` on, without escapes.
    #[serde(default = "root")]
    pub value: String,
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The path and everything below it, on a segment boundary: `/app` never takes `/apple`.
    #[default]
    PathPrefix,
    /// Exactly this path.
    Exact,
}

/// A header or a query parameter, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValueMatchType {
    /// Exactly this value.
    #[default]
    Exact,
    /// A regular expression.
    RegularExpression,
}

/// Something that is done to a request or its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteFilter {
    /// What is done; the field of that name says how.
    #[serde(rename = "type")]
    pub kind: FilterType,
    /// For `URLRewrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// For `RequestRedirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// For `RequestHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For `ResponseHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
}

/// What a filter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterType {
    /// Changes the path or the host before the backend sees the request.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes the headers that the backend sees.
    RequestHeaderModifier,
    /// Changes the headers that the client sees.
    ResponseHeaderModifier,
}

/// What of a request is changed before the backend sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The host that the backend sees; none: the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path that it sees; none: the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// How a path is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// What is replaced.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// For `ReplacePrefixMatch`: what stands in place of the matched prefix; `/` strips it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
    /// For `ReplaceFullPath`: the whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
}

/// What of a path is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathModifierType {
    /// The prefix that matched.
    ReplacePrefixMatch,
    /// All of it.
    ReplaceFullPath,
}

/// Where a client is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// `http` or `https`; none: the client's. `https` alone sends plain HTTP to HTTPS and lets HTTPS through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host; none: the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path; none: the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port; none: where the cluster listens for the scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The status code: 301, 302, 307 or 308; none: the cluster's `redirectStatus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

/// Changes of headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Headers that get this value, whatever they had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Header>,
    /// Headers that get this value besides what they had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Header>,
    /// Names of headers that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Who serves requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// What it is.
    #[serde(default)]
    pub kind: BackendKind,
    /// The container's, the compose service's or the Swarm service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For `ComposeService`: the compose project; none: the document's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// For `Container`, in place of a name: every container that has all of these labels. Only labels under
    /// `interlock.select.`, `com.docker.compose.` and `com.docker.swarm.` are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// For `Address`: an IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port: a container's own, not the published one; none: the only one that it exposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The network to reach a container by (compose's short name or the full one); none: one that it shares
    /// with the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Its share of the requests beside the other refs' of the rule; 0: none.
    #[serde(default = "one")]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

/// What a backend is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendKind {
    /// Containers, by name or by label.
    #[default]
    Container,
    /// The containers of a compose service.
    ComposeService,
    /// A fixed address.
    Address,
    /// A Swarm service, by name.
    SwarmService,
}

/// Containers by label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that a container has, all of them.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// Time-outs of one rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTimeouts {
    /// For the whole answer, from the client's request on; none: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Period>,
    /// For one backend's answer; none: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Period>,
}

/// TLS towards clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTls {
    /// Who holds the key.
    #[serde(default)]
    pub mode: TlsMode,
    /// The certificate's file name in the cluster's folder; none: the cluster's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The key's file name, where it is not in the certificate's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether plain HTTP is redirected to HTTPS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redirect: bool,
}

/// Who holds the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// The proxy.
    #[default]
    Terminate,
    /// The backends: the proxy forwards the bytes.
    Passthrough,
}

/// TLS towards backends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTls {
    /// Whether the backend's certificate must be valid, by the system's authorities, for the host.
    #[serde(default)]
    pub verify: bool,
}

/// How requests are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BalanceAlgorithm {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest connections.
    LeastConn,
    /// By the client's address.
    ClientAddress,
    /// At random.
    Random,
    /// By the request's path.
    Uri,
    /// The first with a free slot.
    First,
}

/// How requests of one client stay together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sticky {
    /// What a client is known by.
    #[serde(rename = "type")]
    pub kind: StickyType,
    /// For `Cookie`: its name; none: one of Interlock's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_name: Option<String>,
}

/// What a client is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StickyType {
    /// Its address.
    ClientAddress,
    /// A cookie that the proxy sets.
    Cookie,
}

/// How backends are checked by the agent beside the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked.
    #[serde(default, rename = "type")]
    pub kind: HealthCheckType,
    /// For `HTTP`: `GET`, `HEAD` or `OPTIONS`; none: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// For `HTTP`: path and query; none: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// For `HTTP`: the `Host`; none: the route's first host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Between two checks, at most a day; none: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
}

/// What a health check asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthCheckType {
    /// A request that must be answered 200 to 399.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// A connection.
    #[serde(rename = "TCP")]
    Tcp,
}

/// What is spoken to backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/2 without TLS.
    #[serde(rename = "H2C")]
    H2c,
    /// gRPC.
    #[serde(rename = "GRPC")]
    Grpc,
}

/// When a request is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// How often at most.
    pub attempts: u8,
}

/// The most that is let through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Requests of one client address in a second; none: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// Connections to one backend at once; none: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// The largest request body in bytes; none: any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_size: Option<u64>,
}

/// Users and passwords.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicAuth {
    /// The file that holds them, as htpasswd writes it, on the operator's side.
    pub file: String,
    /// What the client is told that it asks for; none: the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
}

/// Who decides who is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardAuth {
    /// The address that each request's head is sent to first.
    pub address: String,
    /// Headers of its answer that the backend gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
}

/// Which other sites' scripts may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// The sites, as `https://example.com`, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// Methods that they may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Headers that they may send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Headers that they may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Whether they may send cookies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_credentials: bool,
    /// How long browsers may remember the answer; none: as they like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Period>,
}

/// A page in place of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorPage {
    /// The status codes that it is for.
    pub status_codes: Vec<u16>,
    /// The file, on the operator's side.
    pub file: String,
}

/// A TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRoute {
    /// The port that the proxies listen on.
    #[schemars(range(min = 1))]
    pub port: u16,
}

/// Settings that only HAProxy has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteHaproxy {
    /// `option` lines of the backend, from an allowlist (docs/labels.md).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}
