//! Containers of a test: how one is described, and what can be done to one that runs.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, ExecConfig, HealthConfig, HostConfig,
    NetworkingConfig, PortBinding, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, RestartContainerOptionsBuilder, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde_json::json;

use crate::{Result, World};

/// A container to be run; the methods are named like the options of `docker run`.
#[derive(Debug, Clone)]
pub struct Run<'w> {
    world: &'w World,
    name: String,
    networks: Vec<String>,
    files: Vec<(String, Vec<u8>, u32)>,
    body: ContainerCreateBody,
    host: HostConfig,
}

impl<'w> Run<'w> {
    pub(crate) fn new(world: &'w World, short: &str, image: &str) -> Self {
        let body = ContainerCreateBody {
            image: Some(crate::image(image)),
            labels: Some(HashMap::from([world.label()])),
            env: Some(Vec::new()),
            exposed_ports: Some(Vec::new()),
            ..ContainerCreateBody::default()
        };
        Self {
            world,
            name: world.name(short),
            networks: Vec::new(),
            files: Vec::new(),
            body,
            host: HostConfig { port_bindings: Some(HashMap::new()), ..HostConfig::default() },
        }
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.body.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.body.env.get_or_insert_default().push(format!("{key}={value}"));
        self
    }

    /// The container's host name.
    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        self.body.hostname = Some(hostname.to_owned());
        self
    }

    /// A network to join, by its full name; the first is joined at creation. None: the engine's default bridge.
    #[must_use]
    pub fn network(mut self, network: &str) -> Self {
        self.networks.push(network.to_owned());
        self
    }

    /// `host`, `none`, `container:…`.
    #[must_use]
    pub fn network_mode(mut self, mode: &str) -> Self {
        self.host.network_mode = Some(mode.to_owned());
        self
    }

    /// An exposed TCP port.
    #[must_use]
    pub fn expose(mut self, port: u16) -> Self {
        self.body.exposed_ports.get_or_insert_default().push(format!("{port}/tcp"));
        self
    }

    /// A TCP port published on a free port of this address.
    #[must_use]
    pub fn publish(mut self, address: &str, port: u16) -> Self {
        let binding = PortBinding { host_ip: Some(address.to_owned()), host_port: Some(String::new()) };
        self.host.port_bindings.get_or_insert_default().insert(format!("{port}/tcp"), Some(vec![binding]));
        self.expose(port)
    }

    /// Another entry point than the image's.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.body.entrypoint = Some(words.iter().map(|word| (*word).to_owned()).collect());
        self
    }

    /// The command behind the entry point.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.body.cmd = Some(words.iter().map(|word| (*word).to_owned()).collect());
        self
    }

    /// A bind mount or volume, as `-v` takes it.
    #[must_use]
    pub fn volume(mut self, bind: &str) -> Self {
        self.host.binds.get_or_insert_default().push(bind.to_owned());
        self
    }

    /// A file that is put into the container before it starts.
    #[must_use]
    pub fn file(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.file_of_mode(path, content, 0o644)
    }

    /// The same with another mode.
    #[must_use]
    pub fn file_of_mode(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.files.push((path.to_owned(), content.into(), mode));
        self
    }

    /// Without a capability: `DAC_OVERRIDE`, by which root reads what it may not.
    #[must_use]
    pub fn without(mut self, capability: &str) -> Self {
        self.host.cap_drop.get_or_insert_default().push(capability.to_owned());
        self
    }

    /// A health check that runs `words` every 300 ms; two failures in a row count.
    #[must_use]
    pub fn health(mut self, words: &[&str]) -> Self {
        const MILLISECOND: i64 = 1_000_000;
        let test = std::iter::once("CMD").chain(words.iter().copied()).map(str::to_owned).collect();
        self.body.healthcheck = Some(HealthConfig {
            test: Some(test),
            interval: Some(300 * MILLISECOND),
            timeout: Some(2000 * MILLISECOND),
            retries: Some(2),
            ..HealthConfig::default()
        });
        self
    }

    /// `--ulimit nofile=…`, soft and hard.
    #[must_use]
    pub fn open_files(mut self, most: i64) -> Self {
        let name = Some("nofile".to_owned());
        let limit = ResourcesUlimits { name, soft: Some(most), hard: Some(most) };
        self.host.ulimits.get_or_insert_default().push(limit);
        self
    }

    /// `--memory`, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: i64) -> Self {
        self.host.memory = Some(bytes);
        self
    }

    /// Without IPv6 sockets, as where the kernel was booted with `ipv6.disable=1`.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        let refused = json!({
            "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": rustix::io::Errno::AFNOSUPPORT.raw_os_error(),
            "args": [{ "index": 0, "op": "SCMP_CMP_EQ", "value": 10 }],
        });
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused] });
        self.host.security_opt.get_or_insert_default().push(format!("seccomp={profile}"));
        self
    }

    /// `--sysctl`.
    #[must_use]
    pub fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.host.sysctls.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// A read-only root file system.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.host.readonly_rootfs = Some(true);
        self
    }

    /// An in-memory file system.
    #[must_use]
    pub fn tmpfs(mut self, path: &str) -> Self {
        self.host.tmpfs.get_or_insert_default().insert(path.to_owned(), String::new());
        self
    }

    /// `--restart=always`.
    #[must_use]
    pub fn restart_always(mut self) -> Self {
        self.host.restart_policy =
            Some(RestartPolicy { name: Some(RestartPolicyNameEnum::ALWAYS), maximum_retry_count: None });
        self
    }

    /// The user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.body.user = Some(user.to_owned());
        self
    }

    /// Seconds between stop signal and kill.
    #[must_use]
    pub fn stop_timeout(mut self, seconds: i64) -> Self {
        self.body.stop_timeout = Some(seconds);
        self
    }

    /// The signal that asks for its end.
    #[must_use]
    pub fn stop_signal(mut self, signal: &str) -> Self {
        self.body.stop_signal = Some(signal.to_owned());
        self
    }

    /// Creates it without starting it.
    pub async fn create(mut self) -> Result<Container> {
        let docker = self.world.docker();
        if let Some(first) = self.networks.first() {
            let endpoints = HashMap::from([(first.clone(), EndpointSettings::default())]);
            self.body.networking_config = Some(NetworkingConfig { endpoints_config: Some(endpoints) });
            self.host.network_mode = Some(first.clone());
        }
        self.body.host_config = Some(self.host);
        let image = self.body.image.clone().unwrap_or_default();
        let options = CreateContainerOptionsBuilder::new().name(&self.name).build();
        let created = docker.create_container(Some(options), self.body).await.map_err(|error| {
            format!("container {} of {image}: {error} (the images are built by `make image`)", self.name)
        })?;
        let container = Container { docker: docker.clone(), name: self.name, id: created.id };
        for network in self.networks.iter().skip(1) {
            container.connect(network).await?;
        }
        for (path, content, mode) in self.files {
            container.put_of_mode(&path, &content, mode).await?;
        }
        Ok(container)
    }

    /// Creates it and starts it.
    pub async fn start(self) -> Result<Container> {
        let container = self.create().await?;
        container.start().await?;
        Ok(container)
    }
}

