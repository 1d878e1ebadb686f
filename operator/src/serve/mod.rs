//! Serve: metrics, health and the API.

pub mod api;
pub mod catalogue;
pub mod health;
pub mod metrics;
mod port;
pub mod server;

pub use api::{Shared, Snapshot, TargetState, TargetStatus};
pub use health::Readiness;
pub use metrics::Metrics;
pub use server::{Listeners, ServeError, Served};
