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

#[cfg(test)]
mod tests {
    use interlock_crds::ProxyKind;

    use super::*;
    use crate::bundle::{Fragment, Live};

    fn bundle(text: &str, entry: &str) -> Bundle {
        let fragment = Fragment {
            file: "f".to_owned(),
            name: "global".to_owned(),
            text: text.to_owned(),
            servers: None,
            intents: Vec::new(),
        };
        let map = [("key".to_owned(), entry.to_owned())].into();
        let live = Live { maps: [("a.map".to_owned(), map)].into(), ..Live::default() };
        let (target, cluster) = ("t".parse().unwrap(), "c".parse().unwrap());
        Bundle::new(target, cluster, ProxyKind::Haproxy, vec![fragment], live, Vec::new())
    }

    fn receipt(bundle: &Bundle) -> Receipt {
        Receipt {
            static_digest: bundle.static_digest.clone(),
            digest: bundle.digest.clone(),
            servers: bundle.live.servers.clone(),
        }
    }

    #[test]
    fn a_proxy_without_a_receipt_is_reloaded() {
        let change = Change::between(None, &bundle("x", "1"));
        assert_eq!(change, Change::Reload { why: ReloadReason::First });
    }

    #[test]
    fn the_live_part_alone_takes_no_reload() {
        let last = receipt(&bundle("x", "1"));
        assert_eq!(Change::between(Some(&last), &bundle("x", "1")), Change::None);
        assert_eq!(Change::between(Some(&last), &bundle("x", "2")), Change::Live);
        let other = Change::Reload { why: ReloadReason::StaticDigest };
        assert_eq!(Change::between(Some(&last), &bundle("y", "1")), other);
    }
}
