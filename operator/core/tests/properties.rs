//! Properties of compiling: order does not matter, nothing panics, and what must hold of every plan does.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use interlock_core::compile::{Compiled, Config, compile};
use interlock_core::explain::why;
use interlock_core::model::{
    AgentView, Attachment, Container, ContainerState, EngineView, Freshness, Health, Observed, Port,
    ProbeResult, PublishedPort, Readiness, Timestamp,
};
use interlock_core::plan::Abilities;
use interlock_crds::{ProxyKind, ReadinessMode, ServiceClusterSpec, Sharing};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

const NETWORKS: [&str; 4] = ["front", "shop_back", "bridge", "host"];
const LABELS: [(&str, &[&str]); 16] = [
    ("interlock.host", &["a.example.com", "b.example.com", "*.example.com", "bad host", ""]),
    ("interlock.hostname", &["test", "a.example.com", "\n"]),
    ("interlock.alias_domain.0", &["c.example.com", "a.example.com"]),
    ("interlock.path", &["/", "/app", "/app/x", "../etc"]),
    ("interlock.port", &["80", "8080", "0", "http"]),
    ("interlock.network", &["back", "shop_back", "front", "nope"]),
    ("interlock.admin.host", &["admin.example.com", "a.example.com"]),
    ("interlock.balance_algorithm", &["leastconn", "first", "coin"]),
    ("interlock.ssl_only", &["", "true", "false"]),
    ("interlock.ssl_cert", &["web.pem", "../key"]),
    ("interlock.warm", &["true"]),
    ("interlock.health_check", &["httpchk GET /", "tcp-check", "rm"]),
    ("interlock.ext.name", &["haproxy", "nginx", "apache"]),
    ("com.docker.compose.project", &["shop"]),
    ("com.docker.compose.oneoff", &["True", "False"]),
    ("interlock.agent", &["1"]),
];

fn address() -> impl Strategy<Value = IpAddr> {
    select(vec!["172.17.0.2", "172.17.0.3", "10.0.0.1", "127.0.0.1", "0.0.0.0", "::", "fd00::2", "224.0.0.1"])
        .prop_map(|text| text.parse().unwrap())
}

fn port() -> impl Strategy<Value = Port> {
    select(vec![80_u16, 443, 8080]).prop_map(|number| Port::try_from(number).unwrap())
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let one = select(LABELS.to_vec()).prop_flat_map(|(key, values)| {
        (Just(key.to_owned()), select(values.to_vec()).prop_map(str::to_owned))
    });
    vec(one, 0..6).prop_map(|pairs| pairs.into_iter().collect())
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let maybe = || prop::option::of(address());
    (maybe(), maybe(), maybe(), any::<bool>()).prop_map(|(ipv4, ipv6, gateway, ours)| Attachment {
        ipv4,
        ipv6,
        gateway,
        ours,
    })
}

fn published() -> impl Strategy<Value = PublishedPort> {
    (port(), address(), port()).prop_map(|(container, host_ip, host)| PublishedPort {
        container,
        host_ip,
        host,
    })
}

fn state() -> impl Strategy<Value = ContainerState> {
    use ContainerState::{Created, Dead, Exited, Paused, Removing, Restarting, Running};
    prop_oneof![8 => Just(Running), 2 => select(vec![Created, Dead, Exited, Paused, Removing, Restarting])]
}

fn container() -> impl Strategy<Value = Container> {
    let what = (0..12_u8, state(), 0..4_u64, labels(), labels(), any::<bool>());
    let health = select(vec![Health::None, Health::Starting, Health::Healthy, Health::Unhealthy]);
    let networks = btree_map(select(NETWORKS.to_vec()).prop_map(str::to_owned), attachment(), 0..3);
    let data = prop::option::of(select(vec!["{\"domain\":\"a.example.com\",\"port\":80}", "{", "[]"]));
    let exit = prop::option::of(select(vec![0_i64, 1, 137]));
    let where_ =
        (networks, vec(published(), 0..3), btree_set(port(), 0..3), health, data, exit, any::<bool>());
    (what, where_).prop_map(|((n, state, created, labels, image_labels, host_network), rest)| {
        let (networks, published, exposed, health, data, exit_code, stopped_by_request) = rest;
        Container {
            id: format!("c{n}").parse().unwrap(),
            name: format!("name-{n}"),
            image: "shop/web:1".to_owned(),
            created: Timestamp(created),
            started: Timestamp(created + 1),
            state,
            health,
            hostname: format!("host{n}"),
            domainname: "example.com".to_owned(),
            labels,
            image_labels,
            data: data.map(str::to_owned),
            image_data: None,
            host_network: host_network && n % 3 == 0,
            network_of: None,
            networks,
            published,
            exposed,
            stop_signal: String::new(),
            exit_code,
            stopped_by_request,
            mounts: BTreeSet::new(),
            read_only: false,
        }
    })
}

