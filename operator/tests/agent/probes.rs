//! Probes over a connection: admitted within milliseconds, never fooled, never held up by the dead.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use interlock_core::model::{ProbeKey, ProbeResult};
use interlock_core::protocol::{Probe, ProbeKind, ProbeSet, ToAgent, ToOperator};
use interlock_crds::ProxyKind;
use tokio::net::TcpListener;

use crate::conformance::intent;
use crate::rig::{PairClient, Rig, answer_on, app, connected};

fn probe(address: SocketAddr, kind: ProbeKind) -> Probe {
    let address = address.try_into().unwrap();
    Probe { address, kind, timeout_ms: 2000, interval_ms: None, unhealthy_after: 2 }
}

fn http(path: &str) -> ProbeKind {
    ProbeKind::Http { method: "GET".to_owned(), path: path.to_owned(), host: "a.test".to_owned(), tls: false }
}

fn key(name: &str) -> ProbeKey {
    ProbeKey(intent(name))
}

async fn send(client: &mut PairClient, concurrency: u16, probes: &[(&str, Probe)]) {
    let probes = probes.iter().map(|(name, probe)| (key(name), probe.clone())).collect();
    client.requests.send(&ToAgent::Probe(ProbeSet { concurrency, probes })).await.unwrap();
}

async fn until(
    client: &mut PairClient,
    all: &mut BTreeMap<ProbeKey, ProbeResult>,
    holds: impl Fn(&BTreeMap<ProbeKey, ProbeResult>) -> bool,
) {
    while !holds(all) {
        if let ToOperator::Probed { results } = client.receive().await.unwrap() {
            all.extend(results);
        }
    }
}

fn passes(all: &BTreeMap<ProbeKey, ProbeResult>, name: &str) -> bool {
    all.get(&key(name)).is_some_and(|result| result.passing)
}

/// An address that nobody listens on, and that nobody else takes meanwhile.
fn closed(rig: &Rig) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], rig.port + 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_endpoint_is_admitted_soon_after_it_listens() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let address = closed(&rig);
    send(&mut client, 4, &[("a", probe(address, ProbeKind::Tcp))]).await;
    let mut all = BTreeMap::new();
    until(&mut client, &mut all, |all| all.contains_key(&key("a"))).await;
    let refused = &all[&key("a")];
    assert!(!refused.passing && !refused.passed_once && refused.error.as_ref().unwrap().contains("refused"));
    let _listener = TcpListener::bind(address).await.unwrap();
    let listens = Instant::now();
    until(&mut client, &mut all, |all| passes(all, "a")).await;
    assert!(listens.elapsed() < Duration::from_secs(5), "{:?}", listens.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_counts_as_an_answer_depends_on_the_kind() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let (fine, _a) = app("204 No Content", "").await;
    let (broken, _b) = app("500 Oops", "").await;
    // A redirect that were followed would end at nothing.
    let (moved, _c) = app("302 Found\r\nLocation: http://127.0.0.1:1/", "").await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let not_http = plain.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"220 ready\r\n").await;
        }
    });
    let warm = || ProbeKind::Warm { host: "a.test".to_owned(), tls: false };
    let split =
        ProbeKind::Http { method: "GET".into(), path: "/ x\r\nX: y".into(), host: "a".into(), tls: false };
    send(
        &mut client,
        4,
        &[
            ("fine", probe(fine, http("/health"))),
            ("broken", probe(broken, http("/health"))),
            ("moved", probe(moved, http("/"))),
            ("warm broken", probe(broken, warm())),
            ("not http", probe(not_http, warm())),
            ("split", probe(fine, split)),
        ],
    )
    .await;
    let mut all = BTreeMap::new();
    until(&mut client, &mut all, |all| all.len() == 6).await;
    let passing: Vec<bool> = ["fine", "broken", "moved", "warm broken", "not http", "split"]
        .iter()
        .map(|name| passes(&all, name))
        .collect();
    assert_eq!(passing, [true, false, true, true, false, false], "{all:?}");
    assert!(all[&key("broken")].error.as_ref().unwrap().contains("500"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_endpoints_do_not_hold_up_the_others() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    // Accepts and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut dead = probe(silent.local_addr().unwrap(), http("/"));
    dead.timeout_ms = 60_000;
    let names: Vec<String> = (0..8).map(|number| format!("dead {number}")).collect();
    let mut probes: Vec<(&str, Probe)> = names.iter().map(|name| (name.as_str(), dead.clone())).collect();
    send(&mut client, 2, &probes).await;
    let (fine, _app) = app("200 OK", "").await;
    probes.push(("fine", probe(fine, http("/"))));
    let begun = Instant::now();
    send(&mut client, 2, &probes).await;
    let mut all = BTreeMap::new();
    until(&mut client, &mut all, |all| passes(all, "fine")).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_sees_it_fail_and_come_back_and_a_kept_probe_keeps_its_state() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let (address, server) = app("200 OK", "").await;
    let mut watched = probe(address, http("/"));
    watched.interval_ms = Some(20);
    send(&mut client, 4, &[("a", watched.clone())]).await;
    let mut all = BTreeMap::new();
    until(&mut client, &mut all, |all| passes(all, "a")).await;

    let (other, _other) = app("200 OK", "").await;
    send(&mut client, 4, &[("a", watched), ("b", probe(other, http("/")))]).await;
    until(&mut client, &mut all, |all| passes(all, "b")).await;
    assert!(passes(&all, "a"), "it was not started over");

    server.abort();
    until(&mut client, &mut all, |all| !passes(all, "a")).await;
    assert!(all[&key("a")].passed_once);
    let _back = answer_on(TcpListener::bind(address).await.unwrap(), "200 OK", "");
    until(&mut client, &mut all, |all| passes(all, "a")).await;
}
