//! One operator's connection: who it is, and then its requests one after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use interlock_core::protocol::{
    Apply, Declined, Hello, OLD_WORKERS, Outcome, ProxyFacts, ToAgent, ToOperator, VERSION, Welcome,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::keeper::Keeper;
use super::lock::{self, Held};
use super::prober::Prober;
use super::supervisor::Supervisor;
use super::{AgentError, Options, host, housekeeping};
use crate::wire::{Receiver, Sender, WireError};

/// A connection that has not said hello by then is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// The agent of one proxy; it serves one operator at a time.
#[derive(Debug)]
pub struct Agent {
    options: Arc<Options>,
    tenant: Mutex<Option<Tenant>>,
    arrivals: AtomicU64,
    keeper: tokio::sync::Mutex<Keeper>,
    prober: Prober,
    supervisor: Option<Arc<Supervisor>>,
    /// Whether it stays with what was put off when an operator has gone.
    stays: bool,
}

/// Whose requests are served now, or next.
#[derive(Debug, Clone)]
struct Tenant {
    operator: String,
    epoch: u64,
    number: u64,
    leave: CancellationToken,
}

/// The right to serve a tenant; dropping it makes room.
struct Session<'a> {
    agent: &'a Agent,
    tenant: Tenant,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let mut current = self.agent.tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|tenant| tenant.number == self.tenant.number) {
            *current = None;
        }
    }
}

impl Agent {
    /// The agent of a proxy that somebody else started.
    pub fn new(options: Options) -> Self {
        Self::with(options, None)
    }

    /// The agent of a proxy that it owns.
    pub(super) fn supervising(options: Options, supervisor: Arc<Supervisor>) -> Self {
        Self::with(options, Some(supervisor))
    }

    /// The same, where the next operator comes only after the connection of this one has ended, and at once.
    pub(super) fn hurrying(self) -> Self {
        Self { stays: false, ..self }
    }

    fn with(options: Options, supervisor: Option<Arc<Supervisor>>) -> Self {
        let options = Arc::new(options);
        Self {
            keeper: tokio::sync::Mutex::new(Keeper::new(Arc::clone(&options), supervisor.clone())),
            supervisor,
            stays: true,
            options,
            tenant: Mutex::new(None),
            arrivals: AtomicU64::new(0),
            prober: Prober::new(),
        }
    }

    /// Lets the present operator go at the next message boundary.
    pub(super) fn release(&self) {
        if let Some(tenant) = &*self.tenant.lock().unwrap_or_else(PoisonError::into_inner) {
            tenant.leave.cancel();
        }
    }

    /// Judges a newcomer against whom is served now; one that may take over does.
    fn arrive(&self, hello: &Hello) -> Result<Session<'_>, Declined> {
        judge(hello)?;
        let mut current = self.tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = &*current {
            if tenant.operator != hello.operator {
                return Err(Declined::ForeignOwner { operator: tenant.operator.clone() });
            }
            if hello.epoch < tenant.epoch {
                return Err(Declined::Superseded { epoch: tenant.epoch });
            }
            tenant.leave.cancel();
        }
        let tenant = Tenant {
            operator: hello.operator.clone(),
            epoch: hello.epoch,
            number: self.arrivals.fetch_add(1, Ordering::Relaxed),
            leave: CancellationToken::new(),
        };
        *current = Some(tenant.clone());
        Ok(Session { agent: self, tenant })
    }

    /// The epoch that has taken the place of this tenant.
    fn successor(&self, of: &Tenant) -> Option<u64> {
        let current = self.tenant.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|tenant| tenant.number != of.number).map(|tenant| tenant.epoch)
    }

    /// How long whoever is served now may take to come to a message boundary.
    fn longest_message(&self) -> Duration {
        let timing = &self.options.timing;
        timing.check + timing.confirm * 2 + timing.takeover
    }
}

/// Judges a newcomer by itself.
fn judge(hello: &Hello) -> Result<(), Declined> {
    let fits = |c: char| !c.is_control();
    if hello.operator.is_empty() || hello.operator.len() > 256 || !hello.operator.chars().all(fits) {
        return Err(Declined::Unable { reason: "the operator's name is not one".to_owned() });
    }
    if hello.protocol.abs_diff(VERSION) > 1 {
        return Err(Declined::Protocol { agent: VERSION });
    }
    Ok(())
}

fn welcome(proxy: ProxyFacts) -> ToOperator {
    ToOperator::Welcome(Welcome {
        protocol: VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        proxy,
        hostname: host::hostname(),
        addresses: host::addresses(),
    })
}

