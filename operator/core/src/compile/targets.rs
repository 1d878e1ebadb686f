//! Which proxies there are, which cluster each belongs to, how its agent is reached and where it stands.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{ProxyKind, ServiceClusterSpec};

use super::{Boot, Config, Target, Transport};
use crate::finding::{Finding, Reason, Subject, Verdict, shown};
use crate::model::{
    ClusterName, Container, ContainerId, ContainerState, EngineId, Observed, TargetId, Timestamp,
};
use crate::plan::Abilities;

/// The label that makes a container a proxy, if it is the container's own.
pub const PROXY_LABEL: &str = "interlock.ext.name";
/// The label that the images with the agent as entry point carry: they are never entered by exec.
pub const AGENT_LABEL: &str = "interlock.agent";
/// The target that the operator's own outer process serves.
pub const EMBEDDED: &str = "embedded";

const KINDS: [ProxyKind; 2] = [ProxyKind::Haproxy, ProxyKind::Nginx];

/// A proxy that gets a plan.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub(super) id: TargetId,
    pub(super) cluster: &'a ClusterName,
    pub(super) spec: &'a ServiceClusterSpec,
    pub(super) proxy: ProxyKind,
    pub(super) trusted: bool,
    pub(super) abilities: Abilities,
    pub(super) stand: Stand<'a>,
}

/// Where a proxy stands: what decides which addresses it can reach.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stand<'a> {
    /// The engine on whose host it runs, where that is known.
    pub(super) engine: Option<&'a EngineId>,
    /// Its container, where it has one.
    pub(super) container: Option<&'a Container>,
    /// Whether it sees the host's own network.
    pub(super) host_network: bool,
}

/// Every proxy that was found.
#[derive(Debug, Default)]
pub(super) struct Proxies<'a> {
    pub(super) targets: BTreeMap<TargetId, Target>,
    /// Those that get a plan, sorted by id.
    pub(super) members: Vec<Member<'a>>,
    /// Containers that are proxies or agents: never routed to.
    pub(super) containers: BTreeSet<&'a ContainerId>,
    pub(super) boots: BTreeMap<ContainerId, Boot>,
}

/// Finds every proxy: the embedded one, those behind sockets, and labelled containers.
pub(super) fn find<'a>(
    observed: &'a Observed,
    config: &'a Config,
    findings: &mut Vec<Finding>,
) -> Proxies<'a> {
    let mut search = Search { observed, config, findings, found: Proxies::default() };
    search.embedded();
    search.sockets();
    search.labelled();
    search.missing();
    let mut found = search.found;
    found.members.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

/// Whether a label is the container's own: an equal one of its image does not count.
pub(super) fn own_label<'a>(container: &'a Container, key: &str) -> Option<&'a str> {
    let value = container.labels.get(key)?;
    (container.image_labels.get(key) != Some(value)).then_some(value.as_str())
}

pub(super) fn is_agent_image(container: &Container) -> bool {
    container.image_labels.contains_key(AGENT_LABEL)
}

pub(super) struct Search<'a, 'f> {
    pub(super) observed: &'a Observed,
    pub(super) config: &'a Config,
    pub(super) findings: &'f mut Vec<Finding>,
    pub(super) found: Proxies<'a>,
}

/// What is known of a target before its cluster is.
pub(super) struct Draft<'a> {
    pub(super) id: TargetId,
    pub(super) proxy: Option<ProxyKind>,
    pub(super) transport: Transport,
    pub(super) stand: Stand<'a>,
    pub(super) cluster: Option<(&'a ClusterName, &'a ServiceClusterSpec)>,
    pub(super) trusted: bool,
}

