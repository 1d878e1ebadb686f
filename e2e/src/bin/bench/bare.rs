//! The bare proxy: the same version with the same configuration, checked and reloaded with nothing around it.

use std::fmt::Write as _;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use futures_util::TryStreamExt as _;
use interlock_e2e::bare::free_port;
use interlock_e2e::double::{App, Hosted, PAUSE, answered_by};
use interlock_e2e::load::quantile;
use interlock_e2e::world::Kind;
use interlock_e2e::{Container, Result, World, ensure, http};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::report::ms;

/// Rounds of check and reload.
const ROUNDS: usize = 10;
/// An answer may take this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the bare proxy needed.
pub(crate) struct Bare {
    pub(crate) check: Vec<Duration>,
    pub(crate) reload: Vec<Duration>,
    pub(crate) both: Vec<Duration>,
    /// One command to the runtime socket (HAProxy), or one question for the digest (nginx).
    pub(crate) command: Vec<Duration>,
}

impl Bare {
    /// Check and reload, at the median.
    pub(crate) fn typical(&self) -> Duration {
        quantile(&self.both, 0.5)
    }

    /// What is asked of Interlock.
    pub(crate) fn bar(&self, kind: Kind) -> Bar {
        match kind {
            Kind::Haproxy => Bar { half: Duration::from_millis(10), nearly: Some(Duration::from_millis(30)) },
            Kind::Nginx => Bar { half: self.typical() + Duration::from_millis(20), nearly: None },
        }
    }

    /// For the column of limits.
    pub(crate) fn limit(&self) -> String {
        let typical = |values: &[Duration]| ms(quantile(values, 0.5));
        let (check, reload) = (typical(&self.check), typical(&self.reload));
        format!("bare check {check} + reload {reload} ms; one question {} ms", typical(&self.command))
    }
}

/// What a new endpoint or host may take.
pub(crate) struct Bar {
    /// Half of the time; on nginx this much beyond a bare check and reload.
    pub(crate) half: Duration,
    /// And nearly always.
    nearly: Option<Duration>,
}

impl Bar {
    pub(crate) fn text(&self) -> String {
        match self.nearly {
            Some(nearly) => format!("p50 ≤ {}, p95 ≤ {} ms", ms(self.half), ms(nearly)),
            None => format!("p50 ≤ bare + 20 = {} ms", ms(self.half)),
        }
    }

    pub(crate) fn holds(&self, took: &[Duration]) -> bool {
        quantile(took, 0.5) <= self.half && self.nearly.is_none_or(|nearly| quantile(took, 0.95) <= nearly)
    }
}

