//! The client: every call that Interlock makes to an engine, counted, bounded in time and explained.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as Bollard;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerInspectResponse, ContainerSummary, EndpointSettings, EventMessage, ImageInspect,
    NetworkConnectRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder, EventsOptionsBuilder,
    InspectContainerOptions, ListContainersOptionsBuilder, StartContainerOptions,
    UploadToContainerOptionsBuilder,
};
use futures_util::{Stream, StreamExt as _};
use interlock_crds::DockerSpec;
use tokio::io::AsyncWrite;

use super::transport::{self, EngineClock};
use super::{Calls, DockerError, archive};

/// Where an engine listens when nothing else is said.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// The oldest API that Interlock was tried with: Docker 20.10.
pub const MINIMUM_API: &str = "1.41";
/// A call that takes longer has failed.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// One engine's API. Cheap to clone; clones share connections and counts.
#[derive(Clone)]
pub struct Client {
    docker: Docker,
    host: String,
    tls: bool,
    read_only: bool,
    /// Only containers with this label are listed, as `key` or `key=value`.
    selector: Option<String>,
    calls: Calls,
    clock: EngineClock,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.host)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFacts {
    /// The engine's version, `20.10.24`.
    pub version: String,
    /// The newest API that it speaks, `1.41`.
    pub api: String,
    /// Its processor architecture as Go names it, `amd64`.
    pub architecture: String,
}

/// What is known of a file inside a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is a symbolic link.
    pub link: bool,
}

/// An attached exec: frames from the process, and its standard input.
pub(crate) struct Exec {
    pub(crate) output: Pin<Box<dyn Stream<Item = Result<LogOutput, Bollard>> + Send>>,
    pub(crate) input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl Client {
    /// A client for the engine that `spec` names ([`DEFAULT_HOST`] if none). Reads the TLS files and
    /// sends nothing yet: [`Client::check`] does.
    pub fn connect(spec: &DockerSpec) -> Result<Self, DockerError> {
        let host = spec.host.as_deref().unwrap_or(DEFAULT_HOST).trim();
        let clock = EngineClock::default();
        let docker = transport::build(host, spec.tls.as_ref(), clock.clone(), TIMEOUT)?;
        Ok(Self {
            docker,
            host: host.to_owned(),
            tls: spec.tls.is_some(),
            read_only: spec.read_only,
            selector: spec.label_selector.clone(),
            calls: Calls::default(),
            clock,
        })
    }

    /// Asks the engine who it is; the way to a diagnosis at start.
    pub async fn check(&self) -> Result<EngineFacts, DockerError> {
        let version = self.call("version", self.docker.version()).await.map_err(|error| match error {
            DockerError::NotFound { message, .. } => {
                DockerError::NotDocker { host: self.host.clone(), why: message }
            }
            other => other,
        })?;
        let api = version.api_version.ok_or_else(|| DockerError::NotDocker {
            host: self.host.clone(),
            why: "it names no API version".to_owned(),
        })?;
        if api_number(&api) < api_number(MINIMUM_API) {
            return Err(DockerError::ApiTooOld { host: self.host.clone(), found: api, needed: MINIMUM_API });
        }
        Ok(EngineFacts {
            version: version.version.unwrap_or_default(),
            api,
            architecture: version.arch.unwrap_or_default(),
        })
    }

    /// The engine's URL, for people.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether every writing call is refused here.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The counts of calls, for `interlock_docker_requests_total`.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The address at which this engine's published ports are reached from elsewhere: a `tcp://` host's,
    /// resolved; none for a unix socket or a loopback address.
    pub async fn address(&self) -> Option<IpAddr> {
        let authority = self.host.strip_prefix("tcp://")?.trim_end_matches('/');
        let mut found = tokio::net::lookup_host(authority).await.ok()?;
        found.next().map(|addr| addr.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    }

    /// The cheapest question there is; afterwards the engine's clock is known.
    pub(crate) async fn ping(&self) -> Result<(), DockerError> {
        self.call("ping", self.docker.ping()).await.map(drop)
    }

    /// The engine's clock at its last answer, whole seconds since the epoch; 0 if it never answered.
    pub(crate) fn engine_seconds(&self) -> u64 {
        self.clock.seconds()
    }

    /// Events of the named actions since `since` (the engine's clock, seconds), first the past, then live.
    pub(crate) fn events(
        &self,
        since: u64,
        actions: &[&str],
    ) -> impl Stream<Item = Result<EventMessage, DockerError>> + Send + Unpin + use<> {
        self.calls.count("events");
        let filters = HashMap::from([("type", vec!["container", "network"]), ("event", actions.to_vec())]);
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        let stream = self.docker.events(Some(options));
        let (host, tls) = (self.host.clone(), self.tls);
        Box::pin(stream.map(move |item| item.map_err(|e| DockerError::explain(&host, tls, "events", &e))))
    }

    /// All containers that the selector takes, stopped ones too.
    pub(crate) async fn list(&self) -> Result<Vec<ContainerSummary>, DockerError> {
        let mut options = ListContainersOptionsBuilder::new().all(true);
        if let Some(selector) = &self.selector {
            options = options.filters(&HashMap::from([("label", vec![selector.as_str()])]));
        }
        self.call("container_list", self.docker.list_containers(Some(options.build()))).await
    }

    /// Whether the selector takes a container with these labels. Events are judged here and not by the
    /// engine, whose filter would drop every network event: those carry no container's labels.
    pub(crate) fn selects(&self, labels: &HashMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|selector| match selector.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(selector),
        })
    }

