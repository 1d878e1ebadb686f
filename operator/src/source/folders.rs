//! Notice of changes in folders: the kernel's where it gives any, and a slow timer where it does not.

use std::path::PathBuf;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Changes come in bursts (a file is created, written, closed, renamed): one look serves the burst.
const GATHER: Duration = Duration::from_millis(50);

/// Watches folders, existing or not yet.
pub(super) struct Watcher {
    folders: Vec<PathBuf>,
    rescan: Duration,
    notices: mpsc::Receiver<()>,
    kernel: Option<RecommendedWatcher>,
    watched: Vec<bool>,
}

impl Watcher {
    /// A watcher that also fires every `rescan`.
    pub(super) fn new(folders: impl IntoIterator<Item = PathBuf>, rescan: Duration) -> Self {
        let (sender, notices) = mpsc::channel(1);
        let kernel = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a folder is an access event: it must not wake the reader again.
            if event.is_ok_and(|e| !e.kind.is_access()) {
                let _ = sender.try_send(());
            }
        });
        let folders: Vec<_> = folders.into_iter().collect();
        let watched = vec![false; folders.len()];
        let mut watcher = Self { folders, rescan, notices, kernel: kernel.ok(), watched };
        watcher.watch();
        watcher
    }

    /// Starts watching what exists and is not watched; forgets what went away.
    fn watch(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        for (folder, watched) in self.folders.iter().zip(&mut self.watched) {
            if !folder.is_dir() {
                *watched = false;
            } else if !*watched {
                *watched = kernel.watch(folder, RecursiveMode::NonRecursive).is_ok();
            }
        }
    }

    /// Returns when there may be something new. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            notice = self.notices.recv() => match notice {
                Some(()) => tokio::time::sleep(GATHER).await,
                None => tokio::time::sleep(self.rescan).await,
            },
            () = tokio::time::sleep(self.rescan) => {}
        }
        while self.notices.try_recv().is_ok() {}
        self.watch();
    }
}
