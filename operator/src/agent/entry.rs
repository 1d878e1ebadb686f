//! The ways to run an agent: on standard input and output, behind a unix socket, around an embedded operator.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_crds::ProxyKind;
use rustix::fs::{FileType, Mode};
use rustix::process::Signal;
use tokio::io::AsyncRead;
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::server::{Agent, serve};
use super::supervisor::{Supervisor, reap_orphans};
use super::{AgentError, Options, files, housekeeping, limits, process};

/// Operators that may be connected at once; all but one wait or are declined.
const CONNECTIONS: usize = 16;
/// A socket on which nobody answers for this long was left behind.
const LEFT: Duration = Duration::from_mins(1);
/// The first wait before an operator that died is started again; it doubles.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest such wait.
const BACKOFF_CEILING: Duration = Duration::from_secs(10);
/// How long an embedded operator may take to end.
const OPERATOR_STOP: Duration = Duration::from_secs(5);

/// The arguments that start a proxy with this main file in the foreground, as a supervisor needs it. nginx's pid
/// file lies beside it: the built-in place belongs to the machine's own nginx.
pub fn supervised_argv(kind: ProxyKind, config: &Path) -> Vec<String> {
    let global = format!("daemon off; pid {};", config.with_extension("pid").display());
    let config = config.to_string_lossy();
    let words: &[&str] = match kind {
        ProxyKind::Haproxy => &["haproxy", "-W", "-db", "-f", &config],
        ProxyKind::Nginx => &["nginx", "-c", &config, "-g", &global],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Serves the one operator on standard input and output, for a proxy that runs beside it (Docker exec); returns
/// when the input ends. Standard output belongs to the protocol: logs must go elsewhere.
///
/// # Errors
/// The connection broke or was not spoken as agreed.
pub async fn run_stdio(options: Options) -> Result<(), AgentError> {
    let agent = Agent::new(options);
    let input = standard_input().map_err(AgentError::setup("standard input"))?;
    let served = serve(input, tokio::io::stdout(), &agent);
    tokio::pin!(served);
    let mut told = Terminated::new()?;
    tokio::select! {
        done = &mut served => return done,
        () = told.wait() => agent.release(),
    }
    served.await
}

/// A pipe or socket is read without a thread: a thread that waits for input would keep the process from ending.
fn standard_input() -> io::Result<Box<dyn AsyncRead + Unpin + Send>> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    match FileType::from_raw_mode(rustix::fs::fstat(&input)?.st_mode) {
        FileType::Fifo => Ok(Box::new(pipe::Receiver::from_owned_fd(input)?)),
        FileType::Socket => {
            let stream = StdUnixStream::from(input);
            stream.set_nonblocking(true)?;
            Ok(Box::new(UnixStream::from_std(stream)?))
        }
        _ => Ok(Box::new(tokio::io::stdin())),
    }
}

/// SIGTERM or SIGINT.
struct Terminated {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Terminated {
    fn new() -> Result<Self, AgentError> {
        let listen = |kind| signal(kind).map_err(AgentError::setup("signals"));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Everything for a proxy that the agent owns: folders, a configuration to boot, the supervisor.
fn own(options: &Options, argv: Vec<String>) -> Result<Arc<Supervisor>, AgentError> {
    let program = argv.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
    let kind = match (options.proxy, program) {
        (Some(kind), _) => kind,
        (None, Some("haproxy")) => ProxyKind::Haproxy,
        (None, Some("nginx")) => ProxyKind::Nginx,
        _ => return Err(AgentError::Options("say which proxy to supervise: haproxy or nginx".to_owned())),
    };
    let option = if kind == ProxyKind::Haproxy { "-f" } else { "-c" };
    let named = process::values(&argv, option).last().map(PathBuf::from);
    let config = options.config.clone().or(named).ok_or_else(|| {
        AgentError::Options(format!("the proxy's arguments name no configuration ({option} FILE)"))
    })?;
    for dir in
        [Some(options.state.as_path()), Some(options.run.as_path()), config.parent()].into_iter().flatten()
    {
        std::fs::create_dir_all(dir).map_err(AgentError::setup(format!("the folder {}", dir.display())))?;
    }
    if !config.exists() {
        let text = first_configuration(kind, &options.first_ports, &options.run);
        files::replace(&config, text.as_bytes(), 0o644, None)
            .map_err(AgentError::setup(format!("the configuration {}", config.display())))?;
    }
    Ok(Supervisor::new(kind, argv, &config, options.timing.stop))
}

/// The smallest configuration that runs: every request is answered 503 until an operator has spoken.
fn first_configuration(kind: ProxyKind, ports: &[u16], run: &Path) -> String {
    let run = run.display();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|table| !table.trim().is_empty());
    let v6 = v6 && limits::has_ipv6();
    let mut lines = Vec::new();
    match kind {
        ProxyKind::Haproxy => {
            lines.push(format!("global\n    stats socket {run}/haproxy.sock mode 600 level admin"));
            lines.push("defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s".to_owned());
            lines.push("    timeout server 60s\n    timeout http-request 10s\nfrontend first".to_owned());
            for port in ports {
                lines.push(if v6 {
                    format!("    bind :::{port} v4v6")
                } else {
                    format!("    bind *:{port}")
                });
            }
            lines.push("    http-request return status 503 hdr Retry-After 5\n".to_owned());
        }
        ProxyKind::Nginx => {
            lines.push("events {}\nhttp {\n    server {".to_owned());
            for port in ports {
                lines.push(format!("        listen {port} default_server;"));
                if v6 {
                    lines.push(format!("        listen [::]:{port} default_server;"));
                }
            }
            lines
                .push("        add_header Retry-After 5 always;\n        return 503;\n    }\n}\n".to_owned());
        }
    }
    lines.join("\n")
}

/// Owns a proxy and serves operators on a unix socket (0600), one at a time: the entry point of the proxy images.
/// A folder as `socket` stands for `HOSTNAME.sock` in it.
/// Returns after SIGTERM, when the proxy has finished.
///
/// # Errors
/// A folder, the socket or the signals could not be set up.
pub async fn run_listener(options: Options, socket: &Path, argv: Vec<String>) -> Result<(), AgentError> {
    let supervisor = own(&options, argv)?;
    if socket.is_dir() {
        housekeeping::drop_left_sockets(socket, LEFT).await;
    }
    let socket = &named(socket);
    let listener = listen(socket).await?;
    let agent = Arc::new(Agent::supervising(options, Arc::clone(&supervisor)));
    let mut told = Terminated::new()?;
    let accepting = async {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let agent = Arc::clone(&agent);
                    tokio::spawn(async move {
                        let (reader, writer) = stream.into_split();
                        if let Err(err) = serve(reader, writer, &agent).await {
                            tracing::warn!(%err, "an operator's connection ended");
                        }
                        drop(slot);
                    });
                }
                Err(err) => {
                    tracing::warn!(%err, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    let asked = async {
        told.wait().await;
        agent.release();
        supervisor.stop();
    };
    tokio::select! {
        () = async { tokio::join!(supervisor.run(), asked); } => {}
        () = accepting => {}
        () = reap_orphans() => {}
    }
    let _ = std::fs::remove_file(socket);
    Ok(())
}

/// In a folder that several agents share, each socket is named after its host, which is what the images do.
fn named(socket: &Path) -> PathBuf {
    if socket.is_dir() { socket.join(format!("{}.sock", super::host::hostname())) } else { socket.to_owned() }
}

/// A socket that an agent left behind is removed; one that somebody answers on is not.
async fn listen(socket: &Path) -> Result<UnixListener, AgentError> {
    let shown = format!("the socket {}", socket.display());
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).map_err(AgentError::setup(shown.clone()))?;
    }
    if socket.exists() {
        if UnixStream::connect(socket).await.is_ok() {
            return Err(AgentError::Options(format!("{shown}: another agent listens there")));
        }
        std::fs::remove_file(socket).map_err(AgentError::setup(shown.clone()))?;
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(socket);
    rustix::process::umask(before);
    bound.map_err(AgentError::setup(shown))
}

/// Owns a proxy and an operator, which is a child with one end of a socket pair as its standard input, started
/// again whenever it dies. Returns after SIGTERM: first the operator ends, then the proxy finishes.
///
/// # Errors
/// A folder, the socket pair or the signals could not be set up.
pub async fn run_embedded(
    options: Options,
    argv: Vec<String>,
    operator: impl Fn() -> std::process::Command,
) -> Result<(), AgentError> {
    let supervisor = own(&options, argv)?;
    let agent = Agent::supervising(options, Arc::clone(&supervisor)).hurrying();
    let mut told = Terminated::new()?;
    let operating = async {
        let mut backoff = BACKOFF;
        loop {
            let begun = Instant::now();
            let (mut child, stream) = match start_operator(operator()) {
                Ok(started) => started,
                Err(err) => {
                    tracing::error!(%err, "the operator cannot be started");
                    tokio::time::sleep(BACKOFF_CEILING).await;
                    continue;
                }
            };
            let (reader, writer) = stream.into_split();
            let stopped = tokio::select! {
                served = serve(reader, writer, &agent) => {
                    if let Err(err) = served {
                        tracing::warn!(%err, "the operator's connection ended");
                    }
                    false
                }
                () = told.wait() => true,
            };
            end_operator(&mut child).await;
            if stopped {
                return;
            }
            if begun.elapsed() > BACKOFF_CEILING {
                backoff = BACKOFF;
            }
            tracing::warn!("the operator ended and is started again; the proxy goes on serving");
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_CEILING),
                () = told.wait() => return,
            }
        }
    };
    let operated = async {
        operating.await;
        supervisor.stop();
    };
    tokio::select! {
        () = async { tokio::join!(supervisor.run(), operated); } => {}
        () = reap_orphans() => {}
    }
    Ok(())
}

fn start_operator(command: std::process::Command) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = tokio::process::Command::from(command);
    // A group of its own: it is told to end by this process, not by a terminal.
    command.stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0).kill_on_drop(true);
    Ok((command.spawn()?, UnixStream::from_std(ours)?))
}

async fn end_operator(child: &mut Child) {
    if let Some(pid) = child.id() {
        process::signal(pid, Signal::TERM);
    }
    if tokio::time::timeout(OPERATOR_STOP, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
