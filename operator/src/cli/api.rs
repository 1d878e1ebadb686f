//! Asking the operator: what every command that speaks the API shares.

use std::fmt::Write as _;
use std::future::Future;

use hyper::Method;
use interlock_crds::schema::Kind;
use interlock_crds::{ConditionStatus, DEFAULT_NAMESPACE, Object};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::args::ApiArgs;
use super::contexts;
use super::failure::Failure;
use crate::client::{Answer, Client, ClientError, Lines};
use crate::serve::rest::ROOT;
use crate::serve::rest::problem::Problem;
use crate::settings::Environment;

/// An object as the operator answers it; its spec may be of a newer version.
pub(super) type Found = Object<Value>;

/// What came is no answer of this version.
pub(super) fn not_understood(error: &serde_json::Error) -> Failure {
    Failure::new(format!("the operator's answer is not understood: {error}"))
        .hint("use the same version as the operator: `docker exec <operator> interlock …`")
}

/// The operator that is asked.
pub(super) struct Operator {
    client: Client,
    runtime: Runtime,
}

/// Why a request was not carried out.
pub(super) enum Refused {
    /// The operator said no.
    Problem(Box<Problem>),
    /// There was no answer.
    Failure(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Failure(failure) => failure,
            Refused::Problem(problem) => {
                let fix = problem.details.fix.clone();
                let first = problem.details.causes.iter().find_map(|cause| cause.fix.clone());
                let failure = Self::new(problem.message);
                match fix.or(first) {
                    Some(fix) => failure.hint(fix),
                    None => failure,
                }
            }
        }
    }
}

impl Operator {
    /// The operator that the configuration or `--api` names.
    pub(super) fn of(args: &ApiArgs, environment: &Environment) -> Result<Self, Failure> {
        let client = contexts::client(args.reach(), environment)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { client, runtime })
    }

    /// The way to it, for the commands that read what it sees.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Runs what waits for several answers.
    pub(super) fn block<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Asks, and takes the answer as what is expected.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<T, Refused> {
        let answer = self.runtime.block_on(self.client.send(method, path, body)).map_err(unanswered)?;
        understood(&answer)
    }

    /// One object.
    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Found, Refused> {
        self.ask(Method::GET, &path_of(kind, Some(namespace), Some(name)), None)
    }

    /// Those of a kind that somebody asks for.
    pub(super) fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<Found>, Failure> {
        #[derive(serde::Deserialize)]
        struct List {
            items: Vec<Found>,
        }
        let path = format!("{}?labelSelector={}", path_of(kind, namespace, None), encoded(selector));
        let list: List = self.ask(Method::GET, &path, None)?;
        Ok(list.items)
    }

    /// What there is of a kind, and what happens to it.
    pub(super) async fn watch(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Watch, Failure> {
        let path = format!("{}?watch=1&labelSelector={}", path_of(kind, namespace, None), encoded(selector));
        match self.client.lines(&path).await.map_err(unanswered)? {
            Ok(lines) => Ok(Watch(lines)),
            Err(answer) => Err(match understood::<Value>(&answer) {
                Ok(_) => Failure::new("the operator does not let itself be watched"),
                Err(refused) => refused.into(),
            }),
        }
    }
}

/// A stream of what happens.
pub(super) struct Watch(Lines);

/// One thing that happened.
pub(super) enum Event {
    /// An object is there, or is as it is now.
    Is(Box<Found>),
    /// It is gone.
    Gone(Box<Found>),
    /// Everything that there was has been named.
    Begun,
}

#[derive(serde::Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl Watch {
    /// The next; none: the operator has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        let Some(line) = self.0.next().await.map_err(Failure::new)? else { return Ok(None) };
        let line: Line = serde_json::from_slice(&line).map_err(|error| not_understood(&error))?;
        let object = |value| serde_json::from_value(value).map(Box::new).map_err(|e| not_understood(&e));
        match line.kind.as_str() {
            "BOOKMARK" => Ok(Some(Event::Begun)),
            "DELETED" => Ok(Some(Event::Gone(object(line.object)?))),
            "ERROR" => Err(Failure::new("more happened than could be told").hint("run the command again")),
            _ => Ok(Some(Event::Is(object(line.object)?))),
        }
    }
}

fn understood<T: DeserializeOwned>(answer: &Answer) -> Result<T, Refused> {
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body).map_err(|error| not_understood(&error).into());
    }
    if let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body) {
        return Err(Refused::Problem(Box::new(problem)));
    }
    let words = String::from_utf8_lossy(&answer.body);
    let failure = Failure::new(format!("the operator answers {}: {}", answer.status, words.trim()));
    Err(Refused::Failure(failure.hint("use the same version as the operator")))
}

fn unanswered(error: ClientError) -> Failure {
    let hint = match &error {
        ClientError::Absent { .. } => {
            "run the command where the operator is, `docker exec <operator> interlock …`, or name its socket: \
             `--api PATH`"
        }
        ClientError::Closed { .. } => {
            "only the user of the operator may ask it: `docker exec <operator> interlock …`"
        }
        ClientError::Unreached { .. } => {
            "try the command by hand; `interlock config get-contexts` says what is run where"
        }
        ClientError::Broken(_) => "its log says more",
    };
    Failure::new(error).hint(hint)
}

/// Where objects of a kind are, or one of them.
pub(super) fn path_of(kind: Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let plural = kind.plural();
    let spaces = match namespace {
        Some(namespace) if kind.namespaced() => format!("/namespaces/{}", encoded(namespace)),
        _ => String::new(),
    };
    let name = name.map(|name| format!("/{}", encoded(name))).unwrap_or_default();
    format!("{ROOT}{spaces}/{plural}{name}")
}

/// A text as a part of a URL.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The kind that a word means, where it can be asked for.
pub(super) fn kind_of(word: &str) -> Result<Kind, Failure> {
    match Kind::of(word) {
        Some(Kind::Configuration) | None => Err(Failure::new(format!(
            "there is no kind `{}`",
            word.escape_debug()
        ))
        .hint(
            "write `route`, `servicecluster` or `engine`, or their plural or short name (`rt`, `sc`, `eng`)",
        )),
        Some(kind) => Ok(kind),
    }
}

/// An object as people name it.
pub(super) fn title(object: &Found) -> String {
    match Kind::of(&object.kind) {
        Some(kind) if !kind.namespaced() => format!("{} {}", object.kind, object.metadata.name),
        _ => format!("{} {}/{}", object.kind, object.metadata.namespace(), object.metadata.name),
    }
}

/// A condition's status and reason, as far as it is of the present generation.
pub(super) fn condition<'o>(object: &'o Found, kind: &str) -> Option<&'o interlock_crds::Condition> {
    let status = object.status.as_ref()?;
    let found = status.conditions.iter().find(|condition| condition.kind.eq_ignore_ascii_case(kind))?;
    (found.observed_generation >= object.metadata.generation).then_some(found)
}

/// A condition's status in a word; `Unknown` where nothing is known of the present generation.
pub(super) fn word_of(object: &Found, kind: &str) -> &'static str {
    match condition(object, kind).map(|condition| condition.status) {
        Some(ConditionStatus::True) => "True",
        Some(ConditionStatus::False) => "False",
        Some(ConditionStatus::Unknown) | None => "Unknown",
    }
}

/// The namespace of a command.
pub(super) fn namespace_or_default(namespace: Option<&String>) -> &str {
    namespace.map_or(DEFAULT_NAMESPACE, String::as_str)
}
