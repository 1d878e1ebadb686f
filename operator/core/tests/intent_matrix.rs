//! The coverage matrix: every key × proxy × (valid, invalid, hostile), from samples that sit beside this
//! file's loop as data. A key without samples fails, and so does a sample without a key.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::finding::Verdict;
use interlock_core::intent::keys::{Dialect, KEYS, Key, Kind, Setting};
use interlock_core::intent::{Intent, Parsed, parse};
use interlock_core::model::{Container, ContainerState, Health, Timestamp};
use interlock_crds::{ProxyKind, ServiceClusterSpec};

/// What to try for one setting.
struct Samples {
    setting: Setting,
    /// What must stand beside the key for it to have an effect, as settings and values.
    beside: &'static [(Setting, &'static str)],
    valid: &'static [&'static str],
    /// Refused or degraded, each with whether the route goes.
    invalid: &'static [(&'static str, Costs)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Costs {
    Route,
    Value,
}

use Costs::{Route, Value};
use Setting as S;

const SAMPLES: &[Samples] = &[
    samples(
        S::Host,
        &["shop.example.com", "*.example.com", "a.org,b.org"],
        &[("a_b.org", Route), ("a.*.org", Route)],
    ),
    samples(S::Hostname, &["shop", "shop.example.com"], &[("a_b", Route)]),
    samples(S::Domain, &["example.com"], &[("exam ple.com", Route)]),
    samples(
        S::Alias,
        &["alias.example.com", "*.alias.example.com"],
        &[("bad_alias.org", Value), ("a..b", Value)],
    ),
    samples(S::Path, &["/app", "app/v1/"], &[("/a/../b", Route), ("/a//b", Route), ("/a b", Route)]),
    beside(S::Rewrite, &[(S::Path, "/app")], &["true", ""], &[("maybe", Value)]),
    samples(S::Port, &["8080", "65535"], &[("0", Route), ("65536", Route), ("http", Route), ("-1", Route)]),
    samples(S::Network, &["frontend", "proj_default"], &[("-x", Route), ("a b", Route)]),
    samples(S::HttpsOnly, &["true", "yes"], &[("on", Value)]),
    samples(S::Tls, &["true", "1"], &[("on", Value)]),
    samples(
        S::Certificate,
        &["shop.example.com.pem"],
        &[("certs/shop.pem", Value), ("..", Value), (".hidden", Value)],
    ),
    beside(S::CertificateKey, &[(S::Certificate, "a.pem")], &["a.key"], &[("/etc/ssl/a.key", Value)]),
    samples(S::UpstreamTls, &["true"], &[("tls", Value)]),
    beside(S::UpstreamVerify, &[(S::UpstreamTls, "true")], &["required", "all"], &[("maybe", Value)]),
    samples(S::Websocket, &["/ws"], &[("ws://shop.example.com/ws", Value), ("/a/../b", Value)]),
    samples(
        S::Balance,
        &["leastconn", "source", "random", "uri"],
        &[("fastest", Value), ("hdr(Host)", Value)],
    ),
    samples(S::IpHash, &["true"], &[("on", Value)]),
    samples(
        S::Check,
        &["httpchk GET /ping", "/ping", "tcp-check"],
        &[("httpchk BREW /", Value), ("ssl-hello-chk", Value), ("nonsense", Value)],
    ),
    samples(S::CheckInterval, &["1", "5000"], &[("0", Value), ("5s", Value), ("1.5", Value)]),
    samples(S::Options, &["forwardfor", "option redispatch"], &[("forceclose", Value), ("httplog", Value)]),
    samples(S::SlowStart, &["30s", "1m 30s", "0s"], &[("30", Value), ("2h", Value), ("soon", Value)]),
    samples(S::Warm, &["true"], &[("on", Value)]),
    samples(S::Readiness, &["docker", "none", "probe"], &[("always", Value)]),
    samples(
        S::Allow,
        &["10.0.0.0/8", "192.0.2.7,fd00::/8"],
        &[("10.0.0.0/33", Value), ("", Value), ("all", Value)],
    ),
    samples(S::Deny, &["10.0.0.0/8"], &[("10.0.0/8", Value), ("10.0.0.0/8;evil", Value)]),
    samples(
        S::BodySize,
        &["1", "1048576"],
        &[("1m", Value), ("0", Value), ("-1", Value), ("99999999999999", Value)],
    ),
    samples(S::Owner, &["team-shop"], &[("\u{7}", Value)]),
];

const fn samples(
    setting: Setting,
    valid: &'static [&'static str],
    invalid: &'static [(&'static str, Costs)],
) -> Samples {
    beside(setting, &[], valid, invalid)
}

const fn beside(
    setting: Setting,
    beside: &'static [(Setting, &'static str)],
    valid: &'static [&'static str],
    invalid: &'static [(&'static str, Costs)],
) -> Samples {
    Samples { setting, beside, valid, invalid }
}

