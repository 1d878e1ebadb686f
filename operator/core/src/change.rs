//! Change: what separates a running proxy from its Bundle.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, DIR, Fragment, Paths, RUN, Receipt, SEATS, SECRETS, SPARE, map_text};

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

/// The names of what differs between two bundles, the live part included: fragments, map files, `certificates`.
pub fn differences(before: &Bundle, after: &Bundle) -> Vec<String> {
    let (old, new) = (pieces(before), pieces(after));
    let differs = |name: &&String| old.get(*name) != new.get(*name);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).filter(differs).collect();
    let mut names: Vec<String> = names.into_iter().cloned().collect();
    if before.secrets != after.secrets {
        names.push("certificates".to_owned());
    }
    names
}

/// Fragments with their server lines, and maps, by name; a spare goes by the route that sits in it. The digest that
/// one fragment carries says nothing more.
fn pieces(bundle: &Bundle) -> BTreeMap<String, String> {
    let paths = Paths { dir: DIR, run: RUN, secrets: SECRETS };
    let own = bundle.static_digest.as_str();
    let seats = bundle.live.maps.get(SEATS).into_iter().flat_map(|seats| seats.iter());
    let routes: BTreeMap<&str, &str> = seats.map(|(route, seat)| (seat.as_str(), route.as_str())).collect();
    let name = |fragment: &Fragment| match &fragment.servers {
        Some(lines) if lines.backend.starts_with(SPARE) => routes
            .get(lines.backend.as_str())
            .map_or_else(|| SPARE.to_owned(), |route| format!("backend {route}")),
        _ => fragment.name.clone(),
    };
    let fragments = bundle.fragments.iter();
    let mut pieces: BTreeMap<String, String> = fragments
        .map(|fragment| (name(fragment), bundle.text_of(fragment, paths).replace(own, "")))
        .filter(|(name, _)| name != SPARE)
        .collect();
    pieces.extend(bundle.live.maps.iter().map(|(name, map)| (name.clone(), map_text(map))));
    pieces
}

#[cfg(test)]
mod tests {
    use interlock_crds::ProxyKind;

    use super::*;
    use crate::bundle::Live;

    fn bundle(text: &str, entry: &str) -> Bundle {
        let fragment = Fragment {
            file: "f".to_owned(),
            name: "global".to_owned(),
            text: text.to_owned(),
            ..Fragment::default()
        };
        let map = [("key".to_owned(), entry.to_owned())].into_iter().collect();
        let live = Live { maps: [("a.map".to_owned(), map)].into(), ..Live::default() };
        let (target, cluster) = ("t".parse().unwrap(), "c".parse().unwrap());
        Bundle::new(target, cluster, ProxyKind::Haproxy, vec![fragment], live, Vec::new())
    }

    fn receipt(bundle: &Bundle) -> Receipt {
        Receipt::of(bundle, bundle.live.clone())
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

    #[test]
    fn what_differs_is_named() {
        assert_eq!(differences(&bundle("x", "1"), &bundle("x", "1")), Vec::<String>::new());
        assert_eq!(differences(&bundle("x", "1"), &bundle("x", "2")), ["a.map"]);
        assert_eq!(differences(&bundle("x", "1"), &bundle("y", "1")), ["global"]);
    }

    #[test]
    fn the_digest_that_a_bundle_carries_is_no_difference_of_its_own() {
        let carries = |entry: &str, text: &str| {
            let mut made = bundle(crate::bundle::DIGEST, entry);
            let first = Fragment::clone(&made.fragments[0]);
            let other = Fragment { name: "other".to_owned(), text: text.to_owned(), ..first };
            made.fragments.push(other.into());
            let Bundle { target, cluster, proxy, fragments, live, secrets, .. } = made;
            Bundle::new(target, cluster, proxy, fragments, live, secrets)
        };
        assert_eq!(differences(&carries("1", "a"), &carries("1", "b")), ["other"]);
    }
}
