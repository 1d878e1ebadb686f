//! The API's client: one request on one connection to the operator's socket.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// The largest answer that is read from an operator, in bytes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// The longest line of a stream.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// Where an operator answers.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
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
    /// The connection broke, or what came is no answer.
    #[error("the operator's answer broke off")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
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
struct Connection(JoinHandle<Result<(), hyper::Error>>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> ClientError {
    ClientError::Broken(error.into())
}

impl Client {
    /// Asks the operator of this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
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
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let path = self.socket.clone();
            match source.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
                    ClientError::Absent { path }
                }
                _ => ClientError::Closed { path, source },
            }
        })?;
        let (mut sender, connection) = spoken(stream).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "interlock")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, connection))
    }
}

async fn spoken<S>(stream: S) -> Result<(SendRequest<Full<Bytes>>, Connection), ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    Ok((sender, Connection(tokio::spawn(connection))))
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
