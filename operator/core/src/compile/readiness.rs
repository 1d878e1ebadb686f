//! Whether an endpoint takes requests, and what the agent shall probe to find out.

use interlock_crds::ReadinessMode;

use super::select::Candidate;
use super::targets::Member;
use crate::finding::shown;
use crate::intent::CheckKind;
use crate::model::{Digest, Health, HostPattern, Observed, ProbeKey, Readiness, UpstreamAddr};
use crate::protocol::{Probe, ProbeKind};

/// What is known of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) readiness: Readiness,
    /// What to probe.
    pub(super) probes: Vec<(ProbeKey, Probe)>,
    /// What stands in the way, for people.
    pub(super) because: String,
    /// Whether nothing stands in the way but its own past.
    pub(super) flapping: bool,
}

/// Judges the endpoint that a candidate is at an address, as one proxy's agent sees it.
///
/// - `none`: ready at once.
/// - `docker`: as its health check says; without one, at once.
/// - `probe`: every probe has passed, and no health check among them fails now.
/// - `auto`: as `probe`, but Docker's `healthy` admits too, and Docker's `unhealthy` takes out. What was
///   declared as `warm` is waited for all the same: the point of it is that somebody asked first.
pub(super) fn judge(
    member: &Member<'_>,
    candidate: &Candidate<'_>,
    address: UpstreamAddr,
    observed: &Observed,
) -> Judged {
    let container = candidate.container;
    let mode = candidate.intent.readiness.unwrap_or(member.spec.readiness);
    let probes = match mode {
        ReadinessMode::None | ReadinessMode::Docker => Vec::new(),
        ReadinessMode::Auto | ReadinessMode::Probe => probes(member, candidate, address),
    };
    let seen = Seen::of(member, candidate, address, observed, &probes);
    let was_healthy = container.health == Health::Healthy || observed.was_healthy.contains(&container.id);
    let (admitted, failing) = match mode {
        ReadinessMode::None => (true, false),
        ReadinessMode::Docker => {
            (container.health == Health::None || was_healthy, container.health == Health::Unhealthy)
        }
        ReadinessMode::Probe => (seen.all_passed, seen.check_fails),
        ReadinessMode::Auto => (
            seen.all_passed || (was_healthy && seen.warm_passed),
            seen.check_fails || container.health == Health::Unhealthy,
        ),
    };
    let readiness = match (admitted, failing) {
        (true, _) if observed.draining.contains(&container.id) => Readiness::Draining,
        (true, false) => Readiness::Ready,
        (true, true) => Readiness::Unhealthy,
        (false, _) => Readiness::Cold,
    };
    let docker = if mode == ReadinessMode::Probe || mode == ReadinessMode::None {
        Health::None
    } else {
        container.health
    };
    Judged { readiness, because: because(readiness, docker, &probes, &seen), probes, flapping: false }
}

/// What the agent's results come to.
struct Seen {
    all_passed: bool,
    warm_passed: bool,
    check_fails: bool,
    error: Option<String>,
}

impl Seen {
    fn of(
        member: &Member<'_>,
        candidate: &Candidate<'_>,
        address: UpstreamAddr,
        observed: &Observed,
        probes: &[(ProbeKey, Probe)],
    ) -> Self {
        let results = observed.probes.get(&member.id);
        let mut seen = Self { all_passed: true, warm_passed: true, check_fails: false, error: None };
        let believed = served_before(member, candidate, address, observed);
        for (key, probe) in probes {
            let result = results.and_then(|results| results.get(key));
            let passed = result.is_some_and(|result| result.passed_once);
            let fails = result.is_some_and(|result| !result.passing);
            let warm = matches!(probe.kind, ProbeKind::Warm { .. });
            seen.all_passed &= passed || believed;
            seen.warm_passed &= passed || believed || !warm;
            // A health check that passed once may fail later. What was only believed fails with the first
            // word against it: then it was ready and is not now.
            seen.check_fails |= fails && if passed { probe.interval_ms.is_some() } else { believed };
            if let Some(error) = result.filter(|r| !r.passing).and_then(|r| r.error.clone()) {
                seen.error.get_or_insert(error);
            }
        }
        seen
    }
}

