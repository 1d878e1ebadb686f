//! Bringing the proxy to a bundle, in this order: stage, check, switch the main file, activate, read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::model::Digest;
use interlock_core::protocol::{Applied, Apply, Outcome, ProxyFacts, Refusal};
use interlock_crds::ProxyKind;
use rustix::process::Signal;

use super::checker::{self, Checked, Version};
use super::files::{self, Generation, Layout};
use super::haproxy::{Commands, Reloads, Socket, Worker};
use super::process::{self, Master};
use super::supervisor::Supervisor;
use super::{Options, Step, haproxy, main_file, nginx, ports};

/// Between two looks at whether a new worker serves.
const POLL: Duration = Duration::from_millis(3);
/// A proxy that was started this recently may still be about to open its socket.
const STARTING: Duration = Duration::from_secs(5);
/// A living master that cannot be read for this long is not one.
const UNREADABLE: Duration = Duration::from_millis(500);
/// A HAProxy master that shows no sign of a reload for this long has lost the signal.
const UNANSWERED: Duration = Duration::from_secs(2);
/// Names of fragments that a reload gives as its reasons, at most.
const REASONS: usize = 50;

/// Keeps one proxy in step; the only one who touches it.
#[derive(Debug)]
pub(super) struct Keeper {
    options: Arc<Options>,
    supervisor: Option<Arc<Supervisor>>,
    version: Option<(PathBuf, Option<u64>, Version)>,
    /// The process that was last told of.
    known: Option<Master>,
}

/// Why an apply ended without a receipt.
enum Stop {
    Refused(Refusal),
    ActivationFailed(String),
    Failed(String),
}

impl From<String> for Stop {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => Self::Refused(refusal),
            Stop::ActivationFailed(reason) => Self::ActivationFailed { reason },
            Stop::Failed(reason) => Self::Failed { reason },
        }
    }
}

/// What serves now.
enum Running {
    Haproxy { worker: Option<Worker> },
    Nginx { digest: Option<Digest>, workers: Vec<u32> },
}

impl Running {
    fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Haproxy { worker } => worker.as_ref()?.digest.as_ref(),
            Self::Nginx { digest, .. } => digest.as_ref(),
        }
    }

    /// The age of the youngest worker.
    fn age(&self) -> Option<Duration> {
        match self {
            Self::Haproxy { worker } => process::age(worker.as_ref()?.pid),
            Self::Nginx { workers, .. } => workers.iter().filter_map(|pid| process::age(*pid)).min(),
        }
    }
}

/// One apply under way.
struct Work<'a> {
    apply: &'a Apply,
    layout: Layout,
    generation: Generation,
    master: Option<Master>,
    running: Running,
    /// The bundle before.
    before: Option<Bundle>,
    /// The main file before.
    main_before: Option<Vec<u8>>,
    secrets: Vec<PathBuf>,
}

impl Work<'_> {
    fn bundle(&self) -> &Bundle {
        &self.apply.bundle
    }

    fn main_after(&self) -> &str {
        self.generation.files.get(main_file(self.bundle().proxy)).map_or("", String::as_str)
    }

    /// Leaves no trace of a bundle that did not come to run.
    fn discard(&self) {
        if self.before.as_ref().is_none_or(|before| before.digest != self.bundle().digest) {
            self.generation.remove();
        }
        for secret in &self.secrets {
            let _ = std::fs::remove_file(secret);
        }
    }

    /// The fragments that differ from the bundle before.
    fn reasons(&self) -> Vec<String> {
        let Some(before) = &self.before else { return vec!["first".to_owned()] };
        let texts = |bundle: &Bundle| -> BTreeMap<String, (String, Vec<String>)> {
            let slots = |backend: &str| -> Vec<String> {
                let slots = bundle.live.servers.get(backend).into_iter().flatten();
                slots.map(|slot| slot.name.to_string()).collect()
            };
            let one = |fragment: &interlock_core::bundle::Fragment| {
                let servers = fragment.servers.as_ref();
                let names = servers.map(|lines| slots(&lines.backend)).unwrap_or_default();
                let parameters = servers.map_or("", |lines| lines.parameters.as_str());
                (fragment.name.clone(), (format!("{}{parameters}", fragment.text), names))
            };
            bundle.fragments.iter().map(one).collect()
        };
        let (old, new) = (texts(before), texts(self.bundle()));
        let mut names: Vec<String> =
            old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).cloned().collect();
        if before.secrets != self.bundle().secrets {
            names.push("certificates".to_owned());
        }
        if !before.live.maps.keys().eq(self.bundle().live.maps.keys()) {
            names.push("maps".to_owned());
        }
        if names.is_empty() {
            // The same bundle, but the proxy runs another configuration.
            names.push("drift".to_owned());
        }
        names.sort();
        names.dedup();
        names.truncate(REASONS);
        names
    }
}

