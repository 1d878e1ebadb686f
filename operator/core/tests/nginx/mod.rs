//! A real nginx on a port of its own, and applications for it to reach.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use interlock_core::assign::Assignment;
use interlock_core::bundle::{Bundle, Paths};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::render::{Templates, render};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn plan(text: &str) -> Plan {
    serde_yaml::from_str(text).unwrap()
}

pub(crate) fn bundle(plan: &Plan, abilities: &str) -> Bundle {
    let abilities: Abilities = abilities.parse().unwrap();
    render(plan, &Assignment::default(), abilities, &Templates::embedded()).unwrap()
}

pub(crate) fn text(bundle: &Bundle, secrets: &str) -> String {
    bundle.files(Paths { dir: "/dir", run: "/run", secrets }).remove("nginx.conf").unwrap()
}

fn command(folder: &Path, more: &str) -> Command {
    let mut command = Command::new("nginx");
    let globals = format!("pid {}/nginx.pid; {more}", folder.display());
    command.arg("-c").arg(folder.join("nginx.conf")).args(["-g", &globals]);
    command
}

/// What `nginx -t` has against the text, warnings included.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nginx.conf"), text).unwrap();
    let output = command(folder.path(), "").arg("-t").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && !said.contains("[warn]") { Ok(()) } else { Err(said) }
}

/// A running nginx; ends with the value.
pub(crate) struct Nginx {
    pub(crate) bundle: Bundle,
    port: u16,
    folder: TempDir,
    child: Child,
}

impl Nginx {
    /// Serves the plan, in whose text `PORT` stands for a free port.
    pub(crate) fn start(yaml: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let bundle = bundle(&plan(&yaml.replace("PORT", &port.to_string())), "nginx-1.22");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("nginx.conf"), text(&bundle, "/secrets")).unwrap();
        let log = File::create(folder.path().join("access.log")).unwrap();
        let errors = File::create(folder.path().join("errors.log")).unwrap();
        let child = command(folder.path(), "daemon off;")
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .spawn()
            .unwrap();
        let nginx = Self { bundle, port, folder, child };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "{}", nginx.errors());
            thread::sleep(Duration::from_millis(10));
        }
        nginx
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("errors.log")).unwrap()
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    /// The whole answer to a request that asks for the connection to be closed.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.send(request);
        let mut answer = Vec::new();
        client.0.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) fn get(&self, host: &str, target: &str) -> String {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }

    /// The first line of the access log, once it is there.
    pub(crate) fn log_line(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(self.folder.path().join("access.log")).unwrap();
            if let Some((line, _)) = log.split_once('\n') {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "no line in the log; {}", self.errors());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM, not KILL: the master takes its workers along.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn read_until(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }
}

/// An application that answers with the request's head. `wait=MS` at a target's end answers later,
/// `/break` closes instead, `/accel` sends headers that nginx could obey, `/upgrade` echoes.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl App {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        // Accepts until the test's process ends.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                thread::spawn(move || serve(stream, &counted));
            }
        });
        Self { address, count }
    }

    /// An address where nobody listens.
    pub(crate) fn dead() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { address, count: Arc::default() }
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, count: &AtomicUsize) {
    let mut client = Client(stream);
    let head = client.read_until("\r\n\r\n");
    count.fetch_add(1, Ordering::SeqCst);
    let target = head.split(' ').nth(1).unwrap_or_default();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    client.0.read_exact(&mut body).unwrap();
    if let Some((_, wait)) = target.split_once("wait=") {
        thread::sleep(Duration::from_millis(wait.parse().unwrap()));
    }
    let more = match target {
        "/break" => return,
        "/upgrade" => {
            client.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            );
            let mut back = client.0.try_clone().unwrap();
            let _ = std::io::copy(&mut client.0, &mut back);
            return;
        }
        "/accel" => "X-Accel-Redirect: /nginx_status\r\nLocation: http://app.example.com/kept\r\n",
        _ => "",
    };
    let answer = format!("{head}body {length}");
    let _ = client.0.write_all(
        format!(
            "HTTP/1.1 200 OK\r\nServer: app\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{answer}",
            answer.len()
        )
        .as_bytes(),
    );
}
