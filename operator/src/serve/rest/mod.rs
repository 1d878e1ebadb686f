//! The API's objects over HTTP, with Kubernetes' paths and manners.

mod body;
mod feed;
pub mod openapi;
pub mod problem;
pub mod rollout;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use interlock_core::compile::Config;
use interlock_core::finding::Finding;
use interlock_core::model::Timestamp;
use interlock_crds::API_VERSION;
use interlock_crds::schema::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::problem::Problem;
use super::Events;
use crate::store::{Asked, Done, Key, Objects, Others, Outcome, Put, Refusal, Seen, Selector, Written};

/// Where the objects are.
pub const ROOT: &str = "/apis/interlock.dev/v1alpha1";

/// What the handlers answer from.
#[derive(Debug, Clone)]
pub struct Rest {
    /// The objects.
    pub objects: Objects,
    /// What happened in the last hours.
    pub events: Events,
    /// The settings that documents are judged by.
    pub config: Arc<Config>,
}

/// The routes of the API.
pub(super) fn routes(rest: Rest) -> Router {
    let objects = Router::new()
        .route("/", get(resources))
        .route("/apply", post(apply))
        .route("/events", get(events))
        .route("/backup", get(backup))
        .route("/restore", post(restore))
        .route("/{plural}", get(list_all).post(create_shared))
        .route("/{plural}/{name}/history", get(rollout::history_shared))
        .route("/{plural}/{name}/undo", post(rollout::undo_shared))
        .route("/{plural}/{name}/release", post(rollout::release_shared))
        .route("/namespaces/{namespace}/{plural}/{name}/history", get(rollout::history))
        .route("/namespaces/{namespace}/{plural}/{name}/undo", post(rollout::undo))
        .route("/namespaces/{namespace}/{plural}/{name}/release", post(rollout::release))
        .route("/{plural}/{name}", get(read_shared).put(replace_shared).delete(delete_shared))
        .route("/namespaces/{namespace}/{plural}", get(list).post(create))
        .route("/namespaces/{namespace}/{plural}/{name}", get(read).put(replace).delete(delete));
    Router::new()
        .nest(ROOT, objects)
        .route("/openapi/v3", get(|| async { Json(openapi::document()) }))
        .fallback(|| async { Problem::no_such_path() })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "nothing here takes this method")
                .fix("`/openapi/v3` says what there is")
        })
        .with_state(rest)
}

/// What stands behind the `?`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asking {
    dry_run: Option<String>,
    label_selector: Option<String>,
    resource_version: Option<String>,
    watch: Option<String>,
    owner: Option<String>,
    prune: Option<String>,
    replace: Option<String>,
    generation: Option<String>,
}

impl Asking {
    fn dry_run(&self) -> Result<bool, Problem> {
        match self.dry_run.as_deref() {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                let message = format!("`dryRun={}` is not known", other.escape_debug());
                Err(Problem::bad(message).fix("write `dryRun=All`"))
            }
        }
    }

    fn selector(&self) -> Result<Selector, Problem> {
        self.label_selector.as_deref().unwrap_or_default().parse().map_err(Problem::bad)
    }

    fn revision(&self) -> Result<Option<u64>, Problem> {
        let text = self.resource_version.as_deref().filter(|text| !text.is_empty());
        text.map(str::parse).transpose().map_err(|_| Problem::bad("`resourceVersion` is no whole number"))
    }
}

/// A switch of the query: `watch=1`, `watch=true`, or `watch` alone.
fn on(switch: Option<&String>) -> bool {
    switch.is_some_and(|value| matches!(value.as_str(), "" | "1" | "true"))
}

fn kind_of(plural: &str, namespaced: Option<bool>) -> Result<Kind, Problem> {
    let stored = [Kind::Route, Kind::ServiceCluster, Kind::Engine].into_iter();
    let mut fitting =
        stored.filter(|kind| namespaced.is_none_or(|namespaced| kind.namespaced() == namespaced));
    fitting.find(|kind| kind.plural() == plural).ok_or_else(Problem::no_such_path)
}

