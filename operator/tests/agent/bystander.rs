//! Unrelated changes touch no connection: what runs to host A goes on through live changes and reloads of host B.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use interlock_core::bundle::{Bundle, Occupant};
use interlock_crds::ProxyKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::conformance::{Host, Sketch};
use crate::rig::{Rig, connected};

/// One chunk of a download, sent whenever the test says so.
const CHUNK: usize = 4096;

/// Host A's app: `/download` goes on as long as chunks are asked for, `/socket` echoes after an upgrade. Counts the
/// connections that it was given.
struct Bystander {
    addr: SocketAddr,
    accepted: Arc<AtomicU32>,
    go_on: tokio::sync::broadcast::Sender<()>,
}

async fn bystander() -> Bystander {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicU32::new(0));
    let (go_on, _) = tokio::sync::broadcast::channel(64);
    let (count, chunks) = (Arc::clone(&accepted), go_on.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, chunks.subscribe()));
        }
    });
    Bystander { addr, accepted, go_on }
}

async fn serve(mut stream: TcpStream, mut go_on: tokio::sync::broadcast::Receiver<()>) {
    let head = head(&mut stream).await;
    if head.contains("/socket") {
        let upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(upgraded.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        return;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
    while go_on.recv().await.is_ok() {
        if stream.write_all(&[b'x'; CHUNK]).await.is_err() {
            return;
        }
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0, "{}", String::from_utf8_lossy(&head));
    }
    String::from_utf8(head).unwrap()
}

async fn opened(rig: &Rig, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", rig.port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut byte = [0];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 101"), "{head}");
    stream
}

/// Host A in front of the bystander, and host B as the number says.
fn bundle(rig: &Rig, a: SocketAddr, b: Option<SocketAddr>, shape: u32) -> Bundle {
    let mut sketch = Sketch::of(rig.kind, rig.port, &[]);
    let (mut host_a, mut host_b) = (Host::new("a.test"), Host::new("b.test"));
    let at = |addr: SocketAddr| Some(Occupant { address: addr.try_into().unwrap(), draining: false });
    match rig.kind {
        ProxyKind::Haproxy => {
            host_a.line.push_str("    timeout tunnel 1h\n    timeout server 1m\n");
            host_a.servers = vec![at(a)];
            host_b.line = format!("    fullconn {}\n", 100 + shape);
            host_b.servers = vec![b.and_then(at), None];
        }
        ProxyKind::Nginx => {
            let upgrade = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                           proxy_set_header Connection $http_connection; proxy_buffering off;";
            host_a.line = ["download", "socket"]
                .map(|at| format!("location /{at} {{ proxy_pass http://{a}; {upgrade} }}\n"))
                .concat();
            host_a.answers = true;
            let port = b.map_or(9, |b| b.port());
            host_b.line = format!("location /{shape} {{ proxy_pass http://127.0.0.1:{port}; }}\n");
        }
    }
    sketch.hosts = vec![host_a, host_b];
    sketch.bundle()
}

async fn goes_on(kind: ProxyKind) {
    let rig = Rig::start(kind);
    let app = bystander().await;
    let mut client = connected(rig.options()).await;
    client.applied(&bundle(&rig, app.addr, None, 0)).await;

    let mut download = opened(&rig, "GET /download HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let mut socket = opened(
        &rig,
        "GET /socket HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let mut read = 0;
    let (mut reloads, mut live) = (0, 0);
    for number in 0_u16..23 {
        // Twenty changes of who serves host B, and three of its shape.
        let b = SocketAddr::from(([127, 0, 0, 1], 40_000 + number));
        let applied = client.applied(&bundle(&rig, app.addr, Some(b), u32::from(number / 6))).await;
        if applied.reload.is_empty() {
            live += 1;
        } else {
            reloads += 1;
        }

        app.go_on.send(()).unwrap();
        let mut chunk = [0; CHUNK];
        download.read_exact(&mut chunk).await.unwrap();
        read += chunk.len();
        let word = format!("word {number:05}");
        socket.write_all(word.as_bytes()).await.unwrap();
        let mut echo = vec![0; word.len()];
        socket.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, word.as_bytes());
    }
    match kind {
        ProxyKind::Haproxy => assert_eq!((live, reloads), (20, 3)),
        ProxyKind::Nginx => assert_eq!(reloads, 23),
    }
    assert_eq!(read, 23 * CHUNK, "not a byte is missing");
    assert_eq!(app.accepted.load(Ordering::Relaxed), 2, "nobody has connected again");
    assert_eq!(client.old_workers.cut, 0);
}

#[tokio::test]
async fn connections_to_one_host_outlive_changes_of_another_on_haproxy() {
    goes_on(ProxyKind::Haproxy).await;
}

#[tokio::test]
async fn connections_to_one_host_outlive_changes_of_another_on_nginx() {
    goes_on(ProxyKind::Nginx).await;
}