impl<'a> Search<'a, '_> {
    pub(super) fn containers(&self) -> impl Iterator<Item = (&'a EngineId, &'a Container)> + use<'a> {
        self.observed
            .engines
            .iter()
            .flat_map(|(engine, view)| view.containers.values().map(move |container| (engine, &**container)))
    }

    pub(super) fn add(&mut self, draft: Draft<'a>) {
        let said = self.observed.agents.get(&draft.id).map(|agent| agent.abilities);
        let abilities = said.filter(|abilities| Some(abilities.proxy) == draft.proxy);
        if let (Some(cluster), Some(proxy)) = (draft.cluster, draft.proxy) {
            if said.is_none() || abilities.is_some() {
                self.found.members.push(Member {
                    id: draft.id.clone(),
                    cluster: cluster.0,
                    spec: cluster.1,
                    proxy,
                    trusted: draft.trusted,
                    abilities: abilities.unwrap_or(Abilities::oldest(proxy)),
                    stand: draft.stand,
                });
            } else if let Some(said) = said {
                let message = format!(
                    "`{}` should run {}, but its agent found {said}: it is left alone",
                    draft.id,
                    proxy.as_str()
                );
                let subject = Subject { target: Some(draft.id.clone()), ..Subject::default() };
                let fix = format!("set the label `{PROXY_LABEL}={}`", said.proxy.as_str());
                self.findings
                    .push(Finding::new(Verdict::Refused, Reason::UnknownProxy, subject, message).fix(fix));
            }
        }
        let target = Target {
            cluster: draft.cluster.map(|(name, _)| name.clone()),
            proxy: draft.proxy,
            transport: draft.transport,
            container: draft.stand.container.map(|container| container.id.clone()),
            started: draft.stand.container.map_or(Timestamp::default(), |container| container.started),
            trusted: draft.trusted,
            abilities,
        };
        self.found.targets.insert(draft.id, target);
    }

    fn embedded(&mut self) {
        let Some(name) = &self.config.embedded else { return };
        let Ok(id) = EMBEDDED.parse::<TargetId>() else { return };
        let Some((name, spec)) = self.config.clusters.get_key_value(name) else {
            let subject = Subject { cluster: Some(name.clone()), target: Some(id), ..Subject::default() };
            let message = format!("the embedded proxy's cluster `{name}` is not configured");
            self.findings.push(Finding::new(Verdict::Refused, Reason::NoCluster, subject, message));
            return;
        };
        // In a container of its own the operator, and with it the proxy, sees that container's networks.
        let own = self.containers().find(|(_, c)| Some(&c.id) == self.observed.own_container.as_ref());
        let stand = match own {
            Some((engine, container)) => Stand {
                engine: Some(engine),
                container: Some(container),
                host_network: container.host_network,
            },
            None => Stand { engine: self.local_engine(), container: None, host_network: true },
        };
        self.add(Draft {
            id,
            proxy: Some(spec.proxy),
            transport: Transport::Embedded,
            stand,
            cluster: Some((name, spec)),
            trusted: true,
        });
    }

    /// The engine on this very host: one whose published ports need no address.
    fn local_engine(&self) -> Option<&'a EngineId> {
        self.observed.engines.iter().find(|(_, view)| view.address.is_none()).map(|(id, _)| id)
    }

    fn labelled(&mut self) {
        let containers: Vec<_> = self.containers().collect();
        for (engine, container) in containers {
            let Some(value) = container.labels.get(PROXY_LABEL) else { continue };
            let subject = || Subject::container(engine, container).with_key(PROXY_LABEL);
            if own_label(container, PROXY_LABEL).is_none() {
                if container.state == ContainerState::Running && !is_agent_image(container) {
                    self.findings.push(label_from_image(container, value, subject()));
                }
                continue;
            }
            let by_socket = self.found.containers.contains(&container.id);
            self.found.containers.insert(&container.id);
            let kind = KINDS.into_iter().find(|kind| kind.as_str() == value.trim().to_ascii_lowercase());
            let Some(kind) = kind else {
                self.findings.push(unknown_proxy(value, subject()));
                continue;
            };
            if is_agent_image(container) {
                self.socket_missing(container, subject());
            } else if !by_socket {
                self.stock(engine, container, kind, subject());
            }
        }
    }

    /// A stock image with the label: entered by exec while it runs, given a first configuration if it
    /// exited for want of one.
    fn stock(&mut self, engine: &'a EngineId, container: &'a Container, kind: ProxyKind, subject: Subject) {
        let chosen = match cluster_for(self.config, kind, &container.name) {
            Ok(chosen) => chosen,
            Err(why) => {
                self.findings.push(no_cluster(kind, &container.name, &why, subject));
                return;
            }
        };
        let (name, spec, trusted) = chosen;
        match container.state {
            ContainerState::Running if self.config.read_only => {
                let message = format!(
                    "`{}` is a stock image, and a read-only operator may not enter it",
                    container.name
                );
                let fix = format!("use the image `interlock-{}`, whose agent needs no exec", kind.as_str());
                self.findings
                    .push(Finding::new(Verdict::Refused, Reason::ReadOnlyDocker, subject, message).fix(fix));
            }
            ContainerState::Running => {
                let Some(id) = self.free_id(engine, container) else { return };
                let stand = Stand {
                    engine: Some(engine),
                    container: Some(container),
                    host_network: container.host_network,
                };
                self.add(Draft {
                    id,
                    proxy: Some(kind),
                    transport: Transport::Exec { engine: engine.clone(), container: container.id.clone() },
                    stand,
                    cluster: Some((name, spec)),
                    trusted,
                });
            }
            ContainerState::Exited | ContainerState::Restarting => {
                self.exited(
                    engine,
                    container,
                    Boot { engine: engine.clone(), proxy: kind, cluster: name.clone() },
                );
            }
            ContainerState::Paused => {
                let message = format!("the proxy `{}` is paused: it serves nobody", container.name);
                let fix = format!("docker unpause {}", container.name);
                self.findings
                    .push(Finding::new(Verdict::Note, Reason::ProxyStopped, subject, message).fix(fix));
            }
            ContainerState::Created | ContainerState::Removing | ContainerState::Dead => {}
        }
    }

    /// The container's name, unless a socket or another engine's container has it already.
    fn free_id(&self, engine: &EngineId, container: &Container) -> Option<TargetId> {
        let taken = |id: &TargetId| self.found.targets.contains_key(id) || id.as_str() == EMBEDDED;
        [container.name.clone(), format!("{engine}.{}", container.name), container.id.to_string()]
            .iter()
            .filter_map(|name| name.parse::<TargetId>().ok())
            .find(|id| !taken(id))
    }

    fn exited(&mut self, engine: &EngineId, container: &'a Container, boot: Boot) {
        let subject = Subject::container(engine, container);
        let name = &container.name;
        let fix = format!("docker start {name}");
        let had =
            self.observed.receipted.contains(&container.id) || self.observed.booted.contains(&container.id);
        let stopped = container.stopped_by_request || !exited_by_itself(container.exit_code);
        if stopped && container.state == ContainerState::Restarting {
            return; // The engine starts it again in a moment.
        }
        if stopped {
            let message = format!("the proxy `{name}` was stopped; Interlock leaves it stopped");
            self.findings.push(Finding::new(Verdict::Note, Reason::ProxyStopped, subject, message).fix(fix));
        } else if had {
            let code = container.exit_code.unwrap_or_default();
            let message = format!(
                "the proxy `{name}` exited with code {code} although it had a configuration; Interlock starts \
                 a proxy only once"
            );
            let fix = format!("see why (`docker logs {name}`), then `{fix}`");
            self.findings
                .push(Finding::new(Verdict::Refused, Reason::ProxyStopped, subject, message).fix(fix));
        } else if self.config.read_only {
            let message = format!(
                "the proxy `{name}` exited for want of a configuration, and a read-only operator may not \
                 give it one"
            );
            let fix = format!("use the image `interlock-{}`", boot.proxy.as_str());
            self.findings
                .push(Finding::new(Verdict::Refused, Reason::ReadOnlyDocker, subject, message).fix(fix));
        } else {
            self.found.boots.insert(container.id.clone(), boot);
        }
    }

    /// Clusters that name proxies of which none is there, and a run that has no proxy at all.
    fn missing(&mut self) {
        let mut any = !self.found.targets.is_empty() || !self.found.boots.is_empty();
        for (name, spec) in self.config.clusters.iter().filter(|(_, spec)| !spec.proxies.is_empty()) {
            let has = |target: &Target| target.cluster.as_ref() == Some(name);
            // A socket of that name whose agent has not spoken yet is the one, most likely.
            let unheard = |id: &TargetId| spec.proxies.iter().any(|proxy| proxy == id.as_str());
            let boots = |boot: &Boot| boot.cluster == *name;
            if self.found.targets.values().any(has)
                || self.found.targets.keys().any(unheard)
                || self.found.boots.values().any(boots)
            {
                continue;
            }
            any = true;
            let proxies = spec.proxies.join("`, `");
            let message = format!("none of the proxies of cluster `{name}` is there: `{proxies}`");
            let subject = Subject { cluster: Some(name.clone()), ..Subject::default() };
            let fix = run_line(spec.proxy, spec.proxies.first().map(String::as_str));
            self.findings.push(Finding::new(Verdict::Waiting, Reason::NoProxy, subject, message).fix(fix));
        }
        if !any && self.found.containers.is_empty() {
            let kind = self.config.clusters.values().next().map_or(ProxyKind::Haproxy, |spec| spec.proxy);
            let message = format!("there is no proxy: no running container has the label `{PROXY_LABEL}`");
            let fix = run_line(kind, None);
            self.findings
                .push(Finding::new(Verdict::Waiting, Reason::NoProxy, Subject::default(), message).fix(fix));
        }
    }
}

