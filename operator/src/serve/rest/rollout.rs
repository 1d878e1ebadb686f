//! What an object has said so far, and back to it.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use interlock_crds::API_VERSION;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{Answer, Applied, Asking, Rest, applied, body, ended, shared_key, spaced_key, write};
use crate::store::{Asked, Key, Put, Rendered, Written};

/// The generations of one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generations<O = Written> {
    /// The group and version.
    pub api_version: String,
    /// `History`.
    pub kind: String,
    /// The oldest first.
    pub items: Vec<Generation<O>>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation<O = Written> {
    /// Its number.
    pub generation: u64,
    /// When it was applied, as RFC 3339 has it.
    pub at: String,
    /// Whether it is what the object says now.
    pub current: bool,
    /// The generation that it brought back, where it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    /// What it said.
    pub object: O,
    /// What proxies ran of it when all of them first did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<Rendered>,
}

type Spaced = Path<(String, String, String)>;
type Shared = Path<(String, String)>;

pub(super) async fn history(State(rest): State<Rest>, Path((namespace, plural, name)): Spaced) -> Answer {
    told(&rest, &spaced_key(&namespace, &plural, &name)?)
}

pub(super) async fn history_shared(State(rest): State<Rest>, Path((plural, name)): Shared) -> Answer {
    told(&rest, &shared_key(&plural, &name)?)
}

fn told(rest: &Rest, key: &Key) -> Answer {
    let current = rest.objects.get(key).filter(|seen| seen.stored.origin().is_none());
    let generation = current.as_ref().map(|seen| seen.stored.generation());
    let revisions = rest.objects.history(key);
    if revisions.is_empty() {
        return Err(Problem::not_found(
            key,
            "nothing was ever applied under this name, or it is long forgotten",
        ));
    }
    let items = revisions.into_iter().map(|revision| {
        let number = revision.stored.generation();
        let now = generation == Some(number);
        Generation {
            generation: number,
            at: revision.at.clone(),
            current: now,
            held: current.as_ref().filter(|_| now).and_then(|seen| seen.stored.held()),
            object: revision.stored.written(None),
            rendered: rest.objects.rendered(key, number),
        }
    });
    let answer = Generations {
        api_version: API_VERSION.to_owned(),
        kind: "History".to_owned(),
        items: items.collect::<Vec<Generation>>(),
    };
    Ok(Json(answer).into_response())
}

pub(super) async fn undo(
    State(rest): State<Rest>,
    Path((namespace, plural, name)): Spaced,
    Query(asking): Query<Asking>,
) -> Answer {
    back(rest, spaced_key(&namespace, &plural, &name)?, &asking).await
}

pub(super) async fn undo_shared(
    State(rest): State<Rest>,
    Path((plural, name)): Shared,
    Query(asking): Query<Asking>,
) -> Answer {
    back(rest, shared_key(&plural, &name)?, &asking).await
}

/// Brings a generation back, judged as if it were applied now: what was good once may be refused today.
async fn back(rest: Rest, key: Key, asking: &Asking) -> Answer {
    let to = asking.generation.as_deref().map(str::parse).transpose();
    let to = to.map_err(|_| Problem::bad("`generation` is no whole number"))?;
    let put = rest.objects.undo(&key, to)?;
    let document = crate::store::Stored { key, metadata: put.metadata.clone(), spec: put.spec.clone() };
    let text = serde_json::to_string(&document.written(None)).map_err(|_| ended())?;
    let config = std::sync::Arc::clone(&rest.config);
    let clusters = rest.objects.declared().borrow().clusters.clone();
    let judging = tokio::task::spawn_blocking(move || body::read(&text, &config, clusters));
    let (_, warnings) = judging.await.map_err(|_| ended())??;
    done(rest, put, asking.dry_run()?, warnings).await
}

pub(super) async fn release(State(rest): State<Rest>, Path((namespace, plural, name)): Spaced) -> Answer {
    let put = rest.objects.release(&spaced_key(&namespace, &plural, &name)?)?;
    done(rest, put, false, Vec::new()).await
}

pub(super) async fn release_shared(State(rest): State<Rest>, Path((plural, name)): Shared) -> Answer {
    let put = rest.objects.release(&shared_key(&plural, &name)?)?;
    done(rest, put, false, Vec::new()).await
}

async fn done(
    rest: Rest,
    put: Put,
    dry_run: bool,
    warnings: Vec<interlock_core::finding::Finding>,
) -> Result<Response, Problem> {
    let done = write(rest, Asked { put: vec![put], dry_run, ..Asked::default() }).await?;
    let answer: Applied = applied(&done, dry_run, warnings);
    Ok(Json(answer).into_response())
}
