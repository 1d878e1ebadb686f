//! What HAProxy does with a rendered bundle beyond matching: the real binary on loopback.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

use interlock_core::assign::afresh;
use interlock_core::model::{Digest, UpstreamAddr};
use interlock_core::plan::{Endpoint, Plan, UpstreamTls};
use interlock_core::render::{Templates, render};
use interlock_crds::{ListenersSpec, ProxyKind};
use interlock_e2e::bare::{self, Echo, Proxy, RawAnswer, Secrets};

/// One host `a.test` with one backend at `/`.
fn plan() -> Plan {
    let yaml = "
        target: bare
        cluster: bare
        settings: { proxy: haproxy }
        routes: [{ host: a.test, path: /, websocket: [/ws], backend: { host: a.test, path: / } }]
        backends: [{ id: { host: a.test, path: / } }]
    ";
    serde_yaml::from_str(yaml).expect("a plan")
}

fn endpoint(address: SocketAddr, draining: bool) -> Endpoint {
    let address = UpstreamAddr::try_from(address).expect("an address");
    Endpoint { address, name: "app".to_owned(), draining }
}

fn start(plan: &Plan, secrets: &Secrets) -> Proxy {
    Proxy::start(secrets, |http, https| {
        let mut plan = plan.clone();
        plan.settings.listeners = ListenersSpec { http, https, ..plan.settings.listeners };
        let abilities = bare::abilities(ProxyKind::Haproxy).expect("HAProxy says its version");
        render(&plan, &afresh(&plan, None), abilities, &Templates::embedded()).expect("it renders")
    })
    .expect("HAProxy starts")
}

/// A proxy in front of one echo application, after `change`.
fn one(change: impl FnOnce(&mut Plan)) -> (Proxy, Echo) {
    let app = Echo::start("app").expect("an application");
    let mut plan = plan();
    plan.backends[0].change().endpoints = vec![endpoint(app.address, false)];
    change(&mut plan);
    (start(&plan, &Secrets::new()), app)
}

fn get(proxy: &Proxy, target: &str, headers: &[&str]) -> RawAnswer {
    let lines = [&["Host: a.test"], headers, &["Connection: close"]].concat().join("\r\n");
    let request = format!("GET {target} HTTP/1.1\r\n{lines}\r\n\r\n");
    bare::raw(proxy.http, request.as_bytes()).expect("an answer")
}

/// The headers that the application saw.
fn seen(answer: &RawAnswer) -> BTreeMap<String, String> {
    let body: serde_json::Value = serde_json::from_str(&answer.body).expect("an echo");
    serde_json::from_value(body["headers"].clone()).expect("headers")
}

/// A certificate for `names`, put into the plan under `certificate`.
fn certify(plan: &mut Plan, secrets: &mut Secrets, names: &[&str], default: bool) {
    let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        .expect("a certificate");
    let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
    let digest = Digest::of([pem.as_bytes()]);
    let hosts = names.iter().map(|name| name.parse().expect("a name")).collect();
    let entry = interlock_core::plan::PlanCertificate { digest: digest.clone(), hosts, default };
    plan.certificates.insert(format!("{}.pem", names[0]).parse().expect("a name"), entry);
    secrets.insert(digest, pem);
}

#[test]
fn statistics_only_with_user_and_password_and_the_monitor_always() {
    let (proxy, _app) = one(|_| {});
    assert_eq!(get(&proxy, "/haproxy?monitor", &[]).status, 200);
    assert!(!get(&proxy, "/haproxy?monitor", &[]).body.contains("\"app\""));
    assert!(get(&proxy, "/haproxy?stats", &[]).body.contains("\"app\""), "without a password no page");

    let mut plan = plan();
    let secret = "Basic dXNlcjpwYXNz".to_owned();
    let digest = Digest::of([secret.as_bytes()]);
    plan.stats = Some(digest.clone());
    let proxy = start(&plan, &Secrets::from([(digest, secret)]));
    assert_eq!(get(&proxy, "/haproxy?stats", &[]).status, 401);
    assert_eq!(get(&proxy, "/haproxy?stats", &["Authorization: Basic dXNlcjpwYXNx"]).status, 401);
    let page = get(&proxy, "/haproxy?stats", &["Authorization: Basic dXNlcjpwYXNz"]);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Statistics Report"), "{}", page.body);
    let csv = get(&proxy, "/haproxy?stats;csv", &["Authorization: Basic dXNlcjpwYXNz"]);
    assert!(csv.body.contains("# pxname,svname"), "{}", csv.body);
    let near = get(&proxy, "/haproxy?statsx", &["Authorization: Basic dXNlcjpwYXNz"]);
    assert_eq!(near.status, 503, "an application's own request");
    let config = std::fs::read_to_string(proxy.folder().join("haproxy.cfg")).expect("the configuration");
    assert!(!config.contains("dXNlcjpwYXNz"), "no secret in the configuration");
}

