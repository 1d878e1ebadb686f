//! More routes than an engine on this machine could run containers for: the operator and its proxy before a double.

use std::time::Duration;

use interlock_e2e::double::{App, Double, Hosted, Member, Scene, Wish, binary, host};
use interlock_e2e::wait::throughout;
use interlock_e2e::world::Kind;
use interlock_e2e::{Result, World, ensure, ensure_eq, eventually, http};
use serde_json::json;

/// Long enough for whatever is still to come; nothing is measured by it.
const SOON: Duration = Duration::from_mins(1);

/// The number of applies so far.
async fn applies(hosted: &Hosted) -> Result<f64> {
    hosted.metric("interlock_applies_total", &["outcome=\"Applied\""]).await
}

/// Every call is told by name: what is not in this list was not made.
fn asked(double: &Double, calls: &[(&str, u64)]) -> Result {
    let expected = calls.iter().map(|(call, times)| ((*call).to_owned(), *times)).collect();
    ensure_eq!(double.requests(), expected, "requests to the engine");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_routes_are_one_apply() -> Result {
    World::run("many-routes", async |world| {
        let dir = tempfile::tempdir()?;
        let binary = binary(world, dir.path()).await?;
        let double = Double::start()?;
        for number in 0..5_000 {
            let host = host(number);
            double.set_running(&double.create(&host, &Wish::of(&host)));
        }
        let hosted =
            Hosted::start(&binary, &double, Kind::Haproxy, json!({ "readiness": "none", "hold": "0s" }))?;
        // Nobody listens there: a route that is known is answered 503, any other 404.
        for number in [0, 2_500, 4_999] {
            eventually(SOON, "the proxy has every route", async || {
                let status = http::get(hosted.proxy, &host(number), "/").await?.status;
                ensure!(status == 503, "{} is answered {status}; {}", host(number), hosted.log());
                Ok(())
            })
            .await?;
        }
        // The proxy serves a moment before its receipt is there.
        eventually(SOON, "the receipt", async || {
            ensure!(applies(&hosted).await? > 0.5, "nothing was applied");
            Ok(())
        })
        .await?;
        throughout(Duration::from_secs(1), "one apply", async || {
            let applies = applies(&hosted).await?;
            ensure!((applies - 1.0).abs() < 0.5, "{applies} applies: {}", hosted.log());
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_waits_for_its_probes_and_is_one_apply() -> Result {
    World::run("many-ready", async |world| {
        let dir = tempfile::tempdir()?;
        let binary = binary(world, dir.path()).await?;
        let scene = Scene::with(&binary, Kind::Haproxy, 200, json!({})).await?;
        let applies = applies(&scene.hosted).await?;
        ensure!((applies - 1.0).abs() < 0.5, "{applies} applies: {}", scene.hosted.log());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_costs_the_engine_one_question_and_its_end_none() -> Result {
    World::run("many-questions", async |world| {
        let dir = tempfile::tempdir()?;
        let binary = binary(world, dir.path()).await?;
        let routes = 20;
        let scene = Scene::with(&binary, Kind::Haproxy, routes, json!({})).await?;
        let first = [("container_list", 1), ("events", 1), ("image_inspect", 1), ("ping", 1), ("version", 1)];
        let so_far = |inspected: u64| [&first[..], &[("container_inspect", inspected)]].concat();
        asked(&scene.double, &so_far(20))?;

        // A storm of starts, then of ends.
        let mut storm: Vec<(String, Member, App)> = Vec::new();
        for number in 0..50 {
            let host = format!("storm-{number}.example.test");
            let member = scene.double.create(&host, &Wish::of(&host));
            let app = App::listen(&host, member.at).await?;
            scene.double.run(&member);
            storm.push((host, member, app));
        }
        let hosts: Vec<String> = storm.iter().map(|(host, ..)| host.clone()).collect();
        for host in &hosts {
            scene.hosted.serves(host, host).await?;
        }
        asked(&scene.double, &so_far(70))?;
        for (_, member, _) in &storm {
            scene.double.stop_signal(member);
            scene.double.remove(member);
        }
        for host in &hosts {
            eventually(SOON, "a route goes with its container", async || {
                ensure_eq!(scene.hosted.who(host).await, None, "{host}");
                Ok(())
            })
            .await?;
        }
        asked(&scene.double, &so_far(70))
    })
    .await
}
