//! How much: thousands of routes, storms, and reloads under load, on the engine's double.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use interlock_core::plan::Ability;
use interlock_crds::ProxyKind;
use interlock_e2e::bare::abilities;
use interlock_e2e::double::{App, Hosted, Member, Scene, Wish, answered_by, drawn, host};
use interlock_e2e::load::quantile;
use interlock_e2e::wait::throughout;
use interlock_e2e::world::Kind;
use interlock_e2e::{Load, Result, ensure, eventually};
use serde_json::json;

use crate::bare;
use crate::fast::{memory, seed};
use crate::measure::{CEILING, setting, storm};
use crate::report::{Report, Row, ms, say, spread};

/// Long enough for whatever is still to come; nothing is measured by it.
const SOON: Duration = Duration::from_mins(2);
/// Containers that start together, and the pause between two of them.
const TOGETHER: usize = 50;
const STEP: Duration = Duration::from_millis(40);
/// Fifty clients that wait must leave some of the machine to who is measured.
const ASKED_EVERY: Duration = Duration::from_millis(10);

/// What was measured on a double; the harness is the same for every row.
pub(crate) struct Scale<'a> {
    pub(crate) kind: Kind,
    pub(crate) binary: &'a Path,
}

async fn count(hosted: &Hosted, name: &str, labels: &[&str]) -> Result<f64> {
    hosted.metric(name, labels).await
}

async fn reloads(hosted: &Hosted) -> Result<f64> {
    count(hosted, "interlock_reloads_total", &[]).await
}

fn wishes(routes: usize) -> Vec<Wish> {
    (0..routes).map(|number| drawn(seed(), number)).collect()
}

