//! The envelope of every document: apiVersion, kind, metadata, spec and status, as Kubernetes has them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EngineSpec, RouteSpec, ServiceClusterSpec};

/// The namespace of a document that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// One document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Object<S> {
    /// The group and version: `interlock.dev/v1alpha1`.
    pub api_version: String,
    /// What it is: `Route`, `ServiceCluster` or `Engine`.
    pub kind: String,
    /// Its name, and whose it is.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
    /// What is. The operator writes it; in a file it is passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// A `Route` document.
pub type Route = Object<RouteSpec>;
/// A `ServiceCluster` document.
pub type ServiceCluster = Object<ServiceClusterSpec>;
/// An `Engine` document.
pub type Engine = Object<EngineSpec>;

/// A document's name and labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The name, unique among the documents of its kind in its namespace: lower-case letters, digits, `-`
    /// and `.`, at most 253 of them.
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"))]
    pub name: String,
    /// Keeps teams apart; none: `default`. Lower-case letters, digits and `-`, at most 63 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes of people and tools; they mean nothing to Interlock.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The write that it is as of. The operator counts; in a file it says which write may be replaced, and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// How often its spec has changed. The operator counts; in a file it is passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// When it was applied first, as RFC 3339 has it. The operator writes it; in a file it is passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
}

impl Metadata {
    /// The namespace, which has a default.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

/// What is true of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Status {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// One condition for each type.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The proxies that it is for, and what each provably runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetStatus>,
}

/// What of a document one proxy provably runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetStatus {
    /// The proxy.
    pub name: String,
    /// Whether it provably runs what the document asks for.
    pub programmed: bool,
    /// The digest of what it provably runs, all documents together; none: nothing is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it does not run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One thing that is true or not, in Kubernetes' shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// What it is about: `Accepted`, `ResolvedRefs`, `Ready`, `Programmed` …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one word of a closed list.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// The generation of the spec that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// When `status` last changed, as RFC 3339 has it.
    pub last_transition_time: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can say yet.
    Unknown,
}
