//! The agent against real proxies: one conformance suite over every stream, then each promise on its own.
#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect ends there")]

mod bystander;
mod certificates;
mod conformance;
mod files_first;
mod haproxy;
mod lifecycle;
mod nginx;
mod old_workers;
mod probes;
mod put_off;
mod rig;
mod seats;
mod slow_start;

use interlock::agent::{Agent, run_listener, serve, supervised_argv};
use interlock_crds::ProxyKind;
use tokio::net::UnixStream;

use conformance::{Peer, suite};
use rig::Rig;

async fn over_socket_pair(kind: ProxyKind) {
    let rig = Rig::start(kind);
    let agent = std::sync::Arc::new(Agent::new(rig.options()));
    let peer = Peer { kind, port: rig.port };
    let connect = async || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = std::sync::Arc::clone(&agent);
        tokio::spawn(async move {
            let (reader, writer) = theirs.into_split();
            let _ = serve(reader, writer, &agent).await;
        });
        ours.into_split()
    };
    suite(&peer, connect).await;
}

async fn over_unix_socket(kind: ProxyKind) {
    let rig = Rig::empty(kind);
    let port = rig.port;
    let socket = rig.dir.path().join("agent.sock");
    let options = rig.options();
    let argv = supervised_argv(kind, &rig.config);
    let listening = socket.clone();
    let agent = tokio::spawn(async move { run_listener(options, &listening, argv).await });
    rig::eventually("the agent listens and its proxy answers 503", async || {
        socket.exists() && rig::get(port, "a.test", "/").await.is_some_and(|(status, _)| status == 503)
    })
    .await;
    let peer = Peer { kind, port };
    suite(&peer, async || UnixStream::connect(&socket).await.unwrap().into_split()).await;
    agent.abort();
    rig.end_adopted();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_over_a_socket_pair() {
    over_socket_pair(ProxyKind::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_over_a_socket_pair() {
    over_socket_pair(ProxyKind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_over_a_unix_socket() {
    over_unix_socket(ProxyKind::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_over_a_unix_socket() {
    over_unix_socket(ProxyKind::Nginx).await;
}