/// A container of a test.
#[derive(Debug, Clone)]
pub struct Container {
    docker: Docker,
    /// Its full name.
    pub name: String,
    /// Its id.
    pub id: String,
}

/// What a command in a container did.
#[derive(Debug, Clone)]
pub struct Executed {
    /// Its exit code.
    pub code: i64,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Container {
    /// `docker start`.
    pub async fn start(&self) -> Result {
        Ok(self.docker.start_container(&self.id, None).await?)
    }

    /// `docker stop`, with a stop time of ten seconds.
    pub async fn stop(&self) -> Result {
        let options = StopContainerOptionsBuilder::new().t(10).build();
        Ok(self.docker.stop_container(&self.id, Some(options)).await?)
    }

    /// `docker restart`.
    pub async fn restart(&self) -> Result {
        let options = RestartContainerOptionsBuilder::new().t(10).build();
        Ok(self.docker.restart_container(&self.id, Some(options)).await?)
    }

    /// `docker kill -s SIGNAL`.
    pub async fn kill(&self, signal: &str) -> Result {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        Ok(self.docker.kill_container(&self.id, Some(options)).await?)
    }

    /// `docker pause`.
    pub async fn pause(&self) -> Result {
        Ok(self.docker.pause_container(&self.id).await?)
    }

    /// `docker unpause`.
    pub async fn unpause(&self) -> Result {
        Ok(self.docker.unpause_container(&self.id).await?)
    }

    /// `docker rm -f -v`.
    pub async fn remove(&self) -> Result {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        Ok(self.docker.remove_container(&self.id, Some(options)).await?)
    }

    /// `docker network connect`.
    pub async fn connect(&self, network: &str) -> Result {
        let request =
            bollard::models::NetworkConnectRequest { container: self.id.clone(), endpoint_config: None };
        Ok(self.docker.connect_network(network, request).await?)
    }

    /// `docker inspect`.
    pub async fn inspect(&self) -> Result<ContainerInspectResponse> {
        Ok(self.docker.inspect_container(&self.id, None).await?)
    }

    /// Whether it runs.
    pub async fn running(&self) -> Result<bool> {
        Ok(self.inspect().await?.state.and_then(|state| state.running).unwrap_or(false))
    }

    /// The networks that it is in, sorted.
    pub async fn networks(&self) -> Result<Vec<String>> {
        let networks = self.inspect().await?.network_settings.and_then(|settings| settings.networks);
        let mut names: Vec<String> = networks.unwrap_or_default().into_keys().collect();
        names.sort();
        Ok(names)
    }

    /// Its IPv4 address in a network, by the network's full name.
    pub async fn address(&self, network: &str) -> Result<IpAddr> {
        let networks = self.inspect().await?.network_settings.and_then(|settings| settings.networks);
        let address = networks.unwrap_or_default().remove(network).and_then(|endpoint| endpoint.ip_address);
        let address = address.filter(|address| !address.is_empty());
        Ok(address.ok_or_else(|| format!("{} has no address in {network}", self.name))?.parse()?)
    }

    /// Its global IPv6 address in a network, by the network's full name.
    pub async fn address6(&self, network: &str) -> Result<Ipv6Addr> {
        let networks = self.inspect().await?.network_settings.and_then(|settings| settings.networks);
        let address = networks.unwrap_or_default().remove(network).and_then(|it| it.global_ipv6_address);
        let address = address.filter(|address| !address.is_empty());
        Ok(address.ok_or_else(|| format!("{} has no IPv6 address in {network}", self.name))?.parse()?)
    }

    /// `docker export`: every file of its own file system, by path; mounts are empty folders there.
    pub async fn export(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut pieces = std::pin::pin!(self.docker.export_container(&self.id));
        let mut archive = Vec::new();
        while let Some(piece) = pieces.try_next().await? {
            archive.extend_from_slice(&piece);
        }
        let mut files = Vec::new();
        for entry in tar::Archive::new(&archive[..]).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.push((path, content));
        }
        Ok(files)
    }

