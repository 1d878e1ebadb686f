//! One container as an engine reports it, reduced to what routing needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ContainerId, Port, Timestamp};

/// A container and everything about it that may decide a route. Only labels under `interlock.`,
/// `com.docker.lb.`, `com.docker.compose.` and `com.docker.swarm.` are kept, and of the environment only
/// `INTERLOCK_DATA`, so that nobody's secrets travel further than the engine's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Full id.
    pub id: ContainerId,
    /// Name without the leading slash.
    pub name: String,
    /// The image reference it was created from.
    #[serde(default)]
    pub image: String,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last started; a restart makes it a new endpoint for probes.
    #[serde(default)]
    pub started: Timestamp,
    /// What it is doing.
    pub state: ContainerState,
    /// What its `HEALTHCHECK` says.
    #[serde(default)]
    pub health: Health,
    /// `Config.Hostname`; Docker's default is the short id.
    #[serde(default)]
    pub hostname: String,
    /// `Config.Domainname`.
    #[serde(default)]
    pub domainname: String,
    /// The container's labels, the image's included: compare with `image_labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The labels that its image carries.
    #[serde(default)]
    pub image_labels: BTreeMap<String, String>,
    /// `INTERLOCK_DATA` from its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// `INTERLOCK_DATA` from its image's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_data: Option<String>,
    /// Whether it shares the engine host's network (`network_mode: host`).
    #[serde(default)]
    pub host_network: bool,
    /// The container whose network stack it shares (`network_mode: container:…`); what that one is
    /// attached to is then filled in as its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_of: Option<ContainerId>,
    /// The networks it is attached to, by name.
    #[serde(default)]
    pub networks: BTreeMap<String, Attachment>,
    /// TCP ports published on the engine's host.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// TCP ports that the container or its image exposes.
    #[serde(default)]
    pub exposed: BTreeSet<Port>,
    /// The signal that `docker stop` sends it, as `15` or `SIGTERM`; empty means SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
    /// The exit code of its last run, when it is not running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Whether its last run ended because a person or the engine told it to stop (a stop signal was
    /// sent), as far as was seen.
    #[serde(default)]
    pub stopped_by_request: bool,
    /// Paths inside the container that are mounts, for uploads that must not land on one.
    #[serde(default)]
    pub mounts: BTreeSet<String>,
    /// Whether its root file system is read-only.
    #[serde(default)]
    pub read_only: bool,
}

impl Container {
    /// What stands for somebody of whom no engine knows: it always runs, and nothing more is known of it.
    pub(crate) fn stand_in(id: ContainerId, name: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            image: String::new(),
            created: Timestamp::default(),
            started: Timestamp::default(),
            state: ContainerState::Running,
            health: Health::None,
            hostname: String::new(),
            domainname: String::new(),
            labels: BTreeMap::new(),
            image_labels: BTreeMap::new(),
            data: None,
            image_data: None,
            host_network: false,
            network_of: None,
            networks: BTreeMap::new(),
            published: Vec::new(),
            exposed: BTreeSet::new(),
            stop_signal: String::new(),
            exit_code: None,
            stopped_by_request: false,
            mounts: BTreeSet::new(),
            read_only: false,
        }
    }
}

/// Docker's container states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Paused.
    Paused,
    /// Between two runs of its restart policy.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// Could not be removed.
    Dead,
}

/// What Docker's `HEALTHCHECK` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// The container has no health check.
    #[default]
    None,
    /// Inside the start period or before the first result.
    Starting,
    /// The last check passed.
    Healthy,
    /// The check failed often enough.
    Unhealthy,
}

/// One network attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attachment {
    /// The container's IPv4 address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<IpAddr>,
    /// The container's IPv6 address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<IpAddr>,
    /// The network's gateway: the engine's host as seen from inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Whether Interlock made this attachment (and may undo it).
    #[serde(default)]
    pub ours: bool,
}

impl Attachment {
    /// The address to use: IPv4 where there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ipv4.or(self.ipv6)
    }
}

/// One published TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishedPort {
    /// The port inside the container.
    pub container: Port,
    /// The address it is bound to on the engine's host; `0.0.0.0` and `::` mean all.
    pub host_ip: IpAddr,
    /// The port on the engine's host.
    pub host: Port,
}
