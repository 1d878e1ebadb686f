//! Rendered: what proxies ran of each generation of an object when all of them first did, in a file for each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use interlock_core::model::Digest;
use interlock_crds::schema::Kind;
use serde::{Deserialize, Serialize};

use super::object::Key;
use crate::chain::chain;

/// The most files, and the most bytes of all of them. The oldest go first.
const MOST: usize = 2_000;
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// A larger one is not kept.
const LARGEST: usize = 256 * 1024;

/// What proxies ran of one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rendered {
    /// When all of them were seen to, as RFC 3339 has it.
    pub at: String,
    /// Proxy by proxy.
    pub targets: BTreeMap<String, Pieces>,
}

/// What one proxy ran of it: no secrets, which are no part of a proxy's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pieces {
    /// The digest of all that it ran.
    pub digest: String,
    /// The pieces of its files that serve the object, by name.
    pub fragments: BTreeMap<String, String>,
}

/// One file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    kind: String,
    namespace: String,
    name: String,
    generation: u64,
    #[serde(flatten)]
    rendered: Rendered,
}

/// Everything that is kept of it. To lose some of it is no harm, so that nothing waits for the disk.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    folder: Option<PathBuf>,
    entries: BTreeMap<(Key, u64), (Rendered, usize)>,
    bytes: usize,
}

impl Shelf {
    /// What lies in a folder. A file that cannot be read is passed over.
    pub(super) fn open(folder: PathBuf, writes: bool) -> Self {
        let mut shelf = Self::default();
        let files = fs::read_dir(&folder).into_iter().flatten().flatten();
        for file in files {
            let Some((key, entry, bytes)) = read(&file.path()) else { continue };
            shelf.bytes += bytes;
            shelf.entries.insert((key, entry.generation), (entry.rendered, bytes));
        }
        shelf.folder = writes.then_some(folder);
        shelf
    }

    pub(super) fn get(&self, key: &Key, generation: u64) -> Option<&Rendered> {
        self.entries.get(&(key.clone(), generation)).map(|(rendered, _)| rendered)
    }

    /// Keeps what was run of a generation.
    pub(super) fn put(&mut self, key: &Key, generation: u64, rendered: Rendered) {
        let entry = Entry {
            kind: key.kind.as_str().to_owned(),
            namespace: key.id.namespace().to_owned(),
            name: key.id.name().to_owned(),
            generation,
            rendered,
        };
        let Ok(text) = serde_json::to_vec(&entry) else { return };
        if text.len() > LARGEST {
            return;
        }
        if let Some(folder) = &self.folder
            && let Err(error) = write(folder, &path(folder, key, generation), &text)
        {
            tracing::warn!(error = chain(&error), "what was rendered could not be kept");
        }
        let before = self.entries.insert((key.clone(), generation), (entry.rendered, text.len()));
        self.bytes = self.bytes + text.len() - before.map_or(0, |(_, bytes)| bytes);
        while self.entries.len() > MOST || self.bytes > MOST_BYTES {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = self.entries.iter().min_by(|a, b| a.1.0.at.cmp(&b.1.0.at));
        let Some(((key, generation), (_, bytes))) = oldest.map(|(of, entry)| (of.clone(), entry.clone()))
        else {
            return;
        };
        if let Some(folder) = &self.folder {
            let _ = fs::remove_file(path(folder, &key, generation));
        }
        self.entries.remove(&(key, generation));
        self.bytes -= bytes;
    }
}

fn read(path: &Path) -> Option<(Key, Entry, usize)> {
    let text = fs::read(path).ok().filter(|text| text.len() <= LARGEST)?;
    let entry: Entry = serde_json::from_slice(&text).ok()?;
    let key = Key::new(Kind::of(&entry.kind)?, &entry.namespace, &entry.name).ok()?;
    Some((key, entry, text.len()))
}

fn path(folder: &Path, key: &Key, generation: u64) -> PathBuf {
    let digest = Digest::of([key.to_string().as_bytes(), &generation.to_le_bytes()]);
    folder.join(format!("{}.json", digest.as_str()))
}

fn write(folder: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(at: &str, size: usize) -> Rendered {
        let fragments = BTreeMap::from([("backend a".to_owned(), "x".repeat(size))]);
        let pieces = Pieces { digest: "d".to_owned(), fragments };
        Rendered { at: at.to_owned(), targets: BTreeMap::from([("edge".to_owned(), pieces)]) }
    }

    #[test]
    fn it_is_there_again_and_the_oldest_goes_beyond_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::new(Kind::Route, "shop", "web").unwrap();
        let mut shelf = Shelf::open(folder.path().join("rendered"), true);
        let size = LARGEST - 1_000;
        let fits = u64::try_from(MOST_BYTES / size).unwrap();
        for generation in 1..=fits + 2 {
            shelf.put(&key, generation, rendered(&format!("{generation:05}"), size));
        }
        shelf.put(&key, 999, rendered("99999", LARGEST));
        let again = Shelf::open(folder.path().join("rendered"), true);
        for shelf in [&shelf, &again] {
            assert!(shelf.get(&key, 1).is_none() && shelf.get(&key, 999).is_none());
            assert_eq!(shelf.get(&key, fits + 2).unwrap().targets["edge"].digest, "d");
            assert!(shelf.bytes <= MOST_BYTES, "{}", shelf.bytes);
        }
        assert_eq!(shelf.bytes, again.bytes);
    }
}
