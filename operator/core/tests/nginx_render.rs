//! What is rendered for nginx, judged by golden files and by the real nginx.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test whose judge is a real nginx")]

mod nginx;

use std::fmt::Write as _;
use std::time::Duration;

use interlock_core::model::{HostPattern, PathPrefix};
use interlock_core::plan::Route;
use nginx::{App, Nginx, bundle, plan, text};

const RICH: &str = include_str!("nginx/rich.yaml");

/// The answer of nginx without the application's part.
fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

#[test]
fn a_rich_plan_is_accepted_without_a_warning() {
    let text = text(&bundle(&plan(RICH), "nginx-1.22"), "/secrets");
    insta::assert_snapshot!(text);
    nginx::check(&text).unwrap();
}

#[test]
fn newer_versions_get_their_own_directives() {
    let mut plan = plan(RICH);
    plan.settings.listeners.https_always = true;
    let old = text(&bundle(&plan, "nginx-1.22"), "/secrets");
    let new = text(&bundle(&plan, "nginx-1.28"), "/secrets");
    assert!(old.contains("listen 443 ssl http2;") && !old.contains("http2 on;"));
    assert!(new.contains("listen 443 ssl;") && new.contains("http2 on;"));
    assert!(new.contains("keepalive_min_timeout 5000ms;") && !old.contains("keepalive_min_timeout"));
}

#[test]
fn many_and_long_names_fit_the_hashes() {
    let mut plan = plan(RICH);
    let route = Route::clone(&plan.routes[1]);
    let long =
        [&"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].map(String::as_str).join(".");
    for number in 0..1000 {
        let host = format!("host-{number}.example.com").parse().unwrap();
        plan.routes.push(Route { host, ..route.clone() }.into());
    }
    plan.routes.push(Route { host: long.parse().unwrap(), ..route }.into());
    nginx::check(&text(&bundle(&plan, "nginx-1.22"), "/secrets")).unwrap();
}

#[test]
fn every_path_that_parses_is_text_and_never_a_directive() {
    let hostile: [&str; 8] =
        ["/~^.*$", "/=x", "/@long", "/a.b+c~d!e@f,g:h=i-j_k", "/..a", "/%{interlock.digest}", "/a{b", "/a;b"];
    let mut seen = 0;
    for path in hostile {
        let Ok(path) = path.parse::<PathPrefix>() else { continue };
        seen += 1;
        for rewrite in [true, false] {
            let mut plan = plan(RICH);
            let mut route = Route::clone(&plan.routes[1]);
            (route.path, route.rewrite, route.websocket) = (path.clone(), rewrite, vec![path.clone()]);
            plan.routes = vec![route.into()];
            let text = text(&bundle(&plan, "nginx-1.22"), "/secrets");
            nginx::check(&text).unwrap();
            assert!(text.contains(&format!("location = {path} {{")), "{path}");
        }
    }
    assert_eq!(seen, 4, "the paths that no type lets through are not rendered");
    assert!("a.example.com; listen 22999".parse::<HostPattern>().is_err());
}

#[test]
fn the_digest_and_the_status_are_told_to_loopback_under_a_name_that_nobody_can_have() {
    let nginx = Nginx::start(&base(&[]));
    let digest = nginx.bundle.static_digest.as_str();
    let answer = nginx.get("interlock.invalid", "/digest");
    assert!(answer.ends_with(&format!("\r\n\r\n{digest}")), "{answer}");
    assert!(nginx.get("interlock.invalid", "/nginx_status").contains("Active connections"));
    assert!(nginx.get("nobody.example.com", "/nginx_status").contains("Active connections"));
    assert_eq!(status(&nginx.get("nobody.example.com", "/digest")), 404);
}

/// A plan with one host, `app.example.com`, of these applications, and `/api` of the same, rewritten.
fn base(apps: &[&App]) -> String {
    let mut endpoints = String::new();
    for app in apps {
        let _ = write!(endpoints, "{{ address: \"{}\", name: app }}, ", app.address);
    }
    format!(
        "target: edge
cluster: web
settings:
  proxy: nginx
  listeners: {{ http: PORT }}
  timeouts: {{ response: 700ms, connect: 300ms }}
  nginx: {{ workerProcesses: 1, drain: 1s }}
routes:
  - {{ host: app.example.com, path: /api, rewrite: true, backend: {{ host: app.example.com, path: / }} }}
  - {{ host: app.example.com, path: /gone, backend: {{ host: app.example.com, path: /gone }} }}
  - {{ host: app.example.com, path: /, websocket: [/slow], backend: {{ host: app.example.com, path: / }} }}
backends:
  - id: {{ host: app.example.com, path: / }}
    endpoints: [ {endpoints} ]
  - id: {{ host: app.example.com, path: /gone }}
"
    )
}

const HOST: &str = "app.example.com";

#[test]
fn the_original_bytes_reach_the_app_and_a_rewrite_keeps_what_it_can() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    for (asked, seen) in [
        ("/x%2Fy/../z?q=%20", "/x%2Fy/../z?q=%20"),
        ("/api/x%2Fy?q=%20", "/x%2Fy?q=%20"),
        ("//api/x%20y?q", "/x%20y?q"),
        ("/%61pi/x%3Fy?q", "/x%3Fy?q"),
        ("/api/../api/x", "/x"),
        ("/x/%2e%2e/api/a%0d%0ab", "/a%0D%0Ab"),
        ("/api%2fx", "/x"),
        ("/apix", "/apix"),
    ] {
        for headers in ["", "Accept: text/event-stream\r\n"] {
            let answer = nginx
                .ask(&format!("GET {asked} HTTP/1.1\r\nHost: {HOST}\r\n{headers}Connection: close\r\n\r\n"));
            assert!(answer.contains(&format!("GET {seen} HTTP/1.1\r\n")), "{asked} {headers}: {answer}");
        }
    }
    let bare = nginx.get(HOST, "/api?a=b");
    assert!(bare.starts_with("HTTP/1.1 302 ") && bare.contains("Location: /api/?a=b\r\n"), "{bare}");
}

