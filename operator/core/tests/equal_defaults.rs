//! The defaults that a user relies on are the same, in the words of either proxy.

use interlock_core::bundle::{Bundle, Paths};
use interlock_core::model::{ClusterName, TargetId};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::render::{self, Templates};
use interlock_crds::{ProxyKind, ServiceClusterSpec};

/// What each proxy calls a limit, and the milliseconds that both must have.
const LIMITS: &[(&str, &str, u64)] = &[
    ("timeout connect", "proxy_connect_timeout", 5_000),
    ("timeout http-request", "client_header_timeout", 10_000),
    ("timeout server", "proxy_read_timeout", 60_000),
    ("timeout server", "proxy_send_timeout", 60_000),
    ("timeout client", "client_body_timeout", 60_000),
    ("timeout client", "send_timeout", 60_000),
    ("timeout http-keep-alive", "keepalive_timeout", 60_000),
    ("timeout tunnel", "proxy_read_timeout", 3_600_000),
];

fn everything(proxy: ProxyKind) -> String {
    let route = r#"{ "host": "a.test", "path": "/", "backend": { "host": "a.test", "path": "/" } }"#;
    let backend = r#"{ "id": { "host": "a.test", "path": "/" }, "endpoints": [{ "address": "10.0.0.1:80", "name": "a" }] }"#;
    let plan = Plan {
        target: "edge".parse::<TargetId>().expect("a name"),
        cluster: "web".parse::<ClusterName>().expect("a name"),
        settings: ServiceClusterSpec::implicit(proxy),
        routes: vec![serde_json::from_str(route).expect("a route")],
        backends: vec![serde_json::from_str(backend).expect("a backend")],
        certificates: std::collections::BTreeMap::new(),
        stats: None,
    };
    let abilities = Abilities::oldest(proxy);
    let bundle: Bundle =
        render::bundle(&plan, None, abilities, &Templates::embedded()).expect("embedded templates");
    let files = bundle.files(Paths { dir: "/dir", run: "/run", secrets: "/secrets" });
    files.into_values().collect::<Vec<_>>().join("\n")
}

fn has(text: &str, words: &str, milliseconds: u64) -> bool {
    let line = format!("{words} {milliseconds}ms");
    text.lines().any(|it| it.trim().trim_end_matches(';') == line)
}

#[test]
fn both_proxies_have_the_same_limits() {
    let (haproxy, nginx) = (everything(ProxyKind::Haproxy), everything(ProxyKind::Nginx));
    for (in_haproxy, in_nginx, milliseconds) in LIMITS {
        assert!(has(&haproxy, in_haproxy, *milliseconds), "{in_haproxy}: {haproxy}");
        assert!(has(&nginx, in_nginx, *milliseconds), "{in_nginx}: {nginx}");
    }
    assert!(haproxy.contains("http-request set-timeout server 3600000ms"), "streams: {haproxy}");
    assert!(nginx.contains("client_max_body_size 0;"), "bodies are unlimited, as HAProxy's always are");
}
