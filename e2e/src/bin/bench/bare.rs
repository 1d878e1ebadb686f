//! The bare proxy: the same version with the same configuration, checked and reloaded with nothing around it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use futures_util::TryStreamExt as _;
use interlock_e2e::world::Kind;
use interlock_e2e::{Container, Result, World, ensure, http};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Rounds of check and reload.
const ROUNDS: usize = 10;
/// Ports of the bare proxy, away from everybody's.
const HTTP: u16 = 28_080;
const HTTPS: u16 = 28_443;

/// What the bare proxy needed.
pub(crate) struct Bare {
    pub(crate) check: Vec<Duration>,
    pub(crate) reload: Vec<Duration>,
    pub(crate) both: Vec<Duration>,
}

/// A bare proxy that runs; ended on drop.
struct Running {
    child: Child,
    folder: tempfile::TempDir,
    config: PathBuf,
    kind: Kind,
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
pub(crate) async fn measure(world: &World, proxy: &Container, kind: Kind) -> Result<Bare> {
    let mut running = Running::start(world, proxy, kind).await?;
    let mut bare = Bare { check: Vec::new(), reload: Vec::new(), both: Vec::new() };
    for round in 0..ROUNDS {
        let digest = format!("{round:032x}");
        running.write_digest(&digest)?;
        let begin = Instant::now();
        running.check()?;
        let checked = begin.elapsed();
        running.reload()?;
        running.until(&digest).await?;
        bare.check.push(checked);
        bare.both.push(begin.elapsed());
        bare.reload.push(begin.elapsed().saturating_sub(checked));
    }
    Ok(bare)
}

impl Running {
    async fn start(world: &World, proxy: &Container, kind: Kind) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let main = match kind {
            Kind::Haproxy => "/usr/local/etc/haproxy/haproxy.cfg",
            Kind::Nginx => "/etc/nginx/nginx.conf",
        };
        copy(world, proxy, main, folder.path()).await?;
        let config = folder.path().join(Path::new(main).file_name().ok_or("no file name")?);
        let mut text = std::fs::read_to_string(&config)?;
        // Maps and lists lie beside the generation that the file names.
        if let Some(generation) = generation_of(&text) {
            copy(world, proxy, &generation, folder.path()).await?;
            let own = folder.path().join(Path::new(&generation).file_name().ok_or("no folder name")?);
            text = text.replace(&generation, &own.to_string_lossy());
        }
        std::fs::write(&config, moved(&text, folder.path(), kind))?;
        let mut command = match kind {
            Kind::Haproxy => Command::new("haproxy"),
            Kind::Nginx => Command::new("nginx"),
        };
        match kind {
            Kind::Haproxy => command.args(["-W", "-db", "-f"]).arg(&config),
            Kind::Nginx => command.args(["-g", "daemon off;", "-c"]).arg(&config),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut running = Self { child, folder, config, kind };
        running.write_digest(&"f".repeat(32))?;
        interlock_e2e::eventually(Duration::from_secs(10), "the bare proxy runs", async || {
            running.asked().await.map(drop)
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
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.asked().await.is_ok_and(|answer| answer.contains(digest)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Err("the bare proxy has no new worker".into())
    }

    /// What the newest worker says of itself.
    async fn asked(&self) -> Result<String> {
        match self.kind {
            Kind::Haproxy => {
                let mut socket = UnixStream::connect(self.folder.path().join("haproxy.sock")).await?;
                socket.write_all(b"show info\n").await?;
                let mut text = String::new();
                socket.read_to_string(&mut text).await?;
                Ok(text)
            }
            Kind::Nginx => {
                let address = ([127, 0, 0, 1], HTTP).into();
                Ok(http::get(address, "interlock.invalid", "/digest").await?.expect(200)?.text())
            }
        }
    }
}

/// The folder of the generation that a configuration names, if it names one.
fn generation_of(text: &str) -> Option<String> {
    let at = text.find("/gen-")?;
    let begin = text[..at].rfind(|c: char| c.is_whitespace() || "(,\"".contains(c))? + 1;
    let end = at + 1 + text[at + 1..].find('/')?;
    Some(text[begin..end].to_owned())
}

/// The configuration with its ports, sockets and logs where they disturb nobody.
fn moved(text: &str, folder: &Path, kind: Kind) -> String {
    let folder = folder.to_string_lossy();
    let lines = text.lines().filter_map(|line| {
        let word = line.trim_start();
        match kind {
            Kind::Haproxy => {
                let line = line
                    .replace(":::80", &format!(":::{HTTP}"))
                    .replace(":::443", &format!(":::{HTTPS}"))
                    .replace("*:80", &format!("*:{HTTP}"));
                let socket = line.split_whitespace().find(|word| word.ends_with("/haproxy.sock"));
                Some(match socket {
                    Some(path) => line.replace(path, &format!("{folder}/haproxy.sock")),
                    None => line,
                })
            }
            Kind::Nginx if word.starts_with("pid ") => Some(format!("pid {folder}/nginx.pid;")),
            Kind::Nginx if word.starts_with("access_log") => None,
            Kind::Nginx if word.starts_with("user ") => None,
            Kind::Nginx => {
                let moved = line.replace("listen 80", &format!("listen {HTTP}"));
                let moved = moved.replace("listen [::]:80", &format!("listen [::]:{HTTP}"));
                let moved = moved.replace("listen 443", &format!("listen {HTTPS}"));
                Some(moved.replace("listen [::]:443", &format!("listen [::]:{HTTPS}")))
            }
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
