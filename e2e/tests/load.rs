//! No request is lost, sent twice or sent astray while the containers around it come and go.

use std::time::Duration;

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::{Container, Load, Result, World, load};

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
        let loads: Vec<_> = stage
            .proxies
            .iter()
            .map(|proxy| Load::open(proxy.http, &host, 60).slow_after(Duration::from_secs(5)).start())
            .collect();
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
