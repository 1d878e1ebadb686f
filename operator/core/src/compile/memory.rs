//! What was read of each container the last time, and what followed from all of them, so that a thousand labels are
//! not parsed and compiled because one changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use interlock_crds::{RouteSpec, ServiceClusterSpec};

use super::again::Last;
use super::select::label;
use crate::declared::{self, Reading};
use crate::finding::Finding;
use crate::intent::{self, Intent};
use crate::model::{ClusterName, Container, ContainerId, DocumentId, EngineId, Shared};

/// What containers asked for, by cluster. Nothing follows from it that would not follow without.
#[derive(Debug, Default)]
pub struct Memory {
    clusters: BTreeMap<ClusterName, Cluster>,
    pub(super) last: Option<Last>,
}

#[derive(Debug, Default)]
struct Cluster {
    spec: Option<ServiceClusterSpec>,
    read: BTreeMap<(EngineId, ContainerId), Entry>,
    documents: BTreeMap<DocumentId, (Shared<RouteSpec>, Arc<Reading>)>,
}

#[derive(Debug)]
struct Entry {
    container: Shared<Container>,
    read: Arc<Read>,
    /// Whether this compile has asked for it.
    asked: bool,
}

/// What was read of one container.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) intents: Vec<Arc<Asked>>,
    pub(super) findings: Vec<Finding>,
}

/// An intent with its hosts as people write them.
#[derive(Debug)]
pub(super) struct Asked {
    intent: Intent,
    /// `host/path` for each host.
    pub(super) labels: Vec<String>,
}

impl Asked {
    /// The first host with the path.
    pub(super) fn primary(&self) -> &str {
        self.labels.first().map_or("", String::as_str)
    }
}

impl From<Intent> for Asked {
    fn from(intent: Intent) -> Self {
        let labels = intent.hosts.iter().map(|host| label(host, &intent.path)).collect();
        Self { intent, labels }
    }
}

impl Deref for Asked {
    type Target = Intent;
    fn deref(&self) -> &Intent {
        &self.intent
    }
}

/// The part of one cluster, during one compile.
pub(super) struct OfCluster<'m>(&'m mut Cluster);

impl Memory {
    /// What is remembered under these settings of a cluster.
    pub(super) fn of(&mut self, name: &ClusterName, spec: &ServiceClusterSpec) -> OfCluster<'_> {
        let cluster = self.clusters.entry(name.clone()).or_default();
        if cluster.spec.as_ref() != Some(spec) {
            *cluster = Cluster { spec: Some(spec.clone()), ..Cluster::default() };
        }
        OfCluster(cluster)
    }

    /// Forgets everybody who was not asked for.
    pub(super) fn forget(&mut self) {
        self.clusters.retain(|_, cluster| {
            cluster.read.retain(|_, entry| std::mem::take(&mut entry.asked));
            !(cluster.read.is_empty() && cluster.documents.is_empty())
        });
    }

    /// The same, where only these could be asked for.
    pub(super) fn forget_among(&mut self, containers: &BTreeSet<(EngineId, ContainerId)>) {
        for key in containers {
            for cluster in self.clusters.values_mut() {
                let asked = cluster.read.get_mut(key).is_some_and(|entry| std::mem::take(&mut entry.asked));
                if !asked {
                    cluster.read.remove(key);
                }
            }
        }
    }

    /// What was read of every container, cluster by cluster.
    pub(super) fn everybody(&self) -> impl Iterator<Item = (&ContainerId, &Read)> {
        let all = self.clusters.values().flat_map(|cluster| &cluster.read);
        all.map(|((_, container), entry)| (container, &*entry.read))
    }
}

impl OfCluster<'_> {
    /// What documents ask of the cluster; those that are gone are forgotten.
    pub(super) fn documents<'d>(
        &mut self,
        documents: impl Iterator<Item = (&'d DocumentId, &'d Shared<RouteSpec>)>,
        spec: &ServiceClusterSpec,
    ) -> Vec<Arc<Reading>> {
        let mut before = std::mem::take(&mut self.0.documents);
        for (id, route) in documents {
            let known = before.remove(id).filter(|(known, _)| known.is(route));
            let read = known.unwrap_or_else(|| (route.clone(), Arc::new(declared::read(id, route, spec))));
            self.0.documents.insert(id.clone(), read);
        }
        self.0.documents.values().map(|(_, reading)| Arc::clone(reading)).collect()
    }

    /// As [`intent::parse`].
    pub(super) fn parse(
        &mut self,
        engine: &EngineId,
        container: &Shared<Container>,
        spec: &ServiceClusterSpec,
    ) -> Arc<Read> {
        let key = (engine.clone(), container.id.clone());
        if let Some(entry) = self.0.read.get_mut(&key).filter(|entry| entry.container.is(container)) {
            entry.asked = true;
            return Arc::clone(&entry.read);
        }
        let parsed = intent::parse(engine, container, spec);
        let intents = parsed.intents.into_iter().map(|intent| Arc::new(intent.into())).collect();
        let read = Arc::new(Read { intents, findings: parsed.findings });
        let entry = Entry { container: container.clone(), read: Arc::clone(&read), asked: true };
        self.0.read.insert(key, entry);
        read
    }
}
