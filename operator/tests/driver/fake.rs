//! Fakes for the driver's tests: an engine that is a value, and agents that keep what they were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use interlock::deliver::{DeliverError, Dial, Dialing, Identity, Looking, OnDisk};
use interlock::docker::Calls;
use interlock::reconcile::{Act, Acting, Driver, Parts, Publisher, Sources};
use interlock::serve::{Events, Looks, Metrics, Readiness, Rest, Served, Shared, Snapshot};
use interlock::source::EngineSnapshot;
use interlock::store::{Objects, Store};
use interlock::wire;
use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::compile::{Boot, Config, NetworkAction, Transport};
use interlock_core::declared::Declared;
use interlock_core::finding::{Finding, Reason};
use interlock_core::model::{
    Attachment, Container, ContainerId, ContainerState, Departed, Digest, EngineId, Freshness, Health,
    ProbeResult, Shared as Owned, TargetId, Timestamp,
};
use interlock_core::protocol::{
    Applied, Apply, Declined, Limits, OldWorkers, Outcome, ProxyFacts, Refusal, ToAgent, ToOperator, VERSION,
    Welcome,
};
use interlock_core::render::Templates;
use interlock_crds::{ProxyKind, ServiceClusterSpec};
use tokio::sync::{mpsc, watch};

/// Names the culprits of a bundle that is refused.
pub(crate) type Judge = fn(&Bundle) -> Option<Vec<Digest>>;

/// What a fake proxy has been through.
#[derive(Default)]
pub(crate) struct ProxyState {
    pub(crate) running: Option<Bundle>,
    pub(crate) applies: Vec<Digest>,
    pub(crate) checks: u32,
    pub(crate) reloads: u32,
    pub(crate) reload_times: Vec<tokio::time::Instant>,
    pub(crate) live: u32,
    pub(crate) connections: u32,
    /// Refuses bundles for which this says so; the culprits as the checker would name them.
    pub(crate) refuses: Option<Judge>,
    pub(crate) fails_activation: bool,
    pub(crate) down: bool,
    pub(crate) declines: Option<Declined>,
    /// Addresses whose probes pass.
    pub(crate) listening: BTreeSet<SocketAddr>,
    /// What its agent says of its place.
    pub(crate) limits: Option<Limits>,
    /// Workers of older configurations.
    pub(crate) old_workers: OldWorkers,
    /// How long an apply takes.
    pub(crate) slow: Duration,
    kick: Option<mpsc::UnboundedSender<()>>,
}

/// A proxy with an agent, without either.
#[derive(Clone, Default)]
pub(crate) struct FakeProxy(Arc<Mutex<ProxyState>>);

impl FakeProxy {
    pub(crate) fn state(&self) -> MutexGuard<'_, ProxyState> {
        self.0.lock().unwrap()
    }

    /// Makes an address pass its probes from now on.
    pub(crate) fn listen(&self, address: &str) {
        let mut state = self.state();
        state.listening.insert(address.parse().unwrap());
        if let Some(kick) = &state.kick {
            let _ = kick.send(());
        }
    }

    /// Has this many workers of older configurations from now on.
    pub(crate) fn old_workers(&self, count: u16) {
        let mut state = self.state();
        state.old_workers = OldWorkers { count, ends_in_ms: Some(90_000), cut: 0 };
        if let Some(kick) = &state.kick {
            let _ = kick.send(());
        }
    }

    fn answer(
        &self,
        message: ToAgent,
        probes: &mut interlock_core::protocol::ProbeSet,
    ) -> Option<ToOperator> {
        let message = match message {
            ToAgent::Patch { id, patch, withdraws } => {
                let running = self.state().running.clone();
                match running.and_then(|running| patch.over(&running).ok()) {
                    Some(bundle) => {
                        ToAgent::Apply(Box::new(Apply { id, bundle, secrets: BTreeMap::new(), withdraws }))
                    }
                    None => return Some(ToOperator::Lacks { id }),
                }
            }
            message => message,
        };
        let mut state = self.state();
        match message {
            ToAgent::Patch { .. } => None,
            ToAgent::Hello(_) | ToAgent::Ping => Some(ToOperator::Pong),
            ToAgent::Probe(set) => {
                *probes = set;
                None
            }
            ToAgent::Probes(change) => {
                probes.probes.retain(|key, _| !change.gone.contains(key));
                probes.probes.extend(change.set);
                None
            }
            ToAgent::Check(check) => {
                state.checks += 1;
                let outcome = match state.refuses.and_then(|refuses| refuses(&check.bundle)) {
                    Some(culprits) => refused(culprits),
                    None => Outcome::Passed,
                };
                Some(ToOperator::Outcome { id: check.id, outcome })
            }
            ToAgent::Apply(apply) => {
                state.applies.push(apply.bundle.digest.clone());
                let outcome = if let Some(culprits) = state.refuses.and_then(|refuses| refuses(&apply.bundle))
                {
                    refused(culprits)
                } else if state.fails_activation {
                    Outcome::ActivationFailed { reason: "port 80 is taken".to_owned() }
                } else {
                    applied(&mut state, &apply.bundle)
                };
                Some(ToOperator::Outcome { id: apply.id, outcome })
            }
        }
    }
}

