//! One agent per proxy, one operator per agent: a file lock beside a record of the owner.
//!
//! The lock is the kernel's (`flock`), so it goes with its process. The record tells who held it last;
//! its modification time is the last contact. A successor leaves a claim, which the holder looks for
//! between two messages; one that does not let go in time is killed, after the
//! kernel's own table has named it as the holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use interlock_core::protocol::{Declined, Hello};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Timing, files, process};

/// Who holds or claims the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    operator: String,
    epoch: u64,
    pid: u32,
}

/// The right to touch the proxy; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Held {
    _lock: File,
    record: PathBuf,
    claim: PathBuf,
    own: Record,
    beaten: Instant,
}

/// How often a waiting successor tries.
const RETRY: Duration = Duration::from_millis(5);
/// Between two signs of life of the holder.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Takes the proxy for the operator that says hello.
///
/// # Errors
/// The answer that the operator gets instead.
pub(super) async fn acquire(state: &Path, hello: &Hello, timing: &Timing) -> Result<Held, Declined> {
    let unable = |what: &str, err: &io::Error| Declined::Unable { reason: format!("{what}: {err}") };
    std::fs::create_dir_all(state)
        .map_err(|err| unable(&format!("the state folder {} cannot be made", state.display()), &err))?;
    let path = state.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|err| unable(&format!("the lock {} cannot be opened", path.display()), &err))?;
    let own = Record { operator: hello.operator.clone(), epoch: hello.epoch, pid: std::process::id() };
    let record = state.join("owner.json");
    let claim = state.join("claim.json");

    let begun = Instant::now();
    let mut killed = false;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(err)) => return Err(unable("the lock cannot be taken", &err)),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = read(&record).map(|(holder, _)| holder);
        if let Some(holder) = &holder {
            refuse(holder, &own)?;
            if read(&claim).is_none_or(|(claimed, _)| claimed != own) {
                write(&claim, &own).map_err(|err| unable("the claim cannot be written", &err))?;
            }
        }
        if begun.elapsed() > timing.takeover * 2 {
            return Err(Declined::Unable { reason: "the agent before this one does not let go".to_owned() });
        }
        if begun.elapsed() > timing.takeover
            && !killed
            && let Some(holder) = holder
        {
            killed = kill(&holder, &path);
        }
        tokio::time::sleep(RETRY).await;
    }

    if let Some((last, contact)) = read(&record)
        && contact.elapsed().is_ok_and(|silent| silent < timing.grace)
    {
        refuse(&last, &own)?;
    }
    let _ = std::fs::remove_file(&claim);
    write(&record, &own).map_err(|err| unable("the owner's record cannot be written", &err))?;
    Ok(Held { _lock: lock, record, claim, own, beaten: Instant::now() })
}

/// A foreign operator and an older epoch are refused; the same epoch is the same operator calling again.
fn refuse(holder: &Record, own: &Record) -> Result<(), Declined> {
    if holder.operator != own.operator {
        return Err(Declined::ForeignOwner { operator: holder.operator.clone() });
    }
    if own.epoch < holder.epoch {
        return Err(Declined::Superseded { epoch: holder.epoch });
    }
    Ok(())
}

fn read(path: &Path) -> Option<(Record, SystemTime)> {
    let contact = std::fs::metadata(path).ok()?.modified().ok()?;
    Some((serde_json::from_slice(&std::fs::read(path).ok()?).ok()?, contact))
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    files::replace(path, &serde_json::to_vec(record)?, 0o644, None)
}

/// Kills the holder if the kernel names it, another process, as who has the lock.
fn kill(holder: &Record, lock: &Path) -> bool {
    let Ok(inode) = std::fs::metadata(lock).map(|meta| meta.ino()) else { return false };
    let table = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    holder.pid != std::process::id()
        && holders(&table, inode).any(|pid| pid == holder.pid)
        && process::signal(holder.pid, Signal::KILL)
}

/// Who has a `flock` on a file: `N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE …`, process ids as this pid
/// namespace counts them. Unlike a process's open files, this may be read inside a container.
fn holders(table: &str, inode: u64) -> impl Iterator<Item = u32> {
    table.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let of = fields.get(5)?.rsplit(':').next()?.parse::<u64>().ok()?;
        (fields.get(1) == Some(&"FLOCK") && of == inode).then(|| fields.get(4)?.parse().ok()).flatten()
    })
}

impl Held {
    /// The newer epoch that asks for the proxy, if one does; the holder then lets go.
    pub(super) fn claimed(&self) -> Option<u64> {
        let (claim, _) = read(&self.claim)?;
        (claim.operator == self.own.operator && claim.epoch >= self.own.epoch).then_some(claim.epoch)
    }

    /// A sign of life, so that no other operator takes this one for gone.
    pub(super) fn beat(&mut self) {
        if self.beaten.elapsed() >= HEARTBEAT {
            self.touch();
        }
    }

    fn touch(&mut self) {
        self.beaten = Instant::now();
        if let Ok(file) = File::open(&self.record) {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(operator: &str, epoch: u64) -> Hello {
        Hello { protocol: 1, operator: operator.to_owned(), epoch, observes: false }
    }

    fn timing() -> Timing {
        Timing { takeover: Duration::from_millis(200), ..Timing::default() }
    }

    #[tokio::test]
    async fn a_foreign_operator_waits_until_the_record_is_old() {
        let dir = tempfile::tempdir().unwrap();
        drop(acquire(dir.path(), &hello("a", 5), &timing()).await.unwrap());
        let foreign = acquire(dir.path(), &hello("b", 9), &timing()).await.unwrap_err();
        assert_eq!(foreign, Declined::ForeignOwner { operator: "a".to_owned() });
        let impatient = Timing { grace: Duration::ZERO, ..timing() };
        acquire(dir.path(), &hello("b", 1), &impatient).await.unwrap();
    }

    #[tokio::test]
    async fn an_older_epoch_is_superseded_and_a_newer_one_is_let_in_on_its_claim() {
        let dir = tempfile::tempdir().unwrap();
        let held = acquire(dir.path(), &hello("a", 5), &timing()).await.unwrap();
        let older = acquire(dir.path(), &hello("a", 4), &timing()).await.unwrap_err();
        assert_eq!(older, Declined::Superseded { epoch: 5 });
        assert_eq!(held.claimed(), None);

        let path = dir.path().to_owned();
        let newer = tokio::spawn(async move { acquire(&path, &hello("a", 6), &timing()).await });
        let deadline = Instant::now() + Duration::from_secs(5);
        while held.claimed().is_none() {
            assert!(Instant::now() < deadline, "no claim was seen");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(held.claimed(), Some(6));
        drop(held);
        assert_eq!(newer.await.unwrap().unwrap().claimed(), None, "the claim went with the takeover");
    }

    #[test]
    fn only_who_has_the_lock_is_its_holder() {
        let table = "1: POSIX  ADVISORY  WRITE 5 00:30:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 11 00:30:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 00:30:77 0 EOF\n3: FLOCK  ADVISORY  WRITE 13 00:30:78 0 EOF\n";
        assert_eq!(holders(table, 77).collect::<Vec<_>>(), [11]);
    }

    #[tokio::test]
    async fn a_holder_that_never_lets_go_is_reported_and_this_process_is_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        let _held = acquire(dir.path(), &hello("a", 5), &timing()).await.unwrap();
        let err = acquire(dir.path(), &hello("a", 6), &timing()).await.unwrap_err();
        assert!(matches!(err, Declined::Unable { .. }), "{err:?}");
    }
}
