//! Deliver: the operator side of the agent protocol and the ways to reach an agent.

mod actor;
mod dial;
mod disk;
pub mod exec;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::bundle::Bundle;
use interlock_core::compile::Transport;
use interlock_core::model::{Digest, ProbeKey, ProbeResult, Shared, TargetId, UpstreamAddr};
use interlock_core::plan::Plan;
use interlock_core::protocol::{Declined, OldWorkers, Outcome, ProbeSet, ProxyFacts, SecretText, Welcome};
use interlock_crds::ProxyKind;
use tokio::io::{AsyncRead, AsyncWrite};

pub use actor::{Handle, Identity, held, spawn};
pub use dial::{Dialer, Outer};
pub use disk::{OnDisk, watch};

/// The receiving half of a connection to an agent.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The sending half of a connection to an agent.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;
/// The future of a dial.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = Result<(Reader, Writer), DeliverError>> + Send + 'a>>;

/// The future of a look.
pub type Looking<'a> = Pin<Box<dyn Future<Output = Result<OnDisk, DeliverError>> + Send + 'a>>;

/// Why an agent cannot be reached or does not serve.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The transport did not come up.
    #[error("cannot reach the agent of `{target}`")]
    Dial {
        /// Whose.
        target: TargetId,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent cannot be put beside the proxy at all; nothing will change by trying again soon.
    #[error("the agent cannot work beside `{target}`: {reason}")]
    Impossible {
        /// Whose.
        target: TargetId,
        /// Why, with the ways out.
        reason: String,
    },
    /// The agent said no.
    #[error("the agent declined: {0:?}")]
    Declined(Declined),
    /// The stream broke.
    #[error(transparent)]
    Wire(#[from] crate::wire::WireError),
    /// Nothing came back in time.
    #[error("the agent has not answered for {0:?}")]
    Silent(Duration),
}

/// Reaches agents; the real one dials sockets and Docker, tests dial what they like.
pub trait Dial: Send + Sync + 'static {
    /// Opens a connection to the agent of `target`; `proxy` is known for transports that must start it.
    fn dial<'a>(
        &'a self,
        target: &'a TargetId,
        transport: &'a Transport,
        proxy: Option<ProxyKind>,
    ) -> Dialing<'a>;

    /// Reads what lies in the container of a proxy that has no agent of its own; changes nothing.
    fn look<'a>(&'a self, target: &'a TargetId, transport: &'a Transport, proxy: ProxyKind) -> Looking<'a>;
}

/// What a target should have; the newest replaces the ones before it.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// What it should run; none: nothing is sent yet.
    pub wanted: Option<Arc<Wanted>>,
    /// What its agent should probe.
    pub probes: Shared<ProbeSet>,
    /// Grows at every resync: what runs is compared and healed even if nothing else changed.
    pub nudge: u64,
    /// A bundle to judge without activating it; answered once for each `id`.
    pub check: Option<(u64, Arc<Wanted>)>,
}

/// A bundle and what goes with it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The bundle.
    pub bundle: Bundle,
    /// Contents of the secrets that it refers to.
    pub secrets: BTreeMap<Digest, SecretText>,
    /// Whether some endpoint's traffic depends on it; otherwise a reload for it may wait for company.
    pub pressing: bool,
    /// Whether it takes an endpoint out of rotation that what runs still sends requests to; a reload for
    /// it never waits.
    pub withdraws: bool,
    /// Old workers that there may be before a reload waits; none: as many as there are. Unless `withdraws`
    /// where the proxy can only do that by a reload.
    pub max_old_workers: Option<u16>,
    /// What it was rendered from.
    pub plan: Shared<Plan>,
    /// The endpoints that take new requests once this is applied.
    pub in_rotation: BTreeSet<UpstreamAddr>,
}

/// What happened at a target.
#[derive(Debug)]
pub enum Report {
    /// An agent serves us.
    Connected(Welcome),
    /// A bundle was applied, or not.
    Applied {
        /// Which.
        digest: Digest,
        /// Intents that were in it, for a search.
        wanted: Arc<Wanted>,
        /// What became of it.
        outcome: Outcome,
    },
    /// A check was answered.
    Checked {
        /// Which.
        id: u64,
        /// The verdict.
        outcome: Outcome,
    },
    /// The proxy's old workers are others than before.
    OldWorkers(OldWorkers),
    /// Probe results changed.
    Probed(BTreeMap<ProbeKey, ProbeResult>),
    /// The proxy started, restarted or went away.
    ProxyChanged(ProxyFacts),
    /// What lies in the container of a proxy that is only observed.
    OnDisk(Box<OnDisk>),
    /// The connection ended or never came up; it is tried again after the pause.
    Lost {
        /// Why.
        error: DeliverError,
        /// The pause.
        retry_in: Duration,
    },
}
