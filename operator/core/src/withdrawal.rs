//! Withdrawals: whether one plan serves less than another, and nothing in another way.

use std::collections::BTreeMap;

use crate::model::UpstreamAddr;
use crate::plan::{Backend, BackendId, Plan, unshared};

/// Whether `after` is `before` without some of its routes and endpoints, or with some of them draining.
pub fn only_withdraws(before: &Plan, after: &Plan) -> bool {
    // All of it, so that a field that is added is thought of here.
    let Plan { target, cluster, settings, routes, backends, certificates, stats } = after;
    let base = (target, cluster, settings, stats)
        == (&before.target, &before.cluster, &before.settings, &before.stats);
    let (had, backends) = unshared(&before.backends, backends);
    let had: BTreeMap<&BackendId, &Backend> = had.iter().map(|it| (&it.id, &**it)).collect();
    let (routed, routes) = unshared(&before.routes, routes);
    base && certificates.iter().all(|(name, now)| {
        let old = before.certificates.get(name);
        old.is_some_and(|old| {
            (&now.digest, now.default) == (&old.digest, old.default)
                && now.hosts.iter().all(|host| old.hosts.contains(host))
        })
    }) && is_part(routes, routed)
        && backends.iter().all(|backend| had.get(&backend.id).is_some_and(|old| shrinks(old, backend)))
}

/// Whether all of `some` stand in `all`, in the same order.
fn is_part<T: PartialEq>(some: &[T], all: &[T]) -> bool {
    let mut all = all.iter();
    some.iter().all(|one| all.any(|other| other == one))
}

/// Whether a backend serves as before, on some of its endpoints. Whether it holds follows from who is left.
fn shrinks(before: &Backend, after: &Backend) -> bool {
    let Backend { id: _, balance, options, tls, slow_start, policy, endpoints, hold: _, intents: _ } = after;
    let had: BTreeMap<UpstreamAddr, bool> =
        before.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.draining)).collect();
    (balance, options, tls, slow_start, policy)
        == (&before.balance, &before.options, &before.tls, &before.slow_start, &before.policy)
        && endpoints
            .iter()
            .all(|endpoint| had.get(&endpoint.address).is_some_and(|drained| endpoint.draining || !drained))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(routes: &str, backends: &str) -> Plan {
        let text = format!(
            "{{ target: edge, cluster: web, settings: {{ proxy: haproxy }}, routes: [{routes}], backends: [{backends}] }}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    fn route(host: &str) -> String {
        format!("{{ host: {host}, path: /, backend: {{ host: {host}, path: / }} }},")
    }

    fn backend(host: &str, rest: &str) -> String {
        format!("{{ id: {{ host: {host}, path: / }}, {rest} }},")
    }

    fn endpoint(last: u8, draining: bool) -> String {
        format!("{{ address: '10.0.0.{last}:80', name: n{last}, draining: {draining} }},")
    }

    fn of(host: &str, endpoints: &[(u8, bool)]) -> String {
        let endpoints: String = endpoints.iter().map(|(last, draining)| endpoint(*last, *draining)).collect();
        backend(host, &format!("endpoints: [{endpoints}]"))
    }

    #[test]
    fn less_is_a_withdrawal_and_anything_else_is_not() {
        let routes = |hosts: &[&str]| hosts.iter().map(|host| route(host)).collect::<String>();
        let both = routes(&["a.test", "b.test"]);
        let start = plan(
            &both,
            &format!("{}{}", of("a.test", &[(1, false), (2, false)]), of("b.test", &[(3, true)])),
        );
        let a = |endpoints: &[(u8, bool)]| {
            plan(&both, &format!("{}{}", of("a.test", endpoints), of("b.test", &[(3, true)])))
        };
        for (what, after) in [
            ("nothing", start.clone()),
            ("one drains", a(&[(1, true), (2, false)])),
            ("one has gone", a(&[(2, false)])),
            ("all have gone", a(&[])),
            ("a route has gone", plan(&routes(&["b.test"]), &of("b.test", &[(3, true)]))),
            ("everything has gone", plan("", "")),
        ] {
            assert!(only_withdraws(&start, &after), "{what}");
        }
        let held = format!("{}{}", backend("a.test", "hold: true"), of("b.test", &[]));
        assert!(only_withdraws(&start, &plan(&both, &held)), "whoever has gone is waited for");

        let mut settings = start.clone();
        settings.settings.haproxy.spares += 1;
        let leastconn = format!("{}{}", backend("a.test", "balance: leastConn"), of("b.test", &[(3, true)]));
        let mut fenced = start.clone();
        fenced.backends[0].change().policy.body_size = Some(1);
        let mut https = start.clone();
        https.routes[0].change().https_only = true;
        for (what, after) in [
            ("another endpoint", a(&[(1, false), (4, false)])),
            ("one more", a(&[(1, false), (2, false), (4, true)])),
            ("a setting", settings),
            ("another balance", plan(&both, &leastconn)),
            ("another route", https),
            ("another policy", fenced),
            ("one more route", plan(&routes(&["a.test", "b.test", "c.test"]), &of("a.test", &[]))),
            (
                "one comes back",
                plan(&both, &format!("{}{}", of("a.test", &[(1, false)]), of("b.test", &[(3, false)]))),
            ),
        ] {
            assert!(!only_withdraws(&start, &after), "{what}");
        }
    }
}
