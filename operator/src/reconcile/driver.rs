//! The driver: one select loop. Every arm only notes what happened; then the world is looked at again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::compile::{Config, Memory};
use interlock_core::finding::Reason;
use interlock_core::model::{ContainerId, Digest, Shared, Standings, TargetId};
use interlock_core::plan::Abilities;
use interlock_core::protocol::{OldWorkers, Outcome, SecretText};
use interlock_core::render::Templates;
use interlock_core::search::Step;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::actions::{Act, Actions, Done};
use super::clock::now;
use super::policy::{self, Next};
use super::publish::{Publisher, Untold};
use super::target::Tracked;
use super::world::{Agents, Sources};
use crate::deliver::{Dial, Identity, Report};
use crate::store::{Kept, Store};

/// Finds a secret's content by its digest.
pub type SecretLookup = Arc<dyn Fn(&Digest) -> Option<SecretText> + Send + Sync>;

/// Everything that the loop works with; tests bring their own.
pub struct Parts {
    /// Clusters and switches.
    pub config: Config,
    /// Where facts come from.
    pub sources: Sources,
    /// Reaches agents.
    pub dial: Arc<dyn Dial>,
    /// Acts on engines.
    pub act: Arc<dyn Act>,
    /// Finds secrets.
    pub secrets: SecretLookup,
    /// What survives a restart.
    pub store: Store,
    /// Who we are and how often a proxy may be reloaded.
    pub identity: Identity,
    /// Between two looks without any event.
    pub resync: Duration,
    /// Compute and compare, but deliver nothing.
    pub observe_only: bool,
    /// Our own container.
    pub own_container: Option<ContainerId>,
    /// The templates.
    pub templates: Templates,
    /// Where status, metrics and logs go.
    pub publisher: Publisher,
}

/// The loop's state.
pub struct Driver {
    pub(super) parts: Parts,
    pub(super) agents: Agents,
    pub(super) targets: BTreeMap<TargetId, Tracked>,
    pub(super) actions: Actions,
    pub(super) standings: BTreeMap<TargetId, Shared<Standings>>,
    pub(super) nudge: u64,
    pub(super) memory: Memory,
    pub(super) check_id: u64,
    /// When something changes by itself, or the first of the agents that are still looking has had its time.
    pub(super) look_again: Option<Instant>,
    /// What came of the last look.
    pub(super) untold: Option<Untold>,
    pub(super) reports: mpsc::Sender<(TargetId, Report)>,
    incoming: mpsc::Receiver<(TargetId, Report)>,
    ended: mpsc::Receiver<Done>,
}

impl Driver {
    /// A loop that has not begun.
    pub fn new(parts: Parts) -> Self {
        let (reports, incoming) = mpsc::channel(1024);
        let (done, ended) = mpsc::channel(64);
        let actions = Actions::new(parts.act.clone(), done);
        Self {
            parts,
            agents: Agents::default(),
            targets: BTreeMap::new(),
            actions,
            standings: BTreeMap::new(),
            nudge: 0,
            memory: Memory::default(),
            check_id: 0,
            look_again: None,
            untold: None,
            reports,
            incoming,
            ended,
        }
    }

