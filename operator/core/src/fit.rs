//! Fit: the plan nearest to a wanted one that the running static shape can take, while a reload has to wait.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile::route_order;
use crate::model::{HostPattern, UpstreamAddr};
use crate::plan::{Backend, BackendId, Plan};

/// Plans that are tried before what is left waits: a try costs a rendering.
const TRIES: u32 = 24;

/// How much of what is wanted a host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Its routes and backends as they run, with the endpoints that it has now.
    Endpoints,
    /// Everything.
    Whole,
}

/// Finds the plan between `running` and `wanted` for which `keeps` is true: host by host everything that is
/// wanted, else its endpoints, else only that endpoints which are gone or drain take no new requests. None: not
/// even that keeps the shape.
///
/// What belongs to no host (settings, certificates) stays as it runs.
pub fn fit(running: &Plan, wanted: &Plan, keeps: impl Fn(&Plan) -> bool) -> Option<Plan> {
    let mut search = Search { running, wanted, keeps, levels: BTreeMap::new(), left: TRIES };
    let least = search.plan();
    if !(search.keeps)(&least) {
        return None;
    }
    let differing = search.differing();
    for level in [Level::Whole, Level::Endpoints] {
        let open: Vec<&HostPattern> =
            differing.iter().copied().filter(|host| !search.levels.contains_key(*host)).collect();
        search.raise(&open, level);
    }
    Some(search.plan())
}

struct Search<'a, K> {
    running: &'a Plan,
    wanted: &'a Plan,
    keeps: K,
    /// Hosts that get more than the least.
    levels: BTreeMap<&'a HostPattern, Level>,
    left: u32,
}

impl<'a, K: Fn(&Plan) -> bool> Search<'a, K> {
    fn differing(&self) -> BTreeSet<&'a HostPattern> {
        let hosts = self.running.routes.iter().chain(&self.wanted.routes).map(|route| &route.host);
        hosts.filter(|host| of_host(self.running, host) != of_host(self.wanted, host)).collect()
    }

    /// Raises as many of these hosts as can be; halves them where not all can.
    fn raise(&mut self, hosts: &[&'a HostPattern], level: Level) {
        if hosts.is_empty() || self.left == 0 {
            return;
        }
        self.left -= 1;
        self.levels.extend(hosts.iter().map(|host| (*host, level)));
        if (self.keeps)(&self.plan()) {
            return;
        }
        for host in hosts {
            self.levels.remove(host);
        }
        if hosts.len() > 1 {
            let (first, second) = hosts.split_at(hosts.len() / 2);
            self.raise(first, level);
            self.raise(second, level);
        }
    }

    fn plan(&self) -> Plan {
        let whole = |host: &HostPattern| self.levels.get(host) == Some(&Level::Whole);
        let mut plan = self.running.clone();
        plan.routes.retain(|route| !whole(&route.host));
        plan.routes.extend(self.wanted.routes.iter().filter(|route| whole(&route.host)).cloned());
        plan.routes.sort_by(|a, b| route_order(a).cmp(&route_order(b)));
        for name in plan.routes.iter().filter_map(|route| route.certificate.as_ref()) {
            if let Some(certificate) = self.wanted.certificates.get(name) {
                plan.certificates.entry(name.clone()).or_insert_with(|| certificate.clone());
            }
        }
        plan.backends.retain(|backend| !whole(&backend.id.host));
        let now: BTreeMap<&BackendId, &Backend> =
            self.wanted.backends.iter().map(|backend| (&backend.id, &**backend)).collect();
        for backend in &mut plan.backends {
            let level = self.levels.get(&backend.id.host);
            // Holding begins and ends by a live command, as endpoints do.
            let backend = backend.change();
            backend.hold = now.get(&backend.id).is_some_and(|now| now.hold);
            let now = now.get(&backend.id).copied();
            // Whoever comes asks to be protected in another way than what runs does.
            let more = level.is_some() && now.is_some_and(|now| now.policy.holds_under(&backend.policy));
            backend.endpoints = endpoints(backend, now, more);
        }
        plan.backends.extend(self.wanted.backends.iter().filter(|backend| whole(&backend.id.host)).cloned());
        plan.backends.sort_by(|a, b| a.id.cmp(&b.id));
        plan
    }
}

/// The endpoints that a running backend shall have: those of now, or of those only the ones that it has already.
fn endpoints(running: &Backend, now: Option<&Backend>, more: bool) -> Vec<crate::plan::Endpoint> {
    let had: BTreeSet<UpstreamAddr> = running.endpoints.iter().map(|endpoint| endpoint.address).collect();
    let now = now.into_iter().flat_map(|backend| &backend.endpoints);
    now.filter(|endpoint| more || had.contains(&endpoint.address)).cloned().collect()
}

