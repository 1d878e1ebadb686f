//! The status of objects: what follows from the last look, written to them whenever it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use interlock_core::bundle::Fragment;
use interlock_core::compile::Compiled;
use interlock_core::declared::Declared;
use interlock_core::model::{ClusterName, EngineId, Freshness, Shared, TargetId, Timestamp};
use interlock_core::status::{self, Place, Proxy, Said, Standing, World};
use interlock_crds::schema::Kind;
use interlock_crds::{Condition, ConditionStatus, Status};
use tokio::sync::watch;

use super::Events;
use super::rest::now;
use crate::store::{Key, Objects, Pieces, Rendered, Seen, Selector, Spec};

/// What status follows from.
#[derive(Debug)]
pub struct Look {
    /// When.
    pub at: Timestamp,
    /// The documents that it was at.
    pub declared: Shared<Declared>,
    /// The clusters in force.
    pub clusters: BTreeSet<ClusterName>,
    /// How far each engine's list can be believed.
    pub engines: BTreeMap<EngineId, Freshness>,
    /// What followed from them.
    pub compiled: Shared<Compiled>,
    /// What each proxy provably runs.
    pub proxies: BTreeMap<TargetId, Proxy>,
    /// The files of each proxy that is in step, piece by piece, where there are documents.
    pub fragments: BTreeMap<TargetId, Vec<Shared<Fragment>>>,
}

/// Where the loop says what it has seen; clones share one cell.
#[derive(Debug, Clone)]
pub struct Looks(Arc<watch::Sender<Option<Arc<Look>>>>);

impl Default for Looks {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Looks {
    /// Hands over the last look; what was not taken up yet is passed over.
    pub fn publish(&self, look: Look) {
        self.0.send_replace(Some(Arc::new(look)));
    }
}

/// Writes the status of objects for as long as anybody looks. A task of its own: nobody's change waits for it.
pub fn spawn(looks: &Looks, objects: Objects, events: Events) -> tokio::task::JoinHandle<()> {
    let mut looks = looks.0.subscribe();
    let mut changes = objects.watch(None).ok().map(|feed| feed.then);
    tokio::spawn(async move {
        loop {
            let changed = async {
                match &mut changes {
                    Some(changes) => changes.recv().await.map(drop).ok(),
                    None => None,
                }
            };
            tokio::select! {
                looked = looks.changed() => if looked.is_err() { return },
                Some(()) = changed => {}
            }
            let Some(look) = looks.borrow_and_update().clone() else { continue };
            let (objects, events) = (objects.clone(), events.clone());
            let written = tokio::task::spawn_blocking(move || write(&look, &objects, &events));
            if written.await.is_err() {
                return;
            }
        }
    })
}

fn write(look: &Look, objects: &Objects, events: &Events) {
    let kinds = [Kind::Route, Kind::ServiceCluster, Kind::Engine].into_iter();
    let all: Vec<Seen> = kinds.flat_map(|kind| objects.list(kind, None, &Selector::default()).1).collect();
    let world = World::new(&look.compiled, &look.proxies);
    let mut statuses = BTreeMap::new();
    for seen in all {
        let Some(mut standing) = standing(look, &world, &seen) else { continue };
        standing.conditions.extend(seen.stored.held().map(held));
        let key = seen.stored.key.clone();
        keep(look, &world, &seen, &standing, objects);
        let status = dated(standing, &seen, |said| tell(look.at, &key, said, events));
        statuses.insert(key, status);
    }
    objects.report(statuses);
}

/// What is true of an object; none while the last look was at another spec of it.
fn standing(look: &Look, world: &World<'_>, seen: &Seen) -> Option<Standing> {
    let id = &seen.stored.key.id;
    match &seen.stored.spec {
        Spec::Route(spec) => {
            let known = look.declared.routes.get(id).is_some_and(|known| known == spec);
            known.then(|| world.route(id, spec))
        }
        Spec::ServiceCluster(spec) => {
            let name = id.name().parse().ok()?;
            if seen.stored.origin().is_some() {
                let place = if look.clusters.contains(&name) { Place::Own } else { Place::Taken };
                return Some(world.cluster(&name, place));
            }
            let known = look.declared.clusters.get(&name).is_some_and(|known| known == spec);
            known.then(|| world.cluster(&name, Place::Document))
        }
        Spec::Engine(_) => {
            let engine = id.name().parse().ok()?;
            Some(status::engine(&engine, look.engines.get(&engine).copied()))
        }
    }
}

/// What is told of an object whose generation was brought back.
fn held(from: u64) -> Said {
    let message = format!(
        "generation {from} was brought back by `rollout undo`; an `apply` of the object or `rollout release` ends that"
    );
    Said { kind: "Held", status: ConditionStatus::True, reason: "Undone".to_owned(), message }
}

/// Keeps what proxies run of a generation, once all of them provably do.
fn keep(look: &Look, world: &World<'_>, seen: &Seen, standing: &Standing, objects: &Objects) {
    let runs = |said: &Said| said.kind == "Programmed" && said.status == ConditionStatus::True;
    if seen.stored.origin().is_some() || !standing.conditions.iter().any(runs) {
        return;
    }
    // A proxy that waits for something else is in step a moment later.
    let known = |name: &str| look.fragments.keys().any(|id| id.as_str() == name);
    if !standing.targets.iter().all(|target| known(&target.name)) {
        return;
    }
    objects.keep(&seen.stored.key, seen.stored.generation(), || {
        let pieces = standing.targets.iter().filter_map(|target| {
            let id: TargetId = target.name.parse().ok()?;
            let all = look.fragments.get(&id)?;
            let mine: Vec<_> = match &seen.stored.spec {
                Spec::Route(spec) => world.pieces(&id, spec, all),
                _ => all.iter().filter(|piece| piece.intents.is_empty()).collect(),
            };
            let fragments = mine.iter().map(|piece| (piece.name.clone(), piece.text.clone())).collect();
            Some((
                target.name.clone(),
                Pieces { digest: target.digest.clone().unwrap_or_default(), fragments },
            ))
        });
        Rendered { at: now(), targets: pieces.collect() }
    });
}

/// With generation and times, which move only where something changes.
fn dated(standing: Standing, seen: &Seen, changed: impl Fn(&Said)) -> Status {
    let generation = Some(seen.stored.generation());
    let before = seen.status.as_deref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let conditions = standing.conditions.into_iter().map(|said| {
        let known = before.iter().find(|condition| condition.kind == said.kind);
        let same = known.filter(|known| known.status == said.status);
        if known.is_none_or(|known| (known.status, &known.reason) != (said.status, &said.reason)) {
            changed(&said);
        }
        Condition {
            kind: said.kind.to_owned(),
            status: said.status,
            reason: said.reason,
            message: said.message,
            observed_generation: generation,
            last_transition_time: same.map_or_else(now, |known| known.last_transition_time.clone()),
        }
    });
    Status { observed_generation: generation, conditions: conditions.collect(), targets: standing.targets }
}

fn tell(at: Timestamp, key: &Key, said: &Said, events: &Events) {
    let word = match said.status {
        ConditionStatus::True => "",
        ConditionStatus::False => "not ",
        ConditionStatus::Unknown => "unknown whether ",
    };
    let warning = said.status != ConditionStatus::True;
    let message = format!("{word}{}: {}", said.kind, said.message);
    events.note(at, warning, &said.reason, &key.to_string(), &message);
}
