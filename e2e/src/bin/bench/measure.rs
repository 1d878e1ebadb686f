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
use crate::scale::keeps_connections;

/// The longest that a reload is put off (`pace.ceiling`).
pub(crate) const CEILING: Duration = Duration::from_millis(500);
/// Containers that the engine is asked to start side by side.
const STARTS: usize = 4;

/// Arrival of events of one kind at somebody who only listens, by container, in microseconds since the epoch.
pub(crate) type Arrivals = Arc<Mutex<BTreeMap<String, u64>>>;

/// A stage and what has been put on it.
pub(crate) struct Bench<'w> {
    pub(crate) world: &'w World,
    pub(crate) kind: Kind,
    pub(crate) stage: Stage<'w>,
    apps: Vec<Container>,
    arrivals: Arrivals,
    pub(crate) kills: Arrivals,
    bystander: JoinHandle<()>,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        self.bystander.abort();
    }
}

/// A number from the environment, for short tries.
pub(crate) fn setting(key: &str, default: u64) -> u64 {
    std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A container that has just been started, and when it came to answer.
pub(crate) struct Start {
    pub(crate) container: Container,
    /// From the later of the event's arrival at the bystander and the app's listening to the first 200 of its own.
    pub(crate) took: Duration,
}

impl<'w> Bench<'w> {
    pub(crate) async fn new(world: &'w World, kind: Kind) -> Result<Self> {
        let stage = Stage::with(world, Way::Stock, &[kind], json!({ "log": { "level": "info" } })).await?;
        let arrivals = Arrivals::default();
        let kills = Arrivals::default();
        let heard = (Arc::clone(&arrivals), Arc::clone(&kills));
        let bystander = tokio::spawn(listen(world.docker().clone(), world.label(), heard));
        Ok(Self { world, kind, stage, apps: Vec::new(), arrivals, kills, bystander })
    }

    pub(crate) fn proxy(&self) -> SocketAddr {
        self.stage.proxies[0].http
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
        bare::of_container(self.world, &self.stage.proxies[0].container, self.kind).await
    }

    /// The next sample is a first change after quiet.
    pub(crate) async fn quiet(&self) {
        tokio::time::sleep(CEILING + Duration::from_millis(100)).await;
    }

    /// Starts one app and asks its host until it answers itself.
    pub(crate) async fn start_as(&self, name: &str, host: &str) -> Result<Start> {
        let run = self.stage.app(name).label("interlock.host", host);
        let address = self.proxy();
        let (asked, own) = (host.to_owned(), name.to_owned());
        let asking = tokio::spawn(async move { first_answer(address, &asked, &own).await });
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
            let start = self.start_as(&name, &host).await?;
            took.push(start.took);
            start.container.remove().await?;
            self.stage.answers(&host, "/", 404).await?;
            self.quiet().await;
        }
        self.timed(format!("new host beside {routes} containers"), &took, bare, report);
        Ok(())
    }

    /// A row of times that are asked of Interlock.
    pub(crate) fn timed(&self, what: String, took: &[Duration], bare: &Bare, report: &mut Report) {
        let bar = bare.bar(self.kind);
        let row = Row::of(self.kind, what, spread(took)).limit(bare.limit());
        report.row(row.bar(bar.text(), bar.holds(took)).times(took, Some(bar.half)));
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
            let starts = names.iter().zip(&hosts).map(|(name, host)| self.start_as(name, host));
            for start in try_join_all(starts).await? {
                took.push(start.took);
                containers.push(start.container);
            }
        }
        let span = begin.elapsed();
        let count = reloads().await? - before;
        let most = storm(self.kind, span);
        let what = "reloads for 50 containers started together";
        let row = Row::of(self.kind, what, format!("{count} in {:.1} s", span.as_secs_f64()));
        report.row(row.bar(format!("≤ {most}"), count <= most));
        let bare = self.bare().await?;
        let bar = CEILING + quantile(&bare.both, 0.95) + Duration::from_millis(50);
        let slowest = quantile(&took, 1.0);
        let row = Row::of(
            self.kind,
            "the slowest of the 50 containers answers after",
            format!("{} ms", ms(slowest)),
        );
        let asked = format!("≤ ceiling + reload + 50 = {} ms", ms(bar));
        report.row(row.limit(bare.limit()).bar(asked, slowest <= bar));
        try_join_all(containers.iter().map(Container::remove)).await?;
        Ok(())
    }

    /// Load on one host while its neighbours come and go.
    pub(crate) async fn churn(&self, report: &mut Report) -> Result {
        let seconds = setting("BENCH_CHURN_SECONDS", 30);
        let host = self.world.host("app0");
        let load = || Load::closed(self.proxy(), &host, 2).served_by(&["app0"]);
        let (new, kept) = (load().start(), load().keep_alive().start());
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut changes = 0;
        let mut ticks = tokio::time::interval(CEILING);
        while Instant::now() < end {
            ticks.tick().await;
            let name = format!("churn-{changes}");
            let run = self.stage.app(&name).label("interlock.host", &self.world.host(&name));
            let app = run.start().await?;
            ticks.tick().await;
            app.remove().await?;
            changes += 2;
        }
        let tallies = [("new", new.stop().await?), ("kept", kept.stop().await?)];
        for (connections, tally) in tallies {
            tally.executed_once(&[&self.apps[0]]).await?;
            let asked = connections == "new" || keeps_connections(self.kind)?;
            let what = format!("requests lost on a neighbour, {connections} connections, {changes} changes");
            let figure = format!("{} of {}, none executed twice", tally.bad(), tally.sent);
            let limit = format!("p50 {} ms an answer", ms(tally.took.permille(500)));
            let row = Row::of(self.kind, what, figure).limit(limit);
            report.row(row.bar_if(asked, "0", tally.bad() == 0).quoted());
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
        let what = format!("the operator's memory with {} containers", self.apps.len());
        let row = Row::of(self.kind, what, format!("{resident:.1} MB, peak {peak:.1} MB"));
        report.row(row.bar("≤ 40 MB", peak <= 40.0).quoted());
        let what = "the operator's processor time without any event";
        report.row(Row::of(self.kind, what, format!("{share:.2} % of a core")));
        Ok(())
    }
}

