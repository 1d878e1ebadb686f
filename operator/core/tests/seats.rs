//! Seats: what comes, changes and goes in a plan, and whether that takes HAProxy a reload.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use interlock_core::bundle::{Bundle, CLOSED, HOLD, Receipt, SEATS, SPARE};
use interlock_core::change::Change;
use interlock_core::model::{HostPattern, PathPrefix};
use interlock_core::plan::{Abilities, Backend, BackendId, Balance, Endpoint, Plan, Route, UpstreamTls};
use interlock_core::policy::{Access, Policy};
use interlock_core::render::{self, Templates};
use interlock_crds::{ProxyKind, ServiceClusterSpec};
use proptest::prelude::*;

fn plan(spares: u16, apps: &[App]) -> Plan {
    let mut settings = ServiceClusterSpec::implicit(ProxyKind::Haproxy);
    settings.haproxy.spares = spares;
    let mut plan = Plan {
        target: "edge".parse().unwrap(),
        cluster: "web".parse().unwrap(),
        settings,
        routes: apps.iter().map(|app| app.route().into()).collect(),
        backends: apps.iter().map(|app| app.backend().into()).collect(),
        certificates: BTreeMap::new(),
        stats: None,
    };
    plan.backends.sort_by(|a, b| a.id.cmp(&b.id));
    plan
}

/// One host and what stands behind it.
#[derive(Debug, Clone)]
struct App {
    host: String,
    balance: Balance,
    tls: Option<UpstreamTls>,
    policy: Policy,
    endpoints: Vec<u8>,
}

fn app(host: &str, endpoints: &[u8]) -> App {
    App {
        host: host.to_owned(),
        balance: Balance::RoundRobin,
        tls: None,
        policy: Policy::default(),
        endpoints: endpoints.to_vec(),
    }
}

/// Whom a route keeps out.
fn without(network: &str) -> Policy {
    let deny = vec![network.parse().unwrap()].into();
    Policy { access: Access { deny, ..Access::default() }, ..Policy::default() }
}

impl App {
    fn id(&self) -> BackendId {
        BackendId { host: self.host.parse::<HostPattern>().unwrap(), path: PathPrefix::root() }
    }

    fn route(&self) -> Route {
        Route {
            host: self.host.parse().unwrap(),
            path: PathPrefix::root(),
            rewrite: false,
            https_only: false,
            certificate: None,
            websocket: Vec::new(),
            backend: self.id(),
        }
    }

    fn backend(&self) -> Backend {
        let endpoint = |last: &u8| Endpoint {
            address: SocketAddr::from(([10, 0, 0, *last], 80)).try_into().unwrap(),
            name: format!("c{last}"),
            draining: false,
        };
        Backend {
            id: self.id(),
            balance: self.balance,
            options: Vec::new(),
            tls: self.tls,
            slow_start: None,
            policy: self.policy.clone(),
            hold: false,
            endpoints: self.endpoints.iter().map(endpoint).collect(),
            intents: Vec::new(),
        }
    }
}

fn next(plan: &Plan, last: Option<&Receipt>) -> Bundle {
    let abilities = Abilities::oldest(ProxyKind::Haproxy);
    render::bundle(plan, last, abilities, &Templates::embedded()).unwrap()
}

/// What an agent would read back of a bundle.
fn receipt(bundle: &Bundle) -> Receipt {
    Receipt::of(bundle, bundle.live.clone())
}

/// The same after everybody who left has been gone for long enough.
fn rested(receipt: &Receipt) -> Receipt {
    let mut rested = receipt.clone();
    for slots in rested.servers.values_mut() {
        slots.change().iter_mut().for_each(|slot| slot.left = None);
    }
    rested
}

fn seat<'a>(bundle: &'a Bundle, host: &str) -> &'a str {
    &bundle.live.maps[SEATS][&format!("{host}/")]
}

#[test]
fn a_new_host_takes_the_first_spare_without_a_reload() {
    let first = next(&plan(3, &[app("a.test", &[1])]), None);
    assert_eq!(seat(&first, "a.test"), "a.test");
    let last = receipt(&first);
    let second = next(&plan(3, &[app("a.test", &[1]), app("b.test", &[2]), app("c.test", &[])]), Some(&last));
    assert_eq!(Change::between(Some(&last), &second), Change::Live);
    assert_eq!(seat(&second, "a.test"), "a.test");
    assert_eq!(seat(&second, "b.test"), "interlock:spare-1");
    assert_eq!(seat(&second, "c.test"), "interlock:spare-2", "one that has no endpoint yet has its seat");
    assert_eq!(second.live.maps["hosts.map"].len(), 3);
}

