//! Why a request was not carried out, in the shape of Kubernetes' `Status`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use interlock_core::finding::Finding;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain::chain;
use crate::store::{Key, Refusal};

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// That it is one.
    #[serde(flatten)]
    pub head: Box<Head>,
    /// What is wrong, for people.
    pub message: String,
    /// The same in one word of Kubernetes' list.
    pub reason: String,
    /// The HTTP status.
    pub code: u16,
    /// What of the request it is about.
    pub details: Box<Details>,
}

/// What Kubernetes' clients know it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// `Status`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// `Failure`.
    pub status: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { kind: "Status".to_owned(), api_version: "v1".to_owned(), status: "Failure".to_owned() }
    }
}

/// What of a request is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// The object's kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Each thing that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// Why, in one word of a closed list.
    pub reason: String,
    /// The document, as `Route shop/web`; none: it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The field, as `spec.rules[0].timeouts`; empty: the whole document.
    #[serde(default)]
    pub field: String,
    /// What is wrong, for people.
    pub message: String,
    /// What stands there, where it is a word or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// What to write instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Cause {
    /// A finding as a cause.
    pub fn of(finding: &Finding) -> Self {
        Self {
            reason: finding.reason.as_str().to_owned(),
            document: finding.subject.document.clone(),
            field: finding.subject.key.clone().unwrap_or_default(),
            message: finding.message.clone(),
            value: None,
            fix: finding.fix.clone(),
        }
    }
}

impl Problem {
    /// A problem without details.
    pub fn new(code: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        Self {
            head: Box::default(),
            message: message.into(),
            reason: reason.to_owned(),
            code: code.as_u16(),
            details: Box::default(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.details.fix = Some(fix.into());
        self
    }

    /// The request asks for something of the wrong shape.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// Documents are wrong.
    pub fn invalid(causes: Vec<Cause>) -> Self {
        let first = causes.first().map_or_else(String::new, |cause| cause.message.clone());
        let others = match causes.len() {
            0 | 1 => String::new(),
            more => format!(" (and {} more)", more - 1),
        };
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{first}{others}; nothing was changed"),
        );
        problem.details.causes = causes;
        problem
    }

    /// There is nothing at this path.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "there is nothing at this path")
            .fix("`/openapi/v3` says what there is")
    }

    /// There is nothing of this name.
    pub fn not_found(key: &Key, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(key)
    }

    fn about(mut self, key: &Key) -> Self {
        self.details.kind = Some(key.kind.as_str().to_owned());
        self.details.name = Some(key.id.name().to_owned());
        self
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let message = format!("{}; nothing was changed", chain(&refusal));
        match &refusal {
            Refusal::NotFound(key) => Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(key),
            Refusal::Forgotten { key, .. } => Self::new(StatusCode::NOT_FOUND, "NotFound", message)
                .about(key)
                .fix("`interlock rollout history` names the generations that are"),
            Refusal::Exists(key) => Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(key),
            Refusal::Conflict { key, .. } => Self::new(StatusCode::CONFLICT, "Conflict", message)
                .about(key)
                .fix("get it again, and make the change there; without `metadata.resourceVersion` the last one wins"),
            Refusal::Owned { key, owner } => Self::new(StatusCode::CONFLICT, "Conflict", message)
                .about(key)
                .fix(format!("apply it as `--owner {owner}`, or delete it first")),
            Refusal::Fixed(key) => Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
                .about(key)
                .fix("change it in the configuration file"),
            Refusal::Twice(key) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(key).fix("leave one of them out")
            }
            Refusal::PrunesAll(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
                .fix("name the documents that stay; `interlock delete` takes the last one away"),
            Refusal::Lost => Self::new(StatusCode::CONFLICT, "StoreLost", message).fix(
                "`interlock restore FILE` with a backup, or `interlock restore --none` where all of that may go",
            ),
            Refusal::NotEmpty(_) => Self::new(StatusCode::CONFLICT, "Conflict", message)
                .fix("`--replace` takes them away"),
            Refusal::Full => Self::new(StatusCode::INSUFFICIENT_STORAGE, "StoreFull", message).fix("delete some first"),
            Refusal::Observes => Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
                .fix("ask the operator that serves"),
            Refusal::Store(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
                .fix("the operator's log and its state directory's file system say more"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (code, Json(self)).into_response()
    }
}