#[test]
fn bodies_take_the_long_way_too() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    for path in ["/x", "/api/x", "/slow"] {
        for accept in ["text/event-stream", "text/html"] {
            let body = "b".repeat(200_000);
            let answer = nginx.ask(&format!(
                "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: {accept}\r\nContent-Length: 200000\r\nConnection: close\r\n\r\n{body}"
            ));
            assert!(answer.contains("body 200000"), "{path} {accept}: {answer}");
        }
    }
}

#[test]
fn only_streams_and_tunnels_outlive_the_response_timeout() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    let wait = "/x?wait=1500";
    assert_eq!(status(&nginx.get(HOST, wait)), 504);
    assert_eq!(status(&nginx.get(HOST, "/slow/x?wait=1500")), 200);
    for header in ["Accept: text/html, text/event-stream", "Upgrade: websocket"] {
        let answer = nginx.ask(&format!(
            "GET {wait} HTTP/1.1\r\nHost: {HOST}\r\n{header}\r\nConnection: upgrade, close\r\n\r\n"
        ));
        assert_eq!(status(&answer), 200, "{header}: {answer}");
    }
    let answer = nginx.ask(&format!(
        "GET {wait} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: h2c\r\nConnection: upgrade, close\r\n\r\n"
    ));
    assert_eq!(status(&answer), 504, "{answer}");
}

#[test]
fn an_upgraded_connection_is_a_tunnel() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    let mut client = nginx.connect();
    client.send(&format!(
        "GET /upgrade HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    ));
    let head = client.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.send("ping");
    assert_eq!(client.read_until("ping"), "ping");
    std::thread::sleep(Duration::from_secs(1)); // longer than a response may idle: what is tested
    client.send("pong");
    assert_eq!(client.read_until("pong"), "pong");
}

#[test]
fn without_an_endpoint_the_answer_is_503_and_says_when_to_come_back() {
    let app = App::start();
    let (dead, other_dead) = (App::dead(), App::dead());
    let nginx = Nginx::start(&base(&[&dead, &other_dead]));
    for path in ["/gone", "/x", "/api/x"] {
        let answer = nginx.get(HOST, path);
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1\r\n"),
            "{path}: {answer}"
        );
    }
    let nginx = Nginx::start(&base(&[&app]));
    let answer = nginx.get(HOST, "/break");
    assert!(answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Retry-After"), "{answer}");
}

#[test]
fn a_refused_connect_goes_to_the_next_endpoint_and_a_sent_post_is_never_sent_again() {
    let (app, dead) = (App::start(), App::dead());
    let nginx = Nginx::start(&base(&[&app, &dead]));
    let post = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    };
    for _ in 0..6 {
        assert_eq!(status(&nginx.ask(&post("/x"))), 200);
        assert_eq!(status(&nginx.get(HOST, "/x")), 200);
    }
    let (one, two) = (App::start(), App::start());
    let nginx = Nginx::start(&base(&[&one, &two]));
    for count in 1..=6 {
        assert_eq!(status(&nginx.ask(&post("/break"))), 502);
        assert_eq!(one.requests() + two.requests(), count);
    }
}

#[test]
fn forwarded_headers_are_the_peers_only_where_it_is_trusted() {
    let app = App::start();
    let claim = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n\
                 X-Real-IP: 9.9.9.9\r\nX-Request-Id: theirs\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=9.9.9.9\r\n";
    let ask = |nginx: &Nginx| {
        nginx.ask(&format!("GET / HTTP/1.1\r\nHost: App.example.com:80\r\n{claim}Connection: close\r\n\r\n"))
    };
    let nginx = Nginx::start(&base(&[&app]));
    let seen = ask(&nginx);
    for header in [
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: App.example.com:80",
        "X-Real-IP: 127.0.0.1",
        "Host: App.example.com:80",
    ] {
        assert!(seen.contains(&format!("{header}\r\n")), "{header}: {seen}");
    }
    for text in ["9.9.9.9", "evil", "theirs"] {
        assert!(!seen.contains(text), "{text}: {seen}");
    }
    let nginx =
        Nginx::start(&base(&[&app]).replace("proxy: nginx", "proxy: nginx\n  trustedProxies: [127.0.0.0/8]"));
    let seen = ask(&nginx);
    for header in [
        "X-Forwarded-For: 9.9.9.9, 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Port: 1",
        "X-Real-IP: 9.9.9.9",
        "X-Request-Id: theirs",
        "X-Forwarded-Prefix: /evil",
    ] {
        assert!(seen.contains(&format!("{header}\r\n")), "{header}: {seen}");
    }
}

