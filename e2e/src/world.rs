//! One test's world on an engine: names and a label of its own, and nothing of it left afterwards.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptionsBuilder,
    ListVolumesOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
    RemoveVolumeOptionsBuilder,
};
use futures_util::TryStreamExt as _;

use crate::{Result, Run};

/// The label key on everything that a test makes; the value names the test's world.
pub const LABEL: &str = "dev.interlock.e2e";
/// The stock HAProxy image; of another version, with `INTERLOCK_HAPROXY=3.0`.
static HAPROXY: LazyLock<String> = LazyLock::new(|| stock("haproxy", "INTERLOCK_HAPROXY", "2.6"));
/// The stock nginx image; of another version, with `INTERLOCK_NGINX=1.26`.
static NGINX: LazyLock<String> = LazyLock::new(|| stock("nginx", "INTERLOCK_NGINX", "1.22"));
/// The app.
pub const APP: &str = "interlock-app";

fn stock(name: &str, key: &str, version: &str) -> String {
    format!("{name}:{}", std::env::var(key).as_deref().unwrap_or(version))
}

/// The kinds of proxy, for tests that every proxy must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Haproxy, Self::Nginx];

    /// As labels write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// The stock image.
    pub fn stock(self) -> &'static str {
        match self {
            Self::Haproxy => &HAPROXY,
            Self::Nginx => &NGINX,
        }
    }

    /// The image with the agent as its entry point.
    pub const fn agent(self) -> &'static str {
        match self {
            Self::Haproxy => "interlock-haproxy",
            Self::Nginx => "interlock-nginx",
        }
    }
}

/// A network of a test, by its full name.
pub type Network = String;

/// A test's world.
#[derive(Debug)]
pub struct World {
    docker: Docker,
    /// The engine's socket, as the operator's container mounts it.
    socket: String,
    prefix: String,
}

impl World {
    /// Makes a world on the machine's engine, runs a test in it, and removes it. If the test fails, the logs of
    /// its containers are shown.
    pub async fn run(test: &str, body: impl AsyncFnOnce(&Self) -> Result) -> Result {
        let socket = match std::env::var("DOCKER_HOST")
            .ok()
            .as_deref()
            .and_then(|host| host.strip_prefix("unix://"))
        {
            Some(socket) => socket.to_owned(),
            None => "/var/run/docker.sock".to_owned(),
        };
        Self::run_on(&socket, test, body).await
    }

    /// The same on the engine behind a socket.
    pub async fn run_on(socket: &str, test: &str, body: impl AsyncFnOnce(&Self) -> Result) -> Result {
        let world = Self::open(socket, test).await?;
        // Boxed: a whole test is a large future.
        let result = Box::pin(body(&world)).await;
        if result.is_err() {
            show(&world.docker, &format!("{LABEL}={}", world.prefix)).await;
        }
        // Dropping removes it, panics included.
        drop(world);
        result
    }

    /// A world that lives until it is dropped, for tests that are more than one closure.
    pub async fn open(socket: &str, test: &str) -> Result<Self> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let docker = Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION)?;
        docker
            .ping()
            .await
            .map_err(|error| format!("no engine at {socket}: {error} (`make e2e` starts it)"))?;
        sweep(&docker).await;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("il-e2e-{}-{number}-{test}", std::process::id());
        Ok(Self { docker, socket: socket.to_owned(), prefix })
    }

    /// The engine.
    pub const fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The engine's socket.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// The label on everything of this world, key and value.
    pub fn label(&self) -> (String, String) {
        (LABEL.to_owned(), self.prefix.clone())
    }

    /// The full name of something of this world.
    pub fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    /// A host name that no other world has.
    pub fn host(&self, short: &str) -> String {
        format!("{short}.{}.test", self.prefix)
    }

    /// A bridge network.
    pub async fn network(&self, short: &str) -> Result<Network> {
        self.network_of(short, NetworkCreateRequest::default()).await
    }

    /// A bridge network with IPv6 beside IPv4, in a range of its own of `fd00::/8`.
    pub async fn network6(&self, short: &str) -> Result<Network> {
        static RANGES: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), RANGES.fetch_add(1, Ordering::Relaxed));
        let subnet = format!("fd69:{:x}:{:x}:{number:x}::/64", process >> 16, process & 0xffff);
        let range = IpamConfig { subnet: Some(subnet), ..IpamConfig::default() };
        let ipam = Ipam { config: Some(vec![range]), ..Ipam::default() };
        let request = NetworkCreateRequest {
            enable_ipv6: Some(true),
            ipam: Some(ipam),
            ..NetworkCreateRequest::default()
        };
        self.network_of(short, request).await
    }

    async fn network_of(&self, short: &str, request: NetworkCreateRequest) -> Result<Network> {
        let name = self.name(short);
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(HashMap::from([self.label()])),
            ..request
        };
        self.docker.create_network(request).await?;
        Ok(name)
    }

    /// A volume.
    pub async fn volume(&self, short: &str) -> Result<String> {
        let name = self.name(short);
        let request = bollard::models::VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(HashMap::from([self.label()])),
            ..bollard::models::VolumeCreateRequest::default()
        };
        self.docker.create_volume(request).await?;
        Ok(name)
    }

    /// An image made of another one and further lines of a Dockerfile; removed with the world. `image` must be a name
    /// that the engine takes: lower case.
    pub fn image(&self, image: &str, from: &str, lines: &[&str]) -> Result {
        let (key, value) = self.label();
        let text = format!("FROM {}\n{}\nLABEL {key}={value}\n", crate::image(from), lines.join("\n"));
        let mut build = Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", self.socket))
            .env("DOCKER_BUILDKIT", "0")
            .args(["build", "-q", "-t", image, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        build.stdin.take().ok_or("no input of docker build")?.write_all(text.as_bytes())?;
        let output = build.wait_with_output()?;
        crate::ensure!(output.status.success(), "docker build: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A container, to be described further and started.
    pub fn container(&self, short: &str, image: &str) -> Run<'_> {
        Run::new(self, short, image)
    }

    /// An app that answers with its short name, in a network.
    pub fn app(&self, short: &str, network: &str) -> Run<'_> {
        self.container(short, APP).env("NAME", short).network(network)
    }

    /// A stock proxy that the operator finds by its label, in a network.
    pub fn proxy(&self, kind: Kind, network: &str) -> Run<'_> {
        self.container(kind.as_str(), kind.stock())
            .label("interlock.ext.name", kind.as_str())
            .network(network)
    }
}

