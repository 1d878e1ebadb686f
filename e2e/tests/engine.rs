//! The engine itself dies and returns. Each of these tests has an engine of its own.

use std::time::Duration;

use interlock_e2e::stage::{SOON, serving};
use interlock_e2e::world::{APP, Kind};
use interlock_e2e::{Operator, PrivateEngine, Result, World, ensure_eq, eventually, http};
use serde_json::json;

/// With live-restore containers outlive their engine: proxies serve on, and the operator takes up where it was.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_costs_nothing_but_news() -> Result {
    let mut engine = PrivateEngine::start("engine", true).await?;
    for image in ["interlock", APP, Kind::Haproxy.stock(), Kind::Nginx.stock()] {
        engine.load(image).await?;
    }
    let socket = engine.socket();
    let world = World::open(&socket, "engine").await?;
    let network = world.network("net").await?;
    let (host, later) = (world.host("shop"), world.host("later"));
    // A new engine makes a new socket, so the operator mounts the folder, not the file.
    let operator = Operator::of(&world)
        .volume(&format!("{}:/run/engine", engine.folder()))
        .config(json!({ "docker": { "host": "unix:///run/engine/d.sock" } }))
        .start()
        .await?;
    let mut addresses = Vec::new();
    for kind in Kind::ALL {
        let proxy = world.proxy(kind, &network).start().await?;
        let network = network.clone();
        addresses.push(engine.inside(move || async move { serving(&proxy, &network).await })?);
    }
    world.app("one", &network).label("interlock.host", &host).start().await?;
    let serves = {
        let addresses = addresses.clone();
        move |host: String, app: &'static str| {
            let addresses = addresses.clone();
            move || async move {
                for address in addresses {
                    eventually(SOON, &format!("{address} serves {host}"), async || {
                        ensure_eq!(http::get(address, &host, "/").await?.expect(200)?.app()?, app, "the app");
                        Ok(())
                    })
                    .await?;
                }
                Ok(())
            }
        }
    };
    engine.inside(serves(host.clone(), "one"))?;

    engine.kill().await?;
    engine.inside(serves(host.clone(), "one"))?;
    engine.up().await?;
    engine.inside(serves(host.clone(), "one"))?;
    world.app("two", &network).label("interlock.host", &later).start().await?;
    engine.inside(serves(later, "two"))?;
    eventually(Duration::from_secs(20), "the operator says that the engine is back", async || {
        ensure_eq!(operator.container.running().await?, true, "the operator runs");
        let logs = operator.container.logs().await?;
        interlock_e2e::ensure!(!logs.contains("panicked"), "it panicked: {logs}");
        Ok(())
    })
    .await?;
    drop(world);
    Ok(())
}

/// Without live-restore the engine takes everything along; proxies serve the last good state before any operator.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_back_with_its_engine_needs_no_operator() -> Result {
    let mut engine = PrivateEngine::start("reboot", false).await?;
    for image in ["interlock", APP, Kind::Haproxy.stock(), Kind::Nginx.stock()] {
        engine.load(image).await?;
    }
    let world = World::open(&engine.socket(), "reboot").await?;
    let network = world.network("net").await?;
    let host = world.host("shop");
    Operator::of(&world).outlives().start().await?;
    let app = world.app("one", &network).label("interlock.host", &host).start().await?;
    let mut proxies = Vec::new();
    for kind in Kind::ALL {
        let proxy = world.proxy(kind, &network).stop_timeout(3).start().await?;
        let network = network.clone();
        proxies.push(proxy.clone());
        engine.inside(move || async move { serving(&proxy, &network).await })?;
    }
    let serves = |address, host: String| {
        move || async move {
            eventually(SOON, &format!("{address} serves {host}"), async || {
                ensure_eq!(http::get(address, &host, "/").await?.expect(200)?.app()?, "one", "the app");
                Ok(())
            })
            .await
        }
    };
    for proxy in &proxies {
        engine.inside(serves(proxy.at(&network, 80).await?, host.clone()))?;
    }
    // As a machine's shutdown does, while the operator sees everybody stop; and as a power cut does, which nobody
    // sees. The engine that starts next ends what it finds.
    for clean in [true, false] {
        if clean {
            // Requests that are not complete keep the proxies from ending at once.
            let mut open = Vec::new();
            for proxy in &proxies {
                let at = proxy.at(&network, 80).await?;
                open.push(engine.inside(move || async move {
                    let mut stream = std::net::TcpStream::connect(at)?;
                    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n")?;
                    Ok(stream)
                })?);
            }
            engine.stop().await?;
        } else {
            engine.kill().await?;
        }
        engine.up().await?;
        // In the order of before, so that each has the address of before.
        app.start().await?;
        for proxy in &proxies {
            proxy.start().await?;
            let serves = serves(proxy.at(&network, 80).await?, host.clone());
            engine.inside(serves).map_err(|error| format!("stopped in order: {clean}: {error}"))?;
        }
    }
    drop(world);
    Ok(())
}
