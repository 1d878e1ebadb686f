//! The application behind a container of the double: answers every request with its name.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use interlock::probe::ID_HEADER;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// An application that listens; it ends with the value.
pub struct App {
    server: JoinHandle<()>,
    seen: Arc<Seen>,
}

/// What came to it.
#[derive(Default)]
struct Seen {
    accepted: OnceLock<Instant>,
    requests: AtomicU64,
    executed: Mutex<Vec<String>>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl App {
    /// Listens on a loopback address.
    pub async fn listen(name: &str, at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let seen = Arc::<Seen>::default();
        let server = tokio::spawn(serve(listener, name.to_owned(), Arc::clone(&seen)));
        Ok(Self { server, seen })
    }

    /// How many requests it has answered.
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// What it has executed of a load, a line for each time, as the apps in containers log it.
    pub fn executed(&self) -> String {
        let executed = self.seen.executed.lock().unwrap_or_else(PoisonError::into_inner);
        executed.iter().flat_map(|id| ["executed ", id, "\n"]).collect()
    }

    /// When it accepted its first connection: that of a probe, where readiness is looked at.
    pub fn first_accept(&self) -> Option<Instant> {
        self.seen.accepted.get().copied()
    }
}

async fn serve(listener: TcpListener, name: String, seen: Arc<Seen>) {
    let name = Arc::<str>::from(name);
    // They end with the application.
    let mut conversations = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = seen.accepted.set(Instant::now());
        while conversations.try_join_next().is_some() {}
        let (name, seen) = (Arc::clone(&name), Arc::clone(&seen));
        // A client that goes away is no concern of the others.
        conversations.spawn(async move { converse(stream, &name, &seen).await.is_ok() });
    }
}

/// One request after the other, each with its body.
async fn converse(mut stream: TcpStream, name: &str, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let length = name.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Served-By: {name}\r\n\r\n{name}");
    let mut buffer = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        while let Some(request) = Request::first_of(&buffer) {
            buffer.drain(..request.length);
            seen.requests.fetch_add(1, Ordering::Relaxed);
            if let Some(id) = request.id {
                seen.executed.lock().unwrap_or_else(PoisonError::into_inner).push(id);
            }
            stream.write_all(answer.as_bytes()).await?;
        }
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..count]);
    }
}

/// What counts of a request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    /// Of head and body.
    length: usize,
    /// What a load calls it, where it must be executed only once.
    id: Option<String>,
}

impl Request {
    /// The first one, if it is there as a whole.
    fn first_of(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let header = |wanted: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim().to_owned())
        };
        let body = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let length = end + 4 + body;
        (bytes.len() >= length).then(|| Self { length, id: header(ID_HEADER) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_with_its_body() {
        let bytes = b"POST / HTTP/1.1\r\ncontent-length: 3\r\nX-Probe-Id: 7\r\n\r\nabcGET / HTTP/1.1\r\n\r\n";
        let id = Some("7".to_owned());
        assert_eq!(Request::first_of(bytes), Some(Request { length: 56, id }));
        assert_eq!(Request::first_of(&bytes[..55]), None);
        assert_eq!(Request::first_of(&bytes[56..]), Some(Request { length: 18, id: None }));
    }
}
