//! IPv6 through Docker, and time-outs that are equal on both proxies.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use interlock_e2e::stage::{SOON, Stage, Way, serving};
use interlock_e2e::world::Kind;
use interlock_e2e::{Operator, Result, World, ensure, ensure_eq, eventually, http};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_apps_are_reached_over_both_families() -> Result {
    World::run("families", async |world| {
        let front = world.network6("front").await?;
        let back = world.network6("back").await?;
        let (near, far) = (world.host("near"), world.host("far"));
        // Beyond the proxies' network an app is reached where its port is published: here on IPv6 alone.
        let app = world.app("far", &back).label("interlock.host", &far).publish("::", 8080).start().await?;
        ensure!(app.published(8080).await.is_ok_and(|at| at.is_ipv6()), "the port is published on IPv6");
        let first = world.app("near", &front).label("interlock.host", &near).start().await?;
        let networks = first.inspect().await?.network_settings.and_then(|settings| settings.networks);
        let gateway = networks.unwrap_or_default().remove(&front).and_then(|it| it.ipv6_gateway);
        let gateway = gateway.ok_or("the network has no IPv6 gateway")?;
        let cluster = |kind: Kind| {
            json!({ "name": kind.as_str(), "spec": {
                "proxy": kind.as_str(), "backendOverrideAddress": gateway,
            }})
        };
        let clusters = json!({ "clusters": Kind::ALL.map(cluster) });
        let operator = Operator::of(world).config(clusters).ready().await?;
        for kind in Kind::ALL {
            let proxy = world.proxy(kind, &front).start().await?;
            let v4 = serving(&proxy, &front).await?;
            let v6 = SocketAddr::new(IpAddr::V6(proxy.address6(&front).await?), 80);
            for (client, at) in [("IPv4", v4), ("IPv6", v6)] {
                for (host, app) in [(&near, "near"), (&far, "far")] {
                    let what = format!("{}: an {client} client reaches {app}", kind.as_str());
                    eventually(SOON, &what, async || {
                        let answer = http::get(at, host, "/").await?.expect(200)?;
                        ensure_eq!(answer.app()?, app, "the app");
                        let from = answer.json()?["headers"]["x-forwarded-for"][0].to_string();
                        ensure_eq!(from.contains("fd69:"), at.is_ipv6(), "the client's address {from}");
                        Ok(())
                    })
                    .await?;
                }
            }
            let why = operator.cli(&["why", &far, "-o", "json"]).await?;
            ensure!(
                why.out.contains(&format!("[{gateway}]:")),
                "the far app is not reached over IPv6: {}",
                why.out
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_without_ipv6_is_served_over_ipv4() -> Result {
    World::run("v4only", async |world| {
        let net = world.network("net").await?;
        let agents = format!("{}:/run/interlock/agents", world.volume("agents").await?);
        let _operator = Operator::of(world).volume(&agents).ready().await?;
        let host = world.host("shop");
        let app = world.app("shop", &net).label("interlock.host", &host).start().await?;
        let mut proxies = Vec::new();
        for kind in Kind::ALL {
            let name = kind.as_str();
            let agent = |short: &str| {
                let run = world.container(&format!("{name}-{short}"), kind.agent()).network(&net);
                run.label("interlock.ext.name", name).volume(&agents)
            };
            proxies.push(world.proxy(kind, &net).without_ipv6().start().await?);
            proxies.push(agent("sockets").without_ipv6().start().await?);
            let addresses = agent("addresses").sysctl("net.ipv6.conf.all.disable_ipv6", "1");
            proxies.push(addresses.start().await?);
        }
        for proxy in &proxies {
            serving(proxy, &net).await?;
            eventually(SOON, &format!("{} serves the app", proxy.name), async || {
                let answer = http::get(proxy.at(&net, 80).await?, &host, "/").await?.expect(200)?;
                ensure_eq!(answer.app()?, "shop", "the app");
                Ok(())
            })
            .await?;
        }
        drop(app);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_and_answers_that_never_come_end_alike() -> Result {
    World::run("timeouts", async |world| {
        let short = json!({ "connect": "1s", "response": "2s" });
        let cluster = |kind: Kind| {
            json!({ "name": kind.as_str(), "spec": {
                "proxy": kind.as_str(), "timeouts": short, "readiness": "none",
                // Holding is to try again; here one try shall show how long it takes.
                "hold": "0s",
            }})
        };
        let clusters = json!({ "clusters": Kind::ALL.map(cluster) });
        let stage = Stage::with(world, Way::Stock, &Kind::ALL, clusters).await?;
        let (slow, lost) = (world.host("slow"), world.host("lost"));
        stage.app("slow").label("interlock.host", &slow).start().await?;
        stage.serves(&slow, "/", "slow").await?;
        // A paused container's kernel still accepts; one whose link is down answers nothing at all.
        let gone = stage.app("lost").label("interlock.host", &lost);
        let gone = gone.start().await?;
        stage.serves(&lost, "/", "lost").await?;
        let pid = gone.inspect().await?.state.and_then(|state| state.pid).ok_or("no process")?;
        let down = std::process::Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-n", "ip", "link", "set", "eth0", "down"])
            .status()?;
        ensure!(down.success(), "the link of {} is still up", gone.name);
        let mut table = Vec::new();
        for proxy in &stage.proxies {
            let kind = proxy.kind.as_str();
            let silent = http::get(proxy.http, &slow, "/slow?ms=8000").await?;
            ensure!(
                (Duration::from_millis(1900)..Duration::from_secs(6)).contains(&silent.took),
                "{kind}: the response time-out took {:?}",
                silent.took
            );
            let unconnected = http::get(proxy.http, &lost, "/").await?;
            ensure!(
                unconnected.took < Duration::from_secs(8),
                "{kind}: the connect time-out took {:?}",
                unconnected.took
            );
            table.push((silent.status, unconnected.status));
        }
        // An answer that never comes, and a connect that never ends.
        ensure_eq!(table, [(504, 503), (504, 503)], "what HAProxy and nginx answer");
        Ok(())
    })
    .await
}
