//! From the engine's answers to the core's container, leaving behind everything that routing does not need.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum,
    EndpointSettings, HealthStatusEnum, ImageInspect, MountPoint, PortMap, PortSummary, PortSummaryTypeEnum,
};
use interlock_core::model::{
    Attachment, Container, ContainerId, ContainerState, Health, Port, PublishedPort, Timestamp,
};

use crate::docker::actions::ATTACHED_BY;

/// The labels that may mean something to routing; all others stay behind.
const PREFIXES: [&str; 4] = ["interlock.", "com.docker.lb.", "com.docker.compose.", "com.docker.swarm."];
/// The one environment variable that is read.
const DATA: &str = "INTERLOCK_DATA=";
/// Docker's default when a container names no stop timeout, in seconds.
const STOP_TIMEOUT: u64 = 10;

/// A container as an inspection shows it, and what the source needs beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inspected {
    pub(super) container: Container,
    /// The image's id, to tell its labels from the container's own.
    pub(super) image_id: Option<String>,
    /// How long `docker stop` waits before it kills, in seconds.
    pub(super) stop_timeout: u64,
}

/// A container as a list shows it: enough to notice a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: ContainerId,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) created: Timestamp,
    pub(super) state: ContainerState,
    pub(super) health: Health,
    pub(super) exit_code: Option<i64>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) host_network: bool,
    pub(super) network_of: Option<ContainerId>,
    pub(super) networks: BTreeMap<String, Attachment>,
    pub(super) published: Vec<PublishedPort>,
    pub(super) mounts: BTreeSet<String>,
}

/// What an image says by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ImageFacts {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) data: Option<String>,
}

/// Whether a container's labels or data could be its image's, so that the image must be asked.
pub(super) fn asks_for_routing(container: &Container) -> bool {
    container.data.is_some() || has_routing_labels(&container.labels)
}

/// Whether any label is in one of Interlock's own vocabularies.
pub(super) fn has_routing_labels(labels: &BTreeMap<String, String>) -> bool {
    labels.keys().any(|key| key.starts_with("interlock.") || key.starts_with("com.docker.lb."))
}

pub(super) fn image_facts(answer: ImageInspect) -> ImageFacts {
    let config = answer.config.unwrap_or_default();
    ImageFacts { labels: labels(config.labels), data: data(config.env) }
}

/// None for an answer without an id, which cannot be.
pub(super) fn inspected(answer: ContainerInspectResponse) -> Option<Inspected> {
    let config = answer.config.unwrap_or_default();
    let host = answer.host_config.unwrap_or_default();
    let state = answer.state.unwrap_or_default();
    let network = answer.network_settings.unwrap_or_default();
    let status = match state.status {
        Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
        Some(ContainerStateStatusEnum::RUNNING) => ContainerState::Running,
        Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
        Some(ContainerStateStatusEnum::RESTARTING) => ContainerState::Restarting,
        Some(ContainerStateStatusEnum::REMOVING) => ContainerState::Removing,
        Some(ContainerStateStatusEnum::DEAD) => ContainerState::Dead,
        _ if state.running == Some(true) => ContainerState::Running,
        _ => ContainerState::Exited,
    };
    let alive = is_alive(status);
    let health = match state.health.and_then(|health| health.status) {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        _ => Health::None,
    };
    let mut mounts = mounts(answer.mounts);
    mounts.extend(host.tmpfs.unwrap_or_default().into_keys());
    let container = Container {
        id: answer.id?.parse().ok()?,
        name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        created: timestamp(answer.created.as_deref()),
        started: timestamp(state.started_at.as_deref()),
        state: status,
        health: if alive { health } else { Health::None },
        hostname: config.hostname.unwrap_or_default(),
        domainname: config.domainname.unwrap_or_default(),
        labels: labels(config.labels),
        image_labels: BTreeMap::new(),
        data: data(config.env),
        image_data: None,
        host_network: host.network_mode.as_deref() == Some("host"),
        network_of: network_of(host.network_mode.as_deref()),
        networks: attachments(network.networks),
        published: published(network.ports),
        exposed: config.exposed_ports.iter().flatten().filter_map(|text| tcp_port(text)).collect(),
        stop_signal: config.stop_signal.unwrap_or_default(),
        exit_code: if alive { None } else { state.exit_code },
        stopped_by_request: false,
        mounts,
        read_only: host.readonly_rootfs == Some(true),
    };
    let stop_timeout =
        config.stop_timeout.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(STOP_TIMEOUT);
    Some(Inspected { container, image_id: answer.image, stop_timeout })
}

