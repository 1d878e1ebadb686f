//! An engine on a unix socket that says what it is told to, and counts what it is asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use interlock::docker::Client;
use interlock::source::EngineSnapshot;
use interlock::source::docker::{DockerSource, spawn};
use interlock_crds::DockerSpec;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What the engine says and how it fails.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) containers: BTreeMap<String, Value>,
    pub(crate) fail_list: bool,
    /// Answers nothing at all any more.
    pub(crate) hang: bool,
    /// Never answers about this container, as an engine that holds its lock does.
    pub(crate) stuck: Option<&'static str>,
    /// Streams are open and silent.
    pub(crate) deaf: bool,
    pub(crate) api: Option<&'static str>,
    streams: Vec<mpsc::Sender<Result<Bytes, Infallible>>>,
    clock: u64,
    inspecting: usize,
    pub(crate) most_inspecting: usize,
    pub(crate) list_query: String,
}

pub(crate) type Shared = Arc<Mutex<World>>;

/// A fake engine; its socket goes with it.
pub(crate) struct Engine {
    world: Shared,
    dir: tempfile::TempDir,
    server: JoinHandle<()>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Engine {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Shared::default();
        let router = Router::new()
            .route("/_ping", get(|| async { "OK" }))
            .route("/version", get(version))
            .route("/events", get(events))
            .route("/containers/json", get(list))
            .route("/containers/{id}/json", get(inspect))
            .route("/images/{id}/json", get(image))
            .layer(axum::middleware::from_fn_with_state(world.clone(), gate))
            .with_state(world.clone());
        let listener = tokio::net::UnixListener::bind(dir.path().join("d.sock")).unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { world, dir, server }
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("d.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&DockerSpec { host: Some(self.host()), ..DockerSpec::default() }).unwrap()
    }

    pub(crate) fn follow(&self, resync: Duration) -> (Client, watch::Receiver<EngineSnapshot>) {
        let client = self.client();
        let source = DockerSource { engine: "local".parse().unwrap(), resync, address: None };
        (client.clone(), spawn(client, source).0)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// A container that runs from now on; no event is sent.
    pub(crate) fn run(&self, id: &str, address: &str) {
        let started = jiff::Timestamp::now().to_string();
        let value = json!({
            "Id": id, "Name": format!("/{id}"), "Image": "sha256:app", "Created": started,
            "State": {"Status": "running", "Running": true, "StartedAt": started},
            "Config": {"Hostname": id, "Image": "app:1", "Labels": {"interlock.host": "a.example.com"}},
            "HostConfig": {"NetworkMode": "net"},
            "NetworkSettings": {"Ports": {}, "Networks": {"net": {"IPAddress": address}}},
        });
        self.world().containers.insert(id.to_owned(), value);
    }

    /// Sends one event to every stream.
    pub(crate) fn tell(&self, action: &str, id: &str, attributes: &Value) {
        let mut world = self.world();
        world.clock += 1;
        let now = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap() + world.clock;
        let event = json!({"Type": "container", "Action": action, "Actor": {"ID": id, "Attributes": attributes},
            "scope": "local", "time": now / 1_000_000_000, "timeNano": now});
        if world.deaf {
            return;
        }
        let line = Bytes::from(format!("{event}\n"));
        world.streams.retain(|stream| stream.try_send(Ok(line.clone())).is_ok());
    }

    /// Closes every event stream.
    pub(crate) fn cut(&self) {
        self.world().streams.clear();
    }

    /// Waits until a client listens.
    pub(crate) async fn listened_to(&self) {
        while self.world().streams.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn gate(
    State(world): State<Shared>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    if world.lock().unwrap().hang {
        std::future::pending::<()>().await;
    }
    next.run(request).await
}

async fn version(State(world): State<Shared>) -> Response {
    let api = world.lock().unwrap().api.unwrap_or("1.41");
    axum::Json(json!({"Version": "20.10.24", "ApiVersion": api, "Arch": "amd64"})).into_response()
}

async fn events(State(world): State<Shared>) -> Response {
    let (sender, receiver) = mpsc::channel(1024);
    world.lock().unwrap().streams.push(sender);
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    Body::from_stream(lines).into_response()
}

async fn list(State(world): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let mut world = world.lock().unwrap();
    world.list_query = query.unwrap_or_default();
    if world.fail_list {
        return (StatusCode::INTERNAL_SERVER_ERROR, r#"{"message":"disk on fire"}"#).into_response();
    }
    let entry = |c: &Value| {
        json!({"Id": c["Id"], "Names": [c["Name"]], "Image": "app:1", "ImageID": c["Image"], "Created": 1,
            "State": c["State"]["Status"], "Status": "Up 1 second", "Labels": c["Config"]["Labels"],
            "HostConfig": {"NetworkMode": "net"},
            "NetworkSettings": {"Networks": c["NetworkSettings"]["Networks"]}, "Ports": [], "Mounts": []})
    };
    axum::Json(world.containers.values().map(entry).collect::<Vec<_>>()).into_response()
}

async fn inspect(State(world): State<Shared>, Path(id): Path<String>) -> Response {
    {
        let mut world = world.lock().unwrap();
        world.inspecting += 1;
        world.most_inspecting = world.most_inspecting.max(world.inspecting);
    }
    if world.lock().unwrap().stuck == Some(id.as_str()) {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    let mut world = world.lock().unwrap();
    world.inspecting -= 1;
    match world.containers.get(&id) {
        Some(container) => axum::Json(container.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, r#"{"message":"No such container"}"#).into_response(),
    }
}

async fn image() -> Response {
    axum::Json(json!({"Id": "sha256:app", "Config": {"Labels": {"interlock.port": "80"}}})).into_response()
}
