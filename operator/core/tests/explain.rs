//! `why` asked about the golden cases: every kind of answer, with the fix that belongs to it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the cases are files, and a test may fail"
)]

use std::collections::BTreeMap;
use std::path::Path;

use interlock_core::compile::{Config, compile};
use interlock_core::explain::{Answer, Explanation, Question, why};
use interlock_core::finding::Reason;
use interlock_core::model::Observed;
use interlock_crds::{ProxyKind, ReadinessMode, ServiceClusterSpec};

/// Asks about a golden case, with its configuration.
fn ask(case: &str, host: &str, path: &str) -> Explanation {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(case);
    let text = std::fs::read_to_string(folder.join("observed.yaml")).unwrap();
    let observed: Observed = serde_yaml::from_str(&text).unwrap();
    let config: Config = match std::fs::read_to_string(folder.join("config.yaml")) {
        Ok(text) => serde_yaml::from_str(&text).unwrap(),
        Err(_) => implicit(),
    };
    why(&compile(&observed, &config), &observed, &config, host, path)
}

fn implicit() -> Config {
    let spec = ServiceClusterSpec {
        readiness: ReadinessMode::None,
        ..ServiceClusterSpec::implicit(ProxyKind::Haproxy)
    };
    Config { clusters: BTreeMap::from([("haproxy".parse().unwrap(), spec)]), ..Config::default() }
}

fn reasons(answer: &Explanation) -> Vec<Reason> {
    answer.findings.iter().map(|finding| finding.reason).collect()
}

#[test]
fn a_served_route_names_its_endpoints_on_each_proxy() {
    let answer = ask("proxy_own_label_is_exec_target", "WEB.example.com.:8080", "/any");
    assert_eq!(answer.answer, Answer::Served);
    assert_eq!(answer.summary, "web.example.com/any is served by `web` at 172.20.0.3:8080");
    assert_eq!(answer.targets.len(), 2);
    assert!(answer.targets.values().all(|target| target.routes[0].endpoints[0].serving));
    assert!(answer.findings.is_empty(), "{:?}", answer.findings);
    // Of a version that nobody has told, the oldest is assumed.
    for target in answer.targets.values() {
        let told = target.remains.iter().any(|it| it.contains("nginx-1.22 closes kept idle connections"));
        assert_eq!(told, target.proxy == ProxyKind::Nginx, "{:?}", target.remains);
    }
}

#[test]
fn an_unknown_host_is_answered_with_the_nearest() {
    let answer = ask("proxy_own_label_is_exec_target", "wbe.example.com", "");
    assert_eq!(answer.answer, Answer::UnknownHost);
    assert_eq!(answer.nearest, ["web.example.com"]);
    assert_eq!(answer.summary, "nothing asks for wbe.example.com; did you mean web.example.com?");
    assert_eq!(answer.targets.values().next().unwrap().status, Some(404));
}

#[test]
fn a_path_that_no_route_covers_lists_those_there_are() {
    let answer = ask("aliases_inherit_every_setting", "www.example.com", "/apple");
    assert_eq!(answer.answer, Answer::PathNotCovered);
    assert_eq!(answer.summary, "no route of www.example.com covers /apple: it has /app");
}

#[test]
fn the_longest_path_and_the_longest_wildcard_answer() {
    let route = |host: &str, path: &str| {
        let answer = ask("routes_are_sorted_longest_path_first", host, path);
        answer.targets.values().next().unwrap().routes.first().map(|route| route.route.clone())
    };
    assert_eq!(route("a.example.com", "/app/long/x").as_deref(), Some("a.example.com/app/long"));
    assert_eq!(route("a.example.com", "/app/longer").as_deref(), Some("a.example.com/app"));
    assert_eq!(route("x.deep.example.com", "/").as_deref(), Some("*.deep.example.com/"));
    assert_eq!(route("c.example.com", "/").as_deref(), Some("*.example.com/"));
}