#[test]
fn an_application_steers_nothing_in_the_proxy() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    let answer = nginx.get(HOST, "/accel");
    assert!(answer.contains("GET /accel HTTP/1.1"), "{answer}");
    assert!(answer.contains("Location: http://app.example.com/kept\r\n"), "{answer}");
    assert!(answer.contains("Server: app\r\n"), "{answer}");
}

#[test]
fn the_access_log_is_json_with_every_field() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    nginx.ask(&format!("POST /x?a=\"b HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: a\"b\\c\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
    let line: serde_json::Value = serde_json::from_str(&nginx.log_line()).unwrap();
    let text = nginx.log_line();
    let order = [
        "time",
        "request_id",
        "client",
        "method",
        "host",
        "uri",
        "protocol",
        "status",
        "bytes",
        "duration_ms",
        "route",
        "upstream",
        "connect_ms",
        "response_ms",
        "tls",
        "agent",
    ];
    let places: Vec<usize> = order.iter().map(|key| text.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
    assert_eq!(line.as_object().unwrap().len(), order.len());
    assert_eq!(line["route"], "app.example.com/");
    assert_eq!(line["upstream"], app.address.to_string());
    assert_eq!(line["uri"], "/x?a=\"b");
    assert_eq!(line["tls"], "-");
    let time = line["time"].as_str().unwrap();
    assert!(time.len() >= "2026-01-01T00:00:00.000Z".len() && time.as_bytes()[19] == b'.', "{time}");
    for key in ["duration_ms", "connect_ms", "response_ms"] {
        assert!(line[key].is_u64(), "{key}: {text}");
    }
    assert_eq!(line["agent"], "a\"b\\c");
    assert_eq!(line["status"], 200);
}

#[test]
fn canaries_in_requests_reach_nothing() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    for host in [
        "a_b.example.com",
        "app.example.com/admin",
        "app.example.com:x",
        "$host",
        "a;b",
        "[::1]",
        ".app.example.com",
        "app..example.com",
        "_",
    ] {
        assert_eq!(status(&nginx.get(host, "/")), 400, "{host}");
    }
    let answer = nginx
        .ask("GET http://other.example.com/ HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&answer), 400);
    assert_eq!(app.requests(), 0);
}

#[test]
fn only_what_may_be_sent_again_goes_over_a_kept_connection() {
    let app = App::start();
    let nginx = Nginx::start(&base(&[&app]));
    for (method, kept) in
        [("GET", true), ("OPTIONS", true), ("POST", false), ("PUT", false), ("DELETE", false)]
    {
        for path in ["/x", "/api/x", "/slow/x"] {
            let seen = nginx.ask(&format!(
                "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            ));
            let (_, head) = seen.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(method), "{seen}");
            assert_eq!(!head.contains("Connection: close\r\n"), kept, "{method} {path}: {seen}");
        }
    }
}

/// Plain and TLS; the golden files show them with IPv6.
#[test]
fn nothing_is_bound_on_ipv6_where_it_is_switched_off() {
    let mut plan = plan(RICH);
    plan.settings.listeners.ipv6 = false;
    let bundle = bundle(&plan, "nginx-1.22");
    let text = text(&bundle, "/secrets");
    let listens: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("listen ")).collect();
    assert!(listens.len() >= 2 && !listens.iter().any(|line| line.contains("[::]")), "{listens:?}");
}

#[test]
fn a_handshake_is_refused_unless_its_name_or_the_default_has_a_certificate() {
    let mut plan = plan(RICH);
    let name: interlock_core::model::CertificateName = "shop.pem".parse().unwrap();
    let mut certificate = interlock_core::plan::PlanCertificate {
        digest: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        hosts: vec!["shop.example.com".parse().unwrap()],
        default: false,
    };
    plan.certificates.insert(name.clone(), certificate.clone());
    let named = bundle(&plan, "nginx-1.22");
    let of_name = text(&named, "/secrets");
    assert_eq!(of_name.matches("ssl_reject_handshake on;").count(), 1, "for all, in the http block");
    assert_eq!(of_name.matches("ssl_reject_handshake off;").count(), 1, "for one host");
    assert_eq!(of_name.matches("ssl_certificate /secrets/0123456789abcdef0123456789abcdef.pem;").count(), 1);
    assert_eq!(named.secrets.len(), 1);
    (certificate.default, certificate.hosts) = (true, Vec::new());
    plan.certificates.insert(name, certificate);
    let of_default = text(&bundle(&plan, "nginx-1.22"), "/secrets");
    assert!(!of_default.contains("ssl_reject_handshake"));
    assert_eq!(
        of_default.matches("ssl_certificate /secrets/0123456789abcdef0123456789abcdef.pem;").count(),
        1
    );
}