fn refused(culprits: Vec<Digest>) -> Outcome {
    Outcome::Refused(Refusal { output: "[ALERT] no".to_owned(), culprits })
}

fn receipt(bundle: &Bundle) -> Receipt {
    Receipt::of(bundle, bundle.live.clone())
}

fn applied(state: &mut ProxyState, bundle: &Bundle) -> Outcome {
    let before = state.running.replace(bundle.clone());
    let same_static = before.as_ref().is_some_and(|before| before.static_digest == bundle.static_digest);
    let same = before.as_ref().is_some_and(|before| before.digest == bundle.digest);
    let mut reload = Vec::new();
    if !same_static {
        state.reloads += 1;
        state.reload_times.push(tokio::time::Instant::now());
        reload.push("main".to_owned());
    } else if !same {
        state.live += 1;
    }
    Outcome::Applied(Applied {
        receipt: receipt(bundle),
        reload,
        commands: u32::from(same_static && !same),
        healed: BTreeMap::new(),
        check_ms: 0,
        activate_ms: 0,
    })
}

/// Reaches fake proxies.
#[derive(Clone, Default)]
pub(crate) struct FakeDial(Arc<Mutex<BTreeMap<TargetId, FakeProxy>>>);

impl FakeDial {
    pub(crate) fn add(&self, target: &str, proxy: &FakeProxy) {
        self.0.lock().unwrap().insert(target.parse().unwrap(), proxy.clone());
    }
}

impl Dial for FakeDial {
    fn dial<'a>(&'a self, target: &'a TargetId, _: &'a Transport, proxy: Option<ProxyKind>) -> Dialing<'a> {
        let found = self.0.lock().unwrap().get(target).cloned();
        Box::pin(async move {
            let unreachable = || DeliverError::Dial { target: target.clone(), source: "nobody there".into() };
            let fake = found.ok_or_else(unreachable)?;
            if fake.state().down {
                return Err(unreachable());
            }
            fake.state().connections += 1;
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(agent(fake, theirs, proxy.unwrap_or(ProxyKind::Haproxy)));
            let (reader, writer) = tokio::io::split(ours);
            Ok((Box::new(reader) as _, Box::new(writer) as _))
        })
    }

    fn look<'a>(&'a self, target: &'a TargetId, _: &'a Transport, proxy: ProxyKind) -> Looking<'a> {
        let bundle = self.0.lock().unwrap().get(target).and_then(|fake| fake.state().running.clone());
        let abilities = interlock_core::plan::Abilities::oldest(proxy);
        Box::pin(async move { Ok(OnDisk { bundle, edited: Vec::new(), abilities }) })
    }
}

async fn agent(fake: FakeProxy, stream: tokio::io::DuplexStream, proxy: ProxyKind) {
    let (reader, writer) = tokio::io::split(stream);
    let mut from: wire::Receiver<_, ToAgent> = wire::Receiver::new(reader);
    let mut to: wire::Sender<_, ToOperator> = wire::Sender::new(writer);
    let Ok(ToAgent::Hello(_)) = from.receive().await else { return };
    let declined = fake.state().declines.clone();
    if let Some(declined) = declined {
        let _ = to.send(&ToOperator::Declined(declined)).await;
        return;
    }
    let (kick, mut kicked) = mpsc::unbounded_channel();
    fake.state().kick = Some(kick);
    let abilities = interlock_core::plan::Abilities::oldest(proxy);
    let receipt = fake.state().running.as_ref().map(receipt);
    let welcome = Welcome {
        protocol: VERSION,
        version: "fake".to_owned(),
        proxy: ProxyFacts { abilities, running: true, limits: fake.state().limits, receipt },
        hostname: String::new(),
        addresses: BTreeSet::new(),
    };
    if to.send(&ToOperator::Welcome(welcome)).await.is_err() {
        return;
    }
    let mut probes = interlock_core::protocol::ProbeSet::default();
    let mut told = OldWorkers::default();
    loop {
        if fake.state().down {
            return;
        }
        tokio::select! {
            message = from.receive() => {
                let Ok(message) = message else { return };
                let slow = fake.state().slow;
                if matches!(message, ToAgent::Apply(_)) && !slow.is_zero() {
                    tokio::time::sleep(slow).await;
                }
                let answer = fake.answer(message, &mut probes);
                if let Some(answer) = answer && to.send(&answer).await.is_err() { return; }
            }
            _ = kicked.recv() => {}
        }
        let old = fake.state().old_workers;
        if old != std::mem::replace(&mut told, old) && to.send(&ToOperator::OldWorkers(old)).await.is_err() {
            return;
        }
        let results: BTreeMap<_, _> = {
            let state = fake.state();
            let passing =
                probes.probes.iter().filter(|(_, probe)| state.listening.contains(&probe.address.get()));
            passing
                .map(|(key, _)| {
                    (
                        key.clone(),
                        ProbeResult { passing: true, passed_once: true, error: None, took_ms: None },
                    )
                })
                .collect()
        };
        if !results.is_empty() && to.send(&ToOperator::Probed { results }).await.is_err() {
            return;
        }
    }
}

