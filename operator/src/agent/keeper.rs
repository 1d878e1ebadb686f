//! What there is beside an agent: the proxy's master, version, files, and what it runs, read back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_core::bundle::{Bundle, RUN, Receipt};
use interlock_core::model::Digest;
use interlock_core::patch::Patch;
use interlock_core::protocol::{OldWorkers, ProxyFacts};
use interlock_crds::ProxyKind;

use super::boot::PutOff;
use super::checker::{self, Version};
use super::durable::Durable;
use super::files::Layout;
use super::haproxy::{Socket, Worker};
use super::live::Remembered;
use super::process::{self, Master};
use super::supervisor::Supervisor;
use super::workers::{self, Workers};
use super::{Options, POLL, limits, main_file, nginx};

/// A proxy that was started this recently may still be about to open its socket.
const STARTING: Duration = Duration::from_secs(5);
/// A living master that cannot be read for this long is not one.
const UNREADABLE: Duration = Duration::from_secs(2);

/// Keeps one proxy in step; the only one who touches it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) options: Arc<Options>,
    pub(super) supervisor: Option<Arc<Supervisor>>,
    pub(super) version: Option<(PathBuf, Option<u64>, Version)>,
    /// The process that was last told of.
    known: Option<Master>,
    /// Whether the last apply ended with everything read back that its bundle has.
    pub(super) sure: bool,
    /// Of HAProxy's worker, between two changes.
    pub(super) remembered: Remembered,
    workers: Workers,
    /// The drain time of what runs.
    drain: Option<Duration>,
    /// The bundle that was applied last, as far as this operator's connection has seen it; its record on disk says
    /// the same.
    pub(super) applied: Option<Arc<Bundle>>,
    /// What runs and what the proxy does not boot into yet.
    pub(super) put_off: Option<PutOff>,
    pub(super) durable: Durable,
}

/// What serves now.
pub(super) enum Running {
    Haproxy { worker: Option<Worker> },
    Nginx { digest: Option<Digest>, workers: Vec<u32> },
}

impl Running {
    pub(super) fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Haproxy { worker } => worker.as_ref()?.digest.as_ref(),
            Self::Nginx { digest, .. } => digest.as_ref(),
        }
    }

    /// Whether somebody takes requests; a proxy that was told to stop only finishes what it has.
    pub(super) fn takes_requests(&self) -> bool {
        match self {
            Self::Haproxy { worker } => worker.is_some(),
            Self::Nginx { workers, .. } => !workers.is_empty(),
        }
    }

    /// The age of the youngest worker.
    pub(super) fn age(&self) -> Option<Duration> {
        match self {
            Self::Haproxy { worker } => process::age(worker.as_ref()?.pid),
            Self::Nginx { workers, .. } => workers.iter().filter_map(|pid| process::age(*pid)).min(),
        }
    }
}

impl Keeper {
    /// A keeper of the proxy that the options describe, or that a supervisor owns.
    pub(super) fn new(options: Arc<Options>, supervisor: Option<Arc<Supervisor>>) -> Self {
        Self {
            options,
            supervisor,
            version: None,
            known: None,
            sure: false,
            remembered: Remembered::default(),
            workers: Workers::default(),
            drain: None,
            applied: None,
            put_off: None,
            durable: Durable::new(),
        }
    }

