//! The engine's containers as a state machine: events, lists and inspections in, a snapshot and "look at this
//! one" out. No IO and no clock: the caller says what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use interlock_core::model::{
    Container, ContainerId, ContainerState, Departed, EngineView, Freshness, Health, Shared, Timestamp,
};
use tokio::time::Instant;

use super::convert::{Inspected, Listed, has_routing_labels, is_alive};
use super::event::{Event, Happening};
use super::signal;
use crate::source::EngineSnapshot;

/// A container that lives this much longer than its stop timeout was not stopped after all.
const STOP_MARGIN: Duration = Duration::from_secs(5);
/// A run that ended is remembered this long at most: longer than any route waits for a successor.
const REMEMBERED_MS: u64 = 10 * 60_000;
/// So many runs that ended are remembered at most; beyond them the oldest are forgotten.
const MOST_REMEMBERED: usize = 1_000;
/// A start event follows the start itself; a later one belongs to another run.
const START_LAG_MS: u64 = 10_000;

/// Everything that is known of one engine.
#[derive(Debug, Default)]
pub(super) struct State {
    known: BTreeMap<ContainerId, Known>,
    /// Inspections under way.
    looking: BTreeMap<ContainerId, Looking>,
    /// While a list is under way: whom an event or an inspection told of in the meantime, so that the
    /// list's older word about them does not count.
    touched: Option<BTreeSet<ContainerId>>,
    /// Inspections that must end before the view is fresh.
    awaited: BTreeSet<ContainerId>,
    /// Runs that ended lately.
    departed: BTreeMap<ContainerId, Departed>,
    listed: bool,
    freshness: Freshness,
    fault: Option<String>,
    newest_event: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct Known {
    container: Shared<Container>,
    /// Whether it was ever inspected, so that the container is complete.
    complete: bool,
    stop_timeout: Duration,
    /// Since its stop signal: until when it has time to end.
    draining: Option<Instant>,
    stop_requested: bool,
    was_healthy: bool,
}

#[derive(Debug, Default)]
struct Looking {
    /// What happened since the question was sent: the answer may be older or newer than each.
    meanwhile: Vec<Event>,
    /// The event that is visible only with the answer.
    because: Option<Timestamp>,
}

/// A moment, by both clocks: one for what is waited for, one for what others shall read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) wall: Timestamp,
}

/// What a list changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Synced {
    /// Whom to inspect.
    pub(super) look: Vec<ContainerId>,
    /// How many changes no event had told of.
    pub(super) missed: usize,
}

impl State {
    /// Takes in one event; some: inspect this container now.
    pub(super) fn reduce(&mut self, event: &Event, now: Moment) -> Option<ContainerId> {
        // What befell a container that was never seen says nothing that its entry in the list would undo.
        let tells = self.known.contains_key(&event.id)
            || matches!(event.what, Happening::Started | Happening::Destroyed);
        if let Some(touched) = self.touched.as_mut().filter(|_| tells) {
            touched.insert(event.id.clone());
        }
        if let Some(looking) = self.looking.get_mut(&event.id) {
            looking.meanwhile.push(event.clone());
            self.apply(event, now);
            return None;
        }
        if self.apply(event, now) {
            self.begin_look(&event.id, Some(event.at));
            return Some(event.id.clone());
        }
        None
    }

    /// Applies what an event tells by itself; true if only an inspection can tell the rest.
    fn apply(&mut self, event: &Event, now: Moment) -> bool {
        if event.what == Happening::Destroyed {
            if let Some(known) = self.known.remove(&event.id) {
                self.depart(known, now);
                self.note(event.at);
            }
            return false;
        }
        let Some(known) = self.known.get_mut(&event.id) else {
            // Unknown: it matters once it runs.
            return event.what == Happening::Started;
        };
        let container = &known.container;
        let alive = is_alive(container.state);
        if event.what == Happening::Started {
            let this_run =
                alive && known.complete && event.at.0 <= container.started.0.saturating_add(START_LAG_MS);
            return !this_run;
        }
        if let Happening::Renamed(name) = &event.what {
            known.container.change().name.clone_from(name);
            self.note(event.at);
            return false;
        }
        // Of an earlier run, or of one that has ended.
        if !alive || event.at < container.started {
            return false;
        }
        match &event.what {
            Happening::Signalled(number) => {
                if *number != signal::KILL && *number != signal::stop(&container.stop_signal) {
                    return false;
                }
                known.stop_requested = true;
                known.draining = Some(now.instant + known.stop_timeout + STOP_MARGIN);
            }
            Happening::Died { code } => {
                let run = known.clone();
                known.ended(ContainerState::Exited, *code);
                self.depart(run, now);
            }
            Happening::Paused => known.container.change().state = ContainerState::Paused,
            Happening::Unpaused => known.container.change().state = ContainerState::Running,
            Happening::Health(health) => {
                known.container.change().health = *health;
                known.was_healthy |= *health == Health::Healthy;
            }
            Happening::Disconnected(network) => {
                known.container.change().networks.remove(network);
            }
            Happening::Connected => return true,
            Happening::Started | Happening::Destroyed | Happening::Renamed(_) => return false,
        }
        self.note(event.at);
        false
    }

