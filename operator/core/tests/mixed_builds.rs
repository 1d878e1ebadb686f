//! Builds that differ by one version understand each other: what a peer says beyond what is known is passed over.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

use std::collections::BTreeMap;

use interlock_core::assign::afresh;
use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::model::{Digest, ProbeKey, ProbeResult};
use interlock_core::patch::Patch;
use interlock_core::plan::{Abilities, Plan};
use interlock_core::protocol::{Applied, Apply, Outcome, ProxyFacts, ToAgent, ToOperator, Welcome};
use interlock_core::render::{Templates, render};
use interlock_crds::ProxyKind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn bundle(routes: usize) -> Bundle {
    let mut plan: Plan = serde_yaml::from_str(include_str!("haproxy/rich.yaml")).unwrap();
    plan.backends[0].change().endpoints.truncate(routes);
    render(&plan, &afresh(&plan, None), Abilities::oldest(ProxyKind::Haproxy), &Templates::embedded())
        .unwrap()
}

/// As it arrives from a build that says more at each of these places.
fn with_news<T: Serialize + DeserializeOwned>(message: &T, places: &[&str]) -> T {
    let mut value = serde_json::to_value(message).unwrap();
    for place in places {
        let at = value.pointer_mut(place).unwrap_or_else(|| panic!("there is no {place}"));
        let Value::Object(fields) = at else { panic!("{place} is no object: {at}") };
        fields.insert("news".to_owned(), json!({ "of": ["a", "newer", "build"] }));
    }
    serde_json::from_value(value).unwrap()
}

/// The place of the first of what a map or list holds.
fn first(of: &Value, place: &str) -> String {
    match of.pointer(place).unwrap() {
        Value::Object(fields) => format!("{place}/{}", fields.keys().next().unwrap().replace('/', "~1")),
        _ => format!("{place}/0"),
    }
}

#[test]
fn a_bundle_with_more_in_it_is_the_same_bundle() {
    let bundle = bundle(9);
    let apply = Apply { id: 1, bundle: bundle.clone(), secrets: BTreeMap::new(), withdraws: false };
    let message = ToAgent::Apply(Box::new(apply));
    let value = serde_json::to_value(&message).unwrap();
    let slots = first(&value, "/bundle/live/servers");
    let certificate = first(&value, "/bundle/live/certificates");
    let at = |wanted: &dyn Fn(&interlock_core::bundle::Fragment) -> bool| {
        format!("/bundle/fragments/{}", bundle.fragments.iter().position(|one| wanted(one)).unwrap())
    };
    let (served, listed) = (at(&|it| it.servers.is_some()), at(&|it| it.certificate.is_some()));
    let shaped = at(&|it| it.servers.as_ref().is_some_and(|lines| lines.shape.tls.is_some()));
    let occupied = bundle.live.servers.iter().find(|(_, slots)| slots[0].occupant.is_some()).unwrap().0;
    let places = [
        "",
        "/bundle",
        "/bundle/live",
        "/bundle/secrets/0",
        &certificate,
        &served,
        &listed,
        &format!("{slots}/0"),
        &format!("{served}/servers"),
        &format!("{listed}/certificate"),
        &format!("{shaped}/servers/shape"),
        &format!("{shaped}/servers/shape/tls"),
        &format!("/bundle/live/servers/{}/0/occupant", occupied.replace('/', "~1")),
    ];
    let ToAgent::Apply(arrived) = with_news(&message, &places) else { panic!("another message") };
    assert_eq!(arrived.bundle, bundle);
    assert!(arrived.bundle.verify());
}

#[test]
fn a_patch_with_more_in_it_is_the_same_patch() {
    let (base, wanted) = (bundle(0), bundle(9));
    let patch = Patch::between(&base, &wanted).unwrap();
    let arrived = with_news(&ToAgent::Patch { id: 1, patch, withdraws: false }, &["", "/patch"]);
    let ToAgent::Patch { patch, .. } = arrived else { panic!("another message") };
    assert_eq!(patch.over(&base).unwrap(), wanted);
}

#[test]
fn a_receipt_with_more_in_it_is_the_same_receipt() {
    let bundle = bundle(9);
    let receipt = Receipt::of(&bundle, bundle.live.clone());
    let applied = Applied {
        receipt: receipt.clone(),
        reload: Vec::new(),
        commands: 0,
        healed: BTreeMap::new(),
        check_ms: 0,
        activate_ms: 0,
    };
    let message = ToOperator::Outcome { id: 1, outcome: Outcome::Applied(applied) };
    let arrived = with_news(&message, &["", "/outcome", "/outcome/receipt"]);
    let ToOperator::Outcome { outcome: Outcome::Applied(arrived), .. } = arrived else {
        panic!("another one")
    };
    assert_eq!(arrived.receipt, receipt);

    let abilities = Abilities::oldest(ProxyKind::Haproxy);
    let proxy = ProxyFacts { abilities, running: true, limits: None, receipt: Some(receipt.clone()) };
    let welcome = Welcome {
        protocol: 9,
        version: "9".to_owned(),
        proxy,
        hostname: "edge".to_owned(),
        addresses: std::collections::BTreeSet::new(),
    };
    let arrived = with_news(&ToOperator::Welcome(welcome), &["", "/proxy", "/proxy/receipt"]);
    let ToOperator::Welcome(welcome) = arrived else { panic!("another message") };
    assert_eq!(welcome.proxy.receipt, Some(receipt));
}

#[test]
fn a_probes_result_with_more_in_it_is_the_same_result() {
    let result = ProbeResult { passing: true, passed_once: true, error: None, took_ms: Some(1) };
    let results = BTreeMap::from([(ProbeKey(Digest::of([b"a".as_slice()])), result)]);
    let message = ToOperator::Probed { results: results.clone() };
    let one = first(&serde_json::to_value(&message).unwrap(), "/results");
    let ToOperator::Probed { results: arrived } = with_news(&message, &["", &one]) else { panic!("another") };
    assert_eq!(arrived, results);
}
