//! Assign: which backend of the plan sits in which declared one, and which endpoint in which of its server
//! slots, from the plan and what the proxy runs now.
//!
//! HAProxy cannot declare a backend while it runs, but anybody can move into one that is declared and empty. So
//! the file has *seats*: one with the name of each backend that was there at the last reload, and spares. Whoever
//! comes takes a spare, and gets a name of their own when a reload is needed anyway.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bundle::{HOLD, Occupant, Receipt, SPARE, Slot, closed};
use crate::model::{Digest, NameError, ServerName, UpstreamAddr};
use crate::plan::{Backend, BackendId, Balance, Endpoint, Plan, Shape, UpstreamTls};

/// Spares of each shape of the plan that is not the plain one.
const SPARES_OF_A_SHAPE: u16 = 4;
/// Spares of each shape that many ask for and nobody of the plan has.
const SPARES_AHEAD: u16 = 2;

/// Every declared backend and who sits in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Assignment {
    /// By the name that HAProxy's file has for it.
    pub seats: BTreeMap<String, Seat>,
}

/// One declared backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seat {
    /// What of it cannot be changed.
    pub shape: Shape,
    /// The backend of the plan that sits in it.
    pub tenant: Option<BackendId>,
    /// The intents that made its tenant.
    pub intents: Vec<Digest>,
    /// Its server slots.
    pub slots: Vec<Slot>,
}

impl Seat {
    fn taken_by(backend: &Backend, slots: Vec<Slot>) -> Self {
        let (tenant, intents) = (Some(backend.id.clone()), backend.intents.clone());
        Self { shape: backend.shape(), tenant, intents, slots }
    }

    fn empty(shape: Shape, slots: Vec<Slot>) -> Self {
        Self { shape, tenant: None, intents: Vec::new(), slots }
    }
}

impl Assignment {
    /// Where each backend of the plan sits.
    pub fn places(&self) -> BTreeMap<&BackendId, &str> {
        self.seats.iter().filter_map(|(name, seat)| Some((seat.tenant.as_ref()?, name.as_str()))).collect()
    }
}

/// Seats the plan in what the proxy runs; none: it does not fit, and only a reload can make room.
///
/// Whoever stays keeps seat and slots, so that nothing is sent to the proxy for them. Whoever comes takes the
/// seat of their own name, or else the first spare of their shape that is proven to be at rest. A seat that
/// somebody leaves stays, empty.
pub fn keep(plan: &Plan, last: &Receipt) -> Option<Assignment> {
    let now = Now::of(plan, last);
    let mut seats: BTreeMap<String, Seat> = BTreeMap::new();
    let mut coming = Vec::new();
    for backend in &plan.backends {
        match now.seat_of(&backend.id) {
            Some((name, slots)) if now.shape(name) == backend.shape() && !seats.contains_key(name) => {
                let slots = refill(backend, slots)?;
                seats.insert(name.to_owned(), Seat::taken_by(backend, slots));
            }
            _ => coming.push(&**backend),
        }
    }
    now.seat(&coming, &mut seats)?;
    for (name, slots) in &last.servers {
        seats
            .entry(name.clone())
            .or_insert_with(|| Seat::empty(now.shape(name), slots.iter().map(vacated).collect()));
    }
    Some(Assignment { seats })
}

/// As [`keep`], where a plan differs from the one that runs in these backends alone: the seats that change.
pub fn keep_some(gone: &[&Backend], come: &[&Backend], last: &Receipt) -> Option<BTreeMap<String, Seat>> {
    let now = Now::of_some(gone, last);
    let mut seats: BTreeMap<String, Seat> = BTreeMap::new();
    let mut coming = Vec::new();
    for backend in come {
        match now.seat_of(&backend.id) {
            Some((name, slots)) if now.shape(name) == backend.shape() => {
                seats.insert(name.to_owned(), Seat::taken_by(backend, refill(backend, slots)?));
            }
            _ => coming.push(*backend),
        }
    }
    now.seat(&coming, &mut seats)?;
    for backend in gone {
        let (name, slots) = now.seat_of(&backend.id)?;
        seats
            .entry(name.to_owned())
            .or_insert_with(|| Seat::empty(now.shape(name), slots.iter().map(vacated).collect()));
    }
    Some(seats)
}

