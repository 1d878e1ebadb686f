//! What every agent must do, whatever stream it is reached over; knows nothing of how it was started.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock::wire::{Receiver, Sender, WireError};
use interlock_core::bundle::{Bundle, Fragment, Live, Occupant, ServerLines, Slot};
use interlock_core::model::{Digest, ProbeKey, Shared};
use interlock_core::protocol::{
    Applied, Apply, Declined, Hello, OldWorkers, Outcome, Probe, ProbeKind, ProbeSet, ToAgent, ToOperator,
    VERSION, Welcome,
};
use interlock_crds::ProxyKind;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

/// Nothing that an agent does takes longer.
const PATIENCE: Duration = Duration::from_secs(40);

/// The proxy under test and a free loopback port for it; nine more above it are used too.
pub(crate) struct Peer {
    pub(crate) kind: ProxyKind,
    pub(crate) port: u16,
}

/// An operator's end.
pub(crate) struct Client<R, W> {
    pub(crate) requests: Sender<W, ToAgent>,
    pub(crate) answers: Receiver<R, ToOperator>,
    /// As last told, and all that was cut.
    pub(crate) old_workers: OldWorkers,
    pub(crate) next: u64,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Client<R, W> {
    pub(crate) async fn hello((reader, writer): (R, W), hello: Hello) -> Result<(Self, Welcome), Declined> {
        let mut client = Self {
            requests: Sender::new(writer),
            answers: Receiver::new(reader),
            old_workers: OldWorkers::default(),
            next: 1,
        };
        client.requests.send(&ToAgent::Hello(hello)).await.unwrap();
        match client.receive().await.unwrap() {
            ToOperator::Welcome(welcome) => Ok((client, welcome)),
            ToOperator::Declined(declined) => Err(declined),
            other => panic!("neither welcome nor declined: {other:?}"),
        }
    }

    pub(crate) async fn receive(&mut self) -> Result<ToOperator, WireError> {
        let said = tokio::time::timeout(PATIENCE, self.answers.receive()).await;
        let said = said.expect("the agent says nothing");
        if let Ok(ToOperator::OldWorkers(old)) = said {
            self.old_workers = OldWorkers { cut: self.old_workers.cut + old.cut, ..old };
        }
        said
    }

    pub(crate) async fn apply(&mut self, bundle: &Bundle) -> Outcome {
        self.ask(bundle, BTreeMap::new(), true).await
    }

    pub(crate) async fn check(&mut self, bundle: &Bundle) -> Outcome {
        self.ask(bundle, BTreeMap::new(), false).await
    }

    pub(crate) async fn applied(&mut self, bundle: &Bundle) -> Applied {
        match self.apply(bundle).await {
            Outcome::Applied(applied) => applied,
            other => panic!("not applied: {other:?}"),
        }
    }

    pub(crate) async fn ask(
        &mut self,
        bundle: &Bundle,
        secrets: BTreeMap<Digest, interlock_core::protocol::SecretText>,
        activate: bool,
    ) -> Outcome {
        let apply = Box::new(Apply { id: self.next, bundle: bundle.clone(), secrets, withdraws: false });
        self.request(if activate { ToAgent::Apply(apply) } else { ToAgent::Check(apply) }).await
    }

    /// Sends a request with the next id.
    pub(crate) async fn request(&mut self, request: ToAgent) -> Outcome {
        let id = self.next;
        self.next += 1;
        self.requests.send(&request).await.unwrap();
        loop {
            if let ToOperator::Outcome { id: its, outcome } = self.receive().await.unwrap() {
                assert_eq!(its, id);
                return outcome;
            }
        }
    }
}

pub(crate) fn hello(operator: &str, epoch: u64) -> Hello {
    Hello { protocol: VERSION, operator: operator.to_owned(), epoch, observes: false }
}

pub(crate) fn intent(name: &str) -> Digest {
    Digest::of([name.as_bytes()])
}

fn fragment(file: &str, name: &str, text: String) -> Fragment {
    Fragment { file: file.to_owned(), name: name.to_owned(), text, ..Fragment::default() }
}

/// A bundle of hosts, each with the intent of its own name, and what stands in its fragment.
pub(crate) struct Sketch {
    pub(crate) kind: ProxyKind,
    pub(crate) port: u16,
    pub(crate) global: String,
    pub(crate) hosts: Vec<Host>,
    pub(crate) secrets: Vec<interlock_core::bundle::SecretRef>,
}

pub(crate) struct Host {
    pub(crate) name: String,
    /// A line of its own in its fragment.
    pub(crate) line: String,
    pub(crate) servers: Vec<Option<Occupant>>,
    /// nginx: whether the line answers, not a fixed 200, which would come before every location.
    pub(crate) answers: bool,
}

impl Host {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), line: String::new(), servers: Vec::new(), answers: false }
    }
}