/// Notes what the driver wanted done.
#[derive(Clone, Default)]
pub(crate) struct FakeAct(pub(crate) Arc<Mutex<Vec<String>>>);

impl Act for FakeAct {
    fn network<'a>(&'a self, action: &'a NetworkAction) -> Acting<'a> {
        self.0.lock().unwrap().push(format!("{action:?}"));
        Box::pin(async { Ok(()) })
    }

    fn boot<'a>(&'a self, container: &'a ContainerId, _: &'a Boot, _: &'a ServiceClusterSpec) -> Acting<'a> {
        self.0.lock().unwrap().push(format!("boot {container}"));
        Box::pin(async { Ok(()) })
    }
}

/// A driver with fakes around it.
pub(crate) struct World {
    pub(crate) engine: watch::Sender<EngineSnapshot>,
    pub(crate) dial: FakeDial,
    pub(crate) act: FakeAct,
    pub(crate) proxy: FakeProxy,
    pub(crate) kind: ProxyKind,
    pub(crate) served: Served,
    /// What documents ask for.
    pub(crate) declaring: watch::Sender<Owned<Declared>>,
    /// The number of the last write of an object.
    pub(crate) writing: watch::Sender<u64>,
    pub(crate) state: tempfile::TempDir,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

/// A container with the usual defaults; ids are made from the name.
pub(crate) fn container(name: &str, labels: &[(&str, &str)], ip: &str) -> Container {
    let id = name.bytes().fold(String::new(), |id, byte| format!("{id}{byte:02x}"));
    Container {
        id: format!("{id:0<64}").parse().unwrap(),
        name: name.to_owned(),
        image: format!("{name}:1"),
        created: Timestamp(1_000),
        started: Timestamp(1_000),
        state: ContainerState::Running,
        health: Health::None,
        hostname: id,
        domainname: String::new(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        image_labels: BTreeMap::new(),
        data: None,
        image_data: None,
        host_network: false,
        network_of: None,
        networks: BTreeMap::from([(
            "web".to_owned(),
            Attachment { ipv4: Some(ip.parse().unwrap()), ..Attachment::default() },
        )]),
        published: Vec::new(),
        exposed: BTreeSet::from([80.try_into().unwrap()]),
        stop_signal: String::new(),
        exit_code: None,
        stopped_by_request: false,
        mounts: BTreeSet::new(),
        read_only: false,
    }
}

/// An app that asks for `host`.
/// What the driver's clock says, which is as far ahead as tokio's.
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let turned = tokio::time::Instant::now().into_std().saturating_duration_since(std::time::Instant::now());
    Timestamp(u64::try_from((since + turned).as_millis()).unwrap())
}

pub(crate) fn app(name: &str, host: &str, ip: &str) -> Container {
    container(name, &[("interlock.host", host)], ip)
}

impl World {
    /// A haproxy container `edge` and a running driver.
    pub(crate) fn start() -> Self {
        Self::start_with(ProxyKind::Haproxy)
    }

    /// The same with another kind of proxy.
    pub(crate) fn start_with(kind: ProxyKind) -> Self {
        let state = tempfile::tempdir().unwrap();
        Self { kind, ..Self::start_in(state, &FakeProxy::default(), EngineSnapshot::default()) }
    }

    pub(crate) fn start_in(state: tempfile::TempDir, proxy: &FakeProxy, first: EngineSnapshot) -> Self {
        Self::start_as(state, proxy, first, false)
    }

    /// A driver that observes only.
    pub(crate) fn observe_in(state: tempfile::TempDir, proxy: &FakeProxy, first: EngineSnapshot) -> Self {
        Self::start_as(state, proxy, first, true)
    }