/// What a stop leaves behind is code 0 or a signal's (128 and more); a proxy without a configuration
/// exits with a small code of its own.
fn exited_by_itself(code: Option<i64>) -> bool {
    code.is_some_and(|code| (1..128).contains(&code))
}

fn run_line(kind: ProxyKind, name: Option<&str>) -> String {
    let kind = kind.as_str();
    let name = name.map(|name| format!("--name {name} ")).unwrap_or_default();
    format!("docker run -d {name}-p 80:80 --label {PROXY_LABEL}={kind} {kind}")
}

/// Why no cluster takes a proxy in, for people.
pub(super) struct NoCluster(String);

pub(super) type Chosen<'a> = (&'a ClusterName, &'a ServiceClusterSpec, bool);

/// The cluster that names the proxy (then it is trusted), else one of its kind that takes any.
pub(super) fn cluster_for<'a>(
    config: &'a Config,
    kind: ProxyKind,
    name: &str,
) -> Result<Chosen<'a>, NoCluster> {
    let names = |spec: &ServiceClusterSpec| spec.proxies.iter().any(|proxy| proxy == name);
    let of_kind = || config.in_order().filter(|(_, spec)| spec.proxy == kind);
    if let Some((cluster, spec)) = of_kind().find(|(_, spec)| names(spec)) {
        return Ok((cluster, spec, true));
    }
    if let Some((cluster, spec)) = of_kind().find(|(_, spec)| spec.proxies.is_empty()) {
        return Ok((cluster, spec, false));
    }
    Err(NoCluster(match config.clusters.iter().find(|(_, spec)| names(spec)) {
        Some((cluster, spec)) => {
            format!("cluster `{cluster}` names it, but is one of {}", spec.proxy.as_str())
        }
        None => "no cluster names it, and none takes any".to_owned(),
    }))
}

