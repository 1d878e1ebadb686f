//! Keeps `docs/live.md` true: for every label and every setting of a cluster, what a change costs a running proxy is
//! found out by making the change.
//!
//! `UPDATE_DOCS=1 cargo test -p interlock-core --test live_reference` writes the page's tables anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]
#![allow(clippy::disallowed_methods, reason = "the test reads and writes the page; the core does not")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::change::Change;
use interlock_core::compile::{Config, compile};
use interlock_core::intent::keys::{Dialect, Effect, of};
use interlock_core::model::Observed;
use interlock_core::plan::Abilities;
use interlock_core::render::{self, Templates};
use interlock_crds::{ProxyKind, ServiceClusterSpec};
use serde_json::{Value, json};

type Labels = BTreeMap<String, String>;
type Pairs = &'static [(&'static str, &'static str)];

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What a container says besides, and the value that it changes to, for each label: with a neighbour that is there
/// from the beginning, and nobody else of its kind.
#[rustfmt::skip] // one line each
const SAMPLES: &[(&str, Pairs, &str)] = &[
    ("host", &[], "other.example.com"),
    ("hostname", &[("interlock.domain", "example.org")], "shop"),
    ("domain", &[("interlock.hostname", "shop")], "example.org"),
    ("alias_domain", &[], "www.example.com"),
    ("path", &[], "/app"),
    ("context_root", &[], "/app"),
    ("rewrite", &[("interlock.path", "/app")], "true"),
    ("context_root_rewrite", &[("interlock.path", "/app")], "true"),
    ("port", &[], "9000"),
    ("network", &[], "front"),
    ("ssl", &[], "true"),
    ("ssl_only", &[("interlock.ssl", "true")], "true"),
    ("ssl_cert", &[("interlock.ssl", "true")], "web.pem"),
    ("ssl_cert_key", &[("interlock.ssl", "true"), ("interlock.ssl_cert", "web.pem")], "web.pem"),
    ("ssl_backend", &[], "true"),
    ("ssl_backend_tls_verify", &[("interlock.ssl_backend", "true")], "required"),
    ("websocket_endpoint", &[], "/ws"),
    ("balance_algorithm", &[], "uri"),
    ("ip_hash", &[], "true"),
    ("health_check", &[], "/ping"),
    ("health_check_interval", &[("interlock.health_check", "/ping")], "5000"),
    ("backend_option", &[], "http-server-close"),
    ("slow_start", &[], "30s"),
    ("warm", &[], "true"),
    ("readiness", &[], "none"),
    ("allow", &[], "10.0.0.0/8"),
    ("deny", &[], "10.0.0.0/8"),
    ("limits.bodysize", &[], "1048576"),
    ("owner", &[], "shop"),
];

fn container(name: &str, last: u8, labels: &Labels) -> Value {
    json!({
        "id": format!("{name:0<12}"), "name": name, "created": 10, "started": 11, "state": "running",
        "networks": { "front": { "ipv4": format!("172.20.0.{last}"), "gateway": "172.20.0.1" } },
        "exposed": [8080], "labels": labels,
    })
}

/// What the proxy shall serve with these settings: a neighbour, and a shop with these labels, if it is there.
fn bundle(settings: &Value, shop: Option<&Labels>, last: Option<&Receipt>) -> Bundle {
    let kind = settings["proxy"].as_str().unwrap();
    let mut containers = serde_json::Map::new();
    let mut add = |one: Value| containers.insert(one["id"].as_str().unwrap().to_owned(), one);
    add(container("edge", 2, &labels(&[("interlock.ext.name", kind)])));
    add(container("near", 3, &labels(&[("interlock.host", "near.example.com")])));
    if let Some(shop) = shop {
        add(container("shop", 4, shop));
    }
    let observed: Observed = serde_json::from_value(json!({
        "engines": { "local": { "freshness": { "state": "fresh" }, "containers": containers } },
        "certificates": { "edge": {
            "any.pem": { "digest": "a".repeat(32), "names": ["*.example.com"] },
            "web.pem": { "digest": "b".repeat(32), "names": ["shop.example.com"] },
        } },
    }))
    .unwrap();
    let config: Config = serde_json::from_value(json!({ "clusters": { "edge": settings } })).unwrap();
    let plan = compile(&observed, &config).plans.into_values().next().unwrap();
    let abilities = Abilities::oldest(plan.settings.proxy);
    render::bundle(&plan, last, abilities, &Templates::embedded()).unwrap()
}