/// Text that would do harm if a proxy's configuration, a path or a request ever held it.
const HOSTILE: &[&str] = &[
    "x\n  bind *:6666",
    "x\r\nX-Evil: 1",
    "/app } server { listen 6666; }",
    "/a;return 200 evil",
    "shop.example.com\" evil",
    "'; evil",
    "%[env(HOME)]",
    "/%[src]",
    "$host${evil}",
    "../../etc/passwd",
    "/../../etc/passwd",
    "a\0b",
    "a\u{202e}b",
    "`evil`",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "httpchk GET /x HTTP/1.1\r\nHost: evil",
    "httpchk GET /%[src]",
    "httpchk GET /\" evil",
    "forwardfor\n  server evil 127.0.0.1:1",
    "forwardfor except 0.0.0.0/0 }",
    "leastconn\n  acl evil",
    "# comment",
    "\\x6ceak\\",
];

const PROXIES: [ProxyKind; 2] = [ProxyKind::Haproxy, ProxyKind::Nginx];

/// What is set on the container that is tried, by key.
struct Trial {
    key: &'static Key,
    /// Settings beside it, written in the key's own dialect where that has them, else as labels.
    labels: BTreeMap<String, String>,
    data: BTreeMap<String, String>,
}

impl Trial {
    /// A container with a host (unless the key is one) and what `samples` want beside the key.
    fn new(key: &'static Key, samples: &Samples) -> Self {
        let mut trial = Self { key, labels: BTreeMap::new(), data: BTreeMap::new() };
        if !matches!(key.setting, S::Host | S::Hostname | S::Domain) {
            trial.labels.insert("interlock.host".to_owned(), "base.example.com".to_owned());
        }
        for (setting, value) in samples.beside {
            let same = |dialect: Dialect| {
                KEYS.iter().find(|other| other.dialect == dialect && other.setting == *setting)
            };
            if let (Dialect::Data, Some(beside)) = (key.dialect, same(Dialect::Data)) {
                trial.data.insert(beside.name.to_owned(), (*value).to_owned());
            } else {
                let beside = same(Dialect::Label).expect("every setting has a label");
                trial.labels.insert(beside.full_name(), (*value).to_owned());
            }
        }
        trial
    }

    fn with(&self, value: &str) -> Container {
        let (mut labels, mut data) = (self.labels.clone(), self.data.clone());
        match self.key.dialect {
            Dialect::Label => drop(labels.insert(self.key.full_name(), value.to_owned())),
            Dialect::Data => drop(data.insert(self.key.name.to_owned(), value.to_owned())),
        }
        container(labels, &data)
    }

    fn without(&self) -> Container {
        container(self.labels.clone(), &self.data)
    }
}

