//! What is rendered for HAProxy, judged by a golden file and by the real `haproxy -c`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test whose judge is the real HAProxy")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use interlock_core::assign::afresh;
use interlock_core::bundle::{Bundle, Paths, Receipt};
use interlock_core::model::{Digest, HostPattern, Hostname, PathPrefix};
use interlock_core::plan::{Balance, Endpoint, HaproxyOption, Plan, UpstreamTls};
use interlock_core::render::{RenderError, Templates, render};

fn plan(yaml: &str) -> Plan {
    serde_yaml::from_str(yaml).unwrap()
}

fn rich() -> Plan {
    plan(include_str!("haproxy/rich.yaml"))
}

fn bundle_for(plan: &Plan, abilities: &str) -> Bundle {
    let abilities = abilities.parse().unwrap();
    render(plan, &afresh(plan, None), abilities, &Templates::embedded()).unwrap()
}

fn bundle(plan: &Plan) -> Bundle {
    bundle_for(plan, "haproxy-2.6")
}

fn text(bundle: &Bundle) -> String {
    let files = bundle.files(Paths { dir: "/dir", run: "/run", secrets: "/secrets" });
    let mut all = String::new();
    for (name, text) in files {
        let _ = writeln!(all, "==> {name}\n{text}");
    }
    all.replace(bundle.static_digest.as_str(), "<static digest>")
}

/// Asks the real HAProxy, with warnings as errors.
fn check(bundle: &Bundle) -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("interlock-render-").tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for (name, text) in bundle.files(Paths { dir: path, run: path, secrets: path }) {
        fs::write(dir.path().join(name), text).unwrap();
    }
    for secret in &bundle.secrets {
        let certificate = rcgen::generate_simple_self_signed(vec!["x.example.com".to_owned()]).unwrap();
        let pem = format!("{}{}", certificate.cert.pem(), certificate.signing_key.serialize_pem());
        // The pattern file of the statistics page may hold any text.
        fs::write(dir.path().join(&secret.file), pem).unwrap();
    }
    let config = dir.path().join("haproxy.cfg");
    let output = Command::new("haproxy").args(["-c", "-dW", "-f"]).arg(config).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn a_rich_plan_is_accepted_without_a_warning() {
    let bundle = bundle(&rich());
    check(&bundle).unwrap();
    assert!(bundle.verify());
    insta::assert_snapshot!(text(&bundle));
}

/// Plain and TLS; the golden files show them with IPv6.
#[test]
fn nothing_is_bound_on_ipv6_where_it_is_switched_off() {
    let mut plan = rich();
    plan.settings.listeners.ipv6 = false;
    let bundle = bundle(&plan);
    check(&bundle).unwrap();
    let binds: Vec<String> =
        text(&bundle).lines().filter(|line| line.trim().starts_with("bind ")).map(str::to_owned).collect();
    assert!(binds.len() >= 2 && binds.iter().all(|line| line.trim().starts_with("bind *:")), "{binds:?}");
}

#[test]
fn an_empty_plan_is_accepted_without_a_warning() {
    let mut plan = rich();
    (plan.routes, plan.backends) = (Vec::new(), Vec::new());
    plan.certificates.clear();
    plan.stats = None;
    plan.settings.max_connections = None;
    plan.settings.trusted_proxies.clear();
    check(&bundle(&plan)).unwrap();
}

#[test]
fn an_https_port_without_a_certificate_can_be_asked_for() {
    let mut plan = rich();
    plan.certificates.clear();
    assert!(!text(&bundle(&plan)).contains("bind *:21502"));
    plan.settings.listeners.https_always = true;
    let text = text(&bundle(&plan));
    assert!(text.contains("bind *:21502 ssl crt-list /dir/certificates.list strict-sni"), "{text}");
}

#[test]
fn every_setting_of_a_backend_is_accepted() {
    use Balance::{ClientAddress, First, LeastConn, Random, RoundRobin, Uri};
    let mut plan = rich();
    for balance in [RoundRobin, LeastConn, ClientAddress, Random, Uri, First] {
        for tls in [None, Some(UpstreamTls { verify: false }), Some(UpstreamTls { verify: true })] {
            (plan.backends[2].change().balance, plan.backends[2].change().tls) = (balance, tls);
            plan.backends[2].change().options = Vec::new();
            check(&bundle(&plan)).unwrap_or_else(|said| panic!("{balance:?} {tls:?}: {said}"));
        }
    }
    plan.backends[2].change().balance = RoundRobin;
    for option in HaproxyOption::ALLOWED {
        plan.backends[2].change().options = vec![option.parse().unwrap()];
        check(&bundle(&plan)).unwrap_or_else(|said| panic!("{option}: {said}"));
    }
}