    /// The proxy's master. While it executes itself, which each of HAProxy's reloads is, it cannot be read for a
    /// moment, and its workers look like masters: one that is known to live is never looked for elsewhere.
    pub(super) async fn master(&self) -> Result<Option<Master>, String> {
        let deadline = Instant::now() + UNREADABLE;
        loop {
            let known = self.known.as_ref().filter(|known| known.alive());
            let (found, lives) = match (&self.supervisor, known) {
                (Some(supervisor), _) => (supervisor.master(), supervisor.lives()),
                (None, Some(known)) => (process::at(known.pid, known.kind), true),
                (None, None) => {
                    (process::find(self.options.proxy, self.options.config.as_deref()).await?, false)
                }
            };
            if found.is_some() || !lives || Instant::now() > deadline {
                return Ok(found);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) fn kind(&self, master: Option<&Master>) -> Result<ProxyKind, String> {
        let owned = self.supervisor.as_ref().map(|supervisor| supervisor.kind);
        master
            .map(|master| master.kind)
            .or(owned)
            .or(self.options.proxy)
            .ok_or_else(|| "no proxy runs here: neither haproxy nor nginx was found".to_owned())
    }

    /// What the proxy's binary says of itself; asked once for each start of a proxy.
    async fn version(&mut self, master: Option<&Master>) -> Result<Version, String> {
        let kind = self.kind(master)?;
        let exe = match (master, &self.supervisor) {
            (Some(master), _) => master.exe.clone(),
            (None, Some(supervisor)) => PathBuf::from(supervisor.argv.first().cloned().unwrap_or_default()),
            (None, None) => PathBuf::from(kind.as_str()),
        };
        let started = master.map(|master| master.started);
        match &self.version {
            Some((of, since, version)) if *of == exe && *since == started => Ok(version.clone()),
            _ => {
                let version = checker::version(&exe, kind, self.options.timing.check).await?;
                self.version = Some((exe, started, version.clone()));
                Ok(version)
            }
        }
    }

    pub(super) async fn layout(&mut self, master: Option<&Master>) -> Result<Layout, String> {
        let named = match (&self.supervisor, &self.options.config, master) {
            (Some(supervisor), ..) => Some(supervisor.config.clone()),
            (None, Some(config), _) => Some(config.clone()),
            (None, None, Some(master)) => {
                if process::values(&master.argv, "-f").len() > 1 {
                    return Err(
                        "the proxy was started with several `-f` files; Interlock needs it to have one"
                            .into(),
                    );
                }
                master.config()
            }
            (None, None, None) => None,
        };
        let main = match named {
            Some(main) => main,
            None => self
                .version(master)
                .await?
                .built_in_config
                .ok_or("the proxy's configuration file is not known")?,
        };
        if main.is_dir() {
            return Err(format!(
                "the proxy's configuration {} is a folder; Interlock needs a file",
                main.display()
            ));
        }
        let root = rustix::process::geteuid().is_root();
        let ids = master.filter(|master| root && master.uid != 0).map(|master| (master.uid, master.gid));
        Layout::new(&self.options, main, ids)
    }

    /// The proxy's version, whether it runs, and what; a text where the agent cannot work.
    pub(super) async fn facts(&mut self) -> Result<ProxyFacts, String> {
        self.applied = None;
        let master = self.master().await?;
        self.put_off.take_if(|put_off| !put_off.runs_in(master.as_ref()));
        let version = self.version(master.as_ref()).await?;
        self.known.clone_from(&master);
        let layout = self.layout(master.as_ref()).await?;
        let main = layout.main_content().ok().flatten().unwrap_or_default();
        self.drain = workers::drain_of(&String::from_utf8_lossy(&main));
        let receipt = match &master {
            Some(master) => self.receipt(master, &layout).await,
            None => None,
        };
        // A proxy that is about to be started will have what its agent has.
        let limits = master.as_ref().and_then(|master| limits::of(master.pid));
        let limits = limits.or_else(|| limits::of(std::process::id()));
        Ok(ProxyFacts { abilities: version.abilities, running: master.is_some(), limits, receipt })
    }

    /// Notes what the proxy has loaded.
    pub(super) fn loaded(&mut self, main: &str) {
        self.drain = workers::drain_of(main);
    }

    /// Begins with an operator, which understands news of old workers or not.
    pub(super) fn greet(&mut self, understands: bool) {
        self.workers.greet(understands);
    }

    /// The old workers, if they are others than the operator was told; looked at once a second unless `now`.
    pub(super) fn old_workers(&mut self, now: bool) -> Option<OldWorkers> {
        let master = match &self.supervisor {
            Some(supervisor) => supervisor.master(),
            None => self.known.clone(),
        };
        self.workers.news(master.as_ref(), self.drain, now)
    }

    /// The bundle that a patch makes of the one that was applied last; none: it is for another one.
    pub(super) fn patched(&self, patch: Patch) -> Option<Bundle> {
        patch.over(self.applied.as_deref()?).ok()
    }

    /// The bundle that was applied last, read from its record where this connection has applied none yet.
    pub(super) fn before(&mut self, layout: &Layout) -> Option<Arc<Bundle>> {
        if self.applied.is_none() {
            self.applied = layout.applied().map(Arc::new);
        }
        self.applied.clone()
    }

    /// New facts, if the proxy has started, restarted or gone since it was last told of.
    pub(super) async fn changed(&mut self) -> Option<ProxyFacts> {
        let same = match (&self.known, &self.supervisor) {
            (Some(known), _) => known.alive(),
            (None, _) => self.master().await.ok()?.is_none(),
        };
        if same {
            return None;
        }
        let before = self.known.take();
        let facts = self.facts().await.ok();
        if facts.is_none() {
            self.known = before;
        }
        facts
    }

    /// What runs, read back.
    async fn receipt(&self, master: &Master, layout: &Layout) -> Option<Receipt> {
        let applied = layout.applied();
        let running = self.running(Some(master), layout, applied.as_ref(), None).await;
        let digest = running.digest()?.clone();
        let bundle = applied.filter(|applied| applied.static_digest == digest);
        let bundle = bundle.or_else(|| layout.noted(&digest));
        let Running::Haproxy { worker } = &running else {
            let bundle = bundle?;
            let live = bundle.live.clone();
            return Some(Receipt::of(&bundle, live));
        };
        let socket = self.socket(layout, bundle.as_ref())?;
        let state = socket.state(worker.as_ref()?, bundle.as_ref()).await.ok()?;
        Some(match &bundle {
            Some(bundle) => Receipt::of(bundle, state.live(bundle, layout.secrets())),
            None => Receipt::unshaped(digest, state.unknown()),
        })
    }

    /// The runtime socket of what runs: as the last applied bundle has it, or as the main file says.
    fn socket(&self, layout: &Layout, applied: Option<&Bundle>) -> Option<Socket> {
        let run = self.options.run.to_string_lossy();
        let of_applied = applied.and_then(|applied| {
            let fragments = applied.fragments.iter().filter(|one| one.file == main_file(applied.proxy));
            let mut texts = fragments.map(|fragment| fragment.text.replace(RUN, &run));
            texts.find_map(|text| Socket::of(&text, &self.options.run))
        });
        of_applied.or_else(|| {
            let main = layout.main_content().ok()??;
            Socket::of(&String::from_utf8_lossy(&main), &self.options.run)
        })
    }

    /// Asks what serves now; a proxy that was just started is given the time to say so.
    pub(super) async fn running(
        &self,
        master: Option<&Master>,
        layout: &Layout,
        applied: Option<&Bundle>,
        wanted: Option<&Bundle>,
    ) -> Running {
        let Some(master) = master else {
            return Running::Haproxy { worker: None };
        };
        loop {
            let (running, expected) = self.at_once(master, layout, applied, wanted).await;
            let young = process::age(master.pid).is_some_and(|age| age < STARTING);
            if !(expected && young && master.alive()) {
                return running;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks what serves now, and whether more is to be expected of it.
    pub(super) async fn at_once(
        &self,
        master: &Master,
        layout: &Layout,
        applied: Option<&Bundle>,
        wanted: Option<&Bundle>,
    ) -> (Running, bool) {
        let port = applied.and_then(|applied| applied.confirm_port);
        let socket = self.socket(layout, applied);
        match master.kind {
            ProxyKind::Haproxy => {
                let worker = match &socket {
                    Some(socket) => socket.worker().await,
                    None => None,
                };
                let waits = worker.is_none() && socket.is_some();
                (Running::Haproxy { worker }, waits)
            }
            ProxyKind::Nginx => {
                let mut digest = None;
                for port in port.into_iter().chain(wanted.and_then(|wanted| wanted.confirm_port)) {
                    if digest.is_none() {
                        digest = nginx::digest(port).await;
                    }
                }
                let workers = master.accepting_workers();
                let waits = workers.is_empty() || digest.is_none() && port.is_some();
                (Running::Nginx { digest, workers }, waits)
            }
        }
    }
}