impl Sketch {
    pub(crate) fn of(kind: ProxyKind, port: u16, hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|name| Host::new(name)).collect();
        Self { kind, port, global: String::new(), hosts, secrets: Vec::new() }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        match self.kind {
            ProxyKind::Haproxy => self.haproxy(),
            ProxyKind::Nginx => self.nginx(),
        }
    }

    fn make(&self, fragments: Vec<Fragment>, live: Live) -> Bundle {
        let (target, cluster) = ("proxy".parse().unwrap(), "test".parse().unwrap());
        Bundle::new(target, cluster, self.kind, fragments, live, self.secrets.clone())
    }

    fn haproxy(&self) -> Bundle {
        let (port, file) = (self.port, "haproxy.cfg");
        let mut live = Live::default();
        let global = format!(
            "global\n    stats socket %{{interlock.run}}/haproxy.sock mode 600 level admin\n    \
             description interlock %{{interlock.digest}}\n{}defaults\n    mode http\n    timeout connect 1s\n    \
             timeout client 5s\n    timeout server 5s\n",
            self.global
        );
        let frontend = format!(
            "frontend main\n    bind 127.0.0.1:{port}\n    \
             use_backend %[req.hdr(host),lower,map(%{{interlock.dir}}/hosts.map,none)]\n"
        );
        let none = "backend none\n    http-request return status 404\n".to_owned();
        let mut fragments = vec![
            fragment(file, "global", global),
            fragment(file, "main", frontend),
            fragment(file, "none", none),
        ];
        let mut map = BTreeMap::new();
        for host in &self.hosts {
            let backend = format!("b_{}", host.name);
            map.insert(host.name.clone(), backend.clone());
            let answer = if host.servers.is_empty() { "    http-request return status 200\n" } else { "" };
            let mut own = fragment(
                file,
                &format!("backend {}", host.name),
                format!("backend {backend}\n{answer}{}", host.line),
            );
            own.intents = vec![intent(&host.name)];
            if !host.servers.is_empty() {
                own.servers = Some(ServerLines { backend: backend.clone(), ..ServerLines::default() });
                let slot = |(at, occupant): (usize, &Option<Occupant>)| Slot {
                    name: format!("s{at}").parse().unwrap(),
                    occupant: *occupant,
                    left: None,
                };
                live.servers.insert(backend, host.servers.iter().enumerate().map(slot).collect());
            }
            fragments.push(own);
        }
        live.maps.insert("hosts.map".to_owned(), map.into());
        self.make(fragments, live)
    }

    fn nginx(&self) -> Bundle {
        let (port, file) = (self.port, "nginx.conf");
        let base = format!(
            "{}error_log stderr crit;\nevents {{}}\nhttp {{\n  access_log off;\n  \
             server {{ listen {port}; server_name interlock.invalid; location = /digest {{ return 200 \
             \"%{{interlock.digest}}\\n\"; }} }}\n  server {{ listen {port} default_server; return 404; }}\n",
            self.global
        );
        let mut fragments = vec![fragment(file, "base", base)];
        for host in &self.hosts {
            let answer = if host.answers { "" } else { "    return 200;\n" };
            let text =
                format!("  server {{ listen {port}; server_name {};\n{}{answer}  }}\n", host.name, host.line);
            let mut own = fragment(file, &format!("host {}", host.name), text);
            own.intents = vec![intent(&host.name)];
            fragments.push(own);
        }
        fragments.push(fragment(file, "end", "}\n".to_owned()));
        self.make(fragments, Live::default()).with_confirm_port(port.try_into().unwrap())
    }
}