#[test]
fn extreme_time_outs_are_accepted() {
    for period in ["0s", "1ms", "400days"] {
        let mut plan = rich();
        let timeouts = &mut plan.settings.timeouts;
        timeouts.connect = period.parse().unwrap();
        (timeouts.request, timeouts.response) = (timeouts.connect, timeouts.connect);
        (timeouts.tunnel, timeouts.keep_alive) = (timeouts.connect, timeouts.connect);
        plan.settings.haproxy.drain = timeouts.connect;
        check(&bundle(&plan)).unwrap_or_else(|said| panic!("{period}: {said}"));
    }
}

#[test]
fn a_bad_fragment_is_blamed_by_its_line() {
    let good = bundle(&rich());
    let paths = Paths { dir: "/dir", run: "/run", secrets: "/secrets" };
    let config = &good.files(paths)["haproxy.cfg"];
    let line = config.lines().position(|line| line == "backend shop.example.com").unwrap() + 1;
    let blamed = good.fragment_at("haproxy.cfg", line, paths).unwrap();
    assert_eq!(blamed.name, "backend shop.example.com");
    assert_eq!(blamed.intents, [Digest::try_from("0000000000000000000000000000000b".to_owned()).unwrap()]);
    let certificate = good.fragments.iter().find(|it| it.name == "certificate shop.pem").unwrap();
    assert_eq!(certificate.intents, blamed.intents, "the intents whose routes name it");
}

#[test]
fn a_thousand_names_on_one_certificate_are_accepted() {
    let mut plan = rich();
    let names = (0..1000).map(|n| format!("host-{n}.example.com").parse().unwrap()).collect();
    plan.certificates.values_mut().last().unwrap().hosts = names;
    check(&bundle(&plan)).unwrap();
}

#[test]
fn equal_input_gives_equal_bytes_and_the_live_part_is_not_static() {
    let plan = rich();
    let before = bundle(&plan);
    assert_eq!(before, bundle(&plan));

    let mut more = plan.clone();
    let address = "10.1.0.9:80".parse::<std::net::SocketAddr>().unwrap().try_into().unwrap();
    more.backends[0].change().endpoints.push(Endpoint { address, name: "more".to_owned(), draining: false });
    // minSlots is 2, so a second endpoint is the first that needs another shape.
    assert_ne!(bundle(&more).static_digest, before.static_digest);

    let receipt = Receipt::of(&before, before.live.clone());
    let abilities = "haproxy-2.6".parse().unwrap();
    let mut moved = plan.clone();
    moved.backends[0].change().endpoints[0].address = address;
    let after =
        interlock_core::render::bundle(&moved, Some(&receipt), abilities, &Templates::embedded()).unwrap();
    assert_eq!(after.static_digest, before.static_digest, "a new address takes no reload");
    assert_ne!(after.digest, before.digest);

    let mut aliased = plan;
    let mut alias = aliased.routes[2].clone();
    alias.change().host = "alias.example.com".parse().unwrap();
    aliased.routes.push(alias);
    let after = bundle(&aliased);
    assert_eq!(after.static_digest, before.static_digest, "another host for a backend takes no reload");
}

/// Directives that would listen, route, answer or write if they ever became one.
const CANARIES: &[&str] = &[
    "x\n    bind 127.0.0.1:21999\n",
    "x\r\nlisten canary\r\n bind :21999",
    "x bind 127.0.0.1:21999",
    "x if TRUE # ",
    "x\tif\tTRUE",
    "\"x\" 'y",
    "%[env(HOME)]",
    "${HOME}",
    "%{interlock.secrets}",
    "{{ 7 * 7 }}",
    "{% include 'x' %}",
    "../../etc/passwd",
    "/etc/passwd",
    "x;y|z",
    "x#y",
    "x\\ y",
    "x\0y",
    "x\u{2028}y",
    "*.*.x",
    "!x",
    "x,y",
    "*",
    "-f",
    "",
];

