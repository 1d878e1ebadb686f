//! What containers ask for, rule by rule, as tables: labels and data in, routes and findings out.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

use std::collections::BTreeMap;

use interlock_core::finding::{Finding, Verdict};
use interlock_core::intent::{CheckKind, Intent, Parsed, parse};
use interlock_core::model::{
    Container, ContainerState, EngineId, Health, PathPrefix, PublishedPort, Timestamp,
};
use interlock_core::plan::{Balance, HaproxyOption};
use interlock_crds::{ProxyKind, ReadinessMode, ServiceClusterSpec};

const ID: &str = "be35fcb21d252ef03e5dbf14c4d6a348a24d22297d033ee3f8f76a3e932aeb7b";

fn container(labels: &[(&str, &str)]) -> Container {
    Container {
        id: ID.parse().unwrap(),
        name: "web-1".to_owned(),
        image: "registry.example.com:5000/team/web:1.2@sha256:00".to_owned(),
        created: Timestamp(1),
        started: Timestamp(1),
        state: ContainerState::Running,
        health: Health::None,
        hostname: ID[..12].to_owned(),
        domainname: String::new(),
        labels: map(labels),
        image_labels: BTreeMap::new(),
        data: None,
        image_data: None,
        host_network: false,
        network_of: None,
        networks: BTreeMap::new(),
        published: Vec::new(),
        exposed: std::iter::once("80".parse().unwrap()).collect(),
        stop_signal: String::new(),
        exit_code: None,
        stopped_by_request: false,
        mounts: std::collections::BTreeSet::new(),
        read_only: false,
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn with_data(labels: &[(&str, &str)], data: &str) -> Container {
    Container { data: Some(data.to_owned()), ..container(labels) }
}

fn named(hostname: &str, domainname: &str, labels: &[(&str, &str)]) -> Container {
    Container { hostname: hostname.to_owned(), domainname: domainname.to_owned(), ..container(labels) }
}

fn haproxy() -> ServiceClusterSpec {
    ServiceClusterSpec::implicit(ProxyKind::Haproxy)
}

fn read(container: &Container) -> Parsed {
    parse(&"local".parse::<EngineId>().unwrap(), container, &haproxy())
}

fn read_as(container: &Container, spec: &ServiceClusterSpec) -> Parsed {
    parse(&"local".parse::<EngineId>().unwrap(), container, spec)
}

/// `web: a.example.com b.example.com /app -> 80`, for each route.
fn routes(parsed: &Parsed) -> Vec<String> {
    parsed.intents.iter().map(route).collect()
}

fn route(intent: &Intent) -> String {
    let name = intent.route.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    let hosts: Vec<String> = intent.hosts.iter().map(ToString::to_string).collect();
    let path = if intent.path.is_root() { String::new() } else { format!(" {}", intent.path) };
    let rewrite = if intent.rewrite { " stripped" } else { "" };
    let port = intent.port.map(|port| format!(" -> {port}")).unwrap_or_default();
    let own = if intent.by_container_hostname { " by hostname" } else { "" };
    format!("{name}{}{path}{rewrite}{port}{own}", hosts.join(" "))
}

/// `Refused InvalidPort interlock.port`, for each finding.
fn told(parsed: &Parsed) -> Vec<String> {
    parsed.findings.iter().map(tell).collect()
}

fn tell(finding: &Finding) -> String {
    let key = finding.subject.key.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
    format!("{:?} {}{key}", finding.verdict, finding.reason)
}

/// One container and what is to come of it.
struct Case {
    name: &'static str,
    container: Container,
    routes: &'static [&'static str],
    told: &'static [&'static str],
}

fn check_all(cases: Vec<Case>) {
    for case in cases {
        let parsed = read(&case.container);
        assert_eq!(routes(&parsed), case.routes, "routes of: {} {:#?}", case.name, parsed.findings);
        assert_eq!(told(&parsed), case.told, "findings of: {} {:#?}", case.name, parsed.findings);
        for finding in &parsed.findings {
            assert!(!finding.message.is_empty() && !finding.message.ends_with('.'), "{}", finding.message);
            assert!(finding.subject.container.is_some() && finding.subject.engine.is_some());
        }
    }
}

fn case(
    name: &'static str,
    container: Container,
    routes: &'static [&'static str],
    told: &'static [&'static str],
) -> Case {
    Case { name, container, routes, told }
}

const SHOP: (&str, &str) = ("interlock.host", "shop.example.com");

