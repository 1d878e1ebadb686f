//! Two operators want one proxy: it obeys the first, and the second only after the first has been gone for a while.

use std::time::Duration;

use interlock_e2e::stage::{SOON, serving};
use interlock_e2e::world::Kind;
use interlock_e2e::{Operator, Result, World, ensure, ensure_eq, eventually, http};
use serde_json::json;

/// An agent keeps to a silent owner for a minute, and who was declined asks again every half minute.
const TAKEOVER: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_second_operator_is_declined_until_the_first_is_gone() -> Result {
    World::run("owners", async |world| {
        let network = world.network("net").await?;
        let first = Operator::of(world).named("first").config(json!({ "operatorId": "first" })).ready().await?;
        let mut proxies = Vec::new();
        for kind in Kind::ALL {
            let proxy = world.proxy(kind, &network).start().await?;
            proxies.push((proxy.clone(), serving(&proxy, &network).await?));
        }
        let host = world.host("shop");
        world.app("one", &network).label("interlock.host", &host).start().await?;
        let serve = async |host: &str, app: &str, within: Duration| {
            for (proxy, at) in &proxies {
                eventually(within, &format!("{} serves {host}", proxy.name), async || {
                    ensure_eq!(http::get(*at, host, "/").await?.expect(200)?.app()?, app, "the app");
                    Ok(())
                })
                .await?;
            }
            Ok::<_, interlock_e2e::Error>(())
        };
        serve(&host, "one", SOON).await?;

        // It wants something else of them, so that obeying it would show.
        let unknown = |kind: Kind| {
            json!({ "name": kind.as_str(), "spec": { "proxy": kind.as_str(), "unknownHost": "503" } })
        };
        let second = Operator::of(world).named("second");
        let second = second.config(json!({ "operatorId": "second", "clusters": Kind::ALL.map(unknown) }));
        let second = second.ready().await?;
        eventually(SOON, "the second says that it is declined", async || {
            let lint = second.cli(&["lint", "-o", "json"]).await?;
            ensure_eq!(lint.out.matches("\"ForeignOwner\"").count(), 2, "{}", lint.out);
            ensure!(lint.out.contains("first"), "who has them is not said: {}", lint.out);
            let told = second.metric("interlock_findings", &["reason=\"ForeignOwner\""]).await?;
            ensure!(told > 1.5, "{told} findings are counted");
            ensure!(second.container.logs().await?.contains("ForeignOwner"), "no log line");
            Ok(())
        })
        .await?;
        let later = world.host("later");
        world.app("two", &network).label("interlock.host", &later).start().await?;
        serve(&later, "two", SOON).await?;
        for (proxy, at) in &proxies {
            let answer = http::get(*at, "nobody.test", "/").await?;
            ensure_eq!(answer.status, 404, "{}: the first's answer for unknown hosts", proxy.name);
        }

        first.container.kill("SIGKILL").await?;
        first.container.ended(SOON).await?;
        for (proxy, at) in &proxies {
            eventually(TAKEOVER, &format!("the second has {}", proxy.name), async || {
                ensure_eq!(http::get(*at, "nobody.test", "/").await?.status, 503, "the second's answer");
                Ok(())
            })
            .await?;
        }
        serve(&host, "one", SOON).await?;
        eventually(SOON, "the second has nothing to say any more", async || {
            let lint = second.cli(&["lint", "-o", "json"]).await?;
            ensure!(!lint.out.contains("ForeignOwner"), "{}", lint.out);
            Ok(())
        })
        .await
    })
    .await
}
