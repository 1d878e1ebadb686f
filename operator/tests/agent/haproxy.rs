//! HAProxy: live changes, drift, activation that fails, sudden death between two steps.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use interlock_core::bundle::{Occupant, SecretRef};
use interlock_core::model::Digest;
use interlock_core::protocol::{Outcome, SecretText};
use interlock_crds::ProxyKind;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::conformance::{Sketch, hello};
use crate::rig::{self, Rig, app, connect, connected, get};

const KIND: ProxyKind = ProxyKind::Haproxy;

async fn command(rig: &Rig, line: &str) -> String {
    ask(rig, line).await.unwrap()
}

async fn ask(rig: &Rig, line: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(rig.dir.path().join("run/haproxy.sock")).await?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn worker(rig: &Rig) -> String {
    let info = command(rig, "show info").await;
    info.lines().find_map(|line| line.strip_prefix("Pid: ")).unwrap().to_owned()
}

fn at(address: SocketAddr) -> Occupant {
    Occupant { address: address.try_into().unwrap(), draining: false }
}

fn slots(port: u16, servers: &[Option<Occupant>]) -> Sketch {
    let mut sketch = Sketch::of(KIND, port, &["a.test"]);
    sketch.hosts[0].servers = servers.to_vec();
    sketch
}

#[tokio::test]
async fn servers_come_move_drain_and_leave_without_a_reload() {
    let rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    let (one, _one) = app("200 OK", "one").await;
    let (two, _two) = app("200 OK", "two").await;
    client.applied(&slots(rig.port, &[None, None]).bundle()).await;
    let pid = worker(&rig).await;
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 503);

    let draining = Some(Occupant { draining: true, ..at(one) });
    let steps: [(&[Option<Occupant>], u16, &str); 6] = [
        (&[Some(at(one)), None], 200, "one"),
        (&[Some(at(two)), None], 200, "two"),
        (&[draining, Some(at(two))], 200, "two"),
        (&[Some(at(one)), None], 200, "one"),
        (&[None, Some(at(two))], 200, "two"),
        (&[None, None], 503, ""),
    ];
    for (number, (servers, status, body)) in steps.into_iter().enumerate() {
        let bundle = slots(rig.port, servers).bundle();
        let applied = client.applied(&bundle).await;
        assert_eq!(applied.reload.len(), 0, "step {number}");
        assert!(applied.commands > 0, "step {number}");
        assert_eq!(applied.healed, BTreeMap::new(), "step {number}: what was asked for is no drift");
        assert_eq!(applied.receipt.digest, bundle.digest, "step {number}");
        assert_eq!(applied.receipt.servers["b_a.test"].len(), 2);
        let got = get(rig.port, "a.test", "/").await.unwrap();
        assert_eq!(got.0, status, "step {number}");
        assert!(status != 200 || got.1 == body, "step {number}: {got:?}");
    }
    assert_eq!(worker(&rig).await, pid, "one worker did it all");
}

#[tokio::test]
async fn a_server_that_was_booted_draining_comes_back_live() {
    let mut rig = Rig::start(KIND);
    let (one, _one) = app("200 OK", "one").await;
    let draining = Occupant { draining: true, ..at(one) };
    let mut client = connected(rig.options()).await;
    client.applied(&slots(rig.port, &[Some(draining)]).bundle()).await;
    rig.boot();
    drop(client);
    let (mut client, welcome, _served) = connect(rig.options(), hello("one", 2)).await.unwrap();
    assert_eq!(welcome.proxy.receipt.unwrap().servers["b_a.test"][0].occupant, Some(draining));
    let applied = client.applied(&slots(rig.port, &[Some(at(one))]).bundle()).await;
    assert_eq!(applied.reload.len(), 0);
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().1, "one");
}

