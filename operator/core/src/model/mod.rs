//! The facts that the core works on, in types that cannot be wrong.

mod container;
mod names;
mod observed;
mod shared;

pub use container::{Attachment, Container, ContainerState, Health, PublishedPort};
pub use names::{
    CertificateName, ClusterName, ContainerId, Digest, DocumentId, EngineId, HostPattern, Hostname,
    IDENTITY_HOST, NameError, Owner, PathPrefix, Port, RouteName, ServerName, TargetId, UpstreamAddr,
};
pub use observed::{
    AgentView, CertificateView, Departed, EngineView, Freshness, Observed, ProbeKey, ProbeResult, Quarantine,
    Readiness, Standing, Standings, Timestamp,
};
pub use shared::Shared;