/// Whether the proxy served this very endpoint when its agent was first heard: what a restarted operator
/// finds running stays until a probe says otherwise.
fn served_before(
    member: &Member<'_>,
    candidate: &Candidate<'_>,
    address: UpstreamAddr,
    observed: &Observed,
) -> bool {
    let Some(agent) = observed.agents.get(&member.id) else { return false };
    let Some(receipt) = &agent.receipt else { return false };
    candidate.container.started < agent.since
        && receipt
            .servers
            .values()
            .flatten()
            .filter_map(|slot| slot.occupant)
            .any(|occupant| occupant.address == address && !occupant.draining)
}

/// `warm` and the declared check each have a probe; where neither is declared a TCP connection must be
/// accepted once.
fn probes(member: &Member<'_>, candidate: &Candidate<'_>, address: UpstreamAddr) -> Vec<(ProbeKey, Probe)> {
    let intent = &candidate.intent;
    let spec = &member.spec.probes;
    let tls = intent.settings.upstream_tls.is_some();
    let host = || match intent.hosts.first() {
        Some(HostPattern::Exact(host) | HostPattern::Wildcard(host)) => host.as_str().to_owned(),
        None => String::new(),
    };
    let mut kinds = Vec::new();
    if intent.warm {
        kinds.push((ProbeKind::Warm { host: host(), tls }, None));
    }
    if let Some(check) = &intent.check {
        let kind = match &check.kind {
            CheckKind::Tcp => ProbeKind::Tcp,
            CheckKind::Http { method, path, host: named } => ProbeKind::Http {
                method: method.clone(),
                path: path.clone(),
                host: named.clone().unwrap_or_else(host),
                tls,
            },
        };
        kinds.push((kind, Some(check.interval_ms.unwrap_or(spec.interval.as_millis()).max(1))));
    }
    if kinds.is_empty() {
        kinds.push((ProbeKind::Tcp, None));
    }
    kinds
        .into_iter()
        .map(|(kind, interval_ms)| {
            let probe = Probe {
                address,
                timeout_ms: spec.timeout.as_millis().max(1),
                interval_ms,
                unhealthy_after: spec.unhealthy_after.max(1),
                kind,
            };
            (key(candidate, &probe), probe)
        })
        .collect()
}

/// Another run of the container, another address or another question is another probe.
fn key(candidate: &Candidate<'_>, probe: &Probe) -> ProbeKey {
    let container = candidate.container;
    // Serialising plain data with text keys cannot fail.
    let kind = serde_json::to_vec(&probe.kind).unwrap_or_default();
    ProbeKey(Digest::of([
        container.id.as_str().as_bytes(),
        container.started.0.to_le_bytes().as_slice(),
        probe.address.to_string().as_bytes(),
        kind.as_slice(),
    ]))
}

/// What keeps it out. Once it was in, only what can take it out again.
fn because(readiness: Readiness, docker: Health, probes: &[(ProbeKey, Probe)], seen: &Seen) -> String {
    let mut parts = Vec::new();
    match docker {
        Health::Starting => parts.push("its HEALTHCHECK has not passed yet".to_owned()),
        Health::Unhealthy => parts.push("its HEALTHCHECK says unhealthy".to_owned()),
        Health::None | Health::Healthy => {}
    }
    let blamed = match readiness {
        Readiness::Unhealthy => seen.check_fails,
        _ => !seen.all_passed,
    };
    if blamed {
        let asked: Vec<String> = probes.iter().map(|(_, probe)| question(probe)).collect();
        let error = seen.error.as_deref().unwrap_or("no answer seen yet");
        parts.push(format!("{}: {}", asked.join(" and "), shown(error)));
    }
    parts.join("; ")
}

fn question(probe: &Probe) -> String {
    let address = probe.address;
    match &probe.kind {
        ProbeKind::Tcp => format!("a TCP connection to {address}"),
        ProbeKind::Http { method, path, .. } => format!("{method} {path} at {address}"),
        ProbeKind::Warm { .. } => format!("a first GET at {address}"),
    }
}