    fn note(&mut self, at: Timestamp) {
        self.newest_event = self.newest_event.max(Some(at));
    }

    fn begin_look(&mut self, id: &ContainerId, because: Option<Timestamp>) {
        self.looking.insert(id.clone(), Looking { meanwhile: Vec::new(), because });
    }

    /// Takes in an inspection's answer: none if the container does not exist any more. Some: look again,
    /// for something happened in the meantime that the answer may not show.
    pub(super) fn looked(
        &mut self,
        id: &ContainerId,
        answer: Option<Inspected>,
        now: Moment,
    ) -> Option<ContainerId> {
        let looking = self.looking.remove(id).unwrap_or_default();
        self.awaited.remove(id);
        if let Some(touched) = &mut self.touched {
            touched.insert(id.clone());
        }
        let Some(answer) = answer else {
            if let Some(known) = self.known.remove(id) {
                self.depart(known, now);
            }
            return None;
        };
        self.learn(answer, now);
        if let Some(at) = looking.because {
            self.note(at);
        }
        let mut again = false;
        for event in &looking.meanwhile {
            again |= self.apply(event, now);
        }
        if again {
            self.begin_look(id, looking.meanwhile.last().map(|event| event.at));
            return Some(id.clone());
        }
        None
    }

    /// An inspection that the engine refused: what the list told must do until the next one.
    pub(super) fn not_seen(&mut self, id: &ContainerId) {
        self.looking.remove(id);
        self.awaited.remove(id);
    }

    fn learn(&mut self, answer: Inspected, now: Moment) {
        let Inspected { mut container, stop_timeout, image_id: _ } = answer;
        let before = self.known.remove(&container.id);
        let same_run = before.as_ref().is_some_and(|before| before.container.started == container.started);
        let (mut draining, mut stop_requested, mut was_healthy) =
            (None, false, container.health == Health::Healthy);
        if let Some(before) = before.as_ref().filter(|_| same_run) {
            draining = before.draining.filter(|_| is_alive(container.state));
            stop_requested = before.stop_requested;
            was_healthy |= before.was_healthy;
        }
        if let Some(before) = before.filter(|_| !same_run || !is_alive(container.state)) {
            self.depart(before, now);
        }
        container.stopped_by_request = stop_requested && !is_alive(container.state);
        let known = Known {
            complete: true,
            stop_timeout: Duration::from_secs(stop_timeout),
            draining,
            stop_requested,
            was_healthy,
            container: container.into(),
        };
        self.known.insert(known.container.id.clone(), known);
    }

    /// A list is about to be asked for.
    pub(super) fn listing(&mut self) {
        self.touched = Some(BTreeSet::new());
    }

    /// Takes in a list. `anew`: nothing was followed before it (first contact, or a reconnect), so every
    /// container that may serve is inspected; else only those that differ.
    pub(super) fn sync(&mut self, list: Vec<Listed>, anew: bool, now: Moment) -> Synced {
        let touched = self.touched.take().unwrap_or_default();
        let present: BTreeSet<ContainerId> = list.iter().map(|entry| entry.id.clone()).collect();
        let gone: Vec<ContainerId> = self.known.keys().filter(|id| !present.contains(*id)).cloned().collect();
        let mut synced = Synced::default();
        for id in gone.into_iter().filter(|id| !touched.contains(id)) {
            synced.missed += 1;
            if let Some(known) = self.known.remove(&id) {
                self.depart(known, now);
            }
        }
        self.forget(now);
        for entry in list {
            let id = entry.id.clone();
            if touched.contains(&id) || self.looking.contains_key(&id) {
                // Told of later than the list; but a first contact must still see it once.
                let unseen = anew && !self.looking.contains_key(&id) && self.known.contains_key(&id);
                if unseen {
                    synced.look.push(id);
                }
                continue;
            }
            let look = self.compare(entry, &mut synced.missed, now);
            let worth = self.known.get(&id).is_some_and(Known::may_matter);
            if worth && (look || anew) {
                synced.look.push(id);
            }
        }
        for id in &synced.look {
            self.begin_look(id, None);
        }
        if anew {
            self.awaited = self.looking.keys().cloned().collect();
        }
        self.listed = true;
        synced
    }

