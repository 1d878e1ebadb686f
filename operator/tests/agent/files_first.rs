//! Files first: whoever dies at whatever step, the proxy that is started again boots the last or the next
//! generation, whole, without anybody's help.

use std::collections::BTreeMap;

use interlock::agent::Step;
use interlock_core::bundle::{Bundle, Occupant};
use interlock_core::model::Digest;
use interlock_core::protocol::{Apply, Outcome, SecretText};
use interlock_crds::ProxyKind;

use crate::certificates::{self, Issued, presented};
use crate::conformance::{Sketch, hello};
use crate::lifecycle::{self, Process};
use crate::rig::{PairClient, Rig, app, connect, connected, eventually, get, kill_group, masters};

const STEPS: [Step; 5] = [Step::Writing, Step::Written, Step::Checked, Step::Switched, Step::Activated];

/// Two generations and what `a.test` and `b.test` answer in each.
struct Change {
    old: Bundle,
    new: Bundle,
    answers: [[&'static str; 2]; 2],
    /// Where the answer is the place of the certificate that is presented: those there are.
    certificates: Vec<Issued>,
}

impl Change {
    fn secrets(&self) -> BTreeMap<Digest, SecretText> {
        certificates::secrets(&self.certificates.iter().collect::<Vec<_>>())
    }

    /// The first of the two, applied.
    async fn begin(&self, rig: &Rig) {
        let outcome = connected(rig.options()).await.ask(&self.old, self.secrets(), true).await;
        assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
    }

    /// The second.
    async fn go_on(&self, client: &mut PairClient) -> Outcome {
        client.ask(&self.new, self.secrets(), true).await
    }
}

#[derive(Clone, Copy)]
enum What {
    Reload,
    Live,
    Certificates,
}

/// A host more: a reload.
fn reload(rig: &Rig) -> Change {
    Change {
        old: Sketch::of(rig.kind, rig.port, &["a.test"]).bundle(),
        new: Sketch::of(rig.kind, rig.port, &["a.test", "b.test"]).bundle(),
        answers: [["200", "404"], ["200", "200"]],
        certificates: Vec::new(),
    }
}

/// Two hosts whose servers change places: live commands.
async fn live(rig: &Rig) -> Change {
    let (one, _) = app("200 OK", "one").await;
    let (two, _) = app("200 OK", "two").await;
    let occupant = |address: std::net::SocketAddr| {
        Some(Occupant { address: address.try_into().unwrap(), draining: false })
    };
    let with = |a, b| {
        let mut sketch = Sketch::of(rig.kind, rig.port, &["a.test", "b.test"]);
        sketch.hosts[0].servers = vec![a, None];
        sketch.hosts[1].servers = vec![b, None];
        sketch.bundle()
    };
    let (one, two) = (occupant(one), occupant(two));
    Change {
        old: with(one, two),
        new: with(two, one),
        answers: [["one", "two"], ["two", "one"]],
        certificates: Vec::new(),
    }
}

/// Two hosts whose certificates are renewed at once: live commands.
fn renewal(rig: &Rig) -> Change {
    let all = ["a.test", "b.test", "a.test", "b.test"].map(Issued::to);
    let hosts = [("a.test", &[][..]), ("b.test", &[][..])];
    let plan = |of: &[Issued]| certificates::plan(rig, &hosts, &of.iter().collect::<Vec<_>>());
    let (old, new) = (plan(&all[..2]), plan(&all[2..]));
    let (old, new) = (certificates::bundle(&old, None), certificates::bundle(&new, None));
    Change { old, new, answers: [["0", "1"], ["2", "3"]], certificates: all.to_vec() }
}

/// Starts the proxy on what lies there and asks it; which generation it serves: 0 the last, 1 the next.
async fn boots(rig: &mut Rig, change: &Change, when: &str) -> usize {
    rig.boot();
    let mut got = Vec::new();
    for host in ["a.test", "b.test"] {
        if !change.certificates.is_empty() {
            let known: Vec<&Issued> = change.certificates.iter().collect();
            got.push(presented(rig, host, &known).await.map_or("none".to_owned(), |at| at.to_string()));
            continue;
        }
        let (status, body) = get(rig.port, host, "/").await.unwrap();
        got.push(if body.is_empty() || status != 200 { status.to_string() } else { body });
    }
    let served = change.answers.iter().position(|answers| answers[..] == got[..]);
    served.unwrap_or_else(|| panic!("{when}: a mixture: {got:?}"))
}

/// Afterwards an operator brings it to the next generation as if nothing had been.
async fn converges(rig: &Rig, change: &Change, served: usize, when: &str) {
    let (mut client, welcome, _served) = connect(rig.options(), hello("one", 9)).await.unwrap();
    // An agent that died before it wrote down what it did may know less than what runs, never something else.
    if let Some(receipt) = welcome.proxy.receipt {
        let runs = [&change.old, &change.new][served];
        assert_eq!(receipt.digest, runs.digest, "{when}: what is said to run does");
    }
    let outcome = change.go_on(&mut client).await;
    let Outcome::Applied(applied) = outcome else { panic!("{when}: {outcome:?}") };
    assert_eq!(applied.receipt.digest, change.new.digest, "{when}");
}

/// What the operator was answered.
fn outcome(rig: &Rig) -> Option<String> {
    std::fs::read_to_string(rig.dir.path().join(lifecycle::OUTCOME)).ok()
}

/// An operator and an agent, each a process, in the middle of a change.
struct Midway {
    agent: Process,
    operator: Process,
}

impl Midway {
    async fn at(step: Step, rig: &Rig, change: &Change) -> Self {
        change.begin(rig).await;
        let at = |name: &str| rig.dir.path().join(name);
        let (bundle, secrets) = (change.new.clone(), change.secrets());
        let apply = Apply { id: 1, bundle, secrets, withdraws: false };
        std::fs::write(at(lifecycle::APPLY), serde_json::to_vec(&apply).unwrap()).unwrap();
        let agent = Process::start("agent_that_stops", rig, &[("RIG_STEP", &format!("{step:?}"))]);
        eventually("the agent listens", async || at(lifecycle::SOCKET).exists()).await;
        let operator = Process::start("operator_that_asks", rig, &[]);
        let midway = Self { agent, operator };
        eventually("the step is reached", async || {
            assert_eq!(outcome(rig), None, "it came to an end before");
            at(lifecycle::REACHED).exists()
        })
        .await;
        midway
    }

    fn goes_on(rig: &Rig) {
        std::fs::write(rig.dir.path().join(lifecycle::GO_ON), "").unwrap();
    }
}

async fn the_agent_dies(rig: &mut Rig, change: Change, step: Step) {
    let mut midway = Midway::at(step, rig, &change).await;
    midway.agent.is_killed();
    let when = format!("the agent died after {step:?}");
    let booted = boots(rig, &change, &when).await;
    assert_eq!(booted == 1, matches!(step, Step::Switched | Step::Activated), "{when}");
    converges(rig, &change, booted, &when).await;
}

async fn the_proxy_dies(rig: &mut Rig, change: Change, step: Step) {
    let mut midway = Midway::at(step, rig, &change).await;
    masters(&rig.config).into_iter().for_each(kill_group);
    Midway::goes_on(rig);
    midway.operator.ends();
    midway.agent.ends();
    let applied = outcome(rig).is_some_and(|said| said.starts_with("Applied"));
    let when = format!("the proxy died after {step:?}");
    let booted = boots(rig, &change, &when).await;
    // What the agent has said is what lies there.
    assert_eq!(booted == 1, applied, "{when}");
    converges(rig, &change, booted, &when).await;
}

async fn the_operator_dies(rig: &mut Rig, change: Change, step: Step) {
    let mut midway = Midway::at(step, rig, &change).await;
    midway.operator.is_killed();
    Midway::goes_on(rig);
    midway.agent.ends();
    let when = format!("the operator died after {step:?}");
    let booted = boots(rig, &change, &when).await;
    assert_eq!(booted, 1, "{when}: the agent finishes what it has begun");
    converges(rig, &change, booted, &when).await;
}

#[derive(Clone, Copy)]
enum Who {
    Agent,
    Proxy,
    Operator,
}

async fn at_every_step(kind: ProxyKind, what: What, who: Who) {
    for step in STEPS {
        let mut rig = Rig::start(kind);
        let change = match what {
            What::Reload => reload(&rig),
            What::Live => live(&rig).await,
            What::Certificates => renewal(&rig),
        };
        match who {
            Who::Agent => the_agent_dies(&mut rig, change, step).await,
            Who::Proxy => the_proxy_dies(&mut rig, change, step).await,
            Who::Operator => the_operator_dies(&mut rig, change, step).await,
        }
    }
}

macro_rules! at_every_step {
    ($($name:ident: $kind:ident, $what:ident, $who:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
        async fn $name() {
            at_every_step(ProxyKind::$kind, What::$what, Who::$who).await;
        }
    )+};
}

at_every_step! {
    a_reload_of_haproxy_survives_the_agents_death_at_every_step: Haproxy, Reload, Agent;
    a_reload_of_haproxy_survives_the_proxys_death_at_every_step: Haproxy, Reload, Proxy;
    a_reload_of_haproxy_survives_the_operators_death_at_every_step: Haproxy, Reload, Operator;
    a_live_change_of_haproxy_survives_the_agents_death_at_every_step: Haproxy, Live, Agent;
    a_live_change_of_haproxy_survives_the_proxys_death_at_every_step: Haproxy, Live, Proxy;
    a_live_change_of_haproxy_survives_the_operators_death_at_every_step: Haproxy, Live, Operator;
    a_renewal_survives_the_agents_death_at_every_step: Haproxy, Certificates, Agent;
    a_renewal_survives_the_proxys_death_at_every_step: Haproxy, Certificates, Proxy;
    a_renewal_survives_the_operators_death_at_every_step: Haproxy, Certificates, Operator;
    a_reload_of_nginx_survives_the_agents_death_at_every_step: Nginx, Reload, Agent;
    a_reload_of_nginx_survives_the_proxys_death_at_every_step: Nginx, Reload, Proxy;
    a_reload_of_nginx_survives_the_operators_death_at_every_step: Nginx, Reload, Operator;
}
