//! Sequences of events, lists and answers, good and bad.

use std::collections::BTreeMap;

use interlock_core::model::Attachment;

use super::super::convert;
use super::*;

const WEB: &str = "aaaa01";

fn moment() -> Moment {
    Moment { instant: Instant::now(), wall: Timestamp(1_000_000) }
}

fn id(text: &str) -> ContainerId {
    text.parse().unwrap()
}

fn answer(container: &str, state: &str, started_ms: u64, address: &str) -> Inspected {
    let started = jiff::Timestamp::from_millisecond(i64::try_from(started_ms).unwrap()).unwrap();
    let json = serde_json::json!({
        "Id": container, "Name": "/web", "Image": "sha256:1",
        "State": {"Status": state, "StartedAt": started.to_string(), "ExitCode": 0},
        "Config": {"StopSignal": "SIGQUIT", "StopTimeout": 3, "Labels": {"interlock.host": "a.example.com"}},
        "NetworkSettings": {"Networks": {"net": {"IPAddress": address}}},
    });
    convert::inspected(serde_json::from_value(json).unwrap()).unwrap()
}

fn entry(container: &str, state: &str, status: &str, address: &str) -> Listed {
    let json = serde_json::json!({
        "Id": container, "Names": ["/web"], "State": state, "Status": status,
        "Labels": {"interlock.host": "a.example.com"},
        "NetworkSettings": {"Networks": {"net": {"IPAddress": address}}},
    });
    convert::listed(serde_json::from_value(json).unwrap()).unwrap()
}

fn event(container: &str, at: u64, what: Happening) -> Event {
    Event { id: id(container), at: Timestamp(at), what }
}

/// A state that has listed one running container, started at 1000, and seen it.
fn running() -> State {
    let now = moment();
    let mut state = State::default();
    state.listing();
    let synced = state.sync(vec![entry(WEB, "running", "Up 1 second", "10.0.0.2")], true, moment());
    assert_eq!(synced.look, [id(WEB)]);
    assert!(!state.settle(), "not fresh before the inspection is in");
    assert_eq!(state.looked(&id(WEB), Some(answer(WEB, "running", 1000, "10.0.0.2")), now), None);
    assert!(state.settle());
    state
}

fn web(state: &State) -> Container {
    (*state.snapshot(None).view.containers[&id(WEB)]).clone()
}

fn address(state: &State) -> Option<IpAddr> {
    web(state).networks.get("net").and_then(Attachment::ip)
}

#[tokio::test]
async fn nothing_is_fresh_or_shown_before_it_is_complete() {
    let mut state = State::default();
    assert_eq!(state.snapshot(None).view.freshness, Freshness::Never);
    assert!(!state.settle());
    state.listing();
    let _ = state.sync(vec![entry(WEB, "running", "Up", "10.0.0.2")], true, moment());
    assert!(state.snapshot(None).view.containers.is_empty(), "half a container makes half a route");
    assert_eq!(running().snapshot(None).view.freshness, Freshness::Fresh);
}

#[tokio::test]
async fn a_start_costs_one_inspection_however_many_events_it_has() {
    let now = moment();
    let mut state = running();
    let new = "bbbb02";
    assert_eq!(state.reduce(&event(new, 4990, Happening::Connected), now), None, "before the start");
    assert_eq!(state.reduce(&event(new, 5100, Happening::Started), now), Some(id(new)));
    assert_eq!(state.reduce(&event(new, 5100, Happening::Started), now), None, "a duplicate");
    assert!(!state.snapshot(None).view.containers.contains_key(&id(new)));
    assert_eq!(state.looked(&id(new), Some(answer(new, "running", 5000, "10.0.0.3")), now), None);
    assert_eq!(state.snapshot(None).newest_event, Some(Timestamp(5100)));
    assert!(state.snapshot(None).view.containers.contains_key(&id(new)));
}

