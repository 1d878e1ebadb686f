//! Old workers: how many configurations still run beside the newest, and what their end cuts off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use interlock_core::protocol::OldWorkers;
use interlock_crds::ProxyKind;

use super::process::{self, Master};

/// nginx's workers of one configuration are started within so many hundredths of a second of each other; those of
/// two are not.
const TOGETHER: u64 = 5;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A worker that ends this long before its time was not ended by it.
const EARLY: Duration = Duration::from_secs(2);

/// What is known of the old workers of one proxy.
#[derive(Debug, Default)]
pub(super) struct Workers {
    known: BTreeMap<u32, Old>,
    looked: Option<Instant>,
    /// What the operator of now was told; none: it does not understand it.
    told: Option<u16>,
    cut: u32,
}

#[derive(Debug)]
struct Old {
    started: u64,
    since: Instant,
    /// Connections at the last look; none: they cannot be seen from here.
    connections: Option<u32>,
}

impl Workers {
    /// Begins to tell an operator, or not.
    pub(super) fn greet(&mut self, understands: bool) {
        self.told = understands.then_some(0);
        self.looked = None;
    }

    /// What is to be told, if anything has changed. Looks at most once a second unless `now`.
    pub(super) fn news(
        &mut self,
        master: Option<&Master>,
        drain: Option<Duration>,
        now: bool,
    ) -> Option<OldWorkers> {
        let told = self.told?;
        if !now && self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return None;
        }
        let count = self.look(master, drain);
        if count == told && self.cut == 0 {
            return None;
        }
        self.told = Some(count);
        let first = self.known.values().map(|old| old.since.elapsed()).max();
        let ends_in = drain.zip(first).map(|(drain, age)| drain.saturating_sub(age));
        Some(OldWorkers {
            count,
            ends_in_ms: ends_in.and_then(|left| u64::try_from(left.as_millis()).ok()),
            cut: std::mem::take(&mut self.cut),
        })
    }

    fn look(&mut self, master: Option<&Master>, drain: Option<Duration>) -> u16 {
        self.looked = Some(Instant::now());
        let old = master.map(old_workers).unwrap_or_default();
        let gone: BTreeSet<u32> = self
            .known
            .iter()
            .filter(|(pid, known)| !old.iter().any(|now| now.pid == **pid && now.started == known.started))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in gone {
            if let Some(ended) = self.known.remove(&pid) {
                self.ended(pid, &ended, drain);
            }
        }
        for worker in &old {
            let known = self.known.entry(worker.pid).or_insert_with(|| Old {
                started: worker.started,
                since: Instant::now().checked_sub(worker.replaced).unwrap_or_else(Instant::now),
                connections: None,
            });
            // Counting costs, and what counts is what is open at the end.
            if drain.is_some_and(|drain| known.since.elapsed() + EARLY + LOOK > drain) {
                let now = connections(worker.pid);
                // What it closes at its end it has cut.
                let ends = drain.is_some_and(|drain| known.since.elapsed() >= drain);
                known.connections =
                    if ends { known.connections.max(now.filter(|count| *count > 0)) } else { now };
            }
        }
        let generations = old.chunk_by(|a, b| b.started - a.started < TOGETHER);
        u16::try_from(generations.count()).unwrap_or(u16::MAX)
    }

    fn ended(&mut self, pid: u32, ended: &Old, drain: Option<Duration>) {
        let age = ended.since.elapsed();
        if drain.is_none_or(|drain| age + EARLY < drain) {
            return;
        }
        // It would have ended before if it had none.
        let cut = ended.connections.unwrap_or(1);
        if cut > 0 {
            let after = age.as_secs();
            tracing::warn!(pid, connections = cut, after, "an old worker was ended with connections open");
            self.cut = self.cut.saturating_add(cut);
        }
    }
}

/// A worker of an older configuration.
struct OldWorker {
    pid: u32,
    started: u64,
    /// How long ago another took its place, at least.
    replaced: Duration,
}

/// The workers of a master that are not of its newest configuration, oldest first.
fn old_workers(master: &Master) -> Vec<OldWorker> {
    let stats = process::children(master.pid).filter_map(|pid| Some((pid, process::stat(pid)?)));
    let mut all: Vec<(u32, u64)> =
        stats.filter(|(_, stat)| stat.state != 'Z').map(|(pid, stat)| (pid, stat.started)).collect();
    all.sort_by_key(|(pid, started)| (*started, *pid));
    let successor = |at: usize| all.get(at + 1).and_then(|(pid, _)| process::age(*pid)).unwrap_or_default();
    let old = all.iter().enumerate().filter(|(at, (pid, _))| match master.kind {
        ProxyKind::Haproxy => at + 1 < all.len(),
        ProxyKind::Nginx => process::retires(*pid),
    });
    old.map(|(at, (pid, started))| {
        let replaced = if master.kind == ProxyKind::Haproxy { successor(at) } else { Duration::ZERO };
        OldWorker { pid: *pid, started: *started, replaced }
    })
    .collect()
}

/// A process's established connections over TCP; none where its open files cannot be seen.
fn connections(pid: u32) -> Option<u32> {
    let open: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_str()?.strip_prefix("socket:[")?.to_owned()))
        .map(|inode| inode.trim_end_matches(']').to_owned())
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let tables = tables.into_iter().flatten().collect::<Vec<_>>();
    let rows = tables.iter().flat_map(|table| table.lines());
    let established = rows.filter(|row| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        fields.get(3) == Some(&"01") && fields.get(9).is_some_and(|inode| open.contains(*inode))
    });
    u32::try_from(established.count()).ok()
}

/// The drain time that a configuration sets.
pub(super) fn drain_of(main: &str) -> Option<Duration> {
    main.lines().find_map(|line| {
        let line = line.trim().trim_end_matches(';');
        let value = line
            .strip_prefix("hard-stop-after ")
            .or_else(|| line.strip_prefix("worker_shutdown_timeout "))?;
        value.trim().strip_suffix("ms")?.parse().ok().map(Duration::from_millis)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_time_is_read_of_both_proxies() {
        let read = |text| drain_of(text).map(|drain| drain.as_millis());
        assert_eq!(read("global\n    hard-stop-after 1800000ms\n"), Some(1_800_000));
        assert_eq!(read("worker_shutdown_timeout 5000ms;\n"), Some(5_000));
        assert_eq!(read("global\n"), None);
    }

    #[test]
    fn what_the_drain_time_ends_is_counted_and_what_ends_by_itself_is_not() {
        let old = |ago: u64, connections| Old {
            started: 1,
            since: Instant::now().checked_sub(Duration::from_secs(ago)).unwrap(),
            connections,
        };
        let drain = Some(Duration::from_secs(10));
        for (ago, connections, cut) in
            [(1, None, 0), (1, Some(4), 0), (10, None, 1), (10, Some(4), 4), (10, Some(0), 0)]
        {
            let mut workers = Workers::default();
            workers.ended(7, &old(ago, connections), drain);
            assert_eq!(workers.cut, cut, "{ago} {connections:?}");
        }
    }
}
