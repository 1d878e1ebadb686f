//! Certificates that come, are renewed and go while HAProxy serves, without a reload.

use std::collections::BTreeMap;

use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::model::Digest;
use interlock_core::plan::{Abilities, Plan, PlanCertificate};
use interlock_core::protocol::{Applied, Outcome, SecretText};
use interlock_core::render::{self, Templates};
use interlock_crds::ProxyKind;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::conformance::intent;
use crate::rig::{PairClient, Rig, app, connected, reloads};
use crate::seats;

/// A certificate with its key, and where it is used.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) host: &'static str,
    pub(crate) default: bool,
    digest: Digest,
    pem: String,
    der: CertificateDer<'static>,
}

impl Issued {
    pub(crate) fn to(host: &'static str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        let der = made.cert.der().clone();
        Self::with(host, format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem()), der)
    }

    fn with(host: &'static str, pem: String, der: CertificateDer<'static>) -> Self {
        Self { host, default: false, digest: Digest::of([pem.as_bytes()]), pem, der }
    }

    fn default_for(host: &'static str) -> Self {
        Self { default: true, ..Self::to(host) }
    }
}

/// What HAProxy serves over TLS on the port behind the rig's own: these hosts by these certificates.
pub(crate) fn plan(rig: &Rig, hosts: &[(&str, &[std::net::SocketAddr])], certificates: &[&Issued]) -> Plan {
    let mut plan = seats::plan(rig, 4, hosts);
    plan.settings.listeners.https = rig.port + 1;
    // A kept connection may idle between two looks on a busy machine.
    plan.settings.timeouts.response = interlock_crds::Period::secs(60);
    for issued in certificates {
        let certificate = PlanCertificate {
            digest: issued.digest.clone(),
            hosts: if issued.default { Vec::new() } else { vec![issued.host.parse().unwrap()] },
            default: issued.default,
        };
        let name: interlock_core::model::CertificateName = format!("{}.pem", issued.host).parse().unwrap();
        for route in plan.routes.iter_mut().filter(|route| route.host.to_string() == issued.host) {
            route.change().certificate = Some(name.clone());
        }
        for backend in plan.backends.iter_mut().filter(|backend| backend.id.host.to_string() == issued.host) {
            backend.change().intents = vec![intent(issued.host)];
        }
        plan.certificates.insert(name, certificate);
    }
    plan
}

pub(crate) fn bundle(plan: &Plan, last: Option<&Receipt>) -> Bundle {
    render::bundle(plan, last, Abilities::oldest(ProxyKind::Haproxy), &Templates::embedded()).unwrap()
}

pub(crate) fn secrets(issued: &[&Issued]) -> BTreeMap<Digest, SecretText> {
    issued.iter().map(|it| (it.digest.clone(), SecretText(it.pem.clone()))).collect()
}

async fn applied(client: &mut PairClient, bundle: &Bundle, certificates: &[&Issued]) -> Applied {
    match client.ask(bundle, secrets(certificates), true).await {
        Outcome::Applied(applied) => applied,
        other => panic!("not applied: {other:?}"),
    }
}

/// As [`applied`], and it must not take a reload.
async fn live(client: &mut PairClient, plan: &Plan, last: &Receipt, certificates: &[&Issued]) -> Applied {
    let bundle = bundle(plan, Some(last));
    let applied = applied(client, &bundle, certificates).await;
    assert_eq!(applied.reload.len(), 0, "{:?}", applied.reload);
    assert_eq!(applied.receipt.digest, bundle.digest, "read back");
    applied
}

/// A TLS connection to a host, by any of these certificates.
async fn open(rig: &Rig, host: &'static str, known: &[&Issued]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(known.iter().map(|it| it.der.clone()));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", rig.port + 1)).await?;
    let name = ServerName::try_from(host).unwrap();
    TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await
}

/// Which of these certificates a new connection is presented; none: it is refused.
pub(crate) async fn presented(rig: &Rig, host: &'static str, known: &[&Issued]) -> Option<usize> {
    let stream = open(rig, host, known).await.ok()?;
    let shown = stream.get_ref().1.peer_certificates()?.first()?.clone();
    known.iter().position(|it| it.der == shown)
}

