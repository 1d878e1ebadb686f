//! A proxy of a test's own: started on loopback, in a folder of its own, gone with the test.

use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock::agent::{Agent, Options, Timing, serve, supervised_argv};
use interlock_core::protocol::{Declined, Hello, Welcome};
use interlock_crds::ProxyKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::conformance::{Client, hello};

pub(crate) type PairClient = Client<OwnedReadHalf, OwnedWriteHalf>;

/// A test's folder, its own or that of the test that started this process.
pub(crate) enum Folder {
    Own(tempfile::TempDir),
    Borrowed(PathBuf),
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Borrowed(dir) => dir,
        }
    }
}

/// Ports of a test's own: ten in a row below those that the kernel gives away. HAProxy shares a port with whoever
/// else of its user listens there, so two tests on one port would only lose each other's requests. Whoever has the
/// UDP socket of the first has all ten, in this run of the tests and in any other on this machine.
struct Ports {
    first: u16,
    _guard: UdpSocket,
}

impl Ports {
    fn take() -> Self {
        for first in (22_000..24_000).step_by(10) {
            let Ok(guard) = UdpSocket::bind(("127.0.0.1", first)) else { continue };
            // Whoever knows nothing of this may listen there all the same.
            if !(first..first + 10).any(listens) {
                return Self { first, _guard: guard };
            }
        }
        panic!("all ports are taken");
    }
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

pub(crate) struct Rig {
    pub(crate) dir: Folder,
    pub(crate) config: PathBuf,
    pub(crate) kind: ProxyKind,
    /// Where its proxy listens; the nine above it are the test's too.
    pub(crate) port: u16,
    child: Option<Child>,
    ports: Option<Ports>,
}

impl Rig {
    /// Folders and ports only.
    pub(crate) fn empty(kind: ProxyKind) -> Self {
        let ports = Ports::take();
        let mut rig = Self::within(kind, ports.first, Folder::Own(tempfile::tempdir().unwrap()));
        rig.ports = Some(ports);
        rig
    }

    /// The rig of the test that started this process.
    pub(crate) fn borrowed(kind: ProxyKind, port: u16, dir: &Path) -> Self {
        Self::within(kind, port, Folder::Borrowed(dir.to_owned()))
    }

    fn within(kind: ProxyKind, port: u16, dir: Folder) -> Self {
        let config = dir.path().join(match kind {
            ProxyKind::Haproxy => "haproxy.cfg",
            ProxyKind::Nginx => "nginx.conf",
        });
        Self { dir, config, kind, port, child: None, ports: None }
    }

    /// A proxy with a configuration that is not ours, answering 503 on the port.
    pub(crate) fn start(kind: ProxyKind) -> Self {
        let mut rig = Self::empty(kind);
        let port = rig.port;
        let text = match kind {
            ProxyKind::Haproxy => format!(
                "defaults\n mode http\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n\
                 frontend f\n bind 127.0.0.1:{port}\n http-request return status 503\n"
            ),
            ProxyKind::Nginx => format!(
                "error_log stderr crit;\nevents {{}}\n\
                 http {{ access_log off; server {{ listen {port}; return 503; }} }}\n"
            ),
        };
        std::fs::write(&rig.config, text).unwrap();
        rig.boot();
        rig
    }

    /// Starts the proxy on the files that lie there, as its container's restart would.
    pub(crate) fn boot(&mut self) {
        self.kill();
        let argv = supervised_argv(self.kind, &self.config);
        let log = std::fs::File::create(self.dir.path().join("proxy.log")).unwrap();
        let child = Command::new(&argv[0])
            .args(&argv[1..])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        // A proxy binds one port after the other: the first one accepts a moment before the last.
        while !self.bound().into_iter().all(listens) {
            assert!(Instant::now() < deadline, "the proxy does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The test's ports that the proxy's main file names, and the first.
    fn bound(&self) -> Vec<u16> {
        let text = self.main();
        let own = self.port..self.port + 10;
        let lines = text.lines().map(str::split_whitespace);
        let words = lines.filter_map(|mut words| {
            let keyword = words.next().unwrap_or_default();
            words.next().filter(|_| keyword == "bind")
        });
        let ports = words.filter_map(|word| word.rsplit(':').next()?.parse().ok());
        ports.filter(|port| own.contains(port)).chain([self.port]).collect()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("proxy.log")).unwrap_or_default()
    }

    /// The whole process group, at once, as a machine's power would end it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_group(child.id());
            let _ = child.wait();
            self.nobody_accepts();
        }
    }

