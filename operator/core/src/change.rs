//! Change: what separates a running proxy from its Bundle.

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, Receipt};

/// What it takes to bring a proxy to its bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "change")]
pub enum Change {
    /// Nothing: it runs the bundle.
    None,
    /// Live commands; the files and their shape are the same.
    Live,
    /// A reload. Which fragments differ only the agent can say, which has the old ones; it reports
    /// them in [`crate::protocol::Applied::reload`].
    Reload {
        /// Why.
        why: ReloadReason,
    },
}

/// Why live commands do not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReloadReason {
    /// The proxy has never confirmed anything.
    First,
    /// Something outside the live part differs.
    StaticDigest,
}

impl Change {
    /// What separates the proxy that gave `last` from `bundle`.
    pub fn between(last: Option<&Receipt>, bundle: &Bundle) -> Self {
        match last {
            None => Self::Reload { why: ReloadReason::First },
            Some(last) if last.static_digest != bundle.static_digest => {
                Self::Reload { why: ReloadReason::StaticDigest }
            }
            Some(last) if last.digest != bundle.digest => Self::Live,
            Some(_) => Self::None,
        }
    }
}