/// A bare proxy that runs; ended on drop.
struct Running {
    child: Child,
    folder: tempfile::TempDir,
    config: PathBuf,
    kind: Kind,
    http: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A master that is killed leaves its workers behind; one that is told to end takes them along.
        let told = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let ended = told.map(|pid| kill_process(pid, Signal::TERM));
        if !matches!(ended, Some(Ok(()))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Copies the proxy's files out of its container, runs the machine's own proxy with them and measures.
pub(crate) async fn of_container(world: &World, proxy: &Container, kind: Kind) -> Result<Bare> {
    Running::of_container(world, proxy, kind).await?.rounds().await
}

/// The same with the files of a proxy that runs on this machine.
pub(crate) async fn of_hosted(hosted: &Hosted, kind: Kind) -> Result<Bare> {
    Running::of_hosted(hosted, kind).await?.rounds().await
}

/// What a brand-new host costs a bare HAProxy with these files at least: address and state of a server, entries of
/// maps, all of it sent at once to its runtime socket, until the first answer.
pub(crate) async fn commands(hosted: &Hosted, routed: &str, rounds: usize) -> Result<Vec<Duration>> {
    let running = Running::of_hosted(hosted, Kind::Haproxy).await?;
    let mut took = Vec::new();
    for round in 1..=rounds {
        let host = format!("bare-{round}.example.test");
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let _app = App::listen(&host, at).await?;
        let spare = format!("interlock:spare-{round}");
        let mut line = format!(
            "set server {spare}/s1 addr {} port {};set server {spare}/s1 state ready",
            at.ip(),
            at.port()
        );
        for entry in running.entries_like(routed, &host, &spare)? {
            let _ = write!(line, ";add map {entry}");
        }
        let answering = answered_by(([127, 0, 0, 1], running.http).into(), &host, &host, PAUSE);
        tokio::pin!(answering);
        let early = tokio::time::timeout(Duration::from_millis(20), &mut answering).await;
        ensure!(early.is_err(), "{host} answers before it was made");
        let begin = Instant::now();
        let said = running.say(&line).await?;
        let answered =
            answering.await.ok_or_else(|| format!("the bare proxy does not serve {host}: {said}"))?;
        took.push(answered.saturating_duration_since(begin));
    }
    Ok(took)
}

impl Running {
    async fn rounds(mut self) -> Result<Bare> {
        let running = &mut self;
        let mut bare = Bare { check: Vec::new(), reload: Vec::new(), both: Vec::new(), command: Vec::new() };
        for round in 0..ROUNDS {
            let digest = format!("{round:032x}");
            running.write_digest(&digest)?;
            let begin = Instant::now();
            running.check()?;
            let checked = begin.elapsed();
            running.reload()?;
            running.until(&digest).await?;
            let both = begin.elapsed();
            let asked = Instant::now();
            running.asked().await?;
            bare.command.push(asked.elapsed());
            bare.check.push(checked);
            bare.both.push(both);
            bare.reload.push(both.saturating_sub(checked));
        }
        Ok(bare)
    }

    /// With the files of a stock proxy in a container.
    async fn of_container(world: &World, proxy: &Container, kind: Kind) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let main = match kind {
            Kind::Haproxy => "/usr/local/etc/haproxy/haproxy.cfg",
            Kind::Nginx => "/etc/nginx/nginx.conf",
        };
        copy(world, proxy, main, folder.path()).await?;
        let text = std::fs::read_to_string(folder.path().join(last_word(main)?))?;
        if let Some(generation) = generation_of(&text) {
            copy(world, proxy, &generation, folder.path()).await?;
        }
        Self::start(folder, &text, kind, (80, 443)).await
    }

    /// With the files of a proxy that runs on this machine.
    async fn of_hosted(hosted: &Hosted, kind: Kind) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let text = std::fs::read_to_string(hosted.main_file())?;
        if let Some(generation) = generation_of(&text) {
            let own = folder.path().join(last_word(&generation)?);
            std::fs::create_dir(&own)?;
            for entry in std::fs::read_dir(&generation)? {
                let entry = entry?;
                std::fs::copy(entry.path(), own.join(entry.file_name()))?;
            }
        }
        Self::start(folder, &text, kind, hosted.ports()).await
    }

    /// With this main file, which took these ports; maps and lists lie in the generation that it names, which has
    /// been copied to `folder`.
    async fn start(folder: tempfile::TempDir, text: &str, kind: Kind, ports: (u16, u16)) -> Result<Self> {
        let (http, https) = (free_port()?, free_port()?);
        let config = folder.path().join("proxy.conf");
        let mut text = text.to_owned();
        if let Some(generation) = generation_of(&text) {
            let own = folder.path().join(last_word(&generation)?);
            text = text.replace(&generation, &own.to_string_lossy());
        }
        std::fs::write(&config, moved(&text, folder.path(), kind, ports, (http, https)))?;
        // Ends with this process however that ends: an orphan would hold its ports.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", kind.as_str()]);
        match kind {
            Kind::Haproxy => command.args(["-W", "-db", "-f"]).arg(&config),
            Kind::Nginx => command.args(["-g", "daemon off;", "-c"]).arg(&config),
        };
        let said = folder.path().join("stderr");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&said)?);
        let child = command.spawn()?;
        let mut running = Self { child, folder, config, kind, http };
        running.write_digest(&"f".repeat(32))?;
        interlock_e2e::eventually(PATIENCE, "the bare proxy runs", async || {
            let asked = running.asked().await.map(drop);
            asked.map_err(|error| {
                format!("{error}: {}", std::fs::read_to_string(&said).unwrap_or_default()).into()
            })
        })
        .await?;
        Ok(running)
    }

    /// Puts another digest where the worker reports it.
    fn write_digest(&mut self, digest: &str) -> Result {
        let text = std::fs::read_to_string(&self.config)?;
        let marker = match self.kind {
            Kind::Haproxy => "description interlock ",
            Kind::Nginx => "return 200 \"",
        };
        let at = text.find(marker).ok_or("the configuration carries no digest")? + marker.len();
        let text = format!("{}{digest}{}", &text[..at], &text[at + 32..]);
        std::fs::write(&self.config, text)?;
        Ok(())
    }

    fn check(&self) -> Result {
        let mut command = match self.kind {
            Kind::Haproxy => Command::new("haproxy"),
            Kind::Nginx => Command::new("nginx"),
        };
        match self.kind {
            Kind::Haproxy => command.args(["-c", "-f"]).arg(&self.config),
            Kind::Nginx => command.args(["-t", "-q", "-c"]).arg(&self.config),
        };
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "the bare check: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn reload(&self) -> Result {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("no pid")?;
        let signal = match self.kind {
            Kind::Haproxy => Signal::USR2,
            Kind::Nginx => Signal::HUP,
        };
        kill_process(pid, signal)?;
        Ok(())
    }

    async fn until(&self, digest: &str) -> Result {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.asked().await.is_ok_and(|answer| answer.contains(digest)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Err("the bare proxy has no new worker".into())
    }

    /// The answer to a line of commands on HAProxy's runtime socket.
    async fn say(&self, line: &str) -> Result<String> {
        let mut socket = UnixStream::connect(self.folder.path().join("haproxy.sock")).await?;
        socket.write_all(line.as_bytes()).await?;
        socket.write_all(b"\n").await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Everything that the maps have of a host, for another one whose backend is `backend`: file, key and value.
    fn entries_like(&self, host: &str, other: &str, backend: &str) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.config)?;
        let generation = generation_of(&text).ok_or("the configuration names no generation")?;
        let mut entries = Vec::new();
        for file in std::fs::read_dir(&generation)? {
            let path = file?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.extension().is_none_or(|extension| extension != "map") {
                continue;
            }
            let lines = std::fs::read_to_string(&path)?;
            for (key, value) in lines.lines().filter_map(|line| line.split_once(' ')) {
                let own = key.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                if own {
                    let value =
                        if name == "backends.map" { backend.to_owned() } else { value.replace(host, other) };
                    entries.push(format!("{} {} {value}", path.display(), key.replace(host, other)));
                }
            }
        }
        ensure!(!entries.is_empty(), "no map of {generation} knows {host}");
        Ok(entries)
    }

    /// What the newest worker says of itself.
    async fn asked(&self) -> Result<String> {
        match self.kind {
            Kind::Haproxy => self.say("show info").await,
            Kind::Nginx => {
                let address = ([127, 0, 0, 1], self.http).into();
                Ok(http::get(address, "interlock.invalid", "/digest").await?.expect(200)?.text())
            }
        }
    }
}

