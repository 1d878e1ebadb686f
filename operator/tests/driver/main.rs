//! The driver with fakes around it and time that stands still: storms, refusals, restarts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod fake;

use std::time::Duration;

use fake::{World, app, container};
use interlock::source::EngineSnapshot;
use interlock_core::bundle::Bundle;
use interlock_core::finding::Reason;
use interlock_core::model::{Digest, Freshness, Timestamp};
use interlock_core::protocol::Declined;
use interlock_crds::ProxyKind;

fn serves(bundle: Option<&Bundle>, address: &str) -> bool {
    bundle.is_some_and(|bundle| {
        bundle
            .live
            .servers
            .values()
            .flatten()
            .any(|slot| slot.occupant.is_some_and(|who| !who.draining && who.address.to_string() == address))
    })
}

fn mentions(bundle: &Bundle, text: &str) -> bool {
    bundle.live.maps.values().any(|map| map.keys().any(|key| key.contains(text)))
        || bundle.fragments.iter().any(|fragment| fragment.text.contains(text))
}

#[tokio::test(start_paused = true)]
async fn a_labelled_container_is_served_once_it_listens() {
    let world = World::start();
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world
        .proxy_has("the host is known", |proxy| {
            proxy.running.as_ref().is_some_and(|bundle| mentions(bundle, "shop.example.com"))
        })
        .await;
    assert!(!serves(world.proxy.state().running.as_ref(), "10.0.0.3:80"), "it does not listen yet");
    world.proxy.listen("10.0.0.3:80");
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_before_the_first_list() {
    let world = World::start();
    world.engine.send_modify(|snapshot| {
        let edge = container("edge", &[("interlock.ext.name", "haproxy")], "10.0.0.2");
        snapshot.view.freshness = Freshness::Never;
        snapshot.view.containers.insert(edge.id.clone(), edge);
    });
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(world.proxy.state().applies.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_list_withdraws_nothing() {
    let world = World::start();
    world.proxy.listen("10.0.0.3:80");
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    world.engine.send_modify(|snapshot| {
        snapshot.view.freshness = Freshness::Stale { since: Timestamp(5) };
    });
    world.finds(Reason::EngineStale).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(serves(world.proxy.state().running.as_ref(), "10.0.0.3:80"));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_starts_costs_a_reload_for_each_ceiling() {
    let world = World::start();
    let mut apps = Vec::new();
    let began = tokio::time::Instant::now();
    for i in 0..50 {
        let ip = format!("10.0.1.{i}");
        world.proxy.listen(&format!("{ip}:80"));
        apps.push(app(&format!("app{i}"), &format!("app{i}.example.com"), &ip));
        world.containers(apps.clone());
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    world.proxy_has("the last one served", |proxy| serves(proxy.running.as_ref(), "10.0.1.49:80")).await;
    let span = began.elapsed().as_millis() / 500;
    let state = world.proxy.state();
    // One for the empty proxy's very first configuration, one at once, then one for each ceiling.
    assert!(u128::from(state.reloads) <= 2 + span + 1, "{} reloads in {span} ceilings", state.reloads);
    let gaps = state.reload_times.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.min().unwrap() >= Duration::from_millis(495), "two reloads closer than the ceiling");
}

#[tokio::test(start_paused = true)]
async fn a_first_change_after_quiet_does_not_wait() {
    let world = World::start();
    world.containers([]);
    world.proxy_has("the base runs", |proxy| proxy.running.is_some()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.proxy.listen("10.0.0.3:80");
    let began = tokio::time::Instant::now();
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    assert!(began.elapsed() <= Duration::from_millis(20), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_blamed_route_is_left_out_and_its_neighbours_are_served() {
    let world = World::start();
    world.proxy.state().refuses = Some(|bundle| {
        let bad: Vec<Digest> = bundle
            .fragments
            .iter()
            .filter(|fragment| fragment.name.contains("bad.example.com"))
            .flat_map(|fragment| fragment.intents.clone())
            .collect();
        (!bad.is_empty()).then_some(bad)
    });
    world.proxy.listen("10.0.0.3:80");
    world.proxy.listen("10.0.0.4:80");
    world
        .containers([app("shop", "shop.example.com", "10.0.0.3"), app("bad", "bad.example.com", "10.0.0.4")]);
    world.proxy_has("the good one", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    world.finds(Reason::Quarantined).await;
    assert!(!mentions(world.proxy.state().running.as_ref().unwrap(), "bad.example.com"));
}

#[tokio::test(start_paused = true)]
async fn an_unnamed_culprit_is_searched_for() {
    let world = World::start();
    world.proxy.state().refuses = Some(|bundle| mentions(bundle, "app13.example.com").then(Vec::new));
    let apps = (0..20).map(|i| {
        let ip = format!("10.0.1.{i}");
        world.proxy.listen(&format!("{ip}:80"));
        app(&format!("app{i}"), &format!("app{i}.example.com"), &ip)
    });
    world.containers(apps);
    world.proxy_has("a neighbour", |proxy| serves(proxy.running.as_ref(), "10.0.1.12:80")).await;
    world.finds(Reason::Quarantined).await;
    let blamed = world.findings().into_iter().filter(|finding| finding.reason == Reason::Quarantined);
    assert_eq!(blamed.count(), 1);
    assert!(world.proxy.state().checks <= 8, "{} checks", world.proxy.state().checks);
}

#[tokio::test(start_paused = true)]
async fn a_refused_base_blames_no_route() {
    let world = World::start();
    world.proxy.state().refuses = Some(|_| Some(Vec::new()));
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world.finds(Reason::BaseRefused).await;
    assert!(world.findings().iter().all(|finding| finding.reason != Reason::Quarantined));
}

#[tokio::test(start_paused = true)]
async fn an_activation_that_failed_is_tried_again_later_and_told() {
    let world = World::start();
    world.proxy.state().fails_activation = true;
    world.containers([]);
    world.finds(Reason::ActivationFailed).await;
    let tries = world.proxy.state().applies.len();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let later = world.proxy.state().applies.len();
    assert!(later > tries && later - tries < 40, "{tries} then {later} tries in a minute");
    world.proxy.state().fails_activation = false;
    world.proxy_has("it runs", |proxy| proxy.running.is_some()).await;
    world.published("the fault is over", |published| published.findings.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_down_does_not_hold_up_its_neighbour() {
    let world = World::start();
    let sick = fake::FakeProxy::default();
    sick.state().down = true;
    world.dial.add("edge2", &sick);
    world.proxy.listen("10.0.0.3:80");
    let second = container("edge2", &[("interlock.ext.name", "haproxy")], "10.0.0.9");
    world.containers([app("shop", "shop.example.com", "10.0.0.3"), second]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    assert!(sick.state().running.is_none());
    sick.state().down = false;
    sick.listen("10.0.0.3:80");
    let healthy = World { proxy: sick, ..world };
    healthy.proxy_has("the sick one too", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_operator_causes_no_reload() {
    let world = World::start();
    world.proxy.listen("10.0.0.3:80");
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    let reloads = world.proxy.state().reloads;
    let snapshot: EngineSnapshot = world.engine.borrow().clone();
    let (state, proxy) = world.stop().await;
    let again = World::start_in(state, &proxy, snapshot);
    again.proxy_has("connected", |proxy| proxy.connections == 2).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(again.proxy.state().reloads, reloads);
    assert!(serves(again.proxy.state().running.as_ref(), "10.0.0.3:80"));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_operator_is_told_and_does_not_hammer() {
    let world = World::start();
    world.proxy.state().declines = Some(Declined::ForeignOwner { operator: "theirs".to_owned() });
    world.containers([]);
    world.finds(Reason::ForeignOwner).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(world.proxy.state().connections <= 12, "{}", world.proxy.state().connections);
}

#[tokio::test(start_paused = true)]
async fn a_stop_signal_drains_at_once_without_a_reload() {
    let world = World::start();
    for ip in ["10.0.0.3:80", "10.0.0.4:80"] {
        world.proxy.listen(ip);
    }
    let first = app("shop1", "shop.example.com", "10.0.0.3");
    world.containers([first.clone(), app("shop2", "shop.example.com", "10.0.0.4")]);
    world
        .proxy_has("both served", |proxy| {
            serves(proxy.running.as_ref(), "10.0.0.3:80") && serves(proxy.running.as_ref(), "10.0.0.4:80")
        })
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reloads = world.proxy.state().reloads;
    let began = tokio::time::Instant::now();
    world.engine.send_modify(|snapshot| {
        snapshot.draining.insert(first.id.clone());
    });
    world.proxy_has("out of rotation", |proxy| !serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    assert!(began.elapsed() <= Duration::from_millis(20), "{:?}", began.elapsed());
    assert_eq!(world.proxy.state().reloads, reloads, "draining needs no reload");
    assert!(serves(world.proxy.state().running.as_ref(), "10.0.0.4:80"));
}

#[tokio::test(start_paused = true)]
async fn a_resync_applies_again_so_that_drift_heals() {
    let world = World::start();
    world.containers([]);
    world.proxy_has("the base runs", |proxy| proxy.running.is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let applies = world.proxy.state().applies.len();
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(world.proxy.state().applies.len(), applies + 1, "one look for each resync");
    assert_eq!(world.proxy.state().reloads, 1, "and no reload");
}

#[tokio::test(start_paused = true)]
async fn changes_during_a_slow_apply_are_one_apply_after_it() {
    let world = World::start();
    world.proxy.state().slow = Duration::from_secs(3);
    world.containers([]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut apps = Vec::new();
    for i in 0..10 {
        let ip = format!("10.0.1.{i}");
        world.proxy.listen(&format!("{ip}:80"));
        apps.push(app(&format!("app{i}"), &format!("app{i}.example.com"), &ip));
        world.containers(apps.clone());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.proxy_has("all served", |proxy| serves(proxy.running.as_ref(), "10.0.1.9:80")).await;
    // The base, what had gathered behind it, and the probes' verdict on that: not one for each change.
    let applies = world.proxy.state().applies.len();
    assert!(applies <= 3, "{applies} applies");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_a_label_names_is_attached_once() {
    let world = World::start();
    let mut shop = app("shop", "shop.example.com", "10.0.0.3");
    shop.labels.insert("interlock.network".to_owned(), "back".to_owned());
    let attachment = shop.networks.remove("web").unwrap();
    shop.networks.insert("back".to_owned(), attachment);
    world.containers([shop]);
    world.finds(Reason::AttachingNetwork).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let acts = world.act.0.lock().unwrap().clone();
    assert_eq!(acts.len(), 1, "{acts:?}");
    assert!(acts[0].contains("Attach") && acts[0].contains("back"), "{acts:?}");
}

#[tokio::test(start_paused = true)]
async fn taking_an_endpoint_out_never_waits_for_the_ceiling() {
    let world = World::start_with(ProxyKind::Nginx);
    for ip in ["10.0.0.3:80", "10.0.0.4:80"] {
        world.proxy.listen(ip);
    }
    let first = app("shop1", "shop.example.com", "10.0.0.3");
    world.containers([first.clone()]);
    world
        .proxy_has("the first", |proxy| proxy.running.as_ref().is_some_and(|b| mentions(b, "10.0.0.3")))
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.containers([first.clone(), app("shop2", "shop.example.com", "10.0.0.4")]);
    world.proxy_has("both", |proxy| proxy.running.as_ref().is_some_and(|b| mentions(b, "10.0.0.4"))).await;
    let began = tokio::time::Instant::now();
    world.engine.send_modify(|snapshot| {
        snapshot.draining.insert(first.id.clone());
    });
    world.proxy_has("out", |proxy| proxy.running.as_ref().is_some_and(|b| !mentions(b, "10.0.0.3"))).await;
    assert!(began.elapsed() <= Duration::from_millis(20), "{:?}", began.elapsed());
}