/// Runs the whole suite against an agent whose proxy has no bundle yet; `connect` opens another stream to it.
pub(crate) async fn suite<R, W>(peer: &Peer, connect: impl AsyncFn() -> (R, W))
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (kind, port) = (peer.kind, peer.port);
    garbage_ends_only_its_own_connection(&connect).await;
    versions_too_far_apart_are_declined(&connect).await;

    let (mut client, welcome) = Client::hello(connect().await, hello("one", 5)).await.unwrap();
    assert_eq!(welcome.protocol, VERSION);
    assert_eq!(welcome.proxy.abilities.proxy, kind);
    assert!(welcome.proxy.running, "the proxy was started before");
    assert_eq!(welcome.proxy.receipt, None, "it runs nothing of ours yet");

    let first = Sketch::of(kind, port, &["a.test"]).bundle();
    let applied = client.applied(&first).await;
    assert_eq!(applied.reload, ["first"]);
    assert_eq!(
        (&applied.receipt.digest, &applied.receipt.static_digest),
        (&first.digest, &first.static_digest)
    );
    let again = client.applied(&first).await;
    assert_eq!((again.reload.len(), again.commands, again.healed.len()), (0, 0, 0), "equal means untouched");

    let second = Sketch::of(kind, port, &["a.test", "b.test"]).bundle();
    assert_eq!(client.check(&second).await, Outcome::Passed);
    let applied = client.applied(&second).await;
    let prefix = if kind == ProxyKind::Haproxy { "backend" } else { "host" };
    assert_eq!(applied.reload, [format!("{prefix} b.test")], "the reason is the fragment that differs");

    somebody_who_observes_stands_in_nobodys_way(&mut client, &connect, [&first, &second]).await;
    refusals_blame_and_touch_nothing(&mut client, peer, &second).await;
    outside_input_is_judged(&mut client, &second).await;
    a_probe_passes(&mut client, peer).await;
    client.requests.send(&ToAgent::Ping).await.unwrap();
    while !matches!(client.receive().await.unwrap(), ToOperator::Pong) {}

    let foreign = Client::hello(connect().await, hello("two", 99)).await.err();
    assert_eq!(foreign, Some(Declined::ForeignOwner { operator: "one".to_owned() }));
    let older = Client::hello(connect().await, hello("one", 4)).await.err();
    assert_eq!(older, Some(Declined::Superseded { epoch: 5 }));
    let (mut newer, welcome) = Client::hello(connect().await, hello("one", 6)).await.unwrap();
    let receipt = welcome.proxy.receipt.expect("read back by the newcomer");
    assert_eq!(receipt.digest, second.digest, "refusals and strangers have changed nothing");
    assert!(
        !matches!(client.receive().await, Ok(ToOperator::Pong | ToOperator::Outcome { .. })),
        "the old one is out"
    );
    let again = newer.applied(&second).await;
    assert_eq!((again.reload.len(), again.commands), (0, 0), "a takeover costs no reload");
}

async fn somebody_who_observes_stands_in_nobodys_way<R, W>(
    client: &mut Client<R, W>,
    connect: &impl AsyncFn() -> (R, W),
    [other, runs]: [&Bundle; 2],
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let observer = Hello { observes: true, ..hello("another", 0) };
    let (mut observer, welcome) = Client::hello(connect().await, observer).await.unwrap();
    assert_eq!(welcome.proxy.receipt.unwrap().digest, runs.digest);
    let outcome = observer.apply(other).await;
    assert!(matches!(outcome, Outcome::Failed { .. }), "nothing is done for it: {outcome:?}");
    let again = client.applied(runs).await;
    assert_eq!((again.reload.len(), again.commands, again.healed.len()), (0, 0, 0), "nothing was");

    observer.requests.send(&ToAgent::Ping).await.unwrap();
    assert!(matches!(observer.receive().await.unwrap(), ToOperator::Pong), "there is no news");
    client.applied(other).await;
    observer.requests.send(&ToAgent::Ping).await.unwrap();
    let ToOperator::ProxyChanged(facts) = observer.receive().await.unwrap() else { panic!("no news") };
    assert_eq!(facts.receipt.unwrap().digest, other.digest);
    client.applied(runs).await;
}

