//! Workloads that share a host and path: who may, whose settings count, which endpoints result.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::{ServiceClusterSpec, Sharing};

use super::readiness::Judged;
use super::select::{Candidate, Claims, label};
use super::targets::Member;
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::intent::Intent;
use crate::model::{ClusterName, Observed, Owner, Readiness, UpstreamAddr};
use crate::plan::{Backend, BackendId, Balance, Endpoint, slow_start};
use crate::policy::Networks;

/// A candidate that a proxy reaches, or will once it is attached to a network.
#[derive(Debug)]
pub(super) struct Placed<'a, 'c> {
    pub(super) candidate: &'c Candidate<'a>,
    /// The full name of the network that its label asks for.
    pub(super) network: Option<String>,
    /// Where it is and what is known of it; none while the proxy is not on its network.
    pub(super) endpoint: Option<(UpstreamAddr, Judged)>,
    /// Whether requests wait for whoever takes its place: it took some, and is about to end or has just ended.
    pub(super) holds: bool,
}

impl Placed<'_, '_> {
    /// Whether it is about to end or has ended.
    fn leaves(&self) -> bool {
        self.candidate.ended.is_some() || self.readiness() == Some(Readiness::Draining)
    }

    pub(super) fn readiness(&self) -> Option<Readiness> {
        self.endpoint.as_ref().map(|(_, judged)| judged.readiness)
    }
}

/// Those that share one host and path, oldest first; never empty.
pub(super) type Groups<'p, 'a, 'c> = BTreeMap<BackendId, Vec<&'p Placed<'a, 'c>>>;

/// Sorts the placed candidates by host and path; each alias is a host like any other.
pub(super) fn group<'p, 'a, 'c>(placed: &'p [Placed<'a, 'c>]) -> Groups<'p, 'a, 'c> {
    let mut groups = Groups::new();
    for one in placed {
        for host in &one.candidate.intent.hosts {
            let id = BackendId { host: host.clone(), path: one.candidate.intent.path.clone() };
            groups.entry(id).or_default().push(one);
        }
    }
    groups
}

/// Under `sharing: owner` leaves each host and path to one owner: the one that had it if it still claims
/// it, else the oldest. The others are told.
pub(super) fn settle_owners(
    member: &Member<'_>,
    groups: &mut Groups<'_, '_, '_>,
    claims: &Claims<'_>,
    observed: &Observed,
    ownership: &mut BTreeMap<String, Owner>,
    findings: &mut Vec<Finding>,
) {
    if member.spec.sharing == Sharing::Merge {
        return;
    }
    groups.retain(|id, members| {
        let claiming = claims.owners.get(id);
        let key = held(member.cluster, id);
        let holder = observed
            .ownership
            .get(&key)
            .filter(|owner| claiming.is_some_and(|owners| owners.contains(*owner)))
            .or_else(|| members.first().map(|first| &first.candidate.intent.owner));
        let Some(holder) = holder.cloned() else { return false };
        let others = members.iter().filter(|one| one.candidate.ended.is_none());
        for other in others.filter(|one| one.candidate.intent.owner != holder) {
            let route = label(&id.host, &id.path);
            findings.push(host_taken(member, other.candidate, &route, &holder, members));
        }
        members.retain(|one| one.candidate.intent.owner == holder);
        ownership.entry(key).or_insert(holder);
        !members.is_empty()
    });
}

/// The key under which it is remembered who holds a route: each cluster has holders of its own.
pub(super) fn held(cluster: &ClusterName, id: &BackendId) -> String {
    format!("{cluster} {}{}", id.host, id.path)
}