    /// Ends a proxy that an aborted agent has left behind.
    pub(crate) fn end_adopted(&self) {
        for pid in masters(&self.config) {
            kill_group(pid);
            self.nobody_accepts();
        }
    }

    /// Workers are not this process's children: they are gone when nobody accepts.
    fn nobody_accepts(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while listens(self.port) {
            assert!(Instant::now() < deadline, "the proxy does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Options under which withdrawals are written down after this long.
    pub(crate) fn putting_off(&self, put_off: Duration) -> Options {
        let options = self.options();
        Options { timing: Timing { put_off, ..options.timing }, ..options }
    }

    pub(crate) fn options(&self) -> Options {
        let at = |name: &str| self.dir.path().join(name);
        Options {
            config: Some(self.config.clone()),
            state: at("state"),
            run: at("run"),
            secrets: at("secrets"),
            first_ports: vec![self.port],
            mounted_config: true,
            timing: Timing {
                watch: Duration::from_millis(20),
                confirm: Duration::from_secs(6),
                ..Timing::default()
            },
            ..Options::new(Some(self.kind))
        }
    }

    /// The proxy's main file as it is.
    pub(crate) fn main(&self) -> String {
        std::fs::read_to_string(&self.config).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill();
        if matches!(self.dir, Folder::Own(_)) {
            self.end_adopted();
        }
    }
}

/// Masters that were started with this configuration.
pub(crate) fn masters(config: &Path) -> Vec<u32> {
    let wanted = config.to_string_lossy().into_owned();
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<u32> = pids
        .filter(|pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|raw| String::from_utf8_lossy(&raw).replace('\0', " ").contains(&wanted))
        })
        .collect();
    // HAProxy's workers look like their master, also while that executes itself and shows nothing; and process ids
    // begin again when they are used up.
    let shows = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|raw| !raw.is_empty());
    let own = |pid: &u32| parent(*pid).is_none_or(|parent| !all.contains(&parent) && shows(parent));
    all.iter().copied().filter(own).collect()
}

/// The one master with this configuration, once it can be seen.
pub(crate) async fn the_master(config: &Path) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let [master] = *masters(config) {
            return master;
        }
        assert!(Instant::now() < deadline, "never: one master of {}", config.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// How often HAProxy's master has reloaded, by its own count.
pub(crate) fn reloads(config: &Path) -> Option<u32> {
    let raw = std::fs::read(format!("/proc/{}/environ", masters(config).first()?)).ok()?;
    let text = String::from_utf8_lossy(&raw).into_owned();
    let processes = text.split('\0').find_map(|entry| entry.strip_prefix("HAPROXY_PROCESSES="))?;
    let master = processes.split('|').find(|entry| entry.starts_with("type=m;"))?;
    master.split(';').find_map(|field| field.strip_prefix("reloads="))?.parse().ok()
}

/// Whether HAProxy's master has come to rest: before it has a handler for the reload signal, that is lost.
pub(crate) fn is_at_rest(config: &Path) -> bool {
    let Some(master) = masters(config).first().copied() else { return false };
    let status = std::fs::read_to_string(format!("/proc/{master}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask >> (rustix::process::Signal::USR2.as_raw() - 1) & 1 == 1)
}

pub(crate) fn kill_group(leader: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(leader).unwrap()) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// One agent for one connection.
pub(crate) struct Served {
    pub(crate) task: JoinHandle<()>,
}

/// Connects an operator to an agent of its own, as Docker exec would.
pub(crate) async fn connect(
    options: Options,
    hello: Hello,
) -> Result<(PairClient, Welcome, Served), Declined> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = Arc::new(Agent::new(options));
    let task = tokio::spawn(async move {
        let (reader, writer) = theirs.into_split();
        let _ = serve(reader, writer, &agent).await;
    });
    let (client, welcome) = Client::hello(ours.into_split(), hello).await?;
    Ok((client, welcome, Served { task }))
}

pub(crate) async fn connected(options: Options) -> PairClient {
    connect(options, hello("one", 1)).await.unwrap().0
}

/// Polls a condition until it holds.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One request; none: nobody listens or the answer is cut.
pub(crate) async fn get(port: u16, host: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// An HTTP server that answers everything with a fixed head and body.
pub(crate) async fn app(status: &'static str, body: &'static str) -> (std::net::SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, answer_on(listener, status, body))
}

pub(crate) fn answer_on(listener: TcpListener, status: &'static str, body: &'static str) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0_u8; 4096];
                let _ = stream.read(&mut buffer).await;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    })
}
