//! What Interlock does to containers: attach to and detach from networks, and give a stock proxy its first
//! configuration. Everything else is the agent's work.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path};

use interlock_core::model::ContainerId;
use interlock_crds::ProxyKind;

use super::archive::Entry;
use super::{Client, DockerError};

/// The driver option that marks an attachment as Interlock's: it is kept by the engine over restarts of
/// engine, container and operator, and read back by list and inspect, on every network.
pub const ATTACHED_BY: &str = "interlock.attached";

/// Why an action on a container was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// The engine said no, or could not be reached.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Writing there would write a file of the host.
    #[error(
        "{path} in {container} lies on the mount {mount}: writing there would change the host's own file; \
         use the image interlock-{proxy}, or start the container without that mount"
    )]
    OnMount {
        /// The container's name.
        container: String,
        /// What would be written.
        path: String,
        /// The mount.
        mount: String,
        /// The proxy's name.
        proxy: &'static str,
    },
    /// Nothing can be written.
    #[error(
        "{container} has a read-only root file system: use the image interlock-{proxy}, \
         or start the container without --read-only"
    )]
    ReadOnlyRoot {
        /// The container's name.
        container: String,
        /// The proxy's name.
        proxy: &'static str,
    },
    /// A folder on the way is a symbolic link, which may lead onto a mount.
    #[error(
        "{link} in {container} is a symbolic link, so {path} may lie on a mount and write a file of the host: \
         use the image interlock-{proxy}, or an image without that link"
    )]
    ThroughLink {
        /// The container's name.
        container: String,
        /// What would be written.
        path: String,
        /// The link.
        link: String,
        /// The proxy's name.
        proxy: &'static str,
    },
    /// Not an absolute path of plain components.
    #[error("`{path}` is not an absolute path without `..`")]
    Path {
        /// The path.
        path: String,
    },
}

impl ActionError {
    /// Whether trying again cannot help before somebody changes the container or the configuration.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Docker(error) => {
                matches!(error, DockerError::ReadOnly { .. } | DockerError::Forbidden { .. })
            }
            Self::OnMount { .. }
            | Self::ReadOnlyRoot { .. }
            | Self::ThroughLink { .. }
            | Self::Path { .. } => true,
        }
    }
}

/// A file that a stock image wants before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstConfiguration {
    /// Where the official image looks for it.
    pub path: &'static str,
    /// Its content.
    pub text: String,
}

/// What the official image of `proxy` needs to start: HAProxy's exits without a configuration, nginx's
/// brings one. It answers 503 with `Retry-After` to everything until the agent takes over.
pub fn first_configuration(proxy: ProxyKind, http_port: u16) -> Option<FirstConfiguration> {
    match proxy {
        ProxyKind::Nginx => None,
        ProxyKind::Haproxy => Some(FirstConfiguration {
            path: "/usr/local/etc/haproxy/haproxy.cfg",
            text: format!(
                "# Written by Interlock so that the proxy can start; replaced as soon as it runs.\n\
                 defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n    \
                 timeout http-request 10s\n\n\
                 frontend interlock_first\n    bind *:{http_port}\n    \
                 http-request return status 503 content-type text/plain string \"starting\\n\" hdr Retry-After 1\n"
            ),
        }),
    }
}

/// Attaches `container` to `network` and marks the attachment as Interlock's; being attached already is no error.
pub async fn attach(client: &Client, network: &str, container: &ContainerId) -> Result<(), DockerError> {
    let mark = HashMap::from([(ATTACHED_BY.to_owned(), "true".to_owned())]);
    match client.connect_network(network, container.as_str(), mark).await {
        Err(DockerError::Answer { message, .. } | DockerError::Forbidden { message, .. })
            if message.contains("already exists in network") =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Detaches `container` from `network`; the caller knows that the attachment is Interlock's. That it is
/// detached already, or gone, is no error.
pub async fn detach(client: &Client, network: &str, container: &ContainerId) -> Result<(), DockerError> {
    match client.disconnect_network(network, container.as_str()).await {
        Err(DockerError::NotFound { .. }) => Ok(()),
        Err(DockerError::Answer { message, .. } | DockerError::Forbidden { message, .. })
            if message.contains("is not connected to") =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Puts a first configuration into a stopped proxy container and starts it. Touches nothing else; a
/// container that runs by now is left alone.
pub async fn boot(
    client: &Client,
    container: &ContainerId,
    proxy: ProxyKind,
    first: Option<&FirstConfiguration>,
) -> Result<(), ActionError> {
    let place = Place::look(client, container).await?;
    if place.running {
        return Ok(());
    }
    if let Some(first) = first {
        place.writable(client, container, first.path, proxy).await?;
        let (folder, file) = split(first.path)?;
        let content = first.text.as_bytes();
        let tar = Entry { folders: &[], file, size: content.len() as u64, mode: 0o644 }.whole(content);
        client.upload(container.as_str(), folder, tar).await?;
    }
    client.start(container.as_str()).await?;
    Ok(())
}

/// What decides whether something may be written into a container; looked at just before writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    running: bool,
    mounts: BTreeSet<String>,
    read_only: bool,
}

impl Place {
    pub(crate) async fn look(client: &Client, container: &ContainerId) -> Result<Self, DockerError> {
        let found = client.inspect(container.as_str()).await?;
        let host = found.host_config.unwrap_or_default();
        let mut mounts: BTreeSet<String> =
            found.mounts.unwrap_or_default().into_iter().filter_map(|mount| mount.destination).collect();
        mounts.extend(host.tmpfs.unwrap_or_default().into_keys());
        Ok(Self {
            name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            running: found.state.and_then(|state| state.running) == Some(true),
            mounts,
            read_only: host.readonly_rootfs == Some(true),
        })
    }

    /// Refuses a path that lies on a mount, on a read-only root, behind a symbolic link, or is no plain path.
    pub(crate) async fn writable(
        &self,
        client: &Client,
        container: &ContainerId,
        path: &str,
        proxy: ProxyKind,
    ) -> Result<(), ActionError> {
        self.allows(path, proxy)?;
        // The engine follows links of the folders: where they lead cannot be judged from here.
        let mut folders: Vec<&str> = path.match_indices('/').skip(1).map(|(end, _)| &path[..end]).collect();
        folders.push(path);
        for folder in folders {
            match client.stat(container.as_str(), folder).await? {
                None => break,
                Some(found) if found.link => {
                    return Err(ActionError::ThroughLink {
                        container: self.name.clone(),
                        path: path.to_owned(),
                        link: folder.to_owned(),
                        proxy: proxy.as_str(),
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn allows(&self, path: &str, proxy: ProxyKind) -> Result<(), ActionError> {
        let target = Path::new(path);
        let plain = target.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !target.is_absolute() || !plain {
            return Err(ActionError::Path { path: path.to_owned() });
        }
        if let Some(mount) = self.mounts.iter().find(|mount| target.starts_with(mount)) {
            return Err(ActionError::OnMount {
                container: self.name.clone(),
                path: path.to_owned(),
                mount: mount.clone(),
                proxy: proxy.as_str(),
            });
        }
        if self.read_only {
            return Err(ActionError::ReadOnlyRoot { container: self.name.clone(), proxy: proxy.as_str() });
        }
        Ok(())
    }
}

/// Folder and file name of a path that [`Place::writable`] accepted.
fn split(path: &str) -> Result<(&str, &str), ActionError> {
    match path.rsplit_once('/') {
        Some((folder, file)) if !file.is_empty() => Ok((if folder.is_empty() { "/" } else { folder }, file)),
        _ => Err(ActionError::Path { path: path.to_owned() }),
    }
}
