//! Following an engine that loses streams, falls silent, fails lists and storms.

use std::time::Duration;

use interlock::source::EngineSnapshot;
use interlock_core::model::{ContainerState, Freshness};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::fake::Engine;

const HOUR: Duration = Duration::from_hours(1);

async fn until(
    seen: &mut watch::Receiver<EngineSnapshot>,
    what: &str,
    is: impl Fn(&EngineSnapshot) -> bool,
) -> EngineSnapshot {
    // Far above every pause under paused time; in real time things take milliseconds.
    let found = timeout(Duration::from_mins(5), seen.wait_for(|snapshot| is(snapshot))).await;
    found.unwrap_or_else(|_| panic!("never came: {what}")).unwrap().clone()
}

fn fresh(snapshot: &EngineSnapshot) -> bool {
    snapshot.view.freshness == Freshness::Fresh
}

fn state(snapshot: &EngineSnapshot, id: &str) -> Option<ContainerState> {
    snapshot.view.containers.get(&id.parse().unwrap()).map(|container| container.state)
}

#[tokio::test]
async fn fifty_starts_cost_fifty_inspections_one_image_and_no_list() {
    let engine = Engine::start();
    let (client, mut seen) = engine.follow(HOUR);
    until(&mut seen, "first sync", fresh).await;
    engine.listened_to().await;
    let before = client.calls().snapshot();
    assert_eq!((before["events"], before["container_list"]), (1, 1));
    for n in 0..50 {
        let id = format!("c{n:02}");
        engine.run(&id, &format!("10.0.0.{n}"));
        engine.tell("start", &id, &json!({"name": id}));
    }
    let all = until(&mut seen, "fifty containers", |s| s.view.containers.len() == 50).await;
    let one = all.view.containers.values().next().unwrap();
    assert_eq!(one.image_labels.get("interlock.port").map(String::as_str), Some("80"));
    assert!(all.newest_event.is_some());
    let after = client.calls().snapshot();
    assert_eq!((after["container_inspect"], after["image_inspect"], after["container_list"]), (50, 1, 1));
    assert!(engine.world().most_inspecting <= 8, "bounded");

    for n in 0..50 {
        let id = format!("c{n:02}");
        engine.world().containers.remove(&id);
        engine.tell("kill", &id, &json!({"signal": "15"}));
        engine.tell("die", &id, &json!({"exitCode": "0"}));
        engine.tell("destroy", &id, &json!({}));
    }
    until(&mut seen, "all gone", |s| s.view.containers.is_empty()).await;
    assert_eq!(client.calls().snapshot(), after, "an end costs no request");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_engine_is_asked_only_for_the_list() {
    let engine = Engine::start();
    engine.run("web", "10.0.0.2");
    let (client, mut seen) = engine.follow(Duration::from_secs(30));
    until(&mut seen, "first sync", fresh).await;
    let before = client.calls().snapshot();
    tokio::time::sleep(Duration::from_secs(301)).await;
    let mut expected = before.clone();
    *expected.get_mut("container_list").unwrap() += 10;
    assert_eq!(client.calls().snapshot(), expected);
}

#[tokio::test]
async fn a_lost_stream_leads_to_a_new_list_and_never_to_an_empty_view() {
    let engine = Engine::start();
    engine.run("web", "10.0.0.2");
    let (client, mut seen) = engine.follow(HOUR);
    until(&mut seen, "first sync", fresh).await;
    engine.listened_to().await;
    let mut watched = seen.clone();
    let never_empty = tokio::spawn(async move {
        while watched.changed().await.is_ok() {
            assert!(!watched.borrow().view.containers.is_empty());
        }
    });
    // While the stream is down, one container restarts at the same address and one appears.
    engine.run("web", "10.0.0.2");
    engine.run("new", "10.0.0.3");
    let before = seen.borrow().view.containers[&"web".parse().unwrap()].started;
    engine.cut();
    let now = until(&mut seen, "both, fresh", |s| fresh(s) && s.view.containers.len() == 2).await;
    assert!(now.view.containers[&"web".parse().unwrap()].started > before, "the restart was noticed");
    assert_eq!(now.fault, None);
    assert_eq!(client.calls().snapshot()["events"], 2);
    assert!(!never_empty.is_finished(), "it was empty for a moment");
    never_empty.abort();
}

#[tokio::test(start_paused = true)]
async fn a_failed_list_makes_the_view_stale_and_says_why() {
    let engine = Engine::start();
    engine.run("web", "10.0.0.2");
    let (_, mut seen) = engine.follow(Duration::from_secs(30));
    until(&mut seen, "first sync", fresh).await;
    engine.world().fail_list = true;
    let stale = until(&mut seen, "stale", |s| !fresh(s)).await;
    assert!(matches!(stale.view.freshness, Freshness::Stale { .. }));
    assert_eq!(state(&stale, "web"), Some(ContainerState::Running));
    assert!(stale.fault.as_deref().unwrap().contains("disk on fire"));
    engine.world().fail_list = false;
    let again = until(&mut seen, "fresh again", fresh).await;
    assert_eq!(again.fault, None);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_falls_silent_is_tested_and_found_out() {
    let engine = Engine::start();
    engine.run("web", "10.0.0.2");
    let (_, mut seen) = engine.follow(HOUR);
    until(&mut seen, "first sync", fresh).await;
    let begun = tokio::time::Instant::now();
    engine.world().hang = true;
    let stale = until(&mut seen, "stale", |s| !fresh(s)).await;
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    assert!(stale.fault.as_deref().unwrap().contains("did not answer"));
    assert_eq!(state(&stale, "web"), Some(ContainerState::Running));
}

#[tokio::test(start_paused = true)]
async fn one_stuck_container_does_not_hide_its_neighbours() {
    let engine = Engine::start();
    engine.run("web", "10.0.0.2");
    engine.run("stuck", "10.0.0.3");
    engine.world().stuck = Some("stuck");
    let (_, mut seen) = engine.follow(Duration::from_secs(30));
    let now = until(&mut seen, "sync", fresh).await;
    assert_eq!((state(&now, "web"), state(&now, "stuck")), (Some(ContainerState::Running), None));
    engine.world().stuck = None;
    until(&mut seen, "seen at a resync", |s| state(s, "stuck").is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_deaf_stream_is_replaced_and_its_silence_costs_one_resync() {
    let engine = Engine::start();
    engine.run("web", "10.0.0.2");
    let (client, mut seen) = engine.follow(Duration::from_secs(30));
    until(&mut seen, "first sync", fresh).await;
    engine.listened_to().await;
    engine.world().deaf = true;
    for n in 0..2 {
        let id = format!("new{n}");
        engine.run(&id, "10.0.0.9");
        engine.tell("start", &id, &json!({}));
        until(&mut seen, "found by the list", |s| state(s, &id) == Some(ContainerState::Running)).await;
    }
    until(&mut seen, "fresh", fresh).await;
    let resubscribed = async {
        while client.calls().snapshot()["events"] < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_mins(5), resubscribed).await.expect("a new subscription");
    assert!(fresh(&seen.borrow()), "one deaf stream is no lost engine");
}

#[tokio::test]
async fn with_a_label_selector_only_chosen_containers_are_seen_or_asked_about() {
    let engine = Engine::start();
    let spec = interlock_crds::DockerSpec {
        host: Some(engine.host()),
        label_selector: Some("team=blue".to_owned()),
        ..Default::default()
    };
    let client = interlock::docker::Client::connect(&spec).unwrap();
    let source = interlock::source::docker::DockerSource {
        engine: "local".parse().unwrap(),
        resync: HOUR,
        address: None,
    };
    let (mut seen, _task) = interlock::source::docker::spawn(client.clone(), source);
    until(&mut seen, "first sync", fresh).await;
    engine.listened_to().await;
    for (id, team) in [("other", "red"), ("plain", ""), ("mine", "blue")] {
        engine.run(id, "10.0.0.2");
        engine.tell("start", id, &json!({"team": team}));
    }
    let now = until(&mut seen, "mine", |s| !s.view.containers.is_empty()).await;
    assert_eq!(now.view.containers.len(), 1);
    assert_eq!(client.calls().snapshot()["container_inspect"], 1);
    assert!(engine.world().list_query.contains("team%3Dblue"), "{}", engine.world().list_query);
}

#[tokio::test]
async fn an_engine_that_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.sock");
    let spec =
        interlock_crds::DockerSpec { host: Some(format!("unix://{}", path.display())), ..Default::default() };
    let client = interlock::docker::Client::connect(&spec).unwrap();
    let source = interlock::source::docker::DockerSource {
        engine: "local".parse().unwrap(),
        resync: HOUR,
        address: None,
    };
    let (mut seen, task) = interlock::source::docker::spawn(client, source);
    let failed = until(&mut seen, "a fault", |s| s.fault.is_some()).await;
    assert_eq!(failed.view.freshness, Freshness::Never);
    assert!(failed.fault.unwrap().contains("there is no Docker socket"));
    let engine = Engine::start();
    std::os::unix::fs::symlink(engine.path(), &path).unwrap();
    until(&mut seen, "sync", fresh).await;
    drop(seen);
    timeout(Duration::from_secs(5), task).await.expect("ends when nobody listens").unwrap();
}
