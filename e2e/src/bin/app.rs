//! The app behind the proxies in demo and tests: says who it is, counts what it executes, starts and ends as told.
//!
//! Environment: `PORT` (8080), `NAME` (the host name), `START_DELAY_MS` (listens that much later), `HEALTHY=false`
//! (starts with `/health` at 503), `DIE=abrupt` (a stop signal ends it in the middle of requests; otherwise it
//! goes on for `LINGER_MS` (500), then stops accepting and finishes what it has), `IGNORE_TERM=true` (a stop
//! signal does nothing), `CRASH_AFTER_MS` (ends with code 1 so long after it began to listen). `app check` asks its own `/health`, for health checks of an image without a shell.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha1::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

type Body = BoxBody<Bytes, Infallible>;

/// The fixed key of RFC 6455, section 1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

struct App {
    name: String,
    hostname: String,
    healthy: AtomicBool,
    accepted: AtomicBool,
    /// Microseconds since the epoch; 0 before it listens.
    listening_since: AtomicU64,
    requests: AtomicU64,
    executed: Mutex<BTreeMap<String, u64>>,
}

fn text(key: &str) -> Option<String> {
    std::env::var(key).ok().filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(key: &str, default: T) -> T {
    text(key).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// One line on standard output; its readers are the tests, through the engine's logs.
fn log(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn milliseconds_now() -> u64 {
    microseconds_now() / 1000
}

fn microseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[tokio::main]
async fn main() -> ExitCode {
    let result =
        if std::env::args().nth(1).as_deref() == Some("check") { check().await } else { run().await };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The two signals that ask for an end.
struct Stop {
    term: Signal,
    interrupt: Signal,
    ignored: bool,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            ignored: text("IGNORE_TERM").as_deref() == Some("true"),
        })
    }

    async fn asked(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if !self.ignored {
                return;
            }
            log("ignored a stop signal");
        }
    }
}

async fn run() -> std::io::Result<()> {
    let mut stop = Stop::new()?;
    // Docker's default host name of a container is its short id; the kernel knows either.
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let app = Arc::new(App {
        name: text("NAME").unwrap_or_else(|| hostname.clone()),
        hostname,
        healthy: AtomicBool::new(text("HEALTHY").as_deref() != Some("false")),
        accepted: AtomicBool::new(false),
        listening_since: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        executed: Mutex::default(),
    });
    tokio::select! {
        () = sleep(Duration::from_millis(number("START_DELAY_MS", 0))) => {}
        () = stop.asked() => return Ok(()),
    }
    let listener = listen(number("PORT", 8080)).await?;
    app.listening_since.store(microseconds_now(), Ordering::Relaxed);

    if let Some(life) = text("CRASH_AFTER_MS").and_then(|ms| ms.parse().ok()) {
        tokio::spawn(async move {
            sleep(Duration::from_millis(life)).await;
            log("crashed");
            std::process::exit(1);
        });
    }
    let (drain, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::select! {
        result = serve(&listener, &app, &drain, &mut connections) => return result,
        () = stop.asked() => {}
    }
    if text("DIE").as_deref() == Some("abrupt") {
        log("ended abruptly");
        return Ok(());
    }
    // Whoever balances load learns of the end a moment after it was asked for. What the kernel has accepted by then is
    // taken, too: closing would reset it, and nobody could tell such a request from one that was begun.
    tokio::select! {
        biased;
        result = serve(&listener, &app, &drain, &mut connections) => return result,
        () = sleep(Duration::from_millis(number("LINGER_MS", 500))) => {}
    }
    take_what_waits(listener, &app, &drain, &mut connections)?;
    drain.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    match tokio::time::timeout(Duration::from_secs(8), finished).await {
        Ok(()) => log("ended, drained"),
        Err(_) => log("ended, some requests were still open"),
    }
    Ok(())
}

/// A health check's exit code.
async fn check() -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", number("PORT", 8080))).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(std::io::Error::other("unhealthy")) }
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    let listener = match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => listener,
        // A machine without IPv6.
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?,
    };
    log(&format!("listening {port} at {}", milliseconds_now()));
    Ok(listener)
}

/// How long a connection may stay without a request when the app ends: one may be on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(250);

/// Accepts until it is dropped.
async fn serve(
    listener: &TcpListener,
    app: &Arc<App>,
    drain: &watch::Sender<bool>,
    connections: &mut JoinSet<()>,
) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        take(stream, app, drain, connections)?;
        while connections.try_join_next().is_some() {}
    }
}

/// Accepts what the kernel has accepted already, and closes: it resets whatever still waits then, which a proxy cannot
/// tell from an app that died on the request.
fn take_what_waits(
    listener: TcpListener,
    app: &Arc<App>,
    drain: &watch::Sender<bool>,
    connections: &mut JoinSet<()>,
) -> std::io::Result<()> {
    let listener = listener.into_std()?;
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        take(TcpStream::from_std(stream)?, app, drain, connections)?;
    }
    Ok(())
}