fn observed() -> impl Strategy<Value = Observed> {
    let fresh = select(vec![
        Freshness::Fresh,
        Freshness::Fresh,
        Freshness::Never,
        Freshness::Stale { since: Timestamp(1) },
    ]);
    let ids = || btree_set((0..12_u8).prop_map(|n| format!("c{n}").parse().unwrap()), 0..3);
    let agents = btree_map(
        select(vec!["sock", "name-1", "embedded"]),
        (any::<bool>(), (0..12_u8), btree_set(address(), 0..2)),
        0..3,
    );
    (vec(container(), 0..10), fresh, prop::option::of(address()), ids(), ids(), ids(), agents).prop_map(
        |(containers, freshness, address, draining, was_healthy, receipted, agents)| {
            let containers = containers.into_iter().map(|one| (one.id.clone(), one)).collect();
            let view = EngineView { freshness, address, containers };
            let agents: BTreeMap<_, _> = agents
                .into_iter()
                .map(|(name, (nginx, n, addresses))| {
                    let kind = if nginx { ProxyKind::Nginx } else { ProxyKind::Haproxy };
                    let abilities = Abilities::oldest(kind);
                    let view = AgentView {
                        abilities,
                        since: Timestamp(0),
                        hostname: format!("host{n}"),
                        addresses,
                        receipt: None,
                    };
                    (name.parse().unwrap(), view)
                })
                .collect();
            Observed {
                engines: BTreeMap::from([("local".parse().unwrap(), view)]),
                sockets: BTreeSet::from(["sock".parse().unwrap()]),
                agents,
                draining,
                was_healthy,
                receipted,
                ..Observed::default()
            }
        },
    )
}

