//! Spare backends: hosts that come and go without a reload, and nobody who meets the tenant before.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use interlock_core::bundle::{Bundle, Receipt, SEATS};
use interlock_core::plan::{Abilities, Backend, BackendId, Endpoint, Plan, Route};
use interlock_core::policy::Policy;
use interlock_core::protocol::Applied;
use interlock_core::render::{self, Templates};
use interlock_crds::{Period, ProxyKind, ServiceClusterSpec};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::conformance::hello;
use crate::rig::{PairClient, Rig, connect, connected, eventually, get};

const REST: Duration = Duration::from_secs(1);

/// The plan of these hosts, each with its endpoints.
pub(crate) fn plan(rig: &Rig, spares: u16, hosts: &[(&str, &[SocketAddr])]) -> Plan {
    let mut settings = ServiceClusterSpec::implicit(ProxyKind::Haproxy);
    (settings.listeners.http, settings.listeners.https) = (rig.port, 0);
    settings.haproxy.spares = spares;
    settings.timeouts.response = Period::secs(REST.as_secs());
    let id = |host: &str| BackendId { host: host.parse().unwrap(), path: "/".parse().unwrap() };
    let route = |(host, _): &(&str, &[SocketAddr])| Route {
        host: host.parse().unwrap(),
        path: "/".parse().unwrap(),
        rewrite: false,
        https_only: false,
        certificate: None,
        websocket: Vec::new(),
        backend: id(host),
    };
    let endpoint = |at: &SocketAddr| Endpoint {
        address: (*at).try_into().unwrap(),
        name: at.to_string(),
        draining: false,
    };
    let backend = |(host, endpoints): &(&str, &[SocketAddr])| Backend {
        id: id(host),
        balance: interlock_core::plan::Balance::RoundRobin,
        options: Vec::new(),
        tls: None,
        slow_start: None,
        policy: Policy::default(),
        hold: false,
        endpoints: endpoints.iter().map(endpoint).collect(),
        intents: Vec::new(),
    };
    Plan {
        target: "edge".parse().unwrap(),
        cluster: "web".parse().unwrap(),
        settings,
        routes: hosts.iter().map(|host| route(host).into()).collect(),
        backends: hosts.iter().map(|host| backend(host).into()).collect(),
        certificates: std::collections::BTreeMap::new(),
        stats: None,
    }
}

fn bundle(plan: &Plan, last: Option<&Receipt>) -> Bundle {
    render::bundle(plan, last, Abilities::oldest(ProxyKind::Haproxy), &Templates::embedded()).unwrap()
}

/// Brings the proxy from `last` to a plan, which must not take a reload.
async fn live(client: &mut PairClient, plan: &Plan, last: &Receipt) -> Applied {
    let applied = client.applied(&bundle(plan, Some(last))).await;
    assert_eq!(applied.reload.len(), 0, "{:?}", applied.reload);
    applied
}

/// The address that a spare's first slot was left by, if connections to it may be open.
fn left(receipt: &Receipt) -> Option<SocketAddr> {
    receipt.servers["interlock:spare-1"][0].left.map(interlock_core::model::UpstreamAddr::get)
}

/// An app that keeps its connections and answers with its name: at `/slow` for two seconds, at `/tied` in a way
/// that ties the connection to the client.
async fn app(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, name));
        }
    });
    address
}