#[tokio::test]
async fn hosts_come_and_go_in_the_map_without_a_reload() {
    let rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    let base = Sketch::of(KIND, rig.port, &["a.test"]);
    let with = |entries: &[(&str, &str)]| {
        let mut bundle = base.bundle();
        let map = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        bundle.live.maps.insert("hosts.map".to_owned(), map);
        let (fragments, live) = (bundle.fragments, bundle.live);
        interlock_core::bundle::Bundle::new(bundle.target, bundle.cluster, KIND, fragments, live, Vec::new())
    };
    client.applied(&base.bundle()).await;
    for (entries, a, b) in [
        (&[("a.test", "b_a.test"), ("b.test", "b_a.test")][..], 200, 200),
        (&[("a.test", "none"), ("b.test", "b_a.test")], 404, 200),
        (&[("b.test", "b_a.test"), ("c.test", r#"a ";'\ b"#)], 404, 200),
        (&[], 404, 404),
    ] {
        let bundle = with(entries);
        let applied = client.applied(&bundle).await;
        assert_eq!((applied.reload.len(), applied.receipt.digest), (0, bundle.digest), "{entries:?}");
        let got =
            (get(rig.port, "a.test", "/").await.unwrap().0, get(rig.port, "b.test", "/").await.unwrap().0);
        assert_eq!(got, (a, b), "{entries:?}");
    }
    let many: BTreeMap<String, String> =
        (0..2000).map(|n| (format!("h{n}.test"), "b_a.test".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let applied = client.applied(&with(&many)).await;
    assert_eq!((applied.reload.len(), applied.commands), (0, 2000), "more than one line of commands holds");
    assert_eq!(get(rig.port, "h1999.test", "/").await.unwrap().0, 200);
}

#[tokio::test]
async fn drift_is_healed_and_counted() {
    let rig = Rig::start(KIND);
    let (one, _one) = app("200 OK", "one").await;
    let bundle = slots(rig.port, &[Some(at(one)), None]).bundle();
    let mut client = connected(rig.options()).await;
    client.applied(&bundle).await;
    let pid = worker(&rig).await;
    let healed = |kind: &str, count| BTreeMap::from([(kind.to_owned(), count)]);

    command(&rig, "set server b_a.test/s0 state maint").await;
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 503);
    let applied = client.applied(&bundle).await;
    assert_eq!((applied.healed, applied.reload.len()), (healed("Server", 1), 0));
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200);

    let map = command(&rig, "show map").await;
    let id =
        map.lines().find(|line| line.contains("hosts.map")).unwrap().split(' ').next().unwrap().to_owned();
    command(&rig, &format!("del map #{id} a.test")).await;
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 404);
    let applied = client.applied(&bundle).await;
    assert_eq!((applied.healed, applied.reload.len()), (healed("Map", 1), 0));
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200);

    let good = rig.main();
    std::fs::write(&rig.config, "global\n").unwrap();
    let applied = client.applied(&bundle).await;
    assert_eq!((applied.healed, applied.reload.len()), (healed("File", 1), 0));
    assert_eq!(rig.main(), good);
    assert_eq!(worker(&rig).await, pid, "none of it took a reload");

    // Somebody edits the file and reloads: the digest in it has stayed.
    let edited = good.replace("http-request return status 404", "http-request return status 418");
    std::fs::write(&rig.config, edited.replace("status 418", "status 410")).unwrap();
    rig::eventually("the master has come to rest", async || {
        rig::reloads(&rig.config) == Some(1) && rig::is_at_rest(&rig.config)
    })
    .await;
    rig::kill(rig::the_master(&rig.config).await, Signal::USR2);
    rig::eventually("the edit is loaded", async || {
        get(rig.port, "none.test", "/").await.is_some_and(|(status, _)| status == 410)
    })
    .await;
    let applied = client.applied(&bundle).await;
    assert_eq!((applied.healed, applied.reload), (healed("File", 1), vec!["drift".to_owned()]));
    assert_eq!(get(rig.port, "none.test", "/").await.unwrap().0, 404);
}

#[tokio::test]
async fn a_busy_port_is_told_and_nothing_is_interrupted() {
    let rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    let good = Sketch::of(KIND, rig.port, &["a.test"]).bundle();
    client.applied(&good).await;
    let (pid, main) = (worker(&rig).await, rig.main());
    let busy = rig.port + 1;
    let taken = std::net::TcpListener::bind(("127.0.0.1", busy)).unwrap();
    let mut sketch = Sketch::of(KIND, rig.port, &["a.test", "b.test"]);
    sketch.hosts[1].line = format!("frontend more\n    bind 127.0.0.1:{busy}\n");
    let Outcome::ActivationFailed { reason } = client.apply(&sketch.bundle()).await else {
        panic!("it did not fail")
    };
    assert!(
        reason.contains(&busy.to_string()) && reason.contains(&std::process::id().to_string()),
        "{reason}"
    );
    assert_eq!((worker(&rig).await, rig.main()), (pid, main));
    assert!(!rig.log().contains("Paused frontend"), "the old worker was interrupted");
    drop(taken);
    assert_eq!(client.applied(&sketch.bundle()).await.reload, ["backend b.test"]);
}

#[tokio::test]
async fn an_activation_that_fails_after_a_passed_check_is_undone() {
    let mut rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    let good = Sketch::of(KIND, rig.port, &["a.test"]).bundle();
    client.applied(&good).await;
    let (pid, main) = (worker(&rig).await, rig.main());
    let mut sketch = Sketch::of(KIND, rig.port, &["a.test"]);
    // The checker does not look at limits; starting does.
    sketch.global = "    ulimit-n 2000000000\n".to_owned();
    let begun = std::time::Instant::now();
    assert_eq!(client.check(&sketch.bundle()).await, Outcome::Passed);
    let outcome = client.apply(&sketch.bundle()).await;
    assert!(matches!(outcome, Outcome::ActivationFailed { .. }), "{outcome:?}");
    assert!(begun.elapsed() < rig.options().timing.confirm, "a failed reload is seen before the deadline");
    assert_eq!((worker(&rig).await, rig.main()), (pid, main));
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200);
    let again = client.applied(&good).await;
    assert_eq!((again.reload.len(), again.commands, again.healed.len()), (0, 0, 0));
    rig.boot();
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200, "a restart boots the last good files");
}