#[test]
fn a_host_that_goes_takes_no_reload_and_finds_the_seat_of_its_name_again() {
    let both = next(&plan(2, &[app("a.test", &[1]), app("b.test", &[2])]), None);
    let last = receipt(&both);
    let one = next(&plan(2, &[app("a.test", &[1])]), Some(&last));
    assert_eq!(Change::between(Some(&last), &one), Change::Live);
    assert!(one.live.servers["b.test"].iter().all(|slot| slot.occupant.is_none()));
    let last = receipt(&one);
    let again = next(&plan(2, &[app("a.test", &[1]), app("b.test", &[7])]), Some(&last));
    assert_eq!(Change::between(Some(&last), &again), Change::Live);
    assert_eq!(seat(&again, "b.test"), "b.test");
    let slots = &again.live.servers["b.test"];
    assert_eq!(slots[0].left.map(|left| left.to_string()).as_deref(), Some("10.0.0.2:80"));
    assert!(slots[1].occupant.is_some(), "not in the slot whose connections may lead to another address");
}

#[test]
fn a_seat_with_a_name_is_for_that_name_only() {
    let last = rested(&receipt(&next(&plan(1, &[app("a.test", &[1])]), None)));
    let gone = next(&plan(1, &[]), Some(&last));
    let last = rested(&receipt(&gone));
    let other = next(&plan(1, &[app("z.test", &[1])]), Some(&last));
    assert_eq!(seat(&other, "z.test"), "interlock:spare-1");
}

#[test]
fn a_spare_that_was_left_is_taken_again_only_when_it_has_rested() {
    let base = receipt(&next(&plan(1, &[]), None));
    let taken = next(&plan(1, &[app("b.test", &[2])]), Some(&base));
    let left = receipt(&next(&plan(1, &[]), Some(&receipt(&taken))));
    assert_eq!(
        left.servers["interlock:spare-1"][0].left.map(|left| left.to_string()).as_deref(),
        Some("10.0.0.2:80")
    );
    let other = plan(1, &[app("c.test", &[3])]);
    let refilled = next(&other, Some(&left));
    assert!(matches!(Change::between(Some(&left), &refilled), Change::Reload { .. }));
    assert_eq!(seat(&refilled, "c.test"), "c.test");
    let live = next(&other, Some(&rested(&left)));
    assert_eq!(Change::between(Some(&left), &live), Change::Live);
    assert_eq!(seat(&live, "c.test"), "interlock:spare-1");
}

#[test]
fn when_the_spares_are_used_up_one_reload_names_everybody_and_refills_them() {
    let mut last = receipt(&next(&plan(2, &[]), None));
    let mut apps = Vec::new();
    let mut reloads = Vec::new();
    for number in 0..7_u8 {
        apps.push(app(&format!("h{number}.test"), &[number]));
        let bundle = next(&plan(2, &apps), Some(&last));
        if !matches!(Change::between(Some(&last), &bundle), Change::Live) {
            reloads.push(number);
            for app in &apps {
                assert_eq!(seat(&bundle, &app.host), app.host, "people read names");
            }
            let spares = bundle.live.servers.keys().filter(|name| name.starts_with(SPARE)).count();
            assert_eq!(spares, 2 + 3 * 2, "and those of shapes that many ask for");
        }
        last = receipt(&bundle);
    }
    assert_eq!(reloads, [2, 5]);
}

#[test]
fn without_spares_every_new_host_is_a_reload() {
    let last = receipt(&next(&plan(0, &[]), None));
    let bundle = next(&plan(0, &[app("a.test", &[1])]), Some(&last));
    assert!(matches!(Change::between(Some(&last), &bundle), Change::Reload { .. }));
    assert!(!bundle.fragments.iter().any(|fragment| fragment.name.contains(SPARE)));
}