    /// Runs until `stop` says so. Proxies go on serving what they have.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut resync = tokio::time::interval(self.parts.resync);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        resync.reset();
        self.cycle();
        loop {
            let wake = self.actions.wake_at().into_iter().chain(self.look_again).min();
            let tell = self.untold.as_ref().map(Untold::due);
            // What can happen, one thing at a time; all arms are cancel-safe (channels, watches, timers).
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = changed(&mut self.parts.sources) => {}
                Some((target, report)) = self.incoming.recv() => self.note(&target, report),
                Some(done) = self.ended.recv() => self.note_done(done),
                _ = resync.tick() => self.nudge += 1,
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                () = tokio::time::sleep_until(tell.unwrap_or_else(Instant::now)), if tell.is_some() => {
                    self.publish();
                    continue;
                }
            }
            // Whatever else has happened meanwhile belongs to the same look.
            while let Ok((target, report)) = self.incoming.try_recv() {
                self.note(&target, report);
            }
            while let Ok(done) = self.ended.try_recv() {
                self.note_done(done);
            }
            self.cycle();
        }
    }

    fn note_done(&mut self, done: Done) {
        if let Some(booted) = self.actions.ended(done) {
            self.keep(|kept| kept.booted.extend([booted]));
        }
    }

    /// Changes what survives a restart.
    pub(super) fn keep(&mut self, change: impl FnOnce(&mut Kept)) {
        self.parts.store.update(change);
    }

    fn note(&mut self, id: &TargetId, report: Report) {
        let Some(tracked) = self.targets.get_mut(id) else { return };
        match report {
            Report::Connected(mut welcome) => {
                let receipt = welcome.proxy.receipt.take().map(Shared::from);
                tracked.connected = true;
                tracked.fault = None;
                tracked.receipt.clone_from(&receipt);
                tracked.old = OldWorkers::default();
                tracked.limits = welcome.proxy.limits;
                // Another agent process: what was sent to the one before it may not have arrived.
                tracked.last.clone_from(&receipt);
                self.parts.publisher.connected(id, &welcome);
                self.agents.connected(id, welcome, receipt, now());
            }
            Report::ProxyChanged(mut facts) => {
                let receipt = facts.receipt.take().map(Shared::from);
                tracked.receipt.clone_from(&receipt);
                tracked.limits = facts.limits.or(tracked.limits);
                tracked.last.clone_from(&receipt);
                self.agents.proxy_changed(id, &facts, receipt);
            }
            Report::Probed(results) => {
                self.parts.publisher.probed(&results);
                self.agents.probed(id, results);
            }
            Report::OldWorkers(old) => {
                tracked.old = old;
                self.parts.publisher.old_workers(tracked.target.cluster.as_ref(), old);
            }
            Report::OnDisk(found) => {
                tracked.read(&found);
                self.agents.read(id, found.abilities, tracked.last.clone(), now());
            }
            Report::Lost { error, retry_in } => {
                tracked.connected = false;
                self.parts.publisher.lost(id, tracked, &error, retry_in);
                tracked.fault = Some(policy::lost(id, tracked.target.cluster.as_ref(), &error));
            }
            Report::Checked { id: check, outcome } => self.note_checked(id, check, &outcome),
            Report::Applied { digest, wanted, outcome } => {
                self.parts.publisher.applied(id, tracked, &wanted, &outcome);
                self.note_applied(id, &digest, &wanted, outcome);
            }
        }
    }

    fn note_applied(
        &mut self,
        id: &TargetId,
        digest: &Digest,
        wanted: &Arc<crate::deliver::Wanted>,
        outcome: Outcome,
    ) {
        let Some(tracked) = self.targets.get_mut(id) else { return };
        if let Outcome::Applied(applied) = outcome {
            tracked.fault = None;
            tracked.receipt = Some(applied.receipt.into());
            tracked.in_rotation.clone_from(&wanted.in_rotation);
            tracked.running = Some(wanted.plan.clone());
            let last = tracked.wanted.as_ref().is_some_and(|wanted| wanted.bundle.digest == *digest);
            if last && tracked.waits.is_none() {
                tracked.pending_since = None;
                // The same, and it knows who has no connection any more.
                tracked.last.clone_from(&tracked.receipt);
            }
            if let Some(container) = tracked.target.container.clone()
                && !self.parts.store.kept().receipted.contains(&container)
            {
                self.keep(|kept| kept.receipted.extend([container]));
            }
            return;
        }
        // Nothing was changed: the next assignment starts from what is proven to run.
        tracked.last.clone_from(&tracked.receipt);
        let abilities = self.abilities(id);
        let Some(tracked) = self.targets.get_mut(id) else { return };
        match policy::judge(&outcome, wanted) {
            Next::Settled => {}
            Next::Quarantine(culprits, words) => self.quarantine(culprits, abilities, &words),
            Next::Search(search) => {
                if tracked.search.is_none() {
                    let words = match outcome {
                        Outcome::Refused(refusal) => refusal.output,
                        _ => String::new(),
                    };
                    tracked.search = Some((search, 0, words));
                }
            }
            Next::Fault(reason, message) => {
                tracked.fault =
                    Some(policy::fault(id, tracked.target.cluster.as_ref(), reason, message, None));
            }
        }
    }

    /// Keeps intents out of every proxy with these abilities; another kind of proxy has its own say.
    fn quarantine(&mut self, culprits: impl IntoIterator<Item = Digest>, under: Abilities, words: &str) {
        self.keep(|kept| {
            for digest in culprits {
                kept.quarantine.entry(digest).or_default().insert(under, words.to_owned());
            }
        });
    }

    fn note_checked(&mut self, id: &TargetId, check: u64, outcome: &Outcome) {
        let abilities = self.abilities(id);
        let Some(tracked) = self.targets.get_mut(id) else { return };
        let Some((search, asked, words)) = &mut tracked.search else { return };
        if *asked != check {
            return;
        }
        *asked = 0;
        search.told(matches!(outcome, Outcome::Passed));
        match search.step() {
            Step::CheckWithout(_) => {}
            Step::Culprit(digest) => {
                let reason = std::mem::take(words);
                tracked.search = None;
                self.quarantine([digest], abilities, &reason);
            }
            step @ (Step::Base | Step::GaveUp) => {
                let words = std::mem::take(words);
                tracked.search = None;
                let reason = if step == Step::Base { Reason::BaseRefused } else { Reason::NoCulprit };
                let cluster = tracked.target.cluster.as_ref();
                tracked.fault = Some(policy::fault(id, cluster, reason, words, None));
            }
        }
    }

    fn abilities(&self, id: &TargetId) -> Abilities {
        let proxy = self.targets.get(id).and_then(|tracked| tracked.target.proxy);
        self.agents.view(id).map_or_else(
            || Abilities::oldest(proxy.unwrap_or(interlock_crds::ProxyKind::Haproxy)),
            |view| view.abilities,
        )
    }
}

/// Resolves when any source has something new. Cancel-safe: `changed` is.
async fn changed(sources: &mut Sources) {
    let engines = sources.engines.values_mut().map(|receiver| {
        Box::pin(async move {
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    });
    let engines: Vec<_> = engines.collect();
    let certificates = async {
        if sources.certificates.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let written = async {
        if sources.written.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let sockets = async {
        if sources.sockets.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let declared = async {
        if sources.declared.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let credentials = async {
        if sources.credentials.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let any_engine = async {
        if engines.is_empty() {
            std::future::pending::<()>().await;
        }
        futures_util::future::select_all(engines).await;
    };
    tokio::select! {
        () = any_engine => {}
        () = certificates => {}
        () = credentials => {}
        () = declared => {}
        () = sockets => {}
        () = written => {}
    }
}
