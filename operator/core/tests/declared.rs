//! Documents: what the golden cases cannot show well.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;

use interlock_core::compile::{Config, compile};
use interlock_core::declared::Declared;
use interlock_core::explain::why;
use interlock_core::finding::{Reason, Verdict};
use interlock_core::model::{DocumentId, Observed};
use interlock_crds::{ProxyKind, ServiceClusterSpec};
use serde_json::{Value, json};

/// A world with one cluster and one document.
fn world(spec: Value) -> (Observed, Config) {
    let routes = BTreeMap::from([("shop/web".parse().unwrap(), serde_json::from_value(spec).unwrap())]);
    let observed = Observed {
        declared: Declared { routes, ..Declared::default() }.into(),
        sockets: ["edge".parse().unwrap()].into(),
        agents: serde_json::from_value(json!({"edge": {"abilities": "haproxy-2.6"}})).unwrap(),
        ..Observed::default()
    };
    let cluster = ServiceClusterSpec::implicit(ProxyKind::Haproxy);
    let clusters = BTreeMap::from([("haproxy".parse().unwrap(), cluster)]);
    (observed, Config { clusters, ..Config::default() })
}

#[test]
fn a_document_of_megabytes_is_no_plan_of_gigabytes() {
    let one = json!({"backendRefs": [{"name": "web"}]});
    for spec in [
        json!({"hostnames": ["a.example.com", "b.example.com"], "rules": [{
            "matches": (0..501).map(|n| json!({"path": {"value": format!("/{n}")}})).collect::<Vec<_>>(),
            "backendRefs": [{"name": "web"}],
        }]}),
        json!({"hostnames": ["a.example.com"], "rules": [{"backendRefs": vec![json!({"name": "web"}); 257]}]}),
        json!({"hostnames": ["a.example.com"], "rules": vec![one; 1_001]}),
    ] {
        let (observed, config) = world(spec);
        let compiled = compile(&observed, &config);
        let [finding] = compiled.findings.as_slice() else { panic!("{:?}", compiled.findings) };
        assert_eq!((finding.verdict, finding.reason), (Verdict::Refused, Reason::InvalidValue));
        assert!(finding.message.contains("are the most of one document"), "{}", finding.message);
        assert!(compiled.plans.values().all(|plan| plan.routes.is_empty()));
    }
}

#[test]
fn a_modifier_of_too_many_headers_closes_its_rule() {
    let spec = |number: usize| {
        let set: Vec<_> = (0..number).map(|n| json!({"name": format!("X-{n}"), "value": "1"})).collect();
        json!({
            "hostnames": ["a.example.com"],
            "readiness": "none",
            "rules": [{
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": set}}],
                "backendRefs": [{"kind": "Address", "address": "192.0.2.7", "port": 80}],
            }],
        })
    };
    for (number, message) in [(64, None), (65, Some("it changes 65 headers; 64 are the most"))] {
        let (observed, config) = world(spec(number));
        let compiled = compile(&observed, &config);
        let told = compiled.findings.iter().find(|finding| finding.verdict == Verdict::Refused);
        assert_eq!(told.is_some(), message.is_some(), "{told:?}");
        assert!(told.is_none_or(|told| told.message.contains(message.unwrap_or_default())), "{told:?}");
        let nobody =
            compiled.plans.values().all(|plan| plan.backends.iter().all(|it| it.endpoints.is_empty()));
        assert_eq!(nobody, message.is_some(), "what cannot be changed is not served");
    }
}

#[test]
fn why_names_the_document_that_keeps_a_host_closed() {
    let (observed, config) = world(json!({
        "hostnames": ["a.example.com"],
        "forwardAuth": {"address": "http://192.0.2.9/"},
        "rules": [{"backendRefs": [{"kind": "Address", "address": "192.0.2.7", "port": 80}]}],
    }));
    let compiled = compile(&observed, &config);
    assert!(compiled.plans.values().all(|plan| plan.backends.iter().all(|b| b.endpoints.is_empty())));
    let answer = why(&compiled, &observed, &config, "a.example.com", "/");
    assert!(
        answer.summary.contains("a.example.com/ is not served: `spec.forwardAuth`: no proxy"),
        "{}",
        answer.summary
    );
    let near = why(&compiled, &observed, &config, "b.example.com", "/");
    assert!(near.summary.contains("did you mean a.example.com"), "{}", near.summary);
}

#[test]
fn a_name_is_as_kubernetes_has_them() {
    for good in ["shop/web", "a/b.c-d.9", "0/0"] {
        assert_eq!(good.parse::<DocumentId>().unwrap().as_str(), good);
    }
    let long = format!("a/{}", "b".repeat(254));
    for bad in ["", "web", "a/", "/b", "a/B", "a/-b", "a/b-", "a/b/c", "a.b/c", "a/b c", "a/é", &long] {
        assert!(bad.parse::<DocumentId>().is_err(), "{bad}");
    }
}