/// None for an entry without an id, which cannot be.
pub(super) fn listed(entry: ContainerSummary) -> Option<Listed> {
    let state = match entry.state {
        Some(ContainerSummaryStateEnum::CREATED) => ContainerState::Created,
        // A container that is being stopped still runs.
        Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::STOPPING) => {
            ContainerState::Running
        }
        Some(ContainerSummaryStateEnum::PAUSED) => ContainerState::Paused,
        Some(ContainerSummaryStateEnum::RESTARTING) => ContainerState::Restarting,
        Some(ContainerSummaryStateEnum::REMOVING) => ContainerState::Removing,
        Some(ContainerSummaryStateEnum::DEAD) => ContainerState::Dead,
        Some(ContainerSummaryStateEnum::EXITED | ContainerSummaryStateEnum::EMPTY) | None => {
            ContainerState::Exited
        }
    };
    let status = entry.status.unwrap_or_default();
    let mode = entry.host_config.and_then(|host| host.network_mode);
    Some(Listed {
        id: entry.id?.parse().ok()?,
        name: primary_name(entry.names.unwrap_or_default()),
        image: entry.image.unwrap_or_default(),
        created: Timestamp(u64::try_from(entry.created.unwrap_or(0)).unwrap_or(0).saturating_mul(1000)),
        state,
        health: health_of(&status),
        exit_code: exit_code_of(&status),
        labels: labels(entry.labels),
        host_network: mode.as_deref() == Some("host"),
        network_of: network_of(mode.as_deref()),
        networks: attachments(entry.network_settings.and_then(|settings| settings.networks)),
        published: published_summary(entry.ports.unwrap_or_default()),
        mounts: mounts(entry.mounts),
    })
}

impl Listed {
    /// The container as far as a list tells.
    pub(super) fn into_container(self) -> Container {
        Container {
            id: self.id,
            name: self.name,
            image: self.image,
            created: self.created,
            started: Timestamp::default(),
            state: self.state,
            health: self.health,
            hostname: String::new(),
            domainname: String::new(),
            labels: self.labels,
            image_labels: BTreeMap::new(),
            data: None,
            image_data: None,
            host_network: self.host_network,
            network_of: self.network_of,
            networks: self.networks,
            published: self.published,
            exposed: BTreeSet::new(),
            stop_signal: String::new(),
            exit_code: self.exit_code,
            stopped_by_request: false,
            mounts: self.mounts,
            read_only: false,
        }
    }
}

/// The other container in a network mode of `container:<id>`.
fn network_of(mode: Option<&str>) -> Option<ContainerId> {
    mode?.strip_prefix("container:")?.parse().ok()
}

/// Whether a container in this state has processes, addresses and published ports.
pub(super) fn is_alive(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused)
}

fn labels(all: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    let kept = |key: &str| PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    all.unwrap_or_default().into_iter().filter(|(key, _)| kept(key)).collect()
}

fn data(environment: Option<Vec<String>>) -> Option<String> {
    environment?.into_iter().find_map(|variable| variable.strip_prefix(DATA).map(str::to_owned))
}

/// Docker's RFC 3339 time in milliseconds; its "never" (year 1) and what cannot be read are 0.
fn timestamp(text: Option<&str>) -> Timestamp {
    let parsed = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    Timestamp(parsed.and_then(|time| u64::try_from(time.as_millisecond()).ok()).unwrap_or(0))
}

fn attachments(networks: Option<HashMap<String, EndpointSettings>>) -> BTreeMap<String, Attachment> {
    let address = |text: Option<String>| text.and_then(|text| text.parse::<IpAddr>().ok());
    networks
        .unwrap_or_default()
        .into_iter()
        .map(|(name, endpoint)| {
            let attachment = Attachment {
                ipv4: address(endpoint.ip_address),
                ipv6: address(endpoint.global_ipv6_address),
                gateway: address(endpoint.gateway),
                ours: endpoint.driver_opts.is_some_and(|options| options.contains_key(ATTACHED_BY)),
            };
            (name, attachment)
        })
        .collect()
}

fn tcp_port(text: &str) -> Option<Port> {
    text.strip_suffix("/tcp").unwrap_or(text).parse().ok()
}

fn published(ports: Option<PortMap>) -> Vec<PublishedPort> {
    let mut all: Vec<PublishedPort> = Vec::new();
    for (inside, bindings) in ports.unwrap_or_default() {
        let Some(container) = inside.strip_suffix("/tcp").and_then(tcp_port) else { continue };
        all.extend(bindings.unwrap_or_default().into_iter().filter_map(|binding| {
            let host_ip = binding.host_ip.filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some(PublishedPort {
                container,
                host_ip: host_ip.parse().ok()?,
                host: binding.host_port?.parse().ok()?,
            })
        }));
    }
    in_order(all)
}

