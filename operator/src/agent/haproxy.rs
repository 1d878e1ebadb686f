//! HAProxy's runtime socket: what the running worker has, and the fewest commands from there to what it shall have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interlock_core::bundle::{Bundle, Live, Occupant, ServerLines, Slot};
use interlock_core::model::{Digest, UpstreamAddr};
use interlock_crds::ProxyKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::process;

/// One line of commands must fit HAProxy's buffer (`tune.bufsize`, 16 KiB), with some room left.
const LINE: usize = 12 * 1024;
/// The most that is read of one answer.
const ANSWER: u64 = 64 * 1024 * 1024;
/// A worker on the same machine that takes longer counts as not answering.
const PATIENCE: Duration = Duration::from_secs(5);

/// Rounds of commands and read-back before the runtime socket is given up for a reload.
const TRIES: u32 = 4;

/// The runtime socket of a worker.
#[derive(Debug, Clone)]
pub(super) struct Socket(PathBuf);

/// Who answers on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Worker {
    /// Its process id.
    pub(super) pid: u32,
    /// The static digest in its description; none: its configuration is not ours.
    pub(super) digest: Option<Digest>,
}

/// One server as `show servers state` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Server {
    address: Option<SocketAddr>,
    admin: u32,
    weight: u32,
}

/// In maintenance by command or by configuration.
const FORCED_MAINTENANCE: u32 = 0x01;
/// Draining by command.
const FORCED_DRAIN: u32 = 0x08;

/// What the running worker has, as far as it concerns a bundle.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    servers: BTreeMap<String, BTreeMap<String, Server>>,
    maps: BTreeMap<String, Map>,
}

/// One map of the worker; its id counts in the order of its configuration.
#[derive(Debug, Clone, Default)]
struct Map {
    id: String,
    entries: Vec<(String, String)>,
}

/// Commands, and what they are for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    /// In the order to send them.
    pub(super) lines: Vec<String>,
    /// Servers that are touched.
    pub(super) servers: u32,
    /// Map entries that are touched.
    pub(super) entries: u32,
}

/// Why the runtime socket could not do it; a reload can.
#[derive(Debug, thiserror::Error)]
pub(super) enum LiveError {
    /// Nobody answers.
    #[error("the runtime socket does not answer: {0}")]
    Socket(#[from] io::Error),
    /// Another worker answers than the one that was spoken to before.
    #[error("another worker has taken over")]
    OtherWorker,
    /// It lacks a server that its digest promises.
    #[error("the running worker lacks {0}")]
    Lacks(String),
    /// What was changed is not so when it is read back.
    #[error("the running worker does not keep what it is told")]
    NotHeld,
}

impl Commands {
    fn add(&mut self, more: Self) {
        self.lines.extend(more.lines);
        self.servers += more.servers;
        self.entries += more.entries;
    }
}

impl Socket {
    /// The socket that a configuration declares, if it lies in the run folder.
    pub(super) fn of(config: &str, run: &Path) -> Option<Self> {
        config.lines().find_map(|line| {
            let path = line.trim().strip_prefix("stats socket ")?.split_whitespace().next()?;
            let path = PathBuf::from(path.strip_prefix("unix@").unwrap_or(path));
            (path.parent() == Some(run)).then_some(Self(path))
        })
    }