#[tokio::test]
async fn ends_pauses_and_health_cost_no_inspection() {
    let now = moment();
    let mut state = running();
    let tell = |state: &mut State, what| assert_eq!(state.reduce(&event(WEB, 2000, what), now), None);
    tell(&mut state, Happening::Paused);
    assert_eq!(web(&state).state, ContainerState::Paused);
    tell(&mut state, Happening::Unpaused);
    assert_eq!(web(&state).state, ContainerState::Running);
    tell(&mut state, Happening::Health(Health::Healthy));
    assert!(state.snapshot(None).was_healthy.contains(&id(WEB)));
    tell(&mut state, Happening::Health(Health::Unhealthy));
    assert_eq!(web(&state).health, Health::Unhealthy);
    assert!(state.snapshot(None).was_healthy.contains(&id(WEB)));
    tell(&mut state, Happening::Renamed("shop".to_owned()));
    assert_eq!(web(&state).name, "shop");
    tell(&mut state, Happening::Died { code: Some(7) });
    let ended = web(&state);
    assert_eq!(
        (ended.state, ended.exit_code, ended.stopped_by_request),
        (ContainerState::Exited, Some(7), false)
    );
    assert_eq!(address(&state), None);
    assert!(state.snapshot(None).was_healthy.is_empty());
    tell(&mut state, Happening::Disconnected("net".to_owned()));
    assert!(web(&state).networks.contains_key("net"), "an ended container keeps its configured networks");
    tell(&mut state, Happening::Destroyed);
    assert!(state.snapshot(None).view.containers.is_empty());
    tell(&mut state, Happening::Died { code: Some(0) });
    assert!(state.snapshot(None).view.containers.is_empty(), "an unknown container's end is nothing");
}

#[tokio::test]
async fn only_the_stop_signal_and_kill_drain() {
    let now = moment();
    for (signal, drains) in [(1, false), (15, false), (3, true), (9, true)] {
        let mut state = running();
        assert_eq!(state.reduce(&event(WEB, 2000, Happening::Signalled(signal)), now), None);
        assert_eq!(
            state.snapshot(None).draining.contains(&id(WEB)),
            drains,
            "signal {signal}; SIGQUIT is the stop signal"
        );
        assert_eq!(state.reduce(&event(WEB, 2500, Happening::Died { code: Some(0) }), now), None);
        assert_eq!(web(&state).stopped_by_request, drains);
        assert!(state.snapshot(None).draining.is_empty());
    }
}

#[tokio::test]
async fn a_container_that_outlives_its_stop_timeout_serves_again() {
    let now = moment();
    let mut state = running();
    let _ = state.reduce(&event(WEB, 2000, Happening::Signalled(3)), now);
    let deadline = state.next_deadline().unwrap();
    assert_eq!(deadline - now.instant, Duration::from_secs(3) + STOP_MARGIN);
    assert!(state.overdue(now.instant).is_empty());
    assert_eq!(state.overdue(deadline), [id(WEB)]);
    assert_eq!(
        state.looked(
            &id(WEB),
            Some(answer(WEB, "running", 1000, "10.0.0.2")),
            Moment { instant: deadline, ..now }
        ),
        None
    );
    assert!(state.snapshot(None).draining.is_empty());
    assert_eq!(state.next_deadline(), None);
    let _ = state
        .reduce(&event(WEB, 9000, Happening::Died { code: Some(1) }), Moment { instant: deadline, ..now });
    assert!(!web(&state).stopped_by_request, "it ended by itself in the end");
}

#[tokio::test]
async fn draining_survives_an_inspection_of_the_same_run_and_ends_with_a_new_one() {
    let now = moment();
    let mut state = running();
    let _ = state.reduce(&event(WEB, 2000, Happening::Signalled(3)), now);
    assert_eq!(state.reduce(&event(WEB, 2001, Happening::Connected), now), Some(id(WEB)));
    let _ = state.looked(&id(WEB), Some(answer(WEB, "running", 1000, "10.0.0.2")), now);
    assert!(state.snapshot(None).draining.contains(&id(WEB)));
    let _ = state.reduce(&event(WEB, 2100, Happening::Died { code: Some(0) }), now);
    assert_eq!(state.reduce(&event(WEB, 3100, Happening::Started), now), Some(id(WEB)));
    let _ = state.looked(&id(WEB), Some(answer(WEB, "running", 3000, "10.0.0.9")), now);
    assert!(state.snapshot(None).draining.is_empty());
    assert_eq!(address(&state), "10.0.0.9".parse().ok());
}

