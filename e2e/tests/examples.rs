//! The compose files of `examples/` work as they are, each on an engine of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use interlock_e2e::world::Kind;
use interlock_e2e::{PrivateEngine, Result, ensure, ensure_eq, eventually, http};

/// Starts an example, asks for its shop on each port, and takes it down again. Returns the logs of all services.
async fn works(way: &'static str, images: &[&str], ports: &'static [u16]) -> Result<String> {
    let engine = PrivateEngine::start(way, false).await?;
    for image in images {
        engine.load(image).await?;
    }
    let socket = engine.socket();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples").join(way).join("compose.yaml");
    compose(&socket, &file, &["up", "-d"])?;
    let asked = engine.inside(move || async move {
        for port in ports {
            eventually(Duration::from_mins(1), &format!("{way}: the shop at port {port}"), async || {
                let answer = http::get(([127, 0, 0, 1], *port).into(), "shop.example.test", "/").await?;
                ensure_eq!(answer.expect(200)?.app()?, "shop", "the app");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
    let logs = compose(&socket, &file, &["logs", "--no-color"])?;
    asked.map_err(|error| format!("{error}\n{logs}"))?;
    compose(&socket, &file, &["down", "-v", "-t", "3"])?;
    Ok(logs)
}

fn compose(socket: &str, file: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new("docker-compose")
        .env("DOCKER_HOST", format!("unix://{socket}"))
        .env("DOCKER_SOCKET", socket)
        .args(["-p", "example", "-f"])
        .arg(file)
        .args(words)
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker-compose {words:?}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn stock() -> Result {
    let images = ["interlock", "interlock-app", Kind::Haproxy.stock(), Kind::Nginx.stock()];
    works("stock", &images, &[80, 8080]).await?;
    Ok(())
}

/// The operator sees the engine through a filter that lets only reading pass, and never tries anything else.
#[tokio::test(flavor = "multi_thread")]
async fn agents() -> Result {
    let images =
        ["interlock", "interlock-app", "interlock-docker-filter", Kind::Haproxy.agent(), Kind::Nginx.agent()];
    let logs = works("agents", &images, &[80, 8080]).await?;
    ensure!(!logs.contains("violation"), "the operator tried to write to Docker: {logs}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> Result {
    works("embedded", &["interlock-app", Kind::Haproxy.agent()], &[80]).await?;
    Ok(())
}
