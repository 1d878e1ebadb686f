//! Sources: where facts come from. Each keeps one level-triggered snapshot in a watch channel.

pub mod certificates;
pub mod credentials;
pub mod docker;
mod folders;
pub mod manifests;
pub mod sockets;

use std::collections::BTreeSet;

use interlock_core::model::{ContainerId, EngineView, Timestamp};
use tokio::sync::watch;

/// What follows from a watched value, as that changes.
pub fn derived<T, U>(
    mut from: watch::Receiver<T>,
    of: impl Fn(&T) -> U + Send + 'static,
) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: PartialEq + Send + Sync + 'static,
{
    let (sender, receiver) = watch::channel(of(&from.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = from.changed() => if changed.is_err() { return sender.closed().await },
                () = sender.closed() => return,
            }
            let next = of(&from.borrow_and_update());
            sender.send_if_modified(|known| {
                let changed = *known != next;
                *known = next;
                changed
            });
        }
    });
    receiver
}

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
