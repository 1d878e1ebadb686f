//! Watching: one JSON line for each thing that happens, for as long as somebody reads.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use interlock_crds::schema::Kind;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::problem::Problem;
use super::{lines, written};
use crate::store::{Happened, News, Objects, Selector};

/// What somebody watches.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
}

struct Following {
    filter: Filter,
    waiting: VecDeque<Bytes>,
    then: Option<Receiver<Arc<Vec<News>>>>,
}

/// What happened since a write, or what there is, and then what happens.
pub(super) fn follow(objects: &Objects, filter: Filter, since: Option<u64>) -> Result<Response, Problem> {
    let feed = objects.watch(since).map_err(|_| expired())?;
    let mut waiting: VecDeque<Bytes> = feed.first.iter().filter_map(|news| filter.line(news)).collect();
    // Whoever waits for somebody to go must know that all who are there were named.
    let revision = json!({"metadata": {"resourceVersion": feed.revision.to_string()}});
    waiting.push_back(line("BOOKMARK", &revision));
    let following = Following { filter, waiting, then: Some(feed.then) };
    let stream = futures_util::stream::unfold(following, |mut following| async move {
        let next = following.next().await?;
        Some((Ok::<_, Infallible>(next), following))
    });
    Ok(lines(Body::from_stream(stream)))
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Some(line);
            }
            match self.then.as_mut()?.recv().await {
                Ok(news) => self.waiting.extend(news.iter().filter_map(|news| self.filter.line(news))),
                Err(RecvError::Lagged(_)) => {
                    self.then = None;
                    self.waiting.push_back(line("ERROR", &expired()));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Filter {
    fn line(&self, news: &News) -> Option<Bytes> {
        let key = &news.seen.stored.key;
        let here = self.namespace.as_deref().is_none_or(|namespace| key.id.namespace() == namespace);
        if key.kind != self.kind || !here {
            return None;
        }
        let word = match news.happened {
            // An object may have lost the labels by which it was watched; to whoever never saw it, it is nothing.
            _ if !self.selector.takes(&news.seen.stored.metadata.labels) => "DELETED",
            Happened::Added => "ADDED",
            Happened::Modified => "MODIFIED",
            Happened::Deleted => "DELETED",
        };
        if word == "DELETED" && news.happened == Happened::Added {
            return None;
        }
        let mut object = written(&news.seen);
        if news.happened == Happened::Deleted {
            object.metadata.resource_version = Some(news.revision.to_string());
        }
        Some(line(word, &object))
    }
}

fn expired() -> Problem {
    Problem::new(
        StatusCode::GONE,
        "Expired",
        "what happened since that `resourceVersion` is not known any more",
    )
    .fix("list again, and watch from there")
}

fn line<T: Serialize>(word: &str, object: &T) -> Bytes {
    let mut line = serde_json::to_vec(&json!({"type": word, "object": object})).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
