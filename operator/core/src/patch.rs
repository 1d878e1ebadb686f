//! Patch: a bundle as what separates it from one that its reader has, where only the live part differs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, Presented, Slot};
use crate::model::{Digest, Shared};
use crate::separation::differing;

/// What turns one bundle into another whose fragments and secrets are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patch {
    /// The bundle that it is laid over.
    base: Digest,
    /// The bundle that results.
    digest: Digest,
    /// The slots of backends in which they differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    servers: BTreeMap<String, Shared<Vec<Slot>>>,
    /// The entries of maps that differ; none: the entry goes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    maps: BTreeMap<String, BTreeMap<String, Option<String>>>,
    /// Certificates that are presented to others than before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    certificates: BTreeMap<String, Presented>,
    /// The intents of fragments, by their place, in which they differ. A list: the message around it is read
    /// in a way that takes no numbers for keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    intents: Vec<(usize, Vec<Digest>)>,
}

impl Patch {
    /// From one bundle to another; none: more than the live part differs.
    pub fn between(base: &Bundle, bundle: &Bundle) -> Option<Self> {
        // All of it, so that a field that is added is thought of here.
        let Bundle {
            target,
            cluster,
            proxy,
            fragments,
            live,
            secrets,
            static_digest,
            digest,
            confirm_port,
            rest_ms,
            applied,
        } = bundle;
        let same = static_digest == &base.static_digest
            && (target, cluster, proxy) == (&base.target, &base.cluster, &base.proxy)
            && (secrets, confirm_port, rest_ms) == (&base.secrets, &base.confirm_port, &base.rest_ms)
            && *applied == base.applied
            && fragments.len() == base.fragments.len()
            && live.servers.keys().eq(base.live.servers.keys())
            && live.maps.keys().eq(base.live.maps.keys())
            && live.certificates.keys().eq(base.live.certificates.keys());
        if !same {
            return None;
        }
        let mut intents = Vec::new();
        for (place, (fragment, old)) in fragments.iter().zip(&base.fragments).enumerate() {
            // Texts and parameters are under the digest.
            if fragment.is(old) {
                continue;
            }
            let known = (&fragment.file, &fragment.name, &fragment.certificate);
            if known != (&old.file, &old.name, &old.certificate) {
                return None;
            }
            if fragment.intents != old.intents {
                intents.push((place, fragment.intents.clone()));
            }
        }
        let both = live.servers.iter().zip(base.live.servers.values());
        let servers = both
            .filter(|((_, slots), old)| slots != old)
            .map(|((backend, slots), _)| (backend.clone(), slots.clone()))
            .collect();
        let both = live.maps.iter().zip(base.live.maps.values());
        let maps = both
            .map(|((name, map), old)| (name.clone(), entries(old, map)))
            .filter(|(_, entries)| !entries.is_empty())
            .collect();
        let both = live.certificates.iter().zip(base.live.certificates.values());
        let certificates = both
            .filter(|((_, presented), old)| presented != old)
            .map(|((file, presented), _)| (file.clone(), presented.clone()))
            .collect();
        let (base, digest) = (base.digest.clone(), digest.clone());
        Some(Self { base, digest, servers, maps, certificates, intents })
    }

