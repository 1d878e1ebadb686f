//! Which address a container is reached at, and whose networks the proxies are attached to.

use std::process::Command;

use interlock_e2e::stage::{SOON, Stage, Way};
use interlock_e2e::world::Kind;
use interlock_e2e::{PrivateEngine, Result, World, ensure, ensure_eq, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_asked_for_is_attached_and_detached() -> Result {
    World::run("attach", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        let other = world.network("other").await?;
        let label = |name: &str| {
            world.app(name, &other).label("interlock.host", &host).label("interlock.network", &other)
        };
        let (one, two) = (label("one").start().await?, label("two").start().await?);
        stage.shared_by(&host, "/", &["one", "two"]).await?;
        let attached = async |expected: bool| {
            for proxy in &stage.proxies {
                eventually(SOON, &format!("{}: attached: {expected}", proxy.kind.as_str()), async || {
                    let networks = proxy.container.networks().await?;
                    ensure!(networks.contains(&stage.network), "detached from what it was in: {networks:?}");
                    {
                        ensure_eq!(networks.contains(&other), expected, "{networks:?}");
                        Ok(())
                    }
                })
                .await?;
            }
            Result::Ok(())
        };
        attached(true).await?;
        one.stop().await?;
        stage.shared_by(&host, "/", &["two"]).await?;
        attached(true).await?;
        two.stop().await?;
        attached(false).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_common_network_the_published_port_is_used_or_the_reason_told() -> Result {
    World::run("published", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let other = world.network("other").await?;
        let (published, hidden, ambiguous) =
            (world.host("published"), world.host("hidden"), world.host("ambiguous"));
        world
            .app("published", &other)
            .label("interlock.host", &published)
            .publish("0.0.0.0", 8080)
            .start()
            .await?;
        world.app("hidden", &other).label("interlock.host", &hidden).start().await?;
        let run = stage.app("ambiguous").label("interlock.host", &ambiguous);
        run.expose(9000).start().await?;
        stage.serves(&published, "/", "published").await?;
        for (host, reason) in [(&hidden, "Unreachable"), (&ambiguous, "AmbiguousPort")] {
            let why = stage.operator().cli(&["why", host]).await?;
            ensure!(why.out.contains(reason), "why {host}: {}{}", why.out, why.err);
            stage
                .each(host, "/", |_, answer| {
                    ensure!(answer.status != 200, "{} serves", answer.status);
                    Ok(())
                })
                .await?;
        }
        Ok(())
    })
    .await
}

/// `docker compose down` removes the project's network, which it can only if the proxies have left it by then.
#[tokio::test(flavor = "multi_thread")]
async fn compose_down_finds_the_network_free() -> Result {
    const ROUNDS: usize = 20;
    let engine = PrivateEngine::start("compose", false).await?;
    for image in ["interlock", "interlock-app", Kind::Haproxy.stock(), Kind::Nginx.stock()] {
        engine.load(image).await?;
    }
    let socket = engine.socket();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("compose.yaml");
    let compose = "services:\n  web:\n    image: interlock-app\n    environment: {NAME: web}\n    labels:\n      \
        interlock.host: web.example.test\n      interlock.network: inner\n    networks: [inner]\n\
        networks:\n  inner: {}\n";
    std::fs::write(&file, compose)?;
    engine.inside(move || async move {
        World::run_on(&socket, "compose", async |world| {
            // Containers of the project do not carry the world's label; here the engine is the wall.
            let all = json!({ "docker": { "labelSelector": null } });
            let stage = Stage::with(world, Way::Stock, &Kind::ALL, all).await?;
            let project = |words: &[&str]| -> Result {
                let output = Command::new("docker-compose")
                    .env("DOCKER_HOST", format!("unix://{}", world.socket()))
                    .args(["-p", "twenty", "-f"])
                    .arg(&file)
                    .args(words)
                    .output()?;
                let error = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success() && !error.contains("active endpoints"), "{words:?}: {error}");
                Ok(())
            };
            for round in 0..ROUNDS {
                project(&["up", "-d"])?;
                stage
                    .serves("web.example.test", "/", "web")
                    .await
                    .map_err(|error| format!("round {round}: {error}"))?;
                project(&["down", "-t", "3"]).map_err(|error| format!("round {round}: {error}"))?;
            }
            Ok(())
        })
        .await
    })
}
