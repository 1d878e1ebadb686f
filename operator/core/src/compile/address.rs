//! Which address of a container a given proxy can reach. Never a guess: no fit is a finding.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::select::Candidate;
use super::targets::{Member, Stand};
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::intent::Fixed;
use crate::model::{Attachment, Container, Port, PublishedPort, UpstreamAddr};

const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";
/// Docker's name for the host's own network.
const HOST: &str = "host";

/// How a proxy gets at a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// At this address.
    At(UpstreamAddr),
    /// Once the proxy's container is attached to this network.
    Attach(String),
}

/// The address of a candidate as one proxy sees it.
///
/// # Errors
/// A finding that names what was looked at and the line to add. Where only the container's own host name
/// asked for the route it is a note: nobody may have meant it.
pub(super) fn reach(
    member: &Member<'_>,
    candidate: &Candidate<'_>,
    read_only: bool,
) -> Result<Reach, Finding> {
    if let Some(Fixed::At(address)) = candidate.intent.fixed {
        return Ok(Reach::At(address));
    }
    let view = Look { member, candidate, container: candidate.container, stand: member.stand };
    view.reach(read_only).map_err(|mut finding| {
        if candidate.intent.by_container_hostname && finding.verdict == Verdict::Refused {
            finding.verdict = Verdict::Note;
        }
        finding
    })
}

/// The full name of the network that a label asks for: the name itself, or compose's short name.
pub(super) fn network_of<'a>(container: &'a Container, asked: &str) -> Option<&'a str> {
    let full = container.labels.get(PROJECT_LABEL).map(|project| format!("{project}_{asked}"));
    let named = |name: &str| container.networks.get_key_value(name).map(|(name, _)| name.as_str());
    named(asked).or_else(|| named(&full?))
}

#[derive(Clone, Copy)]
struct Look<'a> {
    member: &'a Member<'a>,
    candidate: &'a Candidate<'a>,
    container: &'a Container,
    stand: Stand<'a>,
}

impl<'a> Look<'a> {
    fn reach(&self, read_only: bool) -> Result<Reach, Finding> {
        let port = self.port()?;
        if self.candidate.intent.by_container_hostname {
            self.must_be_published(port)?;
        }
        if self.container.host_network {
            return self.on_host(port);
        }
        match &self.candidate.intent.network {
            Some(asked) => self.by_label(asked, port, read_only),
            None => self.by_itself(port),
        }
    }

    /// The chosen port, else the only exposed one, else the only published one.
    fn port(&self) -> Result<Port, Finding> {
        if let Some(port) = self.candidate.intent.port {
            return Ok(port);
        }
        let published: BTreeSet<Port> = self.container.published.iter().map(|p| p.container).collect();
        let ports = if self.container.exposed.is_empty() { &published } else { &self.container.exposed };
        let name = &self.container.name;
        let mut each = ports.iter();
        match (each.next(), each.next()) {
            (Some(only), None) => Ok(*only),
            (Some(first), Some(_)) => Err(self
                .refused(Reason::AmbiguousPort, format!("`{name}` has several ports: {}", list(ports)))
                .fix(self.label_line("port", &first.to_string()))),
            (None, _) => Err(self
                .refused(Reason::NoPort, format!("`{name}` neither exposes nor publishes a TCP port"))
                .fix(self.label_line("port", "8080"))),
        }
    }

    fn must_be_published(&self, port: Port) -> Result<(), Finding> {
        if self.published(port).next().is_some() {
            return Ok(());
        }
        let name = &self.container.name;
        let message = format!(
            "`{name}` asks by its host name alone, which counts only with port {port} published on an \
             address other than loopback; published: {}",
            published_list(self.container)
        );
        let fix = format!(
            "publish it (`docker run -P` or `-p {port}`), or ask for the route:\n{}",
            self.label_line(
                "host",
                &self.candidate.intent.hosts.first().map(ToString::to_string).unwrap_or_default()
            )
        );
        Err(Finding::new(Verdict::Note, Reason::NotPublished, self.candidate.subject(), message).fix(fix))
    }

    /// A container on the host's network listens on every address of the engine's host.
    fn on_host(&self, port: Port) -> Result<Reach, Finding> {
        let ip = if self.same_engine() && self.stand.host_network {
            Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
        } else {
            self.member
                .spec
                .backend_override_address
                .or_else(|| self.engine_address())
                .or_else(|| self.gateway(|_| true))
        };
        at(ip, port).ok_or_else(|| self.unreachable(port))
    }