    /// One container.
    pub(crate) async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse, DockerError> {
        self.call("container_inspect", self.docker.inspect_container(id, None::<InspectContainerOptions>))
            .await
    }

    /// One image.
    pub(crate) async fn inspect_image(&self, id: &str) -> Result<ImageInspect, DockerError> {
        self.call("image_inspect", self.docker.inspect_image(id)).await
    }

    /// Attaches a container to a network. Writes.
    pub(crate) async fn connect_network(
        &self,
        network: &str,
        container: &str,
        driver_options: HashMap<String, String>,
    ) -> Result<(), DockerError> {
        self.writes("network_connect")?;
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(EndpointSettings {
                driver_opts: Some(driver_options),
                ..EndpointSettings::default()
            }),
        };
        self.call("network_connect", self.docker.connect_network(network, request)).await
    }

    /// Detaches a container from a network. Writes.
    pub(crate) async fn disconnect_network(&self, network: &str, container: &str) -> Result<(), DockerError> {
        self.writes("network_disconnect")?;
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(false) };
        self.call("network_disconnect", self.docker.disconnect_network(network, request)).await
    }

    /// Starts a container. Writes.
    pub(crate) async fn start(&self, container: &str) -> Result<(), DockerError> {
        self.writes("container_start")?;
        self.call("container_start", self.docker.start_container(container, None::<StartContainerOptions>))
            .await
    }

    /// What stands at `path` inside a container; none if nothing does.
    pub(crate) async fn stat(&self, container: &str, path: &str) -> Result<Option<FileFacts>, DockerError> {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        let answer =
            self.call("archive_stat", self.docker.get_container_archive_info(container, Some(options))).await;
        match answer {
            Ok(stat) => Ok(Some(FileFacts {
                size: u64::try_from(stat.size).unwrap_or(0),
                link: !stat.link_target.is_empty(),
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The files at `path` inside a container, which is a file or a folder, by their last component; none if nothing
    /// stands there. More than `limit` bytes are an error.
    pub(crate) async fn download(
        &self,
        container: &str,
        path: &str,
        limit: usize,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, DockerError> {
        let call = "archive_download";
        let broken = |why: String| DockerError::Broken { host: self.host.clone(), call, why };
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let whole = async {
            let mut pieces = std::pin::pin!(self.docker.download_from_container(container, Some(options)));
            let mut archive = Vec::new();
            while let Some(piece) = pieces.next().await {
                archive.extend_from_slice(&piece?);
                if archive.len() > limit {
                    return Ok(None);
                }
            }
            Ok(Some(archive))
        };
        match self.call(call, whole).await {
            Ok(Some(archive)) => {
                archive::files(&archive).map(Some).map_err(|error| broken(error.to_string()))
            }
            Ok(None) => Err(broken(format!("{path} has more than {limit} bytes"))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Unpacks a tar archive into the folder `path` of a container. Writes.
    pub(crate) async fn upload(
        &self,
        container: &str,
        path: &str,
        tar: bytes::Bytes,
    ) -> Result<(), DockerError> {
        self.writes("archive_upload")?;
        let options = UploadToContainerOptionsBuilder::new().path(path).build();
        let body = bollard::body_full(tar);
        self.call("archive_upload", self.docker.upload_to_container(container, Some(options), body)).await
    }

    /// The same for an archive that comes piece by piece. Writes.
    pub(crate) async fn upload_stream(
        &self,
        container: &str,
        path: &str,
        tar: impl Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static,
    ) -> Result<(), DockerError> {
        self.writes("archive_upload")?;
        let options = UploadToContainerOptionsBuilder::new().path(path).build();
        let body = bollard::body_try_stream(tar);
        self.call("archive_upload", self.docker.upload_to_container(container, Some(options), body)).await
    }

    /// Runs a command as root inside a running container, attached. Writes.
    pub(crate) async fn exec(&self, container: &str, command: Vec<String>) -> Result<Exec, DockerError> {
        self.writes("exec_create")?;
        let options = CreateExecOptions::<String> {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some("0".to_owned()),
            cmd: Some(command),
            ..CreateExecOptions::default()
        };
        let made = self.call("exec_create", self.docker.create_exec(container, options)).await?;
        let started =
            self.call("exec_start", self.docker.start_exec(&made.id, None::<StartExecOptions>)).await?;
        match started {
            StartExecResults::Attached { output, input } => Ok(Exec { output, input }),
            StartExecResults::Detached => Err(DockerError::Broken {
                host: self.host.clone(),
                call: "exec_start",
                why: "the engine did not attach".to_owned(),
            }),
        }
    }

    fn writes(&self, call: &'static str) -> Result<(), DockerError> {
        if self.read_only { Err(DockerError::ReadOnly { call }) } else { Ok(()) }
    }

    async fn call<T>(
        &self,
        call: &'static str,
        request: impl Future<Output = Result<T, Bollard>>,
    ) -> Result<T, DockerError> {
        self.calls.count(call);
        match tokio::time::timeout(TIMEOUT, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(DockerError::explain(&self.host, self.tls, call, &error)),
            Err(_) => Err(DockerError::Timeout { host: self.host.clone(), call, seconds: TIMEOUT.as_secs() }),
        }
    }
}

/// `1.41` as comparable numbers; what cannot be read counts as older than everything.
fn api_number(text: &str) -> (u32, u32) {
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .unwrap_or_default()
}