async fn serve(stream: TcpStream, name: &'static str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        if head.starts_with("GET /slow ") {
            let length = name.len() * 40;
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())
                .await?;
            for _ in 0..40 {
                stream.write_all(name.as_bytes()).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            continue;
        }
        let status = if head.starts_with("GET /tied ") {
            "401 Unauthorized\r\nWWW-Authenticate: Negotiate"
        } else {
            "200 OK"
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// A client that keeps its connection.
struct Kept(BufReader<TcpStream>);

impl Kept {
    async fn open(rig: &Rig) -> Self {
        Self(BufReader::new(TcpStream::connect(("127.0.0.1", rig.port)).await.unwrap()))
    }

    async fn ask(&mut self, host: &str, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> String {
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).await.unwrap();
            if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap()
    }

    async fn get(&mut self, host: &str, path: &str) -> String {
        self.ask(host, path).await;
        self.answer().await
    }
}

#[tokio::test]
async fn twenty_new_hosts_come_and_go_without_a_reload_and_survive_a_restart_of_the_proxy() {
    let mut rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let mut last = client.applied(&bundle(&plan(&rig, 20, &[]), None)).await.receipt;
    let one = [app("one").await];
    let names: Vec<String> = (0..20).map(|number| format!("h{number}.test")).collect();
    for come in 1..=20 {
        let hosts: Vec<(&str, &[SocketAddr])> =
            names[..come].iter().map(|name| (name.as_str(), &one[..])).collect();
        last = live(&mut client, &plan(&rig, 20, &hosts), &last).await.receipt;
        assert_eq!(get(rig.port, &names[come - 1], "/").await.unwrap(), (200, "one".to_owned()));
    }
    let hosts: Vec<(&str, &[SocketAddr])> =
        names[..10].iter().map(|name| (name.as_str(), &one[..])).collect();
    let fewer = plan(&rig, 20, &hosts);
    let applied = live(&mut client, &fewer, &last).await;
    assert_eq!(get(rig.port, "h19.test", "/").await.unwrap().0, 404);
    assert_eq!(get(rig.port, "h9.test", "/").await.unwrap().0, 200);

    rig.boot();
    assert_eq!(get(rig.port, "h9.test", "/").await.unwrap().0, 200, "the files boot into what ran");
    assert_eq!(get(rig.port, "h19.test", "/").await.unwrap().0, 404);
    drop(client);
    // An operator that has forgotten everything.
    let (mut client, welcome, _served) = connect(rig.options(), hello("one", 2)).await.unwrap();
    let read = welcome.proxy.receipt.unwrap();
    assert_eq!((&read.digest, &read.seats), (&applied.receipt.digest, &applied.receipt.seats));
    let again = client.applied(&bundle(&fewer, Some(&read))).await;
    assert_eq!((again.reload.len(), again.commands, again.healed.len()), (0, 0, 0));
}

#[tokio::test]
async fn a_spare_is_not_taken_again_while_anybody_may_be_sent_to_the_tenant_before() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let (old, new) = ([app("old").await], [app("new").await]);
    let empty = plan(&rig, 1, &[]);
    let base = client.applied(&bundle(&empty, None)).await.receipt;
    let seated = live(&mut client, &plan(&rig, 1, &[("old.test", &old)]), &base).await.receipt;

    let (mut slow, mut tied) = (Kept::open(&rig).await, Kept::open(&rig).await);
    slow.ask("old.test", "/slow").await;
    assert_eq!(tied.get("old.test", "/tied").await, "old");
    let gone = live(&mut client, &empty, &seated).await.receipt;
    let begun = Instant::now();
    assert_eq!(left(&gone), Some(old[0]));
    assert_eq!(slow.answer().await, "old".repeat(40), "the download that was under way is whole");
    assert!(begun.elapsed() > REST);
    let still = live(&mut client, &empty, &gone).await;
    assert_eq!(left(&still.receipt), Some(old[0]), "a connection is tied to a client");

    drop((slow, tied));
    let mut read = still.receipt;
    while left(&read).is_some() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never comes to rest");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let applied = live(&mut client, &empty, &read).await;
        assert_eq!((applied.commands, applied.healed.len()), (0, 0), "tidying up heals nothing");
        read = applied.receipt;
    }
    let taken = plan(&rig, 1, &[("new.test", &new)]);
    let applied = live(&mut client, &taken, &read).await;
    assert_eq!(applied.receipt.seats["new.test/"], "interlock:spare-1");
    assert_eq!(get(rig.port, "new.test", "/").await.unwrap().1, "new");
}

/// Whatever an operator believes, the agent looks.
#[tokio::test]
async fn a_seat_that_is_not_at_rest_costs_a_reload_and_no_byte_goes_to_the_wrong_tenant() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let (old, new) = ([app("old").await], [app("new").await]);
    let base = client.applied(&bundle(&plan(&rig, 1, &[]), None)).await.receipt;
    let seated = live(&mut client, &plan(&rig, 1, &[("old.test", &old)]), &base).await.receipt;
    let mut tied = Kept::open(&rig).await;
    assert_eq!(tied.get("old.test", "/tied").await, "old");
    live(&mut client, &plan(&rig, 1, &[]), &seated).await;

    // As if it had rested long ago.
    let forged = bundle(&plan(&rig, 1, &[("new.test", &new)]), Some(&base));
    assert_eq!(forged.live.maps[SEATS]["new.test/"], "interlock:spare-1");
    let applied = client.applied(&forged).await;
    assert_eq!(applied.reload, ["live"]);
    assert_ne!(tied.get("new.test", "/").await, "old");
    eventually("the new worker serves", async || {
        get(rig.port, "new.test", "/").await.is_some_and(|(_, body)| body == "new")
    })
    .await;
}

/// The same inside one backend: a client whose connection was kept for the last address meets the next one.
#[tokio::test]
async fn a_kept_connection_does_not_lead_to_an_address_that_has_gone() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut client = connected(rig.options()).await;
    let (old, new) = ([app("old").await], [app("new").await]);
    let first = client.applied(&bundle(&plan(&rig, 0, &[("a.test", &old)]), None)).await.receipt;
    let (mut plain, mut tied) = (Kept::open(&rig).await, Kept::open(&rig).await);
    assert_eq!(plain.get("a.test", "/").await, "old");
    assert_eq!(tied.get("a.test", "/tied").await, "old");
    let moved = plan(&rig, 0, &[("a.test", &new)]);
    let second = live(&mut client, &moved, &first).await.receipt;
    assert_eq!(second.servers["a.test"][0].left.map(interlock_core::model::UpstreamAddr::get), Some(old[0]));
    assert_eq!(second.servers["a.test"][1].occupant.map(|who| who.address.get()), Some(new[0]));
    assert_eq!(plain.get("a.test", "/").await, "new");
    assert_eq!(tied.get("a.test", "/").await, "new");
    drop((plain, tied));
    let mut read = second;
    let begun = Instant::now();
    while read.servers["a.test"][0].left.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the slot never counts as free");
        tokio::time::sleep(Duration::from_millis(50)).await;
        read = live(&mut client, &moved, &read).await.receipt;
    }
}
