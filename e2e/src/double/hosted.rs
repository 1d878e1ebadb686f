//! An operator with its embedded proxy as processes of this machine, watching a double.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Double;
use crate::bare::free_port;
use crate::operator::{merge, sum};
use crate::world::{Kind, World};
use crate::{Result, ensure, ensure_eq, eventually, http};

/// An operator may take this long for its first sync, and an ended one to be gone.
const PATIENCE: Duration = Duration::from_mins(2);
/// An application that has not answered for this long has left the rotation.
const QUIET: Duration = Duration::from_millis(150);
/// Between two tries of a client that waits for its first answer.
pub const PAUSE: Duration = Duration::from_micros(500);

/// Who answers for a URL, a host alone or with a path, at a proxy; none: nobody does. On a connection of its own and
/// with as little work of ours as can be: whoever waits for an answer must not take the processor from those who are
/// waited for.
pub async fn who(proxy: SocketAddr, url: &str) -> Option<String> {
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let path = if path.is_empty() { "/" } else { path };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = http::raw(proxy, request).await.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    (http::raw_status(&answer) == 200).then(|| body.to_owned())
}

/// Asks a proxy for a URL, with a pause between two tries, until an application answers: when that was. None: not
/// within two minutes.
pub async fn answered_by(proxy: SocketAddr, url: &str, app: &str, pause: Duration) -> Option<Instant> {
    let deadline = Instant::now() + PATIENCE;
    while who(proxy, url).await.as_deref() != Some(app) {
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(pause).await;
    }
    Some(Instant::now())
}

/// `interlock run --embedded`, on this machine; both processes and the proxy end with the value.
pub struct Hosted {
    outer: Child,
    dir: TempDir,
    /// Where its proxy takes requests.
    pub proxy: SocketAddr,
    metrics: SocketAddr,
    https: u16,
    kind: Kind,
}

/// The operator's binary out of the image that is tested, so that both are the same; kept in `dir`.
pub async fn binary(world: &World, dir: &Path) -> Result<PathBuf> {
    let container = world.container("binary", "interlock").create().await?;
    let options = bollard::query_parameters::DownloadFromContainerOptionsBuilder::new()
        .path("/usr/local/bin/interlock")
        .build();
    let parts: Vec<bytes::Bytes> =
        world.docker().download_from_container(&container.id, Some(options)).try_collect().await?;
    tar::Archive::new(parts.concat().as_slice()).unpack(dir)?;
    container.remove().await?;
    Ok(dir.join("interlock"))
}

impl Hosted {
    /// Starts one whose configuration touches nothing but its own folder; its cluster has the settings of `spec`.
    pub fn start(binary: &Path, double: &Double, kind: Kind, spec: Value) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("interlock-hosted-").tempdir()?;
        let (http, https, metrics) = (free_port()?, free_port()?, free_port()?);
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut cluster = json!({ "proxy": kind.as_str(), "listeners": { "http": http, "https": https } });
        merge(&mut cluster, spec);
        let config = json!({
            "docker": { "host": format!("unix://{}", double.socket().display()) },
            "listen": {
                "metrics": format!("127.0.0.1:{metrics}"), "api": at("run/api.sock"), "agents": at("agents"),
            },
            "operatorId": format!("hosted-{http}"),
            "stateDirectory": at("state"),
            "clusters": [{ "name": kind.as_str(), "spec": cluster }],
        });
        fs::write(dir.path().join("config.json"), config.to_string())?;
        let outer = Command::new(binary)
            .args(["run", "--embedded", kind.as_str(), "--config", &at("config.json")])
            .stdin(Stdio::null())
            .stdout(File::create(dir.path().join("stdout"))?)
            .stderr(File::create(dir.path().join("stderr"))?)
            .spawn()?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self { outer, dir, proxy: loopback(http), metrics: loopback(metrics), https, kind })
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        ["stdout", "stderr"]
            .map(|name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// Waits until an application answers for a URL.
    pub async fn serves(&self, url: &str, app: &str) -> Result {
        eventually(PATIENCE, &format!("{url} is served"), async || {
            let who = self.who(url).await;
            ensure_eq!(who.as_deref(), Some(app), "who answers; {}", self.log());
            Ok(())
        })
        .await
    }

    /// The sum of a metric's samples with these labels.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let metrics = http::get(self.metrics, "localhost", "/metrics").await?.expect(200)?.text();
        Ok(sum(&metrics, name, labels))
    }

    /// The operator's resident memory in bytes, and its highest so far.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let child = self.operator()?;
        let status = fs::read_to_string(format!("/proc/{child}/status"))?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Ok((field("VmRSS:").unwrap_or(0) * 1024, field("VmHWM:").unwrap_or(0) * 1024))
    }

    /// The process of the operator, which is a child of the agent's; the proxy is another.
    pub fn operator(&self) -> Result<u32> {
        let outer = self.outer.id();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        let is_operator = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("--operator-child"))
        };
        let found = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_operator);
        found.ok_or_else(|| format!("no operator runs: {}", self.log()).into())
    }

    /// Who answers for a URL, a host alone or with a path; none: nobody does.
    pub async fn who(&self, url: &str) -> Option<String> {
        who(self.proxy, url).await
    }

    /// The main file that its proxy runs now; it names every other.
    pub fn main_file(&self) -> PathBuf {
        self.dir.path().join("state/agent").join(match self.kind {
            Kind::Haproxy => "haproxy.cfg",
            Kind::Nginx => "nginx.conf",
        })
    }

    /// The ports of its proxy, HTTP and HTTPS.
    pub const fn ports(&self) -> (u16, u16) {
        (self.proxy.port(), self.https)
    }

    /// Asks for a URL until an application answers; when that was.
    pub async fn answered_by(&self, url: &str, app: &str) -> Result<Instant> {
        let answered = answered_by(self.proxy, url, app, PAUSE).await;
        answered.ok_or_else(|| format!("{app} never answers for {url}: {}", self.log()).into())
    }

    /// Asks for a URL until an application has not answered for a while; when it last did.
    pub async fn last_answered_by(&self, url: &str, app: &str) -> Result<Instant> {
        let begun = Instant::now();
        let mut last = begun;
        while last.elapsed() < QUIET {
            if self.who(url).await.as_deref() == Some(app) {
                last = Instant::now();
            }
            tokio::time::sleep(PAUSE).await;
            ensure!(begun.elapsed() < PATIENCE, "{app} goes on answering for {url}: {}", self.log());
        }
        Ok(last)
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        // The outer process ends its operator and lets the proxy finish.
        let _ = kill_process(Pid::from_child(&self.outer), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(15);
        while matches!(self.outer.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.outer.kill();
                let _ = self.outer.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
