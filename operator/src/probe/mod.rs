//! Steady traffic that never retries: every request has one try, goes out on schedule and is accounted for.

mod client;
mod spread;
mod tally;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use client::{Answer, Client};
pub use spread::Spread;
use tally::Request;
pub use tally::{Cause, Event, Kind, Longest, Tally};

/// The header in which a POST carries its id.
pub const ID_HEADER: &str = "x-probe-id";
/// The header in which an app may say how often it has executed the id of the request.
pub const EXECUTED_HEADER: &str = "x-probe-executed";
/// The header in which an app may say who it is.
pub const SERVER_HEADER: &str = "x-served-by";
/// Requests that wait for a connection of ours; with more, a request counts as lost to [`Cause::Overrun`].
const WAITING: usize = 10_000;

/// What to send, where, how fast, and what counts as a good answer.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The proxy.
    pub to: SocketAddr,
    /// TLS towards it; none: plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
    /// What the `Host` header says; its name is also the one that TLS asks for.
    pub host: String,
    /// What a GET asks for; none: every request is a POST.
    pub get: Option<String>,
    /// What a POST asks for, with `{id}` where its id belongs; none: every request is a GET.
    pub post: Option<String>,
    /// How fast.
    pub pace: Pace,
    /// Which connections are used.
    pub connections: Connections,
    /// The most connections of ours at once.
    pub most: usize,
    /// How long; none: until it is stopped.
    pub duration: Option<Duration>,
    /// An answer that takes longer is slow.
    pub slow: Duration,
    /// An answer that takes longer is lost.
    pub timeout: Duration,
    /// Status codes of good answers; with any other a request is lost.
    pub good: RangeInclusive<u16>,
    /// Texts of which a good answer's body has at least one; none: any body.
    pub expect: Vec<String>,
    /// Names of which a good answer's `X-Served-By` is one; none: any.
    pub served_by: BTreeSet<String>,
    /// Whether ids are kept, to be compared with what the apps executed.
    pub keep_ids: bool,
    /// The most events that are kept word for word; the others are counted.
    pub events: usize,
}

/// How fast requests are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As many requests a second, whatever became of those before.
    Open(f64),
    /// As many clients, each with its next request after its last answer.
    Closed(usize),
}

/// Which connections are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// A connection of its own for each request.
    New,
    /// Connections that are kept between requests.
    Kept,
    /// Of every four requests two each, a GET and a POST.
    Both,
}

/// Traffic that is under way.
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    tally: Arc<Mutex<Tally>>,
    driver: JoinHandle<()>,
}

struct Shared {
    plan: Plan,
    client: Client,
    run: String,
    begin: Instant,
    next: AtomicU64,
    waiting: Semaphore,
    tally: Arc<Mutex<Tally>>,
    stop: watch::Receiver<bool>,
}

impl Plan {
    /// GET of `/` for `host` at `to`, at `pace` over new connections, with every default.
    pub fn new(to: SocketAddr, host: &str, pace: Pace) -> Self {
        Self {
            to,
            tls: None,
            host: host.to_owned(),
            get: Some("/".to_owned()),
            post: None,
            pace,
            connections: Connections::New,
            most: 1000,
            duration: None,
            slow: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            good: 200..=399,
            expect: Vec::new(),
            served_by: BTreeSet::new(),
            keep_ids: false,
            events: 100,
        }
    }

    /// Begins.
    pub fn start(self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let begin = Instant::now();
        let tally = Arc::new(Mutex::new(Tally::new(begin, self.events)));
        let shared = Arc::new(Shared {
            client: Client::new(&self),
            run: run_id(),
            begin,
            next: AtomicU64::new(0),
            waiting: Semaphore::new(self.most),
            tally: Arc::clone(&tally),
            stop: stopped,
            plan: self,
        });
        let driver = tokio::spawn(async move {
            match shared.plan.pace {
                Pace::Closed(clients) => closed(&shared, clients).await,
                Pace::Open(rate) => open(&shared, rate).await,
            }
            shared.record(Tally::end);
        });
        Running { stop, tally, driver }
    }
}

/// Ids differ between runs and between processes.
fn run_id() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    format!("{:x}-{:x}-{}", std::process::id(), since, RUNS.fetch_add(1, Ordering::Relaxed))
}