pub(super) fn no_cluster(kind: ProxyKind, name: &str, why: &NoCluster, subject: Subject) -> Finding {
    let message = format!("the {} proxy `{name}` belongs to no cluster: {}", kind.as_str(), why.0);
    let fix = format!("in a cluster of {}: proxies: [{name}]", kind.as_str());
    Finding::new(Verdict::Refused, Reason::NoCluster, subject, message).fix(fix)
}

fn label_from_image(container: &Container, value: &str, subject: Subject) -> Finding {
    let message = format!(
        "the image of `{}` says `{PROXY_LABEL}={}`; only the container's own label makes a proxy",
        container.name,
        shown(value)
    );
    let fix = "if it is meant to be one, take the label out of the image and give it to the container";
    Finding::new(Verdict::Note, Reason::ProxyLabelFromImage, subject, message).fix(fix)
}

fn unknown_proxy(value: &str, subject: Subject) -> Finding {
    let message = format!("`{}` is no proxy that Interlock knows (`haproxy`, `nginx`)", shown(value));
    let nearest = KINDS
        .into_iter()
        .map(|kind| (strsim::jaro_winkler(kind.as_str(), &value.to_ascii_lowercase()), kind))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let finding = Finding::new(Verdict::Refused, Reason::UnknownProxy, subject, message);
    match nearest {
        Some((_, kind)) => finding.fix(format!("did you mean `{PROXY_LABEL}={}`?", kind.as_str())),
        None => finding,
    }
}
