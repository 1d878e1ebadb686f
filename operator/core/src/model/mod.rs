//! The facts that the core works on, in types that cannot be wrong.

mod container;
mod names;
mod observed;

pub use container::{Attachment, Container, ContainerState, Health, PublishedPort};
pub use names::{
    CertificateName, ClusterName, ContainerId, Digest, EngineId, HostPattern, Hostname, NameError, Owner,
    PathPrefix, Port, RouteName, ServerName, TargetId, UpstreamAddr,
};
pub use observed::{
    AgentView, CertificateView, EngineView, Freshness, Observed, ProbeKey, ProbeResult, Quarantined,
    Readiness, Timestamp,
};
