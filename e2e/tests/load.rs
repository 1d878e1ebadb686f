//! No request is lost, sent twice or sent astray while the containers around it come and go.

use std::time::Duration;

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::world::Kind;
use interlock_e2e::{Container, Load, Result, World, ensure, ensure_eq, eventually, load};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_may_churn() -> Result {
    World::run("churn", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        let one = stage.app("one").label("interlock.host", &host).start().await?;
        stage.serves(&host, "/", "one").await?;
        let loads: Vec<_> = stage
            .proxies
            .iter()
            .map(|proxy| Load::open(proxy.http, &host, 60).served_by(&["one"]).start())
            .collect();
        for round in 0..5 {
            let neighbour = world.host(&format!("neighbour-{round}"));
            let name = format!("neighbour-{round}");
            let app = stage.app(&name).label("interlock.host", &neighbour).start().await?;
            stage.serves(&neighbour, "/", &name).await?;
            app.remove().await?;
            stage.answers(&neighbour, "/", 404).await?;
        }
        load::settle(loads, &[&one]).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_loses_nothing() -> Result {
    World::run("rolling", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        // An app that stops serving before anybody can know loses requests all by itself; two seconds will do.
        let app = |name: &str| stage.app(name).label("interlock.host", &host).env("LINGER_MS", "2000");
        let mut serving = vec![app("v0").start().await?];
        let mut gone: Vec<Container> = Vec::new();
        stage.serves(&host, "/", "v0").await?;
        let loads: Vec<_> =
            stage.proxies.iter().map(|proxy| Load::open(proxy.http, &host, 60).start()).collect();
        for version in 1..=4 {
            // The new one starts before the old one stops.
            let name = format!("v{version}");
            serving.push(app(&name).start().await?);
            let before = format!("v{}", version - 1);
            stage.shared_by(&host, "/", &[&before, &name]).await?;
            let old = serving.remove(0);
            old.stop().await?;
            gone.push(old);
            stage.shared_by(&host, "/", &[&name]).await?;
        }
        gone.extend(serving);
        let all: Vec<&Container> = gone.iter().collect();
        load::settle(loads, &all).await?;
        Ok(())
    })
    .await
}

/// What a user does to see for himself: the command in a container beside the proxy, while one app replaces another,
/// and while the only one is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_what_a_deploy_costs() -> Result {
    World::run("probe", async |world| {
        let stage = Stage::with(world, Way::Stock, &[Kind::Haproxy], json!({})).await?;
        let host = world.host("shop");
        let app = |name: &str| stage.app(name).label("interlock.host", &host).env("LINGER_MS", "2000");
        let old = app("old").start().await?;
        stage.serves(&host, "/", "old").await?;

        let probe = Probe::start(&stage, "one", &host).await?;
        let new = app("new").start().await?;
        stage.shared_by(&host, "/", &["new", "old"]).await?;
        old.stop().await?;
        stage.shared_by(&host, "/", &["new"]).await?;
        let (code, report) = probe.end().await?;
        ensure_eq!((code, &report["clean"]), (0, &json!(true)), "a rolling update: {report}");
        let served = |name: &str| report["servedBy"][name].as_u64().unwrap_or_default();
        ensure!(served("old") > 0 && served("new") > 0, "both served: {report}");

        let probe = Probe::start(&stage, "two", &host).await?;
        stage.serves(&host, "/", "new").await?;
        new.kill("KILL").await?;
        stage
            .until(&host, "/", "an app that is gone", |answer| {
                ensure!(answer.status != 200, "it still answers");
                Ok(())
            })
            .await?;
        let (code, report) = probe.end().await?;
        let lost = report["lost"]["total"].as_u64().unwrap_or_default();
        ensure!(code == 1 && lost > 0 && report["clean"] == json!(false), "a kill: {report}");
        ensure_eq!(report["executedTwice"], json!(0), "executed twice");
        Ok(())
    })
    .await
}

/// `interlock probe` in a container of its own.
struct Probe(Container);

impl Probe {
    async fn start(stage: &Stage<'_>, short: &str, host: &str) -> Result<Self> {
        let to = stage.proxies[0].http.to_string();
        let words = ["probe", host, "--to", &to, "--rate", "50", "--post", "/count?id={id}", "-o", "json"];
        let run = stage.world.container(&format!("probe-{short}"), "interlock").network(&stage.network);
        Ok(Self(run.command(&words).start().await?))
    }

    /// Exit code and report.
    async fn end(self) -> Result<(i64, serde_json::Value)> {
        self.0.kill("TERM").await?;
        self.0.ended(Duration::from_mins(1)).await?;
        let code = self.0.inspect().await?.state.and_then(|state| state.exit_code).ok_or("no exit code")?;
        let report = eventually(Duration::from_secs(30), "the report is in the log", async || {
            Ok(serde_json::from_str(&self.0.logs().await?)?)
        })
        .await?;
        Ok((code, report))
    }
}
