//! A route lives on while its containers are replaced: requests wait, none is lost, none is executed twice.

use std::time::{Duration, Instant};

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::{Call, Container, Kind, Load, Result, World, ensure, ensure_eq, eventually, load};
use serde_json::json;

/// What the app needs before it listens.
const START: Duration = Duration::from_millis(1500);
/// The longest wait that is not counted as slow, on a machine that does much else: the app's start, the second
/// between two tries, and generous time for the engine.
const HELD: Duration = Duration::from_secs(8);

async fn running(container: &Container) -> Result {
    eventually(Duration::from_secs(20), "it runs", async || {
        ensure!(container.running().await?, "not yet");
        Ok(())
    })
    .await
}

/// An app of the shop that takes its time to start; it ends as the environment says.
async fn app(stage: &Stage<'_>, name: &str, host: &str, linger: &str) -> Result<Container> {
    let start = START.as_millis().to_string();
    let app = stage.app(name).label("interlock.host", host).env("START_DELAY_MS", &start);
    app.env("LINGER_MS", linger).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_container_loses_nothing() -> Result {
    World::run("recreated", async |world| {
        let stage = Stage::with(world, Way::Stock, &[Kind::Haproxy], json!({})).await?;
        let host = world.host("shop");
        let old = app(&stage, "old", &host, "0").await?;
        stage.serves(&host, "/", "old").await?;
        let reloads = stage.metric("interlock_reloads_total", &[]).await?;
        let at = stage.proxy(Kind::Haproxy)?.http;
        let load = Load::open(at, &host, 40).slow_after(HELD).start();
        load.answers(20).await?;
        // What compose does: the old one goes before the new one comes.
        old.stop().await?;
        let new = app(&stage, "new", &host, "0").await?;
        stage.serves(&host, "/", "new").await?;
        load.answers(20).await?;
        // And the same container once more.
        new.restart().await?;
        load.answers(40).await?;
        load::settle(vec![load], &[&old, &new]).await?;
        let after = stage.metric("interlock_reloads_total", &[]).await?;
        ensure!(after <= reloads, "{reloads} reloads, then {after}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_careless_deploy_loses_nothing() -> Result {
    World::run("careless", async |world| {
        let stage = Stage::with(world, Way::Stock, &[Kind::Haproxy], json!({})).await?;
        let host = world.host("shop");
        let old = app(&stage, "old", &host, "0").await?;
        stage.serves(&host, "/", "old").await?;
        let at = stage.proxy(Kind::Haproxy)?.http;
        let load = Load::open(at, &host, 40).slow_after(HELD).start();
        load.answers(20).await?;
        // The old one is stopped as soon as the new one runs, long before that listens.
        let new = app(&stage, "new", &host, "0").await?;
        running(&new).await?;
        old.stop().await?;
        stage.serves(&host, "/", "new").await?;
        load.answers(20).await?;
        load::settle(vec![load], &[&old, &new]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_says_when_to_come_back() -> Result {
    World::run("comeback", async |world| {
        let stage = Stage::with(world, Way::Stock, &[Kind::Nginx], json!({})).await?;
        let host = world.host("shop");
        let old = app(&stage, "old", &host, "500").await?;
        stage.serves(&host, "/", "old").await?;
        let at = stage.proxy(Kind::Nginx)?.http;
        let load = Load::open(at, &host, 40).start();
        load.answers(20).await?;
        old.stop().await?;
        stage.answers(&host, "/", 503).await?;
        let answer = Call::get(at, &host, "/").send().await?;
        ensure_eq!(answer.header("retry-after"), Some("1"), "when to come back");
        let new = app(&stage, "new", &host, "500").await?;
        stage.serves(&host, "/", "new").await?;
        let tally = load.stop().await?;
        // Not 404 for a moment, and nothing without an answer.
        let told = tally.statuses.get(&503).copied().unwrap_or_default();
        ensure!(
            tally.lost_in_all() == told && tally.misrouted == 0,
            "{:?}: {:?}",
            tally.lost,
            tally.failures()
        );
        tally.executed_once(&[&old, &new]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_with_its_time() -> Result {
    World::run("overtime", async |world| {
        let config =
            json!({"clusters": [{"name": "edge", "spec": {"proxy": "haproxy", "hold": "2s", "holdMax": 5}}]});
        let stage = Stage::with(world, Way::Stock, &[Kind::Haproxy], config).await?;
        let host = world.host("shop");
        let old = stage.app("old").label("interlock.host", &host).start().await?;
        stage.serves(&host, "/", "old").await?;
        let at = stage.proxy(Kind::Haproxy)?.http;
        old.kill("KILL").await?;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let call = Call::get(at, &host, "/").within(Duration::from_secs(20));
            calls.spawn(async move {
                let asked = Instant::now();
                let answer = call.send().await.map_err(|error| error.to_string())?;
                Ok::<_, String>((
                    answer.status,
                    answer.header("retry-after").map(str::to_owned),
                    asked.elapsed(),
                ))
            });
        }
        let (mut waited, mut refused) = (0, 0);
        while let Some(answer) = calls.join_next().await {
            let (status, retry, took) = answer??;
            ensure_eq!((status, retry.as_deref()), (503, Some("1")), "the answer after {took:?}");
            if took >= Duration::from_secs(1) { waited += 1 } else { refused += 1 }
        }
        ensure!(waited <= 5 && waited > 0, "{waited} waited and {refused} were told to come back");
        stage.answers(&host, "/", 404).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_may_be_removed_by_force() -> Result {
    World::run("force", async |world| {
        let stage = Stage::with(world, Way::Stock, &[Kind::Haproxy], json!({})).await?;
        let host = world.host("shop");
        let one = stage.app("one").label("interlock.host", &host).start().await?;
        let two = stage.app("two").label("interlock.host", &host).start().await?;
        stage.shared_by(&host, "/", &["one", "two"]).await?;
        let at = stage.proxy(Kind::Haproxy)?.http;
        let dying = two.at(&stage.network, 8080).await?;
        let load = Load::open(at, &host, 40).start();
        load.answers(20).await?;
        two.kill("KILL").await?;
        load.answers(40).await?;
        let tally = load.stop().await?;
        let inside =
            load::lost_inside(&load::settled_logs(&stage.proxy(Kind::Haproxy)?.container).await?, dying);
        // A request that the killed app had taken is lost with it; of 40 a second few can be.
        ensure!(
            tally.lost_in_all() <= inside && inside <= 4 && tally.misrouted == 0,
            "{inside} were inside, lost {:?}: {:?}",
            tally.lost,
            tally.failures()
        );
        tally.executed_once(&[&one, &two]).await
    })
    .await
}

/// Three replicas, each replaced by one that needs its time to start: started, ready, then the old one stopped.
async fn rolling(test: &str, linger: &str, pace: Duration) -> Result {
    World::run(test, async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        let mut old = Vec::new();
        for name in ["a0", "b0", "c0"] {
            old.push(app(&stage, name, &host, linger).await?);
        }
        stage.shared_by(&host, "/", &["a0", "b0", "c0"]).await?;
        let load = |proxy: &interlock_e2e::stage::Proxy| Load::open(proxy.http, &host, 40).slow_after(HELD);
        let loads: Vec<_> = stage.proxies.iter().map(|proxy| load(proxy).start()).collect();
        let mut names = vec!["a0", "b0", "c0"];
        let mut new = Vec::new();
        for (number, name) in ["a1", "b1", "c1"].into_iter().enumerate() {
            new.push(app(&stage, name, &host, linger).await?);
            names.push(name);
            stage.shared_by(&host, "/", &names).await?;
            old[number].stop().await?;
            names.remove(0);
            tokio::time::sleep(pace).await;
        }
        stage.shared_by(&host, "/", &names).await?;
        let all: Vec<&Container> = old.iter().chain(&new).collect();
        load::settle(loads, &all).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_replacement_of_apps_that_drain_loses_nothing() -> Result {
    rolling("rolldrain", "2000", Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_replacement_of_apps_that_close_at_once_loses_nothing() -> Result {
    rolling("rollclose", "0", Duration::from_secs(1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_does_not_reload_nginx_each_time() -> Result {
    World::run("crashloop", async |world| {
        let stage = Stage::with(world, Way::Stock, &[Kind::Nginx], json!({})).await?;
        let host = world.host("shop");
        let web = stage.app("web").label("interlock.host", &host).env("CRASH_AFTER_MS", "700");
        let web = web.start().await?;
        let mut crashes = 0;
        for _ in 0..12 {
            web.ended(Duration::from_secs(20)).await?;
            crashes += 1;
            web.start().await?;
        }
        web.ended(Duration::from_secs(20)).await?;
        let reloads = stage.metric("interlock_reloads_total", &[]).await?;
        // Two for each of the first three falls, the first configuration, and the host before it serves.
        ensure!(reloads <= 9.0, "{reloads} reloads for {crashes} crashes");
        // Its neighbour is served at once.
        let other = world.host("other");
        let neighbour = stage.app("neighbour").label("interlock.host", &other).start().await?;
        stage.serves(&other, "/", "neighbour").await?;
        ensure!(neighbour.running().await?, "the neighbour runs");
        Ok(())
    })
    .await
}
