//! Operators, proxies and engines die; what serves goes on serving, and what was changed by hand is put right.

use std::time::Duration;

use interlock_e2e::stage::{SOON, Stage, Way, serving};
use interlock_e2e::world::{APP, Kind};
use interlock_e2e::{Load, Operator, Result, World, ensure, ensure_eq, eventually, load};
use serde_json::json;

/// Kill the operator, restart the proxies without it, start it again: nothing is lost, nothing is reloaded.
async fn deaths(world: &World, way: Way) -> Result {
    let stage = Stage::new(world, way).await?;
    let host = world.host("shop");
    let one = stage.app("one").label("interlock.host", &host).start().await?;
    stage.serves(&host, "/", "one").await?;
    let operator = stage.operator().clone();

    let loads: Vec<_> = stage
        .proxies
        .iter()
        .map(|proxy| Load::open(proxy.http, &host, 60).served_by(&["one"]).start())
        .collect();
    operator.container.kill("SIGKILL").await?;
    for load in &loads {
        load.answers(50).await?;
    }
    operator.container.start().await?;
    operator.ready().await?;
    // A new route shows that it works again; the reloads that were not needed would have come before.
    let second = world.host("second");
    let reloads = stage.metric("interlock_reloads_total", &[]).await?;
    ensure!(reloads < 0.5, "{reloads} reloads by a restarted operator");
    stage.app("two").label("interlock.host", &second).start().await?;
    stage.serves(&second, "/", "two").await?;
    load::settle(loads, &[&one]).await?;

    operator.container.stop().await?;
    for proxy in &stage.proxies {
        proxy.container.restart().await?;
    }
    for proxy in &stage.proxies {
        let at = proxy.container.at(&stage.network, 80).await?;
        eventually(SOON, "the proxy serves after its own restart", async || {
            let answer = interlock_e2e::http::get(at, &host, "/").await?.expect(200)?;
            {
                ensure_eq!(answer.app()?, "one", "the app");
                Ok(())
            }
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_and_stock_proxies_may_die() -> Result {
    World::run("deaths-stock", async |world| deaths(world, Way::Stock).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_and_agent_images_may_die() -> Result {
    World::run("deaths-agents", async |world| deaths(world, Way::Agents).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_healed_within_one_resync() -> Result {
    World::run("drift", async |world| {
        let settings = json!({ "pace": { "resync": "2s" } });
        let stage = Stage::with(world, Way::Stock, &Kind::ALL, settings).await?;
        let host = world.host("shop");
        stage.app("one").label("interlock.host", &host).start().await?;
        stage.serves(&host, "/", "one").await?;
        for proxy in &stage.proxies {
            let path = match proxy.kind {
                Kind::Haproxy => "/usr/local/etc/haproxy/haproxy.cfg",
                Kind::Nginx => "/etc/nginx/nginx.conf",
            };
            let before =
                proxy.container.exec(&["sh", "-c", &format!("read -r line <{path}; echo \"$line\"")]).await?;
            ensure_eq!(before.code, 0, "reading {path}: {}", before.err);
            let edit = format!("echo '# edited by hand' >>{path}");
            ensure_eq!(proxy.container.exec(&["sh", "-c", &edit]).await?.code, 0, "editing");
            eventually(SOON, &format!("{path} is as it was"), async || {
                let script = format!(
                    "while read -r line; do case $line in *'edited by hand'*) exit 1;; esac; done <{path}"
                );
                let found = proxy.container.exec(&["sh", "-c", &script]).await?;
                {
                    ensure_eq!(found.code, 0, "the edit is still there");
                    Ok(())
                }
            })
            .await?;
        }
        let healed = stage.metric("interlock_drift_healed_total", &["kind=\"File\""]).await?;
        let metrics = stage.operator().metrics().await?;
        let drift: Vec<&str> = metrics.lines().filter(|line| line.contains("drift")).collect();
        ensure!(healed >= 2.0, "{healed} healed files were counted: {drift:?}");
        stage.serves(&host, "/", "one").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_told_and_the_last_good_state_stays() -> Result {
    World::run("busy", async |world| {
        let network = world.network("net").await?;
        let host = world.host("shop");
        world.app("one", &network).label("interlock.host", &host).start().await?;
        for kind in Kind::ALL {
            let proxy = world.proxy(kind, &network).start().await?;
            let first = Operator::of(world).named(&format!("first-{}", kind.as_str())).ready().await?;
            let at = serving(&proxy, &network).await?;
            // An app holds port 81 in the proxy's own network namespace.
            let holder = world.container(&format!("holder-{}", kind.as_str()), APP).env("PORT", "81");
            holder.network_mode(&format!("container:{}", proxy.id)).start().await?;
            let serves = async || {
                eventually(SOON, &format!("{} serves", kind.as_str()), async || {
                    let answer = interlock_e2e::http::get(at, &host, "/").await?.expect(200)?;
                    ensure_eq!(answer.app()?, "one", "the app");
                    Ok(())
                })
                .await
            };
            serves().await?;
            first.container.remove().await?;
            // The same operator comes back and wants port 81.
            let cluster = json!({ "name": kind.as_str(), "spec": { "proxy": kind.as_str(), "listeners": { "http": 81 } } });
            let second = Operator::of(world).named(&format!("second-{}", kind.as_str()));
            let second = second.config(json!({ "clusters": [cluster] })).ready().await?;
            eventually(Duration::from_secs(30), "the failed activation is told", async || {
                let lint = second.cli(&["why", &host]).await?;
                let said = format!("{}{}", lint.out, lint.err);
                ensure!(said.contains("ActivationFailed") && said.contains("81"), "why: {said}");
                Ok(())
            })
            .await?;
            serves().await?;
            second.container.remove().await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_a_person_stopped_stays_stopped() -> Result {
    World::run("stopped", async |world| {
        let stage = Stage::with(world, Way::Stock, &Kind::ALL, json!({ "pace": { "resync": "1s" } })).await?;
        let host = world.host("shop");
        stage.app("one").label("interlock.host", &host).start().await?;
        stage.serves(&host, "/", "one").await?;
        for proxy in &stage.proxies {
            proxy.container.stop().await?;
        }
        eventually(SOON, "a finding tells", async || {
            let lint = stage.operator().cli(&["lint", "-o", "json"]).await?;
            ensure_eq!(lint.out.matches("ProxyStopped").count().min(2), 2, "lint: {}", lint.out);
            Ok(())
        })
        .await?;
        for proxy in &stage.proxies {
            ensure!(!proxy.container.running().await?, "{} was started", proxy.kind.as_str());
            // Its files are still there: it serves as soon as the person starts it.
            proxy.container.start().await?;
            let at = proxy.container.at(&stage.network, 80).await?;
            eventually(SOON, "it serves again", async || {
                interlock_e2e::http::get(at, &host, "/").await?.expect(200)?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await
}
