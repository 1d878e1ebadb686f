//! HAProxy's master over a reload: when it listens to the signal, and how its reloads went.
//!
//! A reload is two executions of the master (one since 3.1). Until its last image has come to rest it ignores
//! USR2, and a signal that comes then is lost; the new worker answers long before that. Whether the kernel
//! would deliver the signal to a handler can be read by anybody, in a container too. So can whether the old worker has
//! looked at the signal that tells it to stop: until then it takes connections beside the new one.

use std::time::{Duration, Instant};

use interlock_core::plan::Abilities;
use interlock_crds::ProxyKind;
use rustix::process::Signal;

use super::process::{self, Attention, Master};

/// Between two looks at a master.
const LOOK: Duration = Duration::from_millis(2);

/// Whether a master tells the old worker to stop after the new one has answered, and does not listen before it has.
/// Older ones tell it before they start the new one.
pub(super) const fn tells_later(version: Abilities) -> bool {
    version.at_least(3, 1)
}

/// The worker that a reload of HAProxy replaces. Both take connections until it has heard that it shall stop.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) pid: u32,
    started: u64,
    /// How often it had waited when it was first looked at.
    waited: Option<u64>,
}

impl Predecessor {
    /// The youngest worker of a master.
    pub(super) fn of(master: &Master) -> Option<Self> {
        let stats = process::children(master.pid).filter_map(|pid| Some((pid, process::stat(pid)?)));
        let living = stats.filter(|(_, stat)| stat.state != 'Z');
        let youngest = living.max_by_key(|(pid, stat)| (stat.started, *pid))?;
        Some(Self { pid: youngest.0, started: youngest.1.started, waited: None })
    }

    /// Whether it has stopped to take connections, once it was told to. A signal wakes whoever waits, and is acted on
    /// before anything is waited for again.
    pub(super) fn has_stopped(&mut self) -> bool {
        let lives =
            process::stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z');
        let Some(now) = Attention::of(self.pid).filter(|_| lives) else { return true };
        now.waits || *self.waited.get_or_insert(now.waited) != now.waited
    }
}

/// Whether a master would act on a reload signal now.
pub(super) fn listens(master: &Master) -> bool {
    master.kind == ProxyKind::Nginx
        || Attention::of(master.pid).is_some_and(|attention| attention.catches(Signal::USR2))
}

/// Waits until a master listens after a start or a reload; false: it does not within this time.
pub(super) async fn settled(master: &Master, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while !listens(master) {
        if Instant::now() > deadline || !master.alive() {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// Whether a HAProxy master listens and has started no worker since then.
pub(super) fn idle_since(master: &Master, then: Instant) -> bool {
    let younger = |pid| process::age(pid).is_some_and(|age| age <= then.elapsed());
    master.kind == ProxyKind::Haproxy && listens(master) && !process::children(master.pid).any(younger)
}

/// What a master had before a reload signal.
#[derive(Debug)]
pub(super) struct Before {
    total: Option<u32>,
    workers: Vec<u32>,
}

impl Before {
    pub(super) fn of(master: &Master) -> Self {
        Self { total: total(master.pid), workers: process::children(master.pid).collect() }
    }

    /// Whether the reload that followed has failed: the master took the signal and listens again, with no new worker.
    /// Without the right to see its environment nobody can tell.
    pub(super) fn failed(&self, master: &Master) -> bool {
        let taken = total(master.pid).is_some_and(|now| Some(now) != self.total);
        // In this order: once it listens, a worker that came to serve is there.
        taken && listens(master) && process::children(master.pid).all(|pid| self.workers.contains(&pid))
    }
}

/// How often a master was told to reload: it keeps this in its own environment, over the exec that a reload is.
fn total(master: u32) -> Option<u32> {
    parse_total(&process::environment(master, "HAPROXY_PROCESSES")?)
}

fn parse_total(text: &str) -> Option<u32> {
    let master = text.split('|').find(|entry| entry.starts_with("type=m;"))?;
    master.split(';').find_map(|field| field.strip_prefix("reloads=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Lines, Write as _};
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

    use super::*;

    /// A shell that says where it is in its script and reads a line before it goes on.
    struct Shell {
        child: Child,
        said: Lines<BufReader<ChildStdout>>,
        input: ChildStdin,
    }

    impl Shell {
        fn of(script: &str) -> Self {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = shell.spawn().unwrap();
            let said = BufReader::new(child.stdout.take().unwrap()).lines();
            let input = child.stdin.take().unwrap();
            Self { child, said, input }
        }

        fn says(&mut self, text: &str) {
            assert_eq!(self.said.next().unwrap().unwrap(), text);
        }

        fn go_on(&mut self) {
            self.input.write_all(b"go on\n").unwrap();
        }

        fn started(&self) -> u64 {
            process::stat(self.child.id()).unwrap().started
        }

        fn end(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[tokio::test]
    async fn a_master_that_ignores_the_signal_is_waited_for() {
        let mut shell = Shell::of("trap '' USR2; echo ignores; read x; trap : USR2; echo listens; read x");
        let master = Master {
            kind: ProxyKind::Haproxy,
            pid: shell.child.id(),
            started: shell.started(),
            exe: "haproxy".into(),
            argv: Vec::new(),
            cwd: "/".into(),
            uid: 0,
            gid: 0,
        };
        shell.says("ignores");
        assert!(!settled(&master, Duration::from_millis(30)).await);
        shell.go_on();
        shell.says("listens");
        assert!(settled(&master, Duration::from_secs(5)).await);
        shell.end();
        assert!(!settled(&master, Duration::from_secs(5)).await, "it has ended");
    }

    async fn stops(old: &mut Predecessor) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !old.has_stopped() {
            assert!(Instant::now() < deadline, "it is never seen to stop");
            tokio::time::sleep(LOOK).await;
        }
    }

    #[tokio::test]
    async fn an_old_worker_has_stopped_when_it_has_looked_at_the_signal() {
        let mut shell = Shell::of("trap 'echo told' USR1; echo serves; while :; do read x; done");
        let mut old = Predecessor { pid: shell.child.id(), started: shell.started(), waited: None };
        shell.says("serves");
        process::signal(old.pid, Signal::STOP);
        process::signal(old.pid, Signal::USR1);
        assert!(!old.has_stopped(), "it was not given the time to look");
        process::signal(old.pid, Signal::CONT);
        shell.says("told");
        stops(&mut old).await;
        shell.end();
        assert!(old.has_stopped(), "it has ended");
    }

    /// One that works without a break is at work on what it had; a shell cannot wait in between.
    #[tokio::test]
    async fn an_old_worker_that_is_busy_has_not_stopped_before_it_has_waited() {
        let mut shell = Shell::of("echo serves; read x; echo works; while :; do :; done");
        let mut old = Predecessor { pid: shell.child.id(), started: shell.started(), waited: None };
        shell.says("serves");
        shell.go_on();
        shell.says("works");
        assert!(!(0..20).any(|_| old.has_stopped()), "it never waits");
        let waits = old.waited.map(|waited| waited + 1);
        old.waited = waits;
        assert!(old.has_stopped(), "it has waited since");
    }

    #[test]
    fn reloads_are_counted_as_the_master_counts_them() {
        let text =
            "|type=w;fd=3;pid=17;reloads=9;failedreloads=9|type=m;fd=-1;pid=7;reloads=2;failedreloads=1;id=";
        assert_eq!(parse_total(text), Some(2));
    }
}
