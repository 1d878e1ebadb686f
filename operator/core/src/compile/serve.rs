//! What one proxy should serve: the steps from what workloads ask for to its plan, in order.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::ProxyKind;

use super::address::{self, Reach};
use super::merge::{self, Filled, Groups, Placed};
use super::select::{Candidate, Claims, label};
use super::standing::Ledger;
use super::targets::Member;
use super::{Asked, Compiled, Config, Placement, certificates, networks, readiness};
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::intent::Fixed;
use crate::model::{HostPattern, Observed, Owner, ProbeKey, Readiness, Shared};
use crate::plan::{Backend, BackendId, Plan, Route};
use crate::protocol::{Probe, ProbeSet};

/// One proxy and everything that its plan follows from.
#[derive(Clone, Copy)]
pub(super) struct Serving<'s, 'a> {
    pub(super) member: &'s Member<'a>,
    pub(super) claims: &'s Claims<'a>,
    pub(super) observed: &'s Observed,
    pub(super) config: &'s Config,
}

impl<'s, 'a> Serving<'s, 'a> {
    /// Adds this proxy's plan, probes, placements, network actions and findings.
    pub(super) fn serve(
        &self,
        compiled: &mut Compiled,
        ownership: &mut BTreeMap<String, Owner>,
        asked: &mut Asked,
    ) {
        let member = self.member;
        let findings = &mut compiled.findings;
        let mut ledger = Ledger::of(member, self.observed);
        let placed = self.place(findings, &mut compiled.placements, &mut ledger);
        for one in &placed {
            for (key, _) in one.endpoint.iter().flat_map(|(_, judged)| &judged.probes) {
                let of = asked.entry(one.candidate.container.id.clone()).or_default();
                of.insert((member.id.clone(), key.clone()));
            }
        }
        let mut groups = merge::group(&placed);
        merge::settle_owners(member, &mut groups, self.claims, self.observed, ownership, findings);
        let chosen = certificates::choose(member, &groups, self.observed, findings);
        let mut plan = self.empty_plan(findings);
        let mut kept = BTreeSet::new();
        for (id, members) in &groups {
            let Some(winner) = merge::winner(members) else { continue };
            merge::conflicts(id, winner, members, findings);
            let Filled { backend, kept: stays } = merge::backend(member, id, winner, members);
            if stays {
                kept.insert(id.clone());
            }
            if backend.hold {
                findings.extend(self.holding(id, members));
            }
            let https_only = winner.intent.settings.https_only && chosen.answers(&id.host);
            if winner.intent.settings.https_only && !https_only {
                findings.push(self.no_void(id, winner));
            }
            let route = Route {
                host: id.host.clone(),
                path: id.path.clone(),
                rewrite: winner.intent.rewrite,
                https_only,
                certificate: chosen.of(&id.host).cloned(),
                websocket: winner.intent.settings.websocket.clone(),
                backend: id.clone(),
            };
            plan.routes.push(route.into());
            plan.backends.push(backend.into());
        }
        plan.certificates = chosen.certificates;
        plan.routes.sort_by(|a, b| route_order(a).cmp(&route_order(b)));
        plan.backends.sort_by(|a, b| a.id.cmp(&b.id));
        let routed: Vec<&Placed<'_, '_>> = routed(&placed, &groups);
        networks::actions(member, &routed, self.observed, self.config, &mut compiled.networks, findings);
        findings.extend(routed.iter().filter_map(|one| self.readiness_finding(one, &kept)));
        compiled.placements.extend(self.placements(&placed, &groups, &plan.backends));
        compiled.probes.insert(member.id.clone(), self.probes(&routed).into());
        compiled.plans.insert(member.id.clone(), plan.into());
        let (standings, look_again) = ledger.close();
        compiled.standings.insert(member.id.clone(), standings.into());
        compiled.look_again = [compiled.look_again, look_again].into_iter().flatten().min();
    }

