//! One task for each target: keeps a connection to its agent and brings it to what is desired.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::compile::Transport;
use interlock_core::model::{Digest, Shared, TargetId, Timestamp};
use interlock_core::pace::{Pace, Urgency};
use interlock_core::patch::Patch;
use interlock_core::protocol::{
    Apply, Declined, Hello, OldWorkers, Outcome, PATCHES, ProbeSet, ToAgent, ToOperator, VERSION,
};
use interlock_core::withdrawal::only_withdraws;
use interlock_crds::ProxyKind;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{DeliverError, Desired, Dial, Reader, Report, Wanted, Writer};
use crate::retry::Backoff;
use crate::wire;

/// An agent that has not said hello back after this long is tried again.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// An apply or a check that has not been answered after this long is given up with its connection.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
/// Between two pings on a quiet connection; three without a word end it.
const PING: Duration = Duration::from_secs(10);
/// Pause after a first failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// The same for a bundle that failed: each try of one that does not start pauses what runs for a moment.
const RETRY_BUNDLE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_mins(5));
/// Pause after a failure that trying soon will not mend.
const RETRY_IMPOSSIBLE: Duration = Duration::from_secs(30);

/// The way to tell a target what it should have; dropping it ends the task.
pub struct Handle {
    pub(super) desired: watch::Sender<Desired>,
    pub(super) task: JoinHandle<()>,
}

impl Handle {
    /// Changes what the target should have.
    pub fn set(&self, change: impl FnOnce(&mut Desired)) {
        self.desired.send_modify(change);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who we are towards agents, and how often a proxy may be reloaded.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The operator's identity.
    pub operator: String,
    /// This start of it.
    pub epoch: u64,
    /// Whether it only looks.
    pub observes: bool,
    /// The longest that a reload is put off, and so the shortest between two, in milliseconds.
    pub ceiling_ms: u64,
}

/// Starts the task of one target.
pub fn spawn(
    dial: Arc<dyn Dial>,
    identity: Identity,
    target: TargetId,
    transport: Transport,
    proxy: Option<ProxyKind>,
    reports: mpsc::Sender<(TargetId, Report)>,
) -> Handle {
    let (desired, receiver) = watch::channel(Desired::default());
    let pace = Pace::new(identity.ceiling_ms);
    let actor = Actor {
        dial,
        identity,
        target,
        transport,
        proxy,
        reports,
        desired: receiver,
        pace,
        start: Instant::now(),
    };
    Handle { desired, task: tokio::spawn(actor.run()) }
}

struct Actor {
    dial: Arc<dyn Dial>,
    identity: Identity,
    target: TargetId,
    transport: Transport,
    proxy: Option<ProxyKind>,
    reports: mpsc::Sender<(TargetId, Report)>,
    desired: watch::Receiver<Desired>,
    pace: Pace,
    start: Instant,
}

/// What was sent and not answered.
struct InFlight {
    id: u64,
    wanted: Arc<Wanted>,
    check: Option<u64>,
    deadline: Instant,
}

/// The state of one connection.
struct Session {
    to: wire::Sender<Writer, ToAgent>,
    from: wire::Receiver<Reader, ToOperator>,
    next_id: u64,
    in_flight: Option<InFlight>,
    /// The last bundle that was answered, whatever the answer, and the nudge it answered.
    settled: Option<(Digest, u64)>,
    checked: u64,
    /// The nudge at which it last looked.
    looked: u64,
    /// The static digest that the proxy runs, as far as we know.
    running: Option<Digest>,
    /// As its agent last told.
    old: OldWorkers,
    /// The agent's version of the protocol.
    protocol: u16,
    /// What the agent has applied, so that a patch of it will do.
    has: Option<Arc<Wanted>>,
    /// What it applied last, whatever came of the tries since.
    applied: Option<Arc<Wanted>>,
    probes: Option<Shared<ProbeSet>>,
    heard: Instant,
    /// The bundle that failed last, and when it may be tried again: another one need not wait.
    failed: Option<(Digest, Instant)>,
    failures: Backoff,
}

impl Session {
    /// Whether somebody leaves whom the last apply brought: it may have been under way when this was rendered.
    fn withdraws(&self, wanted: &Wanted) -> bool {
        self.applied.as_ref().is_some_and(|applied| !applied.in_rotation.is_subset(&wanted.in_rotation))
    }

