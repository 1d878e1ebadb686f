//! Policy: what follows from an outcome or an error. Pure; the driver carries it out.

use std::collections::BTreeSet;

use interlock_core::finding::{Finding, Reason, Subject, Verdict};
use interlock_core::model::{ClusterName, Digest, TargetId};
use interlock_core::protocol::{Declined, Outcome};
use interlock_core::search::Search;

use crate::chain::chain;
use crate::deliver::{DeliverError, Wanted};

/// What to do after an apply was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It runs.
    Settled,
    /// These intents are to blame, says the checker: leave them out and go on.
    Quarantine(BTreeSet<Digest>, String),
    /// Somebody is to blame; find out who.
    Search(Search),
    /// Nobody in particular is: tell, and wait for a change.
    Fault(Reason, String),
}

/// Judges what became of a bundle.
pub(super) fn judge(outcome: &Outcome, wanted: &Wanted) -> Next {
    match outcome {
        Outcome::Applied(_) | Outcome::Passed => Next::Settled,
        Outcome::Refused(refusal) if !refusal.culprits.is_empty() => {
            Next::Quarantine(refusal.culprits.iter().cloned().collect(), refusal.output.clone())
        }
        Outcome::Refused(refusal) => {
            let suspects =
                wanted.bundle.fragments.iter().flat_map(|fragment| fragment.intents.iter().cloned());
            let search = Search::new(suspects);
            if search.is_empty() {
                return Next::Fault(Reason::BaseRefused, refusal.output.clone());
            }
            Next::Search(search)
        }
        Outcome::ActivationFailed { reason } => Next::Fault(Reason::ActivationFailed, reason.clone()),
        Outcome::Failed { reason } => Next::Fault(Reason::Unreached, reason.clone()),
    }
}

/// The finding for a target whose agent cannot be reached or does not serve.
pub(super) fn lost(target: &TargetId, cluster: Option<&ClusterName>, error: &DeliverError) -> Finding {
    let (reason, fix) = match error {
        DeliverError::Declined(Declined::ForeignOwner { operator }) => (
            Reason::ForeignOwner,
            Some(format!("stop the operator `{operator}`, or set `operatorId: {operator}` if this one replaces it")),
        ),
        DeliverError::Declined(Declined::Superseded { .. }) => (
            Reason::ForeignOwner,
            Some("another operator with the same `operatorId` was started later; stop one of them".to_owned()),
        ),
        DeliverError::Impossible { .. } | DeliverError::Declined(_) => (
            Reason::AgentRefused,
            Some(
                "use the image `interlock-haproxy` or `interlock-nginx` with its socket on a volume shared with the operator, or give the proxy a writable root without a mount at `/.interlock`"
                    .to_owned(),
            ),
        ),
        _ => (Reason::Unreached, None),
    };
    fault(target, cluster, reason, chain(error), fix)
}

/// A finding about a whole target.
pub(super) fn fault(
    target: &TargetId,
    cluster: Option<&ClusterName>,
    reason: Reason,
    message: String,
    fix: Option<String>,
) -> Finding {
    Finding {
        verdict: Verdict::Degraded,
        reason,
        subject: Subject { target: Some(target.clone()), cluster: cluster.cloned(), ..Subject::default() },
        message,
        fix,
    }
}