fn container(labels: BTreeMap<String, String>, data: &BTreeMap<String, String>) -> Container {
    Container {
        id: "a".repeat(64).parse().unwrap(),
        name: "web".to_owned(),
        image: "web:1".to_owned(),
        created: Timestamp(1),
        started: Timestamp(1),
        state: ContainerState::Running,
        health: Health::None,
        hostname: "a".repeat(12),
        domainname: String::new(),
        labels,
        image_labels: BTreeMap::new(),
        data: (!data.is_empty()).then(|| serde_json::to_string(data).unwrap()),
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

fn read(container: &Container, proxy: ProxyKind) -> Parsed {
    parse(&"local".parse().unwrap(), container, &ServiceClusterSpec::implicit(proxy))
}

/// What is asked for, without the identity that no key decides.
fn wish(parsed: &Parsed) -> Vec<(String, String)> {
    parsed.intents.iter().map(|intent| (intent.digest.to_string(), intent.owner.to_string())).collect()
}

fn names(parsed: &Parsed, key: &Key) -> bool {
    let full = key.full_name();
    parsed.findings.iter().any(|finding| {
        finding.subject.key.as_ref().is_some_and(|key| {
            key.strip_prefix(&full).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        })
    })
}

fn samples_of(key: &Key) -> &'static Samples {
    SAMPLES
        .iter()
        .find(|samples| samples.setting == key.setting)
        .unwrap_or_else(|| panic!("{} has no samples", key.full_name()))
}

/// Calls `cell` for every key on every proxy, and says how many cells there were.
fn every_cell(mut cell: impl FnMut(&'static Key, ProxyKind, &Trial, &'static Samples)) {
    let mut cells = 0;
    for key in KEYS {
        let samples = samples_of(key);
        assert!(!samples.valid.is_empty() && !samples.invalid.is_empty(), "{}", key.full_name());
        for proxy in PROXIES {
            cell(key, proxy, &Trial::new(key, samples), samples);
            cells += 1;
        }
    }
    assert_eq!(cells, KEYS.len() * PROXIES.len());
}

#[test]
fn samples_and_keys_cover_each_other() {
    let known: BTreeSet<Setting> = KEYS.iter().map(|key| key.setting).collect();
    let sampled: BTreeSet<Setting> = SAMPLES.iter().map(|samples| samples.setting).collect();
    assert_eq!(known, sampled);
    let full: BTreeSet<String> = KEYS.iter().map(Key::full_name).collect();
    assert_eq!(full.len(), KEYS.len(), "no key twice");
}

#[test]
fn valid_values_take_effect_where_the_proxy_can() {
    every_cell(|key, proxy, trial, samples| {
        for value in samples.valid {
            if value.is_empty() && key.dialect == Dialect::Data {
                continue; // presence is a label's way to say true
            }
            let (with, without) = (read(&trial.with(value), proxy), read(&trial.without(), proxy));
            let context = format!("{}={value} on {proxy:?}: {:#?}", key.full_name(), with.findings);
            assert_eq!(with.intents.len(), 1, "{context}");
            if key.proxies.contains(&proxy) {
                assert_ne!(wish(&with), wish(&without), "{context}");
                assert!(with.findings.is_empty(), "{context}");
            } else {
                assert_eq!(wish(&with), wish(&without), "{context}");
                assert!(names(&with, key), "{context}");
            }
        }
    });
}

#[test]
fn invalid_values_cost_what_they_may_and_are_named() {
    every_cell(|key, proxy, trial, samples| {
        for (value, costs) in samples.invalid {
            let parsed = read(&trial.with(value), proxy);
            let context = format!("{}={value:?} on {proxy:?}: {parsed:#?}", key.full_name());
            assert!(names(&parsed, key), "{context}");
            assert_eq!(parsed.intents.is_empty(), *costs == Route, "{context}");
            let refused = parsed.findings.iter().any(|finding| finding.verdict == Verdict::Refused);
            assert_eq!(refused, *costs == Route, "{context}");
            assert!(parsed.findings.iter().all(|finding| finding.verdict != Verdict::Waiting), "{context}");
        }
    });
}

#[test]
fn wrong_json_types_cost_only_their_key() {
    for key in KEYS.iter().filter(|key| key.dialect == Dialect::Data) {
        for (json, kind) in [("{}", None), ("[[]]", None), ("true", Some(Kind::Bool))] {
            if kind == Some(key.kind) {
                continue;
            }
            let mut container = Trial::new(key, samples_of(key)).without();
            container.labels.insert("interlock.host".to_owned(), "base.example.com".to_owned());
            let (neighbour, value) = if key.name == "warm" { ("ssl", "true") } else { ("warm", "true") };
            container.data = Some(format!("{{\"{}\": {json}, \"{neighbour}\": {value}}}", key.name));
            let parsed = read(&container, ProxyKind::Haproxy);
            let taken = |intent: &Intent| intent.warm || intent.settings.tls;
            assert!(parsed.intents.iter().all(taken), "{} {json}: {:#?}", key.name, parsed.intents);
            assert!(names(&parsed, key), "{} {json}: {:#?}", key.name, parsed.findings);
            assert_eq!(parsed.intents.len(), 1, "{} {json}", key.name);
        }
    }
}

#[test]
fn hostile_text_never_reaches_an_intent() {
    let long = "a".repeat(100_000);
    let hostile: Vec<&str> = HOSTILE.iter().copied().chain([long.as_str()]).collect();
    every_cell(|key, proxy, trial, _| {
        for text in &hostile {
            let parsed = read(&trial.with(text), proxy);
            let serialized = serde_json::to_string(&parsed.intents).unwrap();
            let escaped = serde_json::to_string(text).unwrap();
            let context = format!("{}={:.60?} on {proxy:?}", key.full_name(), text);
            for broken in ["\\n", "\\r", "\\u0000", "\u{202e}"] {
                assert!(!serialized.contains(broken), "{context}: {serialized}");
            }
            // An owner is shown to people and compared, never written into a configuration.
            if key.setting != Setting::Owner {
                assert!(!serialized.contains(escaped.trim_matches('"')), "{context}: {serialized}");
                assert!(
                    !serialized.contains("evil") && !serialized.contains("passwd"),
                    "{context}: {serialized}"
                );
                for broken in ["${", "%[", "`", "<"] {
                    assert!(!serialized.contains(broken), "{context}: {serialized}");
                }
            }
            assert!(serialized.len() < 2000, "{context}: {} bytes", serialized.len());
            assert!(!parsed.findings.is_empty() || key.setting == Setting::Owner, "{context}: {parsed:#?}");
            for finding in &parsed.findings {
                let texts = [Some(&finding.message), finding.fix.as_ref(), finding.subject.key.as_ref()];
                for shown in texts.into_iter().flatten() {
                    assert!(shown.len() < 1500, "{context}: {shown}");
                    assert!(!shown.chars().any(char::is_control), "{context}: {shown:?}");
                }
            }
        }
    });
}

#[test]
fn hostile_keys_are_told_without_their_control_characters() {
    for text in HOSTILE {
        for label in [
            format!("interlock.{text}"),
            format!("interlock.{text}.host"),
            format!("interlock.alias_domain.{text}"),
        ] {
            let labels = [(label, "shop.example.com".to_owned())].into_iter().collect();
            let parsed = read(&container(labels, &BTreeMap::new()), ProxyKind::Haproxy);
            assert!(parsed.intents.is_empty(), "{parsed:#?}");
            assert!(!parsed.findings.is_empty(), "{text}");
            for finding in &parsed.findings {
                let all = format!("{}{:?}{:?}", finding.message, finding.fix, finding.subject.key);
                assert!(!all.chars().any(char::is_control), "{all:?}");
            }
        }
    }
}