fn host_taken(
    member: &Member<'_>,
    candidate: &Candidate<'_>,
    route: &str,
    holder: &Owner,
    members: &[&Placed<'_, '_>],
) -> Finding {
    let held: BTreeSet<&str> = members
        .iter()
        .filter(|one| one.candidate.intent.owner == *holder)
        .map(|one| one.candidate.container.name.as_str())
        .collect();
    let held = if held.is_empty() {
        "whose containers do not run now".to_owned()
    } else {
        format!("with `{}`", held.into_iter().collect::<Vec<_>>().join("`, `"))
    };
    let name = &candidate.container.name;
    let owner = &candidate.intent.owner;
    let message = format!("`{name}` ({owner}) asks for {route}, which belongs to {holder}, {held}");
    let subject = Subject { cluster: Some(member.cluster.clone()), ..candidate.subject() }.with_route(route);
    let fix = format!(
        "choose another host or path, remove the containers of {holder}, or let owners share: `sharing: merge` in cluster `{}`",
        member.cluster
    );
    Finding::new(Verdict::Refused, Reason::HostTaken, subject, message).fix(fix)
}

/// Whose settings count: the oldest container's that is not about to stop; those of one that has ended, until
/// its successor speaks.
pub(super) fn winner<'c>(members: &[&Placed<'_, 'c>]) -> Option<&'c Candidate<'c>> {
    members
        .iter()
        .find(|one| !one.leaves())
        .or_else(|| members.iter().find(|one| one.candidate.ended.is_none()))
        .or_else(|| members.first())
        .map(|one| one.candidate)
}

/// Tells every container whose settings differ from the winner's which ones, field by field. One that is
/// about to stop need not know any more.
pub(super) fn conflicts(
    id: &BackendId,
    winner: &Candidate<'_>,
    members: &[&Placed<'_, '_>],
    findings: &mut Vec<Finding>,
) {
    if let [_] = members {
        return;
    }
    let route = label(&id.host, &id.path);
    let wins = fields(&winner.intent);
    let staying = members.iter().filter(|one| !one.leaves());
    for one in staying.map(|one| one.candidate) {
        if !is_protected(one, winner) {
            findings.push(unprotected(one, winner, &route));
            continue;
        }
        for ((field, value), (_, won)) in fields(&one.intent).into_iter().zip(&wins) {
            if value == *won {
                continue;
            }
            let message = format!(
                "`{}` asks for {field} {value} on {route}, but the older `{}` has {field} {won}, which wins",
                one.container.name, winner.container.name
            );
            let subject = one.subject().with_route(&route).with_key(field);
            let fix = format!("give every container of {route} the same {field}");
            findings
                .push(Finding::new(Verdict::Degraded, Reason::SettingConflict, subject, message).fix(fix));
        }
    }
}

/// Whether what protects one that serves holds where the winner's settings count.
fn is_protected(one: &Candidate<'_>, winner: &Candidate<'_>) -> bool {
    one.intent.settings.policy.holds_under(&winner.intent.settings.policy)
}

fn unprotected(one: &Candidate<'_>, winner: &Candidate<'_>, route: &str) -> Finding {
    let message = format!(
        "`{}` is left out of {route}: the older `{}` does not ask for what protects it",
        one.container.name, winner.container.name
    );
    let subject = one.subject().with_route(route);
    let fix = format!(
        "give every container of {route} the same `allow`, `deny` and `limits`, or stop the older one"
    );
    Finding::new(Verdict::Refused, Reason::SettingConflict, subject, message).fix(fix)
}

