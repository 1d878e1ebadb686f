//! The agent's conformance suite over the third transport: Docker exec into a stock proxy's container.
#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect ends there")]

#[path = "../../operator/tests/agent/conformance.rs"]
#[allow(dead_code, reason = "the agent's own tests use the rest of it")]
mod conformance;

use std::process::{Command, Stdio};
use std::sync::Mutex;

use conformance::{Peer, suite};
use interlock_crds::ProxyKind;
use interlock_e2e::world::Kind;
use interlock_e2e::{Result, World, ensure};

/// What a stock HAProxy wants before it starts.
const FIRST: &str = "defaults\n    mode http\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n\
                     frontend first\n    bind *:80\n    http-request return status 503\n";

fn docker(world: &World, words: &[&str]) -> Result<String> {
    let socket = format!("unix://{}", world.socket());
    let output = Command::new("docker").env("DOCKER_HOST", socket).args(words).output()?;
    ensure!(output.status.success(), "docker {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn over_exec(kind: Kind) -> Result {
    World::run(&format!("exec-{}", kind.as_str()), async |world| {
        let network = world.network("net").await?;
        let run = world.container(kind.as_str(), kind.stock()).network(&network);
        let run = match kind {
            Kind::Haproxy => run.file("/usr/local/etc/haproxy/haproxy.cfg", FIRST),
            Kind::Nginx => run,
        };
        let proxy = run.start().await?;
        let folder = tempfile::tempdir()?;
        let binary = folder.path().join("interlock").display().to_string();
        let source = world.container("source", "interlock").create().await?;
        docker(world, &["cp", &format!("{}:/usr/local/bin/interlock", source.id), &binary])?;
        docker(world, &["cp", &binary, &format!("{}:/interlock", proxy.id)])?;

        let socket = format!("unix://{}", world.socket());
        let kind = if kind == Kind::Haproxy { ProxyKind::Haproxy } else { ProxyKind::Nginx };
        let children = Mutex::new(Vec::new());
        let connect = async || {
            let mut child = tokio::process::Command::new("docker")
                .env("DOCKER_HOST", &socket)
                .args(["exec", "-i", "-u", "0", &proxy.id, "/interlock", "agent", "--stdio", "--proxy"])
                .arg(kind.as_str())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let halves = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
            children.lock().unwrap().push(child);
            halves
        };
        suite(&Peer { kind, port: 23_500 }, connect).await;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_over_exec() -> Result {
    over_exec(Kind::Haproxy).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_over_exec() -> Result {
    over_exec(Kind::Nginx).await
}
