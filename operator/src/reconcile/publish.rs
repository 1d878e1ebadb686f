//! Publish: what became of a cycle, as status for the API, metrics, and one log line for each transition.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::compile::Compiled;
use interlock_core::finding::{Finding, Verdict};
use interlock_core::model::{Observed, TargetId};
use interlock_core::protocol::{Outcome, Welcome};
use serde::Serialize;
use tokio::sync::watch;

use super::target::{TargetStatus, Tracked};
use super::{driver, policy};
use crate::deliver::{DeliverError, Wanted};

/// What the API serves: the newest cycle, whole.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The snapshot.
    pub observed: Observed,
    /// What followed from it.
    pub compiled: Compiled,
    /// The targets.
    pub targets: Vec<TargetStatus>,
}

/// Writes logs on transition and hands the newest state on.
pub struct Publisher {
    newest: watch::Sender<Arc<Published>>,
    told: BTreeSet<Finding>,
}

impl Publisher {
    /// `newest` receives every cycle's state.
    pub fn new(newest: watch::Sender<Arc<Published>>) -> Self {
        Self { newest, told: BTreeSet::new() }
    }

    pub(super) fn connected(&self, target: &TargetId, welcome: &Welcome) {
        tracing::info!(%target, proxy = %welcome.proxy.abilities, agent = welcome.version, "agent connected");
    }

    pub(super) fn lost(&self, target: &TargetId, error: &DeliverError, retry_in: Duration) {
        tracing::warn!(%target, error = policy::chain(error), ?retry_in, "agent not connected");
    }

    pub(super) fn applied(&self, target: &TargetId, tracked: &Tracked, wanted: &Wanted, outcome: &Outcome) {
        let digest = &wanted.bundle.digest;
        match outcome {
            Outcome::Applied(applied) => {
                let age = tracked.pending_since.map(|event| driver::now().0.saturating_sub(event.0));
                if !applied.reload.is_empty() {
                    let why = applied.reload.join(", ");
                    tracing::info!(%target, %digest, why, check_ms = applied.check_ms, activate_ms = applied.activate_ms, event_to_receipt_ms = age, "reloaded");
                } else if applied.commands > 0 {
                    tracing::info!(%target, %digest, commands = applied.commands, event_to_receipt_ms = age, "changed live");
                }
                for (kind, count) in &applied.healed {
                    tracing::warn!(%target, kind, count, "drift healed: something in the proxy had been changed by hand");
                }
            }
            Outcome::Passed => {}
            Outcome::Refused(refusal) => {
                tracing::warn!(%target, %digest, output = refusal.output, "the proxy's checker refused the configuration; the last good one stays");
            }
            Outcome::ActivationFailed { reason } => {
                tracing::error!(%target, %digest, reason, "the configuration did not start; the last good one is back");
            }
            Outcome::Failed { reason } => tracing::error!(%target, %digest, reason, "could not apply"),
        }
    }

    pub(super) fn cycle(
        &mut self,
        observed: Observed,
        compiled: Compiled,
        targets: Vec<TargetStatus>,
        compiling: Duration,
        delivering: Duration,
    ) {
        let current: BTreeSet<Finding> = compiled.findings.iter().cloned().collect();
        for finding in current.difference(&self.told) {
            log(finding);
        }
        for finding in self.told.difference(&current) {
            tracing::info!(reason = %finding.reason, subject = subject(finding), "resolved");
        }
        self.told = current;
        tracing::debug!(?compiling, ?delivering, "cycle");
        self.newest.send_replace(Arc::new(Published { observed, compiled, targets }));
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