    /// Finds where each candidate is and whether it is ready. Who cannot be reached is told why, and
    /// placed nowhere.
    fn place(
        &self,
        findings: &mut Vec<Finding>,
        unplaced: &mut Vec<Shared<Placement>>,
        ledger: &mut Ledger<'_>,
    ) -> Vec<Placed<'a, 's>> {
        let mut placed = Vec::new();
        for candidate in &self.claims.candidates {
            if let Some(until) = candidate.ended {
                ledger.look_again_at(until);
                let holds = ledger.holds(candidate, self.member.spec.hold);
                placed.push(Placed { candidate, network: None, endpoint: None, holds });
                continue;
            }
            if candidate.intent.fixed == Some(Fixed::Nobody) {
                placed.push(Placed { candidate, network: None, endpoint: None, holds: false });
                continue;
            }
            let reached = self
                .not_quarantined(candidate)
                .and_then(|()| address::reach(self.member, candidate, self.config.read_only));
            let asked = candidate.intent.network.as_deref();
            let network = asked.and_then(|asked| address::network_of(candidate.container, asked));
            let endpoint = match reached {
                Ok(Reach::At(at)) => {
                    let mut judged = readiness::judge(self.member, candidate, at, self.observed);
                    ledger.enter(candidate, &mut judged);
                    Some((at, judged))
                }
                Ok(Reach::Attach(_)) => None,
                Err(finding) => {
                    findings.push(finding);
                    let routes = candidate.intent.labels.iter();
                    unplaced.extend(routes.map(|route| self.placement(candidate, route, None, false)));
                    continue;
                }
            };
            let network = network.map(str::to_owned);
            let leaving = |(_, judged): &(_, readiness::Judged)| judged.readiness == Readiness::Draining;
            let holds = endpoint.as_ref().is_some_and(leaving);
            placed.push(Placed { candidate, network, endpoint, holds });
        }
        placed
    }

    fn not_quarantined(&self, candidate: &Candidate<'_>) -> Result<(), Finding> {
        let abilities = self.member.abilities;
        let refused = self.observed.quarantine.get(&candidate.intent.digest);
        let Some(words) = refused.and_then(|under| under.get(&abilities)) else { return Ok(()) };
        let message = format!(
            "the checker of {abilities} refused what `{}` asks for: {words}",
            candidate.container.name
        );
        let fix = match &candidate.intent.document {
            None => "change the labels of the container; the same ones are not tried again on this version"
                .to_owned(),
            Some(document) => {
                format!(
                    "change {}; the same is not tried again on this version",
                    crate::declared::title(document)
                )
            }
        };
        Err(Finding::new(Verdict::Refused, Reason::Quarantined, self.subject(candidate), message).fix(fix))
    }

    fn empty_plan(&self, findings: &mut Vec<Finding>) -> Plan {
        let member = self.member;
        Plan {
            target: member.id.clone(),
            cluster: member.cluster.clone(),
            settings: member.spec.clone(),
            routes: Vec::new(),
            backends: Vec::new(),
            certificates: BTreeMap::new(),
            stats: self.stats(findings),
        }
    }

    /// The statistics page's credential, for a proxy that may hold secrets and has such a page.
    fn stats(&self, findings: &mut Vec<Finding>) -> Option<crate::model::Digest> {
        let member = self.member;
        let asked = member.spec.stats.as_ref().filter(|_| member.proxy == ProxyKind::Haproxy)?;
        let subject = Subject { cluster: Some(member.cluster.clone()), ..Subject::default() };
        let Some(digest) = self.observed.stats.get(member.cluster) else {
            let message = format!(
                "there is no statistics page: its password file `{}` cannot be read",
                crate::finding::shown(&asked.password_file)
            );
            findings.push(Finding::new(Verdict::Degraded, Reason::SecretUnreadable, subject, message));
            return None;
        };
        if !member.trusted {
            let subject = Subject { target: Some(member.id.clone()), ..subject };
            let message = format!(
                "`{}` has no statistics page: only proxies that cluster `{}` names may hold secrets",
                member.id, member.cluster
            );
            let fix = format!("in cluster `{}`: proxies: [{}]", member.cluster, member.id);
            findings
                .push(Finding::new(Verdict::Degraded, Reason::ProxyNotTrusted, subject, message).fix(fix));
            return None;
        }
        Some(digest.clone())
    }

