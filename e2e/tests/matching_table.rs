//! The matching table: one plan and one column of expectations, asked of the real HAProxy and nginx.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::LazyLock;

use interlock_core::assign::afresh;
use interlock_core::bundle::Bundle;
use interlock_core::model::{Digest, UpstreamAddr};
use interlock_core::plan::Plan;
use interlock_core::policy::{Access, Policy};
use interlock_core::render::{Templates, render};
use interlock_crds::ProxyKind;
use interlock_e2e::bare::{self, Echo, Proxy, RawAnswer, Secrets};
use ipnet::IpNet;
use serde::Deserialize;

/// Keys of an access log line, in order: docs/access-log.md.
const LOG_KEYS: &[&str] = &[
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    plan: Plan,
    cases: Vec<Case>,
}

/// One request and what is expected of both proxies.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// `http` (default), `https` (HTTP/1.1 over TLS) or `h2`.
    #[serde(default)]
    over: Over,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    target: Option<String>,
    /// Further header lines.
    #[serde(default)]
    headers: Vec<String>,
    /// The whole request, where it cannot be said with the above.
    #[serde(default)]
    raw: Option<String>,
    /// A body whose length is not said, over TLS.
    #[serde(default)]
    upload: Option<String>,
    /// 0: no answer at all.
    status: u16,
    /// The proxy that it is asked of, where they cannot be equal.
    #[serde(default)]
    only: Option<ProxyKind>,
    /// What another version of a proxy answers instead, where it makes no difference.
    #[serde(default)]
    or: Option<u16>,
    /// The application that answered.
    #[serde(default)]
    app: Option<String>,
    /// The application that it went to, where no answer of it says so.
    #[serde(default)]
    to: Option<String>,
    /// The target that it saw.
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    location: Option<String>,
    /// Headers that the application saw; empty: it did not see this one.
    #[serde(default)]
    saw: BTreeMap<String, String>,
    /// Headers of the answer.
    #[serde(default)]
    answer: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Over {
    #[default]
    Http,
    Https,
    H2,
}

/// What the echo application answers.
#[derive(Debug, Deserialize)]
struct Seen {
    app: String,
    target: String,
    headers: BTreeMap<String, String>,
}

static TABLE: LazyLock<Table> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("matching/cases.yaml")).expect("cases.yaml"));
/// Whom which networks let in.
static ACCESS: LazyLock<Table> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("matching/access.yaml")).expect("access.yaml"));

/// What routes change in requests and answers.
static CHANGES: LazyLock<Table> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("matching/changes.yaml")).expect("changes.yaml"));

/// The running pieces.
struct Setup {
    proxy: Proxy,
    _apps: Vec<Echo>,
}

impl Setup {
    fn start(mut plan: Plan, kind: ProxyKind) -> Self {
        plan.settings.proxy = kind;
        let mut apps: BTreeMap<String, Echo> = BTreeMap::new();
        for endpoint in plan.backends.iter_mut().flat_map(|backend| &mut backend.change().endpoints) {
            let app = apps
                .entry(endpoint.name.clone())
                .or_insert_with(|| Echo::start(&endpoint.name).expect("an application starts"));
            endpoint.address = UpstreamAddr::try_from(app.address).expect("a loopback address");
        }
        let secrets = certificates(&mut plan);
        let proxy = Proxy::start(&secrets, |http, https| {
            plan.settings.listeners.http = http;
            plan.settings.listeners.https = https;
            bundle(&plan, kind)
        })
        .expect("the proxy starts");
        Self { proxy, _apps: apps.into_values().collect() }
    }

    fn ask(&self, case: &Case) -> RawAnswer {
        let (host, target) = (case.host.as_deref(), case.target.as_deref().unwrap_or("/"));
        match case.over {
            Over::Http => {
                let bytes = case.raw.as_ref().map_or_else(
                    || {
                        let mut head =
                            format!("GET {target} HTTP/1.1\r\nHost: {}\r\n", host.unwrap_or_default());
                        for header in &case.headers {
                            let _ = write!(head, "{header}\r\n");
                        }
                        head.push_str("Connection: close\r\n\r\n");
                        head.into_bytes()
                    },
                    |raw| raw.chars().map(|c| u8::try_from(c).expect("one byte each")).collect(),
                );
                bare::raw(self.proxy.http, &bytes).expect("an answer")
            }
            over => {
                let (to, host, http2) = (self.proxy.https, host.expect("a host"), over == Over::H2);
                match &case.upload {
                    None => bare::tls(to, host, target, http2),
                    Some(body) => bare::tls_upload(to, host, target, http2, body),
                }
                .expect("curl")
            }
        }
    }
}

fn bundle(plan: &Plan, kind: ProxyKind) -> Bundle {
    let abilities = bare::abilities(kind).expect("the proxy says its version");
    render(plan, &afresh(plan, None), abilities, &Templates::embedded()).expect("it renders")
}

/// Gives every certificate of the plan a real one for its names.
fn certificates(plan: &mut Plan) -> Secrets {
    let mut secrets = Secrets::new();
    for certificate in plan.certificates.values_mut() {
        let names: Vec<String> = certificate.hosts.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        certificate.digest = Digest::of([pem.as_bytes()]);
        secrets.insert(certificate.digest.clone(), pem);
    }
    secrets
}

