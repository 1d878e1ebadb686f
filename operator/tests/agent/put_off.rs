//! Withdrawals: they run at once, and what the proxy boots into follows when it is seen to run on.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use interlock::agent::{Fault, Options, Step};
use interlock_core::bundle::{Bundle, Occupant};
use interlock_core::protocol::{Applied, Apply, Outcome, ToAgent, ToOperator};
use interlock_crds::ProxyKind;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::conformance::{Sketch, hello};
use crate::rig::{PairClient, Rig, app, connect, eventually, get, kill, masters};

/// Longer than any test.
const NEVER: Duration = Duration::from_hours(1);

fn withdrawal(client: &PairClient, bundle: &Bundle) -> ToAgent {
    let apply = Apply { id: client.next, bundle: bundle.clone(), secrets: BTreeMap::new(), withdraws: true };
    ToAgent::Apply(Box::new(apply))
}

pub(crate) async fn withdraws(client: &mut PairClient, bundle: &Bundle) -> Applied {
    match client.request(withdrawal(client, bundle)).await {
        Outcome::Applied(applied) => {
            assert_eq!(applied.receipt.digest, bundle.digest, "it runs");
            applied
        }
        other => panic!("not applied: {other:?}"),
    }
}

/// What serves, and the same after the withdrawal: a server that drains on HAProxy, a host that goes on nginx.
struct Change {
    serves: Bundle,
    withdrawn: Bundle,
}

impl Change {
    async fn of(rig: &Rig) -> Self {
        let mut sketch = Sketch::of(rig.kind, rig.port, &["a.test", "b.test"]);
        if rig.kind == ProxyKind::Nginx {
            let withdrawn = Sketch::of(rig.kind, rig.port, &["a.test"]).bundle();
            return Self { serves: sketch.bundle(), withdrawn };
        }
        let (one, _) = app("200 OK", "one").await;
        let mut with = |draining| {
            sketch.hosts[1].servers = vec![Some(Occupant { address: one.try_into().unwrap(), draining })];
            sketch.bundle()
        };
        Self { serves: with(false), withdrawn: with(true) }
    }
}

async fn serves_b(rig: &Rig) -> bool {
    get(rig.port, "b.test", "/").await.unwrap().0 == 200
}

async fn boots_into_what_was_before(kind: ProxyKind) {
    let mut rig = Rig::start(kind);
    let change = Change::of(&rig).await;
    let options = rig.putting_off(NEVER);
    let (mut client, ..) = connect(options.clone(), hello("one", 1)).await.unwrap();
    client.applied(&change.serves).await;
    let main = rig.main();
    let applied = withdraws(&mut client, &change.withdrawn).await;
    assert_eq!(applied.reload.is_empty(), kind == ProxyKind::Haproxy);
    assert!(!serves_b(&rig).await, "it runs at once");
    assert_eq!(rig.main(), main, "and is not written down");
    let again = withdraws(&mut client, &change.withdrawn).await;
    assert_eq!((again.reload.len(), again.commands, again.healed.len()), (0, 0, 0), "at a resync too");
    assert_eq!(rig.main(), main);

    // Whoever comes next is told what runs, not what is written down.
    drop(client);
    let (mut client, welcome, _served) = connect(options, hello("one", 2)).await.unwrap();
    assert_eq!(welcome.proxy.receipt.unwrap().digest, change.withdrawn.digest);
    rig.boot();
    assert!(serves_b(&rig).await, "it boots into what was before");
    loop {
        if let ToOperator::ProxyChanged(facts) = client.receive().await.unwrap()
            && let Some(receipt) = facts.receipt
        {
            assert_eq!(receipt.digest, change.serves.digest, "and that is told");
            break;
        }
    }
    // Anything that is no withdrawal is written down as ever.
    let applied = client.applied(&change.withdrawn).await;
    assert_eq!(applied.healed.len(), 0, "nobody has touched anything");
    rig.boot();
    assert!(!serves_b(&rig).await);
}

#[tokio::test]
async fn haproxy_boots_into_what_was_before_a_withdrawal() {
    boots_into_what_was_before(ProxyKind::Haproxy).await;
}

#[tokio::test]
async fn nginx_boots_into_what_was_before_a_withdrawal() {
    boots_into_what_was_before(ProxyKind::Nginx).await;
}

