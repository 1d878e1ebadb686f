//! Objects in a directory: a log of batches, each on one line with its digest, forced to disk before it counts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interlock_core::model::Digest;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::object::{Batch, Content, Unread};
use super::{Backend, StoreError};
use crate::chain::chain;

/// The format of the file; a newer one is refused.
const VERSION: u32 = 2;
/// The log is written anew when it is larger than this and several times what it was when it was last.
const LARGE: u64 = 64 * 1024;
const TIMES: u64 = 4;
/// How long an operator that is about to end may keep the directory.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    format: String,
    version: u32,
}

const FORMAT: &str = "interlock.dev/objects";

/// A directory with a log of objects. Nobody else has it meanwhile.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    log: File,
    /// How long the log is, as far as it counts.
    length: u64,
    /// How long it was when it was last written anew.
    fresh: u64,
    /// A write failed, and nobody knows what of it is on disk.
    broken: bool,
    _lock: File,
}

impl Directory {
    /// Opens the log in `directory`, or begins it; what it holds comes with it.
    pub fn open(directory: &Path) -> Result<(Self, Content), StoreError> {
        let path = directory.join("objects.log");
        let failed = |source| StoreError::Io { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = lock(directory)?;
        if !path.try_exists().map_err(failed)? {
            replace(&path, &Content::default()).map_err(failed)?;
        }
        let mut log = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let mut text = Vec::new();
        log.read_to_end(&mut text).map_err(failed)?;
        let Log { version, content, length } = read(&path, &text)?;
        if length < text.len() as u64 {
            // The end of a write that nobody was told is done.
            tracing::warn!(path = %path.display(), bytes = text.len() as u64 - length, "an unfinished write is dropped");
            log.set_len(length).and_then(|()| log.sync_all()).map_err(failed)?;
        }
        log.seek(SeekFrom::Start(length)).map_err(failed)?;
        let mut directory = Self { path, log, length, fresh: length, broken: false, _lock: lock };
        if version < VERSION {
            // What follows could not be read by whoever wrote it, and the file must say so.
            directory.renew(&content).map_err(|error| directory.error(error))?;
        }
        Ok((directory, content))
    }

    /// What the directory holds, without taking it: for whoever only looks.
    pub fn look(directory: &Path) -> Result<Content, StoreError> {
        let path = directory.join("objects.log");
        match fs::read(&path) {
            Ok(text) => Ok(read(&path, &text)?.content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Content::default()),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    fn append(&mut self, line: &str) -> Result<(), StoreError> {
        let failed = |source| StoreError::Io { path: self.path.clone(), source };
        if let Err(error) = self.log.write_all(line.as_bytes()) {
            // A full disk: what is there of it goes again, and the next write may have more luck.
            let undone =
                self.log.set_len(self.length).and_then(|()| self.log.seek(SeekFrom::Start(self.length)));
            self.broken = undone.is_err();
            return Err(failed(error));
        }
        if let Err(error) = self.log.sync_data() {
            // After a failed sync nobody knows what is on disk, and trying again would not tell.
            self.broken = true;
            return Err(failed(error));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Writes the log anew when most of it is past.
    fn tidy(&mut self, after: &Content) {
        if self.length < LARGE || self.length < self.fresh.saturating_mul(TIMES) {
            return;
        }
        if let Err(error) = self.renew(after) {
            // Whether the name leads to the old file or to the new one is not known.
            self.broken = true;
            tracing::error!(path = %self.path.display(), error = chain(&error), "the store could not be written anew");
        }
    }

    fn renew(&mut self, content: &Content) -> io::Result<()> {
        let length = replace(&self.path, content)?;
        let mut log = OpenOptions::new().read(true).write(true).open(&self.path)?;
        log.seek(SeekFrom::Start(length))?;
        (self.log, self.length, self.fresh) = (log, length, length);
        Ok(())
    }
}

impl Backend for Directory {
    fn commit(&mut self, batch: &Batch, after: &Content) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken { path: self.path.clone() });
        }
        let line = batch.to_line().map_err(|error| self.error(error.into()))?;
        self.append(&sealed(&line))?;
        self.tidy(after);
        Ok(())
    }
}

impl Directory {
    fn error(&self, source: io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), source }
    }
}

/// The directory for this process alone; an operator that is ending is waited for.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("objects.lock");
    let failed = |source| StoreError::Io { path: path.clone(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::Busy { path: directory.to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// A line with its digest in front.
fn sealed(line: &str) -> String {
    format!("{} {line}\n", Digest::of([line.as_bytes()]).as_str())
}

/// What a sealed line says, if it is whole.
fn opened(line: &[u8]) -> Option<&str> {
    let (digest, text) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (Digest::of([text.as_bytes()]).as_str() == digest).then_some(text)
}

/// Puts a log with this content in the place of whatever is there; how long it is.
fn replace(path: &Path, content: &Content) -> io::Result<u64> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let head = Head { format: FORMAT.to_owned(), version: VERSION };
    let mut text = sealed(&serde_json::to_string(&head)?);
    if content.revision > 0 {
        text.push_str(&sealed(&content.whole().to_line()?));
    }
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()?;
    Ok(text.len() as u64)
}

/// What a log says, and how much of it counts.
struct Log {
    version: u32,
    content: Content,
    length: u64,
}

/// Reads a log: a broken end is a write that nobody was told is done, a broken line
/// before good ones is damage.
fn read(path: &Path, text: &[u8]) -> Result<Log, StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let mut content = Content::default();
    let first = text.split_inclusive(|byte| *byte == b'\n').next();
    let head = first.and_then(|line| opened(line.strip_suffix(b"\n")?));
    let head = head.ok_or_else(|| damaged("it does not begin as a store does".to_owned()))?;
    let head: Head = serde_json::from_str(head).map_err(|error| damaged(error.to_string()))?;
    if head.version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: head.version, known: VERSION });
    }
    let (mut at, mut counts, mut broken) = (0_u64, 0_u64, None);
    for (number, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        at += line.len() as u64;
        let Some(whole) = line.strip_suffix(b"\n").and_then(opened) else {
            broken = broken.or(Some(number + 1));
            continue;
        };
        if let Some(broken) = broken {
            return Err(damaged(format!("line {broken} is not what was written")));
        }
        counts = at;
        if number == 0 {
            continue;
        }
        let batch = Batch::from_line(whole).map_err(|error| match error {
            Unread::Form(why) => damaged(format!("line {}: {why}", number + 1)),
            Unread::Document(document, why) => StoreError::Unknown { path: path.to_owned(), document, why },
        })?;
        content.take(&batch);
    }
    Ok(Log { version: head.version, content, length: counts })
}

#[cfg(test)]
mod tests;