fn departed(state: &State) -> Option<Departed> {
    state.snapshot(None).view.departed.get(&id(WEB)).cloned()
}

#[tokio::test]
async fn a_run_that_ended_is_remembered_as_it_was() {
    let now = moment();
    let address = |gone: &Departed| gone.container.networks.get("net").and_then(Attachment::ip);
    // It crashed.
    let mut state = running();
    assert_eq!(departed(&state), None);
    let _ = state.reduce(&event(WEB, 2000, Happening::Died { code: Some(1) }), now);
    let gone = departed(&state).unwrap();
    assert_eq!(gone.at, now.wall);
    assert_eq!((gone.container.state, gone.container.stopped_by_request), (ContainerState::Running, false));
    assert_eq!(address(&gone), "10.0.0.2".parse().ok());
    // It was told to, and is removed: that it had ended is not forgotten, nor is it noticed twice.
    let later = Moment { wall: Timestamp(now.wall.0 + 3_000), ..now };
    let mut state = running();
    let _ = state.reduce(&event(WEB, 2000, Happening::Signalled(3)), now);
    let _ = state.reduce(&event(WEB, 2500, Happening::Died { code: Some(0) }), now);
    let _ = state.reduce(&event(WEB, 2600, Happening::Destroyed), later);
    let gone = departed(&state).unwrap();
    assert_eq!((gone.at, gone.container.stopped_by_request), (now.wall, true));
    // Its end was missed: the list tells.
    let mut state = running();
    state.listing();
    let _ = state.sync(Vec::new(), false, now);
    assert!(departed(&state).is_some());
    // Long ago.
    let later = Moment { wall: Timestamp(now.wall.0 + REMEMBERED_MS + 1), ..now };
    state.listing();
    let _ = state.sync(Vec::new(), false, later);
    assert_eq!(departed(&state), None);
}

#[tokio::test]
async fn only_so_many_ended_runs_are_remembered() {
    let now = moment();
    let mut state = running();
    for number in 0..MOST_REMEMBERED + 5 {
        let new = format!("b{number:05}");
        let _ = state.reduce(&event(&new, 2000, Happening::Started), now);
        let _ = state.looked(&id(&new), Some(answer(&new, "running", 2000, "10.0.0.3")), now);
        let at = Moment { wall: Timestamp(now.wall.0 + number as u64), ..now };
        let _ = state.reduce(&event(&new, 2001, Happening::Died { code: Some(0) }), at);
    }
    let departed = state.snapshot(None).view.departed;
    assert_eq!(departed.len(), MOST_REMEMBERED);
    assert!(!departed.contains_key(&id("b00004")) && departed.contains_key(&id("b00005")));
}

