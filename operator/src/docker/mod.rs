//! The one client of the Docker API that `source` and `deliver` share: connection, TLS, diagnosis, counting.

pub mod actions;
pub(crate) mod archive;
mod calls;
mod client;
mod error;
mod own;
mod transport;

pub use calls::Calls;
pub use client::{Client, DEFAULT_HOST, EngineFacts, FileFacts, MINIMUM_API};
pub use error::DockerError;
pub use own::own_container;
