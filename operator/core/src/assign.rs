//! Assign: which endpoint sits in which server slot, from the plan and what the proxy runs now.

use std::collections::BTreeMap;

use interlock_crds::ProxyKind;
use serde::{Deserialize, Serialize};

use crate::bundle::{Occupant, Receipt, Slot};
use crate::model::{NameError, ServerName, UpstreamAddr};
use crate::plan::{Abilities, Backend, Plan};

/// Who sits in which server slot of each backend: data, carried from receipt to receipt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Assignment {
    /// By backend name ([`crate::plan::BackendId::config_name`]).
    pub servers: BTreeMap<String, Vec<Slot>>,
}

/// Seats every endpoint of the plan.
///
/// An endpoint keeps the slot that it has in `last`, so that nothing is sent to the proxy for those
/// that stay; new ones take the lowest free slots. A backend has the next power of two above its
/// endpoints (at least `settings.haproxy.minSlots`), so that one more always fits, and never fewer
/// than in `last`: their number is part of the file, and shrinking it would cost a reload.
/// nginx has no slots, and its assignment is empty.
pub fn assign(plan: &Plan, last: Option<&Receipt>, abilities: Abilities) -> Assignment {
    if abilities.proxy == ProxyKind::Nginx {
        return Assignment::default();
    }
    let minimum = usize::from(plan.settings.haproxy.min_slots).max(1);
    let servers = plan
        .backends
        .iter()
        .map(|backend| {
            let name = backend.id.config_name();
            let before = last.and_then(|receipt| receipt.servers.get(&name)).map_or(&[][..], Vec::as_slice);
            let slots = seat(backend, before, minimum);
            (name, slots)
        })
        .collect();
    Assignment { servers }
}

/// The slots of one backend.
fn seat(backend: &Backend, before: &[Slot], minimum: usize) -> Vec<Slot> {
    // One address is one server, however many endpoints claim it; it drains only if all of them do.
    let mut waiting: BTreeMap<UpstreamAddr, bool> = BTreeMap::new();
    for endpoint in &backend.endpoints {
        waiting
            .entry(endpoint.address)
            .and_modify(|draining| *draining &= endpoint.draining)
            .or_insert(endpoint.draining);
    }
    let number = (waiting.len() + 1).next_power_of_two().max(minimum).max(before.len());
    let mut seats: Vec<Option<Occupant>> = vec![None; number];
    for (seat, slot) in seats.iter_mut().zip(before) {
        let stays = slot.occupant.and_then(|occupant| waiting.remove_entry(&occupant.address));
        *seat = stays.map(|(address, draining)| Occupant { address, draining });
    }
    let mut free = seats.iter_mut().filter(|seat| seat.is_none());
    for ((address, draining), seat) in waiting.into_iter().zip(&mut free) {
        *seat = Some(Occupant { address, draining });
    }
    seats
        .into_iter()
        .enumerate()
        .filter_map(|(index, occupant)| Some(Slot { name: slot_name(index).ok()?, occupant }))
        .collect()
}

/// `s1` for the first slot.
fn slot_name(index: usize) -> Result<ServerName, NameError> {
    format!("s{}", index + 1).parse()
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
            endpoints: endpoints.iter().map(endpoint).collect(),
            intents: Vec::new(),
        }
    }

    fn shown(slots: &[Slot]) -> Vec<String> {
        let who = |slot: &Slot| match slot.occupant {
            Some(it) => format!("{}={}{}", slot.name, it.address, if it.draining { " draining" } else { "" }),
            None => format!("{}=-", slot.name),
        };
        slots.iter().map(who).collect()
    }

    #[test]
    fn new_endpoints_take_the_lowest_slots_in_order() {
        let slots = seat(&backend(&[(2, false), (1, true)]), &[], 4);
        assert_eq!(shown(&slots), ["s1=10.0.0.1:80 draining", "s2=10.0.0.2:80", "s3=-", "s4=-"]);
    }

    #[test]
    fn whoever_stays_keeps_the_slot_and_a_freed_one_is_taken_first() {
        let before = seat(&backend(&[(1, false), (2, false), (3, false)]), &[], 4);
        let after = seat(&backend(&[(2, true), (3, false), (9, false)]), &before, 4);
        assert_eq!(shown(&after), ["s1=10.0.0.9:80", "s2=10.0.0.2:80 draining", "s3=10.0.0.3:80", "s4=-"]);
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
    fn a_receipt_with_other_names_or_doubled_addresses_does_no_harm() {
        let slot = |name: &str, last| Slot {
            name: name.parse().unwrap(),
            occupant: Some(Occupant { address: address(last), draining: false }),
        };
        let after = seat(&backend(&[(1, false)]), &[slot("x", 1), slot("y", 1)], 1);
        assert_eq!(shown(&after), ["s1=10.0.0.1:80", "s2=-"]);
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