#[tokio::test]
async fn what_happens_during_an_inspection_is_replayed_on_its_answer() {
    let now = moment();
    // It ends while the older answer, which says running, is on its way.
    let mut state = running();
    let _ = state.reduce(&event(WEB, 2000, Happening::Connected), now);
    let _ = state.reduce(&event(WEB, 2050, Happening::Died { code: Some(2) }), now);
    assert_eq!(state.looked(&id(WEB), Some(answer(WEB, "running", 1000, "10.0.0.2")), now), None);
    assert_eq!(web(&state).state, ContainerState::Exited);
    // It restarts, and the answer already shows the new run: no second question.
    let mut state = running();
    let _ = state.reduce(&event(WEB, 2000, Happening::Connected), now);
    let _ = state.reduce(&event(WEB, 2050, Happening::Died { code: Some(2) }), now);
    let _ = state.reduce(&event(WEB, 2200, Happening::Started), now);
    assert_eq!(state.looked(&id(WEB), Some(answer(WEB, "running", 2100, "10.0.0.5")), now), None);
    assert_eq!((web(&state).state, address(&state)), (ContainerState::Running, "10.0.0.5".parse().ok()));
    // The answer is of the run before: ask again.
    let mut state = running();
    let _ = state.reduce(&event(WEB, 2000, Happening::Connected), now);
    let _ = state.reduce(&event(WEB, 2050, Happening::Died { code: Some(2) }), now);
    let _ = state.reduce(&event(WEB, 2200, Happening::Started), now);
    assert_eq!(state.looked(&id(WEB), Some(answer(WEB, "running", 1000, "10.0.0.2")), now), Some(id(WEB)));
    // It is gone, and the late answer must not bring it back.
    let mut state = running();
    let _ = state.reduce(&event(WEB, 2000, Happening::Connected), now);
    let _ = state.reduce(&event(WEB, 2050, Happening::Destroyed), now);
    assert_eq!(state.looked(&id(WEB), Some(answer(WEB, "running", 1000, "10.0.0.2")), now), None);
    assert!(state.snapshot(None).view.containers.is_empty());
}

#[tokio::test]
async fn a_container_that_vanishes_before_its_inspection_is_skipped() {
    let now = moment();
    let mut state = State::default();
    state.listing();
    let _ = state.sync(vec![entry(WEB, "running", "Up", "10.0.0.2")], true, moment());
    assert_eq!(state.looked(&id(WEB), None, now), None);
    assert!(state.settle());
    assert!(state.snapshot(None).view.containers.is_empty());
}

#[tokio::test]
async fn events_of_an_earlier_run_do_not_touch_this_one() {
    let now = moment();
    let mut state = running();
    let _ = state.reduce(&event(WEB, 900, Happening::Died { code: Some(1) }), now);
    let _ = state.reduce(&event(WEB, 900, Happening::Signalled(9)), now);
    assert_eq!(web(&state).state, ContainerState::Running);
    assert!(state.snapshot(None).draining.is_empty());
    assert_eq!(state.reduce(&event(WEB, 1100, Happening::Started), now), None, "its own start, late");
}

#[tokio::test]
async fn a_resync_asks_only_about_what_differs() {
    let mut state = running();
    let mut resync = |entries| {
        state.listing();
        state.sync(entries, false, moment())
    };
    assert_eq!(resync(vec![entry(WEB, "running", "Up 30 seconds", "10.0.0.2")]), Synced::default());
    let healthy = resync(vec![entry(WEB, "running", "Up 1 minute (healthy)", "10.0.0.2")]);
    assert_eq!(healthy, Synced::default(), "the list itself tells the health");
    let moved = resync(vec![entry(WEB, "running", "Up 1 minute (healthy)", "10.0.0.7")]);
    assert_eq!(moved, Synced { look: vec![id(WEB)], missed: 1 });
    assert!(state.snapshot(None).was_healthy.contains(&id(WEB)));
}

#[tokio::test]
async fn missed_ends_removals_and_starts_are_found_by_the_next_list() {
    let mut state = running();
    state.listing();
    let ended = state.sync(vec![entry(WEB, "exited", "Exited (3) 1 second ago", "")], false, moment());
    assert_eq!(ended, Synced { look: vec![], missed: 1 });
    assert_eq!((web(&state).state, web(&state).exit_code), (ContainerState::Exited, Some(3)));
    state.listing();
    let started = state.sync(vec![entry(WEB, "running", "Up 1 second", "10.0.0.2")], false, moment());
    assert_eq!(started, Synced { look: vec![id(WEB)], missed: 1 });
    state.not_seen(&id(WEB));
    state.listing();
    assert_eq!(state.sync(vec![], false, moment()).missed, 1);
    assert!(state.snapshot(None).view.containers.is_empty());
}

