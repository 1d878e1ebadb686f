//! What lies in a stock proxy's container, read through the engine without an agent: for an operator that only observes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::bundle::{Bundle, map_text};
use interlock_core::compile::Transport;
use interlock_core::model::{ContainerId, Digest, TargetId};
use interlock_core::plan::Abilities;
use interlock_core::protocol::MAX_FRAME;
use interlock_crds::ProxyKind;
use tokio::sync::{mpsc, watch};

use super::{Desired, Dial, Handle, Report};
use crate::agent::{Options, main_file};
use crate::docker::{Client, DockerError};
use crate::retry::Backoff;

/// Pause after a first failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What lies in a proxy's container.
#[derive(Debug, Clone)]
pub struct OnDisk {
    /// What an agent applied there last; none: the configuration is not ours.
    pub bundle: Option<Bundle>,
    /// Files of it that are not as the agent left them.
    pub edited: Vec<String>,
    /// The proxy's version as its image names it, else the oldest supported.
    pub abilities: Abilities,
}

/// Starts the task that reads a proxy's files once, and again at every nudge.
pub fn watch(
    dial: Arc<dyn Dial>,
    target: TargetId,
    transport: Transport,
    proxy: ProxyKind,
    reports: mpsc::Sender<(TargetId, Report)>,
) -> Handle {
    let (desired, mut receiver) = watch::channel(Desired::default());
    let task = tokio::spawn(async move {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let seen = receiver.borrow_and_update().nudge;
            let (report, pause) = match dial.look(&target, &transport, proxy).await {
                Ok(found) => {
                    backoff.reset();
                    (Report::OnDisk(Box::new(found)), None)
                }
                Err(error) => {
                    let retry_in = backoff.pause();
                    (Report::Lost { error, retry_in }, Some(retry_in))
                }
            };
            if reports.send((target.clone(), report)).await.is_err() {
                return;
            }
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None if receiver.wait_for(|desired| desired.nudge != seen).await.is_err() => return,
                None => {}
            }
        }
    });
    Handle { desired, task }
}

/// Reads it; three downloads and one inspection, nothing else.
pub(super) async fn read(
    client: &Client,
    container: &ContainerId,
    proxy: ProxyKind,
) -> Result<OnDisk, DockerError> {
    let id = container.as_str();
    let found = client.inspect(id).await?;
    let env = found.config.and_then(|config| config.env).unwrap_or_default();
    let main = named_main(proxy, &found.args.unwrap_or_default());
    let mut disk = OnDisk { bundle: None, edited: Vec::new(), abilities: abilities(proxy, &env) };
    let state = Options::new(Some(proxy)).state;
    let applied = one(client, id, &format!("{}/applied", state.display())).await?;
    let applied = applied.and_then(|text| String::from_utf8(text).ok()?.trim().parse::<Digest>().ok());
    let Some(applied) = applied else { return Ok(disk) };
    let folder = format!("{}/gen-{applied}", state.display());
    let Some(files) = client.download(id, &folder, MAX_FRAME).await? else { return Ok(disk) };
    disk.bundle = bundle(&files);
    if let Some(bundle) = &disk.bundle {
        disk.edited = edited(bundle, &files, one(client, id, &main).await?.as_deref());
    }
    Ok(disk)
}

/// One file.
async fn one(client: &Client, id: &str, path: &str) -> Result<Option<Vec<u8>>, DockerError> {
    let files = client.download(id, path, MAX_FRAME).await?;
    Ok(files.and_then(|files| files.into_values().next()))
}

/// What an agent noted beside the files of a generation.
fn bundle(files: &BTreeMap<String, Vec<u8>>) -> Option<Bundle> {
    serde_json::from_slice(files.get("bundle.json")?).ok().filter(Bundle::verify)
}

/// The files that differ from what the agent wrote: maps by their entries, the main file by the generation's copy.
fn edited(bundle: &Bundle, files: &BTreeMap<String, Vec<u8>>, main: Option<&[u8]>) -> Vec<String> {
    let name = main_file(bundle.proxy);
    let maps = bundle.live.maps.iter();
    let mut edited: Vec<String> = maps
        .filter(|(name, map)| files.get(*name).map(Vec::as_slice) != Some(map_text(map).as_bytes()))
        .map(|(name, _)| name.clone())
        .collect();
    if main != files.get(name).map(Vec::as_slice) {
        edited.push(name.to_owned());
    }
    edited
}

/// The main file that the container's command names, else the official image's.
fn named_main(proxy: ProxyKind, arguments: &[String]) -> String {
    let (option, usual) = match proxy {
        ProxyKind::Haproxy => ("-f", "/usr/local/etc/haproxy/haproxy.cfg"),
        ProxyKind::Nginx => ("-c", "/etc/nginx/nginx.conf"),
    };
    let named = arguments.windows(2).find(|pair| pair[0] == option).map(|pair| pair[1].clone());
    named.filter(|path| path.starts_with('/')).unwrap_or_else(|| usual.to_owned())
}

/// The official images name their version in the environment.
fn abilities(proxy: ProxyKind, env: &[String]) -> Abilities {
    let key = match proxy {
        ProxyKind::Haproxy => "HAPROXY_VERSION=",
        ProxyKind::Nginx => "NGINX_VERSION=",
    };
    let version = env.iter().find_map(|pair| pair.strip_prefix(key));
    let named = version.and_then(|version| {
        let mut numbers = version.split('.');
        Some(Abilities { proxy, major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    });
    named.unwrap_or(Abilities::oldest(proxy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_and_the_main_file_come_from_the_container() {
        let env = ["PATH=/bin".to_owned(), "HAPROXY_VERSION=3.2.1".to_owned()];
        assert_eq!(abilities(ProxyKind::Haproxy, &env).to_string(), "haproxy-3.2");
        assert_eq!(abilities(ProxyKind::Nginx, &env), Abilities::oldest(ProxyKind::Nginx));
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(named_main(ProxyKind::Haproxy, &words("haproxy -W -f /etc/h.cfg")), "/etc/h.cfg");
        assert_eq!(named_main(ProxyKind::Nginx, &words("nginx -g x")), "/etc/nginx/nginx.conf");
    }
}
