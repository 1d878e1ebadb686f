//! What was written reaches the disk after the proxy runs it: nobody's change waits for a disk.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use tokio::sync::watch;

/// The way to a task that brings files to the disk, the newest wish alone; it ends with the value.
#[derive(Debug)]
pub(super) struct Durable(watch::Sender<Wish>);

#[derive(Debug, Clone, Default)]
struct Wish {
    files: Vec<PathBuf>,
    replaced: Option<PathBuf>,
}

impl Durable {
    pub(super) fn new() -> Self {
        let (wish, mut wished) = watch::channel(Wish::default());
        tokio::spawn(async move {
            while wished.changed().await.is_ok() {
                let Wish { files, replaced } = wished.borrow_and_update().clone();
                let synced = tokio::task::spawn_blocking(move || {
                    // Where it stays, what is replaced next takes its place.
                    let _ = replaced.map(std::fs::remove_file);
                    files.iter().for_each(sync);
                });
                if synced.await.is_err() {
                    return;
                }
            }
        });
        Self(wish)
    }

    /// Brings these files to the disk, and takes off what was replaced. Of an older wish what is still to be done is
    /// dropped: those files are replaced.
    pub(super) fn want(&self, files: Vec<PathBuf>, replaced: Option<PathBuf>) {
        self.0.send_replace(Wish { files, replaced });
    }
}

fn sync(path: &PathBuf) {
    match File::open(path).and_then(|file| file.sync_data()) {
        // It has been replaced, and the next wish names what did.
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => tracing::warn!(path = %path.display(), %err, "it may not outlive a loss of power"),
        Ok(()) => {}
    }
}
