//! The agent: the code beside a proxy that probes, stages, checks, activates, reads back and reports.
//!
//! It has no Docker code. Three transports reach it and all end in [`serve`]: a socket pair
//! ([`run_embedded`]), a unix socket ([`run_listener`]), standard input and output through Docker exec
//! ([`run_stdio`]). What an operator sends is outside input: bounded, verified, never trusted.

mod activate;
mod apply;
mod boot;
mod certificates;
mod checker;
mod commands;
mod durable;
mod entry;
mod files;
mod haproxy;
mod host;
mod housekeeping;
mod keeper;
mod limits;
mod live;
mod lock;
mod nginx;
mod ports;
mod prober;
mod process;
mod reloads;
mod server;
mod shown;
mod state;
mod supervisor;
mod workers;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use interlock_crds::ProxyKind;

pub use entry::{run_embedded, run_listener, run_stdio, supervised_argv};
pub use server::{Agent, serve};

/// How an agent finds its proxy and where it keeps its things.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which proxy it keeps; none: whichever is found running.
    pub proxy: Option<ProxyKind>,
    /// The proxy's main configuration file; none: the one that the running proxy was started with. Where
    /// several proxies run, it also tells which one is meant.
    pub config: Option<PathBuf>,
    /// Generations, the record of the owner and the lock. Survives a restart of the proxy.
    pub state: PathBuf,
    /// Runtime sockets and pid files; given to the proxy's user.
    pub run: PathBuf,
    /// Certificates with their keys, 0600 for the proxy's user. A memory file system mounted here keeps
    /// them off the disk, at the price that a proxy that restarts after its loss waits for the operator.
    pub secrets: PathBuf,
    /// Ports of the first configuration, which answers 503 until an operator has spoken.
    pub first_ports: Vec<u16>,
    /// Whether the configuration may lie on a mounted volume. A file that is itself a mount point can
    /// never be replaced atomically and is always refused.
    pub mounted_config: bool,
    /// Deadlines.
    pub timing: Timing,
    /// Called at each step of an apply, for tests of what a sudden death there leaves behind.
    pub fault: Fault,
}

/// Between two looks at a proxy that is about to change.
const POLL: Duration = Duration::from_millis(3);

/// Deadlines of an agent.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A checker that takes longer is killed.
    pub check: Duration,
    /// From the reload signal to a new worker with the right digest.
    pub confirm: Duration,
    /// How long an old worker that still takes connections holds up the receipt of a reload.
    pub handover: Duration,
    /// How long a silent owner keeps the proxy from an operator of another name.
    pub grace: Duration,
    /// How long a predecessor may take to let go before its process is killed.
    pub takeover: Duration,
    /// How long a proxy may finish its connections when the agent is told to stop.
    pub stop: Duration,
    /// Between two looks at whether the proxy still runs and whether a successor waits.
    pub watch: Duration,
    /// How long what the proxy boots into may show endpoints that were withdrawn.
    pub put_off: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            check: Duration::from_secs(30),
            confirm: Duration::from_secs(10),
            handover: Duration::from_secs(2),
            grace: Duration::from_mins(1),
            takeover: Duration::from_secs(5),
            stop: Duration::from_secs(8),
            watch: Duration::from_millis(100),
            put_off: Duration::from_secs(10),
        }
    }
}

/// A test's hook into the steps of an apply.
#[derive(Clone, Default)]
pub struct Fault(Option<Arc<dyn Fn(Step) + Send + Sync>>);

impl Fault {
    /// Calls this at every step; what it does there is done before the next one.
    pub fn at(step: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(step)))
    }

    fn pass(&self, step: Step) {
        if let Some(hook) = &self.0 {
            hook(step);
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fault").field(&self.0.is_some()).finish()
    }
}

/// The steps of an apply, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Some files of the new generation are written, not all.
    Writing,
    /// All files of the new generation are written.
    Written,
    /// The checker passed it, or did not need to be asked.
    Checked,
    /// The main file is the new one.
    Switched,
    /// The proxy was told: a reload is confirmed or live commands have been sent.
    Activated,
}

impl Options {
    /// Options for a proxy in a container or on this machine, with the usual folders.
    pub fn new(proxy: Option<ProxyKind>) -> Self {
        Self {
            proxy,
            config: None,
            state: PathBuf::from("/var/lib/interlock/agent"),
            run: PathBuf::from("/run/interlock"),
            secrets: PathBuf::from("/run/interlock/secrets"),
            first_ports: vec![80],
            mounted_config: false,
            timing: Timing::default(),
            fault: Fault::default(),
        }
    }
}

/// Why an agent could not do its work at all.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A folder, socket or signal could not be set up.
    #[error("{what}: {source}")]
    Setup {
        /// What was being done, for people.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The options do not fit together.
    #[error("{0}")]
    Options(String),
    /// The connection to the operator broke or was not spoken as agreed.
    #[error(transparent)]
    Wire(#[from] crate::wire::WireError),
}

impl AgentError {
    fn setup(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Setup { what, source }
    }
}

/// The name of a proxy's main file in a bundle.
pub const fn main_file(kind: ProxyKind) -> &'static str {
    match kind {
        ProxyKind::Haproxy => "haproxy.cfg",
        ProxyKind::Nginx => "nginx.conf",
    }
}