impl Running {
    /// What has come of it so far.
    pub fn so_far(&self) -> Tally {
        self.look(Tally::clone)
    }

    /// A look at what has come of it so far.
    pub fn look<T>(&self, look: impl FnOnce(&Tally) -> T) -> T {
        look(&self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes no more requests; those under way go on.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves when every request has its answer or is lost.
    pub async fn ended(&mut self) {
        // A driver that panicked has ended as well; what it counted stands.
        let _ = (&mut self.driver).await;
    }
}

async fn closed(shared: &Arc<Shared>, clients: usize) {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            while shared.goes_on() {
                let request = shared.request(Instant::now());
                shared.one(request).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Requests are made when they are due, and those that became due meanwhile are made up for: a stalled client must
/// not hide a stalled proxy. Time counts from when a request was due.
async fn open(shared: &Arc<Shared>, rate: f64) {
    let mut tasks = JoinSet::new();
    let mut stop = shared.stop.clone();
    for number in 0_u32.. {
        let due = shared.begin + Duration::from_secs_f64(f64::from(number) / rate);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        if !shared.goes_on() {
            break;
        }
        while tasks.try_join_next().is_some() {}
        let request = shared.request(due);
        if tasks.len() >= shared.plan.most + WAITING {
            shared.record(|tally| tally.lost(&request, Cause::Overrun, String::new()));
            continue;
        }
        let shared = Arc::clone(shared);
        tasks.spawn(async move { shared.one(request).await });
    }
    while tasks.join_next().await.is_some() {}
}

impl Shared {
    fn goes_on(&self) -> bool {
        !*self.stop.borrow() && self.plan.duration.is_none_or(|duration| self.begin.elapsed() < duration)
    }

    fn record(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Half of the requests are POST where both are asked for, and half of each go over kept connections.
    fn request(&self, due: Instant) -> Request {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let post = match (&self.plan.get, &self.plan.post) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(_), Some(_)) => number % 2 == 1,
        };
        let kept = match self.plan.connections {
            Connections::New => false,
            Connections::Kept => true,
            Connections::Both => number / 2 % 2 == 1,
        };
        self.record(Tally::sent);
        Request { number, post, kept, due }
    }

    async fn one(&self, request: Request) {
        let id = request.post.then(|| format!("{}-{}", self.run, request.number));
        let deadline = request.due + self.plan.timeout;
        let asked = async {
            // Never closed, so that this cannot fail.
            let permit = self.waiting.acquire().await;
            let answer = self.client.ask(id.as_deref(), request.kept).await;
            drop(permit);
            answer
        };
        let answer = tokio::time::timeout_at(deadline.into(), asked).await;
        let took = request.due.elapsed();
        self.record(|tally| match answer {
            Err(_) => tally.lost(&request, Cause::TimedOut, format!("after {:?}", self.plan.timeout)),
            Ok(Err(loss)) => tally.lost(&request, loss.cause, loss.detail),
            Ok(Ok(answer)) => self.judge(tally, &request, &answer, id, took),
        });
    }

    fn judge(
        &self,
        tally: &mut Tally,
        request: &Request,
        answer: &Answer,
        id: Option<String>,
        took: Duration,
    ) {
        let plan = &self.plan;
        let good = plan.good.contains(&answer.status);
        tally.answered(answer.status, took, good);
        if !good {
            tally.lost(request, Cause::Status(answer.status), answer.beginning());
            return;
        }
        if took > plan.slow {
            tally.event(request, Kind::Slow, format!("{} ms", took.as_millis()));
        }
        if let Some(times) = answer.executed.filter(|times| *times > 1) {
            tally.event(request, Kind::Twice, format!("the app says {times} times"));
        }
        if let Some(by) = &answer.served_by {
            tally.by(by);
        }
        let other = answer.served_by.as_deref().unwrap_or("somebody without a name");
        if !plan.served_by.is_empty() && !plan.served_by.contains(other) {
            tally.event(request, Kind::Misrouted, format!("{other} answered"));
        } else if !plan.expect.is_empty() && !plan.expect.iter().any(|text| answer.contains(text)) {
            tally.event(request, Kind::Misrouted, answer.beginning());
        }
        if plan.keep_ids {
            tally.acknowledged.extend(id);
        }
    }
}
