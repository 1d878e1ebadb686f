//! The kit itself: app, client, load and cleaning up, without any operator.

use std::time::Duration;

use interlock_e2e::world::{APP, LABEL};
use interlock_e2e::{Call, Load, PrivateEngine, Result, World, ensure, ensure_eq, eventually, http};

#[tokio::test(flavor = "multi_thread")]
async fn the_app_says_who_it_is() -> Result {
    World::run("app", async |world| {
        let network = world.network("net").await?;
        let app = world.app("one", &network).hostname("one.example.com").start().await?;
        let address = app.at(&network, 8080).await?;
        let answer = eventually(Duration::from_secs(30), "the app answers", async || {
            http::get(address, "shop.test", "/x/whoami?a=b").await
        })
        .await?;
        ensure_eq!(answer.app()?, "one", "name");
        ensure_eq!(answer.said("hostname")?, "one.example.com", "host name");
        ensure_eq!(answer.said("path")?, "/x/whoami", "path");
        ensure_eq!(answer.said("query")?, "a=b", "query");
        ensure_eq!(answer.said("host")?, "shop.test", "host");

        let count = Call::post(address, "shop.test", "/count?id=7", "body");
        ensure_eq!(count.clone().send().await?.json()?["times"], 1, "first");
        ensure_eq!(count.send().await?.json()?["times"], 2, "second");
        eventually(Duration::from_secs(30), "both are in the log", async || {
            ensure_eq!(app.logs().await?.matches("executed 7").count(), 2, "lines");
            Ok(())
        })
        .await?;

        Call::post(address, "shop.test", "/unhealthy", "").send().await?.expect(200)?;
        http::get(address, "shop.test", "/health").await?.expect(503)?;
        let events = http::get(address, "shop.test", "/sse?count=3&ms=1").await?;
        ensure_eq!(events.text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n", "events");

        let upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let stream = tokio::net::TcpStream::connect(address).await?;
        let answer = interlock_e2e::http::upgrade(stream, upgrade, "ping").await?;
        // The key and its answer are the example of RFC 6455.
        ensure!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "handshake: {answer}");
        ensure!(answer.ends_with("ping"), "echo: {answer}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_accounts_for_every_request() -> Result {
    World::run("load", async |world| {
        let network = world.network("net").await?;
        let app = world.app("one", &network).env("DIE", "abrupt").start().await?;
        let address = app.at(&network, 8080).await?;
        eventually(Duration::from_secs(30), "the app answers", async || http::get(address, "a", "/").await)
            .await?;

        let load = Load::closed(address, "a", 4).keep_alive().served_by(&["one"]).start();
        load.answers(200).await?;
        let tally = load.stop().await?;
        tally.is_clean()?;
        tally.executed_once(&[&app]).await?;
        ensure!(!tally.acknowledged.is_empty(), "no POST among them");

        let misrouted = Load::open(address, "a", 100).served_by(&["another"]).start();
        misrouted.answers(10).await?;
        ensure!(misrouted.stop().await?.misrouted >= 10, "an answer of the wrong app was not noticed");

        let lost = Load::open(address, "a", 200).start();
        lost.answers(20).await?;
        app.stop().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let tally = lost.stop().await?;
        ensure!(tally.lost_in_all() > 0 && tally.is_clean().is_err(), "an app that was gone lost nothing");

        app.start().await?;
        let address = app.at(&network, 8080).await?;
        eventually(Duration::from_secs(30), "the app answers", async || http::get(address, "a", "/").await)
            .await?;
        Call::post(address, "a", "/count?id=twice", "").send().await?;
        Call::post(address, "a", "/count?id=twice", "").send().await?;
        ensure!(tally.executed_once(&[&app]).await.is_err(), "a double execution was not noticed");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_leaves_nothing_behind() -> Result {
    let mut label = String::new();
    let failed = World::run("leftovers", async |world| {
        label = format!("{LABEL}={}", world.label().1);
        let network = world.network("net").await?;
        let volume = world.volume("vol").await?;
        world.app("one", &network).volume(&format!("{volume}:/data")).start().await?;
        Err("on purpose".into())
    })
    .await;
    ensure!(failed.is_err(), "the failure got lost");
    for kind in [["container", "ls"], ["network", "ls"], ["volume", "ls"]] {
        let listing = std::process::Command::new("docker")
            .args(kind)
            .args(["-q", "--filter", &format!("label={label}")])
            .output()?;
        ensure!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
        ensure_eq!(String::from_utf8_lossy(&listing.stdout), "", "left behind of {kind:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_engine_can_be_killed_and_started_again() -> Result {
    let mut engine = PrivateEngine::start("kit", true).await?;
    engine.load(APP).await?;
    let socket = engine.socket();
    // The bridge of this engine exists in its own namespace only.
    let world = World::open(&socket, "private").await?;
    let network = world.network("net").await?;
    let app = world.app("one", &network).start().await?;
    let address = app.at(&network, 8080).await?;
    let ask = move || async move {
        eventually(Duration::from_secs(30), "the app answers", async || http::get(address, "a", "/").await)
            .await
    };
    engine.inside(ask)?.expect(200)?;
    engine.kill().await?;
    ensure!(world.docker().ping().await.is_err(), "the killed engine answers");
    engine.inside(ask)?.expect(200)?;
    engine.up().await?;
    ensure!(app.running().await?, "the container did not survive");
    drop(world);
    Ok(())
}