/// Seats the plan in a file of its own, for a proxy that must be reloaded anyway: every backend under its own
/// name, and all spares at rest.
///
/// A backend has the next power of two above its endpoints (at least `settings.haproxy.minSlots`), so that one
/// more always fits, and never fewer than in `last`: their number is part of the file.
pub fn afresh(plan: &Plan, last: Option<&Receipt>) -> Assignment {
    let settings = &plan.settings.haproxy;
    let minimum = usize::from(settings.min_slots).max(1);
    let holds = plan.settings.hold.as_millis() > 0;
    let now = last.map(|last| Now::of(plan, last));
    let mut seats: BTreeMap<String, Seat> = BTreeMap::new();
    for backend in &plan.backends {
        let before =
            now.as_ref().and_then(|now| now.seat_of(&backend.id)).map_or(&[][..], |(_, slots)| slots);
        // A new worker has no connection to anybody.
        let before: Vec<Slot> =
            endpoints(before).iter().map(|slot| Slot { left: None, ..slot.clone() }).collect();
        let slots = fill(backend, &before, room_for(backend, &before, minimum)).unwrap_or_default();
        let hold = holds.then(|| hold_slot(backend.hold)).flatten();
        let slots = slots.into_iter().map(|slot| Slot { left: None, ..slot }).chain(hold).collect();
        seats.insert(backend.id.config_name(), Seat::taken_by(backend, slots));
    }
    let plain = Shape::plain(&plan.settings);
    let mut others: BTreeMap<Shape, u16> = ahead(&plain).map(|shape| (shape, SPARES_AHEAD)).into();
    // A policy is one route's own: spares for each would be more than all others together.
    let shared = plan.backends.iter().filter(|backend| backend.policy.is_empty());
    others.extend(shared.map(|backend| (backend.shape(), SPARES_OF_A_SHAPE)));
    others.remove(&plain);
    let shapes = std::iter::once((plain, settings.spares))
        .chain(others.into_iter().map(|(shape, number)| (shape, settings.spares.min(number))));
    let spares = shapes.flat_map(|(shape, number)| std::iter::repeat_n(shape, usize::from(number)));
    for (number, shape) in spares.enumerate() {
        let hold = holds.then(|| hold_slot(false)).flatten();
        let slots = (0..minimum).filter_map(|index| free_slot(index).ok()).chain(hold).collect();
        seats.insert(format!("{SPARE}{}", number + 1), Seat::empty(shape, slots));
    }
    Assignment { seats }
}

/// Shapes whose first one shall be no reload. Not TLS that is verified: not every machine has authorities to read.
fn ahead(plain: &Shape) -> [Shape; 3] {
    let balanced = |balance| Shape { balance, ..plain.clone() };
    let tls = Shape { tls: Some(UpstreamTls { verify: false }), ..plain.clone() };
    [balanced(Balance::LeastConn), balanced(Balance::ClientAddress), tls]
}

/// What the proxy runs, seen from a plan.
struct Now<'a> {
    last: &'a Receipt,
    /// The seats of the plan's backends, by any of their routes.
    seats: BTreeMap<&'a BackendId, &'a str>,
    /// Seats that any route leads to, of this plan or not.
    seated: BTreeSet<&'a str>,
}

impl<'a> Now<'a> {
    fn of(plan: &'a Plan, last: &'a Receipt) -> Self {
        let mut seats = BTreeMap::new();
        for route in &plan.routes {
            if let Some(seat) = last.seats.get(&route.label()) {
                seats.entry(&route.backend).or_insert(seat.as_str());
            }
        }
        Self { last, seats, seated: last.seats.values().map(String::as_str).collect() }
    }

