//! One task for each target: keeps a connection to its agent and brings it to what is desired.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::compile::Transport;
use interlock_core::model::{Digest, TargetId, Timestamp};
use interlock_core::pace::{Pace, Urgency};
use interlock_core::protocol::{Apply, Hello, Outcome, ProbeSet, ToAgent, ToOperator, VERSION};
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
/// Pause after a failure that trying soon will not mend.
const RETRY_IMPOSSIBLE: Duration = Duration::from_secs(30);

/// The way to tell a target what it should have; dropping it ends the task.
pub struct Handle {
    desired: watch::Sender<Desired>,
    task: JoinHandle<()>,
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
    /// The static digest that the proxy runs, as far as we know.
    running: Option<Digest>,
    probes: Option<Arc<ProbeSet>>,
    heard: Instant,
    /// After a failure that is not the bundle's fault: not before.
    not_before: Option<Instant>,
    failures: Backoff,
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
            running: None,
            probes: None,
            heard: Instant::now(),
            not_before: None,
            failures: Backoff::new(RETRY.0, RETRY.1),
        };
        let hello =
            Hello { protocol: VERSION, operator: self.identity.operator.clone(), epoch: self.identity.epoch };
        session.to.send(&ToAgent::Hello(hello)).await?;
        let answer = timeout(HELLO_DEADLINE, session.from.receive())
            .await
            .map_err(|_| DeliverError::Silent(HELLO_DEADLINE))??;
        match answer {
            ToOperator::Welcome(welcome) => {
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
        // No probe set has been sent yet and there is nothing to probe: nothing to say.
        if session.probes.as_deref().unwrap_or(&ProbeSet::default()) != &*desired.probes {
            session.to.send(&ToAgent::Probe((*desired.probes).clone())).await?;
            session.probes = Some(desired.probes.clone());
        }
        if let Some(sent) = &session.in_flight {
            return Ok(Some(sent.deadline));
        }
        if let Some((id, wanted)) = desired.check.filter(|(id, _)| *id > session.checked) {
            session.checked = id;
            return self.submit(session, wanted, Some(id)).await.map(Some);
        }
        let Some(wanted) = desired.wanted else { return Ok(None) };
        let goal = (wanted.bundle.digest.clone(), desired.nudge);
        if session.settled.as_ref() == Some(&goal) {
            self.pace.settled();
            return Ok(None);
        }
        if let Some(not_before) = session.not_before.filter(|at| *at > Instant::now()) {
            return Ok(Some(not_before));
        }
        let reload = session.running.as_ref() != Some(&wanted.bundle.static_digest);
        let urgency = match (reload, wanted.withdraws, wanted.pressing) {
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
            self.pace.reloaded(now);
        }
        session.settled = Some(goal);
        self.submit(session, wanted, None).await.map(Some)
    }

    async fn submit(
        &self,
        session: &mut Session,
        wanted: Arc<Wanted>,
        check: Option<u64>,
    ) -> Result<Instant, DeliverError> {
        let id = session.next_id;
        session.next_id += 1;
        let apply = Box::new(Apply { id, bundle: wanted.bundle.clone(), secrets: wanted.secrets.clone() });
        let message = if check.is_some() { ToAgent::Check(apply) } else { ToAgent::Apply(apply) };
        session.to.send(&message).await?;
        let deadline = Instant::now() + ANSWER_DEADLINE;
        session.in_flight = Some(InFlight { id, wanted, check, deadline });
        Ok(deadline)
    }

    /// An error means that nobody listens any more.
    async fn heard(&mut self, session: &mut Session, message: ToOperator) -> Result<(), Gone> {
        match message {
            ToOperator::Outcome { id, outcome } => self.answered(session, id, outcome).await,
            ToOperator::Probed { results } => self.report(Report::Probed(results)).await,
            ToOperator::ProxyChanged(facts) => {
                session.running = facts.receipt.as_ref().map(|receipt| receipt.static_digest.clone());
                // Whatever was settled was settled in a proxy that is gone.
                session.settled = None;
                self.report(Report::ProxyChanged(facts)).await
            }
            ToOperator::Pong | ToOperator::Welcome(_) | ToOperator::Declined(_) => Ok(()),
        }
    }

    async fn answered(&mut self, session: &mut Session, id: u64, outcome: Outcome) -> Result<(), Gone> {
        let Some(sent) = session.in_flight.take_if(|sent| sent.id == id) else { return Ok(()) };
        if let Some(id) = sent.check {
            return self.report(Report::Checked { id, outcome }).await;
        }
        match &outcome {
            Outcome::Applied(applied) => {
                session.running = Some(applied.receipt.static_digest.clone());
                session.failures.reset();
                session.not_before = None;
            }
            // A refused bundle stays refused until it changes or the next resync; what failed for
            // another reason is tried again after a pause that grows.
            Outcome::Refused(_) | Outcome::Passed => {}
            Outcome::ActivationFailed { .. } | Outcome::Failed { .. } => {
                session.settled = None;
                session.not_before = Some(Instant::now() + session.failures.pause());
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

/// The driver is gone.
struct Gone;
