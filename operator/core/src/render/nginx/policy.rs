//! What a policy is made of in an `nginx.conf`: blocks of `http` that places of hosts refer to.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::base::networks;
use crate::model::Digest;
use crate::plan::Plan;
use crate::policy::Access;

/// A `geo` block: who is let in.
#[derive(Serialize)]
pub(super) struct Gate {
    variable: String,
    trusted: Vec<String>,
    others: bool,
    networks: Vec<(String, bool)>,
}

/// The gates of a plan, each with the intents that ask for it.
pub(super) fn gates(plan: &Plan) -> BTreeMap<String, (Gate, BTreeSet<Digest>)> {
    let mut gates: BTreeMap<String, (Gate, BTreeSet<Digest>)> = BTreeMap::new();
    for backend in &plan.backends {
        let Some(variable) = gate(&backend.policy.access) else { continue };
        let of = || (Gate::of(&backend.policy.access, variable.clone(), plan), BTreeSet::new());
        let (_, intents) = gates.entry(variable.clone()).or_insert_with(of);
        intents.extend(backend.intents.iter().cloned());
    }
    gates
}

/// The variable that says whether a client is let in; none: everybody is.
pub(super) fn gate(access: &Access) -> Option<String> {
    // Serialising plain data cannot fail.
    let text = serde_json::to_string(access).unwrap_or_default();
    (!access.is_open()).then(|| format!("interlock_let_in_{}", &Digest::of([text.as_bytes()]).as_str()[..16]))
}

impl Gate {
    fn of(access: &Access, variable: String, plan: &Plan) -> Self {
        Self {
            variable,
            trusted: networks(&plan.settings.trusted_proxies, &[]),
            others: access.lets_others_in(),
            networks: access
                .narrowest()
                .into_iter()
                .map(|(net, allowed)| (net.to_string(), allowed))
                .collect(),
        }
    }
}
