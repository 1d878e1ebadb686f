//! Hosts: which names a route answers for, and whether the container's own host name may be one.

use interlock_crds::ServiceClusterSpec;

use super::keys::Setting;
use super::owner::manager;
use super::said::{Fault, Pick, Reader, Word};
use super::value;
use crate::finding::{Reason, Verdict, shown};
use crate::model::{Container, HostPattern};

/// The names of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hosts {
    /// The primary one first, no duplicates, never empty.
    pub(super) names: Vec<HostPattern>,
    /// Whether only the container's own host name said so.
    pub(super) by_container_hostname: bool,
}

/// A container's own host name, cut where older Dockers cut it: `www.example.com` is `www` in `example.com`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Own {
    hostname: Option<String>,
    domain: Option<String>,
    /// Whether it makes a route all by itself.
    opts_in: bool,
}

impl Own {
    /// Nothing, for named routes.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// The name that somebody gave to `container`. A default one (the short id), that of the engine's
    /// host, and none at all count for nothing; one that compose or Swarm manages opts nobody in.
    pub(super) fn of(container: &Container, spec: &ServiceClusterSpec) -> Self {
        let hostname = container.hostname.trim();
        let short_id = hostname.len() == 12 && hostname.bytes().all(|b| b.is_ascii_hexdigit());
        let default = short_id || (hostname.len() >= 12 && container.id.as_str().starts_with(hostname));
        if !spec.container_hostnames || container.host_network {
            return Self::default();
        }
        let domainname = container.domainname.trim();
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (hostname, domain) = match hostname.split_once('.') {
            _ if default => (None, text(domainname)),
            Some((first, rest)) if domainname.is_empty() => (text(first), text(rest)),
            _ => (text(hostname), text(domainname)),
        };
        let opts_in = hostname.is_some() && domain.is_some() && manager(container).is_none();
        Self { hostname, domain, opts_in }
    }
}

/// The names of a route: `host`, else host name and domain, with the aliases; none where nobody named any.
pub(super) fn hosts(reader: &mut Reader<'_>, own: &Own, spec: &ServiceClusterSpec) -> Pick<Hosts> {
    let primary = match full_names(reader) {
        Pick::Absent => joined_name(reader, own, spec),
        Pick::Bad => Pick::Bad,
        Pick::Good(names) => {
            set_aside(reader, &names, spec);
            Pick::Good(Hosts { names, by_container_hostname: false })
        }
    };
    let aliases = aliases(reader);
    match primary {
        Pick::Good(mut hosts) => {
            for alias in aliases {
                if !hosts.names.contains(&alias) {
                    hosts.names.push(alias);
                }
            }
            Pick::Good(hosts)
        }
        other => other,
    }
}

/// `interlock.host`: full names. A bad one costs only itself, as long as there is a good one.
fn full_names(reader: &mut Reader<'_>) -> Pick<Vec<HostPattern>> {
    let Some(word) = reader.words(Setting::Host).into_iter().next() else { return Pick::Absent };
    let mut names = Vec::new();
    let mut faults = Vec::new();
    for text in word.text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match value::host(text) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(fault) => faults.push(fault),
        }
    }
    if names.is_empty() && faults.is_empty() {
        let fault = Fault::value("it names no host").verdict(Verdict::Refused);
        faults.push(fault.reason(Reason::InvalidHost).write("shop.example.com"));
    }
    for fault in faults {
        let verdict = if names.is_empty() { Verdict::Refused } else { Verdict::Degraded };
        reader.tell(&word.key, fault.verdict(verdict));
    }
    if names.is_empty() { Pick::Bad } else { Pick::Good(names) }
}

/// Tells a host name and domain that a full name beats, unless they come to the same.
fn set_aside(reader: &mut Reader<'_>, names: &[HostPattern], spec: &ServiceClusterSpec) {
    let Some(winner) = reader.words(Setting::Host).into_iter().next() else { return };
    let hostname = reader.words(Setting::Hostname).into_iter().next();
    let domain = reader.words(Setting::Domain).into_iter().next();
    let Some(loser) = hostname.as_ref().or(domain.as_ref()) else { return };
    let text = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone());
    let name = join(text(&hostname).as_deref(), text(&domain).as_deref(), &spec.default_domain);
    if !name.is_some_and(|name| name.parse().is_ok_and(|name| names.contains(&name))) {
        reader.overridden(&loser.key, &winner.key);
    }
}