#[test]
fn names_come_from_host_or_from_hostname_and_domain() {
    check_all(vec![
        case("a full name", container(&[SHOP]), &["shop.example.com"], &[]),
        case("any case", container(&[("interlock.host", "Shop.Example.COM.")]), &["shop.example.com"], &[]),
        case("a wildcard", container(&[("interlock.host", "*.example.com")]), &["*.example.com"], &[]),
        case("a list", container(&[("interlock.host", "b.org, a.org,b.org")]), &["b.org a.org"], &[]),
        case(
            "hostname and domain",
            container(&[("interlock.hostname", "www"), ("interlock.domain", "example.com")]),
            &["www.example.com"],
            &[],
        ),
        case(
            "hostname equal to domain",
            container(&[("interlock.hostname", "example.com"), ("interlock.domain", "example.com")]),
            &["example.com"],
            &[],
        ),
        case("domain alone", container(&[("interlock.domain", "example.com")]), &["example.com"], &[]),
        case(
            "empty hostname",
            container(&[("interlock.hostname", ""), ("interlock.domain", "example.com")]),
            &["example.com"],
            &["Note InvalidValue interlock.hostname"],
        ),
        case("bare hostname", container(&[("interlock.hostname", "test")]), &["test.local"], &[]),
        case(
            "full hostname, no domain",
            container(&[("interlock.hostname", "www.example.com")]),
            &["www.example.com"],
            &[],
        ),
        case(
            "full hostname that ends in the domain",
            container(&[("interlock.hostname", "www.example.com"), ("interlock.domain", "example.com")]),
            &["www.example.com"],
            &[],
        ),
        case(
            "hostname of two labels",
            container(&[("interlock.hostname", "a.b"), ("interlock.domain", "example.com")]),
            &["a.b.example.com"],
            &[],
        ),
        case(
            "host beats hostname and domain, and says so",
            container(&[SHOP, ("interlock.hostname", "www"), ("interlock.domain", "example.com")]),
            &["shop.example.com"],
            &["Note Overridden interlock.hostname"],
        ),
        case(
            "the same name twice needs no word",
            container(&[SHOP, ("interlock.hostname", "shop"), ("interlock.domain", "example.com")]),
            &["shop.example.com"],
            &[],
        ),
        case(
            "a key without any host",
            container(&[("interlock.port", "8080")]),
            &[],
            &["Refused InvalidHost interlock.port"],
        ),
        case("nothing asked", container(&[]), &[], &[]),
        case(
            "only the container's own keys",
            container(&[("interlock.network", "front"), ("interlock.owner", "me")]),
            &[],
            &[],
        ),
    ]);
}

#[test]
fn aliases_are_ordered_as_people_count_and_fail_alone() {
    check_all(vec![
        case(
            "natural order, duplicates dropped",
            container(&[
                SHOP,
                ("interlock.alias_domain.10", "ten.org"),
                ("interlock.alias_domain.2", "two.org"),
                ("interlock.alias_domain.www", "www.org"),
                ("interlock.alias_domain", "bare.org"),
                ("interlock.alias_domain.3", "two.org"),
                ("interlock.alias_domain.4", "shop.example.com"),
            ]),
            &["shop.example.com bare.org two.org ten.org www.org"],
            &[],
        ),
        case(
            "the plural that older Interlocks took",
            container(&[SHOP, ("interlock.alias_domains", "a.org,b.org")]),
            &["shop.example.com a.org b.org"],
            &[],
        ),
        case(
            "a bad alias costs only itself",
            container(&[
                SHOP,
                ("interlock.alias_domain.0", "bad_name.org"),
                ("interlock.alias_domain.1", "good.org"),
            ]),
            &["shop.example.com good.org"],
            &["Degraded InvalidHost interlock.alias_domain.0"],
        ),
        case(
            "aliases alone are no route",
            container(&[("interlock.alias_domain", "good.org")]),
            &[],
            &["Refused InvalidHost interlock.alias_domain"],
        ),
        case(
            "labels' aliases beat the data's",
            with_data(
                &[SHOP, ("interlock.alias_domain", "label.org")],
                r#"{"alias_domains": ["data.org", "label.org"]}"#,
            ),
            &["shop.example.com label.org"],
            &["Note Overridden INTERLOCK_DATA.alias_domains[0]"],
        ),
    ]);
}

#[test]
fn a_bad_host_path_port_or_network_refuses_its_route_only() {
    check_all(vec![
        case(
            "a bad host",
            container(&[("interlock.host", "bad host")]),
            &[],
            &["Refused InvalidHost interlock.host"],
        ),
        case(
            "the name that Interlock itself asks nginx under",
            container(&[("interlock.host", "Interlock.Invalid.")]),
            &[],
            &["Refused InvalidHost interlock.host"],
        ),
        case(
            "the same from a host name and a domain",
            container(&[("interlock.hostname", "interlock"), ("interlock.domain", "invalid")]),
            &[],
            &["Refused InvalidHost interlock.hostname"],
        ),
        case(
            "one bad host of two",
            container(&[("interlock.host", "good.org,bad_host")]),
            &["good.org"],
            &["Degraded InvalidHost interlock.host"],
        ),
        case(
            "bad hostname",
            container(&[("interlock.hostname", "-x"), ("interlock.domain", "example.com")]),
            &[],
            &["Refused InvalidHost interlock.hostname"],
        ),
        case(
            "bad path",
            container(&[SHOP, ("interlock.path", "/a/../b")]),
            &[],
            &["Refused InvalidPath interlock.path"],
        ),
        case(
            "bad port",
            container(&[SHOP, ("interlock.port", "0")]),
            &[],
            &["Refused InvalidPort interlock.port"],
        ),
        case(
            "bad network",
            container(&[SHOP, ("interlock.network", "a b")]),
            &[],
            &["Refused InvalidValue interlock.network"],
        ),
        case(
            "neighbours stay",
            container(&[
                ("interlock.web.host", "web.org"),
                ("interlock.api.host", "api.org"),
                ("interlock.api.port", "http"),
                ("interlock.app.host", "app.org"),
                ("interlock.app.port", "8080/tcp"),
            ]),
            &["app: app.org -> 8080", "web: web.org"],
            &["Refused InvalidPort interlock.api.port"],
        ),
    ]);
}