async fn is_written_down_later(kind: ProxyKind) {
    let mut rig = Rig::start(kind);
    let change = Change::of(&rig).await;
    let (mut client, _, served) =
        connect(rig.putting_off(Duration::from_millis(200)), hello("one", 1)).await.unwrap();
    client.applied(&change.serves).await;
    let main = rig.main();
    withdraws(&mut client, &change.withdrawn).await;
    // Also when its operator has gone.
    drop(client);
    served.task.await.unwrap();
    assert_ne!(rig.main(), main, "its agent stays until it is written down");
    rig.boot();
    assert!(!serves_b(&rig).await);
}

#[tokio::test]
async fn a_withdrawal_of_haproxy_is_written_down_later() {
    is_written_down_later(ProxyKind::Haproxy).await;
}

#[tokio::test]
async fn a_withdrawal_of_nginx_is_written_down_later() {
    is_written_down_later(ProxyKind::Nginx).await;
}

/// Another change that lives on the same worker, and one that takes a reload and fails.
#[tokio::test]
async fn what_comes_after_a_withdrawal_goes_on_from_it() {
    for kind in [ProxyKind::Haproxy, ProxyKind::Nginx] {
        let mut rig = Rig::start(kind);
        let change = Change::of(&rig).await;
        let (mut client, ..) = connect(rig.putting_off(NEVER), hello("one", 1)).await.unwrap();
        client.applied(&change.serves).await;
        let main = rig.main();
        withdraws(&mut client, &change.withdrawn).await;

        let mut fails = Sketch::of(kind, rig.port, &["a.test", "c.test"]);
        let busy = std::net::TcpListener::bind(("127.0.0.1", rig.port + 1)).unwrap();
        match kind {
            ProxyKind::Haproxy => fails.global = "    ulimit-n 2000000000\n".to_owned(),
            ProxyKind::Nginx => fails.hosts[1].line = format!("listen\n127.0.0.1:{};\n", rig.port + 1),
        }
        let outcome = client.apply(&fails.bundle()).await;
        assert!(matches!(outcome, Outcome::ActivationFailed { .. }), "{outcome:?}");
        drop(busy);
        assert!(!serves_b(&rig).await, "{kind:?}: what was withdrawn stays so");
        assert_ne!(rig.main(), main, "{kind:?}: it was written down before the reload");
        rig.boot();
        assert!(!serves_b(&rig).await, "{kind:?}");
    }
}

/// As when an engine stops: the proxy finishes what it has and takes nothing new. `at`: what the agent had just done.
async fn a_proxy_that_is_stopped_keeps_what_it_boots_into(kind: ProxyKind, at: Step) {
    let mut rig = Rig::start(kind);
    let change = Change::of(&rig).await;
    let (config, socket) = (rig.config.clone(), rig.dir.path().join("run/haproxy.sock"));
    let stops = move |step: Step| {
        if step == at && std::fs::exists(config.with_file_name("stop")).unwrap() {
            let gentle = if kind == ProxyKind::Haproxy { Signal::USR1 } else { Signal::QUIT };
            kill(masters(&config)[0], gentle);
            let deadline = Instant::now() + Duration::from_secs(30);
            while kind == ProxyKind::Haproxy && UnixStream::connect(&socket).is_ok() {
                assert!(Instant::now() < deadline, "it does not stop");
            }
        }
    };
    let options = Options { fault: Fault::at(stops), ..rig.putting_off(Duration::ZERO) };
    let (mut client, ..) = connect(options, hello("one", 1)).await.unwrap();
    client.applied(&change.serves).await;
    let main = rig.main();
    eventually("it hears signals", async || kind == ProxyKind::Nginx || crate::rig::is_at_rest(&rig.config))
        .await;
    // Somebody who has not yet finished.
    let mut open = TcpStream::connect(("127.0.0.1", rig.port)).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    std::fs::write(rig.config.with_file_name("stop"), "").unwrap();
    let outcome = client.request(withdrawal(&client, &change.withdrawn)).await;
    if at == Step::Activated {
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    } else {
        let Outcome::Failed { reason } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("told to stop"), "{reason}");
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(rig.main(), main);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(masters(&rig.config).len(), 1, "it still finishes what it has");
    rig.boot();
    assert!(serves_b(&rig).await);
}

#[tokio::test]
async fn a_haproxy_that_is_stopped_keeps_what_it_boots_into() {
    a_proxy_that_is_stopped_keeps_what_it_boots_into(ProxyKind::Haproxy, Step::Activated).await;
}

#[tokio::test]
async fn an_nginx_that_is_stopped_keeps_what_it_boots_into() {
    for at in [Step::Written, Step::Switched, Step::Activated] {
        a_proxy_that_is_stopped_keeps_what_it_boots_into(ProxyKind::Nginx, at).await;
    }
}
