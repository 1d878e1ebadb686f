//! One try of one request, over connections that are this client's own: nothing is ever sent twice.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::{Cause, EXECUTED_HEADER, ID_HEADER, Plan, SERVER_HEADER};
use crate::chain::chain;

/// As much of an answer's text as an event shows.
const SHOWN: usize = 80;

/// Connections to one proxy for one host.
pub(super) struct Client {
    plan: Plan,
    /// Kept connections that nobody uses; the one used last is used first.
    idle: Mutex<Vec<Link>>,
}

/// One connection; closed when it is dropped.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) served_by: Option<String>,
    pub(super) executed: Option<u64>,
    body: Bytes,
}

/// Why there is none.
pub(super) struct Loss {
    pub(super) cause: Cause,
    pub(super) detail: String,
}

impl Loss {
    fn new(cause: Cause, error: &(dyn Error + 'static)) -> Self {
        Self { cause, detail: chain(error) }
    }
}

impl Client {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), idle: Mutex::default() }
    }

    /// A POST with this id, or a GET without one.
    pub(super) async fn ask(&self, id: Option<&str>, kept: bool) -> Result<Answer, Loss> {
        let mut request = self.request(id)?;
        if !kept {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return exchange(&mut self.connect().await?, request).await.map_err(Broken::loss);
        }
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let fresh = idle.is_none();
            let mut link = match idle {
                Some(link) => link,
                None => self.connect().await?,
            };
            match exchange(&mut link, request).await {
                Ok(answer) => {
                    if !link.sender.is_closed() {
                        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(link);
                    }
                    return Ok(answer);
                }
                // A kept connection that had closed before a byte of the request was written: nothing was tried yet.
                Err(Broken::Unsent(unsent, _)) if !fresh => request = *unsent,
                Err(broken) => return Err(broken.loss()),
            }
        }
    }

    fn request(&self, id: Option<&str>) -> Result<Request<Full<Bytes>>, Loss> {
        let plan = &self.plan;
        let path = match id {
            Some(id) => plan.post.as_deref().unwrap_or("/").replace("{id}", id),
            None => plan.get.clone().unwrap_or_else(|| "/".to_owned()),
        };
        let mut request = Request::builder().uri(path).header(HOST, &plan.host);
        let mut body = Bytes::new();
        if let Some(id) = id {
            request = request.method(Method::POST).header(ID_HEADER, id).header(CONTENT_TYPE, "text/plain");
            body = Bytes::copy_from_slice(id.as_bytes());
        }
        request.body(Full::new(body)).map_err(|error| Loss::new(Cause::Protocol, &error))
    }

    async fn connect(&self) -> Result<Link, Loss> {
        let stream = TcpStream::connect(self.plan.to).await.map_err(|error| {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            Loss::new(if refused { Cause::Refused } else { Cause::Unreachable }, &error)
        })?;
        stream.set_nodelay(true).map_err(|error| Loss::new(Cause::Unreachable, &error))?;
        match &self.plan.tls {
            None => link(stream).await,
            Some(config) => {
                let name = ServerName::try_from(host_name(&self.plan.host).to_owned());
                let name = name.map_err(|error| Loss::new(Cause::Tls, &error))?;
                let tls = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
                link(tls.map_err(|error| Loss::new(Cause::Tls, &error))?).await
            }
        }
    }
}

/// The name in a `Host` header: without its port and the brackets of IPv6.
fn host_name(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

async fn link(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Link, Loss> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| broken(&error))?;
    let task = tokio::spawn(async move {
        // Whoever waits for an answer hears of its end as well.
        let _ = connection.await;
    });
    Ok(Link { sender, task: task.abort_handle() })
}

/// What became of a request that has no answer.
enum Broken {
    /// No byte of it was written: it can still have its one try.
    Unsent(Box<Request<Full<Bytes>>>, hyper::Error),
    Lost(Loss),
}

impl Broken {
    fn loss(self) -> Loss {
        match self {
            Self::Unsent(_, error) => broken(&error),
            Self::Lost(loss) => loss,
        }
    }
}

async fn exchange(link: &mut Link, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
    if let Err(error) = link.sender.ready().await {
        return Err(Broken::Unsent(Box::new(request), error));
    }
    let response = match link.sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut failed) => {
            return Err(match failed.take_message() {
                Some(unsent) => Broken::Unsent(Box::new(unsent), failed.into_error()),
                None => Broken::Lost(broken(&failed.into_error())),
            });
        }
    };
    read(response).await.map_err(|error| {
        let Loss { detail, .. } = broken(&error);
        Broken::Lost(Loss { cause: Cause::Truncated, detail })
    })
}

async fn read(response: Response<hyper::body::Incoming>) -> hyper::Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    let text = |name: &str| text(&head.headers, name);
    Ok(Answer {
        status: head.status.as_u16(),
        served_by: text(SERVER_HEADER),
        executed: text(EXECUTED_HEADER).and_then(|times| times.parse().ok()),
        body,
    })
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Why a connection ended before the answer.
fn broken(error: &hyper::Error) -> Loss {
    let mut source = error.source();
    let mut cause = if error.is_parse() { Cause::Protocol } else { Cause::Closed };
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        {
            cause = Cause::Reset;
        }
        source = inner.source();
    }
    Loss::new(cause, error)
}

impl Answer {
    /// Whether the body has this text.
    pub(super) fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(text)
    }

    /// The beginning of the body, on one line.
    pub(super) fn beginning(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(4 * SHOWN)]).into_owned();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::host_name;

    #[test]
    fn names_without_their_ports() {
        for (host, name) in [
            ("shop.example.com", "shop.example.com"),
            ("shop.example.com:8443", "shop.example.com"),
            ("[::1]:8443", "::1"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(host_name(host), name, "{host}");
        }
    }
}
