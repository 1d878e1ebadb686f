//! A proxy alone: a bundle's files in a folder of its own, the real binary on loopback, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::{self, net::UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use interlock_core::bundle::{Bundle, Paths};
use interlock_core::model::Digest;
use interlock_core::plan::Abilities;
use interlock_crds::ProxyKind;
use tempfile::TempDir;

/// A proxy may take this long to accept its first connection.
const START: Duration = Duration::from_secs(30);
/// And an answer this long.
const ANSWER: Duration = Duration::from_secs(30);

/// Contents of secrets by digest.
pub type Secrets = BTreeMap<Digest, String>;

/// A running proxy; ends with the value.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    dir: TempDir,
    /// Where it takes plain HTTP.
    pub http: SocketAddr,
    /// Where it takes HTTPS, if it does.
    pub https: SocketAddr,
    _ports: [Reserved; 2],
}

impl Proxy {
    /// Starts a proxy from the bundle that `render` makes for an HTTP and an HTTPS port.
    ///
    /// Free ports can be lost to another test between being found and being bound, so a start that
    /// fails is tried again with others, three times in all.
    pub fn start(secrets: &Secrets, mut render: impl FnMut(u16, u16) -> Bundle) -> io::Result<Self> {
        let mut last = io::Error::other("never tried");
        for _ in 0..3 {
            let ports = [Reserved::find()?, Reserved::find()?];
            match Self::try_start(secrets, &render(ports[0].port, ports[1].port), ports) {
                Ok(proxy) => return Ok(proxy),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn try_start(secrets: &Secrets, bundle: &Bundle, ports: [Reserved; 2]) -> io::Result<Self> {
        let dir = write(bundle, secrets)?;
        let mut child = command(bundle.proxy, dir.path(), false)
            .stdin(Stdio::null())
            .stdout(File::create(dir.path().join("stdout"))?)
            .stderr(File::create(dir.path().join("stderr"))?)
            .spawn()?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let begin = Instant::now();
        let [http, https] = [at(ports[0].port), at(ports[1].port)];
        while TcpStream::connect(http).is_err() {
            let ended = child.try_wait()?;
            if ended.is_some() || begin.elapsed() > START {
                let said = fs::read_to_string(dir.path().join("stderr"))?;
                stop(&mut child);
                return Err(io::Error::other(format!("{} does not start: {said}", bundle.proxy.as_str())));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { child, dir, http, https, _ports: ports })
    }

    /// The access log as soon as it has `lines` lines: a line is written after the answer has gone.
    pub fn log(&self, lines: usize) -> io::Result<String> {
        let begin = Instant::now();
        loop {
            let log = fs::read_to_string(self.dir.path().join("stdout"))?;
            if log.ends_with('\n') && log.lines().count() >= lines {
                return Ok(log);
            }
            if begin.elapsed() > ANSWER {
                return Err(io::Error::other(format!("fewer than {lines} lines: {log}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has written to standard error so far.
    pub fn errors(&self) -> io::Result<String> {
        fs::read_to_string(self.dir.path().join("stderr"))
    }

    /// Tells the proxy's first process to reload (nginx).
    pub fn reload(&self) -> io::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::HUP)?)
    }

    /// The same, and waits until only workers accept that were not there before.
    pub fn reload_whole(&self) -> io::Result<()> {
        let before = self.workers()?;
        self.reload()?;
        let begin = Instant::now();
        loop {
            let now = self.workers()?;
            if !now.is_empty() && now.is_disjoint(&before) {
                return Ok(());
            }
            if begin.elapsed() > START {
                return Err(io::Error::other(format!("no new worker: {before:?} before, {now:?} now")));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The workers of nginx that accept connections, as their titles say.
    fn workers(&self) -> io::Result<BTreeSet<u32>> {
        let master = self.child.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        let accepts = |pid: &u32| {
            let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.starts_with("nginx: worker process") && !title.contains("is shutting down")
        };
        Ok(children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(accepts).collect())
    }

    /// The folder with the generation's files.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Ends a proxy with its workers: a killed master would leave them behind.
fn stop(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let begin = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begin.elapsed() > Duration::from_secs(5) {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the machine's own proxy can do: the one that is found first, so that a `PATH` decides.
pub fn abilities(kind: ProxyKind) -> io::Result<Abilities> {
    let output = match kind {
        ProxyKind::Haproxy => Command::new("haproxy").arg("-v").output()?,
        ProxyKind::Nginx => Command::new("nginx").arg("-v").output()?,
    };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let name = kind.as_str();
    let number = said.split([' ', '/', '-']).find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut parts = number.unwrap_or_default().split('.');
    let version = format!("{name}-{}.{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    version.parse().map_err(|_| io::Error::other(format!("no version in what {name} says: {said}")))
}

/// A port that nobody listens on just now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A free port that no other proxy of these tests takes while this lives: two of HAProxy would share one
/// (`SO_REUSEPORT`), and each would answer half of the other's requests.
#[derive(Debug)]
struct Reserved {
    port: u16,
    /// Its name is taken in every process, and free as soon as the process ends.
    _name: UnixListener,
}

impl Reserved {
    fn find() -> io::Result<Self> {
        Ok(Self::listen()?.1)
    }

    /// The same with a listener, so that no proxy that is about to start takes it for its own.
    fn listen() -> io::Result<(TcpListener, Self)> {
        let begin = Instant::now();
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            let name = unix::net::SocketAddr::from_abstract_name(format!("interlock-e2e-port-{port}"))?;
            match UnixListener::bind_addr(&name) {
                Ok(name) => return Ok((listener, Self { port, _name: name })),
                Err(error) if begin.elapsed() > START => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// Writes everything that boots a proxy into the bundle.
pub fn write(bundle: &Bundle, secrets: &Secrets) -> io::Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("interlock-bare-").tempdir()?;
    let path = dir.path().to_str().ok_or_else(|| io::Error::other("a folder's name is not text"))?;
    for (name, text) in bundle.files(Paths { dir: path, run: path, secrets: path }) {
        fs::write(dir.path().join(name), text)?;
    }
    for secret in &bundle.secrets {
        if let Some(text) = secrets.get(&secret.digest) {
            fs::write(dir.path().join(&secret.file), text)?;
        }
    }
    // Workers of a proxy that was started by root are somebody else.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), mode)?;
    Ok(dir)
}

/// What the real proxy's own checker says of a bundle: its words, if it refuses it.
pub fn check(bundle: &Bundle, secrets: &Secrets) -> io::Result<Result<(), String>> {
    let dir = write(bundle, secrets)?;
    let output = command(bundle.proxy, dir.path(), true).output()?;
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    Ok(if output.status.success() { Ok(()) } else { Err(said) })
}

/// The proxy on the files in `dir`: checking them or running in the foreground.
fn command(proxy: ProxyKind, dir: &Path, check: bool) -> Command {
    let file = |name: &str| -> PathBuf { dir.join(name) };
    match proxy {
        ProxyKind::Haproxy => {
            let mut command = Command::new("haproxy");
            command.arg("-f").arg(file("haproxy.cfg")).arg(if check { "-c" } else { "-db" });
            command
        }
        ProxyKind::Nginx => {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(dir).arg("-c").arg(file("nginx.conf"));
            if check {
                command.arg("-t");
            } else {
                command.args(["-g", "daemon off;"]);
            }
            command
        }
    }
}

/// An application that answers every request with what it saw, as JSON:
/// `{"app": …, "method": …, "target": …, "headers": {…}}`, header names in lower case.
///
/// A request to upgrade is answered 101. `X-Delay: 300` is answered 300 milliseconds later. Connections are
/// closed after one answer.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    ended: Arc<AtomicBool>,
    _port: Reserved,
}

impl Echo {
    /// Starts one under the name `app`.
    pub fn start(app: &str) -> io::Result<Self> {
        let (listener, port) = Reserved::listen()?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let (name, end) = (app.to_owned(), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), name) = (stream, name.clone()) else { continue };
                thread::spawn(move || echo(stream, &name));
            }
        });
        Ok(Self { address, ended, _port: port })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn echo(mut stream: TcpStream, app: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER))?;
    let head = read_head(&mut stream)?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    let headers: BTreeMap<_, _> =
        headers.into_iter().map(|(name, values)| (name, values.join(", "))).collect();
    if let Some(delay) = headers.get("x-delay").and_then(|text| text.parse().ok()) {
        thread::sleep(Duration::from_millis(delay));
    }
    if let Some(protocol) = headers.get("upgrade") {
        // The accept key belongs to the one key that the tests send (RFC 6455, section 1.3).
        let upgrade = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        return stream.write_all(upgrade.as_bytes());
    }
    let body =
        serde_json::json!({ "app": app, "method": method, "target": target, "headers": headers }).to_string();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(answer.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    Ok(())
}

fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    Ok(head)
}

/// An answer as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status code; 0: the connection ended without an answer.
    pub status: u16,
    /// Header lines in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// What followed.
    pub body: String,
}

impl RawAnswer {
    /// Reads an answer out of all the bytes of a connection.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status: status.unwrap_or(0), headers, body: body.to_owned() }
    }

    /// The first value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// Sends bytes as they are and reads until the other side closes.
pub fn raw(to: SocketAddr, bytes: &[u8]) -> io::Result<RawAnswer> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // A reset behind a complete answer is the proxy's way to refuse the rest of the request.
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(RawAnswer::parse(&answer)),
    }
}

/// Asks over TLS with curl, as HTTP/2 or HTTP/1.1, without looking at the certificate. `host` is both the
/// name in the handshake and, with the port, the request's host.
pub fn tls(to: SocketAddr, host: &str, target: &str, http2: bool) -> io::Result<RawAnswer> {
    curl(to, host, target, http2, None)
}

/// The same with a body whose length is not said.
pub fn tls_upload(
    to: SocketAddr,
    host: &str,
    target: &str,
    http2: bool,
    body: &str,
) -> io::Result<RawAnswer> {
    curl(to, host, target, http2, Some(body))
}

fn curl(
    to: SocketAddr,
    host: &str,
    target: &str,
    http2: bool,
    upload: Option<&str>,
) -> io::Result<RawAnswer> {
    let port = to.port();
    let mut child = Command::new("curl")
        .args(upload.map(|_| ["--request", "GET", "--upload-file", "-"]).into_iter().flatten())
        .args(["--silent", "--insecure", "--include", "--path-as-is", "--max-time", "10", "--noproxy", "*"])
        .arg(if http2 { "--http2" } else { "--http1.1" })
        .arg("--resolve")
        .arg(format!("{host}:{port}:{}", to.ip()))
        .arg(format!("https://{host}:{port}{target}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // Whoever is refused need not read all of it.
        let _ = input.write_all(upload.unwrap_or_default().as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(RawAnswer::parse(&output.stdout))
}