fn key_of(kind: Kind, namespace: &str, name: &str) -> Result<Key, Problem> {
    Key::new(kind, namespace, name).map_err(|error| Problem::bad(error.to_string()))
}

fn shared_key(plural: &str, name: &str) -> Result<Key, Problem> {
    key_of(kind_of(plural, Some(false))?, interlock_crds::DEFAULT_NAMESPACE, name)
}

fn spaced_key(namespace: &str, plural: &str, name: &str) -> Result<Key, Problem> {
    key_of(kind_of(plural, Some(true))?, namespace, name)
}

type Answer = Result<Response, Problem>;

async fn resources() -> Json<Value> {
    let resource = |kind: Kind| {
        json!({
            "name": kind.plural(), "singularName": kind.as_str().to_lowercase(), "kind": kind.as_str(),
            "namespaced": kind.namespaced(), "shortNames": [kind.short()],
            "verbs": ["get", "list", "watch", "create", "update", "delete"],
        })
    };
    let resources: Vec<Value> = [Kind::Route, Kind::ServiceCluster, Kind::Engine].map(resource).into();
    Json(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION, "resources": resources,
    }))
}

async fn list_all(
    State(rest): State<Rest>,
    Path(plural): Path<String>,
    Query(asking): Query<Asking>,
) -> Answer {
    listed(&rest, kind_of(&plural, None)?, None, &asking)
}

async fn list(
    State(rest): State<Rest>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(asking): Query<Asking>,
) -> Answer {
    listed(&rest, kind_of(&plural, Some(true))?, Some(namespace), &asking)
}

fn listed(rest: &Rest, kind: Kind, namespace: Option<String>, asking: &Asking) -> Answer {
    let selector = asking.selector()?;
    if on(asking.watch.as_ref()) {
        return feed::follow(&rest.objects, feed::Filter { kind, namespace, selector }, asking.revision()?);
    }
    let (revision, seen) = rest.objects.list(kind, namespace.as_deref(), &selector);
    let items: Vec<Written> = seen.iter().map(written).collect();
    Ok(Json(json!({
        "apiVersion": API_VERSION,
        "kind": format!("{}List", kind.as_str()),
        "metadata": {"resourceVersion": revision.to_string()},
        "items": items,
    }))
    .into_response())
}

/// An object as it is answered.
fn written(seen: &Seen) -> Written {
    seen.stored.written(seen.status.as_deref().cloned())
}

async fn read(
    State(rest): State<Rest>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
) -> Answer {
    found(&rest, &spaced_key(&namespace, &plural, &name)?)
}

async fn read_shared(State(rest): State<Rest>, Path((plural, name)): Path<(String, String)>) -> Answer {
    found(&rest, &shared_key(&plural, &name)?)
}

fn found(rest: &Rest, key: &Key) -> Answer {
    let Some(seen) = rest.objects.get(key) else {
        return Err(Problem::not_found(key, format!("there is no `{key}`")));
    };
    Ok(Json(written(&seen)).into_response())
}

async fn replace(
    State(rest): State<Rest>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(asking): Query<Asking>,
    body: Body,
) -> Answer {
    put_one(rest, Some(spaced_key(&namespace, &plural, &name)?), &asking, body).await
}

async fn replace_shared(
    State(rest): State<Rest>,
    Path((plural, name)): Path<(String, String)>,
    Query(asking): Query<Asking>,
    body: Body,
) -> Answer {
    put_one(rest, Some(shared_key(&plural, &name)?), &asking, body).await
}

async fn create(
    State(rest): State<Rest>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(asking): Query<Asking>,
    body: Body,
) -> Answer {
    let kind = kind_of(&plural, Some(true))?;
    create_one(rest, kind, Some(namespace), &asking, body).await
}

