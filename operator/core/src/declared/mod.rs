//! Declared: what documents ask for, read into the same intents as labels.

mod fields;
mod read;

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{RouteSpec, ServiceClusterSpec};
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Subject};
use crate::intent::Intent;
use crate::model::{ClusterName, Container, DocumentId, EngineId, EngineView, PathPrefix, Shared};

pub use fields::{Cost, FIELDS, Field, Support, support};

/// The documents that were found, and what is wrong with those that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Declared {
    /// `Route` documents.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<DocumentId, Shared<RouteSpec>>,
    /// Those of them that were applied; the others are from files.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub applied: BTreeSet<DocumentId>,
    /// `ServiceCluster` documents.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<ClusterName, Shared<ServiceClusterSpec>>,
    /// Those of them that were applied.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub applied_clusters: BTreeSet<ClusterName>,
    /// What is wrong with documents that are not among them, or not as they now are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Finding>,
}

impl Declared {
    /// Whether nothing was found at all.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.clusters.is_empty() && self.faults.is_empty()
    }

    /// Whether a document that was applied is for a cluster, or is the cluster.
    pub fn applied_for(&self, cluster: &ClusterName) -> bool {
        let routes = self.applied.iter().filter_map(|id| self.routes.get(id));
        let here = |parents: &[interlock_crds::ParentRef]| {
            parents.is_empty() || parents.iter().any(|parent| parent.name == cluster.as_str())
        };
        self.applied_clusters.contains(cluster) || routes.into_iter().any(|route| here(&route.parent_refs))
    }
}

/// What one document asks of one cluster.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) id: DocumentId,
    /// The engine of whom no engine knows: fixed addresses, and nobody.
    pub(crate) engine: EngineId,
    pub(crate) view: EngineView,
    pub(crate) rules: Vec<Rule>,
    pub(crate) findings: Vec<Finding>,
}

/// One path of a document's hosts.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) path: PathPrefix,
    /// Whether nobody may serve it: what protects it or says where to cannot be done, or clients are sent elsewhere.
    pub(crate) closed: bool,
    pub(crate) backends: Vec<Backend>,
    /// Stands for the rule where no backend does: the host is known, and requests are answered 503.
    pub(crate) nobody: Backend,
}

/// One reference of a rule and what it asks for.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The field that says it, as `spec.rules[0].backendRefs[1]`.
    pub(crate) field: String,
    pub(crate) named: Named,
    /// What is asked for of each container that it names.
    pub(crate) intent: Intent,
}

/// Whom a reference names.
#[derive(Debug)]
pub(crate) enum Named {
    /// The container of this name.
    Container(String),
    /// Every container with these labels.
    Labels(BTreeMap<String, String>),
    /// The containers of a compose service.
    Service { project: String, name: String },
    /// Nobody whom an engine knows; this stands for it.
    Fixed(Box<Container>),
}

/// Reads what a `Route` asks of a cluster with these settings. Total, as the reading of labels is.
pub(crate) fn read(id: &DocumentId, route: &RouteSpec, cluster: &ServiceClusterSpec) -> Reading {
    read::Reader::new(id, route, cluster).read()
}

/// What findings on a document are about.
pub(crate) fn subject(id: &DocumentId) -> Subject {
    Subject { document: Some(title(id)), ..Subject::default() }
}

/// A `ServiceCluster` as people name it.
pub(crate) fn cluster_title(name: &ClusterName) -> String {
    format!("ServiceCluster {name}")
}

/// A `Route` as people name it.
pub(crate) fn title(id: &DocumentId) -> String {
    format!("Route {id}")
}
