//! nginx: which digest its workers answer, and whether the old ones have stopped accepting.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use interlock_core::model::{Digest, Port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The answer is a head and 32 digits.
const ANSWER: u64 = 4 * 1024;
/// A worker on the same machine that takes longer is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The static digest that the worker which takes this connection serves; none: it is not ours, or nobody answers.
pub(super) async fn digest(port: Port) -> Option<Digest> {
    let asked = async {
        let mut stream =
            TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()))).await.ok()?;
        let request = "GET /digest HTTP/1.1\r\nHost: interlock.invalid\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        if !head.starts_with("HTTP/1.1 200") {
            return None;
        }
        // A body of unknown length comes in chunks, whose sizes stand on lines of their own.
        body.split_whitespace().find_map(|word| word.parse().ok())
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}
