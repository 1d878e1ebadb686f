//! `interlock run --observe` beside stock proxies: it reads what they have, compares, and writes nothing at all.

use interlock_e2e::stage::{SOON, Stage, Way, serving};
use interlock_e2e::world::Kind;
use interlock_e2e::{Container, Operator, Result, World, ensure, ensure_eq, eventually, http, operator};
use serde_json::json;

/// Every call of the Docker API that changes something.
const WRITES: &[&str] = &[
    "archive_upload",
    "container_start",
    "exec_create",
    "exec_start",
    "network_connect",
    "network_disconnect",
];

/// Waits until the observer has said so of each proxy, in its log and to `interlock why`.
async fn says(observer: &Operator, proxies: &[Container], host: &str, what: &str) -> Result {
    eventually(SOON, &format!("the observer says `{what}`"), async || {
        let logs = observer.container.logs().await?;
        let why = observer.cli(&["why", host, "-o", "json"]).await?;
        let why: serde_json::Value = serde_json::from_str(&why.out)?;
        for proxy in proxies {
            let last = logs.lines().rfind(|line| line.contains("compared") && line.contains(&proxy.name));
            ensure!(last.is_some_and(|line| line.contains(what)), "{}: {last:?}", proxy.name);
            let message = &why["programmed"][&proxy.name]["message"];
            ensure!(message.as_str().is_some_and(|said| said.contains(what)), "{}: {message}", proxy.name);
        }
        Ok(())
    })
    .await
}

async fn wrote_nothing(observer: &Operator) -> Result {
    let metrics = observer.metrics().await?;
    for call in WRITES {
        let label = format!("call=\"{call}\"");
        let count = operator::sum(&metrics, "interlock_docker_requests_total", &[&label]);
        ensure!(count < 0.5, "{count} requests of {call}");
    }
    let read = operator::sum(&metrics, "interlock_docker_requests_total", &["call=\"archive_download\""]);
    ensure!(read > 0.5, "nothing was read: {metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn observing_compares_and_delivers_nothing() -> Result {
    World::run("observe", async |world| {
        let network = world.network("net").await?;
        let host = world.host("shop");
        let mut proxies = Vec::new();
        for kind in Kind::ALL {
            let run = world.proxy(kind, &network);
            let run = match kind {
                Kind::Haproxy => run.file(
                    "/usr/local/etc/haproxy/haproxy.cfg",
                    "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
                     frontend own\n bind *:80\n http-request return status 404\n",
                ),
                Kind::Nginx => run,
            };
            proxies.push(run.start().await?);
        }
        world.app("one", &network).label("interlock.host", &host).start().await?;
        let observer = |short: &str| {
            let start = Operator::of(world).named(short).argument("--observe");
            start.config(json!({ "pace": { "resync": "1s" } }))
        };

        let first = observer("first").ready().await?;
        says(&first, &proxies, &host, "not ours").await?;
        wrote_nothing(&first).await?;
        for proxy in &proxies {
            let changes = world.docker().container_changes(&proxy.id).await?.unwrap_or_default();
            let ours = changes.iter().find(|change| change.path.contains("interlock"));
            ensure!(ours.is_none(), "{}: {ours:?}", proxy.name);
        }
        first.container.remove().await?;

        let operator = Operator::of(world).ready().await?;
        for proxy in &proxies {
            serving(proxy, &network).await?;
        }
        let second = observer("second").ready().await?;
        says(&second, &proxies, &host, "in step").await?;
        operator.container.stop().await?;

        let other = world.host("other");
        world.app("two", &network).label("interlock.host", &other).start().await?;
        says(&second, &proxies, &other, &other).await?;
        let route = http::get(proxies[0].at(&network, 80).await?, &other, "/").await?;
        ensure_eq!(route.status, 404, "the new route was delivered");
        for (proxy, file) in
            proxies.iter().zip(["/usr/local/etc/haproxy/haproxy.cfg", "/etc/nginx/nginx.conf"])
        {
            let edit = format!("echo '# by hand' >>{file}");
            ensure_eq!(proxy.exec(&["sh", "-c", &edit]).await?.code, 0, "editing");
        }
        says(&second, &proxies, &other, "changed by hand").await?;
        wrote_nothing(&second).await
    })
    .await
}

/// Behind a socket the agent itself is asked, while another operator serves.
#[tokio::test(flavor = "multi_thread")]
async fn observing_beside_an_operator_that_serves_disturbs_nobody() -> Result {
    World::run("watch", async |world| {
        let stage = Stage::with(world, Way::Agents, &[Kind::Haproxy], json!({})).await?;
        let (host, other) = (world.host("shop"), world.host("other"));
        stage.app("one").label("interlock.host", &host).start().await?;
        stage.serves(&host, "/", "one").await?;
        let agents = format!("{}:/run/interlock/agents", world.name("agents"));
        let observer = Operator::of(world).named("observer").argument("--observe").volume(&agents);
        let observer = observer.config(json!({ "pace": { "resync": "1s" } })).ready().await?;
        let compared = async |what: &str| {
            eventually(SOON, &format!("the observer says `{what}`"), async || {
                let logs = observer.container.logs().await?;
                let last = logs.lines().rfind(|line| line.contains("compared"));
                ensure!(last.is_some_and(|line| line.contains(what)), "{last:?}");
                Ok(())
            })
            .await
        };
        compared("in step").await?;

        // Whoever serves goes on, and what it does is seen.
        stage.app("two").label("interlock.host", &other).start().await?;
        stage.serves(&other, "/", "two").await?;
        compared("in step").await?;
        stage.operators[0].container.stop().await?;
        stage.app("three").label("interlock.host", &world.host("third")).start().await?;
        compared("differs").await?;
        let third = http::get(stage.proxy(Kind::Haproxy)?.http, &world.host("third"), "/").await?;
        ensure_eq!(third.status, 404, "the new route was delivered");
        let logs = stage.proxies[0].container.logs().await?;
        let served = logs.lines().filter(|line| line.contains("serving an operator")).count();
        ensure_eq!(served, 1, "operators that were served");
        Ok(())
    })
    .await
}