    /// The same, seen from backends that each have one route, their own.
    fn of_some(backends: &[&'a Backend], last: &'a Receipt) -> Self {
        let seat =
            |backend: &&'a Backend| Some((&backend.id, last.seats.get(&backend.id.to_string())?.as_str()));
        let seats = backends.iter().filter_map(seat).collect();
        Self { last, seats, seated: last.seats.values().map(String::as_str).collect() }
    }

    /// Seats those who come; none: there is no room.
    fn seat(&self, coming: &[&Backend], seats: &mut BTreeMap<String, Seat>) -> Option<()> {
        if coming.is_empty() {
            return Some(());
        }
        let mut spares = self.spares();
        for backend in coming {
            let shape = backend.shape();
            let own = backend.id.config_name();
            let last = &self.last.servers;
            let name = if last.contains_key(&own) && self.shape(&own) == shape && !self.is_seated(&own) {
                own
            } else {
                spares.get_mut(&shape)?.pop()?.to_owned()
            };
            let slots = refill(backend, last.get(&name)?)?;
            seats.insert(name, Seat::taken_by(backend, slots));
        }
        Some(())
    }

    fn seat_of(&self, backend: &BackendId) -> Option<(&'a str, &'a [Slot])> {
        let (name, slots) = self.last.servers.get_key_value(*self.seats.get(backend)?)?;
        Some((name, slots))
    }

    fn shape(&self, seat: &str) -> Shape {
        self.last.shapes.get(seat).cloned().unwrap_or_default()
    }

    fn is_seated(&self, seat: &str) -> bool {
        self.seated.contains(seat)
    }

    /// Spares that nobody has any connection to, by shape; the first is the last of its list.
    fn spares(&self) -> BTreeMap<Shape, Vec<&'a str>> {
        let at_rest = |slot: &Slot| slot.occupant.is_none() && slot.left.is_none();
        let mut spares: Vec<(usize, &str)> = self
            .last
            .servers
            .iter()
            .filter(|(name, slots)| !self.is_seated(name) && slots.iter().all(at_rest))
            .filter_map(|(name, _)| Some((name.strip_prefix(SPARE)?.parse().ok()?, name.as_str())))
            .collect();
        spares.sort_unstable();
        let mut by_shape: BTreeMap<Shape, Vec<&str>> = BTreeMap::new();
        for (_, name) in spares.into_iter().rev() {
            by_shape.entry(self.shape(name)).or_default().push(name);
        }
        by_shape
    }
}

/// How many slots a backend gets.
fn room_for(backend: &Backend, before: &[Slot], minimum: usize) -> usize {
    (addresses(backend).len() + 1).next_power_of_two().max(minimum).max(before.len())
}

/// Where a backend's requests go, and whether only to finish. One address is one server, however many endpoints
/// claim it; it drains only if all of them do.
fn addresses(backend: &Backend) -> BTreeMap<UpstreamAddr, bool> {
    let mut addresses = BTreeMap::new();
    for endpoint in &backend.endpoints {
        addresses
            .entry(endpoint.address)
            .and_modify(|draining| *draining &= endpoint.draining)
            .or_insert(endpoint.draining);
    }
    addresses
}

/// `number` slots with a backend's endpoints; none: they are too few.
///
/// An endpoint keeps the slot that it has in `before`. One that comes takes the slot that it had last, or else
/// one that no connection is kept for, or else the one that was left.
fn fill(backend: &Backend, before: &[Slot], number: usize) -> Option<Vec<Slot>> {
    let mut waiting = addresses(backend);
    let mut slots: Vec<Slot> = Vec::with_capacity(number);
    for index in 0..number {
        let mut slot = before.get(index).map_or_else(|| free_slot(index).ok(), |slot| Some(vacated(slot)))?;
        let had = before.get(index).and_then(|slot| slot.occupant);
        let stays = had.and_then(|occupant| waiting.remove_entry(&occupant.address));
        if let Some((address, draining)) = stays {
            (slot.occupant, slot.left) = (Some(Occupant { address, draining }), None);
        }
        slots.push(slot);
    }
    for slot in slots.iter_mut().filter(|slot| slot.occupant.is_none()) {
        let returns = slot.left.and_then(|left| waiting.remove_entry(&left));
        if let Some((address, draining)) = returns {
            (slot.occupant, slot.left) = (Some(Occupant { address, draining }), None);
        }
    }
    let mut free: Vec<&mut Slot> = slots.iter_mut().filter(|slot| slot.occupant.is_none()).collect();
    if waiting.len() > free.len() {
        return None;
    }
    // Stable: the lowest first within each kind.
    free.sort_by_key(|slot| slot.left.is_some());
    for ((address, draining), slot) in waiting.into_iter().zip(free) {
        (slot.occupant, slot.left) = (Some(Occupant { address, draining }), None);
    }
    Some(slots)
}