#[test]
fn named_routes_stand_beside_lists_and_reserved_labels() {
    check_all(vec![
        case(
            "two named routes and the unnamed one",
            container(&[
                SHOP,
                ("interlock.admin.host", "admin.example.com"),
                ("interlock.admin.port", "9000"),
                ("interlock.admin.path", "/ui"),
                ("interlock.admin.rewrite", "yes"),
                ("interlock.admin.alias_domain.0", "a.example.com"),
                ("interlock.old.hostname", "www"),
                ("interlock.old.domain", "example.org"),
            ]),
            &[
                "shop.example.com",
                "admin: admin.example.com a.example.com /ui stripped -> 9000",
                "old: www.example.org",
            ],
            &[],
        ),
        case(
            "a named route without a host",
            container(&[("interlock.web.port", "80")]),
            &[],
            &["Refused InvalidHost interlock.web.port"],
        ),
        case(
            "Interlock's own labels",
            container(&[
                ("interlock.ext.name", "haproxy"),
                ("interlock.app", "main"),
                ("interlock.agent", "x"),
                ("interlock.ext.service.name", "y"),
                ("com.docker.lb.hosts", "z.org"),
            ]),
            &[],
            &[],
        ),
        case(
            "a name that is no name",
            container(&[("interlock.a b.host", "x.org")]),
            &[],
            &["Note UnknownKey interlock.a b.host"],
        ),
        case(
            "the owner is the container's",
            container(&[("interlock.web.owner", "me"), ("interlock.web.host", "x.org")]),
            &["web: x.org"],
            &["Degraded UnknownKey interlock.web.owner"],
        ),
    ]);
}

#[test]
fn what_is_said_for_the_container_holds_for_its_named_routes() {
    let parsed = read(&container(&[
        ("interlock.network", "front"),
        ("interlock.readiness", "none"),
        ("interlock.a.host", "a.org"),
        ("interlock.b.host", "b.org"),
        ("interlock.b.network", "back"),
    ]));
    assert_eq!(told(&parsed), Vec::<String>::new());
    let networks: Vec<_> = parsed.intents.iter().map(|intent| intent.network.as_deref()).collect();
    assert_eq!(networks, [Some("front"), Some("back")]);
    assert!(parsed.intents.iter().all(|intent| intent.readiness == Some(ReadinessMode::None)));
}