/// Without waiting for anybody, with a default certificate.
fn settings(kind: ProxyKind) -> Value {
    json!({
        "proxy": kind, "proxies": ["edge"], "readiness": "none",
        "certificates": { "directory": "/certs", "default": "any.pem" },
    })
}

/// What separates a proxy that runs `before` from what it shall serve.
fn change(before: &Bundle, after: impl Fn(&Receipt) -> Bundle) -> Change {
    let receipt = Receipt::of(before, before.live.clone());
    Change::between(Some(&receipt), &after(&receipt))
}

fn word(change: &Change) -> &'static str {
    match change {
        Change::None => "nothing",
        Change::Live => "live",
        Change::Reload { .. } => "reload",
    }
}

/// What one label costs: on a host that comes with it, and on one that is there and gets it.
fn costs(kind: ProxyKind, besides: &[(&str, &str)], label: &str, value: &str) -> (Change, Change) {
    let settings = settings(kind);
    let mut without = labels(besides);
    let named = ["interlock.hostname", "interlock.domain"].iter().any(|key| without.contains_key(*key));
    if !named {
        without.insert("interlock.host".to_owned(), "shop.example.com".to_owned());
    }
    let mut with = without.clone();
    with.insert(label.to_owned(), value.to_owned());
    let (nobody, there) = (bundle(&settings, None, None), bundle(&settings, Some(&without), None));
    let after = |last: &Receipt| bundle(&settings, Some(&with), Some(last));
    (change(&nobody, after), change(&there, after))
}

fn labels_table() -> String {
    let mut rows = "| label | a host that comes with it | a host that is there and gets it | nginx |\n\
                    | --- | --- | --- | --- |\n"
        .to_owned();
    for key in of(Dialect::Label) {
        let sample = SAMPLES.iter().find(|(name, ..)| *name == key.name);
        let (_, besides, value) = sample.unwrap_or_else(|| panic!("no sample for {}", key.full_name()));
        let (new, there) = costs(ProxyKind::Haproxy, besides, &key.full_name(), value);
        let (_, nginx) = costs(ProxyKind::Nginx, besides, &key.full_name(), value);
        let costs_reload = [&new, &there].into_iter().any(|it| matches!(it, Change::Reload { .. }));
        let expected = if costs_reload { key.effect.max(Effect::First) } else { Effect::Live };
        assert_eq!(key.effect, expected, "{}: {new:?}, {there:?}", key.full_name());
        let haproxy = |change| match (word(change), key.effect) {
            ("reload", Effect::First) => "live, the first of its kind a reload",
            (word, _) => word,
        };
        writeln!(
            rows,
            "| `{}` | {} | {} | {} |",
            key.full_name(),
            haproxy(&new),
            haproxy(&there),
            word(&nginx)
        )
        .unwrap();
    }
    rows
}

/// Another value for each setting of a cluster, by its path.
fn other_values() -> BTreeMap<&'static str, Value> {
    [
        ("proxies", json!(["edge", "edge-2"])),
        ("listeners.http", json!(8081)),
        ("listeners.https", json!(8443)),
        ("listeners.httpsAlways", json!(true)),
        ("listeners.ipv6", json!(false)),
        ("sharing", json!("owner")),
        ("claims", json!([{ "hosts": ["other.example.com"], "owners": [] }])),
        ("unknownHost", json!("503")),
        ("trustImageLabels", json!(true)),
        ("containerHostnames", json!(true)),
        ("defaultDomain", json!("example.net")),
        ("backendOverrideAddress", json!("10.9.9.9")),
        ("trustedProxies", json!(["10.0.0.0/8"])),
        ("monitoringNetworks", json!(["10.0.0.0/8"])),
        ("timeouts.connect", json!("7s")),
        ("timeouts.request", json!("7s")),
        ("timeouts.response", json!("7s")),
        ("timeouts.tunnel", json!("7s")),
        ("timeouts.keepAlive", json!("7s")),
        ("readiness", json!("docker")),
        ("emptyWhenAllUnhealthy", json!(true)),
        ("hold", json!("5s")),
        ("holdMax", json!(7)),
        ("probes.concurrency", json!(7)),
        ("probes.timeout", json!("7s")),
        ("probes.interval", json!("7s")),
        ("probes.unhealthyAfter", json!(7)),
        ("maxConnections", json!(777)),
        ("certificates.default", json!("web.pem")),
        ("redirectStatus", json!("308")),
        ("haproxy.drain", json!("7m")),
        ("haproxy.maxOldWorkers", json!(7)),
        ("haproxy.minSlots", json!(8)),
        ("haproxy.slowStart", json!("7s")),
        ("haproxy.spares", json!(7)),
        ("nginx.workerProcesses", json!(7)),
        ("nginx.drain", json!("7m")),
        ("nginx.maxOldWorkers", json!(7)),
    ]
    .into()
}

