//! Slow start: an endpoint that comes beside others gets its share little by little, in real requests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use interlock_core::bundle::Receipt;
use interlock_core::plan::Plan;
use interlock_crds::{Period, ProxyKind};

use crate::certificates::bundle;
use crate::rig::{Rig, app, connected, eventually, get};
use crate::seats;

/// Long beside what a few requests take on a busy machine.
const RAMP: Duration = Duration::from_secs(8);
const ASKED: usize = 40;

fn plan(rig: &Rig, endpoints: &[SocketAddr]) -> Plan {
    let mut plan = seats::plan(rig, 2, &[("a.test", endpoints)]);
    plan.backends[0].change().slow_start = Some(Period::secs(RAMP.as_secs()));
    plan
}

/// How many of some requests the new endpoint is given.
async fn share(rig: &Rig) -> usize {
    let mut new = 0;
    for _ in 0..ASKED {
        let (status, body) = get(rig.port, "a.test", "/").await.unwrap();
        assert_eq!(status, 200);
        new += usize::from(body == "new");
    }
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_endpoint_gets_its_share_little_by_little() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let (old, _) = app("200 OK", "old").await;
    let (new, _) = app("200 OK", "new").await;
    let first = client.applied(&bundle(&plan(&rig, &[old]), None)).await;
    assert_eq!(share(&rig).await, 0);

    let both = plan(&rig, &[old, new]);
    let applied = client.applied(&bundle(&both, Some(&first.receipt))).await;
    let since = Instant::now();
    assert!(applied.reload.is_empty(), "{:?}", applied.reload);
    let early = share(&rig).await;
    // On a machine so busy that this took half the ramp nothing was learned.
    assert!(early < ASKED / 4 || since.elapsed() > RAMP / 2, "{early} of {ASKED} at once");
    eventually("it has its whole share", async || share(&rig).await >= ASKED * 2 / 5).await;
    assert!(since.elapsed() >= RAMP / 4, "after {:?}", since.elapsed());

    // A look at everything meanwhile and afterwards finds nothing to heal.
    let again = client.applied(&bundle(&both, Some(&applied.receipt))).await;
    assert_eq!((again.commands, again.healed.len()), (0, 0), "{:?}", again.healed);
    let slots = |receipt: &Receipt| receipt.servers.clone();
    assert_eq!(slots(&again.receipt), slots(&applied.receipt));
}

/// A proxy that starts, or is reloaded, knows nobody as new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_starts_nobody_slowly() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let (old, _) = app("200 OK", "old").await;
    let (new, _) = app("200 OK", "new").await;
    connected(rig.options()).await.applied(&bundle(&plan(&rig, &[old, new]), None)).await;
    assert_eq!(share(&rig).await, ASKED / 2);
}
