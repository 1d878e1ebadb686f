//! Publish: what became of a cycle, as status for the API, metrics, and one log line for each transition.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interlock_core::bundle::{Fragment, Receipt, SPARE};
use interlock_core::compile::{Compiled, Config};
use interlock_core::finding::{Finding, Subject, Verdict};
use interlock_core::model::{
    ClusterName, EngineId, Freshness, Observed, ProbeKey, ProbeResult, Readiness as EndpointReadiness,
    Shared as Owned, TargetId,
};
use interlock_core::protocol::{OldWorkers, Outcome, Welcome};
use interlock_core::status::Proxy;
use tokio::time::Instant;

use super::clock::now;
use super::target::Tracked;
use crate::chain::chain;
use crate::deliver::{DeliverError, Wanted};
use crate::docker::Calls;
use crate::serve::catalogue::{ApplyOutcome, DriftKind, EndpointState, RoundResult, SlotState, Stage};
use crate::serve::{Events, Look, Looks, Metrics, Readiness, Served, Shared, Snapshot, TargetStatus};
use crate::store::Objects;

/// What happened is told when nothing more has happened for this long: longer than an agent takes to find out that a
/// new endpoint answers, for what follows from that is not to wait for the telling,
const QUIET: Duration = Duration::from_millis(25);
/// and after this long whatever happens.
const LATEST: Duration = Duration::from_millis(100);

/// Writes metrics, logs on transition, and hands the newest state to the API.
pub struct Publisher {
    metrics: Metrics,
    readiness: Readiness,
    shared: Shared,
    looks: Looks,
    objects: Objects,
    events: Events,
    engine: EngineId,
    calls: Calls,
    told: BTreeSet<Finding>,
    /// The clusters that were in force when it was told last.
    clusters: BTreeSet<ClusterName>,
    failed: bool,
    changed: bool,
}

/// The files of proxies that are in step, for the history of documents; nothing where there are none.
fn fragments(
    observed: &Observed,
    targets: &BTreeMap<TargetId, Tracked>,
) -> BTreeMap<TargetId, Vec<Owned<Fragment>>> {
    let declared = &observed.declared;
    if declared.applied.is_empty() && declared.applied_clusters.is_empty() {
        return BTreeMap::new();
    }
    let of = |tracked: &Tracked| Some(tracked.wanted.as_ref()?.bundle.fragments.clone());
    let in_step = targets.iter().filter(|(_, tracked)| tracked.in_sync());
    in_step.filter_map(|(id, tracked)| Some((id.clone(), of(tracked)?))).collect()
}

/// What a cycle hands over.
pub(super) struct Cycle<'a> {
    pub(super) observed: Observed,
    pub(super) compiled: Owned<Compiled>,
    pub(super) config: &'a Config,
    pub(super) targets: &'a BTreeMap<TargetId, Tracked>,
    /// Findings that do not follow from the facts alone.
    pub(super) faults: Vec<Finding>,
    pub(super) observe_only: bool,
}

/// What came of the last look, and was told nobody yet: telling must not hold up a change that follows at once.
pub(super) struct Untold {
    pub(super) observed: Observed,
    pub(super) compiled: Owned<Compiled>,
    /// When it is told at the latest, and when it is if nothing follows.
    latest: Instant,
    due: Instant,
}

impl Untold {
    /// The look that follows one that was not told either, or the first.
    pub(super) fn after(before: Option<Self>, observed: Observed, compiled: Owned<Compiled>) -> Self {
        let now = Instant::now();
        let latest = before.map_or(now + LATEST, |before| before.latest);
        Self { observed, compiled, latest, due: latest.min(now + QUIET) }
    }

    /// When it is to be told.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }
}

/// How long the steps of a cycle took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    pub(super) observe: Duration,
    pub(super) compile: Duration,
    pub(super) render: Duration,
}

impl Publisher {
    /// Publishes to what the listeners serve from; `calls` counts the requests to `engine`.
    pub fn new(served: &Served, engine: EngineId, calls: Calls) -> Self {
        Self {
            metrics: served.metrics.clone(),
            readiness: served.readiness.clone(),
            shared: served.shared.clone(),
            looks: served.looks.clone(),
            objects: served.rest.objects.clone(),
            events: served.rest.events.clone(),
            engine,
            calls,
            told: BTreeSet::new(),
            clusters: BTreeSet::new(),
            failed: false,
            changed: false,
        }
    }