impl Keeper {
    /// A keeper of the proxy that the options describe, or that a supervisor owns.
    pub(super) fn new(options: Arc<Options>, supervisor: Option<Arc<Supervisor>>) -> Self {
        Self { options, supervisor, version: None, known: None }
    }

    /// The proxy's master. While it executes itself, which each of HAProxy's reloads is, it cannot be read for a
    /// moment: what is known to live is looked for again.
    async fn master(&self) -> Result<Option<Master>, String> {
        let deadline = Instant::now() + UNREADABLE;
        loop {
            let (found, lives) = if let Some(supervisor) = &self.supervisor {
                (supervisor.master(), supervisor.lives())
            } else {
                let found = process::find(self.options.proxy, self.options.config.as_deref())?;
                (found, self.known.as_ref().is_some_and(Master::alive))
            };
            if found.is_some() || !lives || Instant::now() > deadline {
                return Ok(found);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn kind(&self, master: Option<&Master>) -> Result<ProxyKind, String> {
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

    async fn layout(&mut self, master: Option<&Master>) -> Result<Layout, String> {
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
        let master = self.master().await?;
        let version = self.version(master.as_ref()).await?;
        self.known.clone_from(&master);
        let layout = self.layout(master.as_ref()).await?;
        let receipt = match &master {
            Some(master) => self.receipt(master, &layout).await,
            None => None,
        };
        Ok(ProxyFacts { abilities: version.abilities, running: master.is_some(), receipt })
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
        let live = match &running {
            Running::Haproxy { worker } => {
                let maps =
                    bundle.as_ref().map(|bundle| bundle.live.maps.keys().map(String::as_str).collect());
                let socket = self.socket(layout, bundle.as_ref())?;
                socket.state(worker.as_ref()?, maps.as_ref()).await.ok()?.live(bundle.as_ref())
            }
            Running::Nginx { .. } => bundle?.live,
        };
        Some(Receipt { digest: live.digest(&digest), static_digest: digest, servers: live.servers })
    }

    /// The runtime socket of what runs: as the last applied bundle has it, or as the main file says.
    fn socket(&self, layout: &Layout, applied: Option<&Bundle>) -> Option<Socket> {
        let of_applied = applied.and_then(|applied| {
            let generation = layout.generation(applied, "gen");
            Socket::of(generation.files.get(main_file(applied.proxy))?, &self.options.run)
        });
        of_applied.or_else(|| {
            let main = layout.main_content().ok()??;
            Socket::of(&String::from_utf8_lossy(&main), &self.options.run)
        })
    }

    /// Asks what serves now; a proxy that was just started is given the time to say so.
    async fn running(
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
            let port = applied.and_then(|applied| applied.confirm_port);
            let socket = self.socket(layout, applied);
            let (running, expected) = match master.kind {
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
            };
            let young = process::age(master.pid).is_some_and(|age| age < STARTING);
            if !(expected && young && master.alive()) {
                return running;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Judges a bundle without touching what runs.
    pub(super) async fn check(&mut self, apply: &Apply) -> Outcome {
        let work = match self.prepare(apply, "check").await {
            Ok(work) => work,
            Err(stop) => return stop.into(),
        };
        let verdict = async {
            work.layout.stage(work.bundle(), &work.generation, false)?;
            work.layout.stage(work.bundle(), &work.generation, true)?;
            self.judge(&work).await
        };
        let outcome = match verdict.await {
            Ok(()) => Outcome::Passed,
            Err(stop) => stop.into(),
        };
        work.generation.remove();
        for secret in &work.secrets {
            let _ = std::fs::remove_file(secret);
        }
        outcome
    }

    /// Brings the proxy to a bundle, whatever it runs now.
    pub(super) async fn apply(&mut self, apply: &Apply) -> Outcome {
        let work = match self.prepare(apply, "gen").await {
            Ok(work) => work,
            Err(stop) => return stop.into(),
        };
        match self.bring(&work).await {
            Ok(applied) => Outcome::Applied(applied),
            Err(stop) => {
                work.discard();
                stop.into()
            }
        }
    }

    /// Looks at everything there is, and writes the secrets that are lacking.
    async fn prepare<'a>(&mut self, apply: &'a Apply, prefix: &str) -> Result<Work<'a>, Stop> {
        files::validate(apply)?;
        let bundle = &apply.bundle;
        let master = self.master().await?;
        let kind = self.kind(master.as_ref())?;
        if bundle.proxy != kind {
            return Err(Stop::Failed(format!(
                "the bundle is for {}, this is {}",
                bundle.proxy.as_str(),
                kind.as_str()
            )));
        }
        if master.is_none() && self.supervisor.is_none() {
            return Err(Stop::Failed(format!("no {} runs here", kind.as_str())));
        }
        let layout = self.layout(master.as_ref()).await?;
        layout.prepare()?;
        let before = layout.applied();
        let running = self.running(master.as_ref(), &layout, before.as_ref(), Some(bundle)).await;
        let generation = layout.generation(bundle, prefix);
        let main_before = layout.main_content()?;
        let secrets = layout.write_secrets(apply)?;
        Ok(Work { apply, layout, generation, master, running, before, main_before, secrets })
    }

    /// Lets the checker judge what is staged.
    async fn judge(&self, work: &Work<'_>) -> Result<(), Stop> {
        let within = self.options.timing.check;
        let verdict = match (&work.master, &self.supervisor) {
            (Some(master), _) => {
                Checked::like(master, work.layout.ids).check(work.bundle(), &work.generation, within).await
            }
            (None, Some(supervisor)) => {
                let exe = PathBuf::from(supervisor.argv.first().cloned().unwrap_or_default());
                let like = Checked { exe: &exe, argv: &supervisor.argv, cwd: Path::new("/"), ids: None };
                like.check(work.bundle(), &work.generation, within).await
            }
            (None, None) => return Err(Stop::Failed("no proxy runs here".to_owned())),
        };
        match verdict? {
            None => Ok(()),
            Some(mut refusal) => {
                refusal.output = without_secrets(&refusal.output, work.apply);
                Err(Stop::Refused(refusal))
            }
        }
    }

    async fn bring(&self, work: &Work<'_>) -> Result<Applied, Stop> {
        let begun = Instant::now();
        let fault = &self.options.fault;
        let bundle = work.bundle();
        let mut edited = work.layout.stage(bundle, &work.generation, false)?;
        fault.pass(Step::Writing).await;
        edited += work.layout.stage(bundle, &work.generation, true)?;
        fault.pass(Step::Written).await;

        let after = work.main_after();
        let switch = work.main_before.as_deref() != Some(after.as_bytes());
        let again = work.before.as_ref().is_some_and(|before| before.digest == bundle.digest);
        let same = work.running.digest() == Some(&bundle.static_digest);
        // Somebody who edits the file and reloads leaves the digest as it was.
        let loaded_edited = again && switch && Self::younger_than_file(work);
        let mut healed = BTreeMap::new();
        if again && (edited > 0 || switch) {
            healed.insert("file".to_owned(), edited + u32::from(switch));
        }
        if switch {
            work.layout.guard_main()?;
        }
        if !same || loaded_edited {
            self.judge(work).await?;
        }
        fault.pass(Step::Checked).await;
        let check_ms = millis(begun);
        if switch {
            work.layout.switch(after.as_bytes())?;
        }
        fault.pass(Step::Switched).await;

        let activating = Instant::now();
        let mut done = Commands::default();
        let mut reload = Vec::new();
        let mut live = None;
        if same && !loaded_edited {
            match self.settle(work, &mut done).await {
                Ok(read) => live = Some(read),
                Err(why) => {
                    tracing::warn!(%why, "the live change did not hold, so the proxy is reloaded");
                    reload.push("live".to_owned());
                }
            }
            // What the same bundle needed commands for was changed by somebody else.
            if again {
                count(&mut healed, "server", done.servers);
                count(&mut healed, "map", done.entries);
            }
        } else {
            reload = work.reasons();
        }
        let live = match live {
            Some(live) => live,
            None => self.activate(work, &mut done).await?,
        };
        fault.pass(Step::Activated).await;

        let receipt = Receipt {
            static_digest: bundle.static_digest.clone(),
            digest: live.digest(&bundle.static_digest),
            servers: live.servers,
        };
        work.layout
            .record(bundle, &work.generation)
            .map_err(|err| Stop::Failed(format!("it runs, but that cannot be recorded: {err}")))?;
        work.layout.collect(bundle);
        let commands = u32::try_from(done.lines.len()).unwrap_or(u32::MAX);
        Ok(Applied { receipt, reload, commands, healed, check_ms, activate_ms: millis(activating) })
    }

    /// Whether a worker was started after the main file was last changed, and so may have loaded that change.
    fn younger_than_file(work: &Work<'_>) -> bool {
        let changed = std::fs::metadata(&work.layout.main).and_then(|meta| meta.modified());
        let edited = changed.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        match (work.running.age(), edited) {
            (Some(worker), Some(file)) => worker <= file,
            _ => false,
        }
    }

    /// Drives the live part of what runs to the bundle's, and reads it back.
    async fn settle(
        &self,
        work: &Work<'_>,
        done: &mut Commands,
    ) -> Result<interlock_core::bundle::Live, String> {
        let bundle = work.bundle();
        if bundle.proxy == ProxyKind::Nginx {
            return Ok(bundle.live.clone());
        }
        let socket = Socket::of(work.main_after(), &self.options.run)
            .ok_or("the configuration has no runtime socket in the run folder")?;
        let state = socket.drive(bundle, done).await.map_err(|err| err.to_string())?;
        Ok(state.live(Some(bundle)))
    }

    /// Makes the proxy load the new main file; undoes the switch when it does not come to serve.
    async fn activate(
        &self,
        work: &Work<'_>,
        done: &mut Commands,
    ) -> Result<interlock_core::bundle::Live, Stop> {
        let confirmed = match self.reload(work).await {
            Ok(()) => self.settle(work, done).await,
            Err(why) => Err(why),
        };
        match confirmed {
            Ok(live) => Ok(live),
            Err(why) => Err(Stop::ActivationFailed(self.undo(work, why).await)),
        }
    }

    /// One reload signal, and then nothing until a new worker serves the digest.
    async fn reload(&self, work: &Work<'_>) -> Result<(), String> {
        let before = work.main_before.as_deref().filter(|_| work.master.is_some()).unwrap_or_default();
        let own = work.master.as_ref().map(|master| master.pid);
        if let Some(busy) = ports::busy(work.main_after(), &String::from_utf8_lossy(before), own) {
            return Err(busy);
        }
        if let Some(master) = &work.master {
            haproxy::settled(master).await;
        }
        let reloads = work.master.as_ref().and_then(|master| Reloads::of(master.pid));
        match (&work.master, &self.supervisor) {
            (Some(master), _) if signal_reload(master) => {}
            (Some(_), None) => return Err("the proxy's master process has ended".to_owned()),
            (_, Some(supervisor)) => supervisor.start_now(),
            (None, None) => return Err("no proxy runs here".to_owned()),
        }
        let deadline = Instant::now() + self.options.timing.confirm;
        let mut unanswered = Instant::now();
        loop {
            if self.confirmed(work).await {
                return Ok(());
            }
            if let Some(master) = work.master.as_ref().filter(|master| master.kind == ProxyKind::Haproxy)
                && unanswered.elapsed() > UNANSWERED
            {
                // No sign of a reload for so long: the signal met the master between two of its own execs.
                if !haproxy::reloading(master.pid) && Reloads::of(master.pid) == reloads {
                    signal_reload(master);
                }
                unanswered = Instant::now();
            }
            if let Some(master) = &work.master {
                if !master.alive() {
                    return Err("the proxy's master process ended while it reloaded".to_owned());
                }
                if Reloads::of(master.pid).is_some_and(|now| now.failed_since(reloads)) {
                    return Err(
                        "the proxy could not start the new configuration; its own log says why".to_owned()
                    );
                }
            }
            if Instant::now() > deadline {
                let within = self.options.timing.confirm.as_secs();
                return Err(format!("no new worker served the new configuration within {within} s"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether a new worker serves the bundle, and no old one takes connections any more.
    async fn confirmed(&self, work: &Work<'_>) -> bool {
        let bundle = work.bundle();
        match &work.running {
            Running::Nginx { workers, .. } => self.nginx_confirmed(bundle, workers).await,
            Running::Haproxy { .. } if bundle.proxy == ProxyKind::Nginx => {
                self.nginx_confirmed(bundle, &[]).await
            }
            Running::Haproxy { worker } => {
                let Some(socket) = Socket::of(work.main_after(), &self.options.run) else { return false };
                let old = worker.as_ref().map(|worker| worker.pid);
                socket.worker().await.is_some_and(|now| {
                    Some(now.pid) != old && now.digest.as_ref() == Some(&bundle.static_digest)
                })
            }
        }
    }

    async fn nginx_confirmed(&self, bundle: &Bundle, old: &[u32]) -> bool {
        let Some(port) = bundle.confirm_port else { return false };
        // New and old workers accept side by side for about 100 ms: only when the old ones have stopped does
        // every new connection meet the new configuration.
        nginx::digest(port).await.as_ref() == Some(&bundle.static_digest)
            && !old.iter().any(|pid| process::accepts(*pid))
    }

    /// Puts the last good files back, and the proxy too if it has left them; the whole story for people.
    async fn undo(&self, work: &Work<'_>, why: String) -> String {
        if let Err(err) = work.layout.restore(work.main_before.as_deref()) {
            return format!("{why}; and {err}");
        }
        let Some(before) = work.running.digest() else {
            return why;
        };
        let Ok(Some(master)) = self.master().await else {
            return why;
        };
        let now = self.running(Some(&master), &work.layout, work.before.as_ref(), work.before.as_ref()).await;
        if now.digest() == Some(before) || !signal_reload(&master) {
            return why;
        }
        let deadline = Instant::now() + self.options.timing.confirm;
        while Instant::now() < deadline {
            let now =
                self.running(Some(&master), &work.layout, work.before.as_ref(), work.before.as_ref()).await;
            if now.digest() == Some(before) {
                return why;
            }
            tokio::time::sleep(POLL).await;
        }
        format!("{why}; and the last good configuration did not come back in time")
    }
}

fn signal_reload(master: &Master) -> bool {
    let signal = match master.kind {
        ProxyKind::Haproxy => Signal::USR2,
        ProxyKind::Nginx => Signal::HUP,
    };
    master.alive() && process::signal(master.pid, signal)
}

fn count(healed: &mut BTreeMap<String, u32>, kind: &str, number: u32) {
    if number > 0 {
        healed.insert(kind.to_owned(), number);
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A checker may repeat a line that it stumbles over; lines of secrets are not passed on.
fn without_secrets(output: &str, apply: &Apply) -> String {
    let secret = |line: &str| {
        let mut lines = apply.secrets.values().flat_map(|text| text.0.lines()).map(str::trim);
        lines.any(|part| part.len() >= 8 && line.contains(part))
    };
    output.lines().map(|line| if secret(line) { "<secret>" } else { line }).collect::<Vec<_>>().join("\n")
}
