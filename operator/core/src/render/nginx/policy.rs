//! What a policy is made of in an `nginx.conf`: blocks of `http` that places of hosts refer to.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::ServiceClusterSpec;
use serde::Serialize;

use super::base::{networks, sent};
use crate::model::{Digest, PathPrefix};
use crate::plan::Plan;
use crate::policy::{Access, HeaderValue, NewPath, Policy, Redirect, Scheme};

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

/// What of a place's own nginx does not inherit beside it: limits, and all headers where any is changed.
#[derive(Clone, Serialize)]
pub(super) struct Own {
    body_size: Option<u64>,
    /// Headers of the request; empty: those of every place.
    sent: Vec<(String, String)>,
    /// Headers of the answer that do not pass, and those that are added.
    hidden: Vec<String>,
    added: Vec<(String, String)>,
}

impl Own {
    /// None: there is nothing.
    pub(super) fn of(policy: &Policy) -> Option<Self> {
        let Policy { access: _, body_size, redirect: _, host, path: _, request, response } = policy;
        let quoted = |value: &HeaderValue| format!("\"{}\"", value.for_nginx());
        let mut changed: Vec<(String, String)> =
            host.iter().map(|host| ("Host".to_owned(), host.to_string())).collect();
        changed.extend(request.set.iter().map(|(name, value)| (name.to_string(), quoted(value))));
        changed.extend(request.add.iter().map(|(name, value)| {
            let before = format!("${{interlock_before_{}}}", variable(name.as_str()));
            (name.to_string(), format!("\"{before}{}\"", value.for_nginx()))
        }));
        changed.extend(request.remove.iter().map(|name| (name.to_string(), "\"\"".to_owned())));
        let is_changed = |name: &str| changed.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let kept = sent().into_iter().filter(|(name, _)| !is_changed(name));
        let mut sent = Vec::new();
        if !changed.is_empty() {
            sent.extend(kept.map(|(name, value)| (name.to_owned(), value)));
            sent.extend(changed.iter().cloned());
        }
        let hidden = response.set.iter().map(|(name, _)| name).chain(&response.remove);
        let added = response.set.iter().chain(&response.add);
        let own = Self {
            body_size: *body_size,
            sent,
            hidden: hidden.map(ToString::to_string).collect(),
            added: added.map(|(name, value)| (name.to_string(), quoted(value))).collect(),
        };
        let nothing = own.body_size.is_none() && own.sent.is_empty() && own.hidden.is_empty();
        (!nothing || !own.added.is_empty()).then_some(own)
    }
}

/// Where clients of a place are sent.
#[derive(Serialize)]
pub(super) struct Sent {
    status: u16,
    /// Scheme, host and port, by the scheme that clients come with.
    there: Vec<(Option<&'static str>, String)>,
    /// The path, or what stands in place of the prefix.
    path: Option<String>,
    /// The prefix without a slash behind it, as a regular expression.
    from: Option<String>,
}

impl Sent {
    pub(super) fn of(redirect: &Redirect, settings: &ServiceClusterSpec) -> Self {
        let host = redirect.host.as_ref().map_or("$host", |host| host.as_str());
        let there = redirect.ways(settings).into_iter().map(|(from, to, behind)| {
            (from.map(Scheme::as_str), format!("{}://{host}{behind}", to.as_str()))
        });
        let (path, from) = match &redirect.path {
            None => (None, None),
            Some(NewPath::Full(path)) => (Some(path), None),
            Some(NewPath::Prefix { from, to }) => (Some(to), Some(literally(from))),
        };
        let path = path.map(ToString::to_string);
        Self { status: redirect.status.into(), there: there.collect(), path, from }
    }
}

/// A prefix as a regular expression; empty for `/`.
pub(super) fn literally(path: &PathPrefix) -> String {
    path.as_str().trim_end_matches('/').replace('.', "[.]").replace('+', "[+]")
}

#[derive(Serialize)]
pub(super) struct Names {
    pub(super) names: BTreeSet<String>,
}

/// Headers that some route adds to: what the client has sent of them is a variable each.
pub(super) fn added_to(plan: &Plan) -> BTreeSet<String> {
    let changes = plan.backends.iter().flat_map(|backend| &backend.policy.request.add);
    changes.map(|(name, _)| variable(name.as_str())).collect()
}

/// The part of a variable's name that a header makes.
pub(super) fn variable(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}