fn config() -> impl Strategy<Value = Config> {
    let mode = || {
        use ReadinessMode::{Auto, Docker, None, Probe};
        select(vec![Auto, Docker, Probe, None])
    };
    (mode(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(address()))
        .prop_map(|(readiness, owner, named, read_only, embedded, override_address)| {
            let sharing = if owner { Sharing::Owner } else { Sharing::Merge };
            let spec = |proxy| ServiceClusterSpec {
                readiness,
                sharing,
                backend_override_address: override_address,
                ..ServiceClusterSpec::implicit(proxy)
            };
            let haproxy = ServiceClusterSpec {
                proxies: if named { vec!["name-1".to_owned()] } else { Vec::new() },
                ..spec(ProxyKind::Haproxy)
            };
            Config {
                clusters: BTreeMap::from([
                    ("haproxy".parse().unwrap(), haproxy),
                    ("nginx".parse().unwrap(), spec(ProxyKind::Nginx)),
                ]),
                embedded: embedded.then(|| "haproxy".parse().unwrap()),
                read_only,
            }
        })
}

/// What holds of everything that is ever compiled.
fn holds(compiled: &Compiled, observed: &Observed, config: &Config) {
    let container = |id| observed.engines.values().find_map(|view| view.containers.get(id));
    for (target, plan) in &compiled.plans {
        assert!(compiled.targets[target].cluster.is_some(), "a plan belongs to a target with a cluster");
        let backends: BTreeSet<_> = plan.backends.iter().map(|backend| &backend.id).collect();
        let routes: BTreeSet<_> = plan.routes.iter().map(|route| &route.backend).collect();
        assert_eq!(backends, routes, "every route has a backend, every backend a route");
        assert_eq!(backends.len(), plan.backends.len(), "a backend is there once");
        let keys: BTreeSet<_> = plan.routes.iter().map(|route| (&route.host, &route.path)).collect();
        assert_eq!(keys.len(), plan.routes.len(), "a host and path is there once");
        assert!(compiled.targets[target].trusted || plan.certificates.is_empty(), "keys only for the named");
    }
    for placement in &compiled.placements {
        let of = container(&placement.container).unwrap();
        if placement.serving {
            assert_eq!(of.state, ContainerState::Running, "only what runs is served");
            assert_ne!(placement.readiness, Some(Readiness::Cold), "a cold endpoint takes nothing");
        }
        let target = &compiled.targets[&placement.target];
        assert_ne!(target.container.as_ref(), Some(&placement.container), "no proxy serves itself");
        if let Some(ip) = placement.address.map(|address| address.get().ip())
            && ip.is_loopback()
            && config.clusters[target.cluster.as_ref().unwrap()].backend_override_address != Some(ip)
        {
            // Loopback is right only for what listens on the host that the proxy stands on itself; the
            // generator also gives containers such addresses on their networks, which Docker never does.
            let on_network = of.networks.values().any(|a| a.ipv4 == Some(ip) || a.ipv6 == Some(ip));
            let proxy = target.container.as_ref().and_then(container);
            let gateway = proxy.is_some_and(|p| p.networks.values().any(|a| a.gateway == Some(ip)));
            let on_host = proxy.is_none_or(|proxy| proxy.host_network);
            assert!(on_network || gateway || on_host, "{placement:?}");
        }
    }
    if config.read_only {
        assert!(compiled.networks.is_empty() && compiled.boots.is_empty(), "read-only writes nothing");
    }
    for id in compiled.boots.keys() {
        assert!(!observed.receipted.contains(id), "what had a Receipt is never booted again");
        assert!(!container(id).unwrap().stopped_by_request, "what was stopped stays stopped");
    }
    let sorted: BTreeSet<_> = compiled.findings.iter().cloned().collect();
    assert_eq!(sorted.into_iter().collect::<Vec<_>>(), compiled.findings, "findings are sorted, each once");
}

/// The same facts as they would arrive in another order.
fn reordered(observed: &Observed, swap: bool) -> Observed {
    let mut other = observed.clone();
    for container in other.engines.values_mut().flat_map(|view| view.containers.values_mut()) {
        container.published.reverse();
        if swap && container.published.len() > 2 {
            container.published.swap(0, 1);
        }
    }
    other
}

proptest! {
    #[test]
    fn whatever_is_observed_compiles_and_holds(observed in observed(), config in config()) {
        let compiled = compile(&observed, &config);
        holds(&compiled, &observed, &config);
        for host in ["a.example.com", "b.example.com:80", "name-3", "x y", ""] {
            why(&compiled, &observed, &config, host, "/app");
        }
    }

    #[test]
    fn the_order_of_the_facts_does_not_matter(observed in observed(), config in config(), swap in any::<bool>()) {
        prop_assert_eq!(compile(&observed, &config), compile(&reordered(&observed, swap), &config));
    }

    /// An engine's name is for people and for the way back; no plan depends on it.
    #[test]
    fn names_of_engines_do_not_matter(observed in observed(), config in config()) {
        let mut renamed = observed.clone();
        let view = renamed.engines.remove(&"local".parse().unwrap()).unwrap();
        renamed.engines.insert("another".parse().unwrap(), view);
        prop_assert_eq!(compile(&observed, &config).plans, compile(&renamed, &config).plans);
    }

    /// What is settled once stays settled: compiling again with what was remembered changes nothing.
    #[test]
    fn remembered_ownership_is_stable(observed in observed(), config in config()) {
        let first = compile(&observed, &config);
        let again = Observed { ownership: first.ownership.clone(), ..observed };
        let second = compile(&again, &config);
        prop_assert_eq!(&first.ownership, &second.ownership);
        // On several proxies of one cluster the first one's answer becomes everybody's.
        if first.plans.len() == 1 {
            prop_assert_eq!(first.plans, second.plans);
        }
    }

    /// Probes that pass admit, and every endpoint that waits for one is asked about.
    #[test]
    fn every_cold_endpoint_has_a_probe_that_can_warm_it(observed in observed()) {
        let spec = |kind| ServiceClusterSpec { readiness: ReadinessMode::Probe, ..ServiceClusterSpec::implicit(kind) };
        let config = Config {
            clusters: BTreeMap::from([
                ("haproxy".parse().unwrap(), spec(ProxyKind::Haproxy)),
                ("nginx".parse().unwrap(), spec(ProxyKind::Nginx)),
            ]),
            embedded: None,
            read_only: false,
        };
        let cold = compile(&observed, &config);
        let passed = ProbeResult { passing: true, passed_once: true, error: None, took_ms: None };
        let probes = cold.probes.iter().map(|(target, set)| {
            (target.clone(), set.probes.keys().map(|key| (key.clone(), passed.clone())).collect())
        });
        let warm = compile(&Observed { probes: probes.collect(), ..observed }, &config);
        prop_assert!(warm.placements.iter().all(|p| p.readiness != Some(Readiness::Cold)));
    }
}
