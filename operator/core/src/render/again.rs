//! Rendering again: where a plan differs from one whose bundle is known in a few routes, and all of that is live, only
//! what differs is rendered.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use interlock_crds::ProxyKind;

use super::haproxy::{DEPTH, LABELS, depth, labels, lookups};
use crate::assign;
use crate::bundle::{Bundle, Fragment, Live, Receipt};
use crate::compile::route_order;
use crate::model::{HostPattern, Shared};
use crate::plan::{Plan, Route};

/// Beyond so many, all of it is rendered.
const FEW: usize = 64;

/// The bundle of a plan, from a plan whose bundle runs; none: they differ in more than this can tell.
pub(super) fn bundle(known: (&Plan, &Bundle), last: &Receipt, plan: &Plan) -> Option<Bundle> {
    let (before, bundle) = known;
    // All of it, so that a field that is added is thought of here.
    let Plan { target, cluster, settings, routes, backends, certificates, stats } = plan;
    let same = (target, cluster, settings) == (&before.target, &before.cluster, &before.settings)
        && (certificates, stats) == (&before.certificates, &before.stats)
        && bundle.proxy == ProxyKind::Haproxy
        && (&last.static_digest, &last.digest) == (&bundle.static_digest, &bundle.digest);
    if !same {
        return None;
    }
    let (left, came) = differing(&before.backends, backends, |a, b| a.id.cmp(&b.id))?;
    let (old, new) = differing(&before.routes, routes, |a, b| route_order(a).cmp(&route_order(b)))?;
    let mut hosts: Vec<&HostPattern> = old.iter().chain(&new).map(|route| &route.host).collect();
    hosts.extend(left.iter().chain(&came).map(|backend| &backend.id.host));
    hosts.sort();
    hosts.dedup();
    let of_hosts = |plan: &'_ Plan| -> Vec<Shared<Route>> {
        plan.routes.iter().filter(|route| hosts.contains(&&route.host)).cloned().collect()
    };
    let (old, new) = (of_hosts(before), of_hosts(plan));
    if !old.iter().chain(&new).all(|route| is_simple(route)) {
        return None;
    }

    let seats = assign::keep_some(&left, &came, last)?;
    let Live { maps, certificates: presented, .. } = &bundle.live;
    let servers = last.servers.clone();
    let mut live = Live { servers, maps: maps.clone(), certificates: presented.clone() };
    let mut fragments = bundle.fragments.clone();
    for (name, seat) in &seats {
        let slots = live.servers.get_mut(name)?;
        if !slots.iter().map(|slot| &slot.name).eq(seat.slots.iter().map(|slot| &slot.name)) {
            return None;
        }
        *slots = seat.slots.clone().into();
        let of = |fragment: &Shared<Fragment>| {
            fragment.servers.as_ref().is_some_and(|lines| lines.backend == *name)
        };
        let fragment = fragments.iter_mut().find(|fragment| of(fragment))?;
        if fragment.intents != seat.intents {
            fragment.change().intents.clone_from(&seat.intents);
        }
    }
    let moved: BTreeMap<_, &str> =
        seats.iter().filter_map(|(name, seat)| Some((seat.tenant.as_ref()?, name.as_str()))).collect();
    let asked: Vec<_> = new
        .iter()
        .flat_map(|route| {
            let place = moved.get(&route.backend).copied();
            lookups(route, place.or_else(|| last.seats.get(&route.label()).map(String::as_str)))
        })
        .collect();
    let stays = |map: &str, key: &str| asked.iter().any(|(of, it, _)| (*of, it.as_str()) == (map, key));
    for (map, key, _) in old.iter().flat_map(|route| lookups(route, Some(""))) {
        if !stays(map, &key) {
            live.maps.get_mut(map)?.change().remove(&key);
        }
    }
    for (map, key, value) in &asked {
        let map = live.maps.get_mut(*map)?;
        if map.get(key) != Some(value) {
            map.change().insert(key.clone(), value.clone());
        }
    }
    let digest = live.digest(&bundle.static_digest);
    Some(Bundle {
        target: target.clone(),
        cluster: cluster.clone(),
        proxy: bundle.proxy,
        fragments,
        live,
        secrets: bundle.secrets.clone(),
        static_digest: bundle.static_digest.clone(),
        digest,
        confirm_port: bundle.confirm_port,
        rest_ms: bundle.rest_ms,
        // The caller says, as for one that is rendered from nothing.
        applied: false,
    })
}

/// Whether a route is all live: it leads to a backend of its own, and the file has look-ups for it already.
fn is_simple(route: &Route) -> bool {
    (&route.host, &route.path) == (&route.backend.host, &route.backend.path)
        && route.certificate.is_none()
        && labels(route) <= LABELS
        && (!route.rewrite || depth(route) <= DEPTH)
}

/// What only the first and what only the second of two sorted lists has.
fn differing<'a, T: PartialEq>(
    before: &'a [Shared<T>],
    now: &'a [Shared<T>],
    order: impl Fn(&T, &T) -> Ordering,
) -> Option<(Vec<&'a T>, Vec<&'a T>)> {
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    let (mut left, mut came) = (Vec::new(), Vec::new());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if a.is(b) => Ordering::Equal,
            (Some(a), Some(b)) => order(a, b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return Some((left, came)),
        };
        let a = if order.is_le() { old.next() } else { None };
        let b = if order.is_ge() { new.next() } else { None };
        if a != b {
            left.extend(a.map(|a| &**a));
            came.extend(b.map(|b| &**b));
        }
        if left.len() + came.len() > FEW {
            return None;
        }
    }
}