/// Shows what the containers with a label wrote last, on standard error.
async fn show(docker: &Docker, label: &str) {
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(options)).await.unwrap_or_default() {
        let name = container.names.unwrap_or_default().join(" ");
        let id = container.id.unwrap_or_default();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("60").build();
        let lines: Vec<_> = docker.logs(&id, Some(options)).try_collect().await.unwrap_or_default();
        say(&format!("--- {name}: {}", container.status.unwrap_or_default()));
        say(lines.iter().map(ToString::to_string).collect::<String>().trim_end());
    }
}

#[expect(clippy::print_stderr, reason = "the test runner shows it beside the failure")]
fn say(line: &str) {
    eprintln!("{line}");
}

impl Drop for World {
    fn drop(&mut self) {
        let (socket, label) = (self.socket.clone(), format!("{LABEL}={}", self.prefix));
        let panicking = std::thread::panicking();
        // A drop cannot await, and the test's runtime may be on its way out: a runtime of its own does it.
        let removal = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                // A pooled connection belongs to the runtime that made it.
                let docker = Docker::connect_with_unix(&socket, 60, bollard::API_DEFAULT_VERSION);
                let Ok(docker) = docker else { return };
                if panicking {
                    show(&docker, &label).await;
                }
                remove(&docker, &label).await;
            });
        });
        let _ = removal.join();
    }
}

/// Removes what tests of processes that are gone left behind.
async fn sweep(docker: &Docker) {
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&HashMap::from([("label", vec![LABEL])]))
        .build();
    let mut worlds: Vec<String> = Vec::new();
    for container in docker.list_containers(Some(options)).await.unwrap_or_default() {
        worlds.extend(container.labels.unwrap_or_default().remove(LABEL));
    }
    let options = ListNetworksOptionsBuilder::new().filters(&HashMap::from([("label", vec![LABEL])])).build();
    for network in docker.list_networks(Some(options)).await.unwrap_or_default() {
        worlds.extend(network.labels.unwrap_or_default().remove(LABEL));
    }
    worlds.sort();
    worlds.dedup();
    for world in worlds {
        let process = world.strip_prefix("il-e2e-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(docker, &format!("{LABEL}={world}")).await;
        }
    }
}

/// Removes everything with a label; tries again for a while, because the engine is still busy with some of it.
async fn remove(docker: &Docker, label: &str) {
    let filters = HashMap::from([("label", vec![label])]);
    for _ in 0..20 {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = docker.list_containers(Some(options)).await.unwrap_or_default();
        let removals = containers.iter().filter_map(|container| container.id.as_deref()).map(|id| {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            docker.remove_container(id, Some(options))
        });
        futures_util::future::join_all(removals).await;
        let networks = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let networks = docker.list_networks(Some(networks)).await.unwrap_or_default();
        for id in networks.iter().filter_map(|network| network.id.as_deref()) {
            let _ = docker.remove_network(id).await;
        }
        let volumes = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let volumes =
            docker.list_volumes(Some(volumes)).await.ok().and_then(|list| list.volumes).unwrap_or_default();
        for volume in &volumes {
            let options = RemoveVolumeOptionsBuilder::new().force(true).build();
            let _ = docker.remove_volume(&volume.name, Some(options)).await;
        }
        let images = ListImagesOptionsBuilder::new().filters(&filters).build();
        for image in docker.list_images(Some(images)).await.unwrap_or_default() {
            let options = RemoveImageOptionsBuilder::new().force(true).build();
            let _ = docker.remove_image(&image.id, Some(options), None).await;
        }
        if containers.is_empty() && networks.is_empty() && volumes.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