fn last_word(path: &str) -> Result<&std::ffi::OsStr> {
    Ok(Path::new(path).file_name().ok_or("no name at the end of a path")?)
}

/// The folder of the generation that a configuration names, if it names one.
fn generation_of(text: &str) -> Option<String> {
    let at = text.find("/gen-")?;
    let begin = text[..at].rfind(|c: char| c.is_whitespace() || "(,\"".contains(c))? + 1;
    let end = at + 1 + text[at + 1..].find('/')?;
    Some(text[begin..end].to_owned())
}

/// The configuration with its ports, sockets and logs where they disturb nobody.
fn moved(text: &str, folder: &Path, kind: Kind, from: (u16, u16), to: (u16, u16)) -> String {
    let ports = [(from.0, to.0), (from.1, to.1)];
    let folder = folder.to_string_lossy();
    let lines = text.lines().filter_map(|line| {
        let word = line.trim_start();
        match kind {
            Kind::Haproxy => {
                let line = ports.iter().fold(line.to_owned(), |line, (from, to)| {
                    line.replace(&format!("bind *:{from}"), &format!("bind *:{to}"))
                        .replace(&format!("bind :::{from}"), &format!("bind :::{to}"))
                });
                let socket = line.split_whitespace().find(|word| word.ends_with("/haproxy.sock"));
                Some(match socket {
                    Some(path) => line.replace(path, &format!("{folder}/haproxy.sock")),
                    None => line,
                })
            }
            Kind::Nginx if word.starts_with("pid ") => Some(format!("pid {folder}/nginx.pid;")),
            Kind::Nginx if word.starts_with("access_log") => None,
            Kind::Nginx if word.starts_with("user ") => None,
            Kind::Nginx => Some(ports.iter().fold(line.to_owned(), |line, (from, to)| {
                line.replace(&format!("listen {from}"), &format!("listen {to}"))
                    .replace(&format!("listen [::]:{from}"), &format!("listen [::]:{to}"))
            })),
        }
    });
    let mut text: String = lines.map(|line| line + "\n").collect();
    if kind == Kind::Nginx && !text.contains("\npid ") {
        text.insert_str(0, &format!("pid {folder}/nginx.pid;\n"));
    }
    text
}

async fn copy(world: &World, container: &Container, path: &str, to: &Path) -> Result {
    let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
    let chunks: Vec<_> =
        world.docker().download_from_container(&container.id, Some(options)).try_collect().await?;
    let bytes: Vec<u8> = chunks.concat();
    let mut archive = tar::Archive::new(bytes.as_slice());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let target = to.join(entry.path()?);
        if entry.header().entry_type().is_dir() {
            std::fs::create_dir_all(target)?;
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(target, content)?;
    }
    Ok(())
}