#[test]
fn a_second_app_of_another_shape_is_live_too() {
    let sticky = |host: &str| App { balance: Balance::Uri, ..app(host, &[1]) };
    let secure = |host: &str| App { tls: Some(UpstreamTls { verify: true }), ..app(host, &[2]) };
    let last = receipt(&next(&plan(32, &[app("a.test", &[9])]), None));
    let first = next(&plan(32, &[app("a.test", &[9]), sticky("s1.test"), secure("t1.test")]), Some(&last));
    assert!(matches!(Change::between(Some(&last), &first), Change::Reload { .. }), "the first of its kind");
    let last = receipt(&first);
    let apps =
        [app("a.test", &[9]), sticky("s1.test"), secure("t1.test"), sticky("s2.test"), secure("t2.test")];
    let second = next(&plan(32, &apps), Some(&last));
    assert_eq!(Change::between(Some(&last), &second), Change::Live);
    let text = |seat: &str| {
        let name = format!("backend {seat}");
        second.fragments.iter().find(|fragment| fragment.name == name).unwrap().clone()
    };
    assert!(text(seat(&second, "s2.test")).text.contains("balance uri"));
    assert!(
        text(seat(&second, "t2.test")).servers.as_ref().unwrap().parameters.contains("ssl verify required")
    );
}

#[test]
fn a_backend_whose_shape_changes_moves_to_a_spare_of_that_shape() {
    let (one, least) = (app("a.test", &[1]), App { balance: Balance::LeastConn, ..app("b.test", &[2]) });
    let last = receipt(&next(&plan(4, &[one, least.clone()]), None));
    let moved =
        next(&plan(4, &[App { balance: Balance::LeastConn, ..app("a.test", &[1]) }, least]), Some(&last));
    assert_eq!(Change::between(Some(&last), &moved), Change::Live);
    assert!(seat(&moved, "a.test").starts_with(SPARE));
    assert!(moved.live.servers["a.test"].iter().all(|slot| slot.occupant.is_none()));
}

#[test]
fn more_endpoints_than_slots_take_a_reload() {
    let last = receipt(&next(&plan(4, &[]), None));
    let fits = next(&plan(4, &[app("a.test", &[1, 2, 3, 4])]), Some(&last));
    assert_eq!(Change::between(Some(&last), &fits), Change::Live);
    let last = receipt(&fits);
    let more = next(&plan(4, &[app("a.test", &[1, 2, 3, 4, 5])]), Some(&last));
    assert!(matches!(Change::between(Some(&last), &more), Change::Reload { .. }));
    assert_eq!(more.live.servers[seat(&more, "a.test")].len(), 8 + 1, "and the one that holds");
}

/// With nobody in the other slots before and after, only the one that holds differs.
#[test]
fn a_hold_begins_and_ends_without_a_reload() {
    let holding = |hold| {
        let mut plan = plan(1, &[app("a.test", &[])]);
        plan.backends[0].change().hold = hold;
        plan
    };
    let mut last = receipt(&next(&holding(false), None));
    for hold in [true, false] {
        let bundle = next(&holding(hold), Some(&last));
        assert_eq!(Change::between(Some(&last), &bundle), Change::Live);
        let slot = bundle.live.servers["a.test"].last().unwrap();
        assert_eq!((slot.name.as_str(), slot.occupant.is_some()), (HOLD, hold));
        last = receipt(&bundle);
    }
}

/// An operator that starts knows nothing but what the proxy says, free slots and shapes included.
#[test]
fn whoever_starts_from_a_receipt_renders_the_very_same_bytes() {
    let least = App { balance: Balance::LeastConn, ..app("l.test", &[5]) };
    let first = receipt(&next(&plan(3, &[app("gone.test", &[1]), least]), None));
    let plan = plan(3, &[app("a.test", &[2]), app("b.test", &[3, 4])]);
    let running = next(&plan, Some(&first));
    assert_eq!(Change::between(Some(&first), &running), Change::Live, "a left seat keeps its shape");
    let read: Receipt = serde_json::from_str(&serde_json::to_string(&receipt(&running)).unwrap()).unwrap();
    let again = next(&plan, Some(&read));
    assert_eq!(Change::between(Some(&read), &again), Change::None);
    assert_eq!(again.live, running.live);
}

