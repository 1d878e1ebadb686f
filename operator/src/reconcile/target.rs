//! What the driver knows of one target between cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::change::{self, Change};
use interlock_core::compile::{Target, Transport};
use interlock_core::finding::{Finding, Reason, Subject, Verdict};
use interlock_core::fit::fit;
use interlock_core::model::{Digest, Shared, TargetId, Timestamp, UpstreamAddr};
use interlock_core::plan::{Abilities, Plan};
use interlock_core::protocol::{Limits, OldWorkers, SecretText};
use interlock_core::render::Templates;
use interlock_core::search::Search;
use interlock_core::{capacity, render};
use interlock_crds::ProxyKind;
use tokio::time::Instant;

use crate::deliver::{Handle, OnDisk, Wanted, held};
use crate::serve::{TargetState, TargetStatus};

/// How long what changes nobody's traffic stands aside.
const ASIDE: Duration = Duration::from_millis(25);
/// What a comparison says of a proxy that has what it should.
const IN_STEP: &str = "in step";

/// What a plan asks for.
pub(super) enum Ahead {
    /// It provably runs already.
    Nothing,
    /// It serves nobody yet, and stands aside until then: the probe that admits a new endpoint usually passes at once,
    /// and what matters must not queue behind what announces it.
    Aside(Instant),
    Render,
}

/// A target, its task and what was last seen of it.
pub(super) struct Tracked {
    /// As compiled; another container or start makes another target.
    pub(super) target: Target,
    /// The way to its task.
    pub(super) handle: Option<Handle>,
    /// Where the next assignment starts from: what was last sent, else what was last read back.
    pub(super) last: Option<Shared<Receipt>>,
    /// What is proven to run.
    pub(super) receipt: Option<Shared<Receipt>>,
    /// What was last sent.
    pub(super) wanted: Option<Arc<Wanted>>,
    /// What it was rendered for.
    pub(super) abilities: Option<Abilities>,
    /// The endpoints that the last proven plan sends new requests to.
    pub(super) in_rotation: BTreeSet<UpstreamAddr>,
    /// What is wrong with it.
    pub(super) fault: Option<Finding>,
    /// A search for a culprit under way: the search, the id of its check, the refusal's words.
    pub(super) search: Option<(Search, u64, String)>,
    /// Docker's time of the oldest event that is not proven to be served yet.
    pub(super) pending_since: Option<Timestamp>,
    /// What bounds its proxy.
    pub(super) limits: Option<Limits>,
    /// What of the settings cannot be had within these bounds.
    pub(super) limited: Option<Finding>,
    /// The plan that is proven to run.
    pub(super) running: Option<Shared<Plan>>,
    /// Until when a change stands aside that serves nobody yet.
    announced: Option<Instant>,
    /// The old workers of its proxy, and when that was told.
    pub(super) old: OldWorkers,
    /// What waits for an old worker to end.
    pub(super) waits: Option<Finding>,
    /// That it serves what was applied and is not stored any more: it is told nothing.
    pub(super) lost: Option<Finding>,
    /// Whether objects that were applied are for its cluster.
    pub(super) applied: bool,
    /// The connection is up.
    pub(super) connected: bool,
    /// What lies in its container, where that is read in place of hearing an agent.
    disk: Option<OnDisk>,
    /// How what it has compares with what it would be given, where nothing is delivered.
    compared: Option<String>,
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
            abilities: None,
            announced: None,
            in_rotation: BTreeSet::new(),
            fault: None,
            search: None,
            pending_since: None,
            limits: None,
            limited: None,
            running: None,
            old: OldWorkers::default(),
            waits: None,
            lost: None,
            applied: false,
            connected: false,
            disk: None,
            compared: None,
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
        let known = self.wanted.as_ref().filter(|_| self.abilities == Some(abilities));
        let known = known.map(|wanted| (&*wanted.plan, &wanted.bundle));
        let bundle = render::bundle_after(known, plan, self.last.as_deref(), abilities, templates)?;
        Ok(Bundle { applied: self.applied, ..bundle })
    }

    /// Notes whether the store, where it is empty, must have been lost: the proxy serves what was applied.
    pub(super) fn lose(&mut self, id: &TargetId, empty: bool) -> bool {
        let serves = self.receipt.as_ref().is_some_and(|receipt| receipt.applied);
        self.lost = (empty && serves).then(|| {
            let message = "it serves objects that were applied, and the store is empty: nothing is taken away, and it is told nothing";
            Finding::new(Verdict::Waiting, Reason::StoreLost, self.subject(id), message).fix(
                "put the objects back: `interlock restore FILE`; or accept that they go: `interlock restore --none`",
            )
        });
        self.lost.is_some()
    }

    /// Wraps a bundle for delivery. `secret` finds contents by digest; what is missing is left out, and
    /// the agent will say so.
    pub(super) fn wrap(
        &self,
        plan: &Shared<Plan>,
        bundle: Bundle,
        secret: impl Fn(&Digest) -> Option<SecretText>,
    ) -> Arc<Wanted> {
        let secrets: BTreeMap<Digest, SecretText> = bundle
            .secrets
            .iter()
            .filter_map(|reference| Some((reference.digest.clone(), secret(&reference.digest)?)))
            .collect();
        let pressing = !self.serves_as(plan);
        let endpoints = plan.backends.iter().flat_map(|backend| &backend.endpoints);
        let in_rotation: BTreeSet<UpstreamAddr> =
            endpoints.filter(|endpoint| !endpoint.draining).map(|endpoint| endpoint.address).collect();
        let withdraws = !self.in_rotation.is_subset(&in_rotation);
        let max_old_workers = Some(max_old_workers(plan)).filter(|most| *most > 0);
        let plan = plan.clone();
        Arc::new(Wanted { bundle, secrets, pressing, withdraws, max_old_workers, plan, in_rotation })
    }

    /// Whether what is proven to run serves the same traffic as a plan.
    fn serves_as(&self, plan: &Plan) -> bool {
        self.running.as_ref().is_some_and(|running| running.serves_as(plan))
    }

    /// What is to be done about a plan.
    pub(super) fn ahead(&mut self, plan: &Shared<Plan>) -> Ahead {
        let sent = self.wanted.as_ref().is_some_and(|wanted| wanted.plan == *plan);
        if sent || !self.serves_as(plan) {
            self.announced = None;
            let runs = sent && self.waits.is_none() && self.in_sync();
            return if runs { Ahead::Nothing } else { Ahead::Render };
        }
        let now = Instant::now();
        let until = *self.announced.get_or_insert(now + ASIDE);
        if until > now { Ahead::Aside(until) } else { Ahead::Render }
    }
}

