//! Every field of a `Route` and what proxies make of it: the one table that reading and the docs follow.

use interlock_crds::{
    BackendKind, BackendProtocol, BackendRef, PathMatchType, ProxyKind, RouteMatch, RouteRule, RouteSpec,
    StickyType, TlsMode,
};

/// What it costs to ask for what no proxy can do yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// The field alone: the route is served without it.
    Field,
    /// The reference alone: the others of its rule serve.
    Reference,
    /// The requests that it is about: they go where they would go without it.
    Match,
    /// The rule: its requests are answered 503. Without what protects them or says where to, they must not be
    /// served at all.
    Closed,
}

/// What proxies make of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Both do it, and a change costs HAProxy nothing.
    Live,
    /// Both do it, by a reload.
    Reload,
    /// This one alone does it, by a reload.
    Only(ProxyKind),
    /// Neither does it yet.
    Not(Cost, &'static str),
}

/// A field, or several below a common one.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The path below `spec`, without indices; with a value behind `=` only that value is meant.
    pub path: &'static str,
    /// What proxies make of it.
    pub support: Support,
}

const fn field(path: &'static str, support: Support) -> Field {
    Field { path, support }
}

use Cost::{Closed, Match, Reference};
use Support::{Live, Not, Only, Reload};

/// A longer path counts before a shorter one.
pub const FIELDS: &[Field] = &[
    field("parentRefs", Live),
    field("hostnames", Live),
    field("rules.name", Live),
    field("rules.matches.path", Live),
    field(
        "rules.matches.path.type=Exact",
        Not(Match, "paths are prefixes on a segment boundary; as one it would take more than was asked for"),
    ),
    field("rules.matches.headers", Not(Match, "a request is routed by its host and path alone")),
    field("rules.matches.queryParams", Not(Match, "a request is routed by its host and path alone")),
    field("rules.matches.method", Not(Match, "a request is routed by its host and path alone")),
    field("rules.filters.type", Live),
    field("rules.filters.urlRewrite.hostname", Reload),
    field("rules.filters.urlRewrite.path", Live),
    field("rules.filters.urlRewrite.path.replacePrefixMatch", Live),
    field("rules.filters.urlRewrite.path.replaceFullPath", Reload),
    field("rules.filters.requestRedirect.scheme", Live),
    field("rules.filters.requestRedirect.hostname", Reload),
    field("rules.filters.requestRedirect.path", Reload),
    field("rules.filters.requestRedirect.port", Reload),
    field("rules.filters.requestRedirect.statusCode", Reload),
    field("rules.filters.requestHeaderModifier", Reload),
    field("rules.filters.responseHeaderModifier", Reload),
    field("rules.backendRefs", Live),
    field(
        "rules.backendRefs.kind=SwarmService",
        Not(Reference, "Swarm is not served yet; name the containers, or an address"),
    ),
    field(
        "rules.backendRefs.weight",
        Not(
            Closed,
            "backends get equal shares; a weight is the same for all refs of a rule, or 0 to leave one out",
        ),
    ),
    field("rules.timeouts", Not(Cost::Field, "the cluster's time-outs hold for every route")),
    field("tls", Live),
    field("tls.mode=Passthrough", Not(Closed, "the proxy itself would answer the handshake")),
    field("tls.redirect", Live),
    field("backendTls", Reload),
    field("balance", Reload),
    field("sticky.type", Reload),
    field(
        "sticky.type=Cookie",
        Not(Cost::Field, "no cookie is set; `ClientAddress` keeps clients by their address"),
    ),
    field(
        "sticky.cookieName",
        Not(Cost::Field, "no cookie is set; `ClientAddress` keeps clients by their address"),
    ),
    field("healthCheck", Live),
    field("warm", Live),
    field("slowStart", Only(ProxyKind::Haproxy)),
    field("readiness", Live),
    field("websocket", Live),
    field("protocol", Reload),
    field("protocol=H2C", Not(Closed, "HTTP/1.1 is what is spoken to backends")),
    field("protocol=GRPC", Not(Closed, "HTTP/1.1 is what is spoken to backends")),
    field("retries", Not(Cost::Field, "only a connection that was never accepted is tried again")),
    field("limits.bodySize", Reload),
    field("limits.connections", Not(Closed, "connections would not be limited")),
    field("limits.requestsPerSecond", Not(Closed, "requests would not be limited")),
    field("basicAuth", Not(Closed, "everybody would be let in")),
    field("forwardAuth", Not(Closed, "everybody would be let in")),
    field("allow", Reload),
    field("deny", Reload),
    field("cors", Not(Cost::Field, "the backend's own headers decide")),
    field("compression", Not(Cost::Field, "answers go out as the backend sends them")),
    field("errorPages", Not(Cost::Field, "the proxy's own pages are shown")),
    field("tcp", Not(Match, "only HTTP is routed")),
    field("haproxy.options", Only(ProxyKind::Haproxy)),
];

