//! Containers come, go, stop, pause and multiply, and both proxies follow, whichever way they are reached.

use std::time::Duration;

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::wait::throughout;
use interlock_e2e::{Result, World, ensure_eq, http};

/// One life of a route: it appears, grows, shrinks, pauses, is signalled, stops, comes back and dies.
async fn life(world: &World, way: Way) -> Result {
    let stage = Stage::new(world, way).await?;
    let host = world.host("shop");
    let app = |name: &str| stage.app(name).label("interlock.host", &host);

    // Nothing claims the host yet.
    stage.answers(&host, "/", 404).await?;
    let one = app("one").start().await?;
    stage.serves(&host, "/", "one").await?;

    // Scaled up: both share, and nothing else has changed.
    let two = app("two").start().await?;
    stage.shared_by(&host, "/", &["one", "two"]).await?;

    // A signal that is not the stop signal takes nobody out of rotation (the kernel spares a container's first
    // process what it has no handler for).
    two.kill("SIGHUP").await?;
    stage.shared_by(&host, "/", &["one", "two"]).await?;

    // Paused: its neighbour serves alone.
    one.pause().await?;
    let resumed = stage.shared_by(&host, "/", &["two"]).await;
    one.unpause().await?;
    resumed?;
    stage.shared_by(&host, "/", &["one", "two"]).await?;

    // Stopped and killed: the last one out leaves a known host without an endpoint, or no host at all.
    one.stop().await?;
    stage.shared_by(&host, "/", &["two"]).await?;
    two.kill("SIGKILL").await?;
    stage.answers(&host, "/", 404).await?;

    // Started again it has a new address.
    one.start().await?;
    stage.serves(&host, "/", "one").await?;
    one.remove().await?;
    stage.answers(&host, "/", 404).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_lives_on_stock_proxies() -> Result {
    World::run("life-stock", async |world| life(world, Way::Stock).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_lives_on_agent_images() -> Result {
    World::run("life-agents", async |world| life(world, Way::Agents).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_lives_on_embedded_proxies() -> Result {
    World::run("life-embedded", async |world| life(world, Way::Embedded).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_stops_nobody_changes_nothing() -> Result {
    World::run("hup", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        // This app ignores its stop signal, so it is drained on it and must be looked at again.
        let app = stage.app("one").label("interlock.host", &host).env("IGNORE_TERM", "true").stop_timeout(1);
        let app = app.start().await?;
        stage.serves(&host, "/", "one").await?;
        app.kill("SIGWINCH").await?;
        throughout(Duration::from_secs(1), "a harmless signal", async || {
            stage
                .each(&host, "/", |_, answer| {
                    ensure_eq!(answer.status, 200, "the status");
                    Ok(())
                })
                .await
        })
        .await?;
        app.kill("SIGTERM").await?;
        // It did not die: after its stop time it serves again.
        stage.serves(&host, "/", "one").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_ask_is_not_published() -> Result {
    World::run("quiet", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let quiet = stage.app("quiet").hostname("quiet.example.com").start().await?;
        let loopback = world.host("loopback");
        stage.app("loopback").hostname(&loopback).publish("127.0.0.1", 8080).start().await?;
        let oneoff = world.host("oneoff");
        let run = stage.app("oneoff").label("interlock.host", &oneoff);
        run.label("com.docker.compose.oneoff", "True").start().await?;
        // By then the operator has seen them all: the last one started is served.
        let marker = world.host("marker");
        stage.app("marker").label("interlock.host", &marker).start().await?;
        stage.serves(&marker, "/", "marker").await?;
        let address = quiet.at(&stage.network, 8080).await?;
        http::get(address, "quiet.example.com", "/").await?.expect(200)?;
        for host in ["quiet.example.com", &loopback, &oneoff] {
            stage
                .each(host, "/", |_, answer| {
                    ensure_eq!(answer.status, 404, "the status");
                    Ok(())
                })
                .await?;
        }
        Ok(())
    })
    .await
}