async fn create_shared(
    State(rest): State<Rest>,
    Path(plural): Path<String>,
    Query(asking): Query<Asking>,
    body: Body,
) -> Answer {
    let kind = kind_of(&plural, Some(false))?;
    create_one(rest, kind, None, &asking, body).await
}

/// One object in place of whatever is there.
async fn put_one(rest: Rest, key: Option<Key>, asking: &Asking, body: Body) -> Answer {
    let mut put = one(&rest, body).await?;
    if let Some(key) = key {
        expect_place(&put, key.kind, Some(key.id.namespace()), Some(key.id.name()))?;
        put.key = key;
    }
    let done = write(rest, Asked { put: vec![put], dry_run: asking.dry_run()?, ..Asked::default() }).await?;
    answered(&done)
}

async fn create_one(
    rest: Rest,
    kind: Kind,
    namespace: Option<String>,
    asking: &Asking,
    body: Body,
) -> Answer {
    let mut put = one(&rest, body).await?;
    expect_place(&put, kind, namespace.as_deref(), None)?;
    if let Some(namespace) = namespace {
        put.key = key_of(kind, &namespace, put.key.id.name())?;
    }
    put.new = true;
    let done = write(rest, Asked { put: vec![put], dry_run: asking.dry_run()?, ..Asked::default() }).await?;
    answered(&done)
}

/// Whether a document is what its path says.
fn expect_place(put: &Put, kind: Kind, namespace: Option<&str>, name: Option<&str>) -> Result<(), Problem> {
    let differs = |what: &str, path: &str, body: &str| {
        Err(Problem::bad(format!("the path says {what} `{path}`, the document `{}`", body.escape_debug())))
    };
    if put.key.kind != kind {
        return differs("kind", kind.as_str(), put.key.kind.as_str());
    }
    if let Some(name) = name.filter(|name| *name != put.key.id.name()) {
        return differs("name", name, put.key.id.name());
    }
    match (namespace, put.metadata.namespace.as_deref()) {
        (Some(path), Some(body)) if path != body => differs("namespace", path, body),
        _ => Ok(()),
    }
}

fn answered(done: &[Done]) -> Answer {
    let Some(done) = done.first() else { return Err(Problem::bad("nothing was asked for")) };
    let code = if done.outcome == Outcome::Created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((code, Json(done.stored.written(None))).into_response())
}

async fn delete(
    State(rest): State<Rest>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(asking): Query<Asking>,
) -> Answer {
    delete_one(rest, spaced_key(&namespace, &plural, &name)?, &asking).await
}

async fn delete_shared(
    State(rest): State<Rest>,
    Path((plural, name)): Path<(String, String)>,
    Query(asking): Query<Asking>,
) -> Answer {
    delete_one(rest, shared_key(&plural, &name)?, &asking).await
}

async fn delete_one(rest: Rest, key: Key, asking: &Asking) -> Answer {
    let delete = vec![(key, asking.revision()?)];
    let done = write(rest, Asked { delete, dry_run: asking.dry_run()?, ..Asked::default() }).await?;
    answered(&done)
}

/// What became of what was applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied<O = Written> {
    /// Whether it was only asked what would happen.
    pub dry_run: bool,
    /// Object by object.
    pub items: Vec<AppliedItem<O>>,
    /// What is worth knowing of them.
    #[serde(default)]
    pub warnings: Vec<Finding>,
}

/// What became of one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedItem<O = Written> {
    /// `created`, `configured`, `unchanged` or `deleted`.
    pub outcome: String,
    /// As it is now; what was deleted as it was.
    pub object: O,
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Deleted => "deleted",
    }
}