/// Host name and domain, each by its strongest source.
fn joined_name(reader: &mut Reader<'_>, own: &Own, spec: &ServiceClusterSpec) -> Pick<Hosts> {
    let same = |text: &str| Ok::<_, Fault>(text.trim_matches('.').to_ascii_lowercase());
    let hostname_at = reader.strength(Setting::Hostname);
    let domain_at = reader.strength(Setting::Domain);
    let by_container_hostname = hostname_at.is_none() && domain_at.is_none();
    if by_container_hostname && !own.opts_in {
        return Pick::Absent;
    }
    let key = [Setting::Hostname, Setting::Domain]
        .into_iter()
        .find_map(|setting| reader.words(setting).into_iter().next())
        .map(|word| word.key);
    let hostname = reader.one(Setting::Hostname, same).good().or_else(|| own.hostname.clone());
    let said_domain = reader.one(Setting::Domain, same).good();
    // A full name needs no domain from somebody weaker than who gave it.
    let whole = match (hostname_at, domain_at) {
        (Some(hostname), Some(domain)) => domain > hostname,
        (Some(_), None) => true,
        (None, _) => false,
    };
    let full = whole && hostname.as_deref().is_some_and(|name| name.contains('.'));
    let domain = if full { None } else { said_domain.clone().or_else(|| own.domain.clone()) };
    if full && let (Some(domain), Some(key)) = (said_domain, &key) {
        let ends = hostname.as_deref().is_some_and(|name| below(name, &domain));
        let loser = reader.words(Setting::Domain).into_iter().next();
        if !ends && let Some(loser) = loser {
            reader.overridden(&loser.key, key);
        }
    }
    let Some(name) = join(hostname.as_deref(), domain.as_deref(), &spec.default_domain) else {
        return Pick::Absent;
    };
    match (value::host(&name), key) {
        (Ok(name), _) => Pick::Good(Hosts { names: vec![name], by_container_hostname }),
        (Err(fault), Some(key)) => {
            let fix = reader.label(Setting::Host);
            let example = fault.fix.clone().unwrap_or_default();
            let message = format!("`{key}`: {}", fault.message);
            let fix = Some(format!("label `{fix}={example}`"));
            reader.push(Verdict::Refused, Reason::InvalidHost, Some(&key), message, fix);
            Pick::Bad
        }
        (Err(fault), None) => {
            let message = format!("the container's host name makes no route: {}", fault.message);
            reader.push(Verdict::Note, Reason::InvalidHost, None, message, None);
            Pick::Bad
        }
    }
}

/// `hostname.domain`, unless one is missing, both are equal, or the host name is a full one that already
/// ends in the domain; a bare host name gets the default domain.
fn join(hostname: Option<&str>, domain: Option<&str>, default_domain: &str) -> Option<String> {
    let hostname = hostname.filter(|text| !text.is_empty());
    match (hostname, domain.filter(|text| !text.is_empty())) {
        (None, None) => None,
        (None, Some(domain)) => Some(domain.to_owned()),
        (Some(hostname), Some(domain)) if hostname == domain || below(hostname, domain) => {
            Some(hostname.to_owned())
        }
        (Some(hostname), Some(domain)) => Some(format!("{hostname}.{domain}")),
        (Some(hostname), None) if hostname.contains('.') || default_domain.is_empty() => {
            Some(hostname.to_owned())
        }
        (Some(hostname), None) => Some(format!("{hostname}.{default_domain}")),
    }
}

/// Whether `name` ends in `.domain`.
fn below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|before| before.ends_with('.'))
}

/// The further names; a bad one costs only itself.
fn aliases(reader: &mut Reader<'_>) -> Vec<HostPattern> {
    let mut names = Vec::new();
    for word in reader.list(Setting::Alias) {
        for text in word.text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match value::host(text) {
                Ok(name) => names.push(name),
                Err(fault) => reader.tell(&word.key, fault.verdict(Verdict::Degraded)),
            }
        }
    }
    names
}

/// The finding for a route whose keys name no host.
pub(super) fn nameless(reader: &mut Reader<'_>, key: &str) {
    let label = reader.label(Setting::Host);
    let message = format!("`{}` belongs to no route: no host is named", shown(key));
    let fix = Some(format!("label `{label}=shop.example.com`"));
    reader.push(Verdict::Refused, Reason::InvalidHost, Some(key), message, fix);
}