    /// Notes that a bundle failed; the next try of the same one waits longer each time.
    fn failed(&mut self, digest: &Digest) {
        self.failed = Some((digest.clone(), Instant::now() + self.failures.pause()));
    }
}

impl Actor {
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let began = Instant::now();
            let Err(error) = self.session().await else { return };
            if began.elapsed() > RETRY.1 {
                backoff.reset();
            }
            let retry_in = match error {
                // What an agent cannot do now it may be able to do soon.
                DeliverError::Declined(Declined::Unable { .. }) => backoff.pause(),
                DeliverError::Impossible { .. } | DeliverError::Declined(_) => RETRY_IMPOSSIBLE,
                _ => backoff.pause(),
            };
            if self.report(Report::Lost { error, retry_in }).await.is_err() {
                return;
            }
            tokio::time::sleep(retry_in).await;
        }
    }

    /// Until the connection breaks (an error) or nobody wants the target any more (`Ok`).
    async fn session(&mut self) -> Result<(), DeliverError> {
        let (reader, writer) = self.dial.dial(&self.target, &self.transport, self.proxy).await?;
        let mut session = Session {
            to: wire::Sender::new(writer),
            from: wire::Receiver::new(reader),
            next_id: 1,
            in_flight: None,
            settled: None,
            checked: 0,
            looked: 0,
            running: None,
            old: OldWorkers::default(),
            protocol: 0,
            has: None,
            applied: None,
            probes: None,
            heard: Instant::now(),
            failed: None,
            failures: Backoff::new(RETRY_BUNDLE.0, RETRY_BUNDLE.1),
        };
        let Identity { operator, epoch, observes, .. } = self.identity.clone();
        let hello = Hello { protocol: VERSION, operator, epoch, observes };
        session.to.send(&ToAgent::Hello(hello)).await?;
        let answer = timeout(HELLO_DEADLINE, session.from.receive())
            .await
            .map_err(|_| DeliverError::Silent(HELLO_DEADLINE))??;
        match answer {
            ToOperator::Welcome(welcome) => {
                session.protocol = welcome.protocol;
                session.running = welcome.proxy.receipt.as_ref().map(|receipt| receipt.static_digest.clone());
                if self.report(Report::Connected(welcome)).await.is_err() {
                    return Ok(());
                }
            }
            ToOperator::Declined(declined) => return Err(DeliverError::Declined(declined)),
            _ => return Err(DeliverError::Wire(wire::WireError::Closed)),
        }
        self.converse(&mut session).await
    }

    async fn converse(&mut self, session: &mut Session) -> Result<(), DeliverError> {
        let mut ping = tokio::time::interval(PING);
        loop {
            let wake = self.send_due(session).await?;
            // Every arm is cancel-safe: watch and interval by their docs, receive by its own.
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { return Ok(()); },
                message = session.from.receive() => {
                    session.heard = Instant::now();
                    if self.heard(session, message?).await.is_err() { return Ok(()); }
                }
                _ = ping.tick() => {
                    if session.heard.elapsed() > PING * 3 && session.in_flight.is_none() {
                        return Err(DeliverError::Silent(session.heard.elapsed()));
                    }
                    session.to.send(&ToAgent::Ping).await?;
                }
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    if session.in_flight.as_ref().is_some_and(|sent| sent.deadline <= Instant::now()) {
                        return Err(DeliverError::Silent(ANSWER_DEADLINE));
                    }
                }
            }
        }
    }

    /// Sends what is due now; says when to look again.
    async fn send_due(&mut self, session: &mut Session) -> Result<Option<Instant>, DeliverError> {
        let desired = self.desired.borrow_and_update().clone();
        if self.identity.observes {
            // Who only looks is told what has changed when it pings.
            if session.looked != desired.nudge {
                session.looked = desired.nudge;
                session.to.send(&ToAgent::Ping).await?;
            }
            return Ok(None);
        }
        // No probe set has been sent yet and there is nothing to probe: nothing to say.
        if session.probes.as_ref().unwrap_or(&Shared::default()) != &desired.probes {
            let message = match &session.probes {
                Some(before) if session.protocol >= PATCHES => ToAgent::Probes(desired.probes.since(before)),
                _ => ToAgent::Probe((*desired.probes).clone()),
            };
            session.to.send(&message).await?;
            session.probes = Some(desired.probes.clone());
        }
        if let Some(sent) = &session.in_flight {
            return Ok(Some(sent.deadline));
        }
        if let Some((id, wanted)) = desired.check.filter(|(id, _)| *id > session.checked) {
            session.checked = id;
            return Self::submit(session, wanted, Some(id)).await.map(Some);
        }
        let Some(wanted) = desired.wanted else { return Ok(None) };
        let goal = (wanted.bundle.digest.clone(), desired.nudge);
        if session.settled.as_ref() == Some(&goal) {
            self.pace.settled();
            return Ok(None);
        }
        match &session.failed {
            Some((digest, at)) if *digest == goal.0 && *at > Instant::now() => return Ok(Some(*at)),
            Some((digest, _)) if *digest != goal.0 => {
                session.failed = None;
                session.failures.reset();
            }
            _ => {}
        }
        let reload = session.running.as_ref() != Some(&wanted.bundle.static_digest);
        let withdraws = wanted.withdraws || session.withdraws(&wanted);
        if reload && session.running.is_some() && held(&wanted, withdraws, session.old.count) {
            return Ok(None);
        }
        let urgency = match (reload, withdraws, wanted.pressing) {
            (false, ..) => Urgency::Live,
            (true, true, _) => Urgency::Withdrawal,
            (true, false, true) => Urgency::Reload,
            (true, false, false) => Urgency::Cosmetic,
        };
        let now = self.now();
        let due = self.pace.due(now, urgency);
        if due > now {
            return Ok(Some(self.start + Duration::from_millis(due.0)));
        }
        if reload {
            self.pace.reloaded(now, urgency);
        }
        session.settled = Some(goal);
        Self::submit(session, wanted, None).await.map(Some)
    }

    /// Sends what is to be run or judged, as a patch of what the agent has if that will do.
    async fn submit(
        session: &mut Session,
        wanted: Arc<Wanted>,
        check: Option<u64>,
    ) -> Result<Instant, DeliverError> {
        let id = session.next_id;
        session.next_id += 1;
        let applied = session.applied.as_ref().filter(|_| check.is_none());
        let withdraws = applied.is_some_and(|applied| only_withdraws(&applied.plan, &wanted.plan));
        let base = session.has.as_ref().filter(|_| check.is_none() && session.protocol >= PATCHES);
        let patch = base.and_then(|base| Patch::between(&base.bundle, &wanted.bundle));
        let whole = || {
            let (bundle, secrets) = (wanted.bundle.clone(), wanted.secrets.clone());
            Box::new(Apply { id, bundle, secrets, withdraws })
        };
        let message = match (patch, check) {
            (Some(patch), _) => ToAgent::Patch { id, patch, withdraws },
            (None, None) => ToAgent::Apply(whole()),
            (None, Some(_)) => ToAgent::Check(whole()),
        };
        session.to.send(&message).await?;
        let deadline = Instant::now() + ANSWER_DEADLINE;
        session.in_flight = Some(InFlight { id, wanted, check, deadline });
        Ok(deadline)
    }

    /// An error means that nobody listens any more.
    async fn heard(&mut self, session: &mut Session, message: ToOperator) -> Result<(), Gone> {
        match message {
            ToOperator::Outcome { id, outcome } => self.answered(session, id, outcome).await,
            ToOperator::OldWorkers(old) => {
                session.old = old;
                self.report(Report::OldWorkers(old)).await
            }
            ToOperator::Probed { results } => self.report(Report::Probed(results)).await,
            ToOperator::ProxyChanged(facts) => {
                session.running = facts.receipt.as_ref().map(|receipt| receipt.static_digest.clone());
                // Whatever was settled was settled in a proxy that is gone.
                (session.settled, session.has, session.applied) = (None, None, None);
                self.report(Report::ProxyChanged(facts)).await
            }
            ToOperator::Lacks { id } => {
                if session.in_flight.take_if(|sent| sent.id == id).is_some() {
                    (session.settled, session.has) = (None, None);
                }
                Ok(())
            }
            ToOperator::Pong | ToOperator::Welcome(_) | ToOperator::Declined(_) => Ok(()),
        }
    }

    async fn answered(&mut self, session: &mut Session, id: u64, outcome: Outcome) -> Result<(), Gone> {
        let Some(sent) = session.in_flight.take_if(|sent| sent.id == id) else { return Ok(()) };
        if let Some(id) = sent.check {
            return self.report(Report::Checked { id, outcome }).await;
        }
        session.has = None;
        match &outcome {
            Outcome::Applied(applied) => {
                session.has = Some(sent.wanted.clone());
                session.applied = Some(sent.wanted.clone());
                session.running = Some(applied.receipt.static_digest.clone());
                session.failures.reset();
                session.failed = None;
            }
            Outcome::Passed => {}
            // A refused bundle stays refused until it changes or a resync asks again, ever more rarely; what failed
            // for another reason is tried again by itself.
            Outcome::Refused(_) => session.failed(&sent.wanted.bundle.digest),
            Outcome::ActivationFailed { .. } | Outcome::Failed { .. } => {
                session.settled = None;
                session.failed(&sent.wanted.bundle.digest);
            }
        }
        let digest = sent.wanted.bundle.digest.clone();
        self.report(Report::Applied { digest, wanted: sent.wanted, outcome }).await
    }

    async fn report(&self, report: Report) -> Result<(), Gone> {
        self.reports.send((self.target.clone(), report)).await.map_err(|_| Gone)
    }

    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Whether a reload for this has to wait until an old worker ends. A proxy that cannot take an endpoint out of
/// rotation in any other way reloads for that: requests to somebody who is gone are worse than one worker more.
pub fn held(wanted: &Wanted, withdraws: bool, old_workers: u16) -> bool {
    let by_reload_only = wanted.bundle.proxy == ProxyKind::Nginx;
    wanted.max_old_workers.is_some_and(|most| old_workers >= most) && !(by_reload_only && withdraws)
}

/// The driver is gone.
struct Gone;