impl Tracked {
    /// Notes what lies in its container. What was edited by hand proves nothing, but who sits where is where the
    /// next rendering starts from all the same.
    pub(super) fn read(&mut self, found: &OnDisk) {
        self.connected = true;
        self.fault = None;
        self.last = found.bundle.as_ref().map(|bundle| Receipt::planned(bundle).into());
        self.receipt = self.last.clone().filter(|_| found.edited.is_empty());
        self.disk = Some(found.clone());
    }

    /// Compares what it has with what it would be given; one log line for each transition.
    pub(super) fn compare(&mut self, id: &TargetId) {
        let Some(wanted) = self.wanted.as_ref().filter(|_| self.connected) else { return };
        let compared = match (&self.disk, &self.receipt) {
            (Some(OnDisk { bundle: Some(bundle), edited, .. }), _) => {
                let mut differ = change::differences(bundle, &wanted.bundle);
                differ.extend(edited.iter().map(|file| format!("{file} (changed by hand)")));
                if differ.is_empty() { IN_STEP.to_owned() } else { format!("differs: {}", differ.join(", ")) }
            }
            (Some(_), _) | (None, None) => "not ours: it has no configuration of Interlock's".to_owned(),
            (None, Some(receipt)) => match Change::between(Some(&**receipt), &wanted.bundle) {
                Change::None => IN_STEP.to_owned(),
                Change::Live => "differs: servers or maps".to_owned(),
                Change::Reload { .. } => "differs: more than servers and maps".to_owned(),
            },
        };
        if self.compared.as_ref() != Some(&compared) {
            tracing::info!(target = %id, "compared, nothing delivered: {compared}");
            self.compared = Some(compared);
        }
    }
}