fn of_host<'a>(plan: &'a Plan, host: &HostPattern) -> (Vec<&'a crate::plan::Route>, Vec<&'a Backend>) {
    (
        plan.routes.iter().map(|route| &**route).filter(|route| route.host == *host).collect(),
        plan.backends.iter().map(|backend| &**backend).filter(|backend| backend.id.host == *host).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Bundle, Receipt};
    use crate::model::Shared;
    use crate::plan::{Balance, Endpoint, Route};
    use crate::render::{self, Templates};

    fn endpoint(last: u8) -> Endpoint {
        let address = std::net::SocketAddr::from(([10, 0, 0, last], 80)).try_into().unwrap();
        Endpoint { address, name: format!("c{last}"), draining: false }
    }

    fn plan(hosts: &[(&str, Balance, &[u8])]) -> Plan {
        let id = |host: &str| BackendId { host: host.parse().unwrap(), path: "/".parse().unwrap() };
        let route = |(host, ..): &(&str, Balance, &[u8])| Route {
            host: host.parse().unwrap(),
            path: "/".parse().unwrap(),
            rewrite: false,
            https_only: false,
            certificate: None,
            websocket: Vec::new(),
            backend: id(host),
        };
        let mut plan: Plan = serde_json::from_value(serde_json::json!({
            "target": "t", "cluster": "c",
            "settings": interlock_crds::ServiceClusterSpec::implicit(interlock_crds::ProxyKind::Haproxy),
        }))
        .unwrap();
        plan.routes = hosts.iter().map(|host| route(host).into()).collect();
        for (host, balance, endpoints) in hosts {
            let mut backend: Backend = serde_json::from_value(serde_json::json!({ "id": id(host) })).unwrap();
            backend.balance = *balance;
            backend.endpoints = endpoints.iter().map(|last| endpoint(*last)).collect();
            plan.backends.push(backend.into());
        }
        plan
    }

    fn rendered(plan: &Plan, last: Option<&Receipt>) -> Bundle {
        render::bundle(plan, last, "haproxy-2.6".parse().unwrap(), &Templates::embedded()).unwrap()
    }

    /// What fits while `running` is served, as `host=endpoints` of what has any.
    fn fitted(running: &Plan, wanted: &Plan) -> Vec<String> {
        let bundle = rendered(running, None);
        let receipt = Receipt::of(&bundle, bundle.live.clone());
        let keeps = |plan: &Plan| rendered(plan, Some(&receipt)).static_digest == receipt.static_digest;
        let plan = fit(running, wanted, keeps).unwrap();
        assert!(keeps(&plan));
        let shown = |backend: &Shared<Backend>| {
            let all: Vec<&str> = backend.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
            format!("{} {:?} {}", backend.id, backend.balance, all.join(","))
        };
        plan.backends.iter().map(shown).collect()
    }

    const RR: Balance = Balance::RoundRobin;

    #[test]
    fn endpoints_come_and_go_while_another_shape_waits() {
        let running = plan(&[("a.test", RR, &[1, 2]), ("b.test", RR, &[3])]);
        let wanted = plan(&[("a.test", Balance::Uri, &[2, 4]), ("b.test", RR, &[5])]);
        assert_eq!(fitted(&running, &wanted), ["a.test/ RoundRobin c2,c4", "b.test/ RoundRobin c5"]);
    }

    #[test]
    fn whoever_comes_to_be_protected_waits_for_the_protection() {
        let with = |last: &[u8], allow: Option<&str>| {
            let mut plan = plan(&[("a.test", RR, last)]);
            let allow = allow.map(|network| vec![network.parse::<ipnet::IpNet>().unwrap()].into());
            plan.backends[0].change().policy.access.allow = allow;
            plan
        };
        let (open, fenced) = (None, Some("10.0.0.0/8"));
        for (running, wanted, served) in [
            (open, fenced, "a.test/ RoundRobin c1"),
            (fenced, Some("10.1.0.0/16"), "a.test/ RoundRobin c1"),
            (fenced, fenced, "a.test/ RoundRobin c1,c2"),
        ] {
            assert_eq!(fitted(&with(&[1], running), &with(&[1, 2], wanted)), [served]);
        }
    }

    #[test]
    fn a_hold_begins_and_ends_while_another_shape_waits() {
        let held = |balance, hold| {
            let mut plan = plan(&[("a.test", balance, &[])]);
            plan.backends[0].change().hold = hold;
            plan
        };
        for hold in [true, false] {
            let (running, wanted) = (held(RR, !hold), held(Balance::Uri, hold));
            let bundle = rendered(&running, None);
            let receipt = Receipt::of(&bundle, bundle.live.clone());
            let keeps = |plan: &Plan| rendered(plan, Some(&receipt)).static_digest == receipt.static_digest;
            assert_eq!(fit(&running, &wanted, keeps).unwrap().backends[0].hold, hold);
        }
    }

    #[test]
    fn more_endpoints_than_slots_wait_and_those_that_left_are_gone() {
        let running = plan(&[("a.test", RR, &[1, 2])]);
        let wanted = plan(&[("a.test", RR, &[2, 3, 4, 5, 6, 7])]);
        assert_eq!(fitted(&running, &wanted), ["a.test/ RoundRobin c2"]);
    }

    #[test]
    fn everything_that_fits_is_found_beside_one_that_does_not() {
        let many: Vec<String> = (0..10).map(|n| format!("h{n}.test")).collect();
        let with = |balance, last| -> Plan {
            let hosts: Vec<(&str, Balance, &[u8])> = many
                .iter()
                .enumerate()
                .map(|(n, host)| (host.as_str(), if n == 6 { balance } else { RR }, last))
                .collect();
            plan(&hosts)
        };
        let fitted = fitted(&with(RR, &[1]), &with(Balance::Uri, &[2]));
        assert!(fitted.iter().all(|host| host.ends_with("RoundRobin c2")), "{fitted:?}");
    }

    #[test]
    fn where_not_even_the_least_keeps_the_shape_there_is_none() {
        let running = plan(&[("a.test", RR, &[1])]);
        assert_eq!(fit(&running, &running, |_| false), None);
    }
}
