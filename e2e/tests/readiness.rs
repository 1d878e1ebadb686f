//! An endpoint serves when it is ready, not before, and keeps nobody waiting.

use std::time::Duration;

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::wait::throughout;
use interlock_e2e::{Call, Result, World, ensure_eq};

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_endpoint_is_left_out_and_its_neighbours_serve() -> Result {
    World::run("warm", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let (host, other) = (world.host("shop"), world.host("other"));
        let label = |name: &str| stage.app(name).label("interlock.host", &host);
        label("hot").start().await?;
        stage.serves(&host, "/", "hot").await?;
        label("cold").label("interlock.warm", "true").env("START_DELAY_MS", "4000").start().await?;
        stage.app("other").label("interlock.host", &other).start().await?;
        stage.serves(&other, "/", "other").await?;
        throughout(Duration::from_secs(1), "while it is cold", async || {
            stage
                .each(&host, "/", |_, answer| {
                    ensure_eq!(answer.app()?, "hot", "the app");
                    Ok(())
                })
                .await
        })
        .await?;
        stage.shared_by(&host, "/", &["cold", "hot"]).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_endpoint_leaves_and_returns_but_never_the_last() -> Result {
    World::run("health", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        let label = |name: &str| stage.app(name).label("interlock.host", &host).health(&["app", "check"]);
        let one = label("one").start().await?;
        let two = label("two").start().await?;
        stage.shared_by(&host, "/", &["one", "two"]).await?;
        let two_at = two.at(&stage.network, 8080).await?;
        Call::post(two_at, &host, "/unhealthy", "").send().await?.expect(200)?;
        stage.shared_by(&host, "/", &["one"]).await?;
        // All of them at once: the route is not emptied.
        let one_at = one.at(&stage.network, 8080).await?;
        Call::post(one_at, &host, "/unhealthy", "").send().await?.expect(200)?;
        throughout(Duration::from_secs(3), "all are unhealthy", async || {
            stage
                .each(&host, "/", |_, answer| {
                    ensure_eq!(answer.status, 200, "the status");
                    Ok(())
                })
                .await
        })
        .await?;
        Call::post(one_at, &host, "/healthy", "").send().await?.expect(200)?;
        Call::post(two_at, &host, "/healthy", "").send().await?.expect(200)?;
        stage.shared_by(&host, "/", &["one", "two"]).await
    })
    .await
}