impl Tracked {
    /// The plan within the bounds of the proxy's place.
    pub(super) fn bounded(&mut self, id: &TargetId, plan: &Shared<Plan>) -> Shared<Plan> {
        self.limited = None;
        let Some(limits) = self.limits else { return plan.clone() };
        let capacity = capacity::fit(&plan.settings, limits);
        self.limited = capacity.complaint.map(|message| {
            Finding::new(Verdict::Degraded, Reason::LimitTooLow, self.subject(id), message).fix(
                "lower `maxConnections`, or raise the container's limits (`--ulimit nofile=`, `--memory`)",
            )
        });
        let ipv6 = plan.settings.listeners.ipv6 && !limits.ipv4_only;
        if (capacity.max_connections, ipv6) == (plan.settings.max_connections, plan.settings.listeners.ipv6) {
            return plan.clone();
        }
        let mut plan = plan.clone();
        let settings = &mut plan.change().settings;
        settings.max_connections = capacity.max_connections;
        settings.listeners.ipv6 = ipv6;
        plan
    }

    fn subject(&self, id: &TargetId) -> Subject {
        Subject { target: Some(id.clone()), cluster: self.target.cluster.clone(), ..Subject::default() }
    }

    /// Whether its task has been given this bundle last.
    pub(super) fn was_sent(&self, bundle: &Bundle) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.bundle.digest == bundle.digest)
    }

    /// Whether a bundle takes a reload while old workers are about.
    pub(super) fn may_wait(&self, bundle: &Bundle) -> bool {
        let shape = self.receipt.as_ref().map(|receipt| &receipt.static_digest);
        self.old.count > 0 && shape.is_some_and(|shape| *shape != bundle.static_digest)
    }

    /// What can be delivered of a plan now: all of it, or, while its reload waits for an old worker, what the
    /// running shape can take. None: nothing.
    pub(super) fn fitting(
        &mut self,
        id: &TargetId,
        whole: &Wanted,
        abilities: Abilities,
        templates: &Templates,
    ) -> Option<(Plan, Bundle)> {
        self.waits = None;
        if !self.may_wait(&whole.bundle) || !held(whole, whole.withdraws, self.old.count) {
            return None;
        }
        self.waits = Some(self.busy(id));
        let shape = &self.receipt.as_ref()?.static_digest;
        let running = self.running.clone()?;
        let keeps = |plan: &Plan| {
            self.render(plan, abilities, templates).is_ok_and(|bundle| bundle.static_digest == *shape)
        };
        let plan = fit(&running, &whole.plan, keeps)?;
        let bundle = self.render(&plan, abilities, templates).ok()?;
        Some((plan, bundle))
    }

    fn busy(&self, id: &TargetId) -> Finding {
        let longest = match self.old.ends_in_ms {
            Some(ms) => format!("for at most {} s", ms.div_ceil(1000)),
            None => "until one of them ends".to_owned(),
        };
        let message = format!(
            "{} old workers still finish what they have, which is as many as may be: what needs a reload waits {longest}",
            self.old.count
        );
        Finding::new(Verdict::Waiting, Reason::OldWorkersBusy, self.subject(id), message)
            .fix("allow more by `maxOldWorkers`, or shorten `drain`, of the cluster's proxy")
    }
}

fn max_old_workers(plan: &Plan) -> u16 {
    match plan.settings.proxy {
        ProxyKind::Haproxy => plan.settings.haproxy.max_old_workers,
        ProxyKind::Nginx => plan.settings.nginx.max_old_workers,
    }
}

impl Tracked {
    /// Whether it provably runs what it should.
    pub(super) fn in_sync(&self) -> bool {
        let desired = self.wanted.as_ref().map(|wanted| &wanted.bundle.digest);
        self.waits.is_none()
            && desired.is_some()
            && self.receipt.as_ref().map(|receipt| &receipt.digest) == desired
    }

    /// For status and API; none while neither its cluster nor its proxy is known.
    pub(super) fn status(&self) -> Option<TargetStatus> {
        let told = self.lost.as_ref().or(self.fault.as_ref()).or(self.waits.as_ref());
        let reason = told.map(|fault| fault.reason);
        let state = match reason {
            Some(Reason::StoreLost) => TargetState::StoreLost,
            _ if self.in_sync() && self.connected => TargetState::Programmed,
            Some(Reason::BaseRefused | Reason::NoCulprit) => TargetState::Refused,
            Some(Reason::ActivationFailed) => TargetState::ActivationFailed,
            Some(Reason::OldWorkersBusy) => TargetState::OldWorkersBusy,
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
            message: told.map(|fault| fault.message.clone()).or_else(|| self.compared.clone()),
        })
    }
}