    /// Says whether a proxy serves what was applied and is not stored any more.
    pub(super) fn lose(&self, lost: bool) {
        self.objects.lose(lost);
    }

    pub(super) fn connected(&self, target: &TargetId, welcome: &Welcome) {
        self.note(
            false,
            "Connected",
            target,
            &format!("its agent is connected: {}", welcome.proxy.abilities),
        );
        tracing::info!(%target, proxy = %welcome.proxy.abilities, agent = welcome.version, "agent connected");
    }

    pub(super) fn probed(&self, results: &BTreeMap<ProbeKey, ProbeResult>) {
        for took in results.values().filter_map(|result| result.took_ms) {
            self.metrics.probed(Duration::from_millis(took));
        }
    }

    pub(super) fn lost(
        &mut self,
        target: &TargetId,
        tracked: &Tracked,
        error: &DeliverError,
        retry_in: Duration,
    ) {
        self.failed = true;
        if let Some(cluster) = &tracked.target.cluster {
            self.metrics.applied(cluster, ApplyOutcome::Unreachable);
            self.metrics.backoff(cluster, retry_in);
        }
        let error = chain(error);
        if said_before(tracked, &error) {
            tracing::debug!(%target, error, ?retry_in, "agent still not connected");
        } else {
            self.note(true, "Unreached", target, &format!("its agent is not connected: {error}"));
            tracing::warn!(%target, error, ?retry_in, "agent not connected");
        }
    }

    pub(super) fn old_workers(&self, cluster: Option<&ClusterName>, old: OldWorkers) {
        if let Some(cluster) = cluster {
            self.metrics.connections_cut(cluster, old.cut);
        }
    }

    pub(super) fn applied(
        &mut self,
        target: &TargetId,
        tracked: &Tracked,
        wanted: &Wanted,
        outcome: &Outcome,
    ) {
        let digest = &wanted.bundle.digest;
        let cluster = &wanted.bundle.cluster;
        let counted = match outcome {
            Outcome::Applied(applied) => {
                let event_to_receipt_ms = tracked.pending_since.map(|event| now().0.saturating_sub(event.0));
                if let Some(ms) = event_to_receipt_ms {
                    self.metrics.converged(Duration::from_millis(ms));
                }
                self.metrics.backoff(cluster, Duration::ZERO);
                self.metrics.programmed(cluster, now());
                self.metrics.live_updates(cluster, applied.commands);
                self.metrics
                    .stage(Stage::Apply, Duration::from_millis(applied.check_ms + applied.activate_ms));
                self.changed |= !applied.reload.is_empty() || applied.commands > 0;
                if !applied.reload.is_empty() {
                    self.metrics.reloaded(cluster, applied.reload.iter().map(String::as_str));
                    let (why, check_ms, activate_ms) =
                        (applied.reload.join(", "), applied.check_ms, applied.activate_ms);
                    self.note(false, "Reloaded", target, &format!("reloaded: {why}"));
                    tracing::info!(%target, %digest, why, check_ms, activate_ms, event_to_receipt_ms, "reloaded");
                } else if applied.commands > 0 {
                    self.note(false, "ChangedLive", target, "changed while it runs");
                    tracing::info!(%target, %digest, commands = applied.commands, event_to_receipt_ms, "changed live");
                }
                for (kind, count) in &applied.healed {
                    if let Some(kind) = DriftKind::of(kind) {
                        self.metrics.healed(cluster, kind, *count);
                    }
                    self.note(
                        true,
                        "Healed",
                        target,
                        &format!("put back what had been changed by hand: {kind}"),
                    );
                    tracing::warn!(%target, kind, count, "put back what had been changed by hand");
                }
                ApplyOutcome::Applied
            }
            Outcome::Passed => return,
            Outcome::Refused(refusal) => {
                let output = &refusal.output;
                self.note(
                    true,
                    "Refused",
                    target,
                    &format!("its checker refused the configuration: {output}"),
                );
                tracing::warn!(%target, %digest, output, "the proxy's checker refused the configuration; the last good one stays");
                ApplyOutcome::Refused
            }
            Outcome::ActivationFailed { reason } if said_before(tracked, reason) => {
                tracing::debug!(%target, %digest, reason, "the configuration still does not start");
                ApplyOutcome::ActivationFailed
            }
            Outcome::Failed { reason } if said_before(tracked, reason) => {
                tracing::debug!(%target, %digest, reason, "still cannot apply");
                ApplyOutcome::Failed
            }
            Outcome::ActivationFailed { reason } => {
                self.note(
                    true,
                    "ActivationFailed",
                    target,
                    &format!("the configuration did not start: {reason}"),
                );
                tracing::error!(%target, %digest, reason, "the configuration did not start; the last good one is back");
                ApplyOutcome::ActivationFailed
            }
            Outcome::Failed { reason } => {
                self.note(true, "Failed", target, &format!("nothing could be applied: {reason}"));
                tracing::error!(%target, %digest, reason, "could not apply");
                ApplyOutcome::Failed
            }
        };
        self.failed |= counted != ApplyOutcome::Applied;
        self.metrics.applied(cluster, counted);
    }