#[test]
fn a_trusted_peer_is_believed() {
    let (proxy, _app) = one(|plan| {
        plan.settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        plan.routes[0].change().https_only = true;
    });
    let said = [
        "X-Forwarded-For: 9.9.9.9",
        "X-Forwarded-Proto: HTTPS",
        "X-Forwarded-Host: outer.test",
        "X-Forwarded-Port: 443",
        "X-Real-IP: 9.9.9.9",
        "X-Request-Id: \"},{",
        "Forwarded: for=9.9.9.9",
    ];
    let answer = get(&proxy, "/", &said);
    assert_eq!(answer.status, 200, "HTTPS at the trusted peer is HTTPS");
    let headers = seen(&answer);
    assert_eq!(headers["x-forwarded-for"], "9.9.9.9, 127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-forwarded-host"], "outer.test");
    assert_eq!(headers["x-forwarded-port"], "443");
    assert_eq!(headers["x-real-ip"], "9.9.9.9");
    assert_eq!(headers["x-request-id"], "\"},{");
    assert_eq!(headers["forwarded"], "for=9.9.9.9");
    let log = proxy.log(1).expect("a log");
    let line: serde_json::Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    assert_eq!(line["request_id"], "\"},{");
    assert_eq!(get(&proxy, "/", &[]).status, 302);
    assert_eq!(get(&proxy, "/", &["X-Forwarded-Proto: gopher"]).status, 302);
}

#[test]
fn only_streams_and_websocket_paths_may_idle_longer_than_a_response() {
    let (proxy, _app) = one(|plan| plan.settings.timeouts.response = "300ms".parse().expect("a period"));
    let slow = "X-Delay: 900";
    assert_eq!(get(&proxy, "/", &[slow]).status, 504);
    assert_eq!(get(&proxy, "/", &[slow, "Accept: text/event-stream"]).status, 200);
    assert_eq!(get(&proxy, "/ws/x", &[slow]).status, 200);
    assert_eq!(get(&proxy, "/wsx", &[slow]).status, 504);
}

#[test]
fn a_draining_endpoint_gets_nothing_new_and_a_closed_one_is_passed_over() {
    let (alive, draining) = (Echo::start("alive").expect("app"), Echo::start("draining").expect("app"));
    let closed = bare::free_port().expect("a port");
    let closed = SocketAddr::from(([127, 0, 0, 1], closed));
    let mut plan = plan();
    plan.backends[0].change().endpoints =
        vec![endpoint(alive.address, false), endpoint(draining.address, true), endpoint(closed, false)];
    let proxy = start(&plan, &Secrets::new());
    let begin = std::time::Instant::now();
    for _ in 0..12 {
        let answer = get(&proxy, "/", &[]);
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("\"alive\""), "{}", answer.body);
    }
    assert!(begin.elapsed().as_millis() < 900, "the next endpoint is tried at once: {:?}", begin.elapsed());
    plan.backends[0].change().endpoints = vec![endpoint(draining.address, true)];
    let proxy = start(&plan, &Secrets::new());
    let answer = get(&proxy, "/", &[]);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
}

#[test]
fn tls_to_an_endpoint_names_the_host_and_verifies_where_asked() {
    let app = Echo::start("behind").expect("an application");
    let (mut inner, mut secrets) = (plan(), Secrets::new());
    inner.backends[0].change().endpoints = vec![endpoint(app.address, false)];
    certify(&mut inner, &mut secrets, &["a.test"], false);
    // It refuses every other name, so that an answer proves the name in the handshake.
    let inner = start(&inner, &secrets);
    for (verify, status) in [(false, 200), (true, 503)] {
        let mut outer = plan();
        // A handshake that fails is a connect that failed, and holding is to try that again.
        outer.settings.hold = interlock_crds::Period::secs(0);
        outer.backends[0].change().endpoints = vec![endpoint(inner.https, false)];
        outer.backends[0].change().tls = Some(UpstreamTls { verify });
        let answer = get(&start(&outer, &Secrets::new()), "/", &[]);
        assert_eq!(answer.status, status, "verify: {verify}");
    }
}

#[test]
fn a_default_certificate_answers_for_unknown_names() {
    let app = Echo::start("app").expect("an application");
    let (mut plan, mut secrets) = (plan(), Secrets::new());
    plan.backends[0].change().endpoints = vec![endpoint(app.address, false)];
    certify(&mut plan, &mut secrets, &["a.test"], false);
    let proxy = start(&plan, &secrets);
    assert_eq!(bare::tls(proxy.https, "a.test", "/", true).expect("curl").status, 200);
    assert_eq!(bare::tls(proxy.https, "b.test", "/", true).expect("curl").status, 0);
    certify(&mut plan, &mut secrets, &["default.test"], true);
    let proxy = start(&plan, &secrets);
    assert_eq!(bare::tls(proxy.https, "a.test", "/", true).expect("curl").status, 200);
    assert_eq!(bare::tls(proxy.https, "b.test", "/", true).expect("curl").status, 404);
}

#[test]
fn both_families_are_served_and_named_plainly() {
    let (proxy, _app) = one(|_| {});
    assert_eq!(seen(&get(&proxy, "/", &[]))["x-forwarded-for"], "127.0.0.1");
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, proxy.http.port()));
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    assert_eq!(seen(&bare::raw(v6, request).expect("an answer"))["x-forwarded-for"], "::1");
}

#[test]
fn the_longest_and_most_hostile_request_is_one_line_of_json() {
    let (proxy, _app) = one(|_| {});
    let (quotes, controls) = ("\"".repeat(6000), "\u{1}".repeat(6000));
    let answer = get(&proxy, &format!("/{quotes}"), &[&format!("User-Agent: {controls}")]);
    assert_eq!(answer.status, 200);
    let log = proxy.log(1).expect("a log");
    assert_eq!(log.lines().count(), 1, "{log}");
    let line: serde_json::Value = serde_json::from_str(log.trim_end()).expect("JSON");
    assert_eq!(line["uri"].as_str().map(str::len), Some(2048));
    assert_eq!(line["agent"].as_str().map(str::len), Some(512));
}