fn published_summary(ports: Vec<PortSummary>) -> Vec<PublishedPort> {
    let tcp = ports.into_iter().filter(|port| port.typ == Some(PortSummaryTypeEnum::TCP));
    in_order(
        tcp.filter_map(|port| {
            Some(PublishedPort {
                container: port.private_port.try_into().ok()?,
                host_ip: port.ip?.parse().ok()?,
                host: port.public_port?.try_into().ok()?,
            })
        })
        .collect(),
    )
}

fn in_order(mut ports: Vec<PublishedPort>) -> Vec<PublishedPort> {
    ports.sort_by_key(|port| (port.container, port.host_ip, port.host));
    ports.dedup();
    ports
}

fn mounts(all: Option<Vec<MountPoint>>) -> BTreeSet<String> {
    all.unwrap_or_default().into_iter().filter_map(|mount| mount.destination).collect()
}

/// A container that others link to has more names, each with the linker's in front (`/other/alias`).
fn primary_name(names: Vec<String>) -> String {
    let plain = |name: &String| name.trim_start_matches('/').split('/').count() == 1;
    let index = names.iter().position(plain).unwrap_or(0);
    names.into_iter().nth(index).unwrap_or_default().trim_start_matches('/').to_owned()
}

/// Before API 1.52 a list tells the health only in words: `Up 2 minutes (healthy)`.
fn health_of(status: &str) -> Health {
    match status.rsplit_once(" (").map(|(_, word)| word.trim_end_matches(')')) {
        Some("health: starting") => Health::Starting,
        Some("healthy") => Health::Healthy,
        Some("unhealthy") => Health::Unhealthy,
        _ => Health::None,
    }
}

/// `Exited (137) 2 minutes ago`.
fn exit_code_of(status: &str) -> Option<i64> {
    let rest = status.strip_prefix("Exited (").or_else(|| status.strip_prefix("Restarting ("))?;
    rest.split_once(')')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_s_words_tell_health_and_exit_code() {
        assert_eq!(health_of("Up 2 minutes (healthy)"), Health::Healthy);
        assert_eq!(health_of("Up 1 second (health: starting)"), Health::Starting);
        assert_eq!(health_of("Up 1 second"), Health::None);
        assert_eq!(health_of("Up 3 hours (Paused)"), Health::None);
        assert_eq!(exit_code_of("Exited (137) 2 minutes ago"), Some(137));
        assert_eq!(exit_code_of("Up 2 minutes"), None);
    }

    #[test]
    fn links_do_not_rename_a_container() {
        assert_eq!(primary_name(vec!["/web/db".into(), "/db".into()]), "db");
    }

    #[test]
    fn nothing_but_routing_facts_leaves_the_answer() {
        let answer: ContainerInspectResponse = serde_json::from_str(
            r#"{"Id":"ab12","Name":"/web","Created":"2026-11-21T10:26:18.5Z","Image":"sha256:1",
            "State":{"Status":"exited","ExitCode":3,"StartedAt":"0001-01-01T00:00:00Z"},
            "Config":{"Env":["PASSWORD=hunter2","INTERLOCK_DATA={}"],"Labels":{"secret.token":"hunter2","interlock.host":"a.b"},
            "Image":"web:1","StopSignal":"SIGQUIT","ExposedPorts":{"80/tcp":{},"53/udp":{}}},
            "HostConfig":{"NetworkMode":"host","ReadonlyRootfs":true,"Tmpfs":{"/run":""}},
            "Mounts":[{"Type":"bind","Destination":"/etc/web"}],
            "NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"53/udp":[{"HostIp":"0.0.0.0","HostPort":"53"}],"9/tcp":null},
            "Networks":{"a":{"IPAddress":"","DriverOpts":{"interlock.attached":"true"}},"b":{"IPAddress":"10.0.0.2","Gateway":"10.0.0.1"}}}}"#,
        )
        .unwrap();
        let found = inspected(answer).unwrap();
        assert!(!format!("{found:?}").contains("hunter2"));
        let c = found.container;
        assert_eq!((c.started, c.created), (Timestamp(0), Timestamp(1_795_256_778_500)));
        assert_eq!((c.exit_code, c.host_network, c.read_only), (Some(3), true, true));
        assert_eq!(c.mounts, ["/etc/web".to_owned(), "/run".to_owned()].into());
        assert_eq!(c.exposed.iter().map(|p| p.get()).collect::<Vec<_>>(), [80]);
        assert_eq!(c.published.len(), 1);
        assert!(c.networks["a"].ours && !c.networks["b"].ours);
        assert_eq!(c.networks["b"].ip(), "10.0.0.2".parse().ok());
        assert_eq!(c.data.as_deref(), Some("{}"));
        assert_eq!(found.stop_timeout, 10);
    }
}
