//! What containers say, in each dialect, reaches both proxies; what they say wrong costs only themselves.

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::world::APP;
use interlock_e2e::{Result, World, ensure, ensure_eq};

#[tokio::test(flavor = "multi_thread")]
async fn data_of_generation_zero() -> Result {
    World::run("data", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let (shop, alias, also) = (world.host("shop"), world.host("alias"), world.host("also"));
        let (name, domain) = shop.split_once('.').unwrap_or_default();
        let data = serde_json::json!({ "hostname": name, "domain": domain, "alias_domains": [alias, also], "port": 8080 });
        stage.app("data").env("INTERLOCK_DATA", &data.to_string()).start().await?;
        for host in [&shop, &alias, &also] {
            stage.serves(host, "/", "data").await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_generation_one() -> Result {
    World::run("labels", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let (shop, first, second) = (world.host("shop"), world.host("first"), world.host("second"));
        let (name, domain) = shop.split_once('.').unwrap_or_default();
        let run = stage.app("labels").label("interlock.hostname", name).label("interlock.domain", domain);
        let run = run.label("interlock.alias_domain.0", &first).label("interlock.alias_domain.1", &second);
        run.label("interlock.port", "8080").start().await?;
        // A full name in `hostname` without a domain is taken whole.
        let full = world.host("full");
        stage.app("full").label("interlock.hostname", &full).start().await?;
        for (host, app) in [(&shop, "labels"), (&first, "labels"), (&second, "labels"), (&full, "full")] {
            stage.serves(host, "/", app).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_host_name_with_a_published_port() -> Result {
    World::run("hostname", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("own");
        stage.app("own").hostname(&host).publish("0.0.0.0", 8080).start().await?;
        stage.serves(&host, "/", "own").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_rewrites_and_several_routes_of_one_container() -> Result {
    World::run("paths", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        stage.app("root").label("interlock.host", &host).start().await?;
        stage.app("cart").label("interlock.host", &host).label("interlock.path", "/cart").start().await?;
        let run = stage.app("api").label("interlock.hostname", &host).label("interlock.context_root", "/api");
        run.label("interlock.context_root_rewrite", "true").start().await?;
        let (admin, docs) = (world.host("admin"), world.host("docs"));
        let run = stage.app("two").label("interlock.admin.host", &admin).label("interlock.docs.host", &docs);
        run.label("interlock.docs.path", "/manual").start().await?;

        for (at, path, app) in [
            (&host, "/", "root"),
            (&host, "/cart", "cart"),
            (&host, "/cart/1", "cart"),
            // Longest path first, on segment boundaries.
            (&host, "/cartoon", "root"),
            (&host, "/api/v1", "api"),
            (&admin, "/", "two"),
            (&docs, "/manual/1", "two"),
        ] {
            stage.serves(at, path, app).await?;
        }
        stage.answers(&docs, "/", 404).await?;
        // The prefix is stripped; the bare prefix is redirected with its query.
        stage
            .each(&host, "/api/v1?a=b", |_, answer| {
                ensure_eq!(answer.said("path")?, "/v1", "the rewritten path");
                ensure_eq!(answer.said("query")?, "a=b", "the query");
                Ok(())
            })
            .await?;
        stage
            .each(&host, "/api?a=b", |_, answer| {
                ensure!((301..=308).contains(&answer.status), "{} is no redirect", answer.status);
                let location = answer.header("location").unwrap_or_default();
                ensure!(location.ends_with("/api/?a=b"), "redirected to {location}");
                Ok(())
            })
            .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_label_costs_only_its_own_route() -> Result {
    World::run("bad", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let (good, bad, hostile) = (world.host("good"), world.host("bad"), world.host("hostile"));
        stage.app("bad").label("interlock.host", &bad).label("interlock.port", "eighty").start().await?;
        stage
            .app("hostile")
            .label("interlock.host", "a; } server { listen 81; }\nlisten evil")
            .start()
            .await?;
        let run = stage.app("slash").label("interlock.host", &hostile);
        run.label("interlock.path", "/x\" } location /y { return 200; }").start().await?;
        let run = stage.app("odd").label("interlock.host", &world.host("odd"));
        run.label("interlock.backend_option", "httpchk\n  server evil 127.0.0.1:1").start().await?;
        stage.app("good").label("interlock.host", &good).start().await?;
        stage.serves(&good, "/", "good").await?;
        stage.answers(&bad, "/", 404).await?;
        let lint = stage.operator().cli(&["lint", "-o", "json"]).await?;
        ensure_eq!(lint.code, 1, "lint's exit code with a refused route");
        ensure!(lint.out.contains("InvalidPort"), "lint: {}", lint.out);
        let why = stage.operator().cli(&["why", &bad]).await?;
        ensure!(why.out.contains("InvalidPort") && why.out.contains("eighty"), "why: {}{}", why.out, why.err);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_carries_labels_makes_neither_route_nor_proxy() -> Result {
    World::run("image", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let (host, marker) = (world.host("fromimage"), world.host("marker"));
        let image = world.name("image").to_lowercase();
        world.image(
            &image,
            APP,
            &[&format!("LABEL interlock.host={host}"), "LABEL interlock.ext.name=haproxy"],
        )?;
        let built = world.container("fromimage", &image).network(&stage.network).start().await?;
        stage.app("marker").label("interlock.host", &marker).start().await?;
        stage.serves(&marker, "/", "marker").await?;
        stage.answers(&host, "/", 404).await?;
        let lint = stage.operator().cli(&["lint", "-o", "json"]).await?;
        ensure!(lint.out.contains("ImageNotTrusted"), "lint: {}", lint.out);
        ensure!(lint.out.contains("ProxyLabelFromImage"), "lint: {}", lint.out);
        built.remove().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_says_what_was_meant() -> Result {
    World::run("misspelt", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        stage
            .app("one")
            .label("interlock.host", &host)
            .label("interlock.websocket_endpont", "/ws")
            .start()
            .await?;
        stage.serves(&host, "/", "one").await?;
        let why = stage.operator().cli(&["why", &host]).await?;
        ensure!(why.out.contains("websocket_endpoint"), "why: {}{}", why.out, why.err);
        let served = stage.operator().cli(&["why", &host, "-o", "json"]).await?;
        ensure!(serde_json::from_str::<serde_json::Value>(&served.out).is_ok(), "no JSON: {}", served.out);
        Ok(())
    })
    .await
}