impl Scale<'_> {
    /// An operator that finds thousands of containers when it starts.
    pub(crate) async fn first_sync(&self, report: &mut Report) -> Result {
        let routes = usize::try_from(setting("BENCH_SYNC_ROUTES", 5000))?;
        let scene = Scene::begun(self.binary, self.kind, wishes(routes), json!({})).await?;
        let begin = Instant::now();
        let applied =
            async || count(&scene.hosted, "interlock_applies_total", &["outcome=\"Applied\""]).await;
        eventually(SOON, "the first receipt", async || {
            ensure!(applied().await? > 0.5, "nothing was applied: {}", scene.hosted.log());
            Ok(())
        })
        .await?;
        let took = begin.elapsed();
        scene.all_served().await?;
        // Another apply would follow at once, if one did.
        throughout(Duration::from_secs(2), "it stays", async || Ok(())).await?;
        let applies = applied().await?;
        let figure = format!("{applies:.0}, the receipt {:.1} s after the start", took.as_secs_f64());
        let row = Row::of(self.kind, format!("applies of a first sync of {routes} routes"), figure);
        report.row(row.bar("1", (applies - 1.0).abs() < 0.5).quoted());
        report.row(memory(self.kind, &scene.hosted, routes)?);
        Ok(())
    }

    /// Fifty hosts as the mix has them, one every 40 ms; a storm for a reload, and a handful for spare backends.
    pub(crate) async fn together(&self, report: &mut Report) -> Result {
        const OTHERS: usize = 25;
        let scene = Scene::of(self.binary, self.kind, wishes(OTHERS), json!({})).await?;
        let bare = bare::of_hosted(&scene.hosted, self.kind).await?;
        tokio::time::sleep(CEILING * 2).await;
        let before = reloads(&scene.hosted).await?;
        let begin = Instant::now();
        let mut ticks = tokio::time::interval(STEP);
        let (mut apps, mut asking) = (Vec::new(), Vec::new());
        for number in OTHERS..OTHERS + TOGETHER {
            ticks.tick().await;
            let wish = drawn(seed(), number);
            let member = scene.double.create(wish.host(), &wish);
            apps.push(App::listen(wish.host(), member.at).await?);
            let (told, proxy) = (scene.double.run(&member), scene.hosted.proxy);
            asking.push(tokio::spawn(async move {
                let answered = answered_by(proxy, &wish.url(), wish.host(), ASKED_EVERY).await;
                answered.map(|answered| answered - told).ok_or_else(|| wish.url())
            }));
        }
        let span = begin.elapsed();
        let took: Vec<Duration> = try_join_all(asking)
            .await?
            .into_iter()
            .collect::<std::result::Result<_, _>>()
            .map_err(|url| format!("{url} is never served: {}", scene.hosted.log()))?;
        let count = reloads(&scene.hosted).await? - before;
        let most = storm(self.kind, span);
        if count > most {
            // Which, and why: what a missed bar leaves to be found out.
            let log = scene.hosted.log();
            log.lines().filter(|line| line.contains("reloaded")).for_each(say);
        }
        let what = format!("reloads for {TOGETHER} hosts that start within {:.1} s", span.as_secs_f64());
        report.row(
            Row::of(self.kind, what, format!("{count}")).bar(format!("≤ {most}"), count <= most).quoted(),
        );
        let bar = CEILING + quantile(&bare.both, 0.95) + Duration::from_millis(50);
        let slowest = quantile(&took, 1.0);
        let figure = format!("{}, the slowest {} ms", spread(&took), ms(slowest));
        let row = Row::of(self.kind, format!("the {TOGETHER} answer after"), figure).limit(bare.limit());
        let asked = format!("all ≤ ceiling + reload + 50 = {} ms", ms(bar));
        report.row(row.bar(asked, slowest <= bar).times(&took, Some(bar)).quoted());
        Ok(())
    }

    /// What the engine is asked for: by starts, by ends, and by nothing at all for longer than a resync.
    pub(crate) async fn requests(&self, report: &mut Report) -> Result {
        const RESYNC: Duration = Duration::from_secs(30);
        let scene = Scene::of(self.binary, self.kind, wishes(20), json!({})).await?;
        let asked = || scene.double.requests();
        let before = asked();
        let mut members = Vec::new();
        for number in 20..20 + TOGETHER {
            let wish = drawn(seed(), number);
            let member = scene.double.create(wish.host(), &wish);
            let app = App::listen(wish.host(), member.at).await?;
            scene.double.run(&member);
            members.push((wish, member, app));
        }
        for (wish, ..) in &members {
            scene.hosted.serves(&wish.url(), wish.host()).await?;
        }
        let started = asked();
        self.asked("50 starts", &before, &started, &[("container_inspect", TOGETHER as u64)], report);
        for (_, member, _) in &members {
            scene.double.stop_signal(member);
            scene.double.remove(member);
        }
        for (wish, ..) in &members {
            eventually(SOON, "a route goes with its container", async || {
                ensure!(scene.hosted.who(&wish.url()).await.is_none(), "{} is served", wish.url());
                Ok(())
            })
            .await?;
        }
        let removed = asked();
        self.asked("50 removals", &started, &removed, &[], report);
        tokio::time::sleep(RESYNC + Duration::from_secs(5)).await;
        self.asked(
            "35 s without an event",
            &removed,
            &asked(),
            &[("container_list", 2), ("ping", 2)],
            report,
        );
        Ok(())
    }

    /// A row about calls between two counts; a resync may fall into any of them.
    fn asked(
        &self,
        what: &str,
        before: &BTreeMap<String, u64>,
        after: &BTreeMap<String, u64>,
        allowed: &[(&str, u64)],
        report: &mut Report,
    ) {
        let more = |call: &str| after.get(call).unwrap_or(&0) - before.get(call).unwrap_or(&0);
        let calls: Vec<_> =
            after.keys().map(|call| (call, more(call))).filter(|(_, more)| *more > 0).collect();
        let most = |call: &str| {
            let resync = u64::from(call == "container_list");
            allowed.iter().find(|(name, _)| *name == call).map_or(0, |(_, most)| *most).max(resync)
        };
        let told: Vec<_> = calls.iter().map(|(call, more)| format!("{more} {call}")).collect();
        let bar: Vec<_> = allowed.iter().map(|(call, most)| format!("≤ {most} {call}")).collect();
        let figure = if told.is_empty() { "none".to_owned() } else { told.join(", ") };
        let bar = if bar.is_empty() { "none but a resync's list".to_owned() } else { bar.join(", ") };
        let holds = calls.iter().all(|(call, more)| *more <= most(call));
        report.row(Row::of(self.kind, format!("Docker API requests for {what}"), figure).bar(bar, holds));
    }

    /// Reloads and endpoints that come and go, on a host that is under load over kept connections.
    pub(crate) async fn reloads_under_load(&self, report: &mut Report) -> Result {
        let rounds = setting("BENCH_RELOADS", 100);
        let plain = (0..5).map(|number| Wish::of(&host(number))).collect();
        let scene = Scene::of(self.binary, self.kind, plain, json!({})).await?;
        let mut loaded = Loaded::new(&scene);
        let before = reloads(&scene.hosted).await?;
        let load = Load::open(scene.hosted.proxy, &host(0), 200).keep_alive().start();
        for round in 0..rounds {
            for _ in 0..ENDPOINTS {
                loaded.one_more().await?;
            }
            loaded.new_shape(round).await?;
            #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
            let wanted = before + (round + 1) as f64;
            eventually(SOON, "a reload", async || {
                ensure!(reloads(&scene.hosted).await? >= wanted, "none yet: {}", scene.hosted.log());
                Ok(())
            })
            .await?;
        }
        load.answers(200).await?;
        let tally = load.stop().await?;
        let count = reloads(&scene.hosted).await? - before;
        let logs = loaded.executed();
        tally.executed_once_by(&[&logs, &scene.apps[0].2.executed()])?;
        let asked = keeps_connections(self.kind)?;
        let what = format!("{count:.0} reloads and {} endpoint changes, kept connections", loaded.changes);
        let figure = format!("{} of {} lost, none executed twice", tally.bad(), tally.sent);
        let row = Row::of(self.kind, what, figure)
            .limit(format!("p50 {} ms an answer", ms(tally.took.permille(500))));
        report.row(row.bar_if(asked, "0 lost", tally.bad() == 0).quoted());
        Ok(())
    }
}

