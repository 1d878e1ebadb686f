//! What holds for every container, whatever its labels and environment say.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::intent::keys::{Dialect, KEYS};
use interlock_core::intent::{Intent, Parsed, parse};
use interlock_core::model::{Container, ContainerState, Health, Timestamp};
use interlock_crds::{ProxyKind, ServiceClusterSpec};
use proptest::prelude::*;

fn container(labels: BTreeMap<String, String>, data: Option<String>, hostname: String) -> Container {
    Container {
        id: "a".repeat(64).parse().unwrap(),
        name: "web".to_owned(),
        image: "web:1".to_owned(),
        created: Timestamp(1),
        started: Timestamp(1),
        state: ContainerState::Running,
        health: Health::None,
        hostname,
        domainname: String::new(),
        labels,
        image_labels: BTreeMap::new(),
        data,
        image_data: None,
        host_network: false,
        network_of: None,
        networks: BTreeMap::new(),
        published: Vec::new(),
        exposed: BTreeSet::new(),
        stop_signal: String::new(),
        exit_code: None,
        stopped_by_request: false,
        mounts: BTreeSet::new(),
        read_only: false,
    }
}

fn read(container: &Container, spec: &ServiceClusterSpec) -> Parsed {
    parse(&"local".parse().unwrap(), container, spec)
}

/// Values that are right for some key, and any text at all.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "true",
            "no",
            "80",
            "0",
            "shop.example.com",
            "*.example.com",
            "/app",
            "httpchk GET /x",
            "a.pem",
            "leastconn",
            "forwardfor",
            "front",
            "none",
            "a.org,b.org",
            "ws://x/y",
            "\r\n",
            "%[src]",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ]
}

/// Keys that exist, with and without a route's name and a suffix, and any text at all.
fn label() -> impl Strategy<Value = String> {
    let names: Vec<&'static str> =
        KEYS.iter().filter(|key| key.dialect == Dialect::Label).map(|key| key.name).collect();
    let known = prop::sample::select(names);
    prop_oneof![
        (
            prop::sample::select(vec!["", "web.", "api."]),
            known,
            prop::sample::select(vec!["", "", ".0", ".10"])
        )
            .prop_map(|(route, key, suffix)| format!("interlock.{route}{key}{suffix}")),
        any::<String>().prop_map(|text| format!("interlock.{text}")),
        any::<String>(),
    ]
}

fn data() -> impl Strategy<Value = Option<String>> {
    let names: Vec<&'static str> =
        KEYS.iter().filter(|key| key.dialect == Dialect::Data).map(|key| key.name).collect();
    let json = prop_oneof![
        value().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        prop::collection::vec(value(), 0..3).prop_map(serde_json::Value::from),
        Just(serde_json::json!({"a": [null, {}]})),
    ];
    let object = prop::collection::btree_map(
        prop_oneof![prop::sample::select(names).prop_map(str::to_owned), any::<String>()],
        json,
        0..8,
    );
    prop_oneof![
        Just(None),
        any::<String>().prop_map(Some),
        object.prop_map(|object| serde_json::to_string(&object).ok()),
    ]
}

fn anything() -> impl Strategy<Value = Container> {
    let hostname = prop_oneof![any::<String>(), Just("www.example.com".to_owned()), Just("a".repeat(12))];
    (prop::collection::btree_map(label(), value(), 0..12), data(), hostname)
        .prop_map(|(labels, data, hostname)| container(labels, data, hostname))
}

fn spec() -> impl Strategy<Value = ServiceClusterSpec> {
    (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![Just("local".to_owned()), any::<String>()])
        .prop_map(|(nginx, trust_image_labels, container_hostnames, default_domain)| ServiceClusterSpec {
            trust_image_labels,
            container_hostnames,
            default_domain,
            ..ServiceClusterSpec::implicit(if nginx { ProxyKind::Nginx } else { ProxyKind::Haproxy })
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_the_answer_is_sound(container in anything(), spec in spec()) {
        let parsed = read(&container, &spec);
        prop_assert_eq!(&parsed, &read(&container, &spec));
        let mut sorted = parsed.findings.clone();
        sorted.sort();
        sorted.dedup();
        prop_assert_eq!(&sorted, &parsed.findings);
        for intent in &parsed.intents {
            prop_assert!(!intent.hosts.is_empty());
            let distinct: BTreeSet<_> = intent.hosts.iter().collect();
            prop_assert_eq!(distinct.len(), intent.hosts.len());
            // Reading it back goes through every type's own parser.
            let json = serde_json::to_string(intent).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Intent>(&json).unwrap(), intent);
            prop_assert!(!json.contains("\\n") && !json.contains("\\r") && !json.contains("\\u0000"));
        }
        for finding in &parsed.findings {
            let key = finding.subject.key.as_deref().unwrap_or_default();
            let told = format!("{}{:?}{key}", finding.message, finding.fix);
            prop_assert!(!told.chars().any(char::is_control), "{told:?}");
        }
    }

    #[test]
    fn junk_beside_a_good_route_does_not_touch_it(
        junk in prop::collection::btree_map(any::<String>(), value(), 0..12),
        data in data(),
    ) {
        let good = ("interlock.web.host".to_owned(), "web.example.com".to_owned());
        let alone = read(
            &container(BTreeMap::from([good.clone()]), None, String::new()),
            &ServiceClusterSpec::implicit(ProxyKind::Haproxy),
        );
        let mut labels: BTreeMap<String, String> =
            junk.into_iter().map(|(key, value)| (format!("interlock.junk.{key}"), value)).collect();
        labels.insert(good.0, good.1);
        let beside =
            read(&container(labels, data, String::new()), &ServiceClusterSpec::implicit(ProxyKind::Haproxy));
        prop_assert!(beside.intents.contains(&alone.intents[0]));
    }

    #[test]
    fn what_an_image_says_makes_no_route(container in anything()) {
        let mut baked = container;
        baked.image_labels.clone_from(&baked.labels);
        baked.image_data.clone_from(&baked.data);
        baked.hostname = String::new();
        let parsed = read(&baked, &ServiceClusterSpec::implicit(ProxyKind::Haproxy));
        prop_assert!(parsed.intents.is_empty());
        prop_assert!(parsed.findings.len() <= 1, "{:?}", parsed.findings);
        prop_assert!(parsed.findings.iter().all(|finding| finding.subject.key.as_deref() != Some("")));
    }
}