/// The slots of a seat that runs with a backend's endpoints; none: they are too few.
fn refill(backend: &Backend, before: &[Slot]) -> Option<Vec<Slot>> {
    if fits_as_it_is(backend, before) {
        return Some(before.to_vec());
    }
    let seats = endpoints(before);
    let mut slots = fill(backend, seats, seats.len())?;
    if before.len() > seats.len() {
        slots.push(hold_slot(backend.hold)?);
    }
    Some(slots)
}

/// Whether slots have just a backend's endpoints, each as it shall be: nearly all of a plan, at any one change.
fn fits_as_it_is(backend: &Backend, slots: &[Slot]) -> bool {
    let (seats, hold) = slots.split_at(endpoints(slots).len());
    let sits = |endpoint: &Endpoint| {
        let wanted = Occupant { address: endpoint.address, draining: endpoint.draining };
        seats.iter().filter(|slot| slot.occupant == Some(wanted)).count() == 1
    };
    let occupied = seats.iter().filter(|slot| slot.occupant.is_some()).count();
    occupied == backend.endpoints.len()
        && backend.endpoints.iter().all(sits)
        && hold.iter().all(|slot| slot.occupant.is_some() == backend.hold)
}

/// The slots that endpoints sit in.
fn endpoints(slots: &[Slot]) -> &[Slot] {
    match slots {
        [endpoints @ .., last] if last.name.as_str() == HOLD => endpoints,
        endpoints => endpoints,
    }
}

/// The server that refuses every connection, so that requests are tried again until somebody else takes them.
fn hold_slot(holding: bool) -> Option<Slot> {
    let occupant = holding.then(|| closed().map(|address| Occupant { address, draining: false }));
    Some(Slot { name: HOLD.parse().ok()?, occupant: occupant.flatten(), left: None })
}

/// The slot without whoever sits in it. Nobody is ever connected to the one that holds.
fn vacated(slot: &Slot) -> Slot {
    let left = slot.occupant.map(|occupant| occupant.address).or(slot.left);
    let left = left.filter(|_| slot.name.as_str() != HOLD);
    Slot { name: slot.name.clone(), occupant: None, left }
}

