//! Owning a proxy: started, restarted when it dies, stopped gracefully; and what a first process owes its orphans.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_crds::ProxyKind;
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::process::{self, Master};

/// The first wait before a proxy that died is started again; it doubles.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest such wait.
const BACKOFF_CEILING: Duration = Duration::from_secs(10);
/// A proxy that ran this long starts the waits from their beginning.
const STEADY: Duration = Duration::from_secs(10);
/// Between two looks at a proxy that an earlier agent started.
const LOOK: Duration = Duration::from_millis(100);

/// Keeps one proxy running.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// Which proxy.
    pub(super) kind: ProxyKind,
    /// Its arguments, the program first.
    pub(super) argv: Vec<String>,
    /// Its main file.
    pub(super) config: PathBuf,
    stop_within: Duration,
    pid: watch::Sender<Option<u32>>,
    kick: Notify,
    stop: CancellationToken,
}

enum Running {
    Child(Child),
    /// Started by an earlier agent that died; not a child of this one.
    Adopted(Master),
}

impl Supervisor {
    /// A supervisor for a proxy started by `argv` with the main file `config`; [`Self::run`] does the work.
    pub(super) fn new(kind: ProxyKind, argv: Vec<String>, config: &Path, stop_within: Duration) -> Arc<Self> {
        Arc::new(Self {
            kind,
            argv,
            config: config.to_owned(),
            stop_within,
            pid: watch::channel(None).0,
            kick: Notify::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The master, while it runs.
    pub(super) fn master(&self) -> Option<Master> {
        let pid = *self.pid.borrow();
        process::at(pid?, self.kind)
    }

    /// Whether the process that was started last still lives, readable or not.
    pub(super) fn lives(&self) -> bool {
        let pid = *self.pid.borrow();
        pid.and_then(process::stat).is_some_and(|stat| stat.state != 'Z')
    }

    /// Starts a proxy that waits to be started again right now.
    pub(super) fn start_now(&self) {
        self.kick.notify_one();
    }

    /// Whether it was told to stop the proxy.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Stops the proxy gracefully; [`Self::run`] then returns.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Starts the proxy, and again whenever it dies, until told to stop.
    pub(super) async fn run(&self) {
        let mut backoff = BACKOFF;
        while !self.stop.is_cancelled() {
            let begun = Instant::now();
            match self.start().await {
                Ok(running) => {
                    if self.attend(running).await {
                        return;
                    }
                    tracing::warn!(proxy = self.kind.as_str(), "the proxy ended and is started again");
                }
                Err(err) => {
                    tracing::error!(program = ?self.argv.first(), %err, "the proxy cannot be started");
                }
            }
            if begun.elapsed() > STEADY {
                backoff = BACKOFF;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_CEILING),
                () = self.kick.notified() => backoff = BACKOFF,
                () = self.stop.cancelled() => {}
            }
        }
    }

    async fn start(&self) -> std::io::Result<Running> {
        if let Ok(Some(master)) = process::find(Some(self.kind), Some(&self.config)).await {
            tracing::info!(pid = master.pid, "the proxy still runs and is kept");
            self.pid.send_replace(Some(master.pid));
            return Ok(Running::Adopted(master));
        }
        let (program, arguments) = self.argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        // A process group of its own: a terminal's Ctrl-C reaches the agent alone, which stops the proxy gently,
        // and workers whose master was killed can be found.
        let child = Command::new(program).args(arguments).process_group(0).stdin(Stdio::null()).spawn()?;
        self.pid.send_replace(child.id());
        Ok(Running::Child(child))
    }

    /// Waits for the proxy's end; true when it was asked for.
    async fn attend(&self, mut running: Running) -> bool {
        let pid = *self.pid.borrow();
        let asked = tokio::select! {
            () = ended(&mut running) => false,
            () = self.stop.cancelled() => true,
        };
        if let Some(pid) = pid {
            if asked {
                self.end(pid, &mut running).await;
            } else {
                // nginx's workers outlive a killed master and keep its ports.
                signal_group(pid, gentle(self.kind));
            }
        }
        self.pid.send_replace(None);
        asked
    }

    async fn end(&self, pid: u32, running: &mut Running) {
        for (signal, within) in [
            (gentle(self.kind), self.stop_within),
            (Signal::TERM, Duration::from_secs(1)),
            (Signal::KILL, Duration::from_secs(1)),
        ] {
            process::signal(pid, signal);
            if tokio::time::timeout(within, ended(running)).await.is_ok() {
                return;
            }
        }
    }
}

async fn ended(running: &mut Running) {
    match running {
        Running::Child(child) => {
            let _ = child.wait().await;
        }
        Running::Adopted(master) => {
            while master.alive() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// The signal that lets a proxy finish what it has.
const fn gentle(kind: ProxyKind) -> Signal {
    match kind {
        ProxyKind::Haproxy => Signal::USR1,
        ProxyKind::Nginx => Signal::QUIT,
    }
}

fn signal_group(leader: u32, signal: Signal) {
    if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

/// Reaps orphans for ever where this process is the first of its pid namespace. Its own children are reaped by
/// whoever waits for them, within moments: only what is still unreaped at the next look is an orphan.
pub(super) async fn reap_orphans() {
    if std::process::id() != 1 {
        return std::future::pending().await;
    }
    let mut seen = BTreeSet::new();
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let dead: BTreeSet<u32> = process::pids()
            .into_iter()
            .filter(|pid| process::stat(*pid).is_some_and(|stat| stat.parent == 1 && stat.state == 'Z'))
            .collect();
        for pid in dead.intersection(&seen) {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            let _ = rustix::process::waitpid(pid, WaitOptions::NOHANG);
        }
        seen = dead;
    }
}