    /// A port on its own address: past the engine's userland proxy, which accepts before anybody listens.
    pub async fn at(&self, network: &str, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.address(network).await?, port))
    }

    /// Where a port is published.
    pub async fn published(&self, port: u16) -> Result<SocketAddr> {
        let ports = self.inspect().await?.network_settings.and_then(|settings| settings.ports);
        let bindings = ports.unwrap_or_default().remove(&format!("{port}/tcp")).flatten().unwrap_or_default();
        let binding =
            bindings.into_iter().next().ok_or_else(|| format!("{} publishes no {port}", self.name))?;
        let address: IpAddr = binding.host_ip.unwrap_or_default().parse()?;
        Ok(SocketAddr::new(address, binding.host_port.unwrap_or_default().parse()?))
    }

    /// What it has written so far, standard output and error together.
    pub async fn logs(&self) -> Result<String> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let lines: Vec<LogOutput> = self.docker.logs(&self.id, Some(options)).try_collect().await?;
        Ok(lines.iter().map(ToString::to_string).collect())
    }

    /// Runs a command in it.
    pub async fn exec(&self, words: &[&str]) -> Result<Executed> {
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some("0".to_owned()),
            cmd: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            ..ExecConfig::default()
        };
        let id = self.docker.create_exec(&self.id, config).await?.id;
        let mut done = Executed { code: -1, out: String::new(), err: String::new() };
        if let StartExecResults::Attached { mut output, .. } = self.docker.start_exec(&id, None).await? {
            while let Some(piece) = output.try_next().await? {
                match piece {
                    LogOutput::StdErr { .. } => done.err.push_str(&piece.to_string()),
                    _ => done.out.push_str(&piece.to_string()),
                }
            }
        }
        done.code = self.docker.inspect_exec(&id).await?.exit_code.unwrap_or(-1);
        Ok(done)
    }

    /// Writes a file into it, running or not; the folder need not exist.
    pub async fn put(&self, path: &str, content: &[u8]) -> Result {
        self.put_of_mode(path, content, 0o644).await
    }

    async fn put_of_mode(&self, path: &str, content: &[u8], mode: u32) -> Result {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len())?);
        header.set_mode(mode);
        archive.append_data(&mut header, path.trim_start_matches('/'), content)?;
        let archive = bollard::body_full(Bytes::from(archive.into_inner()?));
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        Ok(self.docker.upload_to_container(&self.id, Some(options), archive).await?)
    }

    /// Waits until it no longer runs.
    pub async fn ended(&self, deadline: Duration) -> Result {
        crate::eventually(deadline, &format!("the end of {}", self.name), async || {
            crate::ensure!(!self.running().await?, "it runs");
            Ok(())
        })
        .await
    }
}
