//! What the driver knows of one target between cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::compile::{Target, Transport};
use interlock_core::finding::{Finding, Reason};
use interlock_core::model::{Digest, Timestamp, UpstreamAddr};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::protocol::SecretText;
use interlock_core::render::Templates;
use interlock_core::search::Search;
use interlock_core::{assign, render};

use crate::deliver::{Handle, Wanted};
use crate::serve::{TargetState, TargetStatus};

/// A target, its task and what was last seen of it.
pub(super) struct Tracked {
    /// As compiled; another container or start makes another target.
    pub(super) target: Target,
    /// The way to its task.
    pub(super) handle: Option<Handle>,
    /// Where the next assignment starts from: what was last sent, else what was last read back.
    pub(super) last: Option<Receipt>,
    /// What is proven to run.
    pub(super) receipt: Option<Receipt>,
    /// What was last sent.
    pub(super) wanted: Option<Arc<Wanted>>,
    /// The part of the last proven plan that traffic depends on.
    pub(super) served: Option<Digest>,
    /// The endpoints that the last proven plan sends new requests to.
    pub(super) in_rotation: BTreeSet<UpstreamAddr>,
    /// What is wrong with it.
    pub(super) fault: Option<Finding>,
    /// A search for a culprit under way: the search, the id of its check, the refusal's words.
    pub(super) search: Option<(Search, u64, String)>,
    /// Docker's time of the oldest event that is not proven to be served yet.
    pub(super) pending_since: Option<Timestamp>,
    /// The connection is up.
    pub(super) connected: bool,
}

impl Tracked {
    /// A target that was just found.
    pub(super) fn new(target: Target, handle: Option<Handle>) -> Self {
        Self {
            target,
            handle,
            last: None,
            receipt: None,
            wanted: None,
            served: None,
            in_rotation: BTreeSet::new(),
            fault: None,
            search: None,
            pending_since: None,
            connected: false,
        }
    }

    /// Whether `target` is still the same proxy process reached the same way.
    pub(super) fn is(&self, target: &Target) -> bool {
        // Behind a socket or in the outer process the agent itself says when its proxy changes; and its
        // container is only known once it has spoken.
        let exec = matches!(target.transport, Transport::Exec { .. });
        self.target.transport == target.transport && (!exec || self.target.started == target.started)
    }

    /// Renders a plan from where this target stands.
    pub(super) fn render(
        &self,
        plan: &Plan,
        abilities: Abilities,
        templates: &Templates,
    ) -> Result<Bundle, render::RenderError> {
        let assignment = assign::assign(plan, self.last.as_ref(), abilities);
        render::render(plan, &assignment, abilities, templates)
    }

    /// Wraps a bundle for delivery. `secret` finds contents by digest; what is missing is left out, and
    /// the agent will say so.
    pub(super) fn wrap(
        &self,
        plan: &Plan,
        bundle: Bundle,
        secret: impl Fn(&Digest) -> Option<SecretText>,
    ) -> Arc<Wanted> {
        let secrets: BTreeMap<Digest, SecretText> = bundle
            .secrets
            .iter()
            .filter_map(|reference| Some((reference.digest.clone(), secret(&reference.digest)?)))
            .collect();
        let urgent = plan.urgent_digest();
        let pressing = self.served.as_ref() != Some(&urgent);
        let endpoints = plan.backends.iter().flat_map(|backend| &backend.endpoints);
        let in_rotation: BTreeSet<UpstreamAddr> =
            endpoints.filter(|endpoint| !endpoint.draining).map(|endpoint| endpoint.address).collect();
        let withdraws = !self.in_rotation.is_subset(&in_rotation);
        Arc::new(Wanted { bundle, secrets, pressing, withdraws, in_rotation, urgent })
    }
}

/// The assignment that a bundle carries, in the form that the next rendering starts from.
pub(super) fn assignment_of(bundle: &Bundle) -> Receipt {
    Receipt {
        static_digest: bundle.static_digest.clone(),
        digest: bundle.digest.clone(),
        servers: bundle.live.servers.clone(),
    }
}

impl Tracked {
    /// Whether it provably runs what it should.
    pub(super) fn in_sync(&self) -> bool {
        let desired = self.wanted.as_ref().map(|wanted| &wanted.bundle.digest);
        desired.is_some() && self.receipt.as_ref().map(|receipt| &receipt.digest) == desired
    }

    /// For status and API; none while neither its cluster nor its proxy is known.
    pub(super) fn status(&self) -> Option<TargetStatus> {
        let reason = self.fault.as_ref().map(|fault| fault.reason);
        let state = match reason {
            _ if self.in_sync() && self.connected => TargetState::Programmed,
            Some(Reason::BaseRefused) => TargetState::Refused,
            Some(Reason::ActivationFailed) => TargetState::ActivationFailed,
            Some(Reason::ForeignOwner) => TargetState::Foreign,
            Some(_) => TargetState::Unreachable,
            None => TargetState::Pending,
        };
        Some(TargetStatus {
            cluster: self.target.cluster.clone()?,
            proxy: self.target.proxy?,
            state,
            running: self.receipt.as_ref().map(|receipt| receipt.digest.clone()),
            receipt: self.receipt.clone(),
            wanted: self.wanted.as_ref().map(|wanted| wanted.bundle.digest.clone()),
            message: self.fault.as_ref().map(|fault| fault.message.clone()),
        })
    }
}
