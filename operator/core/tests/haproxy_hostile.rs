//! Hostile text in every label that a container can carry, through the whole core, judged by the real HAProxy.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test whose judge is the real HAProxy")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use interlock_core::assign::afresh;
use interlock_core::bundle::{Bundle, Paths};
use interlock_core::compile::{Config, compile};
use interlock_core::model::Observed;
use interlock_core::plan::Abilities;
use interlock_core::render::{Templates, render};
use interlock_crds::{ProxyKind, ReadinessMode, ServiceClusterSpec};

/// A container that asks for everything, beside others that must not suffer.
const OBSERVED: &str = include_str!("cases/haproxy_serves_everything_that_a_label_can_ask/observed.yaml");

/// Each would be a listener, a route, a header, a file or an end of the line if it ever became one.
const CANARIES: &[&str] = &[
    "\n    bind 127.0.0.1:21999\n",
    "\r\nlisten canary\r\n    bind 127.0.0.1:21999\r\n",
    " bind 127.0.0.1:21999",
    "\tif TRUE\n    http-response set-header X-Canary 1",
    "\" 'canary",
    "%[env(HOME)] %[var(canary)]",
    "${HOME}",
    "%{interlock.secrets}/x",
    "{{ 7 * 7 }}{% raw %}",
    "/../../../../etc/passwd",
    "; use_backend canary # ",
    "\\\n    acl canary always_true",
    "\0",
    "\u{2028}\u{7f}",
];

fn observed() -> Observed {
    serde_yaml::from_str(OBSERVED).unwrap()
}

/// The bundle of the only proxy, with every cluster setting at its default but readiness.
fn bundle(observed: &Observed) -> Bundle {
    let mut cluster = ServiceClusterSpec::implicit(ProxyKind::Haproxy);
    cluster.readiness = ReadinessMode::None;
    let mut config: Config = serde_json::from_value(serde_json::json!({ "clusters": {} })).unwrap();
    config.clusters.insert("haproxy".parse().unwrap(), cluster);
    let compiled = compile(observed, &config);
    let plan = compiled.plans.values().next().expect("a plan for the proxy");
    let abilities = Abilities::oldest(ProxyKind::Haproxy);
    render(plan, &afresh(plan, None), abilities, &Templates::embedded()).unwrap()
}

/// The directives of the main file: first words, and how often each section and listener occurs.
fn directives(bundle: &Bundle) -> (BTreeSet<String>, BTreeMap<&'static str, usize>) {
    let paths = Paths { dir: "/dir", run: "/run", secrets: "/secrets" };
    let config = bundle.files(paths).remove("haproxy.cfg").unwrap();
    let word =
        |line: &str| line.trim_start().split(char::is_whitespace).next().unwrap_or_default().to_owned();
    let words = config.lines().map(word).collect();
    let count = |what: &str| config.lines().filter(|line| line.trim_start().starts_with(what)).count();
    let counted = ["bind ", "listen ", "frontend ", "global", "defaults", "use_backend ", "http-response "];
    (words, counted.into_iter().map(|what| (what, count(what))).collect())
}

fn check(bundle: &Bundle) -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("interlock-hostile-").tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for (name, text) in bundle.files(Paths { dir: path, run: path, secrets: path }) {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let config = dir.path().join("haproxy.cfg");
    let output = Command::new("haproxy").args(["-c", "-f"]).arg(config).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn no_label_can_hold_a_directive() {
    let plain = observed();
    let (words, counts) = directives(&bundle(&plain));
    assert!(words.contains("backend") && words.contains("balance"), "the case asks for something: {words:?}");
    let mut judged: BTreeMap<_, Bundle> = BTreeMap::new();
    let mut tried = 0;
    for (engine, view) in &plain.engines {
        for (id, container) in &view.containers {
            for (key, value) in &container.labels {
                if key == "interlock.ext.name" {
                    continue;
                }
                for canary in CANARIES {
                    for text in [(*canary).to_owned(), format!("{value}{canary}"), format!("{canary}{value}")]
                    {
                        let mut hostile = plain.clone();
                        let containers = &mut hostile.engines.get_mut(engine).unwrap().containers;
                        let labels = &mut containers.get_mut(id).unwrap().change().labels;
                        labels.insert(key.clone(), text.clone());
                        let bundle = bundle(&hostile);
                        let (now, counted) = directives(&bundle);
                        assert!(now.is_subset(&words), "{key}={text:?} made {:?}", now.difference(&words));
                        assert_eq!(counted, counts, "{key}={text:?}");
                        assert!(
                            container.name == "six" || bundle.live.servers.contains_key("six.example.com"),
                            "{key}={text:?} cost a neighbour"
                        );
                        judged.insert(bundle.digest.clone(), bundle);
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(tried > 700, "only {tried} were tried");
    // What differs at all is judged by HAProxy itself.
    for bundle in judged.values() {
        check(bundle).unwrap();
    }
}