/// Any number of documents, all or nothing.
async fn apply(State(rest): State<Rest>, Query(asking): Query<Asking>, body: Body) -> Answer {
    let dry_run = asking.dry_run()?;
    let prune = on(asking.prune.as_ref());
    if let Some(owner) = &asking.owner {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if owner.is_empty() || owner.len() > 63 || !owner.chars().all(good) {
            return Err(Problem::bad("an owner is named by 1 to 63 letters, digits, `-`, `_`, `.` and `/`"));
        }
    } else if prune {
        return Err(Problem::bad("`prune` needs `owner`").fix("say whose objects may go: `owner=NAME`"));
    }
    let (put, warnings) = documents(&rest, body).await?;
    let others = if prune { Others::OwnersGo } else { Others::Stay };
    let asked = Asked { put, owner: asking.owner, others, dry_run, ..Asked::default() };
    let done = write(rest, asked).await?;
    Ok(Json(applied(&done, dry_run, warnings)).into_response())
}

/// Everything that is stored, as documents.
async fn backup(State(rest): State<Rest>) -> Json<Value> {
    let (revision, seen) = rest.objects.all();
    let items: Vec<Written> = seen.iter().map(|seen| seen.stored.written(None)).collect();
    let metadata = json!({"resourceVersion": revision.to_string()});
    Json(json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
}

/// Documents in place of everything that is stored.
async fn restore(State(rest): State<Rest>, Query(asking): Query<Asking>, body: Body) -> Answer {
    let (put, warnings) = documents(&rest, body).await?;
    let (dry_run, others) = (asking.dry_run()?, Others::AllGo { replace: on(asking.replace.as_ref()) });
    let done = write(rest, Asked { put, others, dry_run, ..Asked::default() }).await?;
    Ok(Json(applied(&done, dry_run, warnings)).into_response())
}

fn applied(done: &[Done], dry_run: bool, warnings: Vec<Finding>) -> Applied {
    let item = |done: &Done| AppliedItem {
        outcome: word(done.outcome).to_owned(),
        object: done.stored.written(None),
    };
    Applied { dry_run, items: done.iter().map(item).collect(), warnings }
}

async fn one(rest: &Rest, body: Body) -> Result<Put, Problem> {
    let (mut put, _) = documents(rest, body).await?;
    match (put.pop(), put.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(Problem::bad("the body has no document")),
        (Some(_), others) => {
            Err(Problem::bad(format!("the body has {} documents, the path is for one", others + 1))
                .fix(format!("post them to `{ROOT}/apply`")))
        }
    }
}

/// The documents of a body. Reading megabytes takes a while, so that it is done beside the runtime.
async fn documents(rest: &Rest, body: Body) -> Result<(Vec<Put>, Vec<Finding>), Problem> {
    let text = body::text(body).await?;
    let config = Arc::clone(&rest.config);
    let clusters = rest.objects.declared().borrow().clusters.clone();
    tokio::task::spawn_blocking(move || body::read(&text, &config, clusters)).await.map_err(|_| ended())?
}

/// Writes, which waits for the disk and so is done beside the runtime.
async fn write(rest: Rest, mut asked: Asked) -> Result<Vec<Done>, Problem> {
    asked.at = now();
    let (objects, dry_run) = (rest.objects, asked.dry_run);
    let writing = tokio::task::spawn_blocking(move || objects.write(asked));
    let done: Result<Vec<Done>, Refusal> = writing.await.map_err(|_| ended())?;
    let done = done?;
    for Done { outcome, stored } in done.iter().filter(|done| !dry_run && done.outcome != Outcome::Unchanged)
    {
        let message = format!("{}, generation {}", word(*outcome), stored.generation());
        rest.events.note(time(), false, "Applied", &stored.key.to_string(), &message);
    }
    Ok(done)
}

/// The time as RFC 3339 has it.
pub(super) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn time() -> Timestamp {
    Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default())
}

async fn events(State(rest): State<Rest>) -> Json<Value> {
    Json(json!({"apiVersion": API_VERSION, "kind": "EventList", "items": rest.events.all()}))
}

fn ended() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "the operator is ending")
}

/// A stream of JSON lines.
fn lines(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json;stream=watch")], body).into_response()
}
