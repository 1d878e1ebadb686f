//! The Bundle: what makes one proxy serve a Plan. Ordered fragments, beside them the live part that
//! the proxy can change without a reload, and references to secrets.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use interlock_crds::ProxyKind;
use serde::{Deserialize, Serialize};

use crate::model::{ClusterName, Digest, Port, ServerName, TargetId, UpstreamAddr};

/// Stands in fragments for the folder of the generation's own files (maps, lists).
pub const DIR: &str = "%{interlock.dir}";
/// Stands in fragments for the folder of runtime sockets and pid files.
pub const RUN: &str = "%{interlock.run}";
/// Stands in fragments for the folder of certificates and keys.
pub const SECRETS: &str = "%{interlock.secrets}";
/// Stands in exactly one fragment for the static digest, which the running proxy then reports.
pub const DIGEST: &str = "%{interlock.digest}";

/// What makes one proxy serve a Plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundle {
    /// The proxy that it is for.
    pub target: TargetId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Which proxy it is.
    pub proxy: ProxyKind,
    /// The pieces of the files, in order within each file.
    pub fragments: Vec<Fragment>,
    /// What the proxy can change without a reload.
    #[serde(default)]
    pub live: Live,
    /// Certificates and keys that the fragments refer to; contents travel apart.
    #[serde(default)]
    pub secrets: Vec<SecretRef>,
    /// Covers the fragments and secrets without the live part.
    pub static_digest: Digest,
    /// Covers everything.
    pub digest: Digest,
    /// nginx: the loopback port whose `GET /digest` with `Host: interlock.invalid` answers the static
    /// digest of the worker that serves it; none: the proxy reports it in another way. It is part of no
    /// digest: the fragment that listens there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_port: Option<Port>,
}

/// One piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fragment {
    /// The file it belongs to: the proxy's main file or one beside it.
    pub file: String,
    /// Its name, for reload reasons and blame: `global`, `backend shop.example.com`.
    pub name: String,
    /// Its text without the live part, with the placeholders [`DIR`], [`RUN`], [`SECRETS`], [`DIGEST`].
    pub text: String,
    /// Where server lines follow the text: the backend, and what stands behind each address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<ServerLines>,
    /// The intents that it serves, by digest; empty for the base that every configuration has.
    #[serde(default)]
    pub intents: Vec<Digest>,
}

/// How the live servers of a backend are written into its fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerLines {
    /// Key into [`Live::servers`].
    pub backend: String,
    /// Parameters behind each address, as ` ssl verify none`; empty or with a leading space.
    #[serde(default)]
    pub parameters: String,
}

/// What the proxy can change without a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Live {
    /// Server slots of each backend, in order; their number is static, who sits in them is not.
    #[serde(default)]
    pub servers: BTreeMap<String, Vec<Slot>>,
    /// Map files by name (`hosts.map`): key to value, sorted.
    #[serde(default)]
    pub maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Live {
    /// The digest of the whole bundle that this live part and these fragments make: what a receipt
    /// holds, computed from what was read back.
    pub fn digest(&self, static_digest: &Digest) -> Digest {
        Digest::of([static_digest.as_str().as_bytes(), live_text(self).as_bytes()])
    }
}

/// One server slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slot {
    /// The server's name inside its backend.
    pub name: ServerName,
    /// Who sits in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occupant: Option<Occupant>,
}

/// Who sits in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Occupant {
    /// Where requests go.
    pub address: UpstreamAddr,
    /// Whether it finishes what it has and gets nothing new.
    #[serde(default)]
    pub draining: bool,
}

/// A certificate with its key, or another secret that a fragment refers to, by content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// File name inside the secrets folder: `<digest>.pem`, certificate chain and key together;
    /// `<digest>.txt` for what opens the statistics page.
    pub file: String,
    /// [`Digest::of`] the content as its only part; the agent verifies it.
    pub digest: Digest,
}

/// Proof, read back from the running proxy, of what a target runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Receipt {
    /// The static digest that the proxy's newest worker reports.
    pub static_digest: Digest,
    /// The digest of the whole bundle that was reached.
    pub digest: Digest,
    /// Who sits where, read back: the assignment that the next rendering starts from.
    #[serde(default)]
    pub servers: BTreeMap<String, Vec<Slot>>,
}

/// Real paths for the placeholders.
#[derive(Debug, Clone, Copy)]
pub struct Paths<'a> {
    /// For [`DIR`].
    pub dir: &'a str,
    /// For [`RUN`].
    pub run: &'a str,
    /// For [`SECRETS`].
    pub secrets: &'a str,
}