#[test]
fn what_is_free_is_written_closed() {
    let last = receipt(&next(&plan(1, &[app("a.test", &[1])]), None));
    let gone = next(&plan(1, &[]), Some(&last));
    let paths = interlock_core::bundle::Paths { dir: "/d", run: "/r", secrets: "/s" };
    let config = &gone.files(paths)["haproxy.cfg"];
    assert!(!config.contains("10.0.0.1"), "a restarted proxy has no connection to anybody: {config}");
    assert!(config.contains(&format!("server s1 {CLOSED} disabled")));
}

/// A step of a life: which hosts there are, each with which endpoints and of which shape.
#[test]
fn whoever_is_protected_sits_where_others_are_not() {
    let fenced =
        |network: &str, endpoints: &[u8]| App { policy: without(network), ..app("b.test", endpoints) };
    let first = next(&plan(3, &[app("a.test", &[1]), fenced("10.0.0.0/8", &[2])]), None);
    let text = |bundle: &Bundle, seat: &str| {
        let name = format!("backend {seat}");
        bundle.fragments.iter().find(|it| it.name == name).map(|it| it.text.clone()).unwrap()
    };
    assert!(text(&first, seat(&first, "b.test")).contains("acl denied4 src 10.0.0.0/8"));
    assert!(!text(&first, seat(&first, "a.test")).contains("status 403"));
    let last = receipt(&first);
    // Endpoints come and go live; nobody else takes its seat, and no spare is its.
    let more = next(&plan(3, &[app("a.test", &[1]), fenced("10.0.0.0/8", &[2, 3])]), Some(&last));
    assert_eq!(Change::between(Some(&last), &more), Change::Live);
    let gone = rested(&receipt(&next(&plan(3, &[app("a.test", &[1])]), Some(&last))));
    let other = next(&plan(3, &[app("a.test", &[1]), app("b.test", &[2])]), Some(&gone));
    assert_eq!(Change::between(Some(&gone), &other), Change::Live);
    assert_ne!(seat(&other, "b.test"), "b.test", "its own seat is another's shape now");
    // What protects it changes with the file; whoever is protected no longer moves to a spare.
    let after = next(&plan(3, &[app("a.test", &[1]), fenced("10.0.0.0/9", &[2])]), Some(&last));
    assert!(matches!(Change::between(Some(&last), &after), Change::Reload { .. }));
    let open = next(&plan(3, &[app("a.test", &[1]), app("b.test", &[2])]), Some(&last));
    assert_eq!(Change::between(Some(&last), &open), Change::Live);
    assert_ne!(seat(&open, "b.test"), "b.test");
}

fn world() -> impl Strategy<Value = Vec<App>> {
    let one = (0..6_u8, prop::collection::btree_set(1..12_u8, 0..5), any::<bool>(), any::<bool>());
    prop::collection::vec(one, 0..6).prop_map(|apps| {
        let mut seen = BTreeSet::new();
        apps.into_iter()
            .filter(|(host, ..)| seen.insert(*host))
            .map(|(host, endpoints, least, fenced)| App {
                policy: if fenced { without("10.0.0.0/8") } else { Policy::default() },
                balance: if least { Balance::LeastConn } else { Balance::RoundRobin },
                ..app(&format!("h{host}.test"), &endpoints.into_iter().collect::<Vec<_>>())
            })
            .collect()
    })
}

#[test]
fn what_stays_is_not_rendered_again() {
    let abilities = Abilities::oldest(ProxyKind::Haproxy);
    // No template can be filled any more.
    let broken = Templates::embedded().with_override("haproxy/backend.j2", "{{ nobody }}").unwrap();
    let before = plan(3, &[app("a.test", &[1]), app("c.test", &[3])]);
    let first = next(&before, None);
    let last = receipt(&first);
    let after = plan(3, &[app("a.test", &[1, 2]), app("b.test", &[4])]);
    assert!(render::bundle(&after, Some(&last), abilities, &broken).is_err());
    let second =
        render::bundle_after(Some((&before, &first)), &after, Some(&last), abilities, &broken).unwrap();
    assert_eq!(second, next(&after, Some(&last)));
    assert_eq!(Change::between(Some(&last), &second), Change::Live);
}