fn take(
    stream: TcpStream,
    app: &Arc<App>,
    drain: &watch::Sender<bool>,
    connections: &mut JoinSet<()>,
) -> std::io::Result<()> {
    if !app.accepted.swap(true, Ordering::Relaxed) {
        log(&format!("accepted first at {}", milliseconds_now()));
    }
    // An answer is one small write each; waiting to fill packets would cost 40 ms.
    stream.set_nodelay(true)?;
    let app = Arc::clone(app);
    let mut drained = drain.subscribe();
    let (asked, mut requests) = watch::channel(false);
    connections.spawn(async move {
        let drain = drained.clone();
        let service = service_fn(move |request| {
            asked.send_replace(true);
            let (app, last) = (Arc::clone(&app), drain.clone());
            async move {
                let mut answer = answer(app, request).await?;
                if *last.borrow() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
        let told = async {
            let _ = drained.wait_for(|drain| *drain).await;
            requests.mark_unchanged();
            // hyper closes a connection of which it has read nothing yet, although a request may lie there.
            let _ = tokio::time::timeout(ON_ITS_WAY, requests.changed()).await;
        };
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = told => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    });
    Ok(())
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn query(request: &Request<Incoming>, key: &str) -> Option<String> {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, v)| v.to_owned())
}

/// The last segments decide, so that the app answers the same behind any path prefix.
async fn answer(app: Arc<App>, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    app.requests.fetch_add(1, Ordering::Relaxed);
    let last = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let mut response = match (request.method(), last.as_str()) {
        (_, "health") => {
            let healthy = app.healthy.load(Ordering::Relaxed);
            let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            reply(status, "text/plain", if healthy { "healthy\n" } else { "unhealthy\n" })
        }
        (&Method::POST, "healthy" | "unhealthy") => {
            app.healthy.store(last == "healthy", Ordering::Relaxed);
            reply(StatusCode::OK, "text/plain", "ok\n")
        }
        (&Method::POST, "count") => count(&app, request).await,
        (_, "slow") => {
            let wait = query(&request, "ms").and_then(|ms| ms.parse().ok()).unwrap_or(1000);
            sleep(Duration::from_millis(wait)).await;
            whoami(&app, &request)
        }
        (_, "sse") => events(&request),
        (_, "ws") => upgrade(&mut request),
        (_, "status") => {
            let code = query(&request, "code").and_then(|code| code.parse().ok()).unwrap_or(StatusCode::OK);
            reply(code, "text/plain", format!("{}\n", code.as_u16()))
        }
        (_, "large") => {
            let bytes = query(&request, "bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(1 << 20);
            reply(StatusCode::OK, "application/octet-stream", vec![b'x'; std::cmp::min(bytes, 1 << 28)])
        }
        _ => whoami(&app, &request),
    };
    if let Ok(name) = HeaderValue::from_str(&app.name) {
        response.headers_mut().insert("x-served-by", name);
    }
    Ok(response)
}

fn whoami(app: &App, request: &Request<Incoming>) -> Response<Body> {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers() {
        headers
            .entry(name.as_str())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let said = |name: &str| headers.get(name).and_then(|values| values.first());
    let body = serde_json::json!({
        "name": app.name,
        "hostname": app.hostname,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "host": said(HOST.as_str()),
        "requestId": said("x-request-id"),
        "listeningSince": app.listening_since.load(Ordering::Relaxed),
        "requests": app.requests.load(Ordering::Relaxed),
        "headers": headers,
    });
    reply(StatusCode::OK, "application/json", format!("{body}\n"))
}

/// Executes something that must not be executed twice; logged, so that it counts beyond this container's life.
async fn count(app: &App, request: Request<Incoming>) -> Response<Body> {
    let id = query(&request, "id").unwrap_or_default();
    let Ok(body) = request.into_body().collect().await else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "the request's body broke off\n");
    };
    let times = {
        let mut executed = app.executed.lock().unwrap_or_else(PoisonError::into_inner);
        let times = executed.entry(id.clone()).or_default();
        *times += 1;
        *times
    };
    log(&format!("executed {id}"));
    let answer =
        serde_json::json!({ "name": app.name, "id": id, "times": times, "bytes": body.to_bytes().len() });
    let mut response = reply(StatusCode::OK, "application/json", format!("{answer}\n"));
    response.headers_mut().insert("x-probe-executed", HeaderValue::from(times));
    response
}

/// `count` events (default 5), `ms` apart (default 200).
fn events(request: &Request<Incoming>) -> Response<Body> {
    let total: u64 = query(request, "count").and_then(|count| count.parse().ok()).unwrap_or(5);
    let apart = query(request, "ms").and_then(|ms| ms.parse().ok()).unwrap_or(200);
    let frames = stream::unfold(0, move |sent| async move {
        if sent == total {
            return None;
        }
        if sent > 0 {
            sleep(Duration::from_millis(apart)).await;
        }
        Some((Ok(Frame::data(Bytes::from(format!("data: {sent}\n\n")))), sent + 1))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// Answers a WebSocket handshake and from then on echoes bytes as they come, frames and all.
fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return reply(StatusCode::BAD_REQUEST, "text/plain", "this is a WebSocket endpoint\n");
    };
    let mut hash = sha1::Sha1::new();
    hash.update(key.as_bytes());
    hash.update(WEBSOCKET_GUID);
    let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut stream = pin!(TokioIo::new(upgraded));
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    });
    let mut response = reply(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert("sec-websocket-accept", accept);
    }
    response
}