impl Bundle {
    /// Computes both digests over the content; the only way to make a bundle.
    pub fn new(
        target: TargetId,
        cluster: ClusterName,
        proxy: ProxyKind,
        fragments: Vec<Fragment>,
        live: Live,
        mut secrets: Vec<SecretRef>,
    ) -> Self {
        secrets.sort();
        secrets.dedup();
        let static_digest = static_digest(&fragments, &live, &secrets);
        let digest = live.digest(&static_digest);
        Self { target, cluster, proxy, fragments, live, secrets, static_digest, digest, confirm_port: None }
    }

    /// The same bundle, confirmed by a request to this loopback port (nginx).
    #[must_use]
    pub fn with_confirm_port(self, port: Port) -> Self {
        Self { confirm_port: Some(port), ..self }
    }

    /// Whether the digests fit the content: what an agent checks on what it was sent.
    pub fn verify(&self) -> bool {
        let expected = static_digest(&self.fragments, &self.live, &self.secrets);
        expected == self.static_digest && self.digest == self.live.digest(&expected)
    }

    /// The files that boot the proxy into exactly this bundle, by name: configuration and maps.
    pub fn files(&self, paths: Paths<'_>) -> BTreeMap<String, String> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for fragment in &self.fragments {
            let out = files.entry(fragment.file.clone()).or_default();
            out.push_str(&self.text_of(fragment, paths));
        }
        for (name, map) in &self.live.maps {
            files.insert(name.clone(), map_text(map));
        }
        files
    }

    /// One fragment as it stands in its file, server lines included.
    pub fn text_of(&self, fragment: &Fragment, paths: Paths<'_>) -> String {
        let mut text = fragment
            .text
            .replace(DIR, paths.dir)
            .replace(RUN, paths.run)
            .replace(SECRETS, paths.secrets)
            .replace(DIGEST, self.static_digest.as_str());
        if let Some(lines) = &fragment.servers {
            for slot in self.live.servers.get(&lines.backend).into_iter().flatten() {
                text.push_str(&server_line(slot, &lines.parameters));
            }
        }
        text
    }

    /// The name of the fragment that a line of a file belongs to (lines count from 1), for blame.
    pub fn fragment_at(&self, file: &str, line: usize, paths: Paths<'_>) -> Option<&Fragment> {
        let mut end = 0;
        self.fragments.iter().filter(|fragment| fragment.file == file).find(|fragment| {
            end += self.text_of(fragment, paths).lines().count();
            line <= end
        })
    }
}

/// A HAProxy server line; a free slot is declared, disabled, at an address that answers nobody.
fn server_line(slot: &Slot, parameters: &str) -> String {
    match slot.occupant {
        // `weight 0` at boot is HAProxy's drain: sessions that belong there go on, nothing new does.
        Some(Occupant { address, draining: true }) => {
            format!("    server {} {address}{parameters} weight 0\n", slot.name)
        }
        Some(Occupant { address, draining: false }) => {
            format!("    server {} {address}{parameters}\n", slot.name)
        }
        None => format!("    server {} 127.0.0.1:9{parameters} disabled\n", slot.name),
    }
}

/// A map file: one `key value` line each, sorted.
pub fn map_text(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        let _ = writeln!(text, "{key} {value}");
    }
    text
}

fn static_digest(fragments: &[Fragment], live: &Live, secrets: &[SecretRef]) -> Digest {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for fragment in fragments {
        parts.push(fragment.file.clone().into_bytes());
        parts.push(fragment.name.clone().into_bytes());
        parts.push(fragment.text.clone().into_bytes());
        if let Some(lines) = &fragment.servers {
            parts.push(lines.parameters.clone().into_bytes());
            for slot in live.servers.get(&lines.backend).into_iter().flatten() {
                parts.push(slot.name.as_str().as_bytes().to_vec());
            }
        }
    }
    parts.extend(live.maps.keys().map(|name| name.clone().into_bytes()));
    parts.extend(secrets.iter().map(|secret| secret.digest.as_str().as_bytes().to_vec()));
    Digest::of(parts.iter().map(Vec::as_slice))
}

fn live_text(live: &Live) -> String {
    let mut text = String::new();
    for (backend, slots) in &live.servers {
        let _ = writeln!(text, "[{backend}]");
        for slot in slots {
            match slot.occupant {
                Some(who) => {
                    let _ = writeln!(text, "{} {} {}", slot.name, who.address, who.draining);
                }
                None => {
                    let _ = writeln!(text, "{} -", slot.name);
                }
            }
        }
    }
    for (name, map) in &live.maps {
        let _ = writeln!(text, "<{name}>");
        text.push_str(&map_text(map));
    }
    text
}
