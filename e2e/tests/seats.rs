//! Brand-new hosts on HAProxy: served by spare backends, without a reload, until these are used up.

use interlock_e2e::stage::{SOON, Stage, Way};
use interlock_e2e::world::Kind;
use interlock_e2e::{Result, World, ensure_eq, eventually};
use serde_json::json;

/// A metric that counts whole things.
async fn count(stage: &Stage<'_>, name: &str, labels: &[&str]) -> Result<u32> {
    Ok(format!("{:.0}", stage.metric(name, labels).await?).parse()?)
}

async fn reloads(stage: &Stage<'_>) -> Result<u32> {
    count(stage, "interlock_reloads_total", &[]).await
}

/// How many there were when the proxy had its first configuration: one.
async fn begun(stage: &Stage<'_>) -> Result<u32> {
    eventually(SOON, "the first reload is counted", async || {
        let counted = reloads(stage).await?;
        ensure_eq!(counted, 1, "reloads");
        Ok(counted)
    })
    .await
}

async fn seated(stage: &Stage<'_>) -> Result<u32> {
    count(stage, "interlock_spare_slots", &["state=\"Used\""]).await
}

/// Hosts come, go and come back; the operator and then the proxy restart, each without the other.
async fn hosts_come_and_go(world: &World, way: Way) -> Result {
    let stage = Stage::with(world, way, &[Kind::Haproxy], json!({})).await?;
    let before = begun(&stage).await?;
    let hosts: Vec<String> = (0..20).map(|number| world.host(&format!("h{number}"))).collect();
    let mut apps = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let name = format!("app{number}");
        let app = stage.app(&name).label("interlock.host", host);
        // Whatever a map can say is as live as the host itself.
        let app = match number % 3 {
            0 => app.label("interlock.path", "/app").label("interlock.context_root_rewrite", "true"),
            1 => app.label("interlock.websocket_endpoint.0", "/ws"),
            _ => app,
        };
        apps.push(app.start().await?);
        stage.serves(host, if number % 3 == 0 { "/app/" } else { "/" }, &name).await?;
    }
    ensure_eq!(reloads(&stage).await?, before, "reloads for twenty new hosts");
    ensure_eq!(seated(&stage).await?, 20, "spares in use");

    for (app, host) in apps.drain(..10).zip(&hosts) {
        app.remove().await?;
        stage.answers(host, "/", 404).await?;
    }
    ensure_eq!(reloads(&stage).await?, before, "reloads for ten hosts that went");

    stage.operator().container.kill("SIGKILL").await?;
    stage.operator().container.start().await?;
    stage.operator().ready().await?;
    let again = world.host("again");
    stage.app("again").label("interlock.host", &again).start().await?;
    stage.serves(&again, "/", "again").await?;
    ensure_eq!(reloads(&stage).await?, 0, "reloads by a restarted operator");
    ensure_eq!(seated(&stage).await?, 11, "everybody kept the seat");

    stage.operator().container.stop().await?;
    let proxy = &stage.proxies[0].container;
    proxy.restart().await?;
    let stage = Stage {
        proxies: vec![interlock_e2e::stage::Proxy {
            http: interlock_e2e::stage::serving(proxy, &stage.network).await?,
            ..stage.proxies[0].clone()
        }],
        ..stage
    };
    stage.serves(&again, "/", "again").await?;
    stage.serves(&hosts[10], "/", "app10").await?;
    stage.answers(&hosts[1], "/", 404).await
}

#[tokio::test(flavor = "multi_thread")]
async fn new_hosts_take_no_reload_on_a_stock_proxy() -> Result {
    World::run("seats-stock", async |world| hosts_come_and_go(world, Way::Stock).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn new_hosts_take_no_reload_on_an_agent_image() -> Result {
    World::run("seats-agents", async |world| hosts_come_and_go(world, Way::Agents).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_spares_are_used_up_one_reload_refills_them() -> Result {
    World::run("seats-refill", async |world| {
        let settings = json!({
            "clusters": [{ "name": "haproxy", "spec": { "proxy": "haproxy", "haproxy": { "spares": 2 } } }]
        });
        let stage = Stage::with(world, Way::Stock, &[Kind::Haproxy], settings).await?;
        let before = begun(&stage).await?;
        for (number, expected) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2)] {
            let (name, host) = (format!("app{number}"), world.host(&format!("h{number}")));
            stage.app(&name).label("interlock.host", &host).start().await?;
            stage.serves(&host, "/", &name).await?;
            ensure_eq!(reloads(&stage).await? - before, expected, "reloads up to host {number}");
        }
        Ok(())
    })
    .await
}