    fn by_label(&self, asked: &str, port: Port, read_only: bool) -> Result<Reach, Finding> {
        let name = &self.container.name;
        let Some(network) = network_of(self.container, asked) else {
            let message = format!(
                "`{name}` asks to be reached over the network `{asked}`, which is none of its own: {}",
                names(self.container.networks.keys())
            );
            let finding = self.refused(Reason::NetworkNotFound, message);
            return Err(match self.container.networks.keys().next() {
                Some(first) => finding.fix(self.label_line("network", first)),
                None => finding,
            });
        };
        let ip = self.container.networks.get(network).and_then(Attachment::ip);
        if !self.same_engine() {
            return Err(self.unreachable(port));
        }
        if self.stand.host_network {
            return at(ip, port).ok_or_else(|| self.unreachable(port));
        }
        let Some(proxy) = self.stand.container else { return Err(self.unreachable(port)) };
        if proxy.networks.contains_key(network) {
            return at(ip, port).ok_or_else(|| self.unreachable(port));
        }
        if !read_only {
            return Ok(Reach::Attach(network.to_owned()));
        }
        let message = format!(
            "the proxy `{}` is not on the network `{network}` of `{name}`, and a read-only operator may not \
             attach it",
            proxy.name
        );
        Err(self.refused_here(Reason::ReadOnlyDocker, message).fix(join_network(proxy, network)))
    }

    fn by_itself(&self, port: Port) -> Result<Reach, Finding> {
        let shared = self.shared();
        match shared.as_slice() {
            [] => self.by_published(port).ok_or_else(|| self.unreachable(port)),
            [(_, ip)] => at(Some(*ip), port).ok_or_else(|| self.unreachable(port)),
            [(first, _), ..] => {
                let both = names(shared.iter().map(|(network, _)| *network));
                let message = format!(
                    "`{}` can be reached by `{}` over several networks: {both}",
                    self.container.name, self.member.id
                );
                let fix = self.label_line("network", first);
                Err(self.refused_here(Reason::AmbiguousNetwork, message).fix(fix))
            }
        }
    }

    /// The networks that lead from this proxy to the container. Attachments that Interlock made do not
    /// count: they are there for the containers that asked for them, and go with those.
    fn shared(&self) -> Vec<(&'a str, IpAddr)> {
        if !self.same_engine() {
            return Vec::new();
        }
        let leads = |network: &str| {
            self.stand.host_network
                || self
                    .stand
                    .container
                    .and_then(|proxy| proxy.networks.get(network))
                    .is_some_and(|attachment| !attachment.ours)
        };
        self.container
            .networks
            .iter()
            .filter(|(network, _)| leads(network))
            .filter_map(|(network, attachment)| Some((network.as_str(), attachment.ip()?)))
            .collect()
    }

    fn by_published(&self, port: Port) -> Option<Reach> {
        let mut bindings: Vec<&PublishedPort> = self.published(port).collect();
        bindings.sort_by_key(|binding| (binding.host_ip.is_ipv6(), binding.host, binding.host_ip));
        bindings.iter().find_map(|binding| at(self.host_of(binding), binding.host))
    }

