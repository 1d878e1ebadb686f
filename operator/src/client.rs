//! The API's client: one request on one connection to the operator's socket, here or behind a command.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// The largest answer that is read from an operator, in bytes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// How much of what a command says is told, and how long it may take to say it.
const MAX_SAID: u64 = 4096;
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The longest line of a stream.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// Where an operator answers.
#[derive(Debug, Clone)]
pub struct Client {
    way: Way,
}

/// How an operator is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By its socket.
    Socket(PathBuf),
    /// By a command whose input and output are the connection, as `ssh HOST interlock dial-stdio`.
    Command(Vec<String>),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no operator.
    #[error("no operator listens on `{}`", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not ask.
    #[error("the operator's socket `{}` cannot be opened", path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The command that leads to the operator did not.
    #[error("`{command}` does not lead to an operator{}", said_by(said))]
    Unreached {
        /// The command.
        command: String,
        /// What it said.
        said: String,
    },
    /// The connection broke, or what came is no answer.
    #[error("the operator's answer broke off")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

fn said_by(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// What an operator answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    read: Vec<u8>,
    _connection: Connection,
}

/// Drives a connection for as long as somebody has this.
#[derive(Debug)]
struct Connection {
    task: JoinHandle<Result<(), hyper::Error>>,
    /// The command behind it, which ends with it.
    child: Option<Child>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> ClientError {
    ClientError::Broken(error.into())
}

impl Client {
    /// Asks the operator of this socket.
    pub fn new(socket: &Path) -> Self {
        Self::by(Way::Socket(socket.to_owned()))
    }

    /// Asks the operator that is reached so.
    pub const fn by(way: Way) -> Self {
        Self { way }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, ClientError> {
        let (response, _connection) = self.ask(method, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(broken)?;
        Ok(Answer { status, body: body.to_bytes() })
    }

    /// Asks for a stream of lines; the answer itself where it is none.
    pub async fn lines(&self, path: &str) -> Result<Result<Lines, Answer>, ClientError> {
        let (response, connection) = self.ask(Method::GET, path, None).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(Ok(Lines { body: response.into_body(), read: Vec::new(), _connection: connection }));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(broken)?;
        Ok(Err(Answer { status, body: body.to_bytes() }))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(hyper::Response<Incoming>, Connection), ClientError> {
        let (mut sender, mut connection) = match &self.way {
            Way::Socket(socket) => spoken(connect(socket).await?).await?,
            Way::Command(words) => command(words).await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "interlock")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(broken)?;
        match (sender.send_request(request).await, &self.way) {
            (Ok(response), _) => Ok((response, connection)),
            (Err(error), Way::Socket(_)) => Err(broken(error)),
            (Err(_), Way::Command(words)) => Err(connection.unreached(words).await),
        }
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(socket).await.map_err(|source| {
        let path = socket.to_owned();
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
                ClientError::Absent { path }
            }
            _ => ClientError::Closed { path, source },
        }
    })
}

/// Starts a command and speaks with whoever is behind it.
async fn command(words: &[String]) -> Result<(SendRequest<Full<Bytes>>, Connection), ClientError> {
    let unreached = |said: String| ClientError::Unreached { command: words.join(" "), said };
    let (program, rest) = words.split_first().ok_or_else(|| unreached(String::new()))?;
    let started = Command::new(program)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|error| unreached(error.to_string()))?;
    let (Some(output), Some(input)) = (child.stdout.take(), child.stdin.take()) else {
        return Err(unreached(String::new()));
    };
    let (sender, mut connection) = spoken(tokio::io::join(output, input)).await?;
    connection.child = Some(child);
    Ok((sender, connection))
}

impl Connection {
    /// Why nobody answered: what the command said before it ended, or so far.
    async fn unreached(&mut self, words: &[String]) -> ClientError {
        let mut said = Vec::new();
        if let Some(errors) = self.child.as_mut().and_then(|child| child.stderr.take()) {
            let mut errors = errors.take(MAX_SAID);
            let _ = tokio::time::timeout(LAST_WORDS, errors.read_to_end(&mut said)).await;
        }
        let said =
            String::from_utf8_lossy(&said).trim().chars().filter(|c| !c.is_control() || *c == '\n').collect();
        ClientError::Unreached { command: words.join(" "), said }
    }
}

async fn spoken<S>(stream: S) -> Result<(SendRequest<Full<Bytes>>, Connection), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    Ok((sender, Connection { task: tokio::spawn(connection), child: None }))
}

impl Lines {
    /// The next line; none: the operator has ended it.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.read.len() > MAX_LINE {
                return Err(broken("a line is larger than any object can be"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(broken)?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