    async fn ask(&self, line: &str) -> io::Result<String> {
        let talk = async {
            let mut stream = UnixStream::connect(&self.0).await?;
            stream.write_all(line.as_bytes()).await?;
            stream.write_all(b"\n").await?;
            let mut answer = Vec::new();
            stream.take(ANSWER).read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Asks something of one worker: each line begins with `show info`, whose answer says who answered.
    async fn ask_worker(&self, pid: u32, line: &str) -> Result<String, LiveError> {
        let answer = self.ask(&format!("show info;{line}")).await?;
        let (info, rest) = split_info(&answer);
        match parse_info(info) {
            Some(worker) if worker.pid == pid => Ok(rest.to_owned()),
            Some(_) => Err(LiveError::OtherWorker),
            None => Err(LiveError::Socket(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Who answers; none: nobody does.
    pub(super) async fn worker(&self) -> Option<Worker> {
        parse_info(&self.ask("show info").await.ok()?)
    }

    /// Reads all servers, and the maps with these names.
    pub(super) async fn state(
        &self,
        worker: &Worker,
        maps: Option<&BTreeSet<&str>>,
    ) -> Result<State, LiveError> {
        let servers = parse_servers(&self.ask_worker(worker.pid, "show servers state").await?);
        let listed = parse_map_list(&self.ask_worker(worker.pid, "show map").await?);
        let mut state = State { servers, maps: BTreeMap::new() };
        for (name, id) in listed {
            if maps.is_none_or(|wanted| wanted.contains(name.as_str())) {
                let entries = parse_map(&self.ask_worker(worker.pid, &format!("show map #{id}")).await?);
                state.maps.insert(name, Map { id, entries });
            }
        }
        Ok(state)
    }

    /// Drives a worker to a bundle's live part and reads it back; counts what had to be done.
    pub(super) async fn drive(&self, bundle: &Bundle, done: &mut Commands) -> Result<State, LiveError> {
        let maps: BTreeSet<&str> = bundle.live.maps.keys().map(String::as_str).collect();
        for _ in 0..TRIES {
            let worker = self.worker().await.ok_or(LiveError::Socket(io::ErrorKind::NotConnected.into()))?;
            if worker.digest.as_ref() != Some(&bundle.static_digest) {
                return Err(LiveError::OtherWorker);
            }
            let step = async {
                let state = self.state(&worker, Some(&maps)).await?;
                let commands = state.commands(bundle)?;
                self.send(&worker, &commands).await?;
                Ok((state, commands))
            };
            match step.await {
                Ok((state, commands)) if commands.lines.is_empty() => return Ok(state),
                Ok((_, commands)) => done.add(commands),
                // An old worker may still take one connection just after a reload.
                Err(LiveError::OtherWorker) => {}
                Err(err) => return Err(err),
            }
        }
        Err(LiveError::NotHeld)
    }

    /// Sends commands in as few lines as fit; the answers are not looked at: what counts is read back.
    pub(super) async fn send(&self, worker: &Worker, commands: &Commands) -> Result<(), LiveError> {
        let mut line = String::new();
        for command in &commands.lines {
            if !line.is_empty() && line.len() + command.len() > LINE {
                self.ask_worker(worker.pid, &line).await?;
                line.clear();
            }
            if !line.is_empty() {
                line.push(';');
            }
            line.push_str(command);
        }
        if !line.is_empty() {
            self.ask_worker(worker.pid, &line).await?;
        }
        Ok(())
    }
}

/// `show info` ends with the first empty line.
fn split_info(answer: &str) -> (&str, &str) {
    answer.trim_start_matches('\n').split_once("\n\n").unwrap_or((answer, ""))
}

fn parse_info(text: &str) -> Option<Worker> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let description = field("description:").or_else(|| field("Description:"));
    Some(Worker {
        pid: field("Pid:")?.parse().ok()?,
        digest: description.and_then(|text| text.strip_prefix("interlock ")?.trim().parse().ok()),
    })
}

/// Columns by name, because versions add some; the format's version stands on the first line.
fn parse_servers(text: &str) -> BTreeMap<String, BTreeMap<String, Server>> {
    let mut servers: BTreeMap<String, BTreeMap<String, Server>> = BTreeMap::new();
    let mut columns: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(names) = line.strip_prefix("# ") {
            columns = names.split(' ').collect();
            continue;
        }
        let fields: Vec<&str> = line.split(' ').collect();
        let field = |name: &str| {
            let at = columns.iter().position(|column| *column == name)?;
            fields.get(at).copied()
        };
        let (Some(backend), Some(name)) = (field("be_name"), field("srv_name")) else { continue };
        let number = |name: &str| field(name).and_then(|text| text.parse().ok());
        let ip: Option<IpAddr> = field("srv_addr").and_then(|text| text.parse().ok());
        let port: Option<u16> = field("srv_port").and_then(|text| text.parse().ok());
        let server = Server {
            address: ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port)),
            admin: number("srv_admin_state").unwrap_or(0),
            weight: number("srv_uweight").unwrap_or(0),
        };
        servers.entry(backend.to_owned()).or_default().insert(name.to_owned(), server);
    }
    servers
}

/// `ID (PATH) pattern loaded from file …`: base name to id; a worker's maps keep the paths of the generation
/// that it was loaded from.
fn parse_map_list(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (id, rest) = line.split_once(" (")?;
            let (path, _) = rest.split_once(')')?;
            let name = Path::new(path).file_name()?.to_str()?;
            id.bytes().all(|b| b.is_ascii_digit()).then(|| (name.to_owned(), id.to_owned()))
        })
        .collect()
}

/// `POINTER KEY VALUE` lines.
fn parse_map(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (_, entry) = line.split_once(' ')?;
            let (key, value) = entry.split_once(' ').unwrap_or((entry, ""));
            Some((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The weight of a server that takes requests: what its parameters say, or HAProxy's 1.
fn weight_of(lines: Option<&ServerLines>) -> u32 {
    let mut words = lines.map_or("", |lines| lines.parameters.as_str()).split_whitespace();
    words
        .find(|word| *word == "weight")
        .and_then(|_| words.next())
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

impl Server {
    fn in_maintenance(&self) -> bool {
        self.admin & FORCED_MAINTENANCE != 0
    }

    fn drains(&self) -> bool {
        self.admin & FORCED_DRAIN != 0 || self.weight == 0
    }

    fn occupant(&self) -> Option<Occupant> {
        let address = self.address.and_then(|address| UpstreamAddr::try_from(address).ok())?;
        (!self.in_maintenance()).then_some(Occupant { address, draining: self.drains() })
    }
}

impl State {
    /// Who sits where: of a bundle's slots in their order, or of all servers where no bundle is known.
    pub(super) fn servers(&self, bundle: Option<&Bundle>) -> BTreeMap<String, Vec<Slot>> {
        let slots = |backend: &str, slots: &[Slot]| {
            let has = self.servers.get(backend);
            let occupant = |slot: &Slot| has.and_then(|servers| servers.get(slot.name.as_str()))?.occupant();
            slots.iter().map(|slot| Slot { name: slot.name.clone(), occupant: occupant(slot) }).collect()
        };
        match bundle {
            Some(bundle) => {
                bundle.live.servers.iter().map(|(name, list)| (name.clone(), slots(name, list))).collect()
            }
            None => self.servers.iter().map(|(name, servers)| (name.clone(), named(servers))).collect(),
        }
    }

    /// The live part as the worker has it; a map that no line of its configuration looks up is not loaded
    /// and counts as what it shall be.
    pub(super) fn live(&self, bundle: Option<&Bundle>) -> Live {
        let unused = bundle.into_iter().flat_map(|bundle| bundle.live.maps.clone());
        let mut maps: BTreeMap<_, _> = unused.collect();
        maps.extend(
            self.maps.iter().map(|(name, map)| (name.clone(), map.entries.iter().cloned().collect())),
        );
        Live { servers: self.servers(bundle), maps }
    }

    /// The fewest commands from here to a bundle's live part: who comes, then where requests go, then who leaves.
    pub(super) fn commands(&self, bundle: &Bundle) -> Result<Commands, LiveError> {
        let mut commands = Commands::default();
        let (mut coming, mut leaving) = (Vec::new(), Vec::new());
        for (backend, slots) in &bundle.live.servers {
            let lines = bundle.fragments.iter().filter_map(|fragment| fragment.servers.as_ref());
            let weight = weight_of(lines.into_iter().find(|lines| lines.backend == *backend));
            for slot in slots {
                let path = format!("{backend}/{}", slot.name);
                let has = self.servers.get(backend).and_then(|servers| servers.get(slot.name.as_str()));
                let has = has.ok_or_else(|| LiveError::Lacks(format!("server {path}")))?;
                let lines = server_commands(&path, has, slot.occupant, weight);
                commands.servers += u32::from(!lines.is_empty());
                let leaves = slot.occupant.is_none_or(|occupant| occupant.draining);
                if leaves { leaving.extend(lines) } else { coming.extend(lines) }
            }
        }
        commands.lines.append(&mut coming);
        for (name, wanted) in &bundle.live.maps {
            // A map that no line looks up is not loaded; nothing can differ then.
            if let Some(map) = self.maps.get(name) {
                commands.lines.extend(map_commands(map, wanted, &mut commands.entries));
            }
        }
        commands.lines.append(&mut leaving);
        Ok(commands)
    }
}

fn named(servers: &BTreeMap<String, Server>) -> Vec<Slot> {
    let slot = |(name, server): (&String, &Server)| {
        Some(Slot { name: name.parse().ok()?, occupant: server.occupant() })
    };
    servers.iter().filter_map(slot).collect()
}

/// A server that takes requests gets a new address as it is: maintenance in between would answer 503 where it
/// is the only one, and would drop the requests that are held for it.
fn server_commands(path: &str, has: &Server, wanted: Option<Occupant>, weight: u32) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(Occupant { address, draining }) = wanted else {
        if !has.in_maintenance() {
            lines.push(format!("set server {path} state maint"));
        }
        return lines;
    };
    let address = address.get();
    if has.address != Some(address) {
        lines.push(format!("set server {path} addr {} port {}", address.ip(), address.port()));
    }
    if draining {
        if has.in_maintenance() || !has.drains() {
            lines.push(format!("set server {path} state drain"));
        }
        return lines;
    }
    // Not `100%`: a server that was booted draining has an initial weight of 0, and 100 % of it is 0.
    if has.weight != weight {
        lines.push(format!("set server {path} weight {weight}"));
    }
    if has.admin & (FORCED_MAINTENANCE | FORCED_DRAIN) != 0 {
        lines.push(format!("set server {path} state ready"));
    }
    lines
}

fn map_commands(map: &Map, wanted: &BTreeMap<String, String>, count: &mut u32) -> Vec<String> {
    let id = &map.id;
    let mut has: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in &map.entries {
        has.entry(key).or_default().push(value);
    }
    let mut lines = Vec::new();
    for (key, value) in wanted {
        let (k, v) = (escaped(key), escaped(value));
        match has.get(key.as_str()).map(Vec::as_slice) {
            None => lines.push(format!("add map #{id} {k} {v}")),
            Some([there]) if there == value => continue,
            Some([_]) => lines.push(format!("set map #{id} {k} {v}")),
            // Somebody added the key twice: `set` would change only what is looked up first.
            Some(_) => {
                lines.push(format!("del map #{id} {k}"));
                lines.push(format!("add map #{id} {k} {v}"));
            }
        }
        *count += 1;
    }
    for key in has.keys().filter(|key| !wanted.contains_key(**key)) {
        lines.push(format!("del map #{id} {}", escaped(key)));
        *count += 1;
    }
    lines
}

/// The command line's own quoting.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ' ' | ';' | '\\') {
            out.push('\\');
        }
        let _ = write!(out, "{c}");
    }
    out
}

/// A master that was started longer ago than this has come to rest.
const YOUNG: Duration = Duration::from_secs(2);
/// One that cannot be looked into is given this long.
const UNSEEN: Duration = Duration::from_millis(500);
/// Between two looks at a master.
const LOOK: Duration = Duration::from_millis(2);

/// Whether a master is loading a configuration: it executes itself with the workers before (`-sf`) and where
/// to get their sockets (`-x`) as arguments, and once more without them when the new worker runs.
pub(super) fn reloading(master: u32) -> bool {
    process::argv(master).iter().any(|arg| matches!(arg.as_str(), "-sf" | "-x"))
}

/// Waits until a master has come to rest after a start or a reload: the new worker answers a little before the
/// master's last exec, and a signal in between is forgotten with the image that caught it.
pub(super) async fn settled(master: &process::Master) {
    let deadline = Instant::now() + YOUNG;
    while master.kind == ProxyKind::Haproxy && Instant::now() < deadline {
        let age = process::age(master.pid).unwrap_or(YOUNG);
        let starting = match process::environment(master.pid, "HAPROXY_MWORKER") {
            Some(_) => age < YOUNG && process::environment(master.pid, WAITING).is_none(),
            None => age < UNSEEN,
        };
        if !starting && !reloading(master.pid) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The variable that a master at rest has.
const WAITING: &str = "HAPROXY_MWORKER_WAIT_ONLY";

/// How often a master was told to reload and how often that failed; it keeps this in its own environment
/// over the exec that a reload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reloads {
    total: u32,
    failed: u32,
}

impl Reloads {
    /// Reads them of a master; none before its first reload, or without the right to look.
    pub(super) fn of(master: u32) -> Option<Self> {
        // Only a master that waits has done with its reload, well or not.
        process::environment(master, WAITING).filter(|flag| flag == "1")?;
        parse_reloads(&process::environment(master, "HAPROXY_PROCESSES")?)
    }

    /// Whether a reload since `before` has failed.
    pub(super) fn failed_since(self, before: Option<Self>) -> bool {
        self.failed > 0 && before != Some(self)
    }
}

fn parse_reloads(text: &str) -> Option<Reloads> {
    let master = text.split('|').find(|entry| entry.starts_with("type=m;"))?;
    let number = |name: &str| {
        master.split(';').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    Some(Reloads { total: number("reloads")?, failed: number("failedreloads")? })
}
