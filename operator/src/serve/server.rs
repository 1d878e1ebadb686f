//! The two listeners: health and metrics on TCP, the API on a unix socket that only the owner may open.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::api::SNAPSHOT_PATH;
use super::{Looks, Metrics, Readiness, Rest, Shared, port, rest};

/// Why the operator cannot listen where it should.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else listens there.
    #[error("`{address}`, where metrics and health should listen, is taken{}", by(holder.as_ref()))]
    PortTaken {
        /// The address.
        address: SocketAddr,
        /// Who has it, as far as can be seen.
        holder: Option<String>,
    },
    /// The port cannot be had for another reason.
    #[error("metrics and health cannot listen on `{address}`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another operator answers on the API socket.
    #[error("another operator listens on `{}`", path.display())]
    SocketTaken {
        /// The socket.
        path: PathBuf,
    },
    /// The API socket cannot be made.
    #[error("the API socket `{}` cannot be made", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn by(holder: Option<&String>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

impl ServeError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PortTaken { .. } | Self::Bind { .. } => {
                "stop the other one, or set another address: `--metrics 127.0.0.1:9091` or `listen.metrics`"
            }
            Self::SocketTaken { .. } => {
                "stop the other operator, or give this one a socket of its own: `--api PATH` or `listen.api`"
            }
            Self::Socket { .. } => {
                "make the folder and let this user write to it, or set another path: `--api PATH` or `listen.api`"
            }
        }
    }
}

/// What the listeners answer from.
#[derive(Debug, Clone)]
pub struct Served {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For the API: what the operator sees.
    pub shared: Shared,
    /// What the status of objects follows from.
    pub looks: Looks,
    /// For the API: what was applied, and what happened.
    pub rest: Rest,
}

/// Bound listeners that do not answer yet.
#[derive(Debug)]
pub struct Listeners {
    metrics: TcpListener,
    api: Option<Socket>,
}

impl Listeners {
    /// Binds the address for health and metrics.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let metrics = TcpListener::bind(address).await.map_err(|source| {
            if source.kind() == ErrorKind::AddrInUse {
                return ServeError::PortTaken { address, holder: port::holder(address) };
            }
            ServeError::Bind { address, source }
        })?;
        Ok(Self { metrics, api: None })
    }

    /// Binds the API's socket too. A socket that nobody listens on any more is replaced.
    pub async fn bind_api(&mut self, path: &Path) -> Result<(), ServeError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(ServeError::SocketTaken { path: path.to_owned() });
        }
        let socket = Socket::make(path);
        self.api = Some(socket.map_err(|source| ServeError::Socket { path: path.to_owned(), source })?);
        Ok(())
    }

    /// Where health and metrics are, with the real port where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.metrics.local_addr()
    }

    /// Answers until the returned value is dropped.
    pub fn serve(self, served: Served) -> Serving {
        let mut tasks = JoinSet::new();
        let health = health_routes(served.clone());
        // A listener of axum ends only by being dropped: it retries failed accepts by itself.
        tasks.spawn(async move { axum::serve(self.metrics, health).await });
        let socket = self.api.map(|Socket { listener, path }| {
            let api = api_routes(served);
            tasks.spawn(async move { axum::serve(listener, api).await });
            path
        });
        Serving { _tasks: tasks, _socket: socket }
    }
}

/// Listeners that answer; they end with this value.
#[derive(Debug)]
pub struct Serving {
    _tasks: JoinSet<io::Result<()>>,
    _socket: Option<SocketPath>,
}

#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    path: SocketPath,
}

impl Socket {
    /// Mode first, name second: at no instant can anybody else open it.
    fn make(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let young = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&young);
        let listener = UnixListener::bind(&young)?;
        fs::set_permissions(&young, Permissions::from_mode(0o600))?;
        fs::rename(&young, path)?;
        Ok(Self { listener, path: SocketPath(path.to_owned()) })
    }
}

/// Removes the socket's name when the operator ends.
#[derive(Debug)]
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn health_routes(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(served)
}

fn api_routes(served: Served) -> Router {
    let objects = rest::routes(served.rest.clone());
    Router::new()
        .route(SNAPSHOT_PATH, get(snapshot))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(served)
        .merge(objects)
}

async fn metrics(State(served): State<Served>) -> Response {
    match served.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(served): State<Served>) -> Response {
    match served.readiness.waits_for() {
        None => "ok\n".into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")).into_response(),
    }
}

async fn snapshot(State(served): State<Served>) -> Response {
    match served.shared.latest() {
        Some(snapshot) => Json(&*snapshot).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the first round is not over yet\n").into_response(),
    }
}
