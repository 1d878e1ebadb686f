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
