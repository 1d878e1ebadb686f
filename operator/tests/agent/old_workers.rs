//! Old workers: counted while they finish what they have, and what their end cuts off.

use interlock_core::bundle::{Bundle, Occupant};
use interlock_crds::ProxyKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::conformance::{Host, Sketch, hello};
use crate::rig::{PairClient, Rig, connect, connected};

/// An app that begins an answer and never ends it.
async fn endless() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun").await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            });
        }
    });
    addr
}

/// A host `slow.test` in front of the app, and another that makes every bundle different.
fn bundle(rig: &Rig, app: std::net::SocketAddr, drain: &str, number: u32) -> Bundle {
    let mut sketch = Sketch::of(rig.kind, rig.port, &[&format!("h{number}.test")]);
    let mut slow = Host::new("slow.test");
    match rig.kind {
        ProxyKind::Haproxy => {
            sketch.global = format!("    hard-stop-after {drain}\n");
            slow.line.push_str("    option abortonclose\n    timeout server 30s\n");
            slow.servers = vec![Some(Occupant { address: app.try_into().unwrap(), draining: false })];
        }
        ProxyKind::Nginx => {
            sketch.global = format!("worker_shutdown_timeout {drain};\n");
            slow.line = format!("    location /slow {{ proxy_pass http://{app}; proxy_buffering off; }}\n");
            slow.answers = true;
        }
    }
    sketch.hosts.push(slow);
    sketch.bundle()
}

/// A download under way through the proxy.
async fn download(rig: &Rig) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", rig.port)).await.unwrap();
    // Closed by a reset, so that nobody waits for a client that has only stopped sending.
    rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: slow.test\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"begun") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0, "{}", String::from_utf8_lossy(&head));
    }
    stream
}

async fn told(client: &mut PairClient, count: u16) {
    while client.old_workers.count != count {
        client.receive().await.unwrap();
    }
}

async fn workers_with_connections_are_counted_until_they_end(kind: ProxyKind) {
    let rig = Rig::start(kind);
    let app = endless().await;
    let mut client = connected(rig.options()).await;
    client.applied(&bundle(&rig, app, "60000ms", 0)).await;
    let mut downloads = Vec::new();
    for number in 1..=3 {
        downloads.push(download(&rig).await);
        client.applied(&bundle(&rig, app, "60000ms", number)).await;
        assert!(
            client.old_workers.count >= u16::try_from(number).unwrap(),
            "told before the outcome: {:?}",
            client.old_workers
        );
    }
    told(&mut client, 3).await;
    let left = client.old_workers.ends_in_ms.unwrap();
    assert!((1..=60_000).contains(&left), "{left}");

    // The next agent finds them too.
    drop(client);
    let (mut client, _, _served) = connect(rig.options(), hello("one", 2)).await.unwrap();
    told(&mut client, 3).await;
    downloads.pop();
    told(&mut client, 2).await;
    drop(downloads);
    told(&mut client, 0).await;
    assert_eq!(client.old_workers.cut, 0, "they ended by themselves");
}

#[tokio::test]
async fn old_workers_of_haproxy_are_counted_until_they_end() {
    workers_with_connections_are_counted_until_they_end(ProxyKind::Haproxy).await;
}

#[tokio::test]
async fn old_workers_of_nginx_are_counted_until_they_end() {
    workers_with_connections_are_counted_until_they_end(ProxyKind::Nginx).await;
}

async fn what_the_drain_time_ends_is_counted(kind: ProxyKind) {
    let rig = Rig::start(kind);
    let app = endless().await;
    let mut client = connected(rig.options()).await;
    client.applied(&bundle(&rig, app, "4000ms", 0)).await;
    let mut download = download(&rig).await;
    client.applied(&bundle(&rig, app, "4000ms", 1)).await;
    told(&mut client, 1).await;
    let mut rest = Vec::new();
    let _ = download.read_to_end(&mut rest).await;
    while client.old_workers.count > 0 || client.old_workers.cut == 0 {
        client.receive().await.unwrap();
    }
    // One to the client and one to the app, but for what was closed already when it was last looked at.
    let cut = client.old_workers.cut;
    assert!((1..=2).contains(&cut), "{cut}");
}

#[tokio::test]
async fn what_the_drain_time_of_haproxy_ends_is_counted() {
    what_the_drain_time_ends_is_counted(ProxyKind::Haproxy).await;
}

#[tokio::test]
async fn what_the_drain_time_of_nginx_ends_is_counted() {
    what_the_drain_time_ends_is_counted(ProxyKind::Nginx).await;
}
