//! Properties of compiling: order does not matter, nothing panics, and what must hold of every plan does.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use interlock_core::compile::{Compiled, Config, Memory, compile, compile_with};
use interlock_core::declared::Declared;
use interlock_core::explain::why;
use interlock_core::model::{
    AgentView, Attachment, ClusterName, Container, ContainerId, ContainerState, Departed, EngineView,
    Freshness, Health, Observed, Port, ProbeResult, PublishedPort, Readiness, Shared, Timestamp,
};
use interlock_core::plan::Abilities;
use interlock_crds::{ClaimSpec, ProxyKind, ReadinessMode, RouteSpec, ServiceClusterSpec, Sharing};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

const NETWORKS: [&str; 4] = ["front", "shop_back", "bridge", "host"];
const LABELS: [(&str, &[&str]); 19] = [
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
    ("interlock.allow", &["10.0.0.0/8", "10.0.0.1, ::/0", "everybody", ""]),
    ("interlock.limits.bodysize", &["9", "1k", ""]),
    ("interlock.deny", &["10.1.0.0/16", "::ffff:0:0/96", "10.0.0.0/33"]),
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

/// Documents about the same hosts and containers as the labels.
fn declared() -> impl Strategy<Value = Declared> {
    let hosts = vec(select(vec!["a.example.com", "b.example.com", "*.example.com", "bad host"]), 0..3);
    let path = select(vec!["/", "/app", "/app/x", "/../etc"]);
    let named = select(vec![
        r#"{"name": "name-1"}"#,
        r#"{"name": "name-2", "port": 8080, "weight": 3}"#,
        r#"{"kind": "ComposeService", "project": "shop", "name": "x"}"#,
        r#"{"selector": {"matchLabels": {"com.docker.compose.project": "shop"}}}"#,
        r#"{"kind": "Address", "address": "192.0.2.7", "port": 80}"#,
    ]);
    let policy = select(vec![
        "{}",
        r#"{"allow": ["10.0.0.0/8"]}"#,
        r#"{"deny": ["10.0.0.0/8"], "allow": ["::/0"]}"#,
        r#"{"limits": {"bodySize": 9}}"#,
        r#"{"forwardAuth": {"address": "http://192.0.2.9/"}}"#,
        r#"{"tls": {"redirect": true}, "warm": true}"#,
        r#"{"parentRefs": [{"name": "nginx"}]}"#,
    ]);
    let route = (hosts, vec((path, vec(named, 0..3)), 0..3), policy).prop_map(|(hosts, rules, policy)| {
        let rule = |(path, named): &(&str, Vec<&str>)| {
            let refs: Vec<Value> = named.iter().map(|one| serde_json::from_str(one).unwrap()).collect();
            json!({"matches": [{"path": {"value": path}}], "backendRefs": refs})
        };
        let mut spec: Value = serde_json::from_str(policy).unwrap();
        spec["hostnames"] = json!(hosts);
        spec["rules"] = rules.iter().map(rule).collect();
        serde_json::from_value::<RouteSpec>(spec).unwrap().into()
    });
    let name = select(vec!["default/a", "shop/b"]).prop_map(|name| name.parse().unwrap());
    btree_map(name, route, 0..3).prop_map(|routes| Declared { routes, ..Declared::default() })
}

/// Clusters that documents declare, some of them under a name that the settings have.
fn clusters() -> impl Strategy<Value = BTreeMap<ClusterName, Shared<ServiceClusterSpec>>> {
    let name = select(vec!["haproxy", "nginx", "edge"]).prop_map(|name| name.parse().unwrap());
    let spec = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(nginx, named, claimed)| {
        let claims = vec![ClaimSpec { hosts: vec!["*".to_owned()], owners: vec!["image:*".to_owned()] }];
        let spec = ServiceClusterSpec {
            proxies: if named { vec!["name-1".to_owned()] } else { Vec::new() },
            claims: if claimed { claims } else { Vec::new() },
            ..ServiceClusterSpec::implicit(if nginx { ProxyKind::Nginx } else { ProxyKind::Haproxy })
        };
        spec.into()
    });
    btree_map(name, spec, 0..3)
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
    let address = prop::option::of(address());
    (vec(container(), 0..10), fresh, address, ids(), ids(), ids(), agents, declared()).prop_map(
        |(containers, freshness, address, draining, was_healthy, receipted, agents, declared)| {
            let containers = containers.into_iter().map(|one| (one.id.clone(), one.into())).collect();
            let view = EngineView { freshness, address, containers, departed: BTreeMap::new() };
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
                declared: declared.into(),
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
                implicit: BTreeSet::from(["nginx".parse().unwrap()]),
                embedded: embedded.then(|| "haproxy".parse().unwrap()),
                read_only,
                ..Config::default()
            }
        })
}

