//! Serve: metrics, health and the API.

pub mod api;
pub mod catalogue;
pub mod events;
pub mod health;
pub mod metrics;
mod port;
pub mod rest;
pub mod server;
pub mod status;

pub use api::{Shared, Snapshot, TargetState, TargetStatus};
pub use events::{Event, Events};
pub use health::Readiness;
pub use metrics::Metrics;
pub use rest::Rest;
pub use server::{Listeners, ServeError, Served};
pub use status::{Look, Looks};
