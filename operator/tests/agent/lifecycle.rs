//! Processes that really die: agents, operators and proxies, by signal.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock::agent::{Agent, Fault, Options, run_embedded, run_listener, serve, supervised_argv};
use interlock_core::bundle::{Occupant, closed};
use interlock_core::protocol::Apply;
use interlock_crds::ProxyKind;
use rustix::process::Signal;
use tokio::net::{UnixListener, UnixStream};

use crate::conformance::{Client, Sketch, hello};
use crate::put_off::withdraws;
use crate::rig::{Rig, eventually, get, kill, masters, the_master};

/// This test binary again, as one agent or operator: tests below start it, nobody else does.
pub(crate) struct Process(Child);

/// What agent and operator of a change tell each other and the test by, in its folder: where the agent listens, what
/// the operator asks for, that the step is reached, that the agent shall go on, what came of it.
pub(crate) const SOCKET: &str = "step.sock";
pub(crate) const APPLY: &str = "apply.json";
pub(crate) const REACHED: &str = "reached";
pub(crate) const GO_ON: &str = "go-on";
pub(crate) const OUTCOME: &str = "outcome";

impl Process {
    fn command(role: &str, rig: &Rig) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", &format!("lifecycle::{role}")])
            .env("RIG_DIR", rig.dir.path())
            .env("RIG_PORT", rig.port.to_string())
            .env("RIG_KIND", rig.kind.as_str())
            .process_group(0)
            .stdout(std::process::Stdio::null());
        command
    }

    pub(crate) fn start(role: &str, rig: &Rig, environment: &[(&str, &str)]) -> Self {
        Self(Self::command(role, rig).envs(environment.iter().copied()).spawn().unwrap())
    }

    /// Kills it, and sees it dead.
    pub(crate) fn is_killed(&mut self) {
        self.signal(Signal::KILL);
        let status = self.0.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ends(&mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    fn signal(&self, signal: Signal) {
        kill(self.0.id(), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The rig that the environment describes; its folder is the parent's.
fn rig_of_environment() -> Rig {
    let kind =
        if std::env::var("RIG_KIND").unwrap() == "nginx" { ProxyKind::Nginx } else { ProxyKind::Haproxy };
    let port = std::env::var("RIG_PORT").unwrap().parse().unwrap();
    Rig::borrowed(kind, port, &PathBuf::from(std::env::var("RIG_DIR").unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that other tests start"]
async fn listener() {
    let rig = rig_of_environment();
    let argv = supervised_argv(rig.kind, &rig.config);
    run_listener(rig.options(), &rig.dir.path().join("agent.sock"), argv).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that other tests start"]
async fn embedded() {
    let rig = rig_of_environment();
    let argv = supervised_argv(rig.kind, &rig.config);
    // The next operator does not wait for what this one has put off.
    let options = rig.putting_off(Duration::from_hours(1));
    Box::pin(run_embedded(options, argv, || Process::command("operator", &rig))).await.unwrap();
}

/// Says hello on its standard input, applies two hosts, withdraws a server, tells its process id, and waits.
#[tokio::test]
#[ignore = "a process that other tests start"]
async fn operator() {
    use std::os::fd::AsFd as _;
    let rig = rig_of_environment();
    let stream = std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    stream.set_nonblocking(true).unwrap();
    let epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let hello = hello("one", u64::try_from(epoch).unwrap());
    let stream = UnixStream::from_std(stream).unwrap().into_split();
    let (mut client, _) = Client::hello(stream, hello).await.unwrap();
    let mut sketch = Sketch::of(rig.kind, rig.port, &["a.test", "b.test"]);
    let mut with = |draining| {
        sketch.hosts[1].servers = vec![closed().map(|address| Occupant { address, draining })];
        sketch.bundle()
    };
    let applied = client.applied(&with(false)).await;
    withdraws(&mut client, &with(true)).await;
    let told = format!("{} {}", std::process::id(), applied.reload.len());
    std::fs::write(rig.dir.path().join("operator"), told).unwrap();
    while client.receive().await.is_ok() {}
}

/// Serves one operator, and stops at a step of the apply until it may go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that other tests start"]
async fn agent_that_stops() {
    let rig = rig_of_environment();
    let at = |name: &str| rig.dir.path().join(name);
    let (step, reached, go_on) = (std::env::var("RIG_STEP").unwrap(), at(REACHED), at(GO_ON));
    let fault = Fault::at(move |now| {
        if format!("{now:?}") != step {
            return;
        }
        std::fs::write(&reached, "").unwrap();
        // Whoever started it may have died.
        let deadline = Instant::now() + Duration::from_mins(1);
        while !go_on.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let agent = Arc::new(Agent::new(Options { fault, ..rig.options() }));
    let listener = UnixListener::bind(at("unnamed.sock")).unwrap();
    // Its name is there before anybody may connect.
    std::fs::rename(at("unnamed.sock"), at(SOCKET)).unwrap();
    let (reader, writer) = listener.accept().await.unwrap().0.into_split();
    let _ = serve(reader, writer, &agent).await;
}

/// Asks the agent above for what lies in a file.
#[tokio::test]
#[ignore = "a process that other tests start"]
async fn operator_that_asks() {
    let rig = rig_of_environment();
    let at = |name: &str| rig.dir.path().join(name);
    let apply: Apply = serde_json::from_slice(&std::fs::read(at(APPLY)).unwrap()).unwrap();
    let stream = UnixStream::connect(at(SOCKET)).await.unwrap().into_split();
    let (mut client, _) = Client::hello(stream, hello("one", 2)).await.unwrap();
    let outcome = client.ask(&apply.bundle, apply.secrets, true).await;
    std::fs::write(at(OUTCOME), format!("{outcome:?}")).unwrap();
}

fn told(dir: &Path) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string(dir.join("operator")).ok()?;
    let (pid, reloads) = text.split_once(' ')?;
    Some((pid.parse().ok()?, reloads.parse().ok()?))
}

async fn serves(rig: &Rig, status: u16) {
    eventually(&format!("a.test answers {status}"), async || {
        get(rig.port, "a.test", "/").await.is_some_and(|(got, _)| got == status)
    })
    .await;
}

async fn a_listener_survives_everything(kind: ProxyKind) {
    let rig = Rig::empty(kind);
    let socket = rig.dir.path().join("agent.sock");
    let mut agent = Process::start("listener", &rig, &[]);
    serves(&rig, 503).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let bundle = Sketch::of(kind, rig.port, &["a.test"]).bundle();
    let stream = UnixStream::connect(&socket).await.unwrap().into_split();
    let (mut client, _) = Client::hello(stream, hello("one", 1)).await.unwrap();
    client.applied(&bundle).await;
    serves(&rig, 200).await;

    // The proxy's master is killed: started again on the last good files, with nobody asking.
    drop(client);
    let master = the_master(&rig.config).await;
    kill(master, Signal::KILL);
    eventually("another master runs", async || {
        masters(&rig.config).first().is_some_and(|now| *now != master)
    })
    .await;
    serves(&rig, 200).await;

    // The agent is killed: the proxy goes on, and the next agent keeps it.
    let master = the_master(&rig.config).await;
    agent.signal(Signal::KILL);
    agent.0.wait().unwrap();
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200);
    let mut agent = Process::start("listener", &rig, &[]);
    let receipt = async || {
        let stream = UnixStream::connect(&socket).await.ok()?.into_split();
        Client::hello(stream, hello("one", 2)).await.ok()?.1.proxy.receipt
    };
    eventually("the next agent reads back what runs", async || {
        receipt().await.is_some_and(|receipt| receipt.digest == bundle.digest)
    })
    .await;
    assert_eq!(the_master(&rig.config).await, master, "the same master");

    agent.signal(Signal::TERM);
    assert!(agent.0.wait().unwrap().success());
    assert!(!socket.exists());
    assert!(get(rig.port, "a.test", "/").await.is_none(), "the proxy has ended with it");
    assert_eq!(masters(&rig.config), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_behind_a_listener_survives_everything() {
    a_listener_survives_everything(ProxyKind::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_behind_a_listener_survives_everything() {
    a_listener_survives_everything(ProxyKind::Nginx).await;
}

async fn an_embedded_operator_is_restartable(kind: ProxyKind) {
    let rig = Rig::empty(kind);
    let mut outer = Process::start("embedded", &rig, &[]);
    eventually("the operator has applied", async || told(rig.dir.path()).is_some()).await;
    serves(&rig, 200).await;
    let (first, reloads) = told(rig.dir.path()).unwrap();
    assert_eq!(reloads, 1);
    let master = the_master(&rig.config).await;
    kill(first, Signal::KILL);
    assert_eq!(get(rig.port, "a.test", "/").await.unwrap().0, 200);
    eventually("another operator has applied", async || {
        told(rig.dir.path()).is_some_and(|(pid, _)| pid != first)
    })
    .await;
    assert_eq!(told(rig.dir.path()).unwrap().1, 0, "a restarted operator costs no reload");
    assert_eq!(the_master(&rig.config).await, master);
    outer.signal(Signal::TERM);
    assert!(outer.0.wait().unwrap().success());
    assert!(get(rig.port, "a.test", "/").await.is_none());
    let (second, _) = told(rig.dir.path()).unwrap();
    assert!(!Path::new(&format!("/proc/{second}")).exists(), "the operator has ended first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_with_an_embedded_operator() {
    an_embedded_operator_is_restartable(ProxyKind::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_with_an_embedded_operator() {
    an_embedded_operator_is_restartable(ProxyKind::Nginx).await;
}

/// An agent that hangs in the middle of a message is killed by the one that takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predecessor_that_hangs_is_killed() {
    let rig = Rig::start(ProxyKind::Haproxy);
    let mut hung = Process::start("hanging", &rig, &[]);
    eventually("it holds the lock", async || rig.dir.path().join("state/owner.json").exists()).await;
    hung.signal(Signal::STOP);
    let timing =
        interlock::agent::Timing { takeover: std::time::Duration::from_millis(300), ..rig.options().timing };
    let options = interlock::agent::Options { timing, ..rig.options() };
    let (_client, _, _served) = crate::rig::connect(options, hello("one", 9)).await.unwrap();
    let status = hung.0.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that other tests start"]
async fn hanging() {
    let rig = rig_of_environment();
    let (mut client, _, _served) = crate::rig::connect(rig.options(), hello("one", 1)).await.unwrap();
    while client.receive().await.is_ok() {}
}
