//! An engine's double: it speaks the Docker API over a unix socket about containers that exist only as facts.
//!
//! Each of its containers has a loopback address of its own, on which a small real application may listen, so
//! that a thousand routes carry real traffic without a thousand containers. What it is asked is counted.

mod api;
mod app;
mod bystander;
mod hosted;
mod mix;
mod scene;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::bare::free_port;
use crate::{Result, ensure, eventually};
pub use app::App;
pub use bystander::Bystander;
pub use hosted::{Hosted, PAUSE, answered_by, binary, who};
pub use mix::drawn;
pub use scene::{Alive, Left, Scene, host};
pub use wish::Wish;

/// The network that they are all on.
const NETWORK: &str = "net";

/// One container, as facts.
#[derive(Debug, Clone)]
struct Facts {
    name: String,
    at: SocketAddrV4,
    labels: BTreeMap<String, String>,
    env: Vec<String>,
    running: bool,
    created: SystemTime,
    started: SystemTime,
}

/// Everything that the double knows and was asked.
#[derive(Default)]
struct Known {
    containers: BTreeMap<String, Facts>,
    /// What happened so far, for who asks for the past: seconds, and the event's line.
    past: Vec<(u64, Value)>,
    listeners: Vec<Listener>,
    requests: BTreeMap<String, u64>,
    inspected: BTreeMap<String, u64>,
    number: u32,
}

/// Somebody who follows the events of some actions.
struct Listener {
    actions: BTreeSet<String>,
    lines: mpsc::UnboundedSender<Bytes>,
}

type Shared = Arc<Mutex<Known>>;

fn lock(known: &Shared) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine that has containers, events and an API, and no processes.
pub struct Double {
    known: Shared,
    dir: TempDir,
    /// The port that every one of its containers exposes: no two doubles share an address.
    port: u16,
    server: JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// One container of a double.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Where its application is reached.
    pub at: SocketAddr,
}

impl Double {
    /// An engine without containers, on a socket in a folder of its own.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("interlock-double-").tempdir()?;
        let known = Shared::default();
        let listener = UnixListener::bind(dir.path().join("docker.sock"))?;
        let server = tokio::spawn(api::serve(listener, Arc::clone(&known)));
        Ok(Self { known, dir, port: free_port()?, server })
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// The port that all of its containers expose.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A container that was created with what it asks for beside nothing of its image's; nobody is told.
    pub fn create(&self, name: &str, wish: &Wish) -> Member {
        let mut known = lock(&self.known);
        known.number += 1;
        let number = known.number;
        let id = format!("{number:064x}");
        // 127.64.0.0/10: no two containers share an address, and none has that of the machine's own listeners.
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) + number);
        let at = SocketAddrV4::new(ip, self.port);
        let facts = Facts {
            name: name.to_owned(),
            at,
            labels: wish.labels.clone(),
            env: wish.env.clone(),
            running: false,
            created: UNIX_EPOCH + Duration::from_secs(1_700_000_000 + u64::from(number)),
            started: UNIX_EPOCH,
        };
        known.containers.insert(id.clone(), facts);
        Member { id, at: at.into() }
    }

    /// It runs from now on, and everybody who listens is told; when they were.
    pub fn run(&self, member: &Member) -> Instant {
        self.set_running(member);
        self.tell(&member.id, "start", &[])
    }

    /// It runs already: what a list shows without any event.
    pub fn set_running(&self, member: &Member) {
        if let Some(facts) = lock(&self.known).containers.get_mut(&member.id) {
            (facts.running, facts.started) = (true, SystemTime::now());
        }
    }

    /// The engine sends it its stop signal; when everybody was told.
    pub fn stop_signal(&self, member: &Member) -> Instant {
        self.tell(&member.id, "kill", &[("signal", "15")])
    }

    /// Its process ends and it is removed.
    pub fn remove(&self, member: &Member) -> Instant {
        if let Some(facts) = lock(&self.known).containers.get_mut(&member.id) {
            facts.running = false;
        }
        self.tell(&member.id, "die", &[("exitCode", "0")]);
        let told = self.tell(&member.id, "destroy", &[]);
        lock(&self.known).containers.remove(&member.id);
        told
    }

    fn tell(&self, id: &str, action: &str, more: &[(&str, &str)]) -> Instant {
        let mut known = lock(&self.known);
        let Some(facts) = known.containers.get(id) else { return Instant::now() };
        let mut attributes = facts.labels.clone();
        attributes.insert("name".to_owned(), facts.name.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = json!({
            "status": action, "id": id, "Type": "container", "Action": action, "scope": "local",
            "Actor": { "ID": id, "Attributes": attributes },
            "time": since.as_secs(), "timeNano": u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        });
        let line = Bytes::from(format!("{event}\n"));
        known.past.push((since.as_secs(), event));
        known.listeners.retain(|listener| {
            !listener.actions.contains(action) || listener.lines.send(line.clone()).is_ok()
        });
        Instant::now()
    }

    /// How often each call was made, by its name in `interlock_docker_requests_total`.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        lock(&self.known).requests.clone()
    }

    /// How often each container was inspected, by id.
    pub fn inspections(&self) -> BTreeMap<String, u64> {
        lock(&self.known).inspected.clone()
    }

    /// How many follow its events; who has gone is counted until the next one.
    pub fn followers(&self) -> usize {
        lock(&self.known).listeners.len()
    }

    /// Waits until somebody follows the events.
    pub async fn followed(&self) -> Result {
        eventually(Duration::from_secs(20), "somebody follows the double", async || {
            ensure!(self.followers() > 0, "nobody does");
            Ok(())
        })
        .await
    }
}