async fn ask(stream: &mut TlsStream<TcpStream>, host: &str) -> String {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The head, and the three letters that follow it.
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") || !answer.ends_with(b"one") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "cut: {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

/// Says something to HAProxy behind the agent's back.
async fn by_hand(rig: &Rig, line: &str) -> String {
    let mut stream = UnixStream::connect(rig.options().run.join("haproxy.sock")).await.unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn certificates_come_are_renewed_and_go_under_kept_connections() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let (address, _app) = app("200 OK", "one").await;
    let (a, b) = (("a.test", &[address][..]), ("b.test", &[address][..]));
    let [old, new, second] = [Issued::to("a.test"), Issued::to("a.test"), Issued::to("b.test")];
    let all = [&old, &new, &second];
    let mut client = connected(rig.options()).await;
    let first = applied(&mut client, &bundle(&plan(&rig, &[a], &[&old]), None), &[&old]).await;
    let before = reloads(&rig.config);
    assert_eq!(presented(&rig, "a.test", &all).await, Some(0));
    let mut kept = open(&rig, "a.test", &all).await.unwrap();
    assert!(ask(&mut kept, "a.test").await.starts_with("HTTP/1.1 200"));

    let renewed = live(&mut client, &plan(&rig, &[a], &[&new]), &first.receipt, &[&new]).await;
    assert_eq!(presented(&rig, "a.test", &all).await, Some(1), "renewed");
    assert_eq!(renewed.receipt.certificates.len(), 1, "the receipt says which: {:?}", renewed.receipt);
    assert!(ask(&mut kept, "a.test").await.starts_with("HTTP/1.1 200"), "the connection is kept");

    let both = plan(&rig, &[a, b], &[&new, &second]);
    assert_eq!(presented(&rig, "b.test", &all).await, None, "nobody has that name yet");
    let more = live(&mut client, &both, &renewed.receipt, &[&new, &second]).await;
    assert_eq!(presented(&rig, "b.test", &all).await, Some(2), "a new one");
    let less = live(&mut client, &plan(&rig, &[a], &[&new]), &more.receipt, &[&new]).await;
    assert_eq!(presented(&rig, "b.test", &all).await, None, "and gone again");
    let list = by_hand(&rig, "show ssl cert").await;
    assert_eq!(
        list.lines().filter(|line| line.contains("/secrets/")).count(),
        1,
        "nothing stays behind: {list}"
    );
    assert_eq!(reloads(&rig.config), before);

    // The files boot into what runs.
    let mut rig = rig;
    rig.boot();
    assert_eq!(presented(&rig, "a.test", &all).await, Some(1));
    assert_eq!(less.receipt.certificates, renewed.receipt.certificates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_default_certificate_is_renewed_in_its_place() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let [old, new, third] = ["d.test"; 3].map(Issued::default_for);
    let all = [&old, &new, &third];
    let hosts = [("d.test", &[][..])];
    let mut client = connected(rig.options()).await;
    let first = applied(&mut client, &bundle(&plan(&rig, &hosts, &[&old]), None), &[&old]).await;
    let before = reloads(&rig.config);
    assert_eq!(presented(&rig, "d.test", &all).await, Some(0));
    let second = live(&mut client, &plan(&rig, &hosts, &[&new]), &first.receipt, &[&new]).await;
    assert_eq!(presented(&rig, "d.test", &all).await, Some(1));
    live(&mut client, &plan(&rig, &hosts, &[&third]), &second.receipt, &[&third]).await;
    assert_eq!(presented(&rig, "d.test", &all).await, Some(2));
    assert_eq!(reloads(&rig.config), before);
}

/// Somebody replaces a certificate, takes another's name away and leaves a third half replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_was_done_to_certificates_by_hand_is_undone() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let [a, b, other] = [Issued::to("a.test"), Issued::to("b.test"), Issued::to("b.test")];
    let all = [&a, &b, &other];
    let hosts = [("a.test", &[][..]), ("b.test", &[][..])];
    let wanted = bundle(&plan(&rig, &hosts, &[&a, &b]), None);
    let mut client = connected(rig.options()).await;
    applied(&mut client, &wanted, &[&a, &b]).await;
    let before = reloads(&rig.config);
    let path = |it: &Issued| format!("{}/{}.pem", rig.options().secrets.display(), it.digest);
    let lists = by_hand(&rig, "show ssl crt-list").await;
    let list = lists.lines().find(|line| line.contains("certificates.list")).unwrap().to_owned();
    let blocks: String =
        other.pem.lines().filter(|line| !line.is_empty()).flat_map(|it| [it, "\n"]).collect();
    by_hand(&rig, &format!("set ssl cert {} <<\n{blocks}", path(&b))).await;
    by_hand(&rig, &format!("commit ssl cert {}", path(&b))).await;
    assert_eq!(presented(&rig, "b.test", &all).await, Some(2), "as it was meant");
    by_hand(&rig, &format!("del ssl crt-list {list} {}", path(&a))).await;
    by_hand(&rig, &format!("set ssl cert {} <<\n{blocks}", path(&a))).await;

    let healed = applied(&mut client, &wanted, &[&a, &b]).await;
    assert_eq!(healed.healed, BTreeMap::from([("Certificate".to_owned(), 2)]));
    assert_eq!((healed.reload.len(), reloads(&rig.config)), (0, before));
    assert_eq!(presented(&rig, "a.test", &all).await, Some(0));
    assert_eq!(presented(&rig, "b.test", &all).await, Some(1));
}

/// HAProxy's own checker judges a certificate before it goes live: the route to blame is named, nothing is touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_certificate_that_haproxy_refuses_is_blamed_and_touches_nothing() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let [good, b] = [Issued::to("a.test"), Issued::to("b.test")];
    // Another one's key.
    let (head, _) = b.pem.split_once("-----BEGIN PRIVATE KEY").unwrap();
    let (_, key) = good.pem.split_once("-----BEGIN PRIVATE KEY").unwrap();
    let bad = Issued::with("b.test", format!("{head}-----BEGIN PRIVATE KEY{key}"), b.der.clone());
    let hosts = [("a.test", &[][..]), ("b.test", &[][..])];
    let mut client = connected(rig.options()).await;
    let first = bundle(&plan(&rig, &hosts, &[&good]), None);
    let first = applied(&mut client, &first, &[&good]).await;
    let wanted = bundle(&plan(&rig, &hosts, &[&good, &bad]), Some(&first.receipt));
    let outcome = client.ask(&wanted, secrets(&[&good, &bad]), true).await;
    let Outcome::Refused(refusal) = outcome else { panic!("not refused: {outcome:?}") };
    assert_eq!(refusal.culprits, [intent("b.test")], "{}", refusal.output);
    assert!(!refusal.output.contains("PRIVATE"), "{}", refusal.output);
    assert_eq!(presented(&rig, "a.test", &[&good, &b]).await, Some(0));
    let list = by_hand(&rig, "show ssl cert").await;
    assert!(!list.contains(bad.digest.as_str()), "{list}");
}

/// A chain that does not fit HAProxy's buffer: a reload brings it.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_chain_that_is_too_long_for_a_command_takes_a_reload() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let (old, new) = (Issued::to("a.test"), Issued::to("a.test"));
    let (chain, key) = new.pem.split_once("-----BEGIN PRIVATE KEY").unwrap();
    let long = format!("{}-----BEGIN PRIVATE KEY{key}", chain.repeat(40));
    let new = Issued::with("a.test", long, new.der.clone());
    let hosts = [("a.test", &[][..])];
    let mut client = connected(rig.options()).await;
    let first = applied(&mut client, &bundle(&plan(&rig, &hosts, &[&old]), None), &[&old]).await;
    let wanted = bundle(&plan(&rig, &hosts, &[&new]), Some(&first.receipt));
    let applied = applied(&mut client, &wanted, &[&new]).await;
    assert_eq!(applied.reload, ["live"]);
    assert_eq!(presented(&rig, "a.test", &[&old, &new]).await, Some(1));
}