/// Serves one operator until it leaves, another takes over, or the connection breaks.
///
/// # Errors
/// The connection broke or was not spoken as agreed. An operator that is declined is no error.
pub async fn serve<R, W>(reader: R, writer: W, agent: &Agent) -> Result<(), AgentError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut requests: Receiver<R, ToAgent> = Receiver::new(reader);
    let mut answers: Sender<W, ToOperator> = Sender::new(writer);
    let first = tokio::time::timeout(HELLO_WITHIN, requests.receive());
    let hello = match first.await {
        Ok(Ok(ToAgent::Hello(hello))) => hello,
        Ok(Ok(_)) | Err(_) => return Err(AgentError::Options("the operator did not say hello".to_owned())),
        Ok(Err(err)) => return Err(err.into()),
    };
    let ended = if hello.observes {
        show(&mut requests, &mut answers, agent, &hello).await
    } else {
        match agent.arrive(&hello) {
            Ok(session) => converse(&mut requests, &mut answers, agent, &session, &hello).await,
            Err(declined) => Ended::Declined(declined),
        }
    };
    match ended {
        Ended::Left => Ok(()),
        Ended::Broken(err) => Err(err.into()),
        Ended::Declined(declined) => {
            tracing::info!(operator = hello.operator, epoch = hello.epoch, ?declined, "declined an operator");
            // It may have gone already.
            let _ = answers.send(&ToOperator::Declined(declined)).await;
            Ok(())
        }
    }
}

/// How a conversation ends.
enum Ended {
    Left,
    Broken(WireError),
    Declined(Declined),
}

impl From<WireError> for Ended {
    fn from(err: WireError) -> Self {
        match err {
            WireError::Closed => Self::Left,
            err => Self::Broken(err),
        }
    }
}

async fn converse<R, W>(
    requests: &mut Receiver<R, ToAgent>,
    answers: &mut Sender<W, ToOperator>,
    agent: &Agent,
    session: &Session<'_>,
    hello: &Hello,
) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let unable = |reason: String| Ended::Declined(Declined::Unable { reason });
    let tenant = &session.tenant;
    let Ok(mut keeper) = tokio::time::timeout(agent.longest_message(), agent.keeper.lock()).await else {
        return unable("the operator before this one does not let go".to_owned());
    };
    if let Some(epoch) = agent.successor(tenant) {
        return Ended::Declined(Declined::Superseded { epoch });
    }
    let mut held = match lock::acquire(&agent.options.state, hello, &agent.options.timing).await {
        Ok(held) => held,
        Err(declined) => return Ended::Declined(declined),
    };
    let proxy = match keeper.facts().await {
        Ok(facts) => facts,
        Err(reason) => return unable(reason),
    };
    tracing::info!(operator = hello.operator, epoch = hello.epoch, proxy = %proxy.abilities, "serving an operator");
    agent.prober.retell();
    keeper.greet(hello.protocol >= OLD_WORKERS);
    match answers.send(&welcome(proxy)).await {
        Ok(()) => {
            tokio::task::spawn_blocking(housekeeping::drop_older_builds);
            let ended = talk(requests, answers, agent, tenant, &mut keeper, &mut held).await;
            if agent.stays && !matches!(ended, Ended::Declined(_)) {
                linger(agent, tenant, &mut keeper, &mut held).await;
            }
            ended
        }
        Err(err) => err.into(),
    }
}

/// Tells somebody who only looks what runs, beside whoever is served, and does nothing else for it.
async fn show<R, W>(
    requests: &mut Receiver<R, ToAgent>,
    answers: &mut Sender<W, ToOperator>,
    agent: &Agent,
    hello: &Hello,
) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if let Err(declined) = judge(hello) {
        return Ended::Declined(declined);
    }
    let mut keeper = Keeper::new(Arc::clone(&agent.options), agent.supervisor.clone());
    let mut told = match keeper.facts().await {
        Ok(facts) => facts,
        Err(reason) => return Ended::Declined(Declined::Unable { reason }),
    };
    let mut said = answers.send(&welcome(told.clone())).await;
    loop {
        if let Err(err) = said {
            return err.into();
        }
        said = match requests.receive().await {
            Ok(ToAgent::Ping) => match keeper.facts().await.ok().filter(|facts| *facts != told) {
                Some(facts) => {
                    told.clone_from(&facts);
                    answers
                        .send(&ToOperator::ProxyChanged(facts))
                        .await
                        .and(answers.send(&ToOperator::Pong).await)
                }
                None => answers.send(&ToOperator::Pong).await,
            },
            Ok(ToAgent::Apply(apply) | ToAgent::Check(apply)) => {
                let reason = "whoever only looks gets nothing done".to_owned();
                answers.send(&ToOperator::Outcome { id: apply.id, outcome: Outcome::Failed { reason } }).await
            }
            Ok(ToAgent::Patch { id, .. }) => answers.send(&ToOperator::Lacks { id }).await,
            Ok(ToAgent::Hello(_) | ToAgent::Probe(_) | ToAgent::Probes(_)) => Ok(()),
            Err(err) => Err(err),
        };
    }
}

