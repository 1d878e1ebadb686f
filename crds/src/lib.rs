//! Interlock's declarative API: the kinds, their defaults, and what their schemas are generated from.

mod configuration;
mod engine;
mod object;
mod period;
mod route;
pub mod schema;
mod service_cluster;

pub use configuration::{
    Configuration, DockerSpec, DockerTls, ListenSpec, LogFormat, LogSpec, NamedCluster, OperatorId, PaceSpec,
    StateDirectory,
};
pub use engine::EngineSpec;
pub use object::{
    Condition, ConditionStatus, DEFAULT_NAMESPACE, Engine, Metadata, Object, Route, ServiceCluster, Status,
    TargetStatus,
};
pub use period::{Period, PeriodError};
pub use route::{
    BackendKind, BackendProtocol, BackendRef, BackendTls, BalanceAlgorithm, BasicAuth, Cors, ErrorPage,
    FilterType, ForwardAuth, Header, HeaderModifier, HealthCheck, HealthCheckType, Limits, ParentRef,
    PathMatch, PathMatchType, PathModifier, PathModifierType, RequestRedirect, Retries, RouteFilter,
    RouteHaproxy, RouteMatch, RouteRule, RouteSpec, RouteTimeouts, RouteTls, Selector, Sticky, StickyType,
    TcpRoute, TlsMode, UrlRewrite, ValueMatch, ValueMatchType,
};
pub use service_cluster::{
    CertificatesSpec, ClaimSpec, HaproxySpec, ListenersSpec, NginxSpec, ProbeSpec, ProxyKind, ReadinessMode,
    RedirectStatus, ServiceClusterSpec, Sharing, StatsSpec, TimeoutsSpec, UnknownHost,
};

/// The API group and version of every document.
pub const API_VERSION: &str = "interlock.dev/v1alpha1";
