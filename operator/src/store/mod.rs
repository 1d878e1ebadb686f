//! Store: what must survive a restart of the operator, in a directory, written atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use interlock_core::model::{ContainerId, Digest, Owner, Quarantined};
use serde::{Deserialize, Serialize};

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
    pub quarantine: BTreeMap<Digest, Quarantined>,
    /// Who holds which host and path.
    pub ownership: BTreeMap<String, Owner>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    version: u32,
    #[serde(default)]
    kept: Kept,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or file cannot be read or written.
    #[error("cannot use the state directory `{}`", path.display())]
    Io {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("`{}` is damaged; move it away to start without what it remembers", path.display())]
    Damaged {
        /// Which path.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// A newer Interlock wrote it.
    #[error(
        "`{}` was written by a newer Interlock (format {found}, this one knows {VERSION}); \
         run that version, or move the file away to start without what it remembers",
        path.display()
    )]
    Newer {
        /// Which path.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// The store: the last written state, and where it is written.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    kept: Kept,
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
        Ok(Self { path, kept })
    }

    /// What is kept now.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Changes what is kept; written (and flushed to disk) only if it differs.
    pub fn update(&mut self, change: impl FnOnce(&mut Kept)) -> Result<(), StoreError> {
        let mut next = self.kept.clone();
        change(&mut next);
        if next == self.kept {
            return Ok(());
        }
        self.kept = next;
        self.write().map_err(|source| StoreError::Io { path: self.path.clone(), source })
    }

    fn write(&self) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, &File { version: VERSION, kept: self.kept.clone() })?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Kept, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |source| StoreError::Damaged { path: path.to_owned(), source };
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: version });
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
        store.update(|kept| kept.booted.extend([id.clone()])).unwrap();
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
