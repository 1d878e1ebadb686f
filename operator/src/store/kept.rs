//! What the loop must not forget over a restart, in one file that is replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::{fs, io};

use interlock_core::model::{ContainerId, Owner, Quarantine, Shared};
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::chain::chain;

/// The format of the file; a newer one is refused.
const VERSION: u32 = 1;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Kept {
    /// Proxy containers that were given a first configuration.
    pub booted: BTreeSet<ContainerId>,
    /// Proxy containers that had a Receipt.
    pub receipted: BTreeSet<ContainerId>,
    /// Intents that a checker refused.
    pub quarantine: Quarantine,
    /// Who holds which host and path.
    pub ownership: Shared<BTreeMap<String, Owner>>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    kept: Kept,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    kept: &'a Kept,
}

/// The store: what is kept now, and a thread that writes it down. To force it to disk takes milliseconds, and
/// nothing that happens meanwhile may wait for that.
#[derive(Debug)]
pub struct Store {
    kept: Arc<Kept>,
    writer: Option<(Sender<Arc<Kept>>, JoinHandle<()>)>,
}

impl Drop for Store {
    /// Waits until the last change is written.
    fn drop(&mut self) {
        if let Some((changes, thread)) = self.writer.take() {
            drop(changes);
            let _ = thread.join();
        }
    }
}

impl Store {
    /// Opens the store in `directory`, creating the directory if needed.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("state.json");
        let io_error = |source| StoreError::Io { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(io_error)?;
        let kept = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(io_error(error)),
        };
        let (changes, changed) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_all(&path, &changed))
            .map_err(|source| StoreError::Io { path: directory.to_owned(), source })?;
        Ok(Self { kept: Arc::new(kept), writer: Some((changes, thread)) })
    }

    /// What is kept now.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Changes what is kept; written (and flushed to disk) only if it differs.
    pub fn update(&mut self, change: impl FnOnce(&mut Kept)) {
        let mut next = Kept::clone(&self.kept);
        change(&mut next);
        if next == *self.kept {
            return;
        }
        self.kept = Arc::new(next);
        if let Some((changes, _)) = &self.writer {
            // The thread ends after its sender, so somebody listens.
            let _ = changes.send(Arc::clone(&self.kept));
        }
    }
}

/// Writes each state that comes, but for those that another has followed already, until nobody can send any more. A
/// full disk is no reason to stop keeping proxies in step.
fn write_all(path: &Path, changed: &Receiver<Arc<Kept>>) {
    while let Ok(next) = changed.recv() {
        let newest = changed.try_iter().last().unwrap_or(next);
        if let Err(error) = write(path, &newest) {
            let path = path.display();
            tracing::error!(%path, error = chain(&error), "what must survive a restart could not be written");
        }
    }
}

fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec_pretty(&Written { version: VERSION, kept })?)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Kept, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged =
        |error: serde_json::Error| StoreError::Damaged { path: path.to_owned(), why: error.to_string() };
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    Ok(serde_json::from_slice::<File>(bytes).map_err(damaged)?.kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let id: ContainerId = "c0ffee".parse().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        store.update(|kept| kept.booted.extend([id.clone()]));
        drop(store);
        let again = Store::open(directory.path()).unwrap();
        assert!(again.kept().booted.contains(&id));
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        fs::write(&path, r#"{"version": 99, "kept": {"news": 1}}"#).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Newer { found: 99, .. })));
        assert!(fs::read_to_string(&path).unwrap().contains("news"));
    }

    #[test]
    fn a_damaged_file_is_told_apart_from_an_empty_store() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("state.json"), "{").unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Damaged { .. })));
    }
}