async fn garbage_ends_only_its_own_connection<R, W>(connect: &impl AsyncFn() -> (R, W))
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let oversized = u32::MAX.to_be_bytes().to_vec();
    let not_json = [&5_u32.to_be_bytes()[..], b"hello"].concat();
    let not_hello = [&15_u32.to_be_bytes()[..], br#"{"type":"ping"}"#].concat();
    for garbage in [oversized, not_json, not_hello, b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let (reader, mut writer) = connect().await;
        // It may close before all is written.
        let _ = writer.write_all(&garbage).await;
        let _ = writer.shutdown().await;
        let mut answers: Receiver<R, ToOperator> = Receiver::new(reader);
        let said =
            tokio::time::timeout(PATIENCE, answers.receive()).await.expect("the connection stays open");
        assert!(said.is_err(), "garbage was answered: {said:?}");
    }
}

async fn versions_too_far_apart_are_declined<R, W>(connect: &impl AsyncFn() -> (R, W))
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let far = Hello { protocol: VERSION + 2, ..hello("one", 1) };
    let declined = Client::hello(connect().await, far).await.err();
    assert_eq!(declined, Some(Declined::Protocol { agent: VERSION }));
}

async fn refusals_blame_and_touch_nothing<R, W>(client: &mut Client<R, W>, peer: &Peer, good: &Bundle)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut sketch = Sketch::of(peer.kind, peer.port, &["a.test", "b.test", "c.test"]);
    sketch.hosts[1].line.push_str("    nonsense here;\n");
    let bad = sketch.bundle();
    for outcome in [client.check(&bad).await, client.apply(&bad).await] {
        let Outcome::Refused(refusal) = outcome else { panic!("not refused: {outcome:?}") };
        assert_eq!(refusal.culprits, [intent("b.test")], "{}", refusal.output);
        assert!(refusal.output.contains("nonsense"), "{}", refusal.output);
        assert!(refusal.output.len() <= 4096);
    }
    let again = client.applied(good).await;
    assert_eq!((again.reload.len(), again.commands, again.healed.len()), (0, 0, 0), "nothing was touched");
}

async fn outside_input_is_judged<R, W>(client: &mut Client<R, W>, good: &Bundle)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let rebuilt = |change: &dyn Fn(&mut Vec<Shared<Fragment>>, &mut Live)| {
        let (mut fragments, mut live) = (good.fragments.clone(), good.live.clone());
        change(&mut fragments, &mut live);
        Bundle::new(good.target.clone(), good.cluster.clone(), good.proxy, fragments, live, Vec::new())
    };
    let mut forged = good.clone();
    forged.fragments[0].change().text.push_str("# forged\n");
    let mut bad = vec![("a forged digest", forged)];
    for name in ["../x", "/etc/x", "", ".hidden", "bundle.json"] {
        bad.push((
            name,
            rebuilt(&|fragments, _| fragments.push(fragment(name, "x", "x\n".to_owned()).into())),
        ));
    }
    bad.push((
        "a map out of its folder",
        rebuilt(&|_, live| {
            live.maps.insert("../x.map".to_owned(), Shared::default());
        }),
    ));
    bad.push((
        "a map entry of two lines",
        rebuilt(&|_, live| {
            live.maps
                .insert("x.map".to_owned(), [("a".to_owned(), "b\nc d".to_owned())].into_iter().collect());
        }),
    ));
    bad.push(("no main file", rebuilt(&|fragments, _| fragments.clear())));
    for (what, bundle) in bad {
        let outcome = client.apply(&bundle).await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{what}: {outcome:?}");
    }
}

async fn a_probe_passes<R, W>(client: &mut Client<R, W>, peer: &Peer)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let key = ProbeKey(intent("probe"));
    let probe = Probe {
        address: format!("127.0.0.1:{}", peer.port)
            .parse::<std::net::SocketAddr>()
            .unwrap()
            .try_into()
            .unwrap(),
        kind: ProbeKind::Tcp,
        timeout_ms: 1000,
        interval_ms: None,
        unhealthy_after: 1,
    };
    let set = ProbeSet { concurrency: 4, probes: BTreeMap::from([(key.clone(), probe)]) };
    client.requests.send(&ToAgent::Probe(set)).await.unwrap();
    loop {
        if let ToOperator::Probed { results } = client.receive().await.unwrap() {
            assert!(results[&key].passing, "{results:?}");
            return;
        }
    }
}
