//! What deploys cost: rolling, careless, recreated and removed containers, under load that never retries.

use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use interlock_e2e::load::{lost_inside, quantile, settled_logs};
use interlock_e2e::world::{APP, Kind};
use interlock_e2e::{Container, Load, Result, Tally, World, ensure, eventually, http, image};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::measure::{Bench, now_us, setting};
use crate::report::{Report, Row, ms, spread};

/// How long an app of these rows needs until it listens.
const START: &str = "1500";
/// Samples where containers repeat what `fast` has more of.
const FEW: u64 = 10;
/// Requests a second.
const RATE: u32 = 100;

impl Bench<'_> {
    fn app<'a>(&'a self, name: &str, host: &str) -> interlock_e2e::Run<'a> {
        self.stage.app(name).label("interlock.host", host)
    }

    /// A row about what was lost; `asked` says whether the bar counts for this proxy.
    fn losses(&self, what: impl Into<String>, tally: &Tally, bar: &str, asked: bool) -> Row {
        let causes: Vec<_> = tally.lost.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
        let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
        let figure =
            format!("{} of {} lost{causes}; slowest {} ms", tally.bad(), tally.sent, ms(tally.took.most()));
        Row::of(self.kind, what, figure)
            .limit(format!("p50 {} ms an answer", ms(tally.took.permille(500))))
            .bar_if(asked, bar, tally.bad() == 0)
            .quoted()
    }

    /// One more endpoint of a host that is served already.
    pub(crate) async fn new_endpoint(
        &self,
        routes: usize,
        bare: &crate::bare::Bare,
        report: &mut Report,
    ) -> Result {
        let host = self.world.host("app0");
        let mut took = Vec::new();
        for sample in 0..setting("BENCH_SAMPLES", 30).min(FEW) {
            let start = self.start_as(&format!("end-{routes}-{sample}"), &host).await?;
            took.push(start.took);
            start.container.remove().await?;
            self.stage.shared_by(&host, "/", &["app0"]).await?;
            self.quiet().await;
        }
        self.timed(format!("new endpoint beside {routes} containers"), &took, bare, report);
        Ok(())
    }

    /// From the arrival of the kill event to the last request that the stopped app was still given.
    pub(crate) async fn stop_signal(&self, report: &mut Report) -> Result {
        let host = self.world.host("stopped");
        let keeps = self.app("keeps", &host).start().await?;
        self.stage.serves(&host, "/", "keeps").await?;
        let mut took = Vec::new();
        for sample in 0..setting("BENCH_SAMPLES", 30).min(FEW) {
            let name = format!("goes-{sample}");
            let goes = self.app(&name, &host).env("LINGER_MS", "3000").start().await?;
            self.stage.shared_by(&host, "/", &["keeps", &name]).await?;
            let id = goes.id.clone();
            let killed = tokio::spawn(async move { goes.kill("TERM").await.map(|()| goes) });
            let mut last = 0;
            let end = Instant::now() + Duration::from_millis(700);
            while Instant::now() < end {
                let asked = now_us();
                let answer = http::get(self.proxy(), &host, "/whoami").await?;
                if answer.app().is_ok_and(|app| app == name) {
                    last = asked;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let goes = killed.await??;
            let arrived = self.heard(&self.kills, &id).await?;
            took.push(Duration::from_micros(last.saturating_sub(arrived)));
            goes.remove().await?;
            self.stage.shared_by(&host, "/", &["keeps"]).await?;
            self.quiet().await;
        }
        keeps.remove().await?;
        let asked = self.kind == Kind::Haproxy;
        let most = Duration::from_millis(20);
        let row = Row::of(self.kind, "stop signal to out of rotation, containers", spread(&took));
        let holds = quantile(&took, 0.95) <= most;
        report.row(row.bar_if(asked, "p95 ≤ 20 ms", holds).times(&took, asked.then_some(most)));
        Ok(())
    }

    /// Three replicas replaced one by one: the next started, ready, then the old one stopped.
    pub(crate) async fn rolling(&self, report: &mut Report) -> Result {
        for (letter, linger) in [("a", "500"), ("b", "0")] {
            for pace in [0, 1, 5] {
                let host = self.world.host(&format!("rolling-{letter}{pace}"));
                let app = |name: &str| {
                    let name = format!("{letter}{pace}-{name}");
                    self.app(&name, &host).env("START_DELAY_MS", START).env("LINGER_MS", linger)
                };
                let mut old = Vec::new();
                for number in 0..3 {
                    old.push(app(&format!("old-{number}")).start().await?);
                }
                let names =
                    |kind: &str| (0..3).map(|n| format!("{letter}{pace}-{kind}-{n}")).collect::<Vec<_>>();
                self.shared_by(&host, &names("old")).await?;
                let load = Load::open(self.proxy(), &host, RATE).start();
                let mut all: Vec<Container> = Vec::new();
                for (number, old) in old.into_iter().enumerate() {
                    let new = app(&format!("new-{number}")).start().await?;
                    self.listens(&new).await?;
                    old.stop().await?;
                    all.extend([old, new]);
                    tokio::time::sleep(Duration::from_secs(pace)).await;
                }
                self.shared_by(&host, &names("new")).await?;
                self.settle(load, &all, report, |tally| {
                    let what = format!("rolling replacement of 3, pace {pace} s, app ({letter})");
                    self.losses(what, tally, "0 lost", true)
                })
                .await?;
            }
        }
        Ok(())
    }

    /// The successor started, the old one stopped as soon as the successor runs, before it listens.
    pub(crate) async fn careless(&self, report: &mut Report) -> Result {
        let host = self.world.host("careless");
        let old = self.app("careless-old", &host).start().await?;
        self.stage.serves(&host, "/", "careless-old").await?;
        let load = Load::open(self.proxy(), &host, RATE).start();
        load.answers(50).await?;
        let new = self.app("careless-new", &host).env("START_DELAY_MS", START).start().await?;
        old.stop().await?;
        self.stage.serves(&host, "/", "careless-new").await?;
        self.settle(load, &[old, new], report, |tally| {
            self.losses("careless deploy, 1.5 s to start", tally, "0 lost", self.kind == Kind::Haproxy)
        })
        .await
    }

    /// `docker compose up -d` of a single replica whose settings have changed.
    pub(crate) async fn recreate(&self, report: &mut Report) -> Result {
        let host = self.world.host("recreate");
        let project = Project::new(self.world, &self.stage.network, &host)?;
        let old = project.up("recreate-old", "0").await?;
        self.stage.serves(&host, "/", "recreate-old").await?;
        let old_log = followed(&old);
        let load = Load::open(self.proxy(), &host, RATE).start();
        load.answers(50).await?;
        let new = project.up("recreate-new", START).await?;
        self.stage.serves(&host, "/", "recreate-new").await?;
        load.answers(50).await?;
        let tally = load.stop().await?;
        let killed = self.heard(&self.kills, &old).await?;
        let who = http::get(self.proxy(), &host, "/whoami").await?.expect(200)?.json()?;
        let listening = who["listeningSince"].as_u64().ok_or("the app does not say since when")?;
        let gap = Duration::from_micros(listening.saturating_sub(killed));
        let new_log = followed(&new);
        project.down().await?;
        tally.executed_once_by(&[&old_log.await??, &new_log.await??])?;
        let most = gap + Duration::from_millis(1200);
        let asked = self.kind == Kind::Haproxy;
        let bar = format!("0 lost, each held ≤ that + 1.2 s = {} ms", ms(most));
        let row = self.losses("compose up -d of a single replica, 1.5 s to start", &tally, "", false);
        let row = row.limit(format!("nobody listens for {} ms of it", ms(gap)));
        report.row(row.bar_if(asked, bar, tally.bad() == 0 && tally.took.most() <= most));
        self.quiet().await;
        Ok(())
    }

    /// `docker rm -f` of one of two. Only what was inside the dead app may be lost with it: the proxy's access log says
    /// of every request whether its connection had come about.
    pub(crate) async fn remove_one_of_two(&self, report: &mut Report) -> Result {
        let host = self.world.host("removed");
        let keeps = self.app("removed-keeps", &host).start().await?;
        let goes = self.app("removed-goes", &host).start().await?;
        self.shared_by(&host, &["removed-goes".to_owned(), "removed-keeps".to_owned()]).await?;
        let dead = goes.at(&self.stage.network, 8080).await?;
        let load = Load::open(self.proxy(), &host, RATE).start();
        load.answers(100).await?;
        goes.remove().await?;
        self.stage.serves(&host, "/", "removed-keeps").await?;
        load.answers(100).await?;
        let tally = load.stop().await?;
        keeps.remove().await?;
        let inside = lost_inside(&settled_logs(&self.stage.proxies[0].container).await?, dead);
        let asked = self.kind == Kind::Haproxy;
        let row = self.losses("rm -f of one of two", &tally, "", false);
        let row = row.limit(format!("{inside} were inside the dead app, by the proxy's access log"));
        report.row(row.bar_if(asked, "0 but for those", tally.bad() <= inside));
        self.quiet().await;
        Ok(())
    }

    /// When an event about a container arrived at the bystander.
    async fn heard(&self, arrivals: &crate::measure::Arrivals, id: &str) -> Result<u64> {
        eventually(Duration::from_secs(5), "the bystander hears of it", async || {
            let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.get(id).copied().ok_or_else(|| "not yet".into())
        })
        .await
    }

    async fn shared_by(&self, host: &str, names: &[String]) -> Result {
        self.stage.shared_by(host, "/", &names.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Until the app itself listens.
    async fn listens(&self, app: &Container) -> Result {
        let address = app.at(&self.stage.network, 8080).await?;
        eventually(Duration::from_secs(30), "the app listens", async || {
            Ok(tokio::net::TcpStream::connect(address).await.map(drop)?)
        })
        .await
    }

    /// Ends a load, makes its row, and removes the apps.
    async fn settle(
        &self,
        load: interlock_e2e::load::Running,
        apps: &[Container],
        report: &mut Report,
        row: impl FnOnce(&Tally) -> Row,
    ) -> Result {
        load.answers(50).await?;
        let tally = load.stop().await?;
        tally.executed_once(&apps.iter().collect::<Vec<_>>()).await?;
        report.row(row(&tally));
        for app in apps {
            app.remove().await?;
        }
        self.quiet().await;
        Ok(())
    }
}

/// A compose project of one service with one container, in a network that is there already.
struct Project {
    name: String,
    folder: tempfile::TempDir,
    file: Value,
}

impl Project {
    fn new(world: &World, network: &str, host: &str) -> Result<Self> {
        let (key, value) = world.label();
        let file = json!({
            "services": { "web": {
                "image": image(APP), "networks": ["net"], "labels": { key: value, "interlock.host": host },
            } },
            "networks": { "net": { "external": true, "name": network } },
        });
        // Compose takes lower case, digits and hyphens.
        Ok(Self { name: world.name("recreate").to_lowercase(), folder: tempfile::tempdir()?, file })
    }

    /// Brings it up as an app of this name; the container's id.
    async fn up(&self, name: &str, delay: &str) -> Result<String> {
        let mut file = self.file.clone();
        file["services"]["web"]["environment"] = json!({ "NAME": name, "START_DELAY_MS": delay });
        std::fs::write(self.folder.path().join("compose.json"), file.to_string())?;
        self.compose(&["up", "-d"]).await?;
        Ok(self.compose(&["ps", "-q", "web"]).await?.trim().to_owned())
    }

    async fn down(&self) -> Result {
        self.compose(&["down", "-t", "3"]).await.map(drop)
    }

    async fn compose(&self, words: &[&str]) -> Result<String> {
        let file = self.folder.path().join("compose.json");
        let mut command = Command::new("docker-compose");
        command.arg("-p").arg(&self.name).arg("-f").arg(file).args(words);
        said(command).await?
    }
}

/// What a container writes until its end.
fn followed(id: &str) -> JoinHandle<Result<String>> {
    let mut command = Command::new("docker");
    command.args(["logs", "--follow", id]);
    said(command)
}

/// What a command writes to its standard output.
fn said(mut command: Command) -> JoinHandle<Result<String>> {
    tokio::task::spawn_blocking(move || {
        let output = command.stdin(Stdio::null()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}
