//! One engine's containers, followed: subscribe, then list, inspect each once, and let events tell the rest.

mod convert;
mod event;
mod follow;
mod signal;
mod state;

use std::net::IpAddr;
use std::time::Duration;

use interlock_core::model::EngineId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::EngineSnapshot;
use crate::docker::Client;

/// How one engine is followed.
#[derive(Debug, Clone)]
pub struct DockerSource {
    /// Its name, for logs.
    pub engine: EngineId,
    /// Between two lists while nothing happens.
    pub resync: Duration,
    /// The address of its published ports, when the configuration overrides what its URL says.
    pub address: Option<IpAddr>,
}

/// Follows the engine behind `client` for as long as somebody holds the receiver. The first snapshot is
/// `Freshness::Never`; it turns fresh when every running container has been seen.
pub fn spawn(client: Client, source: DockerSource) -> (watch::Receiver<EngineSnapshot>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(EngineSnapshot::default());
    let task = tokio::spawn(follow::Follower::new(client, source, sender).run());
    (receiver, task)
}