    pub(super) fn cycle(&mut self, cycle: Cycle<'_>) {
        let current: BTreeSet<Finding> =
            cycle.compiled.findings.iter().chain(&cycle.faults).cloned().collect();
        for finding in current.difference(&self.told) {
            log(finding);
            // What is told of a document is told as its condition.
            if finding.subject.document.is_none() {
                let warning = matches!(finding.verdict, Verdict::Refused | Verdict::Degraded);
                let object = object(&finding.subject);
                self.events.note(now(), warning, finding.reason.as_str(), &object, &finding.message);
            }
        }
        for finding in self.told.difference(&current) {
            tracing::info!(reason = %finding.reason, subject = subject(finding), "resolved");
        }
        self.count(&cycle, &current);
        self.told = current;
        if cycle.compiled.complete {
            self.readiness.ready();
        }
        let targets: BTreeMap<TargetId, TargetStatus> =
            cycle.targets.iter().filter_map(|(id, tracked)| Some((id.clone(), tracked.status()?))).collect();
        self.looks.publish(Look {
            at: cycle.observed.at,
            declared: cycle.observed.declared.clone(),
            clusters: cycle.config.with(&cycle.observed.declared).clusters.keys().cloned().collect(),
            engines: cycle.observed.engines.iter().map(|(id, view)| (id.clone(), view.freshness)).collect(),
            compiled: cycle.compiled,
            fragments: fragments(&cycle.observed, cycle.targets),
            proxies: targets
                .iter()
                .map(|(id, status)| (id.clone(), proxy(status, &cycle.targets[id])))
                .collect(),
        });
        self.shared.publish(Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: cycle.config.clone(),
            observed: cycle.observed,
            targets,
            findings: cycle.faults,
            observe: cycle.observe_only,
        });
    }

    fn note(&self, warning: bool, reason: &str, target: &TargetId, message: &str) {
        self.events.note(now(), warning, reason, &format!("Proxy {target}"), message);
    }

    /// Counts one look and how long its steps took.
    pub(super) fn round(&mut self, took: Took) {
        let result = match (std::mem::take(&mut self.failed), std::mem::take(&mut self.changed)) {
            (true, _) => RoundResult::Failed,
            (false, true) => RoundResult::Changed,
            (false, false) => RoundResult::Unchanged,
        };
        self.metrics.round(result);
        self.metrics.stage(Stage::Observe, took.observe);
        self.metrics.stage(Stage::Compile, took.compile);
        self.metrics.stage(Stage::Render, took.render);
    }

    fn count(&mut self, cycle: &Cycle<'_>, findings: &BTreeSet<Finding>) {
        self.metrics.findings(findings);
        for (engine, view) in &cycle.observed.engines {
            self.metrics.engine(engine, view.freshness == Freshness::Fresh);
        }
        for (call, total) in self.calls.snapshot() {
            self.metrics.docker_requests(&self.engine, call, total);
        }
        let config = cycle.config.with(&cycle.observed.declared);
        let now: BTreeSet<ClusterName> = config.clusters.keys().cloned().collect();
        for name in now.difference(&self.clusters) {
            self.metrics.know_cluster(name);
        }
        // What is gone is counted once more: it has nothing.
        for name in now.union(&self.clusters) {
            self.count_cluster(name, cycle);
        }
        self.clusters = now;
    }

    fn count_cluster(&self, name: &ClusterName, cycle: &Cycle<'_>) {
        let own =
            || cycle.targets.iter().filter(|(_, tracked)| tracked.target.cluster.as_ref() == Some(name));
        self.metrics.out_of_sync(name, own().filter(|(_, tracked)| !tracked.in_sync()).count());
        let old = own().map(|(_, tracked)| usize::from(tracked.old.count)).sum();
        self.metrics.old_workers(name, old);
        let spares: Vec<SlotState> =
            own().filter_map(|(_, tracked)| tracked.receipt.as_deref()).flat_map(spares).collect();
        for state in SlotState::ALL {
            self.metrics.slots(name, *state, spares.iter().filter(|it| *it == state).count());
        }
        for state in EndpointState::ALL {
            let readiness = match state {
                EndpointState::Ready => EndpointReadiness::Ready,
                EndpointState::Cold => EndpointReadiness::Cold,
                EndpointState::Unhealthy => EndpointReadiness::Unhealthy,
                EndpointState::Draining => EndpointReadiness::Draining,
            };
            let targets: BTreeSet<&TargetId> = own().map(|(id, _)| id).collect();
            let endpoints: BTreeSet<_> = cycle
                .compiled
                .placements
                .iter()
                .filter(|place| targets.contains(&place.target) && place.readiness == Some(readiness))
                .map(|place| (&place.target, place.address))
                .collect();
            self.metrics.endpoints(name, *state, endpoints.len());
        }
        let certificates = cycle.observed.certificates.get(name);
        let earliest = certificates.into_iter().flat_map(|all| all.values()).map(|one| one.not_after).min();
        self.metrics.certificate_not_after(name, earliest);
    }
}

