//! The Receipt: what a proxy runs, read back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, Live, Presented, SEATS, Slot};
use crate::model::{Digest, Shared};
use crate::plan::Shape;

/// Proof, read back from the running proxy, of what a target runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The static digest that the proxy's newest worker reports.
    pub static_digest: Digest,
    /// The digest of the whole bundle that was reached.
    pub digest: Digest,
    /// Who sits in which slot of each declared backend, read back: the assignment that the next rendering
    /// starts from, with the two below.
    #[serde(default)]
    pub servers: BTreeMap<String, Shared<Vec<Slot>>>,
    /// Which route sits in which declared backend: [`SEATS`], read back.
    #[serde(default)]
    pub seats: Shared<BTreeMap<String, String>>,
    /// The shapes of declared backends, of the bundle with this static digest; those that are left out are
    /// plain.
    #[serde(default)]
    pub shapes: BTreeMap<String, Shape>,
    /// Which certificates are presented, by the name of their file, read back: their content by its fingerprint.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, Presented>,
    /// Whether objects that were applied ask for some of it, as far as the bundle is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applied: bool,
}

impl Receipt {
    /// The receipt of a proxy that runs `bundle` and in it this live part.
    pub fn of(bundle: &Bundle, live: Live) -> Self {
        Self {
            shapes: shapes(bundle),
            applied: bundle.applied,
            ..Self::unshaped(bundle.static_digest.clone(), live)
        }
    }

    /// What the receipt will be once all of a bundle runs.
    pub fn planned(bundle: &Bundle) -> Self {
        Self {
            static_digest: bundle.static_digest.clone(),
            digest: bundle.digest.clone(),
            servers: bundle.live.servers.clone(),
            seats: bundle.live.maps.get(SEATS).cloned().unwrap_or_default(),
            shapes: shapes(bundle),
            certificates: bundle.live.certificates.clone(),
            applied: bundle.applied,
        }
    }

    /// The same where the bundle is not known.
    pub fn unshaped(static_digest: Digest, live: Live) -> Self {
        let digest = live.digest(&static_digest);
        let Live { servers, mut maps, certificates } = live;
        Self {
            static_digest,
            digest,
            servers,
            seats: maps.remove(SEATS).unwrap_or_default(),
            shapes: BTreeMap::new(),
            certificates,
            applied: false,
        }
    }
}

/// The shapes of a bundle's declared backends that are not plain.
fn shapes(bundle: &Bundle) -> BTreeMap<String, Shape> {
    let lines = bundle.fragments.iter().filter_map(|fragment| fragment.servers.as_ref());
    let shaped = lines.filter(|lines| lines.shape != Shape::default());
    shaped.map(|lines| (lines.backend.clone(), lines.shape.clone())).collect()
}
