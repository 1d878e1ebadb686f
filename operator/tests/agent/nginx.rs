//! nginx: reload confirmed by new workers, activation that fails, drift, sudden death between two steps.

use std::collections::BTreeMap;

use interlock_core::protocol::Outcome;
use interlock_crds::ProxyKind;

use crate::conformance::Sketch;
use crate::rig::{Rig, connected, get};

const KIND: ProxyKind = ProxyKind::Nginx;

#[tokio::test]
async fn after_the_receipt_every_connection_meets_the_new_configuration() {
    let rig = Rig::start(KIND);
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
    let rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    let bundle = Sketch::of(KIND, rig.port, &["a.test"]).bundle();
    client.applied(&bundle).await;
    let good = rig.main();
    std::fs::write(&rig.config, "events {}\n").unwrap();
    let applied = client.applied(&bundle).await;
    assert_eq!((applied.healed, applied.reload.len()), (BTreeMap::from([("File".to_owned(), 1)]), 0));
    assert_eq!(rig.main(), good);
}

#[tokio::test]
async fn an_activation_that_fails_after_a_passed_check_is_undone() {
    let mut rig = Rig::start(KIND);
    let mut client = connected(rig.options()).await;
    let good = Sketch::of(KIND, rig.port, &["a.test"]).bundle();
    client.applied(&good).await;
    let main = rig.main();

    let (seen, unseen) = (rig.port + 1, rig.port + 2);
    let taken = std::net::TcpListener::bind(("127.0.0.1", seen)).unwrap();
    let mut busy = Sketch::of(KIND, rig.port, &["a.test", "b.test"]);
    busy.hosts[1].line = format!("listen 127.0.0.1:{seen};\n");
    let Outcome::ActivationFailed { reason } = client.apply(&busy.bundle()).await else {
        panic!("it did not fail")
    };
    assert!(reason.contains(&seen.to_string()), "{reason}");
    drop(taken);

    // A listener that is written so that the agent cannot see it beforehand.
    let taken = std::net::TcpListener::bind(("127.0.0.1", unseen)).unwrap();
    let mut hidden = Sketch::of(KIND, rig.port, &["a.test", "b.test"]);
    hidden.hosts[1].line = format!("listen\n127.0.0.1:{unseen};\n");
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
