//! What is said of documents in each state of the world.

use super::*;
use crate::compile::{Config, compile};
use crate::declared::Declared;
use crate::model::Observed;

const OBSERVED: &str = r#"{
    "engines": {"local": {"freshness": {"state": "fresh"}, "containers": {
        "e1": {"id": "e1", "name": "edge", "created": 1, "started": 1, "state": "running",
            "labels": {"interlock.ext.name": "haproxy"},
            "networks": {"web": {"ipv4": "10.0.0.2"}}},
        "a1": {"id": "a1", "name": "web", "created": 1, "started": 1, "state": "running", "exposed": [8080],
            "networks": {"web": {"ipv4": "10.0.0.3"}}}
    }}}
}"#;

fn spec(backend: &str) -> RouteSpec {
    serde_json::from_value(serde_json::json!({
        "hostnames": ["a.example.com"], "rules": [{"backendRefs": [{"name": backend}]}],
    }))
    .unwrap()
}

fn compiled(spec: &RouteSpec) -> Compiled {
    all_compiled(&[("shop/web", spec)])
}

fn all_compiled(specs: &[(&str, &RouteSpec)]) -> Compiled {
    let mut observed: Observed = serde_json::from_str(OBSERVED).unwrap();
    let routes =
        specs.iter().map(|(id, spec)| (id.parse().unwrap(), RouteSpec::clone(spec).into())).collect();
    observed.declared = Declared { routes, ..Declared::default() }.into();
    let haproxy = interlock_crds::ServiceClusterSpec::implicit(interlock_crds::ProxyKind::Haproxy);
    let config =
        Config { clusters: BTreeMap::from([("haproxy".parse().unwrap(), haproxy)]), ..Config::default() };
    compile(&observed, &config)
}

/// The one proxy, in a state and with a plan that it runs.
fn proxies(
    compiled: &Compiled,
    state: &'static str,
    running: Option<&Compiled>,
) -> BTreeMap<TargetId, Proxy> {
    let of = |(id, plan): (&TargetId, &Shared<Plan>)| {
        let running = running.and_then(|running| running.plans.get(id)).cloned();
        let cluster = Some(plan.cluster.clone());
        (id.clone(), Proxy { cluster, running, digest: None, state, message: None })
    };
    compiled.plans.iter().map(of).collect()
}

/// Each condition as `type=status reason`.
fn said(spec: &RouteSpec, state: &'static str, running: Option<&Compiled>) -> Vec<String> {
    let compiled = compiled(spec);
    let proxies = proxies(&compiled, state, running);
    let standing = World::new(&compiled, &proxies).route(&"shop/web".parse().unwrap(), spec);
    standing.conditions.iter().map(|one| format!("{}={:?} {}", one.kind, one.status, one.reason)).collect()
}

#[test]
fn programmed_is_what_the_running_plan_proves() {
    let good = spec("web");
    let runs = compiled(&good);
    assert_eq!(said(&good, "Programmed", Some(&runs))[3], "Programmed=True Programmed");
    assert_eq!(said(&good, "Programmed", None)[3], "Programmed=False Pending");
    assert_eq!(said(&good, "Refused", None)[3], "Programmed=False Refused");
    assert_eq!(said(&good, "Unreachable", Some(&runs))[3], "Programmed=Unknown Unreachable");
    // What runs is another spec of the same name.
    let mut other = good.clone();
    other.hostnames.push("b.example.com".to_owned());
    assert_eq!(said(&other, "Pending", Some(&runs))[3], "Programmed=False Pending");
    // Another route of the proxy is not there yet: this one runs all the same.
    let wiki = RouteSpec { hostnames: vec!["b.example.com".to_owned()], ..good.clone() };
    let both = all_compiled(&[("shop/web", &good), ("shop/wiki", &wiki)]);
    let proxies = proxies(&both, "Pending", Some(&runs));
    let said =
        |id: &str, spec| World::new(&both, &proxies).route(&id.parse().unwrap(), spec).conditions[3].status;
    assert_eq!(said("shop/web", &good), ConditionStatus::True);
    assert_eq!(said("shop/wiki", &wiki), ConditionStatus::False);
}