    /// The address at which a published port is reached.
    fn host_of(&self, binding: &PublishedPort) -> Option<IpAddr> {
        if let Some(ip) = self.member.spec.backend_override_address {
            return Some(ip);
        }
        if !binding.host_ip.is_unspecified() {
            return Some(binding.host_ip);
        }
        let same_family = |ip: &IpAddr| ip.is_ipv6() == binding.host_ip.is_ipv6();
        if let Some(ip) = self.engine_address().filter(same_family) {
            return Some(ip);
        }
        if self.same_engine() && self.stand.host_network && binding.host_ip.is_ipv4() {
            return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        self.gateway(same_family)
    }

    /// Ports published for a container port on anything but loopback.
    fn published(&self, port: Port) -> impl Iterator<Item = &'a PublishedPort> + use<'a> {
        self.container
            .published
            .iter()
            .filter(move |binding| binding.container == port && !binding.host_ip.is_loopback())
    }

    /// The engine's address; a loopback one leads a proxy nowhere.
    fn engine_address(&self) -> Option<IpAddr> {
        self.candidate.view.address.filter(|ip| !ip.is_loopback())
    }

    /// The engine's host as seen from inside a network of the proxy's own.
    fn gateway(&self, fits: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let proxy = self.stand.container.filter(|_| self.same_engine())?;
        proxy
            .networks
            .values()
            .filter(|attachment| !attachment.ours)
            .filter_map(|attachment| attachment.gateway)
            .find(fits)
    }

    fn same_engine(&self) -> bool {
        self.stand.engine == Some(self.candidate.engine)
    }

    fn refused(&self, reason: Reason, message: String) -> Finding {
        Finding::new(Verdict::Refused, reason, self.candidate.subject(), message)
    }

    /// For what holds as seen from this proxy only.
    fn refused_here(&self, reason: Reason, message: String) -> Finding {
        let subject = Subject {
            cluster: Some(self.member.cluster.clone()),
            target: Some(self.member.id.clone()),
            ..self.candidate.subject()
        };
        Finding::new(Verdict::Refused, reason, subject, message)
    }

    fn unreachable(&self, port: Port) -> Finding {
        let container = self.container;
        let proxy_networks = match self.stand.container {
            _ if self.stand.host_network => "the host's own".to_owned(),
            Some(proxy) => names(proxy.networks.iter().filter(|(_, a)| !a.ours).map(|(name, _)| name)),
            None => "unknown (no container behind its agent was found)".to_owned(),
        };
        let elsewhere = match self.stand.engine {
            Some(engine) if engine != self.candidate.engine => {
                format!(
                    "; the container is on the engine `{}`, the proxy on `{engine}`",
                    self.candidate.engine
                )
            }
            _ => String::new(),
        };
        let message = format!(
            "`{}` cannot reach port {port} of `{}`: the proxy's networks: {proxy_networks}; the container's \
             networks: {}; published: {}{elsewhere}",
            self.member.id,
            container.name,
            if container.host_network {
                "the host's own".to_owned()
            } else {
                names(container.networks.keys())
            },
            published_list(container),
        );
        self.refused_here(Reason::Unreachable, message).fix(self.way_out(port))
    }

    /// The lines that make a container reachable: a network where both can be on one, else a port.
    fn way_out(&self, port: Port) -> String {
        let service = service(self.container);
        let usable = |network: &&String| network.as_str() != HOST && network.as_str() != "none";
        let network = self.container.networks.keys().find(usable).filter(|_| self.same_engine());
        let bridge = self.stand.container.is_some() && !self.container.host_network;
        match network {
            Some(network) if bridge && self.candidate.intent.network.is_none() => format!(
                "let Interlock attach the proxy to a network of the container's:\n{}\nor publish the port:\n\
                 services:\n  {service}:\n    ports: [\"{port}\"]",
                self.label_line("network", network)
            ),
            _ if self.container.host_network => {
                "name the host's address in the cluster: backendOverrideAddress: 192.0.2.10".to_owned()
            }
            _ => format!(
                "publish the port, in the compose file:\nservices:\n  {service}:\n    ports: [\"{port}\"]"
            ),
        }
    }

    /// A label in compose's notation. Of a route with a name it carries the name; of a document it is the
    /// reference's own field.
    fn label_line(&self, key: &str, value: &str) -> String {
        if let Some(document) = &self.candidate.intent.document {
            let title = crate::declared::title(document);
            return format!(
                "in {title}, beside the reference to `{}` in `backendRefs`:\n{key}: {value}",
                self.container.name
            );
        }
        let route = self.candidate.intent.route.as_ref().map(|name| format!("{name}.")).unwrap_or_default();
        format!(
            "services:\n  {}:\n    labels:\n      interlock.{route}{key}: \"{value}\"",
            service(self.container)
        )
    }
}

fn at(ip: Option<IpAddr>, port: Port) -> Option<Reach> {
    UpstreamAddr::new(ip?, port).ok().map(Reach::At)
}

/// The compose service, else the container's name.
fn service(container: &Container) -> &str {
    container.labels.get(SERVICE_LABEL).unwrap_or(&container.name)
}

/// Lines that put a proxy on a network which it does not make itself.
fn join_network(proxy: &Container, network: &str) -> String {
    format!(
        "services:\n  {}:\n    networks: [default, apps]\nnetworks:\n  apps:\n    name: {network}\n    external: true",
        service(proxy)
    )
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn names<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = items.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn published_list(container: &Container) -> String {
    if container.published.is_empty() {
        return "none".to_owned();
    }
    let mut ports: Vec<_> = container.published.iter().collect();
    ports.sort_by_key(|binding| (binding.container, binding.host_ip, binding.host));
    list(ports.iter().map(|b| {
        let note = if b.host_ip.is_loopback() { " (loopback only)" } else { "" };
        format!("{}->{}{note}", std::net::SocketAddr::new(b.host_ip, b.host.get()), b.container)
    }))
}
