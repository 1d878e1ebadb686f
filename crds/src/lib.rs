//! Interlock's declarative API: the kinds, their defaults, and what their schemas are generated from.

mod configuration;
mod period;
mod service_cluster;

pub use configuration::{
    Configuration, DockerSpec, DockerTls, ListenSpec, LogFormat, LogSpec, NamedCluster, OperatorId, PaceSpec,
    StateDirectory,
};
pub use period::{Period, PeriodError};
pub use service_cluster::{
    CertificatesSpec, HaproxySpec, ListenersSpec, NginxSpec, ProbeSpec, ProxyKind, ReadinessMode,
    RedirectStatus, ServiceClusterSpec, Sharing, StatsSpec, TimeoutsSpec, UnknownHost,
};

/// The API group and version of every document.
pub const API_VERSION: &str = "interlock.dev/v1alpha1";
