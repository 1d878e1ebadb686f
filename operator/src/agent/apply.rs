//! Bringing the proxy to a bundle, in this order: stage, check, switch the main file, activate, read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use interlock_core::bundle::{Bundle, Fragment, Receipt, SecretRef};
use interlock_core::model::Shared;
use interlock_core::protocol::{Applied, Apply, Outcome, Refusal};
use interlock_crds::ProxyKind;

use super::checker::Checked;
use super::commands::Commands;
use super::files::{self, Generation, Layout};
use super::keeper::{Keeper, Running};
use super::process::Master;
use super::{Step, main_file};

/// Names of fragments that a reload gives as its reasons, at most.
const REASONS: usize = 50;

/// Why an apply ended without a receipt.
pub(super) enum Stop {
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

impl Stop {
    pub(super) fn told_to_stop() -> Self {
        Self::Failed("the proxy takes no requests any more: it was told to stop".to_owned())
    }
}

/// One apply under way.
pub(super) struct Work<'a> {
    apply: &'a Apply,
    pub(super) layout: Layout,
    generation: Generation,
    pub(super) master: Option<Master>,
    pub(super) running: Running,
    /// The bundle before.
    pub(super) before: Option<Arc<Bundle>>,
    /// The main file before.
    pub(super) main_before: Option<Vec<u8>>,
    secrets: Vec<PathBuf>,
    /// Whether the proxy may go on booting into what was before: the bundle only withdraws. What is applied again is
    /// looked after as ever.
    pub(super) puts_off: bool,
}