#[tokio::test]
async fn a_killed_and_restarted_proxy_boots_the_live_state_and_is_told_of() {
    let mut rig = Rig::start(KIND);
    let (one, _one) = app("200 OK", "one").await;
    let mut client = connected(rig.options()).await;
    client.applied(&slots(rig.port, &[None]).bundle()).await;
    let bundle = slots(rig.port, &[Some(at(one))]).bundle();
    assert_eq!(client.applied(&bundle).await.reload.len(), 0);
    rig.boot();
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().1, "one");
    loop {
        if let interlock_core::protocol::ToOperator::ProxyChanged(facts) = client.receive().await.unwrap()
            && facts.running
        {
            assert_eq!(facts.receipt.unwrap().digest, bundle.digest);
            break;
        }
    }
    let again = client.applied(&bundle).await;
    assert_eq!((again.reload.len(), again.commands), (0, 0));
}

#[tokio::test]
async fn secrets_are_private_verified_and_collected() {
    let rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    let text = "a secret\n".to_owned();
    let digest = Digest::of([text.as_bytes()]);
    let mut sketch = Sketch::of(KIND, rig.port, &["a.test"]);
    sketch.secrets = vec![SecretRef { file: format!("{digest}.pem"), digest: digest.clone() }];
    let bundle = sketch.bundle();

    let missing = client.apply(&bundle).await;
    assert!(matches!(missing, Outcome::Failed { .. }), "{missing:?}");
    let wrong = BTreeMap::from([(digest.clone(), SecretText("another".to_owned()))]);
    let wrong = client.ask(&bundle, wrong, true).await;
    assert!(matches!(wrong, Outcome::Failed { .. }), "{wrong:?}");
    let right = BTreeMap::from([(digest.clone(), SecretText(text.clone()))]);
    let right = client.ask(&bundle, right, true).await;
    assert!(matches!(right, Outcome::Applied(_)), "{right:?}");
    let path = rig.dir.path().join("secrets").join(format!("{digest}.pem"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    client.applied(&bundle).await;
    client.applied(&Sketch::of(KIND, rig.port, &["a.test"]).bundle()).await;
    assert!(!path.exists(), "nothing refers to it any more");
}

/// The old worker takes connections until it has heard that it shall stop, which on a busy machine may be long after
/// the new one's first answer.
#[tokio::test]
async fn after_the_receipt_every_connection_meets_the_new_worker() {
    let rig = Rig::start(KIND);
    let mut options = rig.options();
    options.timing.handover = Duration::from_hours(1);
    let mut client = connected(options).await;
    client.applied(&Sketch::of(KIND, rig.port, &["a.test"]).bundle()).await;
    let old: u32 = worker(&rig).await.parse().unwrap();
    rig::kill(old, Signal::STOP);
    let new = Sketch::of(KIND, rig.port, &["a.test", "b.test"]).bundle();
    let mut applied = Box::pin(client.applied(&new));
    let answered = async {
        // Whoever connects before it is there waits for the old one.
        for _ in 0..20 {
            rig::eventually("the new worker answers", async || {
                let asked = tokio::time::timeout(Duration::from_millis(200), ask(&rig, "show info")).await;
                asked.is_ok_and(|info| info.is_ok_and(|info| !info.contains(&format!("Pid: {old}\n"))))
            })
            .await;
        }
    };
    tokio::select! {
        _ = &mut applied => panic!("a receipt before the old worker has stopped"),
        () = answered => {}
    }
    rig::kill(old, Signal::CONT);
    assert_eq!(applied.await.receipt.digest, new.digest);
    for _ in 0..20 {
        assert_eq!(get(rig.port, "b.test", "/").await.unwrap().0, 200, "an old worker still accepts");
    }
}

#[tokio::test]
async fn the_limits_of_a_place_are_told_before_its_proxy_runs() {
    let rig = Rig::empty(KIND);
    let (_client, welcome, _served) = connect(rig.options(), hello("one", 1)).await.unwrap();
    assert!(!welcome.proxy.running && welcome.proxy.limits.is_some());
}

/// The signal of each reload finds a master that has hardly finished the one before.
#[tokio::test]
async fn reloads_one_after_the_other_are_never_lost() {
    let rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    for number in 0..15 {
        client.applied(&Sketch::of(KIND, rig.port, &[&format!("h{number}.test")]).bundle()).await;
    }
    rig::eventually("fifteen, and none twice", async || rig::reloads(&rig.config) == Some(15)).await;
}

/// A connection may sit in the queue of a listener that nobody accepts from while workers change hands.
#[tokio::test]
async fn connections_that_nobody_answers_do_not_hold_a_reload_up() {
    let rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    client.applied(&Sketch::of(KIND, rig.port, &["a.test"]).bundle()).await;
    let socket = rig.dir.path().join("run/haproxy.sock");
    let real = rig.dir.path().join("run/real.sock");
    std::fs::rename(&socket, &real).unwrap();
    let between = tokio::net::UnixListener::bind(&socket).unwrap();
    let held = tokio::spawn(async move {
        let mut kept = Vec::new();
        for number in 0.. {
            let (mut stream, _) = between.accept().await.unwrap();
            if matches!(number, 1 | 2) {
                kept.push(stream);
                continue;
            }
            let mut real = UnixStream::connect(&real).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut real).await });
        }
    });
    let new = Sketch::of(KIND, rig.port, &["a.test", "b.test"]).bundle();
    assert_eq!(client.applied(&new).await.receipt.digest, new.digest);
    held.abort();
}

#[tokio::test]
async fn generations_are_collected_and_the_users_own_file_is_kept() {
    let rig = Rig::start(KIND);
    let own = rig.main();
    let mut client = connected(rig.options()).await;
    for number in 0..6 {
        client.applied(&Sketch::of(KIND, rig.port, &[&format!("h{number}.test")]).bundle()).await;
    }
    let kept = std::fs::read_dir(rig.dir.path().join("state")).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("gen-")).count();
    assert_eq!(kept, 3);
    let before = rig.config.with_file_name("haproxy.cfg.before-interlock");
    assert_eq!(std::fs::read_to_string(before).unwrap(), own);
}
