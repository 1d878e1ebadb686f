//! Whether the operator has done its first round: what `/readyz` says.

use std::sync::Arc;

use tokio::sync::watch;

/// The driver's hand on `/readyz`; clones share one state.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting(String),
    Ready,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::Waiting("the first sync".to_owned()))) }
    }
}

impl Readiness {
    /// Says what is still waited for, as in "the first list of engine `local`".
    pub fn waiting_for(&self, what: impl Into<String>) {
        self.state.send_replace(State::Waiting(what.into()));
    }

    /// The first sync is done.
    pub fn ready(&self) {
        self.state.send_replace(State::Ready);
    }

    /// What is still waited for; none: ready.
    pub fn waits_for(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Waiting(what) => Some(what.clone()),
            State::Ready => None,
        }
    }
}
