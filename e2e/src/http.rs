//! An HTTP client that does nothing by itself: no retries, no redirects, no pool, no normalising.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::ServerName};

use crate::Result;

/// A call that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// One request to be made.
#[derive(Debug, Clone)]
pub struct Call {
    address: SocketAddr,
    method: Method,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    roots: Option<Vec<CertificateDer<'static>>>,
    deadline: Duration,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// From before the connect to the last byte.
    pub took: Duration,
}

/// `GET path` for `host` at `address`.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    Call::get(address, host, path).send().await
}

impl Call {
    /// A GET.
    pub fn get(address: SocketAddr, host: &str, path: &str) -> Self {
        Self {
            address,
            method: Method::GET,
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            roots: None,
            deadline: DEADLINE,
        }
    }

    /// A POST with a body.
    pub fn post(address: SocketAddr, host: &str, path: &str, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body.into(), ..Self::get(address, host, path) }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Over TLS, trusting exactly these authorities; the host is the name that is asked for and verified.
    #[must_use]
    pub fn tls(mut self, roots: &[CertificateDer<'static>]) -> Self {
        self.roots = Some(roots.to_vec());
        self
    }

    /// Within this time instead of 20 s.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the call on a connection of its own.
    pub async fn send(self) -> Result<Answer> {
        let deadline = self.deadline;
        // Boxed: with TLS it is large, and tests hold many of them.
        tokio::time::timeout(deadline, Box::pin(self.exchange()))
            .await
            .map_err(|_| format!("no answer within {deadline:?}"))?
    }

    async fn exchange(self) -> Result<Answer> {
        let begin = Instant::now();
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut answer = match &self.roots {
            None => self.over(stream).await?,
            Some(roots) => {
                let tls = TlsConnector::from(Arc::new(client_config(roots)?));
                let name = ServerName::try_from(self.host.clone())?;
                self.over(tls.connect(name, stream).await?).await?
            }
        };
        answer.took = begin.elapsed();
        Ok(answer)
    }

    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Answer> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer = exchange(&mut sender, self.request()?).await;
        connection.abort();
        answer
    }

    pub(crate) fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(&self.method).uri(&self.path).header(HOST, &self.host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(self.body.clone()))?)
    }
}

/// One request and its whole answer on a connection that is open already.
pub async fn exchange(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer> {
    let begin = Instant::now();
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, took: begin.elapsed() })
}

pub(crate) fn client_config(roots: &[CertificateDer<'static>]) -> Result<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth())
}

impl Answer {
    /// A header's text, the first of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).map_err(|_| {
            let status =
                StatusCode::from_u16(self.status).map_or_else(|_| self.status.to_string(), |s| s.to_string());
            format!("{status} instead of the app's answer: {}", self.text()).into()
        })
    }

    /// One text of the app's JSON answer.
    pub fn said(&self, key: &str) -> Result<String> {
        let answer = self.json()?;
        let said = answer.get(key).and_then(|value| value.as_str());
        Ok(said.ok_or_else(|| format!("no {key} in {answer}"))?.to_owned())
    }

    /// The name of the app that answered.
    pub fn app(&self) -> Result<String> {
        self.said("name")
    }

    /// Fails unless the status is this one.
    pub fn expect(self, status: u16) -> Result<Self> {
        crate::ensure!(self.status == status, "{} instead of {status}: {}", self.status, self.text());
        Ok(self)
    }
}

/// Sends bytes as they are and reads until the other side closes; for requests that no client would make.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes.as_ref()).await?;
        let mut answer = Vec::new();
        // A reset after the answer is an answer all the same.
        let _ = stream.read_to_end(&mut answer).await;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(DEADLINE, talk).await.map_err(|_| "no end of the answer".to_owned())?
}

/// Sends a request for an upgrade, then `message`; returns everything up to where `message` has come back.
pub async fn upgrade(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    message: &str,
) -> Result<String> {
    let talk = async {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = read_until(&mut stream, "\r\n\r\n").await?;
        if !answer.starts_with("HTTP/1.1 101") {
            return Err(format!("no upgrade: {answer}").into());
        }
        stream.write_all(message.as_bytes()).await?;
        answer.push_str(&read_until(&mut stream, message).await?);
        Ok(answer)
    };
    tokio::time::timeout(DEADLINE, talk).await.map_err(|_| "no echo in time".to_owned())?
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The status code of what [`raw`] returned; 0 if the connection was closed without an answer.
pub fn raw_status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
