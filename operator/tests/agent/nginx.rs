//! nginx: reload confirmed by new workers, activation that fails, drift, sudden death between two steps.

use std::collections::BTreeMap;

use interlock::agent::{Fault, Step};
use interlock_core::protocol::Outcome;
use interlock_crds::ProxyKind;

use crate::conformance::{Sketch, hello};
use crate::rig::{Rig, connect, connected, get};

const KIND: ProxyKind = ProxyKind::Nginx;

#[tokio::test]
async fn after_the_receipt_every_connection_meets_the_new_configuration() {
    let rig = Rig::start(KIND, 23_200);
    let mut client = connected(rig.options()).await;
    for number in 0..5 {
        let host = format!("h{number}.test");
        let bundle = Sketch::of(KIND, rig.port, &[&host]).bundle();
        assert_eq!(client.applied(&bundle).await.receipt.digest, bundle.digest);
        for _ in 0..20 {
            assert_eq!(get(rig.port, &host, "/").await.unwrap().0, 200, "an old worker still accepts");
        }
    }
}

#[tokio::test]
async fn an_edited_file_is_healed_and_counted() {
    let rig = Rig::start(KIND, 23_210);
    let mut client = connected(rig.options()).await;
    let bundle = Sketch::of(KIND, rig.port, &["a.test"]).bundle();
    client.applied(&bundle).await;
    let good = rig.main();
    std::fs::write(&rig.config, "events {}\n").unwrap();
    let applied = client.applied(&bundle).await;
    assert_eq!((applied.healed, applied.reload.len()), (BTreeMap::from([("file".to_owned(), 1)]), 0));
    assert_eq!(rig.main(), good);
}

#[tokio::test]
async fn an_activation_that_fails_after_a_passed_check_is_undone() {
    let mut rig = Rig::start(KIND, 23_220);
    let mut client = connected(rig.options()).await;
    let good = Sketch::of(KIND, rig.port, &["a.test"]).bundle();
    client.applied(&good).await;
    let main = rig.main();

    let taken = std::net::TcpListener::bind("127.0.0.1:23221").unwrap();
    let mut busy = Sketch::of(KIND, rig.port, &["a.test", "b.test"]);
    busy.hosts[1].line = "listen 127.0.0.1:23221;\n".to_owned();
    let Outcome::ActivationFailed { reason } = client.apply(&busy.bundle()).await else {
        panic!("it did not fail")
    };
    assert!(reason.contains("23221"), "{reason}");
    drop(taken);

    // A listener that is written so that the agent cannot see it beforehand.
    let taken = std::net::TcpListener::bind("127.0.0.1:23222").unwrap();
    let mut hidden = Sketch::of(KIND, rig.port, &["a.test", "b.test"]);
    hidden.hosts[1].line = "listen\n127.0.0.1:23222;\n".to_owned();
    let outcome = client.apply(&hidden.bundle()).await;
    assert!(matches!(outcome, Outcome::ActivationFailed { .. }), "{outcome:?}");
    drop(taken);

    assert_eq!(rig.main(), main);
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200);
    let again = client.applied(&good).await;
    assert_eq!((again.reload.len(), again.healed.len()), (0, 0));
    rig.boot();
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200, "a restart boots the last good files");
}

#[tokio::test]
async fn the_death_of_the_agent_at_any_step_leaves_the_last_or_the_next_generation() {
    let steps = [Step::Writing, Step::Written, Step::Checked, Step::Switched, Step::Activated];
    for (number, step) in steps.into_iter().enumerate() {
        let mut rig = Rig::start(KIND, 23_230 + u16::try_from(number).unwrap());
        let old = Sketch::of(KIND, rig.port, &["a.test"]).bundle();
        let new = Sketch::of(KIND, rig.port, &["a.test", "b.test"]).bundle();
        connected(rig.options()).await.applied(&old).await;
        let (reached, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let fault = Fault::at(move |now| now == step && reached.send(()).is_ok());
        let options = interlock::agent::Options { fault, ..rig.options() };
        let (mut client, _, served) = connect(options, hello("one", 2)).await.unwrap();
        let wanted = new.clone();
        let asked = tokio::spawn(async move { client.apply(&wanted).await });
        seen.recv().await.unwrap();
        served.task.abort();
        asked.abort();
        let _ = served.task.await;

        rig.boot();
        assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200, "{step:?}");
        let (mut client, _, _served) = connect(rig.options(), hello("one", 3)).await.unwrap();
        assert_eq!(client.applied(&new).await.receipt.digest, new.digest, "{step:?}");
        assert_eq!(get(rig.port, "b.test", "/").await.unwrap().0, 200, "{step:?}");
    }
}