/// What reaches a file of HAProxy comes through these types; a text that they take must be one harmless word.
#[test]
fn no_type_lets_a_directive_through() {
    let harmless = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!@+,:=*/".contains(&b))
    };
    for canary in CANARIES {
        let hosts = [canary.to_string(), format!("{canary}.example.com"), format!("*.{canary}.com")];
        for host in hosts.iter().filter_map(|text| text.parse::<HostPattern>().ok()) {
            assert!(harmless(&host.to_string()), "{host}");
        }
        assert!(canary.parse::<Hostname>().is_err(), "{canary:?}");
        for path in [canary.to_string(), format!("/a/{canary}")] {
            if let Ok(path) = path.parse::<PathPrefix>() {
                assert!(harmless(path.as_str()) && !path.as_str().contains(".."), "{path}");
            }
        }
        assert!(canary.parse::<HaproxyOption>().is_err(), "{canary:?}");
        assert!(
            format!("tcpka {canary}").parse::<HaproxyOption>().is_err() || canary.is_empty(),
            "{canary:?}"
        );
    }
}

/// Texts that do parse and are as odd as can be: each is served, and no line begins otherwise than before.
#[test]
fn odd_names_that_parse_change_no_line_but_their_own() {
    let paths = ["/if", "/TRUE", "/a=b", "/!x", "/x,y", "/a:b", "/@x", "/~", "/...", "/a.pem", "/-f", "/s1"];
    let hosts = ["if", "backend", "interlock", "default", "localhost", "0", "1.2.3.4", "*.if", "xn--9"];
    let first_words = |bundle: &Bundle| {
        let mut words: BTreeMap<String, usize> = BTreeMap::new();
        let paths = Paths { dir: "/dir", run: "/run", secrets: "/secrets" };
        for line in bundle.files(paths)["haproxy.cfg"].lines() {
            let word = line.trim_start().split(' ').next().unwrap_or_default();
            if line.starts_with("    ") || line.starts_with("backend ") || line.starts_with("frontend ") {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }
        words
    };
    let plain = first_words(&bundle(&rich()));
    for host in hosts {
        for path in paths {
            let mut plan = rich();
            let (host, path): (HostPattern, PathPrefix) = (host.parse().unwrap(), path.parse().unwrap());
            let route = plan.routes[4].change();
            (route.host, route.path) = (host.clone(), path.clone());
            (route.backend.host, route.backend.path) = (host, path.clone());
            route.websocket = vec![path];
            plan.backends[3].change().id = route.backend.clone();
            plan.backends.sort_by(|a, b| a.id.cmp(&b.id));
            assert_eq!(first_words(&bundle(&plan)), plain, "{}", plan.routes[4].label());
        }
        let mut plan = rich();
        plan.routes[4].change().host = host.parse().unwrap();
        check(&bundle(&plan)).unwrap_or_else(|said| panic!("{host}: {said}"));
    }
}

#[test]
fn a_template_can_be_replaced_by_name_and_only_by_a_valid_text() {
    let templates = Templates::embedded();
    let backend = templates.texts().find(|(name, _)| *name == "haproxy/backend.j2").unwrap().1.to_owned();
    let own = templates.with_override("haproxy/backend.j2", &format!("{backend}    fullconn 7\n")).unwrap();
    let (plan, abilities) = (rich(), "haproxy-2.6".parse().unwrap());
    let bundle = render(&plan, &afresh(&plan, None), abilities, &own).unwrap();
    assert_eq!(text(&bundle).matches("fullconn 7").count(), bundle.live.servers.len());
    check(&bundle).unwrap();

    let refused = Templates::embedded().with_override("haproxy/nothing.j2", "").unwrap_err();
    assert!(refused.to_string().contains("haproxy/backend.j2"), "{refused}");
    let refused = Templates::embedded().with_override("haproxy/backend.j2", "{% if").unwrap_err();
    assert!(matches!(refused, RenderError::Template { .. }), "{refused}");
    let asks = Templates::embedded().with_override("haproxy/backend.j2", "{{ nothing }}").unwrap();
    let refused = render(&plan, &afresh(&plan, None), abilities, &asks).unwrap_err();
    assert!(matches!(refused, RenderError::Template { .. }), "{refused}");
}
