//! Sources: where facts come from. Each keeps one level-triggered snapshot in a watch channel.

pub mod certificates;
pub mod credentials;
pub mod docker;
mod folders;
pub mod manifests;
pub mod sockets;

use std::collections::BTreeSet;

use interlock_core::model::{ContainerId, EngineView, Timestamp};

/// What one engine's source knows now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineSnapshot {
    /// Containers and freshness.
    pub view: EngineView,
    /// Containers whose stop signal was seen and that have not ended.
    pub draining: BTreeSet<ContainerId>,
    /// Containers that were healthy at least once in this run of theirs.
    pub was_healthy: BTreeSet<ContainerId>,
    /// Docker's own time of the newest event that changed the view.
    pub newest_event: Option<Timestamp>,
    /// Why the engine could not be read last time, for people; none while it can.
    pub fault: Option<String>,
}