#[test]
fn unknown_keys_are_told_with_what_was_meant() {
    let meant = [
        ("interlock.prot", "interlock.port"),
        ("interlock.hots", "interlock.host"),
        ("interlock.Hostname", "interlock.hostname"),
        ("interlock.alias-domain", "interlock.alias_domain"),
        ("interlock.sslonly", "interlock.ssl_only"),
        ("interlock.check", "interlock.health_check"),
        ("interlock.ssl_certificate", "interlock.ssl_cert"),
        ("interlock.port.0", "interlock.port"),
        ("interlock.web.prot", "interlock.web.port"),
        ("interlock.web.check", "interlock.web.health_check"),
    ];
    for (label, meant) in meant {
        let parsed = read(&container(&[SHOP, (label, "8080")]));
        assert_eq!(told(&parsed), [format!("Degraded UnknownKey {label}")]);
        assert_eq!(
            parsed.findings[0].fix.as_deref(),
            Some(format!("label `{meant}=8080`").as_str()),
            "{label}"
        );
        assert!(parsed.findings[0].message.contains("did you mean"), "{label}");
        assert_eq!(routes(&parsed), ["shop.example.com"]);
    }
    let parsed = read(&container(&[SHOP, ("interlock.colour", "red")]));
    assert_eq!(told(&parsed), ["Note UnknownKey interlock.colour"]);
    for (key, meant) in [("prot", "port"), ("health_check", "check"), ("alias_domain", "alias_domains")] {
        let parsed = read(&with_data(&[SHOP], &format!(r#"{{"{key}": "x"}}"#)));
        assert_eq!(told(&parsed), [format!("Degraded UnknownKey INTERLOCK_DATA.{key}")]);
        assert!(parsed.findings[0].message.ends_with(&format!("did you mean `{meant}`?")));
    }
}

#[test]
fn data_is_read_leniently_and_fails_key_by_key() {
    check_all(vec![
        case(
            "the first Interlock's own example",
            with_data(
                &[],
                r#"{"hostname": "www", "domain": "example.com", "alias_domains": ["a.org"], "port": 8080}"#,
            ),
            &["www.example.com a.org -> 8080"],
            &[],
        ),
        case(
            "an equals sign",
            with_data(&[], r#"{"domain": "e.org", "check": "httpchk GET /?a=b"}"#),
            &["e.org"],
            &[],
        ),
        case(
            "a number as text",
            with_data(&[], r#"{"domain": "e.org", "port": "81"}"#),
            &["e.org -> 81"],
            &[],
        ),
        case(
            "any case of a key",
            with_data(&[], r#"{"Domain": "e.org", "PORT": 81}"#),
            &["e.org -> 81"],
            &[],
        ),
        case("null says nothing", with_data(&[], r#"{"domain": "e.org", "port": null}"#), &["e.org"], &[]),
        case(
            "one text for a list",
            with_data(&[], r#"{"domain": "e.org", "alias_domains": "a.org"}"#),
            &["e.org a.org"],
            &[],
        ),
        case(
            "wrong types cost only themselves",
            with_data(
                &[],
                r#"{"domain": "e.org", "port": [1], "alias_domains": ["a.org", 5], "ssl_only": {}, "warm": "", "check": 7}"#,
            ),
            &["e.org a.org"],
            &[
                "Degraded InvalidValue INTERLOCK_DATA.alias_domains[1]",
                "Degraded InvalidValue INTERLOCK_DATA.check",
                "Degraded InvalidValue INTERLOCK_DATA.port",
                "Degraded InvalidValue INTERLOCK_DATA.ssl_only",
                "Degraded InvalidValue INTERLOCK_DATA.warm",
            ],
        ),
        case(
            "not an object: labels still count",
            with_data(&[SHOP], r#"["x"]"#),
            &["shop.example.com"],
            &["Degraded InvalidData INTERLOCK_DATA"],
        ),
        case(
            "not JSON",
            with_data(&[SHOP], "{'a'}"),
            &["shop.example.com"],
            &["Degraded InvalidData INTERLOCK_DATA"],
        ),
    ]);
}

#[test]
fn labels_beat_data_beats_the_container_setting_by_setting() {
    let both = Container {
        data: Some(r#"{"hostname": "data", "domain": "data.org", "port": 1, "ssl_only": true}"#.to_owned()),
        ..named("own", "own.org", &[("interlock.hostname", "label"), ("interlock.port", "2")])
    };
    check_all(vec![
        case(
            "each setting by its strongest source",
            both,
            &["label.data.org -> 2"],
            &["Note Overridden INTERLOCK_DATA.hostname", "Note Overridden INTERLOCK_DATA.port"],
        ),
        case(
            "agreeing sources need no word",
            with_data(&[SHOP, ("interlock.port", "8080")], r#"{"port": "8080"}"#),
            &["shop.example.com -> 8080"],
            &[],
        ),
        case(
            "a full name needs no weaker domain",
            with_data(&[("interlock.hostname", "www.label.org")], r#"{"domain": "data.org"}"#),
            &["www.label.org"],
            &["Note Overridden INTERLOCK_DATA.domain"],
        ),
        case(
            "the container's domain completes a label's host name",
            named("own", "own.org", &[("interlock.hostname", "label")]),
            &["label.own.org"],
            &[],
        ),
        case(
            "older Dockers cut the host name in two",
            Container { data: Some(r#"{"domain": "data.org"}"#.to_owned()), ..named("www.own.org", "", &[]) },
            &["www.data.org"],
            &[],
        ),
        case(
            "path beats context_root",
            container(&[SHOP, ("interlock.context_root", "/old"), ("interlock.path", "/new")]),
            &["shop.example.com /new"],
            &["Note Overridden interlock.context_root"],
        ),
    ]);
    let parsed = read(&with_data(&[SHOP, ("interlock.ssl_only", "false")], r#"{"ssl_only": true}"#));
    assert!(!parsed.intents[0].settings.https_only, "an explicit false is false");
    assert_eq!(told(&parsed), ["Note Overridden INTERLOCK_DATA.ssl_only"]);
}

#[test]
fn a_container_opts_in_by_a_host_name_that_somebody_gave_it() {
    let compose = |extra: &[(&str, &str)]| {
        let mut labels = vec![("com.docker.compose.project", "p"), ("com.docker.compose.service", "s")];
        labels.extend_from_slice(extra);
        named("www.example.com", "", &labels)
    };
    check_all(vec![
        case("a full name", named("www.example.com", "", &[]), &["www.example.com by hostname"], &[]),
        case("host and domain", named("www", "example.com", &[]), &["www.example.com by hostname"], &[]),
        case("the seed's name", named("test.local", "", &[]), &["test.local by hostname"], &[]),
        case("the short id", named(&ID[..12], "", &[]), &[], &[]),
        case("the short id with a domain", named(&ID[..12], "example.com", &[]), &[], &[]),
        case("another container's short id", named("0123456789ab", "", &[]), &[], &[]),
        case("no dot", named("www", "", &[]), &[], &[]),
        case(
            "the engine's own name",
            Container { host_network: true, ..named("node1.example.com", "", &[]) },
            &[],
            &[],
        ),
        case("compose", compose(&[]), &[], &[]),
        case("compose with a domain label", compose(&[("interlock.domain", "x.org")]), &["www.x.org"], &[]),
        case("Swarm", named("www.example.com", "", &[("com.docker.swarm.service.id", "abc")]), &[], &[]),
        case(
            "other settings go with it",
            Container { data: Some(r#"{"port": 8080}"#.to_owned()), ..named("www.example.com", "", &[]) },
            &["www.example.com -> 8080 by hostname"],
            &[],
        ),
        case(
            "who names routes has said what is wanted",
            named("www.example.com", "", &[("interlock.web.host", "web.org")]),
            &["web: web.org"],
            &[],
        ),
        case("a label asks by itself", named("www.example.com", "", &[SHOP]), &["shop.example.com"], &[]),
        case("a name that is none", named("www_1.example.com", "", &[]), &[], &["Note InvalidHost"]),
    ]);
    let off = ServiceClusterSpec { container_hostnames: false, ..haproxy() };
    assert_eq!(read_as(&named("www.example.com", "", &[]), &off), Parsed::default());
    // A container of an image that compose built, started by hand: its image names the project.
    let by_hand = Container {
        image_labels: map(&[("com.docker.compose.project", "p"), ("com.docker.compose.service", "s")]),
        ..compose(&[])
    };
    assert_eq!(routes(&read(&by_hand)), ["www.example.com by hostname"]);
    assert_eq!(read(&by_hand).intents[0].owner.as_str(), "image:registry.example.com:5000/team/web");
}

#[test]
fn image_labels_make_no_route_unless_trusted() {
    let baked = Container { image_labels: map(&[SHOP]), ..container(&[SHOP]) };
    check_all(vec![
        case("from the image", baked.clone(), &[], &["Note ImageNotTrusted interlock.host"]),
        case(
            "overridden by the container",
            Container { image_labels: map(&[SHOP]), ..container(&[("interlock.host", "own.org")]) },
            &["own.org"],
            &[],
        ),
        case(
            "the image's port does not count either",
            Container {
                image_labels: map(&[("interlock.port", "8080")]),
                ..container(&[SHOP, ("interlock.port", "8080")])
            },
            &["shop.example.com"],
            &["Note ImageNotTrusted interlock.port"],
        ),
        case(
            "nothing was lost",
            Container {
                image_labels: map(&[("interlock.app", "main"), ("interlock.prot", "1")]),
                ..container(&[("interlock.app", "main"), ("interlock.prot", "1")])
            },
            &[],
            &[],
        ),
        case(
            "data from the image",
            Container {
                image_data: Some(r#"{"domain": "e.org"}"#.to_owned()),
                ..with_data(&[], r#"{"domain": "e.org"}"#)
            },
            &[],
            &["Note ImageNotTrusted INTERLOCK_DATA"],
        ),
    ]);
    let trusting = ServiceClusterSpec { trust_image_labels: true, ..haproxy() };
    assert_eq!(routes(&read_as(&baked, &trusting)), ["shop.example.com"]);
    assert_eq!(told(&read_as(&baked, &trusting)), Vec::<String>::new());
}

#[test]
fn booleans_are_presence_or_a_word() {
    for (text, expected) in [
        ("", Some(true)),
        ("true", Some(true)),
        ("TRUE", Some(true)),
        ("1", Some(true)),
        ("Yes", Some(true)),
        ("false", Some(false)),
        ("0", Some(false)),
        ("no", Some(false)),
        ("on", None),
        ("2", None),
    ] {
        let parsed = read(&container(&[SHOP, ("interlock.warm", text)]));
        assert_eq!(parsed.intents[0].warm, expected.unwrap_or(false), "{text}");
        let told = told(&parsed);
        assert_eq!(told.is_empty(), expected.is_some(), "{text}: {told:?}");
        assert!(told.iter().all(|told| told == "Degraded InvalidValue interlock.warm"), "{told:?}");
    }
}

#[test]
fn health_checks_are_read_as_haproxy_reads_them() {
    let http = |method: &str, path: &str, host: Option<&str>| {
        Some(CheckKind::Http {
            method: method.to_owned(),
            path: path.to_owned(),
            host: host.map(str::to_owned),
        })
    };
    let cases: &[(&str, Option<CheckKind>, &[&str])] = &[
        ("httpchk", http("OPTIONS", "/", None), &[]),
        ("httpchk /ping", http("OPTIONS", "/ping", None), &[]),
        ("httpchk GET /ping", http("GET", "/ping", None), &[]),
        ("option httpchk GET  /ping?a=b&c=%20", http("GET", "/ping?a=b&c=%20", None), &[]),
        ("httpchk HEAD /x HTTP/1.1\\r\\nHost:\\ Foo.org", http("HEAD", "/x", Some("foo.org")), &[]),
        (
            "httpchk HEAD /x HTTP/1.1\\r\\nX-A:\\ b",
            http("HEAD", "/x", None),
            &["Degraded NotSupported interlock.health_check"],
        ),
        ("/ping", http("GET", "/ping", None), &[]),
        ("GET /ping", http("GET", "/ping", None), &[]),
        ("tcp-check", Some(CheckKind::Tcp), &[]),
        ("ssl-hello-chk", Some(CheckKind::Tcp), &["Degraded NotSupported interlock.health_check"]),
        ("mysql-check user x", Some(CheckKind::Tcp), &["Degraded NotSupported interlock.health_check"]),
        ("httpchk POST /x", None, &["Degraded InvalidValue interlock.health_check"]),
        ("httpchk GET ping", None, &["Degraded InvalidValue interlock.health_check"]),
        ("httpchk GET http://other.org/x", None, &["Degraded InvalidValue interlock.health_check"]),
        ("httpchk GET /x HTTP/9", None, &["Degraded InvalidValue interlock.health_check"]),
        ("httpchk GET /x\r\nHost: y", None, &["Degraded InvalidValue interlock.health_check"]),
        ("httpchk GET /%zz", None, &["Degraded InvalidValue interlock.health_check"]),
        ("httpchk GET /a/../b", None, &["Degraded InvalidValue interlock.health_check"]),
        (
            "httpchk HEAD /x HTTP/1.1\\r\\nHost:\\ a\\ b",
            None,
            &["Degraded InvalidValue interlock.health_check"],
        ),
        ("nonsense", None, &["Degraded InvalidValue interlock.health_check"]),
    ];
    for (text, kind, expected) in cases {
        let parsed = read(&container(&[SHOP, ("interlock.health_check", text)]));
        assert_eq!(parsed.intents[0].check.as_ref().map(|check| &check.kind), kind.as_ref(), "{text}");
        assert_eq!(told(&parsed), *expected, "{text}");
    }
}

#[test]
fn check_intervals_are_whole_milliseconds() {
    for (text, expected) in
        [("1", Some(1)), ("5000", Some(5000)), ("0", None), ("5s", None), ("-1", None), ("1.5", None)]
    {
        let parsed = read(&container(&[
            SHOP,
            ("interlock.health_check_interval", text),
            ("interlock.health_check", "/p"),
        ]));
        assert_eq!(parsed.intents[0].check.as_ref().and_then(|check| check.interval_ms), expected, "{text}");
        assert_eq!(told(&parsed).is_empty(), expected.is_some(), "{text}");
    }
    let control = read(&container(&[SHOP, ("interlock.health_check", "tcp-check\r\nx")]));
    assert!(control.findings[0].message.contains("control characters"), "{:?}", control.findings);
    let alone = read(&container(&[SHOP, ("interlock.health_check_interval", "100")]));
    assert_eq!(alone.intents[0].check.as_ref().map(|check| &check.kind), Some(&CheckKind::Tcp));
    let seconds = read(&container(&[SHOP, ("interlock.health_check_interval", "5s")]));
    assert_eq!(seconds.findings[0].fix.as_deref(), Some("label `interlock.health_check_interval=5000`"));
}

#[test]
fn balance_algorithms_are_mapped_or_told() {
    type Row = (&'static str, &'static [ProxyKind], Option<Balance>, &'static [&'static str]);
    const BOTH: &[ProxyKind] = &[ProxyKind::Haproxy, ProxyKind::Nginx];
    let cases: &[Row] = &[
        ("roundrobin", BOTH, Some(Balance::RoundRobin), &[]),
        ("LeastConn", BOTH, Some(Balance::LeastConn), &[]),
        ("source", BOTH, Some(Balance::ClientAddress), &[]),
        ("random", BOTH, Some(Balance::Random), &[]),
        ("uri", BOTH, Some(Balance::Uri), &[]),
        ("static-rr", BOTH, Some(Balance::RoundRobin), &["Note NotSupported interlock.balance_algorithm"]),
        ("first", BOTH, Some(Balance::First), &[]),
        ("url_param id", BOTH, None, &["Degraded NotSupported interlock.balance_algorithm"]),
        ("hdr(Host)", BOTH, None, &["Degraded NotSupported interlock.balance_algorithm"]),
        ("rdp-cookie", BOTH, None, &["Degraded NotSupported interlock.balance_algorithm"]),
        ("leastcon", BOTH, None, &["Degraded InvalidValue interlock.balance_algorithm"]),
    ];
    for (text, proxies, expected, findings) in cases {
        for proxy in *proxies {
            let spec = ServiceClusterSpec::implicit(*proxy);
            let parsed = read_as(&container(&[SHOP, ("interlock.balance_algorithm", text)]), &spec);
            assert_eq!(parsed.intents[0].settings.balance, *expected, "{text}");
            assert_eq!(told(&parsed), *findings, "{text} on {proxy:?}");
        }
    }
    let near = read(&container(&[SHOP, ("interlock.balance_algorithm", "leastcon")]));
    assert_eq!(near.findings[0].fix.as_deref(), Some("label `interlock.balance_algorithm=leastconn`"));
    let hash = container(&[SHOP, ("interlock.ip_hash", ""), ("interlock.balance_algorithm", "leastconn")]);
    assert_eq!(read(&hash).intents[0].settings.balance, Some(Balance::ClientAddress));
    assert_eq!(told(&read(&hash)), ["Note Overridden interlock.balance_algorithm"]);
}

#[test]
fn options_are_allowed_dropped_or_refused_one_by_one() {
    let labels = [
        SHOP,
        ("interlock.backend_option.0", "option forwardfor"),
        ("interlock.backend_option.1", "forceclose"),
        ("interlock.backend_option.2", "httpchk GET /x"),
        ("interlock.backend_option.3", "forwardfro"),
        ("interlock.backend_option.4", "forwardfor"),
    ];
    let parsed = read(&container(&labels));
    let options: Vec<_> = parsed.intents[0].settings.options.iter().map(HaproxyOption::as_str).collect();
    assert_eq!(options, ["forwardfor"]);
    assert_eq!(
        told(&parsed),
        [
            "Degraded OptionNotAllowed interlock.backend_option.2",
            "Degraded OptionNotAllowed interlock.backend_option.3",
            "Degraded OptionDropped interlock.backend_option.1",
        ]
    );
    assert_eq!(parsed.findings[1].fix.as_deref(), Some("label `interlock.backend_option.3=forwardfor`"));
    let nginx = read_as(&container(&labels[..2]), &ServiceClusterSpec::implicit(ProxyKind::Nginx));
    assert!(nginx.intents[0].settings.options.is_empty());
    assert_eq!(told(&nginx), ["Degraded NotSupported interlock.backend_option.0"]);
}

#[test]
fn certificates_are_single_names_and_ssl_only_never_leads_nowhere() {
    let cert = ("interlock.ssl_cert", "shop.pem");
    let only = ("interlock.ssl_only", "");
    let bad = ("interlock.ssl_cert", "../../etc/shadow.pem");
    let read_settings = |labels: &[(&str, &str)]| {
        let parsed = read(&container(labels));
        let settings = parsed.intents[0].settings.clone();
        (settings.tls, settings.https_only, settings.certificate.map(String::from), told(&parsed))
    };
    let name = Some("shop.pem".to_owned());
    assert_eq!(read_settings(&[SHOP, ("interlock.ssl", "")]), (true, false, None, vec![]));
    assert_eq!(read_settings(&[SHOP, cert]), (true, false, name.clone(), vec![]));
    assert_eq!(read_settings(&[SHOP, cert, only]), (true, true, name.clone(), vec![]));
    assert_eq!(read_settings(&[SHOP, only]), (true, true, None, vec![]));
    assert_eq!(
        read_settings(&[SHOP, bad]),
        (false, false, None, vec!["Degraded InvalidValue interlock.ssl_cert".to_owned()])
    );
    assert_eq!(
        read_settings(&[SHOP, bad, only]),
        (
            false,
            false,
            None,
            vec![
                "Degraded InvalidValue interlock.ssl_cert".to_owned(),
                "Degraded CertificateInvalid interlock.ssl_only".to_owned()
            ]
        )
    );
    assert_eq!(
        read_settings(&[SHOP, cert, ("interlock.ssl", "false")]),
        (false, false, None, vec!["Note Overridden interlock.ssl_cert".to_owned()])
    );
    assert_eq!(
        read_settings(&[SHOP, cert, only, ("interlock.ssl", "false")]),
        (true, true, name, vec!["Note Overridden interlock.ssl".to_owned()])
    );
    assert_eq!(
        read_settings(&[SHOP, ("interlock.ssl_cert_key", "shop.key")]),
        (false, false, None, vec!["Degraded InvalidValue interlock.ssl_cert_key".to_owned()])
    );
    let mut spec = haproxy();
    spec.certificates.default = Some("default.pem".to_owned());
    let parsed = read_as(&container(&[SHOP, bad, only]), &spec);
    assert!(parsed.intents[0].settings.https_only, "the default certificate answers");
    assert_eq!(parsed.findings[0].fix.as_deref(), Some("label `interlock.ssl_cert=shadow.pem`"));
}

#[test]
fn upstream_tls_verifies_when_told_to() {
    let verify = |labels: &[(&str, &str)]| {
        let parsed = read(&container(labels));
        (parsed.intents[0].settings.upstream_tls.map(|tls| tls.verify), told(&parsed))
    };
    let on = ("interlock.ssl_backend", "");
    let key = "interlock.ssl_backend_tls_verify";
    assert_eq!(verify(&[SHOP, on]), (Some(false), vec![]));
    for yes in ["all", "true", "Required"] {
        assert_eq!(verify(&[SHOP, on, (key, yes)]), (Some(true), vec![]), "{yes}");
    }
    for no in ["none", "false"] {
        assert_eq!(verify(&[SHOP, on, (key, no)]), (Some(false), vec![]), "{no}");
    }
    let told = vec![format!("Degraded InvalidValue {key}")];
    assert_eq!(verify(&[SHOP, on, (key, "maybe")]), (Some(false), told.clone()));
    assert_eq!(verify(&[SHOP, (key, "required")]), (None, told));
}

#[test]
fn websocket_endpoints_are_paths_below_the_route() {
    let parsed = read(&container(&[
        SHOP,
        ("interlock.websocket_endpoint.1", "/ws,/events"),
        ("interlock.websocket_endpoint.0", "/ws"),
        ("interlock.websocket_endpoint.2", "ws://shop.example.com/live"),
    ]));
    let paths: Vec<_> = parsed.intents[0].settings.websocket.iter().map(PathPrefix::as_str).collect();
    assert_eq!(paths, ["/ws", "/events"]);
    assert_eq!(told(&parsed), ["Degraded InvalidPath interlock.websocket_endpoint.2"]);
    assert_eq!(parsed.findings[0].fix.as_deref(), Some("label `interlock.websocket_endpoint.2=/live`"));
    let outside =
        read(&container(&[SHOP, ("interlock.path", "/app"), ("interlock.websocket_endpoint", "/ws")]));
    assert!(outside.intents[0].settings.websocket.is_empty());
    assert_eq!(outside.findings[0].fix.as_deref(), Some("label `interlock.websocket_endpoint=/app/ws`"));
}

#[test]
fn rewrite_needs_a_path() {
    check_all(vec![
        case(
            "strips",
            container(&[SHOP, ("interlock.context_root", "app/"), ("interlock.context_root_rewrite", "")]),
            &["shop.example.com /app stripped"],
            &[],
        ),
        case(
            "nothing to strip",
            container(&[SHOP, ("interlock.rewrite", "true")]),
            &["shop.example.com"],
            &["Note InvalidValue interlock.rewrite"],
        ),
    ]);
}

#[test]
fn owners_outlive_containers() {
    let owner = |container: &Container| {
        let parsed = read(container);
        (parsed.intents[0].owner.to_string(), told(&parsed))
    };
    let of_image = |image: &str| owner(&Container { image: image.to_owned(), ..container(&[SHOP]) }).0;
    assert_eq!(of_image("nginx"), "image:nginx");
    assert_eq!(of_image("nginx:1.22"), "image:nginx");
    assert_eq!(of_image("docker.io/library/nginx@sha256:aa"), "image:nginx");
    assert_eq!(of_image("reg:5000/a/b:1"), "image:reg:5000/a/b");
    assert_eq!(of_image("sha256:aabb"), "image:sha256:aabb");
    let label = ("interlock.owner", "shop");
    assert_eq!(owner(&container(&[SHOP, label])), ("shop".to_owned(), vec![]));
    let compose = [("com.docker.compose.project", "p"), ("com.docker.compose.service", "s")];
    assert_eq!(owner(&container(&[SHOP, compose[0], compose[1]])), ("compose:p/s".to_owned(), vec![]));
    assert_eq!(
        owner(&container(&[SHOP, compose[0], compose[1], label])),
        ("compose:p/s".to_owned(), vec!["Note Overridden interlock.owner".to_owned()])
    );
    assert_eq!(owner(&container(&[SHOP, ("com.docker.swarm.service.id", "x1")])).0, "swarm:x1");
    let bad = container(&[SHOP, ("interlock.owner", "a\nb")]);
    let (name, told) = owner(&bad);
    assert!(name.starts_with("image:"), "{name}");
    assert_eq!(told, ["Degraded InvalidValue interlock.owner"]);
}

#[test]
fn digests_cover_the_wish_and_not_who_wishes() {
    let one = container(&[SHOP, ("interlock.port", "80")]);
    let mut other = one.clone();
    other.id = ID.replace('b', "c").parse().unwrap();
    other.name = "web-2".to_owned();
    other.image = "other".to_owned();
    let digest = |container: &Container| read(container).intents[0].digest.clone();
    assert_eq!(digest(&one), digest(&other));
    other.labels.insert("interlock.port".to_owned(), "81".to_owned());
    assert_ne!(digest(&one), digest(&other));
}

#[test]
fn findings_say_what_to_write() {
    let cases = [
        ("interlock.port", "80:8080", "label `interlock.port=8080`"),
        ("interlock.port", "http", "label `interlock.port=8080`"),
        ("interlock.host", "http://shop.example.com:80/x", "label `interlock.host=shop.example.com`"),
        ("interlock.warm", "on", "label `interlock.warm=true`"),
    ];
    for (key, value, fix) in cases {
        let mut labels = map(&[SHOP]);
        labels.insert(key.to_owned(), value.to_owned());
        let parsed = read(&Container { labels, ..container(&[]) });
        assert_eq!(parsed.findings[0].fix.as_deref(), Some(fix), "{key}={value}");
    }
    let parsed = read(&container(&[SHOP, ("interlock.path", "/app"), ("interlock.port", "x")]));
    assert_eq!(parsed.findings[0].subject.route.as_deref(), Some("shop.example.com/app"));
    assert_eq!(parsed.findings[0].verdict, Verdict::Refused);
    let data = read(&with_data(&[SHOP], r#"{"port": 0}"#));
    assert_eq!(data.findings[0].fix.as_deref(), Some("in `INTERLOCK_DATA`, set `port` to `8080`"));
}

#[test]
fn published_ports_are_not_asked_for_here() {
    let mut published = named("www.example.com", "", &[]);
    published.published.push(PublishedPort {
        container: "80".parse().unwrap(),
        host_ip: "0.0.0.0".parse().unwrap(),
        host: "8080".parse().unwrap(),
    });
    assert_eq!(read(&published), read(&named("www.example.com", "", &[])));
}