    /// A redirect to a port that refuses the handshake helps nobody: without TLS the route is served in
    /// the clear, and that is told.
    fn no_void(&self, id: &BackendId, winner: &Candidate<'_>) -> Finding {
        let route = label(&id.host, &id.path);
        let message = format!(
            "{route} asks for HTTPS only, but there is no certificate to answer with: it is served over \
             plain HTTP"
        );
        let fix = format!(
            "name a certificate (`{}`), or in cluster `{}`: certificates: {{default: FILE}}",
            winner.key("interlock.ssl_cert", "spec.tls.certificate"),
            self.member.cluster
        );
        let subject =
            self.subject(winner).with_route(route).with_key(winner.key("ssl_only", "spec.tls.redirect"));
        Finding::new(Verdict::Degraded, Reason::CertificateNotFound, subject, message).fix(fix)
    }

    fn readiness_finding(&self, one: &Placed<'_, '_>, kept: &BTreeSet<BackendId>) -> Option<Finding> {
        let (address, judged) = one.endpoint.as_ref()?;
        let intent = &one.candidate.intent;
        let name = &one.candidate.container.name;
        let because = &judged.because;
        let stays = || {
            intent
                .hosts
                .iter()
                .any(|host| kept.contains(&BackendId { host: host.clone(), path: intent.path.clone() }))
        };
        let (verdict, reason, message) = match judged.readiness {
            Readiness::Ready => return None,
            Readiness::Draining => {
                (Verdict::Note, Reason::Draining, format!("`{name}` at {address} was told to stop"))
            }
            Readiness::Cold | Readiness::Unhealthy if judged.flapping && !stays() => {
                return Some(self.flapping(one.candidate, because));
            }
            Readiness::Cold => (
                Verdict::Waiting,
                Reason::NotWarm,
                format!("`{name}` at {address} has not been ready yet: {because}"),
            ),
            Readiness::Unhealthy if stays() => (
                Verdict::Degraded,
                Reason::KeptUnhealthy,
                format!("`{name}` at {address} is unhealthy, but nobody else is left to serve: {because}"),
            ),
            Readiness::Unhealthy => (
                Verdict::Degraded,
                Reason::Unhealthy,
                format!("`{name}` at {address} is unhealthy: {because}"),
            ),
        };
        Some(Finding::new(verdict, reason, self.subject(one.candidate), message))
    }

    fn flapping(&self, candidate: &Candidate<'_>, because: &str) -> Finding {
        let name = &candidate.container.name;
        let message = format!("`{name}` is ready, but left out for now: {because}");
        let subject = self.subject(candidate);
        Finding::new(Verdict::Waiting, Reason::Flapping, subject, message)
            .fix(format!("see why it falls: docker logs {name}"))
    }

    /// What is said while a route waits for whoever takes the place of its last endpoint.
    fn holding(&self, id: &BackendId, members: &[&Placed<'_, '_>]) -> Option<Finding> {
        let last = members.iter().rev().find(|one| one.holds)?.candidate;
        let route = label(&id.host, &id.path);
        let hold = self.member.spec.hold;
        let name = &last.container.name;
        let message = match self.member.proxy {
            ProxyKind::Haproxy => {
                format!(
                    "`{name}` has left {route}: new requests wait up to {hold} for whoever takes its place"
                )
            }
            ProxyKind::Nginx => format!(
                "`{name}` has left {route}: requests are answered 503 with `Retry-After` until somebody takes its place"
            ),
        };
        let subject = self.subject(last).with_route(route);
        Some(Finding::new(Verdict::Waiting, Reason::Holding, subject, message))
    }