/// What the status of documents follows from.
fn proxy(status: &TargetStatus, tracked: &Tracked) -> Proxy {
    let wanted = tracked.wanted.as_ref().filter(|_| tracked.in_sync()).map(|wanted| wanted.plan.clone());
    Proxy {
        cluster: tracked.target.cluster.clone(),
        running: wanted.or_else(|| tracked.running.clone()),
        digest: status.running.clone(),
        state: status.state.as_str(),
        message: status.message.clone(),
    }
}

/// What a finding is about, as events name it.
fn object(about: &Subject) -> String {
    let container = about.name.clone().or_else(|| about.container.as_ref().map(|id| id.short().to_owned()));
    let named = [
        container.map(|name| format!("Container {name}")),
        about.target.as_ref().map(|target| format!("Proxy {target}")),
        about.cluster.as_ref().map(|cluster| format!("ServiceCluster {cluster}")),
        about.engine.as_ref().map(|engine| format!("Engine {engine}")),
    ];
    named.into_iter().flatten().next().unwrap_or_else(|| "operator".to_owned())
}

/// What each spare of a proxy is doing.
fn spares(receipt: &Receipt) -> impl Iterator<Item = SlotState> {
    let seated: BTreeSet<&String> = receipt.seats.values().collect();
    let spares = receipt.servers.iter().filter(|(name, _)| name.starts_with(SPARE));
    spares.map(move |(name, slots)| match seated.contains(name) {
        true => SlotState::Used,
        false if slots.iter().all(|slot| slot.left.is_none()) => SlotState::Free,
        false => SlotState::Cooling,
    })
}

/// Whether this is what was said of the target last: a line for each transition, not for each try.
fn said_before(tracked: &Tracked, reason: &str) -> bool {
    tracked.fault.as_ref().is_some_and(|fault| fault.message == reason)
}

fn subject(finding: &Finding) -> String {
    let about = &finding.subject;
    let parts = [
        about.name.clone().or_else(|| about.container.as_ref().map(|id| id.short().to_owned())),
        about.route.clone(),
        about.target.as_ref().map(ToString::to_string),
        about.key.clone(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn log(finding: &Finding) {
    let subject = subject(finding);
    let (reason, message, fix) = (finding.reason, &finding.message, finding.fix.as_deref());
    match finding.verdict {
        Verdict::Refused | Verdict::Degraded => tracing::warn!(%reason, subject, fix, "{message}"),
        Verdict::Waiting | Verdict::Note => tracing::info!(%reason, subject, fix, "{message}"),
    }
}