    fn start_as(
        state: tempfile::TempDir,
        proxy: &FakeProxy,
        first: EngineSnapshot,
        observe_only: bool,
    ) -> Self {
        let (engine, receiver) = watch::channel(first);
        let (_, certificates) = watch::channel(BTreeMap::new());
        let (_, credentials) = watch::channel(BTreeMap::new());
        let (_, sockets) = watch::channel(BTreeSet::new());
        let (writing, written) = watch::channel(0);
        let (declaring, declared) = watch::channel(Owned::default());
        let config = Config {
            clusters: BTreeMap::from([
                ("haproxy".parse().unwrap(), ServiceClusterSpec::implicit(ProxyKind::Haproxy)),
                ("nginx".parse().unwrap(), ServiceClusterSpec::implicit(ProxyKind::Nginx)),
            ]),
            implicit: ["haproxy".parse().unwrap(), "nginx".parse().unwrap()].into(),
            ..Config::default()
        };
        let objects = Objects::look(state.path(), Vec::new()).unwrap();
        let served = Served {
            metrics: Metrics::new().unwrap(),
            readiness: Readiness::default(),
            shared: Shared::default(),
            looks: Looks::default(),
            rest: Rest { objects, events: Events::default(), config: config.clone().into() },
        };
        let (stop, stopping) = watch::channel(false);
        let (dial, act) = (FakeDial::default(), FakeAct::default());
        dial.add("edge", proxy);
        let parts = Parts {
            config,
            sources: Sources {
                engines: BTreeMap::from([("local".parse::<EngineId>().unwrap(), receiver)]),
                certificates,
                credentials,
                declared,
                written,
                sockets,
            },
            dial: Arc::new(dial.clone()),
            act: Arc::new(act.clone()),
            secrets: Arc::new(|_| None),
            store: Store::open(state.path()).unwrap(),
            identity: Identity {
                operator: "test".to_owned(),
                epoch: 1,
                observes: observe_only,
                ceiling_ms: 500,
            },
            resync: Duration::from_secs(30),
            observe_only,
            own_container: None,
            templates: Templates::embedded(),
            publisher: Publisher::new(&served, "local".parse().unwrap(), Calls::default()),
        };
        let task = tokio::spawn(Driver::new(parts).run(stopping));
        Self {
            engine,
            dial,
            act,
            proxy: proxy.clone(),
            kind: ProxyKind::Haproxy,
            served,
            declaring,
            writing,
            state,
            stop,
            task,
        }
    }

    /// Makes the engine fresh with the proxy and these containers.
    pub(crate) fn containers(&self, apps: impl IntoIterator<Item = Container>) {
        let edge = container("edge", &[("interlock.ext.name", self.kind.as_str())], "10.0.0.2");
        self.engine.send_modify(|snapshot| {
            snapshot.view.freshness = Freshness::Fresh;
            snapshot.view.containers = apps
                .into_iter()
                .chain([edge])
                .map(|container| (container.id.clone(), container.into()))
                .collect();
        });
    }

    /// Ends a container's run as the engine's source would tell it; `by_request`: somebody told it to stop.
    pub(crate) fn ends(&self, name: &str, by_request: bool) {
        self.engine.send_modify(|snapshot| {
            let view = &mut snapshot.view;
            let Some(container) = view.containers.values_mut().find(|c| c.name == name) else { return };
            container.change().stopped_by_request = by_request;
            view.departed.insert(container.id.clone(), Departed { at: wall(), container: container.clone() });
            container.change().state = ContainerState::Exited;
        });
    }

    /// Waits for a condition of the fake proxy; time is paused, so a deadline costs nothing.
    pub(crate) async fn proxy_has(&self, what: &str, condition: impl Fn(&ProxyState) -> bool) {
        for _ in 0..20_000 {
            if condition(&self.proxy.state()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}");
    }

    /// Waits for a condition of what the API would answer.
    pub(crate) async fn published(&self, what: &str, condition: impl Fn(&Snapshot) -> bool) {
        for _ in 0..20_000 {
            if self.served.shared.latest().is_some_and(|snapshot| condition(&snapshot)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}");
    }

    /// Every finding that holds now.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let Some(snapshot) = self.served.shared.latest() else { return Vec::new() };
        let compiled = interlock_core::compile::compile(&snapshot.observed, &snapshot.config);
        compiled.findings.into_iter().chain(snapshot.findings.clone()).collect()
    }

    /// Waits until a finding has this reason.
    pub(crate) async fn finds(&self, reason: Reason) {
        for _ in 0..20_000 {
            if self.findings().iter().any(|finding| finding.reason == reason) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never found {reason}");
    }

    /// Ends the driver as SIGTERM does; gives back what survives.
    pub(crate) async fn stop(self) -> (tempfile::TempDir, FakeProxy) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        (self.state, self.proxy)
    }
}
