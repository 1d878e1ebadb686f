//! What a request brings: documents, read and judged before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::StatusCode;
use interlock_core::compile::Config;
use interlock_core::declared::Declared;
use interlock_core::finding::{Finding, Reason, Verdict};
use interlock_core::model::{ClusterName, Shared};
use interlock_crds::ServiceClusterSpec;
use interlock_crds::schema::Kind;

use super::problem::{Cause, Problem};
use crate::manifest::{self, Document, MAX_TEXT};
use crate::settings::Invalid;
use crate::store::{Key, Put, Spec};

/// Clusters that documents declare.
pub(super) type Clusters = BTreeMap<ClusterName, Shared<ServiceClusterSpec>>;

/// The text of a body; a large one is refused as soon as it is.
pub(super) async fn text(body: Body) -> Result<String, Problem> {
    let most = usize::try_from(MAX_TEXT).unwrap_or(usize::MAX);
    let bytes = axum::body::to_bytes(body, most).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) {
            let message =
                format!("the body is larger than {} MiB; nothing was changed", MAX_TEXT / 1024 / 1024);
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
                .fix("apply the documents in several parts");
        }
        Problem::bad(format!("the body broke off: {error}"))
    })?;
    String::from_utf8(bytes.into()).map_err(|_| Problem::bad("the body is no UTF-8 text"))
}

/// The objects that a text asks for, and what is worth knowing of them; or everything that is wrong with it. `clusters`
/// are those that documents declare already.
pub(super) fn read(
    text: &str,
    config: &Config,
    clusters: Clusters,
) -> Result<(Vec<Put>, Vec<Finding>), Problem> {
    let documents = manifest::read("body", text);
    let mut put = Vec::new();
    let mut causes = Vec::new();
    let mut declared = Declared { clusters, ..Declared::default() };
    let mut titles = BTreeSet::new();
    for document in &documents {
        match (&document.body, &document.id) {
            (Ok(body), Some((kind, id))) => {
                let (metadata, spec) = body.clone().into();
                titles.insert(manifest::title(*kind, id));
                match &spec {
                    Spec::Route(spec) => {
                        declared.routes.insert(id.clone(), spec.clone());
                    }
                    Spec::ServiceCluster(spec) => {
                        declared.clusters.extend(id.name().parse().map(|name| (name, spec.clone())));
                    }
                    Spec::Engine(_) => causes.extend(not_stored(*kind, id.name())),
                }
                put.push(Put {
                    key: Key { kind: *kind, id: id.clone() },
                    metadata,
                    spec,
                    new: false,
                    held: None,
                });
            }
            (Ok(_), None) => {}
            (Err(invalid), _) => causes.push(unread(document, invalid, text)),
        }
    }
    if !causes.is_empty() {
        return Err(Problem::invalid(causes));
    }
    let mut findings = manifest::judge::judge(declared, BTreeMap::new(), false, config)
        .map_err(|error| Problem::bad(error.to_string()))?;
    findings.retain(|finding| finding.subject.document.as_ref().is_some_and(|title| titles.contains(title)));
    let (refused, others): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| {
        // Clusters come and go; a document may be there before its cluster is.
        finding.verdict == Verdict::Refused && finding.reason != Reason::ParentNotFound
    });
    if !refused.is_empty() {
        let causes = refused.iter().map(|finding| placed(finding, &documents, text)).collect();
        return Err(Problem::invalid(causes));
    }
    Ok((put, others))
}

/// A finding as a cause, with what stands there.
fn placed(finding: &Finding, documents: &[Document], text: &str) -> Cause {
    let mut cause = Cause::of(finding);
    let titled = |document: &&Document| {
        let title = document.id.as_ref().map(|(kind, id)| manifest::title(*kind, id));
        title == cause.document
    };
    let document = documents.iter().find(titled);
    cause.value = document.and_then(|document| document.value(text, &cause.field));
    cause
}

fn unread(document: &Document, invalid: &Invalid, text: &str) -> Cause {
    Cause {
        reason: Reason::InvalidDocument.as_str().to_owned(),
        document: document.id.as_ref().map(|(kind, id)| manifest::title(*kind, id)),
        field: invalid.field.clone(),
        message: invalid.brief(),
        value: document.value(text, &invalid.field),
        fix: invalid.fix.clone(),
    }
}

/// What is wrong with a kind that has a schema and is not read yet.
fn not_stored(kind: Kind, name: &str) -> Option<Cause> {
    let (why, instead) = manifest::not_read(kind)?;
    Some(Cause {
        reason: Reason::NotSupported.as_str().to_owned(),
        document: Some(format!("{} {name}", kind.as_str())),
        field: "kind".to_owned(),
        message: why.to_owned(),
        value: Some(kind.as_str().into()),
        fix: Some(instead.to_owned()),
    })
}
