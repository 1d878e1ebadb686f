//! Proxies behind agent sockets: whose they are, and which container each stands in.

use super::Transport;
use super::targets::{Draft, PROXY_LABEL, Search, Stand, cluster_for, is_agent_image, no_cluster, own_label};
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::model::{AgentView, Container, ContainerState, TargetId};

impl<'a> Search<'a, '_> {
    pub(super) fn sockets(&mut self) {
        let containers: Vec<_> = self.containers().filter(|(_, c)| is_agent_image(c)).collect();
        self.found.containers.extend(containers.iter().map(|(_, container)| &container.id));
        for id in &self.observed.sockets {
            let agent = self.observed.agents.get(id);
            let stand = agent.map_or_else(Stand::default, |agent| self.stand_of(id, agent));
            if let Some(container) = stand.container {
                self.found.containers.insert(&container.id);
            }
            let proxy = agent.map(|agent| agent.abilities.proxy);
            // Trust goes by the socket's name alone: a host name is only what the agent says.
            let chosen = proxy.map(|proxy| cluster_for(self.config, proxy, id.as_str()));
            if let (Some(proxy), Some(Err(why))) = (proxy, &chosen) {
                let subject = Subject { target: Some(id.clone()), ..Subject::default() };
                self.findings.push(no_cluster(proxy, id.as_str(), why, subject));
            }
            let chosen = chosen.and_then(Result::ok);
            self.add(Draft {
                id: id.clone(),
                proxy,
                transport: Transport::Socket { name: id.as_str().to_owned() },
                stand,
                cluster: chosen.map(|(name, spec, _)| (name, spec)),
                trusted: chosen.is_some_and(|(_, _, trusted)| trusted),
            });
        }
    }

    /// The container behind an agent, by what it sees of itself. Two that fit equally well are none.
    fn stand_of(&self, id: &TargetId, agent: &AgentView) -> Stand<'a> {
        let fit = |container: &Container| {
            let ips = container.networks.values().flat_map(|a| a.ipv4.into_iter().chain(a.ipv6));
            let by_id = agent.hostname.len() >= 12 && container.id.as_str().starts_with(&agent.hostname);
            let by_name = !agent.hostname.is_empty() && container.hostname == agent.hostname;
            let by_address = ips.into_iter().any(|ip| agent.addresses.contains(&ip));
            let marked = is_agent_image(container) || own_label(container, PROXY_LABEL).is_some();
            (by_id || by_name || by_address).then_some((
                by_id,
                by_name,
                by_address,
                marked,
                container.name == id.as_str(),
            ))
        };
        let mut fitting: Vec<_> = self
            .containers()
            .filter(|(_, container)| container.state == ContainerState::Running)
            .filter_map(|(engine, container)| Some((fit(container)?, engine, container)))
            .collect();
        fitting.sort_by_key(|(fit, ..)| std::cmp::Reverse(*fit));
        match fitting.as_slice() {
            [first, second, ..] if first.0 == second.0 => Stand::default(),
            [(_, engine, container), ..] => Stand {
                engine: Some(engine),
                container: Some(container),
                host_network: container.host_network,
            },
            [] => self.host_stand(agent),
        }
    }

    /// An agent that is no container but owns the gateway of a container network is on the engine's host.
    fn host_stand(&self, agent: &AgentView) -> Stand<'a> {
        let on = self.containers().find(|(_, container)| {
            container.networks.values().any(|a| a.gateway.is_some_and(|ip| agent.addresses.contains(&ip)))
        });
        on.map_or_else(Stand::default, |(engine, _)| Stand {
            engine: Some(engine),
            container: None,
            host_network: true,
        })
    }

    /// An agent image whose agent was not heard and for which no socket is left that could be its own.
    pub(super) fn socket_missing(&mut self, container: &Container, subject: Subject) {
        let heard = self
            .found
            .targets
            .values()
            .any(|target| target.container.as_ref() == Some(&container.id) || target.proxy.is_none());
        if heard || container.state != ContainerState::Running {
            return;
        }
        let message = format!("the agent in `{}` has no socket in the agents folder", container.name);
        let fix = "share the agents folder between operator and proxy, in the compose file:\n\
                   services:\n  proxy:\n    volumes: [\"agents:/run/interlock/agents\"]";
        self.findings.push(Finding::new(Verdict::Waiting, Reason::Unreached, subject, message).fix(fix));
    }
}
