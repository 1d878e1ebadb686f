//! Load that never retries: every request has one try, half of them may be executed only once, all are accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::{Answer, Call, Container, Result, ensure, http};

/// Open requests at once in an open loop; beyond that the system under test counts as overrun.
const OPEN_REQUESTS: usize = 1000;
/// Losses that are kept word for word.
const KEPT: usize = 10;

/// Load to be put on one address.
#[derive(Debug, Clone)]
pub struct Load {
    address: SocketAddr,
    host: String,
    path: String,
    pace: Pace,
    keep_alive: bool,
    slow: Duration,
    apps: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy)]
enum Pace {
    /// As many clients, each with its next request after its last answer.
    Closed(usize),
    /// As many requests a second, whatever the answers.
    Open(u32),
}

/// Load that is under way.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    tally: Arc<Mutex<Tally>>,
    driver: JoinHandle<()>,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests made.
    pub requests: u64,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub lost: u64,
    /// Answers that took longer than allowed.
    pub slow: u64,
    /// Answers of an app that must not serve this host.
    pub misrouted: u64,
    /// Answers by app.
    pub apps: BTreeMap<String, u64>,
    /// The first few failures, for people.
    pub failures: Vec<String>,
    /// Ids of POST requests that were answered with 200.
    pub acknowledged: BTreeSet<String>,
    /// Time to the whole answer, in the order of the answers.
    pub took: Vec<Duration>,
}

struct Shared {
    load: Load,
    run: String,
    next: AtomicU64,
    tally: Arc<Mutex<Tally>>,
    stop: watch::Receiver<bool>,
}

impl Load {
    fn new(address: SocketAddr, host: &str, pace: Pace) -> Self {
        Self {
            address,
            host: host.to_owned(),
            path: String::new(),
            pace,
            keep_alive: false,
            slow: Duration::from_secs(10),
            apps: BTreeSet::new(),
        }
    }

    /// As many clients, each making its next request after its last answer.
    pub fn closed(address: SocketAddr, host: &str, clients: usize) -> Self {
        Self::new(address, host, Pace::Closed(clients))
    }

    /// As many requests a second, whatever became of those before.
    pub fn open(address: SocketAddr, host: &str, per_second: u32) -> Self {
        Self::new(address, host, Pace::Open(per_second))
    }

    /// Under a path prefix, without a slash at its end.
    #[must_use]
    pub fn path(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.path);
        self
    }

    /// Each client keeps its connection (closed loop only). A connection that the proxy has closed before the next
    /// request is written is replaced; one that closes under a request has lost it.
    #[must_use]
    pub const fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }

    /// The longest that an answer may take without being counted as slow; 10 s by default.
    #[must_use]
    pub const fn slow_after(mut self, slow: Duration) -> Self {
        self.slow = slow;
        self
    }

    /// The apps that may answer; none: any.
    #[must_use]
    pub fn served_by(mut self, apps: &[&str]) -> Self {
        self.apps = apps.iter().map(|app| (*app).to_owned()).collect();
        self
    }

    /// Begins; ids are unique over everything that one test process sends.
    pub fn start(self) -> Running {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let shared = Arc::new(Shared {
            run: format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed)),
            next: AtomicU64::new(0),
            tally: Arc::clone(&tally),
            stop: stopped,
            load: self,
        });
        let driver = tokio::spawn(async move {
            match shared.load.pace {
                Pace::Closed(clients) => closed(&shared, clients).await,
                Pace::Open(per_second) => open(&shared, per_second).await,
            }
        });
        Running { stop, tally, driver }
    }
}