/// A cluster that says something about everything, so that every setting has a path.
fn complete() -> Value {
    let mut spec = serde_json::to_value(ServiceClusterSpec::implicit(ProxyKind::Haproxy)).unwrap();
    for (path, value) in [
        ("backendOverrideAddress", json!("10.9.9.8")),
        ("maxConnections", json!(1000)),
        ("nginx.workerProcesses", json!(1)),
        ("stats", json!({ "user": "admin", "passwordFile": "/stats" })),
        ("claims", json!([])),
        ("certificates", json!({ "directory": "/certs", "default": "any.pem" })),
    ] {
        set(&mut spec, path, value);
    }
    spec
}

fn set(spec: &mut Value, path: &str, value: Value) {
    let at = path.split('.').fold(spec, |at, name| &mut at[name]);
    *at = value;
}

/// The paths of everything that is no object.
fn paths(value: &Value, above: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
                paths(value, &path, found);
            }
        }
        _ => found.push(above.to_owned()),
    }
}

/// What each setting costs, by making it another one.
fn settings_table() -> String {
    let mut rows = "| setting | HAProxy | nginx |\n| --- | --- | --- |\n".to_owned();
    let others = other_values();
    let mut found = Vec::new();
    paths(&complete(), "", &mut found);
    // Another proxy is another cluster; a folder and a user are not what a proxy is told.
    let elsewhere = ["proxy", "certificates.directory", "stats.user", "stats.passwordFile"];
    for path in found.iter().filter(|path| !elsewhere.contains(&path.as_str())) {
        let other = others.get(path.as_str()).unwrap_or_else(|| panic!("no other value for {path}"));
        let word = |kind| {
            let before = settings(kind);
            let mut after = before.clone();
            set(&mut after, path, other.clone());
            let shop = [("interlock.host", "shop.example.com"), ("interlock.ssl_only", "true")];
            let shop = labels(&shop);
            let bundle = |settings: &Value, last: Option<&Receipt>| bundle(settings, Some(&shop), last);
            word(&change(&bundle(&before, None), |last| bundle(&after, Some(last))))
        };
        writeln!(rows, "| `{path}` | {} | {} |", word(ProxyKind::Haproxy), word(ProxyKind::Nginx)).unwrap();
    }
    rows
}

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/live.md")
}

/// Replaces what stands between a mark's two comments.
fn fill(page: &str, mark: &str, text: &str) -> String {
    let (open, close) = (format!("<!-- {mark} -->\n"), format!("<!-- end {mark} -->"));
    let (before, rest) = page.split_once(&open).unwrap_or_else(|| panic!("docs/live.md lacks {open}"));
    let (_, after) = rest.split_once(&close).unwrap_or_else(|| panic!("docs/live.md lacks {close}"));
    format!("{before}{open}{text}{close}{after}")
}

#[test]
fn the_page_says_what_changes_cost() {
    let written = std::fs::read_to_string(page()).unwrap();
    let filled = fill(&fill(&written, "labels", &labels_table()), "settings", &settings_table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page(), &filled).unwrap();
        return;
    }
    assert!(written == filled, "docs/live.md is behind: run this test with UPDATE_DOCS=1");
}

#[test]
fn shapes_that_many_ask_for_are_there_ahead() {
    for (label, value) in [
        ("interlock.balance_algorithm", "leastconn"),
        ("interlock.balance_algorithm", "source"),
        ("interlock.ip_hash", "true"),
        ("interlock.ssl_backend", "true"),
    ] {
        let (new, there) = costs(ProxyKind::Haproxy, &[], label, value);
        assert_eq!((word(&new), word(&there)), ("live", "live"), "{label}={value}");
    }
}