/// The most reloads for many hosts that start over a span.
pub(crate) fn storm(kind: Kind, span: Duration) -> f64 {
    match kind {
        Kind::Haproxy => 2.0,
        Kind::Nginx => 1.0 + (span.as_secs_f64() / CEILING.as_secs_f64()).floor(),
    }
}

/// Notes start and kill events as they arrive.
async fn listen(docker: Docker, (key, value): (String, String), (starts, kills): (Arrivals, Arrivals)) {
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("event", vec!["start".to_owned(), "kill".to_owned()]),
        ("label", vec![format!("{key}={value}")]),
    ]);
    let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
    while let Some(Ok(event)) = events.next().await {
        let now = now_us();
        let heard = if event.action.as_deref() == Some("kill") { &kills } else { &starts };
        if let Some(id) = event.actor.and_then(|actor| actor.id) {
            heard.lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
        }
    }
}

/// The engine's own version.
pub(crate) async fn docker_version() -> Result<String> {
    let version = Docker::connect_with_defaults()?.version().await?;
    Ok(version.version.unwrap_or_default())
}

/// Asks each millisecond on a connection of its own until this app answers: when that was, and since when it listened.
async fn first_answer(address: SocketAddr, host: &str, app: &str) -> Result<(u64, u64)> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = String::new();
    while Instant::now() < deadline {
        match http::get(address, host, "/whoami").await {
            Ok(answer) if answer.status == 200 && answer.app().is_ok_and(|own| own == app) => {
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