/// Some of eight hosts, two of them with wildcards, each with a path, a shape and endpoints.
fn apps() -> impl Strategy<Value = BTreeMap<usize, App>> {
    let shape = prop_oneof![4 => Just(Balance::RoundRobin), 1 => Just(Balance::LeastConn)];
    let one = (shape, prop::collection::btree_set(1..6_u8, 0..3), any::<bool>(), 0..6_u8);
    prop::collection::btree_map(0..8_usize, one, 0..3).prop_map(|some| {
        let hosts = ["a.test", "*.b.test", "c.test", "d.test", "*.x.e.test", "f.test", "g.test", "h.test"];
        let app = |(at, (balance, endpoints, tls, fence)): (usize, (Balance, BTreeSet<u8>, bool, u8))| {
            let tls = (tls && at % 3 == 0).then_some(UpstreamTls { verify: false });
            let endpoints = endpoints.into_iter().collect();
            let fenced = (fence < 2).then(|| without(&format!("10.{fence}.0.0/16")));
            let policy = fenced.unwrap_or_default();
            (at, App { host: hosts[at].to_owned(), balance, tls, policy, endpoints })
        };
        some.into_iter().map(app).collect()
    })
}

proptest! {
    /// Where only what differs is rendered, it comes to what all of it comes to.
    #[test]
    fn one_change_after_the_other_renders_as_the_whole(
        spares in 0..6_u16,
        steps in prop::collection::vec((apps(), prop::collection::btree_set(0..8_usize, 0..2), any::<bool>()), 1..8),
    ) {
        let abilities = Abilities::oldest(ProxyKind::Haproxy);
        let mut all: BTreeMap<usize, App> = BTreeMap::new();
        let mut known: Option<(Plan, Bundle)> = None;
        let mut last: Option<Receipt> = None;
        for (come, gone, rests) in steps {
            all.retain(|at, _| !gone.contains(at));
            all.extend(come);
            let plan = plan(spares, &all.values().cloned().collect::<Vec<_>>());
            let whole = next(&plan, last.as_ref());
            let after = known.as_ref().map(|(plan, bundle)| (plan, bundle));
            let again = render::bundle_after(after, &plan, last.as_ref(), abilities, &Templates::embedded());
            prop_assert_eq!(&again.unwrap(), &whole);
            let read = receipt(&whole);
            last = Some(if rests { rested(&read) } else { read });
            known = Some((plan, whole));
        }
    }

    #[test]
    fn whatever_comes_and_goes_nobody_sits_where_others_are_still_leaving(
        worlds in prop::collection::vec((world(), any::<bool>()), 1..12),
    ) {
        let mut last: Option<Receipt> = None;
        for (apps, rest) in worlds {
            let plan = plan(3, &apps);
            let bundle = next(&plan, last.as_ref());
            prop_assert!(bundle.verify());
            let seats = &bundle.live.maps[SEATS];
            let distinct: BTreeSet<&String> = seats.values().collect();
            prop_assert_eq!(distinct.len(), apps.len(), "each sits alone");
            for app in &apps {
                let slots = &bundle.live.servers[seat(&bundle, &app.host)];
                let there: BTreeSet<String> =
                    slots.iter().filter_map(|slot| Some(slot.occupant?.address.to_string())).collect();
                let wanted: BTreeSet<String> = app.endpoints.iter().map(|last| format!("10.0.0.{last}:80")).collect();
                prop_assert_eq!(there, wanted);
            }
            let used = bundle.live.servers.iter().filter(|(name, _)| !seats.values().any(|seat| seat == *name));
            for (name, slots) in used {
                prop_assert!(slots.iter().all(|slot| slot.occupant.is_none()), "{} is nobody's", name);
            }
            if let Some(last) = last.as_ref().filter(|last| last.static_digest == bundle.static_digest) {
                for (label, seat) in seats.iter() {
                    let stayed = last.seats.get(label) == Some(seat);
                    let free = !last.seats.values().any(|other| other == seat)
                        && last.servers[seat].iter().all(|slot| slot.occupant.is_none() && slot.left.is_none());
                    let own = format!("{seat}/") == *label;
                    prop_assert!(stayed || free || own, "{} went to {}", label, seat);
                }
            }
            let read = receipt(&bundle);
            prop_assert_eq!(&next(&plan, Some(&read)).digest, &bundle.digest, "nothing changes for nothing");
            last = Some(if rest { rested(&read) } else { read });
        }
    }
}