impl Work<'_> {
    pub(super) fn bundle(&self) -> &Bundle {
        &self.apply.bundle
    }

    pub(super) fn main_after(&self) -> &str {
        self.generation.files.get(main_file(self.bundle().proxy)).map_or("", String::as_str)
    }

    /// Leaves no trace of a bundle that did not come to run.
    fn discard(&self) {
        if !self.again() {
            self.generation.remove();
        }
        self.discard_secrets();
    }

    /// Removes the secrets that were written for this bundle, but for those that what runs needs as well: one that had
    /// been lost was put back.
    fn discard_secrets(&self) {
        let kept = |path: &Path| {
            let before = self.before.iter().flat_map(|before| &before.secrets);
            before
                .map(|secret| secret.file.as_str())
                .any(|file| path.file_name().is_some_and(|name| name == file))
        };
        for secret in self.secrets.iter().filter(|path| !kept(path)) {
            let _ = std::fs::remove_file(secret);
        }
    }

    /// Whether it is the bundle that was applied last.
    pub(super) fn again(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.digest == self.bundle().digest)
    }

    /// Whether its main file only passes through the proxy on a reload, which is to boot into the one before.
    pub(super) fn keeps_boot(&self) -> bool {
        self.puts_off && self.bundle().proxy == ProxyKind::Nginx
    }

    /// What the same bundle needed commands for was changed by somebody else.
    pub(super) fn count_healed(&self, done: &Commands, healed: &mut BTreeMap<String, u32>) {
        if self.again() {
            count(healed, "Server", done.servers);
            count(healed, "Map", done.entries);
            count(healed, "Certificate", done.certificates);
        }
    }

    /// Whether there are certificates that the proxy's checker has not judged: HAProxy may refuse what we take.
    fn brings_certificates(&self) -> bool {
        let known = self.before.as_ref().map(|before| &before.live.certificates);
        let mut files = self.bundle().live.certificates.keys();
        files.any(|file| known.is_none_or(|known| !known.contains_key(file)))
    }

    /// The fragments that differ from the bundle before.
    fn reasons(&self) -> Vec<String> {
        let Some(before) = &self.before else { return vec!["first".to_owned()] };
        let texts = |bundle: &Bundle| -> BTreeMap<String, (String, Vec<String>)> {
            let slots = |backend: &str| -> Vec<String> {
                let slots = bundle.live.servers.get(backend).into_iter().flatten();
                slots.map(|slot| slot.name.to_string()).collect()
            };
            let one = |fragment: &Shared<Fragment>| {
                let servers = fragment.servers.as_ref();
                let names = servers.map(|lines| slots(&lines.backend)).unwrap_or_default();
                let parameters = servers.map_or("", |lines| lines.parameters.as_str());
                (fragment.name.clone(), (format!("{}{parameters}", fragment.text), names))
            };
            let fixed = bundle.fragments.iter().filter(|fragment| fragment.certificate.is_none());
            fixed.map(one).collect()
        };
        let (old, new) = (texts(before), texts(self.bundle()));
        let mut names: Vec<String> =
            old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).cloned().collect();
        if fixed(before) != fixed(self.bundle()) {
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
    /// Judges a bundle without touching what runs.
    pub(super) async fn check(&mut self, apply: &Apply) -> Outcome {
        let work = match self.prepare(apply, "check", false).await {
            Ok(work) => work,
            Err(stop) => return stop.into(),
        };
        let verdict = async {
            work.layout.stage(work.bundle(), &work.generation, false, None)?;
            work.layout.stage(work.bundle(), &work.generation, true, None)?;
            self.judge(&work).await
        };
        let outcome = match verdict.await {
            Ok(()) => Outcome::Passed,
            Err(stop) => stop.into(),
        };
        work.generation.remove();
        work.discard_secrets();
        outcome
    }

    /// Brings the proxy to a bundle, whatever it runs now; `verified`: its digests are known to fit.
    pub(super) async fn apply(&mut self, apply: &Apply, verified: bool) -> Outcome {
        // A reload that fails goes back to what lies on disk, so that must be what runs.
        let shape = self.put_off.as_ref().map(|put_off| &put_off.bundle.static_digest);
        if !apply.withdraws && shape.is_some_and(|shape| *shape != apply.bundle.static_digest) {
            self.write_down().await;
        }
        let work = match self.prepare(apply, "gen", verified).await {
            Ok(work) => work,
            Err(stop) => return stop.into(),
        };
        // Whoever fails half-way leaves something that nobody has a record of.
        let sure = std::mem::take(&mut self.sure);
        let mut replaced = None;
        let brought = self.bring(&work, sure, &mut replaced).await;
        self.durable.want(work.layout.boots_from(&work.generation), replaced);
        match brought {
            Ok(applied) => {
                self.sure = true;
                self.loaded(work.main_after());
                self.applied = Some(Arc::new(apply.bundle.clone()));
                Outcome::Applied(applied)
            }
            Err(stop) => {
                work.discard();
                stop.into()
            }
        }
    }

    /// Looks at everything there is, and writes the secrets that are lacking.
    async fn prepare<'a>(
        &mut self,
        apply: &'a Apply,
        prefix: &str,
        verified: bool,
    ) -> Result<Work<'a>, Stop> {
        files::validate(apply, verified)?;
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
        let before = self.before(&layout);
        let running = self.running(master.as_ref(), &layout, before.as_deref(), Some(bundle)).await;
        let generation = layout.generation(bundle, prefix);
        let main_before = layout.main_content()?;
        let secrets = layout.write_secrets(apply)?;
        let another = before.as_ref().is_some_and(|before| before.digest != bundle.digest);
        let puts_off = apply.withdraws && (another || before.is_some() && self.has_put_off());
        Ok(Work { apply, layout, generation, master, running, before, main_before, secrets, puts_off })
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
                // Those on disk: what came as a patch brought none.
                let secrets = work.layout.secret_texts(work.bundle());
                refusal.output = without_secrets(&refusal.output, &secrets);
                Err(Stop::Refused(refusal))
            }
        }
    }

    async fn bring(
        &mut self,
        work: &Work<'_>,
        sure: bool,
        replaced: &mut Option<PathBuf>,
    ) -> Result<Applied, Stop> {
        let begun = Instant::now();
        let options = Arc::clone(&self.options);
        let fault = &options.fault;
        let bundle = work.bundle();
        let again = work.again();
        let same = work.running.digest() == Some(&bundle.static_digest);
        if work.puts_off
            && let Some(applied) = self.withdraw(work, sure).await?
        {
            return Ok(applied);
        }
        let after = work.main_after();
        let switch = work.main_before.as_deref() != Some(after.as_bytes());
        // Files that were to follow later are not edited.
        let kept = again && !self.has_put_off();
        // Somebody who edits the file and reloads leaves the digest as it was.
        let loaded_edited = kept && switch && Self::younger_than_file(work);
        let judged = !same || loaded_edited || work.brings_certificates();

        let mut edited = work.layout.stage(bundle, &work.generation, false, work.before.as_deref())?;
        fault.pass(Step::Writing);
        // The generation's own main file is there for the checker: a live change can do without.
        if judged || again {
            edited += work.layout.stage(bundle, &work.generation, true, None)?;
        }
        fault.pass(Step::Written);

        let mut healed = BTreeMap::new();
        if kept && (edited > 0 || switch) {
            healed.insert("File".to_owned(), edited + u32::from(switch));
        }
        // What runs is ours already where the static digest is the same.
        if switch && (judged || again) {
            work.layout.guard_main()?;
        }
        if judged {
            self.judge(work).await?;
        }
        fault.pass(Step::Checked);
        let check_ms = millis(begun);
        if work.keeps_boot() && !self.takes_requests(work).await {
            return Err(Stop::told_to_stop());
        }
        if switch {
            *replaced = work.layout.switch(after.as_bytes())?;
        }
        fault.pass(Step::Switched);

        let activating = Instant::now();
        let mut done = Commands::default();
        let mut reload = Vec::new();
        let mut live = None;
        if same && !loaded_edited {
            match self.settle(work, again || !sure, &mut done).await {
                Ok(read) => live = Some(read),
                Err(why) => {
                    tracing::warn!(%why, "the live change did not hold, so the proxy is reloaded");
                    reload.push("live".to_owned());
                }
            }
            work.count_healed(&done, &mut healed);
        } else {
            reload = work.reasons();
        }
        let live = match live {
            Some(live) => live,
            None => self.activate(work, &mut done).await?,
        };
        fault.pass(Step::Activated);

        self.keep(work)?;
        let receipt = Receipt::of(bundle, live);
        let commands = u32::try_from(done.lines.len()).unwrap_or(u32::MAX);
        Ok(Applied { receipt, reload, commands, healed, check_ms, activate_ms: millis(activating) })
    }

    /// Records what runs; where it only withdraws, the proxy goes on booting into what was before.
    fn keep(&mut self, work: &Work<'_>) -> Result<(), Stop> {
        let bundle = work.bundle();
        let unrecorded =
            |err: std::io::Error| Stop::Failed(format!("it runs, but that cannot be recorded: {err}"));
        if work.keeps_boot() {
            // Its main file was put back when a worker had read it.
            Layout::note(bundle, &work.generation).map_err(unrecorded)?;
            self.put_off(work);
            return Ok(());
        }
        work.layout.record(bundle, &work.generation).map_err(unrecorded)?;
        work.layout.collect(bundle);
        self.put_off = None;
        Ok(())
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
}

/// The secrets that cannot be changed without a reload.
fn fixed(bundle: &Bundle) -> Vec<&SecretRef> {
    bundle.secrets.iter().filter(|secret| !bundle.live.certificates.contains_key(&secret.file)).collect()
}

fn count(healed: &mut BTreeMap<String, u32>, kind: &str, number: u32) {
    if number > 0 {
        healed.insert(kind.to_owned(), number);
    }
}

pub(super) fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A checker may repeat a line that it stumbles over; lines of secrets are not passed on.
fn without_secrets(output: &str, secrets: &[String]) -> String {
    let secret = |line: &str| {
        let mut lines = secrets.iter().flat_map(|text| text.lines()).map(str::trim);
        lines.any(|part| part.len() >= 8 && line.contains(part))
    };
    output.lines().map(|line| if secret(line) { "<secret>" } else { line }).collect::<Vec<_>>().join("\n")
}