#[test]
fn what_stands_in_the_way_comes_with_its_fix() {
    for (case, host, reason, fix) in [
        ("port_several_are_ambiguous", "web.example.com", Reason::AmbiguousPort, "interlock.port: \"80\""),
        (
            "port_several_are_ambiguous",
            "admin.example.com",
            Reason::AmbiguousPort,
            "interlock.admin.port: \"80\"",
        ),
        (
            "address_several_networks_are_ambiguous",
            "web.example.com",
            Reason::AmbiguousNetwork,
            "interlock.network",
        ),
        (
            "address_unreachable_lists_what_was_looked_at",
            "web.example.com",
            Reason::Unreachable,
            "ports: [\"8080\"]",
        ),
        ("only_running_containers_count", "paused.example.com", Reason::Paused, "docker unpause web-paused"),
        (
            "only_running_containers_count",
            "exited.example.com",
            Reason::NotRunning,
            "docker start web-exited",
        ),
        ("owner_keeps_the_host_through_a_redeploy", "web.example.com", Reason::HostTaken, "sharing: merge"),
        ("one_off_gets_no_route", "web.example.com", Reason::OneOff, "docker compose up -d"),
        (
            "hostname_opt_in_needs_a_published_port",
            "closed.test.local",
            Reason::NotPublished,
            "docker run -P",
        ),
        ("quarantined_intent_is_left_out", "web.example.com", Reason::Quarantined, "labels"),
        ("bad_label_costs_only_its_own_route", "bad.example.com", Reason::InvalidHost, "interlock.host="),
        ("proxy_label_from_image_is_no_proxy", "web.example.com", Reason::NoProxy, "docker run -d"),
    ] {
        let answer = ask(case, host, "/");
        let found = answer.findings.iter().find(|finding| finding.reason == reason);
        let found = found.unwrap_or_else(|| panic!("{case}: {:?}", reasons(&answer)));
        assert!(found.fix.as_deref().is_some_and(|text| text.contains(fix)), "{case}: {:?}", found.fix);
    }
}

#[test]
fn a_cold_endpoint_is_a_503_that_says_what_is_waited_for() {
    let answer = ask("readiness_auto_waits_for_a_connection", "tried.example.com", "/");
    assert_eq!(answer.answer, Answer::NoEndpoint);
    assert_eq!(answer.targets.values().next().unwrap().status, Some(503));
    assert!(answer.summary.contains("connection refused"), "{}", answer.summary);
    assert_eq!(reasons(&answer), [Reason::NotWarm], "and nothing about its neighbours");
}

#[test]
fn a_redirect_says_where_to_and_is_no_fault() {
    let answer = ask("route_document_serves_everything", "moved.example.com", "/old/x");
    assert_eq!(answer.answer, Answer::Redirected);
    assert_eq!(answer.targets.values().next().unwrap().status, Some(301));
    let to = "301 to the same host, /new in place of /old";
    assert_eq!(answer.summary, format!("moved.example.com/old/x is redirected: {to}"));
    assert!(answer.findings.is_empty(), "{:?}", answer.findings);
    let answer = ask("route_document_serves_everything", "moved.example.com", "/");
    assert!(answer.summary.ends_with("308 to https://new.example.com:8443/new"), "{}", answer.summary);
    // What would have kept clients out is not passed over.
    let answer = ask("route_document_asks_for_what_cannot_be_done", "guarded.example.com", "/");
    assert_eq!(answer.answer, Answer::NoEndpoint);
}

#[test]
fn an_alias_is_answered_like_the_name_that_the_findings_carry() {
    let answer = ask("interlock_data_in_the_environment", "old.example.com", "/");
    assert_eq!(reasons(&answer), [Reason::NotWarm]);
}

#[test]
fn a_container_is_found_by_name_and_by_id() {
    for name in ["several", "multi", "multi00000000"] {
        let answer = ask("several_routes_on_one_container", name, "");
        if name == "several" {
            assert_eq!(answer.answer, Answer::UnknownHost);
            continue;
        }
        assert!(matches!(&answer.question, Question::Container { name, .. } if name == "multi"));
        assert_eq!(answer.summary, "`multi` serves admin.example.com/, shop.example.com/");
    }
    let answer = ask("port_none_is_told", "web", "");
    assert_eq!(answer.summary, "`web` neither exposes nor publishes a TCP port");
}

#[test]
fn what_is_no_host_name_is_a_400() {
    let answer = ask("port_none_is_told", "web_1!", "/");
    assert_eq!(answer.answer, Answer::InvalidHost);
}