/// What is wrong with an answer, one line each.
fn judge(case: &Case, answer: &RawAnswer, proxy: &Proxy) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut equal = |what: &str, expected: Option<&str>, got: Option<&str>| {
        if expected != got {
            wrong.push(format!("{what}: expected {expected:?}, got {got:?}"));
        }
    };
    let status = answer.status.to_string();
    let expected = case.or.filter(|or| *or == answer.status).unwrap_or(case.status);
    equal("status", Some(&expected.to_string()), Some(&status));
    let seen: Option<Seen> = serde_json::from_str(&answer.body).ok();
    let seen = seen.as_ref();
    equal("app", case.app.as_deref(), seen.map(|seen| seen.app.as_str()));
    if case.path.is_some() {
        equal("path", case.path.as_deref(), seen.map(|seen| seen.target.as_str()));
    }
    let location = case.location.as_ref().map(|text| {
        let text = text.replace("{https}", &proxy.https.port().to_string());
        text.replace("{http}", &proxy.http.port().to_string())
    });
    equal("location", location.as_deref(), answer.header("location"));
    for (name, expected) in &case.saw {
        let got = seen.and_then(|seen| seen.headers.get(name)).map(String::as_str);
        equal(name, Some(expected.as_str()).filter(|text| !text.is_empty()), got);
    }
    for (name, expected) in &case.answer {
        equal(name, Some(expected), answer.header(name));
    }
    wrong
}

/// The cases of a proxy.
fn cases(table: &Table, kind: ProxyKind) -> impl Iterator<Item = &Case> {
    table.cases.iter().filter(move |case| case.only.is_none_or(|only| only == kind))
}

fn run(kind: ProxyKind, table: &Table) -> Proxy {
    run_with(kind, table.plan.clone(), cases(table, kind).cloned())
}

fn run_with(kind: ProxyKind, plan: Plan, cases: impl Iterator<Item = Case>) -> Proxy {
    let setup = Setup::start(plan, kind);
    let mut report = String::new();
    for case in cases {
        let answer = setup.ask(&case);
        for line in judge(&case, &answer, &setup.proxy) {
            let _ = writeln!(report, "  {}: {line}", case.name);
        }
    }
    assert!(report.is_empty(), "{} answers otherwise:\n{report}", kind.as_str());
    setup.proxy
}

/// The whole table, with some of the applications protected from everybody who asks: what would have reached one of
/// those is refused, however it was written, and all else is as ever.
fn run_protected(kind: ProxyKind, policy: &Policy, refused: u16, protected: impl Fn(&str) -> bool) {
    let mut plan = TABLE.plan.clone();
    for backend in &mut plan.backends {
        if backend.endpoints.iter().any(|endpoint| protected(&endpoint.name)) {
            backend.change().policy = policy.clone();
        }
    }
    let mut kept_out = 0;
    let cases: Vec<Case> = cases(&TABLE, kind)
        .map(|case| match case.app.as_deref().or(case.to.as_deref()) {
            Some(app) if protected(app) => {
                kept_out += 1;
                let Case { name, over, host, target, headers, raw, .. } = case.clone();
                // A connection that was not upgraded stays open for the next request.
                let raw = raw.map(|raw| raw.replace("Connection: Upgrade\r", "Connection: Upgrade, close\r"));
                Case { name, over, host, target, headers, raw, status: refused, ..Case::default() }
            }
            _ => case.clone(),
        })
        .collect();
    assert!(kept_out > 10, "only {kept_out} requests are for those who are protected");
    run_with(kind, plan, cases.into_iter());
}

/// No request from this machine is let in.
fn nobody_from_here() -> Policy {
    let here: Vec<IpNet> = vec!["127.0.0.0/8".parse().expect("a network")];
    Policy { access: Access { deny: here.into(), ..Access::default() }, ..Policy::default() }
}

/// Every line is one JSON object with the keys of the schema, whatever bytes the requests had.
fn check_log(kind: ProxyKind, proxy: &Proxy) {
    // What curl's refused handshakes leave behind differs; every answer of an application is a line.
    let answered = cases(&TABLE, kind).filter(|case| case.app.is_some()).count();
    let log = proxy.log(answered).expect("a log");
    let mut ids = BTreeSet::new();
    for line in log.lines() {
        let value: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let keys: BTreeSet<&str> = value.keys().map(String::as_str).collect();
        assert_eq!(keys, LOG_KEYS.iter().copied().collect(), "{line}");
        for number in ["status", "bytes", "duration_ms", "connect_ms", "response_ms"] {
            assert!(value[number].is_i64(), "{number} is a number: {line}");
        }
        let id = value["request_id"].as_str().expect("text");
        assert!(id.is_empty() || ids.insert(id.to_owned()), "a request id occurs once: {line}");
    }
}

#[test]
fn haproxy_answers_as_the_table_says() {
    check_log(ProxyKind::Haproxy, &run(ProxyKind::Haproxy, &TABLE));
}

#[test]
fn nginx_answers_as_the_table_says() {
    check_log(ProxyKind::Nginx, &run(ProxyKind::Nginx, &TABLE));
}

#[test]
fn nothing_slips_through_to_protected_paths() {
    // Whoever is above or below one who is protected is open, and the other way round.
    let inner = |app: &str| !["root", "deep", "rwx", "wild", "part"].contains(&app);
    for kind in [ProxyKind::Haproxy, ProxyKind::Nginx] {
        run_protected(kind, &nobody_from_here(), 403, inner);
        run_protected(kind, &nobody_from_here(), 403, |app| !inner(app));
    }
}

#[test]
fn networks_let_in_whom_they_should() {
    for kind in [ProxyKind::Haproxy, ProxyKind::Nginx] {
        run(kind, &ACCESS);
    }
}

#[test]
fn requests_and_answers_are_changed_as_asked() {
    for kind in [ProxyKind::Haproxy, ProxyKind::Nginx] {
        run(kind, &CHANGES);
    }
}

#[test]
fn cases_have_names_of_their_own() {
    let names: BTreeSet<&str> = TABLE.cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), TABLE.cases.len());
}