/// What happens between two looks.
#[derive(Debug, Clone)]
enum Change {
    /// A container comes, or is another one now.
    Is(Box<Container>),
    /// It is there no longer; its run is remembered for a while, or not.
    Gone(u8, bool),
    /// It is told to stop, or has stopped.
    Drains(u8),
    WasHealthy(u8),
    /// A probe of it passes, or fails.
    Probed(u8, bool),
    /// Nothing but time, in seconds.
    Passes(u64),
    /// Runs that have ended are forgotten.
    Forgets,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => container().prop_map(|container| Change::Is(Box::new(container))),
        1 => (0..12_u8, any::<bool>()).prop_map(|(n, remembered)| Change::Gone(n, remembered)),
        1 => (0..12_u8).prop_map(Change::Drains),
        1 => (0..12_u8).prop_map(Change::WasHealthy),
        3 => (0..12_u8, any::<bool>()).prop_map(|(n, passes)| Change::Probed(n, passes)),
        1 => (0..400_u64).prop_map(Change::Passes),
        1 => Just(Change::Forgets),
    ]
}

impl Change {
    fn made(self, now: &mut Observed, compiled: &Compiled) {
        let id = |n: u8| format!("c{n}").parse::<ContainerId>().unwrap();
        now.at.0 += 7;
        let at = now.at;
        let view = now.engines.values_mut().next().unwrap();
        let toggle = |set: &mut BTreeSet<ContainerId>, id: ContainerId| {
            if !set.remove(&id) {
                set.insert(id);
            }
        };
        match self {
            Self::Is(container) => {
                view.containers.insert(container.id.clone(), (*container).into());
            }
            Self::Gone(n, remembered) => {
                if let Some(container) = view.containers.remove(&id(n)).filter(|_| remembered) {
                    view.departed.insert(id(n), Departed { at, container });
                }
            }
            Self::Drains(n) => toggle(&mut now.draining, id(n)),
            Self::WasHealthy(n) => toggle(&mut now.was_healthy, id(n)),
            Self::Probed(n, passing) => {
                for place in compiled.placements.iter().filter(|place| place.container == id(n)) {
                    let Some(key) = place.probe.clone() else { continue };
                    let known = now.probes.entry(place.target.clone()).or_default().change();
                    let before = known.get(&key).is_some_and(|known| known.passed_once);
                    let result =
                        ProbeResult { passing, passed_once: passing || before, error: None, took_ms: None };
                    known.insert(key, result);
                }
            }
            Self::Passes(seconds) => now.at.0 += seconds * 1000,
            Self::Forgets => view.departed.clear(),
        }
    }
}

/// What holds of everything that is ever compiled.
fn holds(compiled: &Compiled, observed: &Observed, config: &Config) {
    let container = |id: &_| observed.engines.values().find_map(|view| view.containers.get(id));
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
        let Some(of) = container(&placement.container) else {
            assert!(!observed.declared.routes.is_empty(), "only documents name addresses");
            continue;
        };
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
        let container = container.change();
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
    fn what_is_remembered_changes_no_answer(
        worlds in vec((observed(), prop::option::of(config())), 1..5),
        first in config(),
    ) {
        let (mut memory, mut config) = (Memory::default(), first);
        let mut before = Observed::default();
        for (mut observed, other) in worlds {
            config = other.unwrap_or(config);
            // Containers that stay as they were are the very same value, as a source hands them on.
            for (engine, view) in &before.engines {
                if let Some(now) = observed.engines.get_mut(engine) {
                    now.containers.extend(view.containers.iter().take(4).map(|(id, one)| (id.clone(), one.clone())));
                }
            }
            if observed.declared == before.declared {
                observed.declared = before.declared.clone();
            }
            prop_assert_eq!(&*compile_with(&observed, &config, &mut memory), &compile(&observed, &config));
            before = observed;
        }
    }

    /// Where only what a change touches is compiled again, it comes to what all of it comes to.
    #[test]
    fn one_change_after_the_other_comes_to_the_whole(
        first in observed(),
        config in config(),
        changes in vec((change(), prop::option::weighted(0.3, clusters())), 1..12),
    ) {
        let mut memory = Memory::default();
        let mut now = Observed { declared: Declared::default().into(), ..first };
        let mut compiled = compile_with(&now, &config, &mut memory);
        for (change, clusters) in changes {
            change.made(&mut now, &compiled);
            if let Some(clusters) = clusters {
                now.declared = Declared { clusters, ..Declared::default() }.into();
            }
            (now.standings, now.ownership) = (compiled.standings.clone(), compiled.ownership.clone());
            compiled = compile_with(&now, &config, &mut memory);
            prop_assert_eq!(&*compiled, &compile(&now, &config));
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
            ..Config::default()
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
