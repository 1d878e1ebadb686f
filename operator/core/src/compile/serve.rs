//! What one proxy should serve: the steps from what workloads ask for to its plan, in order.

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::ProxyKind;

use super::address::{self, Reach};
use super::merge::{self, Filled, Groups, Placed};
use super::select::{Candidate, Claims, label, primary};
use super::targets::Member;
use super::{Compiled, Config, Placement, certificates, networks, readiness};
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::model::{HostPattern, Observed, Owner, ProbeKey, Readiness};
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
    pub(super) fn serve(&self, compiled: &mut Compiled, ownership: &mut BTreeMap<String, Owner>) {
        let member = self.member;
        let findings = &mut compiled.findings;
        let placed = self.place(findings, &mut compiled.placements);
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
            let https_only = winner.intent.settings.https_only && chosen.answers(&id.host);
            if winner.intent.settings.https_only && !https_only {
                findings.push(self.no_void(id, winner));
            }
            plan.routes.push(Route {
                host: id.host.clone(),
                path: id.path.clone(),
                rewrite: winner.intent.rewrite,
                https_only,
                certificate: chosen.of(&id.host).cloned(),
                websocket: winner.intent.settings.websocket.clone(),
                backend: id.clone(),
            });
            plan.backends.push(backend);
        }
        plan.certificates = chosen.certificates;
        plan.routes.sort_by(|a, b| route_order(a).cmp(&route_order(b)));
        plan.backends.sort_by(|a, b| a.id.cmp(&b.id));
        let routed: Vec<&Placed<'_, '_>> = routed(&placed, &groups);
        networks::actions(member, &routed, self.observed, self.config, &mut compiled.networks, findings);
        findings.extend(routed.iter().filter_map(|one| self.readiness_finding(one, &kept)));
        compiled.placements.extend(self.placements(&placed, &groups, &plan.backends));
        compiled.probes.insert(member.id.clone(), self.probes(&routed));
        compiled.plans.insert(member.id.clone(), plan);
    }

    /// Finds where each candidate is and whether it is ready. Who cannot be reached is told why, and
    /// placed nowhere.
    fn place(&self, findings: &mut Vec<Finding>, unplaced: &mut Vec<Placement>) -> Vec<Placed<'a, 's>> {
        let mut placed = Vec::new();
        for candidate in &self.claims.candidates {
            let reached = self
                .not_quarantined(candidate)
                .and_then(|()| address::reach(self.member, candidate, self.config.read_only));
            let asked = candidate.intent.network.as_deref();
            let network = asked.and_then(|asked| address::network_of(candidate.container, asked));
            let endpoint = match reached {
                Ok(Reach::At(at)) => Some((at, readiness::judge(self.member, candidate, at, self.observed))),
                Ok(Reach::Attach(_)) => None,
                Err(finding) => {
                    findings.push(finding);
                    let hosts = candidate.intent.hosts.iter();
                    unplaced.extend(hosts.map(|host| {
                        self.placement(candidate, label(host, &candidate.intent.path), None, false)
                    }));
                    continue;
                }
            };
            placed.push(Placed { candidate, network: network.map(str::to_owned), endpoint });
        }
        placed
    }

    fn not_quarantined(&self, candidate: &Candidate<'_>) -> Result<(), Finding> {
        let quarantined = self.observed.quarantine.get(&candidate.intent.digest);
        let Some(why) = quarantined.filter(|why| why.abilities == self.member.abilities) else {
            return Ok(());
        };
        let message = format!(
            "the checker of {} refused what `{}` asks for: {}",
            why.abilities, candidate.container.name, why.reason
        );
        let fix = "change the labels of the container; the same ones are not tried again on this version";
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
            "name a certificate (`interlock.ssl_cert`), or in cluster `{}`: certificates: {{default: FILE}}",
            self.member.cluster
        );
        let subject = self.subject(winner).with_route(route).with_key("ssl_only");
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

    /// What became of each host of those that can be reached; `backends` are sorted by id.
    fn placements(
        &self,
        placed: &[Placed<'_, '_>],
        groups: &Groups<'_, '_, '_>,
        backends: &[Backend],
    ) -> Vec<Placement> {
        let mut placements = Vec::new();
        for one in placed {
            let intent = &one.candidate.intent;
            let at = one.endpoint.as_ref().map(|(address, _)| *address);
            for host in &intent.hosts {
                let id = BackendId { host: host.clone(), path: intent.path.clone() };
                let member =
                    groups.get(&id).is_some_and(|members| members.iter().any(|m| std::ptr::eq(*m, one)));
                let backend = backends.binary_search_by(|backend| backend.id.cmp(&id)).ok();
                let serving = member
                    && backend.is_some_and(|index| {
                        backends[index].endpoints.iter().any(|e| Some(e.address) == at && !e.draining)
                    });
                placements.push(self.placement(one.candidate, label(host, &intent.path), Some(one), serving));
            }
        }
        placements
    }

    fn placement(
        &self,
        candidate: &Candidate<'_>,
        route: String,
        placed: Option<&Placed<'_, '_>>,
        serving: bool,
    ) -> Placement {
        let endpoint = placed.and_then(|one| one.endpoint.as_ref());
        Placement {
            target: self.member.id.clone(),
            container: candidate.container.id.clone(),
            name: candidate.container.name.clone(),
            route,
            address: endpoint.map(|(address, _)| *address),
            readiness: endpoint.map(|(_, judged)| judged.readiness),
            probe: endpoint.and_then(|(_, judged)| judged.probes.first().map(|(key, _)| key.clone())),
            serving,
        }
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

/// Those that have a place in at least one group.
fn routed<'p, 'a, 'c>(placed: &'p [Placed<'a, 'c>], groups: &Groups<'_, '_, '_>) -> Vec<&'p Placed<'a, 'c>> {
    let there: BTreeSet<_> = groups.values().flatten().map(|one| identity(one.candidate)).collect();
    placed.iter().filter(|one| there.contains(&identity(one.candidate))).collect()
}

fn identity<'c>(candidate: &'c Candidate<'_>) -> impl Ord + use<'c> {
    (candidate.engine, &candidate.container.id, &candidate.intent.route, primary(&candidate.intent))
}

/// By host, exact ones first and longer wildcards before shorter; within a host the longest path first.
fn route_order(route: &Route) -> impl Ord + use<'_> {
    let (wildcard, length) = match &route.host {
        HostPattern::Exact(_) => (false, 0),
        HostPattern::Wildcard(suffix) => (true, suffix.as_str().len()),
    };
    let path = route.path.as_str();
    (wildcard, std::cmp::Reverse(length), &route.host, std::cmp::Reverse(path.len()), path)
}
