//! From one container's labels, environment and host name to its intents.

use std::collections::BTreeMap;

use interlock_crds::ServiceClusterSpec;

use super::host::Own;
use super::keys::PREFIX;
use super::owner;
use super::route::{self, Route};
use super::said::{Reader, Said};
use super::{Intent, Parsed, claims, data, labels};
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::model::{Container, Digest, EngineId, Owner, RouteName};

/// Reads what `container` asks for under the settings of one cluster. Total: whatever the container's
/// labels and environment hold, the answer is intents and findings.
///
/// Labels and data that the container's image carries (equal in key and value) count only where the
/// cluster trusts them. Whether the container counts at all, and how it is reached, is not asked here.
pub fn parse(engine: &EngineId, container: &Container, spec: &ServiceClusterSpec) -> Parsed {
    let subject = Subject::container(engine, container);
    let everything = Sources::everything(container);
    let counted = if spec.trust_image_labels { everything.clone() } else { Sources::own(container) };
    let mut parsed = read(&counted, &subject, engine, container, spec);
    if counted != everything {
        let with_image = read(&everything, &subject, engine, container, spec);
        if with_image.intents != parsed.intents {
            parsed.findings.push(not_trusted(&everything, &counted, &subject));
        }
    }
    claims::settle(&spec.claims, &subject, &mut parsed);
    parsed.findings.sort();
    parsed.findings.dedup();
    parsed
}

/// The labels and the data that count.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sources<'a> {
    labels: BTreeMap<&'a str, &'a str>,
    data: Option<&'a str>,
}

impl<'a> Sources<'a> {
    fn everything(container: &'a Container) -> Self {
        let labels = container.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let labels = labels.filter(|(key, _)| key.starts_with(PREFIX)).collect();
        // An empty variable is how compose files leave one out.
        Self { labels, data: container.data.as_deref().filter(|data| !data.trim().is_empty()) }
    }

    /// What the image does not carry: Docker merges its labels and environment into the container's.
    fn own(container: &'a Container) -> Self {
        let mut own = Self::everything(container);
        own.labels.retain(|key, value| container.image_labels.get(*key).map(String::as_str) != Some(value));
        own.data = own.data.filter(|data| container.image_data.as_deref() != Some(data));
        own
    }
}

fn not_trusted(everything: &Sources<'_>, counted: &Sources<'_>, subject: &Subject) -> Finding {
    let first = everything.labels.iter().find(|(key, _)| !counted.labels.contains_key(*key));
    let key = first.map_or(super::keys::DATA, |(key, _)| *key);
    let key = crate::finding::shown(key);
    let message = format!("`{key}` comes from the image, not from the container, and is not counted");
    let fix = format!("say it on the container itself, or set `trustImageLabels` on the cluster (`{key}`)");
    Finding::new(Verdict::Note, Reason::ImageNotTrusted, subject.clone().with_key(key), message).fix(fix)
}

fn read(
    sources: &Sources<'_>,
    subject: &Subject,
    engine: &EngineId,
    container: &Container,
    spec: &ServiceClusterSpec,
) -> Parsed {
    let mut findings = Vec::new();
    let mut labels = labels::read(&sources.labels, subject, &mut findings);
    let data = sources.data.map(|text| data::read(text, subject, &mut findings)).unwrap_or_default();
    for said in labels.named.values_mut() {
        take_over(said, &labels.unnamed);
    }
    let whose = {
        let reader = &mut Reader::new(vec![&labels.unnamed], None, subject, &mut findings);
        owner::owner(container, reader)
    };
    // Who names routes has said what is wanted: the container's host name adds none.
    let own = if labels.named.is_empty() { Own::of(container, spec) } else { Own::none() };
    let unnamed = Reader::new(vec![&labels.unnamed, &data], None, subject, &mut findings);
    let mut routes: Vec<(Option<RouteName>, Route)> = Vec::new();
    routes.extend(read_route(unnamed, &own, spec).map(|route| (None, route)));
    for (name, said) in &labels.named {
        let reader = Reader::new(vec![said], Some(name), subject, &mut findings);
        routes.extend(read_route(reader, &Own::none(), spec).map(|route| (Some(name.clone()), route)));
    }
    let intents = routes
        .into_iter()
        .map(|(name, route)| intent(engine, container, whose.clone(), name, route))
        .collect();
    Parsed { intents, findings }
}

fn read_route(mut reader: Reader<'_>, own: &Own, spec: &ServiceClusterSpec) -> Option<Route> {
    route::read(&mut reader, own, spec)
}

/// Gives a named route what is said for the whole container and not for the route itself.
fn take_over(said: &mut Said, unnamed: &Said) {
    for (setting, words) in unnamed.iter().filter(|(setting, _)| setting.of_container()) {
        said.entry(*setting).or_insert_with(|| words.clone());
    }
}

fn intent(
    engine: &EngineId,
    container: &Container,
    owner: Owner,
    name: Option<RouteName>,
    route: Route,
) -> Intent {
    let mut intent = Intent {
        digest: Digest::of([]),
        engine: engine.clone(),
        container: container.id.clone(),
        name: container.name.clone(),
        owner,
        route: name,
        document: None,
        fixed: None,
        hosts: route.hosts.names,
        path: route.path,
        rewrite: route.rewrite,
        port: route.port,
        network: route.network,
        by_container_hostname: route.hosts.by_container_hostname,
        settings: route.settings,
        warm: route.warm,
        check: route.check,
        readiness: route.readiness,
    };
    intent.digest = digest(&intent);
    intent
}

/// Covers what is asked for, not who asks: the same wish of another container has the same digest.
pub(crate) fn digest(intent: &Intent) -> Digest {
    // Serialising plain data with text keys cannot fail.
    let mut wish = serde_json::to_value(intent).unwrap_or_default();
    if let Some(fields) = wish.as_object_mut() {
        for identity in ["digest", "engine", "container", "name", "owner", "document"] {
            fields.remove(identity);
        }
    }
    Digest::of([wish.to_string().as_bytes()])
}
