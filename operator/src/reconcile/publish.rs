//! Publish: what became of a cycle, as status for the API, metrics, and one log line for each transition.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interlock_core::compile::{Compiled, Config};
use interlock_core::finding::{Finding, Verdict};
use interlock_core::model::{
    ClusterName, EngineId, Freshness, Observed, ProbeKey, ProbeResult, Readiness as EndpointReadiness,
    TargetId,
};
use interlock_core::protocol::{Outcome, Welcome};

use super::clock::now;
use super::target::Tracked;
use crate::chain::chain;
use crate::deliver::{DeliverError, Wanted};
use crate::docker::Calls;
use crate::serve::catalogue::{ApplyOutcome, DriftKind, EndpointState, RoundResult, SlotState, Stage};
use crate::serve::{Metrics, Readiness, Served, Shared, Snapshot};

/// Writes metrics, logs on transition, and hands the newest state to the API.
pub struct Publisher {
    metrics: Metrics,
    readiness: Readiness,
    shared: Shared,
    engine: EngineId,
    calls: Calls,
    told: BTreeSet<Finding>,
    failed: bool,
    changed: bool,
}

/// What a cycle hands over.
pub(super) struct Cycle<'a> {
    pub(super) observed: Observed,
    pub(super) compiled: Compiled,
    pub(super) config: &'a Config,
    pub(super) targets: &'a BTreeMap<TargetId, Tracked>,
    /// Findings that do not follow from the facts alone.
    pub(super) faults: Vec<Finding>,
    pub(super) observe_only: bool,
    pub(super) took: Took,
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
            engine,
            calls,
            told: BTreeSet::new(),
            failed: false,
            changed: false,
        }
    }

    pub(super) fn connected(target: &TargetId, welcome: &Welcome) {
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
        cluster: Option<&ClusterName>,
        error: &DeliverError,
        retry_in: Duration,
    ) {
        self.failed = true;
        if let Some(cluster) = cluster {
            self.metrics.applied(cluster, ApplyOutcome::Unreachable);
            self.metrics.backoff(cluster, retry_in);
        }
        tracing::warn!(%target, error = chain(error), ?retry_in, "agent not connected");
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
                    tracing::info!(%target, %digest, why, check_ms, activate_ms, event_to_receipt_ms, "reloaded");
                } else if applied.commands > 0 {
                    tracing::info!(%target, %digest, commands = applied.commands, event_to_receipt_ms, "changed live");
                }
                for (kind, count) in &applied.healed {
                    if let Some(kind) = DriftKind::of(kind) {
                        self.metrics.healed(cluster, kind, *count);
                    }
                    tracing::warn!(%target, kind, count, "put back what had been changed by hand");
                }
                ApplyOutcome::Applied
            }
            Outcome::Passed => return,
            Outcome::Refused(refusal) => {
                let output = &refusal.output;
                tracing::warn!(%target, %digest, output, "the proxy's checker refused the configuration; the last good one stays");
                ApplyOutcome::Refused
            }
            Outcome::ActivationFailed { reason } => {
                tracing::error!(%target, %digest, reason, "the configuration did not start; the last good one is back");
                ApplyOutcome::ActivationFailed
            }
            Outcome::Failed { reason } => {
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
        }
        for finding in self.told.difference(&current) {
            tracing::info!(reason = %finding.reason, subject = subject(finding), "resolved");
        }
        self.count(&cycle, &current);
        self.told = current;
        if cycle.compiled.complete {
            self.readiness.ready();
        }
        let targets =
            cycle.targets.iter().filter_map(|(id, tracked)| Some((id.clone(), tracked.status()?))).collect();
        self.shared.publish(Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: cycle.config.clone(),
            observed: cycle.observed,
            targets,
            findings: cycle.faults,
            observe: cycle.observe_only,
        });
    }

    fn count(&mut self, cycle: &Cycle<'_>, findings: &BTreeSet<Finding>) {
        let result = match (std::mem::take(&mut self.failed), std::mem::take(&mut self.changed)) {
            (true, _) => RoundResult::Failed,
            (false, true) => RoundResult::Changed,
            (false, false) => RoundResult::Unchanged,
        };
        self.metrics.round(result);
        self.metrics.stage(Stage::Observe, cycle.took.observe);
        self.metrics.stage(Stage::Compile, cycle.took.compile);
        self.metrics.stage(Stage::Render, cycle.took.render);
        self.metrics.findings(findings);
        for (engine, view) in &cycle.observed.engines {
            self.metrics.engine(engine, view.freshness == Freshness::Fresh);
        }
        for (call, total) in self.calls.snapshot() {
            self.metrics.docker_requests(&self.engine, call, total);
        }
        for name in cycle.config.clusters.keys() {
            self.count_cluster(name, cycle);
        }
    }

    fn count_cluster(&self, name: &ClusterName, cycle: &Cycle<'_>) {
        let own =
            || cycle.targets.iter().filter(|(_, tracked)| tracked.target.cluster.as_ref() == Some(name));
        self.metrics.out_of_sync(name, own().filter(|(_, tracked)| !tracked.in_sync()).count());
        let slots = || {
            own()
                .filter_map(|(_, tracked)| tracked.receipt.as_ref())
                .flat_map(|receipt| receipt.servers.values().flatten())
        };
        for state in SlotState::ALL {
            let count = slots().filter(|slot| match (slot.occupant, state) {
                (None, SlotState::Free) => true,
                (Some(who), SlotState::Used) => !who.draining,
                (Some(who), SlotState::Draining) => who.draining,
                _ => false,
            });
            self.metrics.slots(name, *state, count.count());
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
    let (reason, message, fix) =
        (finding.reason, &finding.message, finding.fix.as_deref().unwrap_or_default());
    match finding.verdict {
        Verdict::Refused | Verdict::Degraded => tracing::warn!(%reason, subject, fix, "{message}"),
        Verdict::Waiting | Verdict::Note => tracing::info!(%reason, subject, fix, "{message}"),
    }
}
