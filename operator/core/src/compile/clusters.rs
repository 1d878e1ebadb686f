//! Clusters: those of the configuration and those of documents, as one set of settings.

use std::borrow::Cow;

use interlock_crds::ServiceClusterSpec;

use super::Config;
use crate::declared::{self, Declared};
use crate::finding::{Finding, Reason, Subject, Verdict, shown};
use crate::model::ClusterName;

impl Config {
    /// The settings with the clusters that documents declare. What the configuration has written down stays as it is;
    /// an implicit cluster gives way to a document of its name, or to one that takes every proxy of its kind.
    pub fn with(&self, declared: &Declared) -> Cow<'_, Self> {
        if declared.clusters.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut joined = self.clone();
        for (name, spec) in &declared.clusters {
            if self.clusters.contains_key(name) && !self.implicit.contains(name) {
                continue;
            }
            joined.clusters.insert(name.clone(), ServiceClusterSpec::clone(spec));
            joined.implicit.remove(name);
            joined.documents.insert(name.clone());
        }
        let takers = joined.documents.iter().filter_map(|name| joined.clusters.get_key_value(name));
        let takers = takers.filter(|(_, spec)| spec.proxies.is_empty());
        let takers: Vec<_> = takers.map(|(name, spec)| (name.clone(), spec.proxy)).collect();
        for name in std::mem::take(&mut joined.implicit) {
            let kind = joined.clusters.get(&name).map(|spec| spec.proxy);
            match takers.iter().find(|(_, taken)| Some(*taken) == kind) {
                None => {
                    joined.implicit.insert(name);
                }
                Some((taker, _)) => {
                    joined.clusters.remove(&name);
                    if joined.embedded.as_ref() == Some(&name) {
                        joined.embedded = Some(taker.clone());
                    }
                }
            }
        }
        Cow::Owned(joined)
    }

    /// Clusters in the order in which they may take a proxy: what the configuration says goes before any document.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&ClusterName, &ServiceClusterSpec)> {
        let of = |documents: bool| {
            self.clusters.iter().filter(move |(name, _)| self.documents.contains(*name) == documents)
        };
        of(false).chain(of(true))
    }
}

/// Tells the documents of clusters what of them does not count; `config` is what they were joined to.
pub(super) fn documents(declared: &Declared, config: &Config, findings: &mut Vec<Finding>) {
    for (name, spec) in &declared.clusters {
        if !config.documents.contains(name) {
            let message = format!("the configuration has a cluster `{name}` of its own, which counts");
            let fix = "give the document another name, or take the cluster out of the configuration";
            findings.push(overridden(Verdict::Refused, name, "metadata.name", message, fix));
            continue;
        }
        if spec.proxies.is_empty() {
            let any = |other: &ServiceClusterSpec| other.proxies.is_empty();
            if let Some(other) = before(config, name, spec, any) {
                let kind = spec.proxy.as_str();
                let message =
                    format!("every {kind} proxy that no cluster names belongs to the cluster `{other}`");
                let fix = format!("name the proxies of this one: `proxies: [{kind}-1]`");
                findings.push(overridden(Verdict::Degraded, name, "spec.proxies", message, &fix));
            }
        }
        for (at, proxy) in spec.proxies.iter().enumerate() {
            if let Some(other) = before(config, name, spec, |other| other.proxies.contains(proxy)) {
                let message =
                    format!("`{}` belongs to the cluster `{other}`, which names it too", shown(proxy));
                let field = format!("spec.proxies[{at}]");
                let fix = format!("take `{}` out of one of them", shown(proxy));
                findings.push(overridden(Verdict::Degraded, name, &field, message, &fix));
            }
        }
    }
}

/// The cluster of the same kind that takes what this one would, because it goes before.
fn before<'c>(
    config: &'c Config,
    name: &ClusterName,
    spec: &ServiceClusterSpec,
    takes: impl Fn(&ServiceClusterSpec) -> bool,
) -> Option<&'c ClusterName> {
    let mut earlier = config.in_order().take_while(|(other, _)| *other != name);
    earlier.find(|(_, other)| other.proxy == spec.proxy && takes(other)).map(|(other, _)| other)
}

fn overridden(verdict: Verdict, name: &ClusterName, field: &str, message: String, fix: &str) -> Finding {
    let document = Some(declared::cluster_title(name));
    let subject = Subject { document, cluster: Some(name.clone()), ..Subject::default() }.with_key(field);
    Finding::new(verdict, Reason::Overridden, subject, message).fix(fix)
}
