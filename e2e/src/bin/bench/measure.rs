//! What is measured, on a stage with one stock proxy.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use interlock_e2e::load::quantile;
use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::world::Kind;
use interlock_e2e::{Container, Load, Result, World, eventually, http};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::bare::{self, Bare};
use crate::report::{Report, Row, ms, spread};

/// The longest that a reload is put off (`pace.ceiling`).
const CEILING: Duration = Duration::from_millis(500);
/// Containers that the engine is asked to start side by side.
const STARTS: usize = 4;

/// Arrival of start events at somebody who only listens, by container, in microseconds since the epoch.
type Arrivals = Arc<Mutex<BTreeMap<String, u64>>>;

/// A stage and what has been put on it.
pub(crate) struct Bench<'w> {
    world: &'w World,
    kind: Kind,
    stage: Stage<'w>,
    apps: Vec<Container>,
    arrivals: Arrivals,
    bystander: JoinHandle<()>,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        self.bystander.abort();
    }
}

/// A number from the environment, for short tries.
fn setting(key: &str, default: u64) -> u64 {
    std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A container that has just been started, and when it came to answer.
struct Start {
    container: Container,
    /// From the later of the event's arrival at the bystander and the app's listening to the first 200.
    took: Duration,
}

impl<'w> Bench<'w> {
    pub(crate) async fn new(world: &'w World, kind: Kind) -> Result<Self> {
        let stage = Stage::with(world, Way::Stock, &[kind], json!({ "log": { "level": "info" } })).await?;
        let arrivals = Arrivals::default();
        let bystander = tokio::spawn(listen(world.docker().clone(), world.label(), Arc::clone(&arrivals)));
        Ok(Self { world, kind, stage, apps: Vec::new(), arrivals, bystander })
    }

    fn proxy(&self) -> SocketAddr {
        self.stage.proxies[0].http
    }

    fn row(
        &self,
        what: impl Into<String>,
        figure: String,
        limit: String,
        bar: String,
        holds: Option<bool>,
    ) -> Row {
        Row { proxy: self.kind.as_str(), what: what.into(), figure, limit, bar, holds }
    }

    /// Starts apps until this many are routed and answer.
    pub(crate) async fn grow(&mut self, routes: usize) -> Result {
        while self.apps.len() < routes {
            let from = self.apps.len();
            let batch = (from..routes.min(from + STARTS)).map(|number| {
                let name = format!("app{number}");
                self.stage.app(&name).label("interlock.host", &self.world.host(&name)).start()
            });
            self.apps.extend(try_join_all(batch).await?);
        }
        for number in 0..routes {
            let name = format!("app{number}");
            self.stage.serves(&self.world.host(&name), "/", &name).await?;
        }
        Ok(())
    }

    /// The bare proxy with the configuration as it is now.
    pub(crate) async fn bare(&self) -> Result<Bare> {
        bare::measure(self.world, &self.stage.proxies[0].container, self.kind).await
    }

    /// Starts one app with a host that nobody had and asks for it until it answers.
    async fn start(&self, name: &str, host: &str) -> Result<Start> {
        let run = self.stage.app(name).label("interlock.host", host);
        let address = self.proxy();
        let asked = host.to_owned();
        let asking = tokio::spawn(async move { first_answer(address, &asked).await });
        let container = run.start().await?;
        let (answered, listening) = asking.await??;
        let arrived = eventually(Duration::from_secs(5), "the bystander hears of it", async || {
            let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.get(&container.id).copied().ok_or_else(|| "not yet".into())
        })
        .await?;
        let took = Duration::from_micros(answered.saturating_sub(arrived.max(listening)));
        Ok(Start { container, took })
    }

    /// A brand-new host beside `routes` others.
    pub(crate) async fn new_host(&self, routes: usize, bare: &Bare, report: &mut Report) -> Result {
        let mut took = Vec::new();
        for sample in 0..setting("BENCH_SAMPLES", 30) {
            let name = format!("new-{routes}-{sample}");
            let host = self.world.host(&name);
            let start = self.start(&name, &host).await?;
            took.push(start.took);
            start.container.remove().await?;
            self.stage.answers(&host, "/", 404).await?;
            // Each sample is a first change after quiet.
            tokio::time::sleep(CEILING + Duration::from_millis(100)).await;
        }
        let limit = quantile(&bare.both, 0.5) + Duration::from_millis(20);
        let holds = quantile(&took, 0.5) <= limit;
        report.row(self.row(
            format!("new host at {routes} routes"),
            spread(&took),
            format!(
                "bare check {} + reload {} ms",
                ms(quantile(&bare.check, 0.5)),
                ms(quantile(&bare.reload, 0.5))
            ),
            format!("p50 ≤ bare + 20 = {} ms", ms(limit)),
            Some(holds),
        ));
        Ok(())
    }

    /// Requests to the engine for each container that starts or goes away.
    pub(crate) async fn requests_to_docker(&self, report: &mut Report) -> Result {
        const ROUNDS: u32 = 10;
        let total = async || self.stage.metric("interlock_docker_requests_total", &[]).await;
        let quiet = total().await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let steady = total().await? - quiet;
        let before = total().await?;
        for round in 0..ROUNDS {
            let name = format!("asked-{round}");
            let host = self.world.host(&name);
            let start = self.start(&name, &host).await?;
            start.container.remove().await?;
            self.stage.answers(&host, "/", 404).await?;
        }
        let each = (total().await? - before) / f64::from(2 * ROUNDS);
        report.row(self.row(
            "Docker API requests for each container started or removed",
            format!("{each:.2}"),
            format!("{steady} in 10 s without any event"),
            "≤ 2".to_owned(),
            Some(each <= 2.0),
        ));
        Ok(())
    }

    /// Fifty containers as fast as the engine starts them.
    pub(crate) async fn started_together(&self, report: &mut Report) -> Result {
        let reloads = async || self.stage.metric("interlock_reloads_total", &[]).await;
        let before = reloads().await?;
        let begin = Instant::now();
        let mut took = Vec::new();
        let mut containers = Vec::new();
        for from in (0..50).step_by(STARTS) {
            let names: Vec<_> =
                (from..50.min(from + STARTS)).map(|number| format!("together-{number}")).collect();
            let hosts: Vec<_> = names.iter().map(|name| self.world.host(name)).collect();
            let starts = names.iter().zip(&hosts).map(|(name, host)| self.start(name, host));
            for start in try_join_all(starts).await? {
                took.push(start.took);
                containers.push(start.container);
            }
        }
        let span = begin.elapsed();
        let count = reloads().await? - before;
        let most = 1.0 + (span.as_secs_f64() / CEILING.as_secs_f64()).floor();
        report.row(self.row(
            "reloads for 50 containers started over a span",
            format!("{count} in {:.1} s", span.as_secs_f64()),
            String::new(),
            format!("≤ 1 + span / 500 ms = {most}"),
            Some(count <= most),
        ));
        let bare = self.bare().await?;
        let bar = CEILING + quantile(&bare.both, 0.95) + Duration::from_millis(50);
        let slowest = quantile(&took, 1.0);
        report.row(self.row(
            "the slowest of the 50 answers after",
            format!("{} ms; {}", ms(slowest), spread(&took)),
            format!("bare check and reload p95 {} ms", ms(quantile(&bare.both, 0.95))),
            format!("≤ ceiling + reload + 50 = {} ms", ms(bar)),
            Some(slowest <= bar),
        ));
        try_join_all(containers.iter().map(Container::remove)).await?;
        Ok(())
    }

    /// Load on one host while its neighbours come and go.
    pub(crate) async fn churn(&self, report: &mut Report) -> Result {
        let seconds = setting("BENCH_CHURN_SECONDS", 30);
        let host = self.world.host("app0");
        for keep_alive in [false, true] {
            let load = Load::closed(self.proxy(), &host, 4).served_by(&["app0"]);
            let load = if keep_alive { load.keep_alive() } else { load }.start();
            let end = Instant::now() + Duration::from_secs(seconds);
            let mut changes = 0;
            let mut ticks = tokio::time::interval(CEILING);
            while Instant::now() < end {
                ticks.tick().await;
                let name = format!("churn-{keep_alive}-{changes}");
                let app =
                    self.stage.app(&name).label("interlock.host", &self.world.host(&name)).start().await?;
                ticks.tick().await;
                app.remove().await?;
                changes += 2;
            }
            let tally = load.stop().await?;
            tally.executed_once(&[&self.apps[0]]).await?;
            // What nginx 1.22 cannot do is told, not asked for: it closes kept connections when it is reloaded.
            let asked = self.kind == Kind::Haproxy || !keep_alive;
            let connections = if keep_alive { "kept" } else { "new" };
            report.row(self.row(
                format!("requests lost on a neighbour, {connections} connections, {changes} changes"),
                format!("{} of {}, none executed twice", tally.bad(), tally.requests),
                String::new(),
                if asked { "0".to_owned() } else { String::new() },
                asked.then_some(tally.bad() == 0),
            ));
        }
        Ok(())
    }

    /// What the operator itself needs.
    pub(crate) async fn resources(&self, report: &mut Report) -> Result {
        let container = &self.stage.operator().container;
        let pid = container.inspect().await?.state.and_then(|state| state.pid).ok_or("no pid")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kilobytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()
        };
        let resident = kilobytes("VmRSS:").ok_or("no VmRSS")? / 1024.0;
        let peak = kilobytes("VmHWM:").ok_or("no VmHWM")? / 1024.0;
        let cpu = || -> Result<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields: Vec<&str> = stat.rsplit(')').next().ok_or("no stat")?.split_whitespace().collect();
            // utime and stime in ticks of 10 ms (proc(5)).
            Ok(fields[11].parse::<f64>()? + fields[12].parse::<f64>()?)
        };
        let before = cpu()?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let share = (cpu()? - before) / 10.0;
        report.row(self.row(
            format!("the operator's memory at {} routes", self.apps.len()),
            format!("{resident:.1} MB, peak {peak:.1} MB"),
            String::new(),
            "≤ 40 MB".to_owned(),
            Some(peak <= 40.0),
        ));
        report.row(self.row(
            "the operator's processor time without any event",
            format!("{share:.2} % of a core"),
            String::new(),
            String::new(),
            None,
        ));
        Ok(())
    }
}

/// Notes start events as they arrive.
async fn listen(docker: Docker, (key, value): (String, String), arrivals: Arrivals) {
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("event", vec!["start".to_owned()]),
        ("label", vec![format!("{key}={value}")]),
    ]);
    let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
    while let Some(Ok(event)) = events.next().await {
        let now = now_us();
        if let Some(id) = event.actor.and_then(|actor| actor.id) {
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
        }
    }
}

/// Asks each millisecond on a connection of its own until an app answers: when that was, and since when it listened.
async fn first_answer(address: SocketAddr, host: &str) -> Result<(u64, u64)> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = String::new();
    while Instant::now() < deadline {
        match http::get(address, host, "/whoami").await {
            Ok(answer) if answer.status == 200 => {
                let answered = now_us();
                let listening =
                    answer.json()?["listeningSince"].as_u64().ok_or("the app does not say since when")?;
                return Ok((answered, listening));
            }
            Ok(answer) => last = answer.status.to_string(),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(format!("{host} never answered: {last}").into())
}