/// `s1` for the first slot.
fn free_slot(index: usize) -> Result<Slot, NameError> {
    let name: ServerName = format!("s{}", index + 1).parse()?;
    Ok(Slot { name, occupant: None, left: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{HostPattern, PathPrefix};
    use crate::plan::{BackendId, Endpoint};

    fn address(last: u8) -> UpstreamAddr {
        std::net::SocketAddr::from(([10, 0, 0, last], 80)).try_into().unwrap()
    }

    fn backend(endpoints: &[(u8, bool)]) -> Backend {
        let endpoint = |&(last, draining): &(u8, bool)| Endpoint {
            address: address(last),
            name: format!("c{last}"),
            draining,
        };
        Backend {
            id: BackendId { host: HostPattern::Exact("a.test".parse().unwrap()), path: PathPrefix::root() },
            balance: crate::plan::Balance::default(),
            options: Vec::new(),
            tls: None,
            slow_start: None,
            policy: crate::policy::Policy::default(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            hold: false,
            intents: Vec::new(),
        }
    }

    fn shown(slots: &[Slot]) -> Vec<String> {
        let who = |slot: &Slot| match slot.occupant {
            Some(it) => format!("{}={}{}", slot.name, it.address, if it.draining { " draining" } else { "" }),
            None => slot.left.map_or(format!("{}=-", slot.name), |left| format!("{}=({left})", slot.name)),
        };
        slots.iter().map(who).collect()
    }

    /// As for a reload.
    fn seat(backend: &Backend, before: &[Slot], minimum: usize) -> Vec<Slot> {
        fill(backend, before, room_for(backend, before, minimum)).unwrap()
    }

    #[test]
    fn new_endpoints_take_the_lowest_slots_in_order() {
        let slots = seat(&backend(&[(2, false), (1, true)]), &[], 4);
        assert_eq!(shown(&slots), ["s1=10.0.0.1:80 draining", "s2=10.0.0.2:80", "s3=-", "s4=-"]);
    }

    #[test]
    fn whoever_stays_keeps_the_slot_and_one_that_was_left_is_taken_last() {
        let first = seat(&backend(&[(1, false), (2, false)]), &[], 4);
        let second = fill(&backend(&[(2, true), (9, false)]), &first, 4).unwrap();
        assert_eq!(
            shown(&second),
            ["s1=(10.0.0.1:80)", "s2=10.0.0.2:80 draining", "s3=10.0.0.9:80", "s4=-"],
            "kept connections of s1 lead to the first one still"
        );
        let third = fill(&backend(&[(1, false), (9, false), (8, false), (7, false)]), &second, 4).unwrap();
        assert_eq!(
            shown(&third),
            ["s1=10.0.0.1:80", "s2=10.0.0.8:80", "s3=10.0.0.9:80", "s4=10.0.0.7:80"],
            "whoever comes back finds the slot; only the last one takes one that was left"
        );
        assert_eq!(fill(&backend(&[(1, false), (2, false), (3, false)]), &[], 2), None, "no room");
    }

    #[test]
    fn one_more_always_fits_and_the_number_never_shrinks() {
        for (endpoints, expected) in [(0, 4), (3, 4), (4, 8), (7, 8), (8, 16)] {
            let these: Vec<(u8, bool)> = (1..=endpoints).map(|last| (last, false)).collect();
            let slots = seat(&backend(&these), &[], 4);
            assert_eq!(slots.len(), expected, "{endpoints} endpoints");
            assert_eq!(seat(&backend(&[]), &slots, 4).len(), expected);
        }
    }

    #[test]
    fn one_address_is_one_server_and_drains_only_for_all() {
        let slots = seat(&backend(&[(1, true), (1, false), (2, true), (2, true)]), &[], 1);
        assert_eq!(shown(&slots)[..2], ["s1=10.0.0.1:80", "s2=10.0.0.2:80 draining"]);
    }

    #[test]
    fn a_receipt_with_doubled_addresses_does_no_harm() {
        let slot = |name: &str, last| Slot {
            name: name.parse().unwrap(),
            occupant: Some(Occupant { address: address(last), draining: false }),
            left: None,
        };
        let after = seat(&backend(&[(1, false)]), &[slot("x", 1), slot("y", 1)], 1);
        assert_eq!(shown(&after), ["x=10.0.0.1:80", "y=(10.0.0.1:80)"]);
    }

    proptest! {
        #[test]
        fn everybody_sits_once_and_stays(first in prop::collection::btree_set(1u8..40, 0..20),
                                        second in prop::collection::btree_set(1u8..40, 0..20)) {
            let of = |these: &std::collections::BTreeSet<u8>| {
                backend(&these.iter().map(|last| (*last, false)).collect::<Vec<_>>())
            };
            let before = seat(&of(&first), &[], 4);
            let after = seat(&of(&second), &before, 4);
            let seated: Vec<UpstreamAddr> = after.iter().filter_map(|slot| Some(slot.occupant?.address)).collect();
            prop_assert_eq!(seated.len(), second.len());
            for last in &second {
                let place = |slots: &[Slot]| {
                    slots.iter().position(|slot| slot.occupant.is_some_and(|it| it.address == address(*last)))
                };
                prop_assert!(place(&after).is_some());
                if first.contains(last) {
                    prop_assert_eq!(place(&before), place(&after));
                }
            }
            prop_assert_eq!(seat(&of(&second), &after, 4), after, "nothing changes for nothing");
        }
    }
}
