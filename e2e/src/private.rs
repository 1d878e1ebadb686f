//! An engine of a test's own, in a network namespace of its own: for tests that stop, kill or restart an engine.
//!
//! Never in the machine's namespace: a second dockerd there takes the first one's bridges away. `nsenter`, not
//! `ip netns exec`, which hides the control groups. No default route: look-ups of registries fail at once.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Result, ensure, eventually};

/// What the names of all private engines begin with; the number of the test's process follows.
const PREFIX: &str = "il-e2e-";

/// A private engine. Dropping it ends it and removes everything that it made.
#[derive(Debug)]
pub struct PrivateEngine {
    name: String,
    directory: PathBuf,
    daemon: Option<Child>,
    live_restore: bool,
}

impl PrivateEngine {
    /// Starts one; needs root. With `live_restore` its containers outlive it.
    pub async fn start(short: &str, live_restore: bool) -> Result<Self> {
        sweep_dead();
        let mut engine = Self::named(format!("{PREFIX}{}-{short}", std::process::id()), live_restore);
        std::fs::create_dir(&engine.directory)?;
        run("ip", &["netns", "add", &engine.name])?;
        run("ip", &["-n", &engine.name, "link", "set", "lo", "up"])?;
        engine.up().await?;
        Ok(engine)
    }

    fn named(name: String, live_restore: bool) -> Self {
        // Short: sockets of the engine's own helpers must fit into 108 bytes.
        let directory = Path::new("/tmp").join(&name);
        Self { name, directory, daemon: None, live_restore }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Its API's socket.
    pub fn socket(&self) -> String {
        self.path("d.sock").to_string_lossy().into_owned()
    }

    /// The folder that the socket lies in.
    pub fn folder(&self) -> String {
        self.directory.to_string_lossy().into_owned()
    }

    /// Starts the daemon (again) and waits until it answers.
    pub async fn up(&mut self) -> Result {
        ensure!(self.daemon.is_none(), "the private engine runs already");
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("dockerd")
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("d.pid"))
            .arg("--config-file")
            .arg(self.path("none.json"))
            .arg(format!("--host=unix://{}", self.socket()))
            .args(["--bip=172.31.255.1/24", "--tls=false"])
            .arg(format!("--cgroup-parent=/{}", self.name))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if self.live_restore {
            command.arg("--live-restore");
        }
        std::fs::write(self.path("none.json"), "{}")?;
        // An engine that was killed took its containerd along, and left both their pid files. Where nobody reaps
        // orphans the numbers still look alive, and the new engine would wait for a containerd that is gone.
        for stale in ["d.pid", "exec/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(self.path(stale));
        }
        // A group of its own: a signal to the test runner must reach it through the drop below, not past it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.daemon = Some(command.spawn()?);
        let socket = self.socket();
        let up = eventually(Duration::from_mins(1), "the private engine answers", async || {
            bollard::Docker::connect_with_unix(&socket, 5, bollard::API_DEFAULT_VERSION)?.ping().await?;
            Ok(())
        });
        up.await.map_err(|error| {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(8).collect();
            format!("{error}; its log, newest first: {tail:?}").into()
        })
    }

    /// Stops the daemon as a service manager does.
    pub async fn stop(&mut self) -> Result {
        self.end(Signal::TERM).await
    }

    /// Kills the daemon; its containers are left to themselves.
    pub async fn kill(&mut self) -> Result {
        self.end(Signal::KILL).await
    }

    async fn end(&mut self, signal: Signal) -> Result {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        // `nsenter` has become dockerd: it executes, it does not fork.
        kill_process(Pid::from_child(&daemon), signal)?;
        eventually(Duration::from_mins(1), "the end of the private engine", async || {
            ensure!(daemon.try_wait()?.is_some(), "it runs");
            Ok(())
        })
        .await
    }

    /// Copies an image from the machine's engine.
    pub async fn load(&self, image: &str) -> Result {
        let (image, socket) = (crate::image(image), self.socket());
        tokio::task::spawn_blocking(move || {
            let mut save = Command::new("docker")
                .args(["save", &image])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            let archive = save.stdout.take().ok_or("no output of docker save")?;
            let load = Command::new("docker")
                .args(["-H", &format!("unix://{socket}"), "load", "-q"])
                .stdin(archive)
                .output()?;
            ensure!(save.wait()?.success(), "docker save {image} failed");
            ensure!(load.status.success(), "docker load: {}", String::from_utf8_lossy(&load.stderr));
            Ok(())
        })
        .await?
    }

    /// Runs a future on a thread inside the engine's namespace, where its containers' addresses can be reached.
    pub fn inside<T: Send + 'static, F: Future<Output = Result<T>>>(
        &self,
        body: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.name))?;
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            // One thread only: another worker would be in the machine's namespace.
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(body())
        });
        thread.join().map_err(|_| "the test panicked")?
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        let containers = Command::new("docker")
            .args(["-H", &format!("unix://{}", self.socket()), "ps", "-aq"])
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let containers: Vec<&str> = containers.split_whitespace().collect();
        if !containers.is_empty() {
            let _ = Command::new("docker")
                .args(["-H", &format!("unix://{}", self.socket()), "rm", "-f"])
                .args(&containers)
                .output();
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill_process(Pid::from_child(&daemon), Signal::TERM);
            let end = std::time::Instant::now() + Duration::from_secs(15);
            while std::time::Instant::now() < end && matches!(daemon.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = kill_process_group(Pid::from_child(&daemon), Signal::KILL);
            let _ = daemon.wait();
        }
        self.sweep();
    }
}

impl PrivateEngine {
    /// Removes what an engine that was killed leaves: processes by their control group and by their arguments,
    /// mounts, the namespace, the control groups.
    fn sweep(&self) {
        let root = format!("{}/", self.directory.display());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) =
                process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments);
            let helper = arguments.contains("containerd") || arguments.contains("dockerd");
            let helper = helper && arguments.contains(&root);
            let groups = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            let contained = groups.lines().any(|line| line.contains(&format!(":/{}/", self.name)));
            if helper || contained {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut mounts: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        mounts.retain(|mount| mount.starts_with(&root));
        mounts.sort_unstable();
        for mount in mounts.iter().rev() {
            let _ = run("umount", &["-l", mount]);
        }
        let _ = run("ip", &["netns", "del", &self.name]);
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let group = controller.path().join(&self.name);
            for inner in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(inner.path());
            }
            let _ = std::fs::remove_dir(group);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Removes engines of test processes that are gone.
fn sweep_dead() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            PrivateEngine::named(name, false).sweep();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result {
    let output = Command::new(program).args(arguments).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), error.trim());
    Ok(())
}