#[test]
fn what_is_wrong_is_said_where_it_belongs() {
    let nobody = said(&spec("nobody"), "Programmed", None);
    assert_eq!(nobody[..2], ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]);
    assert!(nobody[2].starts_with("Ready=False"), "{nobody:?}");

    let mut guarded = spec("web");
    guarded.compression = true;
    assert_eq!(said(&guarded, "Programmed", None)[0], "Accepted=True Accepted", "served without it");
    guarded.forward_auth = Some(interlock_crds::ForwardAuth {
        address: "http://192.0.2.9/".to_owned(),
        response_headers: Vec::new(),
    });
    let closed = said(&guarded, "Programmed", Some(&compiled(&guarded)));
    assert_eq!(closed[0], "Accepted=False NotSupported");
    assert_eq!(closed[3], "Programmed=False NotAccepted");

    let mut elsewhere = spec("web");
    elsewhere.parent_refs = vec![interlock_crds::ParentRef { name: "dmz".to_owned() }];
    let elsewhere = said(&elsewhere, "Programmed", None);
    assert_eq!(elsewhere[0], "Accepted=False ParentNotFound");
    assert_eq!(elsewhere[2], "Ready=Unknown NoProxy");
}

#[test]
fn a_redirect_needs_nobody() {
    let redirect = |hostname: &str| -> RouteSpec {
        serde_json::from_value(serde_json::json!({
            "hostnames": ["a.example.com"],
            "rules": [{"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": hostname}}]}],
        }))
        .unwrap()
    };
    let sent = redirect("b.example.com");
    let good = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs", "Ready=True Ready"];
    let sent = said(&sent, "Programmed", Some(&compiled(&sent)));
    assert_eq!(sent[..3], good);
    assert_eq!(sent[3], "Programmed=True Programmed");
    let itself = said(&redirect("a.example.com"), "Programmed", None);
    assert_eq!(itself[0], "Accepted=False InvalidValue");
    assert!(itself[2].starts_with("Ready=False"), "{itself:?}");
}

#[test]
fn a_cluster_is_as_its_worst_proxy() {
    let runs = compiled(&spec("web"));
    let said = |state| {
        let proxies = proxies(&runs, state, None);
        let standing = World::new(&runs, &proxies).cluster(&"haproxy".parse().unwrap(), Place::Own);
        let said = standing.conditions.iter().map(|one| format!("{}={:?}", one.kind, one.status));
        said.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(said("Programmed"), "Accepted=True Checked=True Programmed=True");
    assert_eq!(said("Refused"), "Accepted=True Checked=False Programmed=False");
    let none = BTreeMap::new();
    let nobody = World::new(&runs, &none).cluster(&"haproxy".parse().unwrap(), Place::Own);
    assert_eq!(nobody.conditions[2].reason, "NoProxy");
}

/// Of two clusters of one name the configuration's counts, and the document is told so.
#[test]
fn a_document_that_does_not_count_is_not_accepted() {
    let name: ClusterName = "haproxy".parse().unwrap();
    let spec = interlock_crds::ServiceClusterSpec::implicit(interlock_crds::ProxyKind::Haproxy);
    let clusters = BTreeMap::from([(name.clone(), spec.clone())]);
    let declared =
        Declared { clusters: BTreeMap::from([(name.clone(), spec.into())]), ..Declared::default() };
    let observed = Observed { declared: declared.into(), ..Observed::default() };
    let said = |config: Config, place| {
        let compiled = compile(&observed, &config);
        let standing = World::new(&compiled, &BTreeMap::new()).cluster(&name, place);
        standing
            .conditions
            .into_iter()
            .map(|one| format!("{}={:?} {}", one.kind, one.status, one.reason))
            .collect()
    };
    let written = Config { clusters: clusters.clone(), ..Config::default() };
    let overridden: Vec<String> = said(written.clone(), Place::Document);
    assert_eq!(overridden, ["Accepted=False Overridden", "Programmed=False NotAccepted"]);
    assert_eq!(said(written, Place::Own)[0], "Accepted=True Accepted");
    let implicit = Config { implicit: [name.clone()].into(), clusters, ..Config::default() };
    assert_eq!(said(implicit.clone(), Place::Document)[0], "Accepted=True Accepted");
    assert_eq!(said(implicit, Place::Taken)[0], "Accepted=False Overridden");
}

#[test]
fn an_engine_that_is_not_heard_is_not_believed() {
    let id: EngineId = "local".parse().unwrap();
    let connected = |freshness| engine(&id, freshness).conditions[0].status;
    assert_eq!(connected(Some(Freshness::Fresh)), ConditionStatus::True);
    assert_eq!(
        connected(Some(Freshness::Stale { since: crate::model::Timestamp(1) })),
        ConditionStatus::False
    );
    assert_eq!(connected(None), ConditionStatus::Unknown);
}