    /// Takes over what a list's entry tells by itself; true if it must be inspected.
    fn compare(&mut self, entry: Listed, missed: &mut usize, now: Moment) -> bool {
        let Some(known) = self.known.get_mut(&entry.id) else {
            let look = is_alive(entry.state) || has_routing_labels(&entry.labels);
            // A created container is nobody's miss: no event of it is asked for.
            *missed += usize::from(is_alive(entry.state));
            let known = Known {
                container: entry.into_container().into(),
                complete: false,
                stop_timeout: Duration::ZERO,
                draining: None,
                stop_requested: false,
                was_healthy: false,
            };
            self.known.insert(known.container.id.clone(), known);
            return look;
        };
        if known.container.name != entry.name {
            known.container.change().name = entry.name;
        }
        if !is_alive(entry.state) {
            let run = is_alive(known.container.state).then(|| known.clone());
            let container = &mut known.container;
            if run.is_some() {
                *missed += 1;
                known.ended(entry.state, entry.exit_code);
            } else {
                let exit_code = entry.exit_code.or(container.exit_code);
                if (container.state, container.exit_code) != (entry.state, exit_code) {
                    let container = known.container.change();
                    (container.state, container.exit_code) = (entry.state, exit_code);
                }
            }
            let look = !known.complete && has_routing_labels(&known.container.labels);
            if let Some(run) = run {
                self.depart(run, now);
            }
            return look;
        }
        let container = &mut known.container;
        let moved = container.networks != entry.networks || container.published != entry.published;
        if !is_alive(container.state) || moved {
            *missed += 1;
            return true;
        }
        let runs = entry.state == ContainerState::Running;
        let health = if runs { entry.health } else { container.health };
        if (container.state, container.health) != (entry.state, health) {
            let container = known.container.change();
            (container.state, container.health) = (entry.state, health);
        }
        if runs {
            known.was_healthy |= entry.health == Health::Healthy;
        }
        !known.complete
    }

    /// Remembers a run that has ended.
    fn depart(&mut self, known: Known, now: Moment) {
        let Known { mut container, complete, stop_requested, .. } = known;
        if !complete || !is_alive(container.state) {
            return;
        }
        container.change().stopped_by_request = stop_requested;
        self.departed.insert(container.id.clone(), Departed { at: now.wall, container });
        self.forget(now);
    }

    /// Forgets runs that ended long ago, and the oldest of too many.
    fn forget(&mut self, now: Moment) {
        let since = now.wall.0.saturating_sub(REMEMBERED_MS);
        self.departed.retain(|_, gone| gone.at.0 >= since);
        while self.departed.len() > MOST_REMEMBERED
            && let Some(oldest) = self.departed.iter().min_by_key(|(_, gone)| gone.at)
        {
            let oldest = oldest.0.clone();
            self.departed.remove(&oldest);
        }
    }

    /// The engine cannot be followed: what is known stays, and says how old it is.
    pub(super) fn lost(&mut self, since: Timestamp, fault: String) {
        self.abandon();
        if self.freshness == Freshness::Fresh {
            self.freshness = Freshness::Stale { since };
        }
        self.fault = Some(fault);
    }

    /// Questions under way will have no answer.
    pub(super) fn abandon(&mut self) {
        self.looking.clear();
        self.awaited.clear();
        self.touched = None;
        self.listed = false;
    }

    /// Declares the view fresh once the list and every awaited inspection are in; true if that happened now.
    pub(super) fn settle(&mut self) -> bool {
        let settled = self.listed && self.awaited.is_empty();
        if settled && (self.freshness != Freshness::Fresh || self.fault.is_some()) {
            self.freshness = Freshness::Fresh;
            self.fault = None;
            return true;
        }
        false
    }

    /// When the next container runs out of time to end.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.known
            .iter()
            .filter(|(id, _)| !self.looking.contains_key(*id))
            .filter_map(|(_, known)| known.draining)
            .min()
    }

    /// Containers that were told to stop and did not in time: they serve again, and are looked at.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<ContainerId> {
        let mut look = Vec::new();
        for (id, known) in &mut self.known {
            if known.draining.is_some_and(|deadline| deadline <= now) && !self.looking.contains_key(id) {
                known.draining = None;
                known.stop_requested = false;
                look.push(id.clone());
            }
        }
        for id in &look {
            self.begin_look(id, None);
        }
        look
    }

    /// The snapshot for everybody else.
    pub(super) fn snapshot(&self, address: Option<IpAddr>) -> EngineSnapshot {
        // Alive but never inspected: half a container would make half a route.
        let shown =
            || self.known.iter().filter(|(_, known)| known.complete || !is_alive(known.container.state));
        let marked = |mark: fn(&Known) -> bool| {
            shown().filter(|(_, known)| mark(known)).map(|(id, _)| id.clone()).collect::<BTreeSet<_>>()
        };
        EngineSnapshot {
            view: EngineView {
                freshness: self.freshness,
                address,
                containers: shown().map(|(id, known)| (id.clone(), known.container.clone())).collect(),
                departed: self.departed.clone(),
            },
            draining: marked(|known| known.draining.is_some()),
            was_healthy: marked(|known| known.was_healthy),
            newest_event: self.newest_event,
            fault: self.fault.clone(),
        }
    }
}

impl Known {
    fn ended(&mut self, state: ContainerState, code: Option<i64>) {
        let container = self.container.change();
        container.state = state;
        container.exit_code = code;
        container.health = Health::None;
        container.stopped_by_request = self.stop_requested;
        container.published.clear();
        for attachment in container.networks.values_mut() {
            (attachment.ipv4, attachment.ipv6, attachment.gateway) = (None, None, None);
        }
        self.draining = None;
        self.was_healthy = false;
    }

    /// Whether an inspection could tell anything that a route or a proxy hangs on.
    fn may_matter(&self) -> bool {
        is_alive(self.container.state) || has_routing_labels(&self.container.labels)
    }
}

#[cfg(test)]
mod tests;