    /// The bundle that results.
    ///
    /// # Errors
    /// This is not the bundle that it is meant for, or the result is not what its digest says.
    pub fn over(self, base: &Bundle) -> Result<Bundle, NotThis> {
        if base.digest != self.base {
            return Err(NotThis);
        }
        let mut bundle = Bundle { digest: self.digest, ..base.clone() };
        for (backend, slots) in self.servers {
            *bundle.live.servers.get_mut(&backend).ok_or(NotThis)? = slots;
        }
        for (name, entries) in self.maps {
            let map = bundle.live.maps.get_mut(&name).ok_or(NotThis)?.change();
            for (key, value) in entries {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
        }
        for (file, presented) in self.certificates {
            *bundle.live.certificates.get_mut(&file).ok_or(NotThis)? = presented;
        }
        for (place, intents) in self.intents {
            bundle.fragments.get_mut(place).ok_or(NotThis)?.change().intents = intents;
        }
        // The names of slots belong to the static digest, which `base` was judged by.
        let names = |(slots, old): (&Shared<Vec<Slot>>, &Shared<Vec<Slot>>)| {
            slots.is(old) || slots.iter().map(|slot| &slot.name).eq(old.iter().map(|slot| &slot.name))
        };
        let kept = bundle.live.servers.values().zip(base.live.servers.values()).all(names);
        if kept && bundle.live.digest(&bundle.static_digest) == bundle.digest {
            Ok(bundle)
        } else {
            Err(NotThis)
        }
    }
}

/// A patch that fits no bundle that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the patch does not fit the bundle that is there")]
pub struct NotThis;

/// What turns one map into another.
fn entries(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> BTreeMap<String, Option<String>> {
    let keys = differing(old, new).into_iter();
    keys.map(|key| (key.clone(), new.get(key).cloned())).collect()
}

#[cfg(test)]
mod tests {
    use interlock_crds::ProxyKind;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::bundle::{Fragment, Live, Occupant};
    use crate::protocol::ToAgent;

    /// A bundle of two backends of two slots and one map.
    fn bundle(text: &str, seats: &[Option<u8>], entries: &BTreeMap<String, String>, intent: u8) -> Bundle {
        let occupant = |last: &u8| Occupant {
            address: std::net::SocketAddr::from(([10, 0, 0, *last], 80)).try_into().unwrap(),
            draining: last.is_multiple_of(2),
        };
        let slots = |seats: &[Option<u8>]| {
            let names = ["s1", "s2"].iter().zip(seats);
            let slot = |(name, seat): (&&str, &Option<u8>)| {
                let slot = serde_json::json!({ "name": name, "occupant": seat.as_ref().map(occupant) });
                serde_json::from_value(slot).unwrap()
            };
            Shared::from(names.map(slot).collect::<Vec<Slot>>())
        };
        let fragment = Fragment {
            file: "haproxy.cfg".to_owned(),
            name: "global".to_owned(),
            text: text.to_owned(),
            intents: vec![Digest::of([[intent].as_slice()])],
            ..Fragment::default()
        };
        let presented = Presented {
            names: entries.keys().map(|key| format!("{key}.test").parse().unwrap()).collect(),
            default: intent == 1,
        };
        let live = Live {
            servers: [("a".to_owned(), slots(&seats[..2])), ("b".to_owned(), slots(&seats[2..]))].into(),
            maps: [("hosts.map".to_owned(), entries.clone().into())].into(),
            certificates: [("x.pem".to_owned(), presented)].into(),
        };
        let (target, cluster) = ("edge".parse().unwrap(), "edge".parse().unwrap());
        Bundle::new(target, cluster, ProxyKind::Haproxy, vec![fragment], live, Vec::new())
    }

    fn any() -> impl Strategy<Value = Bundle> {
        let seats = vec(prop::option::of(1..4_u8), 4);
        let entries = btree_map("[a-c]", "[x-z]", 0..4);
        (seats, entries, 0..3_u8).prop_map(|(seats, entries, intent)| bundle("t", &seats, &entries, intent))
    }

    proptest! {
        #[test]
        fn a_patch_over_its_base_is_the_bundle(base in any(), wanted in any()) {
            let patch = Patch::between(&base, &wanted).expect("only the live part differs");
            // As it travels: a tag beside the fields is read differently than the fields alone.
            let message = serde_json::to_vec(&ToAgent::Patch { id: 1, patch, withdraws: false }).unwrap();
            let Ok(ToAgent::Patch { patch: sent, .. }) = serde_json::from_slice(&message) else {
                return Err(TestCaseError::fail("it does not arrive"));
            };
            prop_assert_eq!(sent.over(&base).unwrap(), wanted);
        }

        #[test]
        fn a_patch_over_anything_else_is_refused(base in any(), wanted in any(), other in any()) {
            prop_assume!(other.digest != base.digest);
            let patch = Patch::between(&base, &wanted).unwrap();
            prop_assert_eq!(patch.over(&other), Err(NotThis));
        }
    }

    #[test]
    fn what_needs_a_reload_is_no_patch() {
        let entries = BTreeMap::new();
        let (one, other) = (bundle("t", &[None; 4], &entries, 0), bundle("u", &[None; 4], &entries, 0));
        assert_eq!(Patch::between(&one, &other), None);
    }

    #[test]
    fn a_patch_that_lies_is_refused() {
        let entries = BTreeMap::new();
        let (base, wanted) = (bundle("t", &[None; 4], &entries, 0), bundle("t", &[Some(1); 4], &entries, 0));
        let mut patch = Patch::between(&base, &wanted).unwrap();
        patch.servers.remove("b");
        assert_eq!(patch.clone().over(&base), Err(NotThis), "the digest is not of this");
        patch.servers.insert("c".to_owned(), Shared::default());
        assert_eq!(patch.over(&base), Err(NotThis), "there is no such backend");
    }
}
