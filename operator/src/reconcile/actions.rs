//! Actions on the engine that a cycle asks for: one at a time for each subject, with backoff on failure.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::compile::{Boot, NetworkAction};
use interlock_core::finding::{Finding, Reason, Subject, Verdict};
use interlock_core::model::ContainerId;
use interlock_crds::ServiceClusterSpec;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::retry::Backoff;

/// The outcome of an action: an error is a text for people with the way out in it.
pub type Acting<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Carries actions out; the real one is Docker.
pub trait Act: Send + Sync + 'static {
    /// Attaches or detaches a proxy.
    fn network<'a>(&'a self, action: &'a NetworkAction) -> Acting<'a>;
    /// Gives an exited stock proxy its first configuration and starts it.
    fn boot<'a>(
        &'a self,
        container: &'a ContainerId,
        boot: &'a Boot,
        spec: &'a ServiceClusterSpec,
    ) -> Acting<'a>;
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A network attachment.
    Network(NetworkAction),
    /// A first configuration.
    Boot(ContainerId, Boot, Box<ServiceClusterSpec>),
}

impl Action {
    fn key(&self) -> String {
        match self {
            Self::Network(NetworkAction::Attach { container, network, .. }) => {
                format!("attach {container} {network}")
            }
            Self::Network(NetworkAction::Detach { container, network, .. }) => {
                format!("detach {container} {network}")
            }
            Self::Boot(container, ..) => format!("boot {container}"),
        }
    }

    fn container(&self) -> &ContainerId {
        match self {
            Self::Network(
                NetworkAction::Attach { container, .. } | NetworkAction::Detach { container, .. },
            )
            | Self::Boot(container, ..) => container,
        }
    }
}

/// An action that ended.
#[derive(Debug)]
pub(super) struct Done {
    action: Action,
    result: Result<(), String>,
}

/// What is under way and what failed.
pub(super) struct Actions {
    act: Arc<dyn Act>,
    done: mpsc::Sender<Done>,
    states: BTreeMap<String, State>,
}

struct State {
    action: Action,
    running: bool,
    error: Option<String>,
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Actions {
    /// `done` receives every action that ended; hand it to [`Actions::ended`].
    pub(super) fn new(act: Arc<dyn Act>, done: mpsc::Sender<Done>) -> Self {
        Self { act, done, states: BTreeMap::new() }
    }

    /// Starts what is wanted and neither under way nor in its pause; forgets what nobody wants any more.
    pub(super) fn want(&mut self, wanted: Vec<Action>) {
        let wanted: BTreeMap<String, Action> =
            wanted.into_iter().map(|action| (action.key(), action)).collect();
        self.states.retain(|key, state| state.running || wanted.contains_key(key));
        for (key, action) in wanted {
            let state = self.states.entry(key).or_insert_with(|| State {
                action: action.clone(),
                running: false,
                error: None,
                not_before: None,
                backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            });
            if state.running || state.not_before.is_some_and(|at| at > Instant::now()) {
                continue;
            }
            state.running = true;
            let (act, done) = (self.act.clone(), self.done.clone());
            tokio::spawn(async move {
                let result = match &action {
                    Action::Network(network) => act.network(network).await,
                    Action::Boot(container, boot, spec) => act.boot(container, boot, spec).await,
                };
                // The driver is gone at shutdown; nobody needs to know then.
                let _ = done.send(Done { action, result }).await;
            });
        }
    }

    /// Notes what became of an action; a booted container is returned, to be remembered.
    pub(super) fn ended(&mut self, done: Done) -> Option<ContainerId> {
        let state = self.states.get_mut(&done.action.key())?;
        state.running = false;
        match done.result {
            Ok(()) => {
                tracing::info!(action = done.action.key(), "done");
                // What was achieved shows in the next observation; until then it is not repeated.
                state.not_before = Some(Instant::now() + Duration::from_secs(2));
                state.error = None;
                state.backoff.reset();
                match done.action {
                    Action::Boot(container, ..) => Some(container),
                    Action::Network(_) => None,
                }
            }
            Err(error) => {
                tracing::warn!(action = done.action.key(), error, "failed");
                state.not_before = Some(Instant::now() + state.backoff.pause());
                state.error = Some(error);
                None
            }
        }
    }

    /// When the next pause ends.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.states.values().filter(|state| !state.running).filter_map(|state| state.not_before).min()
    }

    /// What failed, as findings.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> + '_ {
        self.states.values().filter_map(|state| {
            let message = state.error.clone()?;
            let reason = match state.action {
                Action::Network(_) => Reason::Unreachable,
                Action::Boot(..) => Reason::AgentRefused,
            };
            let subject = Subject { container: Some(state.action.container().clone()), ..Subject::default() };
            Some(Finding { verdict: Verdict::Degraded, reason, subject, message, fix: None })
        })
    }
}
