//! The sockets of agents that share a folder with the operator.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interlock_core::model::TargetId;
use tokio::sync::watch;

use super::folders::Watcher;

/// A folder is read again this often whatever the watcher says: network file systems send no notice.
const RESCAN: Duration = Duration::from_secs(5);

/// Follows the `*.sock` files of `folder`, by file stem. A folder that does not exist is an empty one; one
/// that cannot be read keeps the last answer.
pub fn spawn(folder: PathBuf) -> watch::Receiver<BTreeSet<TargetId>> {
    // Watched before it is read, so that no change falls between.
    let mut watcher = Watcher::new([folder.clone()], RESCAN);
    let (sender, receiver) = watch::channel(scan(&folder).unwrap_or_default());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = watcher.changed() => {}
                () = sender.closed() => return,
            }
            let looked = folder.clone();
            let found = tokio::task::spawn_blocking(move || scan(&looked)).await;
            if let Ok(Some(found)) = found {
                sender.send_if_modified(|known| {
                    let changed = *known != found;
                    *known = found;
                    changed
                });
            }
        }
    });
    receiver
}

/// The targets in a folder; none if it cannot be read although it exists.
fn scan(folder: &Path) -> Option<BTreeSet<TargetId>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(BTreeSet::new()),
        Err(_) => return None,
    };
    let named = |entry: std::fs::DirEntry| -> Option<TargetId> {
        if !entry.file_type().ok()?.is_socket() {
            return None;
        }
        entry.file_name().to_str()?.strip_suffix(".sock")?.parse().ok()
    };
    Some(entries.flatten().filter_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_come_and_go_with_the_folder_itself() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("agents");
        let mut seen = spawn(folder.clone());
        assert!(seen.borrow().is_empty(), "a missing folder is an empty one");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file.sock"), "no socket").unwrap();
        let _one = std::os::unix::net::UnixListener::bind(folder.join("web-1.sock")).unwrap();
        let expected: BTreeSet<TargetId> = ["web-1".parse().unwrap()].into();
        let wait = seen.wait_for(|found| *found == expected);
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().unwrap();
        std::fs::remove_file(folder.join("web-1.sock")).unwrap();
        let wait = seen.wait_for(BTreeSet::is_empty);
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().unwrap();
    }
}