/// Endpoints that come in one round of reloads under load; as many go.
const ENDPOINTS: usize = 5;

/// What comes and goes beside the load.
struct Loaded<'a> {
    scene: &'a Scene,
    changes: u64,
    /// Endpoints in rotation, and those that were told to stop and finish what they have.
    serving: VecDeque<(Member, App)>,
    leaving: VecDeque<App>,
    shape: Option<(Member, App)>,
    log: String,
}

impl<'a> Loaded<'a> {
    fn new(scene: &'a Scene) -> Self {
        let (serving, leaving) = (VecDeque::new(), VecDeque::new());
        Self { scene, changes: 0, serving, leaving, shape: None, log: String::new() }
    }

    /// One more endpoint of the host under load; the oldest of them leaves.
    async fn one_more(&mut self) -> Result {
        let name = format!("churn-{}", self.changes);
        let member = self.scene.double.create(&name, &Wish::of(&host(0)));
        let app = App::listen(&name, member.at).await?;
        self.scene.double.run(&member);
        self.serving.push_back((member, app));
        self.changes += 1;
        if self.serving.len() > ENDPOINTS
            && let Some((member, app)) = self.serving.pop_front()
        {
            self.scene.double.stop_signal(&member);
            self.scene.double.remove(&member);
            self.changes += 1;
            self.leaving.push_back(app);
        }
        // Two rounds later nobody asks it any more.
        if self.leaving.len() > 2 * ENDPOINTS
            && let Some(app) = self.leaving.pop_front()
        {
            self.log += &app.executed();
        }
        Ok(())
    }

    /// A host whose backend is not like any other: HAProxy must be reloaded for it.
    async fn new_shape(&mut self, round: u64) -> Result {
        const OPTIONS: [&str; 7] = [
            "abortonclose",
            "allbackups",
            "http-no-delay",
            "http-pretend-keepalive",
            "http-server-close",
            "nolinger",
            "prefer-last-server",
        ];
        if let Some((member, _)) = self.shape.take() {
            self.scene.double.stop_signal(&member);
            self.scene.double.remove(&member);
        }
        let name = format!("shape-{round}.example.test");
        let chosen = OPTIONS.iter().enumerate().filter(|(bit, _)| (round + 1) >> bit & 1 == 1);
        let wish = chosen.fold(Wish::of(&name), |wish, (bit, option)| {
            wish.label(&format!("interlock.backend_option.{bit}"), option)
        });
        let member = self.scene.double.create(&name, &wish);
        let app = App::listen(&name, member.at).await?;
        self.scene.double.run(&member);
        self.shape = Some((member, app));
        Ok(())
    }

    fn executed(&self) -> String {
        let still = self.serving.iter().map(|(_, app)| app).chain(&self.leaving).map(App::executed);
        still.fold(self.log.clone(), |log, more| log + &more)
    }
}

/// Whether a reload closes no kept connection under a request.
pub(crate) fn keeps_connections(kind: Kind) -> Result<bool> {
    Ok(kind == Kind::Haproxy || abilities(ProxyKind::Nginx)?.has(Ability::KeepAliveMinTimeout))
}
