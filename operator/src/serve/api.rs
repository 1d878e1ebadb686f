//! The API: one snapshot of what the operator sees, from which the commands answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_core::bundle::Receipt;
use interlock_core::compile::Config;
use interlock_core::finding::Finding;
use interlock_core::model::{ClusterName, Digest, Observed, TargetId};
use interlock_crds::ProxyKind;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The snapshot's path on the API socket.
pub const SNAPSHOT_PATH: &str = "/v1/snapshot";

/// Everything that the commands compute from: facts and settings, no secrets. What follows from them
/// (plans, bundles, findings of compiling) each command computes with the same pure functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The operator's version.
    pub version: String,
    /// The settings that compiling depends on.
    pub config: Config,
    /// The facts of the last round.
    pub observed: Observed,
    /// What is known of each proxy.
    #[serde(default)]
    pub targets: BTreeMap<TargetId, TargetStatus>,
    /// Findings that do not follow from the facts alone: of delivering, checking, reaching.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Whether nothing is delivered (`--observe`).
    #[serde(default)]
    pub observe: bool,
}

/// What is known of one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Which proxy it is.
    pub proxy: ProxyKind,
    /// Whether it is in step.
    pub state: TargetState,
    /// What it provably runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Digest>,
    /// The proof of that: who sits in which slot is where the next rendering starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<interlock_core::model::Shared<Receipt>>,
    /// What it should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Digest>,
    /// Why it is not in step, or how it would change; for people, without a full stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a proxy is in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TargetState {
    /// It provably runs what it should.
    Programmed,
    /// A delivery is under way or about to be.
    Pending,
    /// Its checker refused what it should run; the last good state runs.
    Refused,
    /// What it should run passed the check and did not start; the last good state runs.
    ActivationFailed,
    /// As many old workers as may be still finish what they have; live changes go on, a reload waits.
    OldWorkersBusy,
    /// It serves what was applied, and the store is empty: it is told nothing until somebody says what is right.
    StoreLost,
    /// It cannot be reached; it goes on with what it has.
    Unreachable,
    /// It obeys another operator.
    Foreign,
}

impl TargetState {
    /// The `PascalCase` text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Programmed => "Programmed",
            Self::Pending => "Pending",
            Self::Refused => "Refused",
            Self::ActivationFailed => "ActivationFailed",
            Self::OldWorkersBusy => "OldWorkersBusy",
            Self::StoreLost => "StoreLost",
            Self::Unreachable => "Unreachable",
            Self::Foreign => "Foreign",
        }
    }
}

/// Where the driver publishes and the API reads; clones share one cell.
#[derive(Debug, Clone)]
pub struct Shared {
    cell: Arc<watch::Sender<Option<Arc<Snapshot>>>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { cell: Arc::new(watch::Sender::new(None)) }
    }
}

impl Shared {
    /// Replaces what the API answers.
    pub fn publish(&self, snapshot: Snapshot) {
        self.cell.send_replace(Some(Arc::new(snapshot)));
    }

    /// The last snapshot; none before the first round.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.cell.borrow().clone()
    }
}