/// What proxies make of the field at this path, with a value where one is meant.
pub fn support(path: &str) -> Option<Support> {
    let below = |known: &&Field| {
        path.strip_prefix(known.path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '=']))
    };
    FIELDS.iter().filter(below).max_by_key(|known| known.path.len()).map(|known| known.support)
}

/// What was asked for and is not done, by the field that asks (below where it stands) and its path in the table.
pub(super) type Asked = (&'static str, &'static str);

fn asked(of: &[(bool, &'static str, &'static str)]) -> Vec<Asked> {
    of.iter().filter(|(asked, ..)| *asked).map(|(_, field, path)| (*field, *path)).collect()
}

pub(super) fn of_route(spec: &RouteSpec) -> Vec<Asked> {
    let mode = spec.tls.as_ref().map(|tls| tls.mode);
    let (sticky, limits) = (spec.sticky.as_ref(), spec.limits.as_ref());
    asked(&[
        (mode == Some(TlsMode::Passthrough), "tls.mode", "tls.mode=Passthrough"),
        (sticky.is_some_and(|s| s.kind == StickyType::Cookie), "sticky.type", "sticky.type=Cookie"),
        (
            sticky.is_some_and(|s| s.kind != StickyType::Cookie && s.cookie_name.is_some()),
            "sticky.cookieName",
            "sticky.cookieName",
        ),
        (spec.protocol == Some(BackendProtocol::H2c), "protocol", "protocol=H2C"),
        (spec.protocol == Some(BackendProtocol::Grpc), "protocol", "protocol=GRPC"),
        (spec.retries.is_some(), "retries", "retries"),
        (limits.is_some_and(|it| it.connections.is_some()), "limits.connections", "limits.connections"),
        (
            limits.is_some_and(|it| it.requests_per_second.is_some()),
            "limits.requestsPerSecond",
            "limits.requestsPerSecond",
        ),
        (spec.basic_auth.is_some(), "basicAuth", "basicAuth"),
        (spec.forward_auth.is_some(), "forwardAuth", "forwardAuth"),
        (spec.cors.is_some(), "cors", "cors"),
        (spec.compression, "compression", "compression"),
        (!spec.error_pages.is_empty(), "errorPages", "errorPages"),
        (spec.tcp.is_some(), "tcp", "tcp"),
    ])
}

pub(super) fn of_rule(rule: &RouteRule) -> Vec<Asked> {
    let mut weights = rule.backend_refs.iter().map(|one| one.weight).filter(|weight| *weight > 0);
    let first = weights.next();
    let differ = weights.any(|weight| Some(weight) != first);
    asked(&[
        (rule.timeouts.is_some(), "timeouts", "rules.timeouts"),
        (differ, "backendRefs", "rules.backendRefs.weight"),
    ])
}

pub(super) fn of_match(one: &RouteMatch) -> Vec<Asked> {
    let exact = one.path.as_ref().is_some_and(|path| path.kind == PathMatchType::Exact);
    asked(&[
        (exact, "path.type", "rules.matches.path.type=Exact"),
        (!one.headers.is_empty(), "headers", "rules.matches.headers"),
        (!one.query_params.is_empty(), "queryParams", "rules.matches.queryParams"),
        (one.method.is_some(), "method", "rules.matches.method"),
    ])
}

pub(super) fn of_backend(one: &BackendRef) -> Vec<Asked> {
    asked(&[(one.kind == BackendKind::SwarmService, "kind", "rules.backendRefs.kind=SwarmService")])
}
