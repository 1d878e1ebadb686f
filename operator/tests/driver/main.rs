//! The driver with fakes around it and time that stands still: storms, refusals, restarts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod fake;

use std::time::Duration;

use fake::{World, app, container};
use interlock::source::EngineSnapshot;
use interlock_core::bundle::Bundle;
use interlock_core::declared::Declared;
use interlock_core::finding::Reason;
use interlock_core::model::{Digest, Freshness, Timestamp};
use interlock_core::protocol::{Declined, Limits};
use interlock_crds::{ProxyKind, ServiceClusterSpec};

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
        snapshot.view.containers.insert(edge.id.clone(), edge.into());
    });
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(world.proxy.state().applies.is_empty());
}

fn holds(bundle: Option<&Bundle>) -> bool {
    let slots = bundle.into_iter().flat_map(|bundle| bundle.live.servers.values().flatten());
    slots.filter(|slot| slot.name.as_str() == "hold").any(|slot| slot.occupant.is_some())
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_successor_of_a_last_endpoint() {
    let world = World::start();
    world.proxy.listen("10.0.0.3:80");
    world.containers([app("old", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    let reloads = world.proxy.state().reloads;
    world.ends("old", true);
    world.proxy_has("held", |proxy| holds(proxy.running.as_ref())).await;
    world.finds(Reason::Holding).await;
    // Its successor runs, and listens only later.
    world.containers([app("new", "shop.example.com", "10.0.0.4")]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(holds(world.proxy.state().running.as_ref()));
    world.proxy.listen("10.0.0.4:80");
    world.proxy_has("served again", |proxy| serves(proxy.running.as_ref(), "10.0.0.4:80")).await;
    assert!(!holds(world.proxy.state().running.as_ref()));
    assert_eq!(world.proxy.state().reloads, reloads, "all of it is live");
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_by_itself() {
    let world = World::start();
    world.proxy.listen("10.0.0.3:80");
    world.containers([app("old", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    let began = tokio::time::Instant::now();
    world.ends("old", true);
    world.proxy_has("held", |proxy| holds(proxy.running.as_ref())).await;
    world.proxy_has("over", |proxy| !holds(proxy.running.as_ref())).await;
    let held = began.elapsed();
    assert!(held >= Duration::from_secs(10) && held < Duration::from_secs(11), "{held:?}");
    world.published("nothing is asked for any more", |published| published.findings.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_reloads_nginx_a_few_times_only() {
    let world = World::start_with(ProxyKind::Nginx);
    world.proxy.listen("10.0.0.3:80");
    let mut web = app("web", "shop.example.com", "10.0.0.3");
    for _ in 0..60 {
        web.started.0 += 1_200;
        world.containers([web.clone()]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.ends("web", false);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let reloads = world.proxy.state().reloads;
    // The first configuration, in and out until the penalty is longer than its life: 0, 0 and 1 s.
    assert!(reloads <= 8, "{reloads} reloads for 60 crashes");
    world.containers([web.clone()]);
    world.finds(Reason::Flapping).await;
    // Mended: it stays up, and is taken in.
    web.started.0 += 1_200;
    world.containers([web]);
    let served = |bundle: &Bundle| mentions(bundle, "10.0.0.3:80");
    world.proxy_has("served again", |proxy| proxy.running.as_ref().is_some_and(served)).await;
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

/// As hosts are found in the field: most differ in what maps say, a few in what is written into the file.
#[tokio::test(start_paused = true)]
async fn a_storm_of_mixed_hosts_costs_haproxy_two_reloads() {
    let world = World::start();
    let ip = |number: usize| format!("10.0.1.{number}");
    let mixed = |number: usize| {
        let host = format!("app{number}.example.com");
        let also = match number {
            64 | 71 => ("interlock.backend_option.0", "http-server-close"),
            30 | 66 => ("interlock.balance_algorithm", "leastconn"),
            _ => [
                ("interlock.warm", "true"),
                ("interlock.path", "/shop"),
                ("interlock.alias_domain.0", "www.example.org"),
                ("interlock.ssl_backend", "true"),
                ("interlock.websocket_endpoint.0", "/ws"),
            ][if number.is_multiple_of(25) { 3 } else { [0, 1, 2, 4][number % 4] }],
        };
        fake::container(&format!("app{number}"), &[("interlock.host", &host), also], &ip(number))
    };
    let mut apps: Vec<_> = (0..25).map(mixed).collect();
    (0..25).for_each(|number| world.proxy.listen(&format!("{}:80", ip(number))));
    world.containers(apps.clone());
    let has = |number: usize| {
        let address = format!("{}:80", ip(number));
        move |proxy: &fake::ProxyState| serves(proxy.running.as_ref(), &address)
    };
    world.proxy_has("the first ones served", has(24)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = world.proxy.state().reloads;
    for number in 25..75 {
        apps.push(mixed(number));
        world.containers(apps.clone());
        // Some listen before anybody asks, some are announced first.
        tokio::time::sleep(Duration::from_millis(if number.is_multiple_of(3) { 30 } else { 1 })).await;
        world.proxy.listen(&format!("{}:80", ip(number)));
        tokio::time::sleep(Duration::from_millis(if number.is_multiple_of(3) { 10 } else { 39 })).await;
    }
    for number in 25..75 {
        world.proxy_has("all served", has(number)).await;
    }
    let reloads = world.proxy.state().reloads - before;
    // One when the spares are used up, one for the first of a shape that nobody had.
    assert_eq!(reloads, 2);
}

/// However long the agent needs to look at everybody.
#[tokio::test(start_paused = true)]
async fn a_first_sync_is_one_apply() {
    for pause in [0, 20, 400, 1200] {
        let world = World::start();
        let apps = (0..15).map(|number| {
            app(&format!("app{number}"), &format!("app{number}.example.com"), &format!("10.0.1.{number}"))
        });
        world.containers(apps);
        world.proxy_has("connected", |proxy| proxy.connections == 1).await;
        for number in 0..15 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.proxy.listen(&format!("10.0.1.{number}:80"));
        }
        world.proxy_has("the last one", |proxy| serves(proxy.running.as_ref(), "10.0.1.14:80")).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let state = world.proxy.state();
        assert_eq!((state.applies.len(), state.live), (1, 0), "{pause} ms between two");
    }
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

/// On nginx even the announcement of a host that nobody serves yet is a reload: it must not hold up the one that
/// matters.
#[tokio::test(start_paused = true)]
async fn a_host_that_warms_up_is_not_held_up_by_its_own_announcement() {
    for warming in [0, 10, 24, 26, 40, 100, 300, 499, 501, 600, 900] {
        let world = World::start_with(ProxyKind::Nginx);
        world.proxy.listen("10.0.0.3:80");
        world.containers([app("near", "near.example.com", "10.0.0.3")]);
        let with = |text: &'static str| {
            move |proxy: &fake::ProxyState| proxy.running.as_ref().is_some_and(|it| mentions(it, text))
        };
        world.proxy_has("its neighbour", with("10.0.0.3:80")).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let shop = [
            ("interlock.host", "shop.example.com"),
            ("interlock.warm", "true"),
            ("interlock.health_check", "/ping"),
        ];
        let shop = fake::container("shop", &shop, "10.0.0.4");
        world.containers([app("near", "near.example.com", "10.0.0.3"), shop]);
        tokio::time::sleep(Duration::from_millis(warming)).await;
        world.proxy.listen("10.0.0.4:80");
        let listens = tokio::time::Instant::now();
        world.proxy_has("served", with("10.0.0.4:80")).await;
        let waited = listens.elapsed();
        assert!(waited <= Duration::from_millis(20), "after {warming} ms of warming it waits {waited:?}");
    }
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
async fn a_route_that_two_kinds_of_proxy_refuse_is_refused_once_by_each() {
    let world = World::start();
    let other = fake::FakeProxy::default();
    world.dial.add("edge2", &other);
    for proxy in [&world.proxy, &other] {
        proxy.listen("10.0.0.4:80");
        proxy.state().refuses = Some(|bundle| {
            let blamed = bundle.fragments.iter().filter(|it| it.text.contains("bad.example.com"));
            let blamed: Vec<Digest> = blamed.flat_map(|fragment| fragment.intents.clone()).collect();
            (!blamed.is_empty()).then_some(blamed)
        });
    }
    let edge2 = container("edge2", &[("interlock.ext.name", "nginx")], "10.0.0.9");
    world.containers([app("bad", "bad.example.com", "10.0.0.4"), edge2]);
    world.finds(Reason::Quarantined).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let told = world.findings().into_iter().filter(|finding| finding.reason == Reason::Quarantined);
    assert_eq!(told.count(), 2, "each proxy's word");
    for proxy in [&world.proxy, &other] {
        let applies = proxy.state().applies.len();
        assert!(applies <= 6, "{applies} applies in a minute");
    }
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
async fn another_bundle_does_not_wait_for_one_that_failed() {
    let world = World::start();
    world.proxy.state().fails_activation = true;
    world.containers([]);
    world.finds(Reason::ActivationFailed).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    let tries = world.proxy.state().applies.len();
    tokio::time::sleep(Duration::from_mins(10)).await;
    let later = world.proxy.state().applies.len();
    assert!(later > tries && later - tries < 12, "{tries} then {later} tries of the same bundle");
    world.proxy.state().fails_activation = false;
    world.proxy.listen("10.0.0.3:80");
    let began = tokio::time::Instant::now();
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
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
async fn an_empty_store_takes_nothing_from_a_proxy_that_serves_what_was_applied() {
    let world = World::start();
    world.proxy.listen("10.0.0.3:80");
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    let mut snapshot: EngineSnapshot = world.engine.borrow().clone();
    snapshot.view.containers.retain(|_, container| container.name != "shop");
    let (state, proxy) = world.stop().await;
    if let Some(running) = &mut proxy.state().running {
        running.applied = true;
    }
    let again = World::start_in(state, &proxy, snapshot);
    again.finds(Reason::StoreLost).await;
    again
        .published("the proxy is told nothing", |snapshot| {
            snapshot.targets.values().any(|target| target.state == interlock::serve::TargetState::StoreLost)
        })
        .await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(serves(again.proxy.state().running.as_ref(), "10.0.0.3:80"), "what was applied was taken away");
    // Somebody says that this is all.
    again.writing.send_replace(1);
    again.proxy_has("withdrawn", |proxy| !serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
}

/// A cluster of a document acts when it comes, changes and goes, and what it serves is served all the while.
#[tokio::test(start_paused = true)]
async fn a_cluster_document_acts_without_a_restart() {
    let world = World::start();
    world.proxy.listen("10.0.0.3:80");
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    let declare = |port: Option<u16>| {
        let cluster = port.map(|http| {
            let mut spec = ServiceClusterSpec::implicit(ProxyKind::Haproxy);
            (spec.proxies, spec.listeners.http) = (vec!["edge".to_owned()], http);
            ("fleet".parse().unwrap(), spec.into())
        });
        let clusters = cluster.into_iter().collect();
        world.declaring.send_replace(Declared { clusters, ..Declared::default() }.into());
    };
    for (port, cluster, bind) in
        [(Some(8080), "fleet", ":8080"), (Some(8081), "fleet", ":8081"), (None, "haproxy", ":80 ")]
    {
        declare(port);
        world
            .proxy_has(bind, |proxy| {
                proxy.running.as_ref().is_some_and(|bundle| {
                    assert!(serves(Some(bundle), "10.0.0.3:80"), "it was taken out of rotation");
                    bundle.cluster.as_str() == cluster && mentions(bundle, bind)
                })
            })
            .await;
    }
}

/// A restarted operator in front of an nginx that serves one app; no probe is answered until `listen` says so.
async fn restarted_beside_nginx() -> World {
    let world = World::start_with(ProxyKind::Nginx);
    world.proxy.listen("10.0.0.3:80");
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world
        .proxy_has("served", |proxy| {
            proxy.running.as_ref().is_some_and(|bundle| mentions(bundle, "10.0.0.3"))
        })
        .await;
    let snapshot: EngineSnapshot = world.engine.borrow().clone();
    let (state, proxy) = world.stop().await;
    proxy.state().listening.clear();
    let again = World { kind: ProxyKind::Nginx, ..World::start_in(state, &proxy, snapshot) };
    again.proxy_has("connected", |proxy| proxy.connections == 2).await;
    again
}

#[tokio::test(start_paused = true)]
async fn a_restarted_operator_empties_nothing_while_the_agent_has_its_first_look() {
    let world = restarted_beside_nginx().await;
    let applies = world.proxy.state().applies.len();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.proxy.state().applies.len(), applies, "applied before the agent had looked");
    world.proxy.listen("10.0.0.3:80");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(mentions(world.proxy.state().running.as_ref().unwrap(), "10.0.0.3"), "the route was emptied");
    assert_eq!(world.proxy.state().reloads, 1, "one for base and route, none for the restart");
}

#[tokio::test(start_paused = true)]
async fn the_first_look_of_an_agent_ends_after_five_seconds() {
    let world = restarted_beside_nginx().await;
    let began = tokio::time::Instant::now();
    world
        .proxy_has("what never answered is out", |proxy| {
            proxy.running.as_ref().is_some_and(|bundle| !mentions(bundle, "10.0.0.3"))
        })
        .await;
    let took = began.elapsed();
    assert!((Duration::from_millis(4900)..Duration::from_secs(6)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_observing_operator_compares_and_sends_nothing() {
    let world = World::start();
    world.proxy.listen("10.0.0.3:80");
    let shop = app("shop", "shop.example.com", "10.0.0.3");
    world.containers([shop.clone()]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    let snapshot: EngineSnapshot = world.engine.borrow().clone();
    let (state, proxy) = world.stop().await;
    let applies = proxy.state().applies.len();
    let connections = proxy.state().connections;
    let observer = World::observe_in(state, &proxy, snapshot);
    let message = |published: &interlock::serve::Snapshot| {
        published.targets.values().next().and_then(|status| status.message.clone()).unwrap_or_default()
    };
    observer.published("in step", |published| message(published) == "in step").await;
    observer.containers([shop, app("docs", "docs.example.com", "10.0.0.4")]);
    observer.published("differs", |published| message(published).contains("docs.example.com")).await;
    let state = observer.proxy.state();
    assert_eq!((state.applies.len(), state.connections), (applies, connections));
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

/// A container that has just been started, for one.
#[tokio::test(start_paused = true)]
async fn an_agent_that_cannot_work_yet_is_asked_again_soon() {
    let world = World::start();
    world.proxy.state().declines = Some(Declined::Unable { reason: "no proxy runs here".to_owned() });
    world.containers([]);
    world.finds(Reason::AgentRefused).await;
    world.proxy.state().declines = None;
    let began = tokio::time::Instant::now();
    world.proxy_has("the base runs", |proxy| proxy.running.is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
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

#[tokio::test(start_paused = true)]
async fn who_leaves_while_being_brought_is_taken_out_at_once() {
    let world = World::start_with(ProxyKind::Nginx);
    for ip in ["10.0.0.3:80", "10.0.0.4:80"] {
        world.proxy.listen(ip);
    }
    let first = app("shop1", "shop.example.com", "10.0.0.3");
    let second = app("shop2", "shop.example.com", "10.0.0.4");
    let has = |bundle: &Option<Bundle>, ip: &str| bundle.as_ref().is_some_and(|bundle| mentions(bundle, ip));
    world.containers([first.clone()]);
    world.proxy_has("the first", |proxy| has(&proxy.running, "10.0.0.3")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let slow = Duration::from_millis(100);
    world.proxy.state().slow = slow;
    world.containers([first, second.clone()]);
    tokio::time::sleep(slow / 2).await;
    world.engine.send_modify(|snapshot| {
        snapshot.draining.insert(second.id.clone());
    });
    world.proxy_has("both", |proxy| has(&proxy.running, "10.0.0.4")).await;
    let began = tokio::time::Instant::now();
    world.proxy_has("out", |proxy| !has(&proxy.running, "10.0.0.4")).await;
    assert!(began.elapsed() <= slow + Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_of_old_workers_live_changes_go_on_and_reloads_wait() {
    let world = World::start();
    for ip in ["10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"] {
        world.proxy.listen(ip);
    }
    let shop = app("shop", "shop.example.com", "10.0.0.3");
    world.containers([shop.clone()]);
    world.proxy_has("served", |proxy| serves(proxy.running.as_ref(), "10.0.0.3:80")).await;
    world.proxy.old_workers(3);
    let metric = |world: &World| world.served.metrics.text().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(metric(&world).contains("interlock_old_workers{cluster=\"haproxy\"} 3\n"));
    let reloads = world.proxy.state().reloads;

    // A new shape of backend cannot be had live; a new host and a second endpoint can.
    let deep = app("deep", "a.b.c.d.e.f.g.h.example.com", "10.0.0.4");
    let second = app("shop2", "shop.example.com", "10.0.0.5");
    let mut spread = shop.clone();
    spread.labels.insert("interlock.balance_algorithm".to_owned(), "uri".to_owned());
    world.containers([spread.clone(), second.clone(), deep.clone()]);
    world.finds(Reason::OldWorkersBusy).await;
    world.proxy_has("the second endpoint", |proxy| serves(proxy.running.as_ref(), "10.0.0.5:80")).await;
    world.proxy_has("the new host", |proxy| serves(proxy.running.as_ref(), "10.0.0.4:80")).await;
    // One that leaves is taken out as well.
    world.containers([spread.clone(), deep.clone()]);
    world.proxy_has("it has left", |proxy| !serves(proxy.running.as_ref(), "10.0.0.5:80")).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(world.proxy.state().reloads, reloads, "nothing was reloaded");
    assert!(serves(world.proxy.state().running.as_ref(), "10.0.0.3:80"));
    world
        .published("the target says why", |snapshot| {
            snapshot.targets.values().any(|status| status.state.as_str() == "OldWorkersBusy")
        })
        .await;

    world.proxy.old_workers(2);
    world.proxy_has("what waited", |proxy| proxy.reloads > reloads).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.proxy.state().reloads, reloads + 1, "one reload for all that waited");
    assert!(serves(world.proxy.state().running.as_ref(), "10.0.0.4:80"));
    assert!(!world.findings().iter().any(|finding| finding.reason == Reason::OldWorkersBusy));
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_nginx_is_reloaded_for_what_leaves_and_for_nothing_else() {
    let world = World::start_with(ProxyKind::Nginx);
    for ip in ["10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"] {
        world.proxy.listen(ip);
    }
    let (one, two) = (app("one", "one.example.com", "10.0.0.3"), app("two", "one.example.com", "10.0.0.4"));
    world.containers([one.clone(), two.clone()]);
    world
        .proxy_has("served", |proxy| proxy.running.as_ref().is_some_and(|it| mentions(it, "10.0.0.4")))
        .await;
    world.proxy.old_workers(3);
    let three = app("three", "three.example.com", "10.0.0.5");
    world.containers([one.clone(), two.clone(), three.clone()]);
    world.finds(Reason::OldWorkersBusy).await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(!mentions(world.proxy.state().running.as_ref().unwrap(), "10.0.0.5"), "it waits");
    world.containers([one.clone(), three.clone()]);
    world.proxy_has("out", |proxy| proxy.running.as_ref().is_some_and(|it| !mentions(it, "10.0.0.4"))).await;
    assert!(mentions(world.proxy.state().running.as_ref().unwrap(), "10.0.0.5"), "what waited came along");
}

#[tokio::test(start_paused = true)]
async fn a_place_without_ipv6_sockets_is_not_asked_for_any() {
    for (ipv4_only, bound) in [(false, true), (true, false)] {
        let world = World::start();
        world.proxy.state().limits = Some(Limits { memory: None, files: 1 << 20, processors: 2, ipv4_only });
        world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
        world.proxy_has("its binds", |proxy| proxy.running.is_some()).await;
        let state = world.proxy.state();
        let running = state.running.as_ref().unwrap();
        assert_eq!((mentions(running, "bind *:80"), mentions(running, "v6only")), (true, bound));
    }
}

#[tokio::test(start_paused = true)]
async fn connections_fit_the_memory_of_the_proxys_place() {
    let world = World::start();
    world.proxy.state().limits =
        Some(Limits { memory: Some(128 * 1024 * 1024), files: 1 << 30, processors: 2, ipv4_only: false });
    world.containers([app("shop", "shop.example.com", "10.0.0.3")]);
    world
        .proxy_has("its own maxconn", |proxy| {
            proxy.running.as_ref().is_some_and(|it| mentions(it, "    maxconn 1024\n"))
        })
        .await;
}
