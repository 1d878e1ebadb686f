//! What is stored: one object for each kind, namespace and name, and the changes that come to them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use interlock_core::model::{DocumentId, NameError, Shared};
use interlock_crds::schema::Kind;
use interlock_crds::{API_VERSION, EngineSpec, Metadata, Object, RouteSpec, ServiceClusterSpec, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::history::{History, Revision};
use crate::manifest::Body;

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub id: DocumentId,
}

impl Key {
    /// The key of a kind in a namespace; what has no namespace has the default one.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self { kind, id: DocumentId::new(namespace, name)? })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.namespaced() {
            return write!(f, "{} {}", self.kind.as_str(), self.id);
        }
        write!(f, "{} {}", self.kind.as_str(), self.id.name())
    }
}

/// What an object wants, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Spec {
    /// Of a `Route`.
    Route(Shared<RouteSpec>),
    /// Of a `ServiceCluster`.
    ServiceCluster(Shared<ServiceClusterSpec>),
    /// Of an `Engine`.
    Engine(Shared<EngineSpec>),
}

/// A document as it is written down and answered.
pub type Written = Object<Spec>;

/// An object of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub key: Key,
    /// Its name, labels, version and generation.
    pub metadata: Metadata,
    /// What it wants.
    pub spec: Spec,
}

impl Stored {
    /// The write that it is as of.
    pub fn revision(&self) -> u64 {
        self.metadata.resource_version.as_ref().and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// How often its spec has changed.
    pub fn generation(&self) -> u64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// Where it comes from, if it was not applied.
    pub fn origin(&self) -> Option<&str> {
        self.metadata.annotations.get(super::ORIGIN).map(String::as_str)
    }

    /// The generation that was brought back and is held, if one is.
    pub fn held(&self) -> Option<u64> {
        self.metadata.annotations.get(super::HELD)?.parse().ok()
    }

    /// As a document.
    pub fn written(&self, status: Option<Status>) -> Written {
        Object {
            api_version: API_VERSION.to_owned(),
            kind: self.key.kind.as_str().to_owned(),
            metadata: self.metadata.clone(),
            spec: self.spec.clone(),
            status,
        }
    }
}

impl From<Body> for (Metadata, Spec) {
    fn from(body: Body) -> Self {
        match body {
            Body::Route(route) => (route.metadata, Spec::Route(route.spec.into())),
            Body::ServiceCluster(cluster) => (cluster.metadata, Spec::ServiceCluster(cluster.spec.into())),
            Body::Engine(engine) => (engine.metadata, Spec::Engine(engine.spec.into())),
        }
    }
}

/// Everything that is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The number of the last write.
    pub revision: u64,
    /// The objects.
    pub objects: BTreeMap<Key, Arc<Stored>>,
    /// What they and those before them have said.
    pub history: History,
}

/// Changes that are made together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The number of the last write in it.
    pub revision: u64,
    /// When, as RFC 3339 has it.
    pub at: String,
    /// What changes, in the order of its writes.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An object once was as it is here; nothing changes.
    Past(Arc<Revision>),
    /// An object is there, as it is here.
    Put(Arc<Stored>),
    /// It is gone.
    Delete(Key),
}

impl Content {
    /// Everything as one batch.
    pub fn whole(&self) -> Batch {
        let past = self.history.all().into_iter().map(Change::Past);
        let changes = past.chain(self.objects.values().cloned().map(Change::Put)).collect();
        Batch { revision: self.revision, at: String::new(), changes }
    }

    /// Takes a batch in.
    pub fn take(&mut self, batch: &Batch) {
        self.revision = batch.revision;
        for change in &batch.changes {
            match change {
                Change::Past(revision) => self.history.note(Revision::clone(revision)),
                Change::Put(stored) => {
                    self.history.note(Revision::new(Arc::clone(stored), batch.at.clone()));
                    self.objects.insert(stored.key.clone(), Arc::clone(stored));
                }
                Change::Delete(key) => {
                    self.objects.remove(key);
                }
            }
        }
    }
}

/// A batch as it lies on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BatchForm {
    revision: u64,
    #[serde(default)]
    at: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past: Vec<PastForm>,
    #[serde(default)]
    put: Vec<Value>,
    #[serde(default)]
    delete: Vec<KeyForm>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PastForm {
    at: String,
    object: Value,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyForm {
    kind: String,
    namespace: String,
    name: String,
}

/// Why a batch of a file cannot be taken.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is none.
    Form(String),
    /// A document in it is not understood.
    Document(String, String),
}

impl Batch {
    /// As JSON on one line.
    pub(super) fn to_line(&self) -> Result<String, serde_json::Error> {
        let mut form = BatchForm { revision: self.revision, at: self.at.clone(), ..BatchForm::default() };
        for change in &self.changes {
            match change {
                Change::Past(revision) => form.past.push(PastForm {
                    at: revision.at.clone(),
                    object: serde_json::to_value(revision.stored.written(None))?,
                }),
                Change::Put(stored) => form.put.push(serde_json::to_value(stored.written(None))?),
                Change::Delete(key) => form.delete.push(KeyForm {
                    kind: key.kind.as_str().to_owned(),
                    namespace: key.id.namespace().to_owned(),
                    name: key.id.name().to_owned(),
                }),
            }
        }
        serde_json::to_string(&form)
    }

    /// The batch of a line.
    pub(super) fn from_line(line: &str) -> Result<Self, Unread> {
        let form: BatchForm = serde_json::from_str(line).map_err(|error| Unread::Form(error.to_string()))?;
        let mut changes = Vec::new();
        for PastForm { at, object } in form.past {
            changes.push(Change::Past(Arc::new(Revision::new(Arc::new(stored(object)?), at))));
        }
        for value in form.put {
            changes.push(Change::Put(Arc::new(stored(value)?)));
        }
        for KeyForm { kind, namespace, name } in form.delete {
            let known = Kind::of(&kind).ok_or_else(|| Unread::Form(format!("there is no kind `{kind}`")))?;
            let key = Key::new(known, &namespace, &name).map_err(|error| Unread::Form(error.to_string()))?;
            changes.push(Change::Delete(key));
        }
        Ok(Self { revision: form.revision, at: form.at, changes })
    }
}

fn stored(value: Value) -> Result<Stored, Unread> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (word(&value["kind"]), word(&value["metadata"]["name"]));
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or(interlock_crds::DEFAULT_NAMESPACE);
    let title = format!("{kind} {namespace}/{name}");
    let bad = |why: String| Unread::Document(title.clone(), why);
    let kind = Kind::of(&kind).ok_or_else(|| bad("there is no such kind".to_owned()))?;
    let key = Key::new(kind, namespace, &name).map_err(|error| bad(error.to_string()))?;
    let (metadata, spec) = match kind {
        Kind::Route => typed::<RouteSpec>(value).map(|(meta, spec)| (meta, Spec::Route(spec))),
        Kind::ServiceCluster => {
            typed::<ServiceClusterSpec>(value).map(|(meta, spec)| (meta, Spec::ServiceCluster(spec)))
        }
        Kind::Engine => typed::<EngineSpec>(value).map(|(meta, spec)| (meta, Spec::Engine(spec))),
        Kind::Configuration => return Err(bad("it is no object".to_owned())),
    }
    .map_err(|error| bad(error.to_string()))?;
    Ok(Stored { key, metadata, spec })
}

fn typed<S: serde::de::DeserializeOwned>(value: Value) -> Result<(Metadata, Shared<S>), serde_json::Error> {
    let object: Object<S> = serde_json::from_value(value)?;
    Ok((object.metadata, object.spec.into()))
}