    /// What became of each host of those that can be reached; `backends` are sorted by id.
    fn placements(
        &self,
        placed: &[Placed<'_, '_>],
        groups: &Groups<'_, '_, '_>,
        backends: &[Shared<Backend>],
    ) -> Vec<Shared<Placement>> {
        let mut placements = Vec::new();
        let somebody = |one: &&Placed<'_, '_>| {
            one.candidate.ended.is_none() && one.candidate.intent.fixed != Some(Fixed::Nobody)
        };
        for one in placed.iter().filter(somebody) {
            let intent = &one.candidate.intent;
            let at = one.endpoint.as_ref().map(|(address, _)| *address);
            for (host, route) in intent.hosts.iter().zip(&intent.labels) {
                let id = BackendId { host: host.clone(), path: intent.path.clone() };
                let member =
                    groups.get(&id).is_some_and(|members| members.iter().any(|m| std::ptr::eq(*m, one)));
                let backend = backends.binary_search_by(|backend| backend.id.cmp(&id)).ok();
                // Two containers may claim one address, on the host's network for one: a cold one serves nothing.
                let cold =
                    one.endpoint.as_ref().is_some_and(|(_, judged)| judged.readiness == Readiness::Cold);
                let serving = member
                    && !cold
                    && backend.is_some_and(|index| {
                        backends[index].endpoints.iter().any(|e| Some(e.address) == at && !e.draining)
                    });
                placements.push(self.placement(one.candidate, route, Some(one), serving));
            }
        }
        placements
    }

    fn placement(
        &self,
        candidate: &Candidate<'_>,
        route: &str,
        placed: Option<&Placed<'_, '_>>,
        serving: bool,
    ) -> Shared<Placement> {
        let endpoint = placed.and_then(|one| one.endpoint.as_ref());
        Placement {
            target: self.member.id.clone(),
            container: candidate.container.id.clone(),
            name: candidate.container.name.clone(),
            route: route.to_owned(),
            document: candidate.intent.document.clone(),
            address: endpoint.map(|(address, _)| *address),
            readiness: endpoint.map(|(_, judged)| judged.readiness),
            probe: endpoint.and_then(|(_, judged)| judged.probes.first().map(|(key, _)| key.clone())),
            serving,
        }
        .into()
    }

    /// One probe for each key; where two routes of a container ask the same thing, the shorter interval.
    fn probes(&self, routed: &[&Placed<'_, '_>]) -> ProbeSet {
        let mut probes: BTreeMap<ProbeKey, Probe> = BTreeMap::new();
        for (_, judged) in routed.iter().filter_map(|one| one.endpoint.as_ref()) {
            for (key, probe) in &judged.probes {
                let entry = probes.entry(key.clone()).or_insert_with(|| probe.clone());
                entry.interval_ms = match (entry.interval_ms, probe.interval_ms) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
        }
        ProbeSet { concurrency: self.member.spec.probes.concurrency.max(1), probes }
    }

    /// A candidate as seen from this proxy.
    fn subject(&self, candidate: &Candidate<'_>) -> Subject {
        Subject {
            cluster: Some(self.member.cluster.clone()),
            target: Some(self.member.id.clone()),
            ..candidate.subject()
        }
    }
}

/// Those that run and have a place in at least one group.
fn routed<'p, 'a, 'c>(placed: &'p [Placed<'a, 'c>], groups: &Groups<'_, '_, '_>) -> Vec<&'p Placed<'a, 'c>> {
    let there: BTreeSet<_> = groups.values().flatten().map(|one| std::ptr::from_ref(*one)).collect();
    let runs = placed.iter().filter(|one| one.candidate.ended.is_none());
    runs.filter(|one| there.contains(&std::ptr::from_ref(*one))).collect()
}

/// By host, exact ones first and longer wildcards before shorter; within a host the longest path first.
pub(crate) fn route_order(route: &Route) -> impl Ord + use<'_> {
    let (wildcard, length) = match &route.host {
        HostPattern::Exact(_) => (false, 0),
        HostPattern::Wildcard(suffix) => (true, suffix.as_str().len()),
    };
    let path = route.path.as_str();
    (wildcard, std::cmp::Reverse(length), &route.host, std::cmp::Reverse(path.len()), path)
}