#[tokio::test]
async fn a_list_older_than_an_event_does_not_undo_it() {
    let now = moment();
    let mut state = running();
    state.listing();
    let _ = state.reduce(&event(WEB, 2000, Happening::Died { code: Some(0) }), now);
    let new = "bbbb02";
    let _ = state.reduce(&event(new, 2100, Happening::Started), now);
    let _ = state.looked(&id(new), Some(answer(new, "running", 2090, "10.0.0.3")), now);
    // The list was cut before both.
    let synced = state.sync(vec![entry(WEB, "running", "Up", "10.0.0.2")], false, moment());
    assert_eq!(synced, Synced::default());
    assert_eq!(web(&state).state, ContainerState::Exited);
    assert!(state.snapshot(None).view.containers.contains_key(&id(new)));
}

#[tokio::test]
async fn the_end_of_a_container_just_before_the_first_list_does_not_hide_it() {
    let now = moment();
    let mut state = State::default();
    state.listing();
    // A proxy exits for want of a configuration while the operator starts: its events are replayed.
    for what in [Happening::Died { code: Some(1) }, Happening::Disconnected("net".to_owned())] {
        assert_eq!(state.reduce(&event(WEB, 2000, what), now), None);
    }
    let gone = "dddd04";
    assert_eq!(state.reduce(&event(gone, 2000, Happening::Destroyed), now), None);
    let list =
        vec![entry(WEB, "exited", "Exited (1) 1 second ago", ""), entry(gone, "exited", "Exited (0)", "")];
    assert_eq!(state.sync(list, true, moment()).look, [id(WEB)]);
}

#[tokio::test]
async fn a_lost_engine_keeps_what_is_known_and_says_since_when() {
    let now = moment();
    let mut state = running();
    state.lost(Timestamp(7000), "gone".to_owned());
    state.lost(Timestamp(8000), "still gone".to_owned());
    let snapshot = state.snapshot(None);
    assert_eq!(snapshot.view.freshness, Freshness::Stale { since: Timestamp(7000) });
    assert_eq!((snapshot.fault.as_deref(), snapshot.view.containers.len()), (Some("still gone"), 1));
    assert!(!state.settle(), "not fresh before a new list");
    // Reconnected: everything that runs is looked at again, for a restart may have been missed.
    state.listing();
    let synced = state.sync(vec![entry(WEB, "running", "Up", "10.0.0.2")], true, moment());
    assert_eq!(synced.look, [id(WEB)]);
    assert!(!state.settle());
    let _ = state.looked(&id(WEB), Some(answer(WEB, "running", 6500, "10.0.0.2")), now);
    assert!(state.settle());
    assert_eq!((web(&state).started, state.snapshot(None).fault), (Timestamp(6500), None));
}

#[tokio::test]
async fn a_loss_before_the_first_list_is_not_a_stale_list() {
    let mut state = State::default();
    state.lost(Timestamp(1), "refused".to_owned());
    assert_eq!(state.snapshot(None).view.freshness, Freshness::Never);
}

#[tokio::test]
async fn a_storm_about_containers_that_restart_costs_one_question_each_run() {
    let now = moment();
    let mut state = running();
    let mut questions = 0;
    for round in 0..50_u64 {
        let at = 10_000 + round * 1000;
        for what in
            [Happening::Died { code: Some(1) }, Happening::Connected, Happening::Started, Happening::Started]
        {
            questions += usize::from(state.reduce(&event(WEB, at, what), now).is_some());
        }
        questions += usize::from(
            state.looked(&id(WEB), Some(answer(WEB, "running", at - 10, "10.0.0.2")), now).is_some(),
        );
    }
    assert_eq!(questions, 50);
    assert_eq!(web(&state).state, ContainerState::Running);
}

#[tokio::test]
async fn containers_that_cannot_matter_are_not_inspected() {
    let mut state = State::default();
    state.listing();
    let mut plain = entry("cccc03", "exited", "Exited (0) 1 hour ago", "");
    plain.labels = BTreeMap::new();
    let labelled = entry(WEB, "exited", "Exited (0) 1 hour ago", "");
    assert_eq!(state.sync(vec![plain, labelled], true, moment()).look, [id(WEB)]);
}