/// The settings of a host and path, by the name that a label gives them.
fn fields(intent: &Intent) -> [(&'static str, String); 14] {
    let settings = &intent.settings;
    let or_none = |text: Option<String>| text.map_or_else(|| "none".to_owned(), |text| format!("`{text}`"));
    let flag = |set: bool| if set { "on" } else { "off" }.to_owned();
    let joined = |items: Vec<&str>| or_none((!items.is_empty()).then(|| items.join(", ")));
    let name = |name: &Option<crate::model::CertificateName>| or_none(name.as_ref().map(ToString::to_string));
    let upstream = match settings.upstream_tls {
        None => "off",
        Some(tls) if tls.verify => "on, verified",
        Some(_) => "on, not verified",
    };
    let balance = settings.balance.unwrap_or_default();
    let access = &settings.policy.access;
    let networks = |networks: Option<&Networks>| or_none(networks.map(ToString::to_string));
    [
        ("context_root_rewrite", flag(intent.rewrite)),
        ("ssl_only", flag(settings.https_only)),
        ("ssl", flag(settings.tls)),
        ("ssl_cert", name(&settings.certificate)),
        ("ssl_cert_key", name(&settings.certificate_key)),
        (
            "websocket_endpoint",
            joined(settings.websocket.iter().map(crate::model::PathPrefix::as_str).collect()),
        ),
        ("balance_algorithm", format!("`{}`", balance_name(balance))),
        ("backend_option", joined(settings.options.iter().map(crate::plan::HaproxyOption::as_str).collect())),
        ("slow_start", or_none(settings.slow_start.map(|period| period.to_string()))),
        ("ssl_backend", upstream.to_owned()),
        ("allow", networks(access.allow.as_ref())),
        ("requestRedirect", or_none(settings.policy.redirect.as_ref().map(ToString::to_string))),
        ("limits.bodysize", or_none(settings.policy.body_size.map(|size| size.to_string()))),
        ("deny", networks(Some(&access.deny).filter(|deny| !deny.is_empty()))),
    ]
}

const fn balance_name(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "roundrobin",
        Balance::LeastConn => "leastconn",
        Balance::ClientAddress => "source",
        Balance::Random => "random",
        Balance::Uri => "uri",
        Balance::First => "first",
    }
}

/// One backend with its endpoints, and whether they are there although unhealthy.
pub(super) struct Filled {
    pub(super) backend: Backend,
    pub(super) kept: bool,
}

/// The backend of one host and path: the winner's settings and every endpoint that takes requests or
/// finishes them.
pub(super) fn backend(
    member: &Member<'_>,
    id: &BackendId,
    winner: &Candidate<'_>,
    members: &[&Placed<'_, '_>],
) -> Filled {
    let settings = &winner.intent.settings;
    let members: Vec<&Placed<'_, '_>> =
        members.iter().copied().filter(|one| is_protected(one.candidate, winner)).collect();
    let (endpoints, kept) = endpoints(member.spec, &members);
    // Whoever was told to stop, or has ended, may have a successor; nobody can know.
    let hold = member.spec.hold.as_millis() > 0
        && endpoints.iter().all(|endpoint| endpoint.draining)
        && members.iter().any(|one| one.holds);
    let intents: BTreeSet<_> = members.iter().map(|one| one.candidate.intent.digest.clone()).collect();
    let backend = Backend {
        id: id.clone(),
        balance: settings.balance.unwrap_or_default(),
        options: settings.options.clone(),
        tls: settings.upstream_tls,
        slow_start: slow_start(member.spec, settings.slow_start),
        policy: settings.policy.clone(),
        endpoints,
        hold,
        intents: intents.into_iter().collect(),
    };
    Filled { backend, kept }
}

/// Ready and draining endpoints. When nothing is ready any more, those that were stay: a health check
/// that fails everywhere at once says more about the check than about the endpoints.
fn endpoints(spec: &ServiceClusterSpec, members: &[&Placed<'_, '_>]) -> (Vec<Endpoint>, bool) {
    let state = |wanted: Readiness| members.iter().any(|one| one.readiness() == Some(wanted));
    let kept = !spec.empty_when_all_unhealthy && state(Readiness::Unhealthy) && !state(Readiness::Ready);
    let mut by_address: BTreeMap<UpstreamAddr, Endpoint> = BTreeMap::new();
    for one in members {
        let Some((address, judged)) = &one.endpoint else { continue };
        let draining = match judged.readiness {
            Readiness::Ready => false,
            Readiness::Draining => true,
            Readiness::Unhealthy if kept => false,
            Readiness::Unhealthy | Readiness::Cold => continue,
        };
        let name = one.candidate.container.name.clone();
        by_address.entry(*address).and_modify(|endpoint| endpoint.draining &= draining).or_insert(Endpoint {
            address: *address,
            name,
            draining,
        });
    }
    (by_address.into_values().collect(), kept)
}