impl Running {
    /// What has come of it so far.
    pub fn so_far(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for this many more answered requests.
    pub async fn answers(&self, more: u64) -> Result {
        let wanted = self.so_far().answered() + more;
        crate::eventually(Duration::from_secs(30), "the load goes on", async || {
            let answered = self.so_far().answered();
            ensure!(answered >= wanted, "{answered} of {wanted} answers");
            Ok(())
        })
        .await
    }

    /// Makes no more requests, waits for the open ones and counts.
    pub async fn stop(self) -> Result<Tally> {
        self.stop.send_replace(true);
        self.driver.await?;
        Ok(self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

async fn closed(shared: &Arc<Shared>, clients: usize) {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            let mut connection = None;
            while !*shared.stop.borrow() {
                shared.one(&mut connection).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

async fn open(shared: &Arc<Shared>, per_second: u32) {
    let mut tasks = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    // Requests that are due are made up for: a stalled client must not hide a stalled proxy.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !*shared.stop.borrow() {
        ticks.tick().await;
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= OPEN_REQUESTS {
            shared.record(|tally| {
                tally.requests += 1;
                tally.fail(format!("{OPEN_REQUESTS} requests are open already"));
            });
            continue;
        }
        let shared = Arc::clone(shared);
        tasks.spawn(async move { shared.one(&mut None).await });
    }
    while tasks.join_next().await.is_some() {}
}

impl Shared {
    fn record(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// One request; every second one is a POST with an id of its own.
    async fn one(&self, connection: &mut Option<SendRequest<Full<Bytes>>>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = (number % 2 == 1).then(|| format!("{}-{number}", self.run));
        let begin = Instant::now();
        let answer =
            match tokio::time::timeout(Duration::from_mins(1), self.ask(connection, id.as_deref())).await {
                Ok(answer) => answer,
                Err(_) => Err("no answer within a minute".into()),
            };
        let took = begin.elapsed();
        self.record(|tally| {
            tally.requests += 1;
            match answer {
                Ok(answer) => tally.answer(&self.load, &answer, id, took),
                Err(error) => tally.fail(format!(
                    "request {number} ({}): {error}",
                    if number % 2 == 1 { "POST" } else { "GET" }
                )),
            }
        });
    }

    async fn ask(
        &self,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
        id: Option<&str>,
    ) -> Result<Answer> {
        let Load { address, host, path, .. } = &self.load;
        let call = match id {
            Some(id) => Call::post(*address, host, &format!("{path}/count?id={id}"), id.to_owned()),
            None => Call::get(*address, host, &format!("{path}/whoami")),
        };
        if !self.load.keep_alive {
            return call.header("connection", "close").within(Duration::from_mins(1)).send().await;
        }
        if let Some(sender) = connection
            && sender.ready().await.is_err()
        {
            *connection = None;
        }
        let sender = match connection {
            Some(sender) => sender,
            None => connection.insert(connect(*address).await?),
        };
        let answer = http::exchange(sender, call.request()?).await;
        if answer.is_err() {
            *connection = None;
        }
        answer
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.ready().await?;
    Ok(sender)
}

impl Tally {
    fn fail(&mut self, what: String) {
        self.lost += 1;
        self.keep(what);
    }

    fn keep(&mut self, what: String) {
        if self.failures.len() < KEPT {
            self.failures.push(what);
        }
    }

    fn answer(&mut self, load: &Load, answer: &Answer, id: Option<String>, took: Duration) {
        *self.statuses.entry(answer.status).or_default() += 1;
        self.took.push(took);
        if took > load.slow {
            self.slow += 1;
            self.keep(format!("an answer took {took:?}"));
        }
        if answer.status != 200 {
            self.keep(format!("{}: {}", answer.status, answer.text().trim()));
            return;
        }
        if let Ok(app) = answer.app() {
            if !load.apps.is_empty() && !load.apps.contains(&app) {
                self.misrouted += 1;
                self.keep(format!("{app} answered for {}", load.host));
            }
            *self.apps.entry(app).or_default() += 1;
        }
        self.acknowledged.extend(id);
    }

    /// Requests with any answer.
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Answers other than 200, and requests without any.
    pub fn bad(&self) -> u64 {
        self.requests - self.statuses.get(&200).copied().unwrap_or_default()
    }

    /// Fails unless every request was answered with 200, in time, by an app that may.
    pub fn clean(&self) -> Result {
        ensure!(self.requests > 0, "no request was made");
        ensure!(
            self.bad() == 0 && self.slow == 0 && self.misrouted == 0,
            "of {} requests {} lost, {} slow, {} misrouted, answers {:?}: {:?}",
            self.requests,
            self.lost,
            self.slow,
            self.misrouted,
            self.statuses,
            self.failures
        );
        Ok(())
    }

    /// Fails if an app executed an id twice, or an acknowledged id was executed by none. `containers` are all apps
    /// that served, those that have stopped included (not those that were removed).
    pub async fn executed_once(&self, containers: &[&Container]) -> Result {
        let mut times: BTreeMap<String, u64> = BTreeMap::new();
        for container in containers {
            for line in settled_logs(container).await?.lines() {
                if let Some(id) = line.strip_prefix("executed ") {
                    *times.entry(id.to_owned()).or_default() += 1;
                }
            }
        }
        let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).take(KEPT).collect();
        ensure!(twice.is_empty(), "executed more than once: {twice:?}");
        let never: Vec<_> =
            self.acknowledged.iter().filter(|id| !times.contains_key(*id)).take(KEPT).collect();
        ensure!(never.is_empty(), "acknowledged and executed by none: {never:?}");
        Ok(())
    }

    /// The time within which this share (0 to 1) of the answers came.
    pub fn quantile(&self, share: f64) -> Duration {
        quantile(&self.took, share)
    }
}

/// Stops loads and fails unless all of them are clean and executed only once, by these containers. All stop before
/// anything is counted: what one of them still sends would be counted as well.
pub async fn settle(loads: Vec<Running>, containers: &[&Container]) -> Result {
    let mut tallies = Vec::new();
    for load in loads {
        tallies.push(load.stop().await?);
    }
    for tally in tallies {
        tally.clean()?;
        tally.executed_once(containers).await?;
    }
    Ok(())
}

/// The engine writes a container's output down a little after it was made: what is there when it no longer grows.
async fn settled_logs(container: &Container) -> Result<String> {
    let mut before = 0;
    crate::eventually(Duration::from_secs(20), "the app's log no longer grows", async || {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let logs = container.logs().await?;
        let grown = logs.len() - std::mem::replace(&mut before, logs.len()).min(logs.len());
        ensure!(grown == 0, "{grown} more bytes");
        Ok(logs)
    })
    .await
}

/// The smallest value that is not exceeded by this share (0 to 1) of the values; zero of none.
pub fn quantile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rank within a sample that fits in memory"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(10));
        assert_eq!(quantile(&values, 0.95), Duration::from_millis(19));
        assert_eq!(quantile(&values, 1.0), Duration::from_millis(20));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