/// Stays until what was put off is written down, or somebody else is to see to it. An agent that ends with its proxy
/// is told so, or does not live to see it.
async fn linger(agent: &Agent, tenant: &Tenant, keeper: &mut Keeper, held: &mut Held) {
    while keeper.has_put_off() && held.claimed().is_none() {
        tokio::select! {
            () = tenant.leave.cancelled() => return,
            () = tokio::time::sleep(agent.options.timing.watch) => {}
        }
        held.beat();
        keeper.write_down_when_due().await;
    }
}

async fn talk<R, W>(
    requests: &mut Receiver<R, ToAgent>,
    answers: &mut Sender<W, ToOperator>,
    agent: &Agent,
    tenant: &Tenant,
    keeper: &mut Keeper,
    held: &mut Held,
) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut tick = tokio::time::interval(agent.options.timing.watch);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let said = tokio::select! {
            request = requests.receive() => match request {
                Ok(request) => answer(request, answers, agent, keeper).await,
                Err(err) => Err(err),
            },
            results = agent.prober.changes() => answers.send(&ToOperator::Probed { results }).await,
            () = tenant.leave.cancelled() => {
                let superseded = |epoch| Ended::Declined(Declined::Superseded { epoch });
                return agent.successor(tenant).map_or(Ended::Left, superseded);
            }
            _ = tick.tick() => {
                held.beat();
                if let Some(epoch) = held.claimed() {
                    return Ended::Declined(Declined::Superseded { epoch });
                }
                keeper.write_down_when_due().await;
                let told = match keeper.changed().await {
                    Some(facts) => answers.send(&ToOperator::ProxyChanged(facts)).await,
                    None => Ok(()),
                };
                match keeper.old_workers(false) {
                    Some(old) if told.is_ok() => answers.send(&ToOperator::OldWorkers(old)).await,
                    _ => told,
                }
            }
        };
        if let Err(err) = said {
            return err.into();
        }
    }
}

/// What is to be done with a bundle.
enum How {
    Check,
    Apply,
    /// Apply what a patch has made, and has verified so.
    Patched,
}

async fn answer<W: AsyncWrite + Unpin>(
    request: ToAgent,
    answers: &mut Sender<W, ToOperator>,
    agent: &Agent,
    keeper: &mut Keeper,
) -> Result<(), WireError> {
    let (apply, how) = match request {
        // A second hello changes nothing.
        ToAgent::Hello(_) => return Ok(()),
        ToAgent::Ping => return answers.send(&ToOperator::Pong).await,
        ToAgent::Probe(set) => {
            agent.prober.set(set);
            return Ok(());
        }
        ToAgent::Probes(change) => {
            agent.prober.change(change);
            return Ok(());
        }
        ToAgent::Patch { id, patch, withdraws } => match keeper.patched(patch) {
            Some(bundle) => {
                (Box::new(Apply { id, bundle, secrets: BTreeMap::new(), withdraws }), How::Patched)
            }
            None => return answers.send(&ToOperator::Lacks { id }).await,
        },
        ToAgent::Apply(apply) => (apply, How::Apply),
        ToAgent::Check(apply) => (apply, How::Check),
    };
    let mut connected = Ok(());
    let outcome = {
        let mut work = std::pin::pin!(async {
            match how {
                How::Check => keeper.check(&apply).await,
                How::Apply => keeper.apply(&apply, false).await,
                How::Patched => keeper.apply(&apply, true).await,
            }
        });
        loop {
            // Probe results go out while the proxy reloads: they admit endpoints elsewhere too. An operator that
            // has gone does not stop the work half-way.
            tokio::select! {
                outcome = &mut work => break outcome,
                results = agent.prober.changes(), if connected.is_ok() => {
                    connected = answers.send(&ToOperator::Probed { results }).await;
                }
            }
        }
    };
    connected?;
    // Before the outcome: what is sent next may have to wait for them.
    if let Some(old) = keeper.old_workers(true) {
        answers.send(&ToOperator::OldWorkers(old)).await?;
    }
    answers.send(&ToOperator::Outcome { id: apply.id, outcome }).await
}
