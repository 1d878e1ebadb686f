//! The Bundle: what makes one proxy serve a Plan. Ordered fragments, beside them the live part that
//! the proxy can change without a reload, and references to secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use interlock_crds::ProxyKind;
use serde::{Deserialize, Serialize};

use crate::model::{ClusterName, Digest, HostPattern, Port, ServerName, Shared, TargetId, UpstreamAddr};
use crate::plan::Shape;
pub use crate::receipt::Receipt;

/// Stands in fragments for the folder of the generation's own files (maps, lists).
pub const DIR: &str = "%{interlock.dir}";
/// Stands in fragments for the folder of runtime sockets and pid files.
pub const RUN: &str = "%{interlock.run}";
/// Stands in fragments for the folder of certificates and keys.
pub const SECRETS: &str = "%{interlock.secrets}";
/// Stands in exactly one fragment for the static digest, which the running proxy then reports.
pub const DIGEST: &str = "%{interlock.digest}";
/// How all of them begin.
const PLACEHOLDER: &str = "%{interlock.";

/// The address of a free server slot: a port of the proxy's own machine on which nobody listens.
pub const CLOSED: &str = "127.0.0.1:9";
/// What the names of declared backends begin with that wait for somebody; no host has such a name.
pub const SPARE: &str = "interlock:spare-";
/// The map from a route's label to the backend that it sits in.
pub const SEATS: &str = "backends.map";

/// How near to the client a map is looked up: an entry may be added only after those behind it, and goes
/// before them, so that whatever a request meets on its way leads somewhere.
pub fn map_rank(map: &str) -> u8 {
    match map {
        "hosts.map" | "wildcards.map" => 2,
        "routes.map" => 1,
        _ => 0,
    }
}

/// The list of certificates and the names that they answer for.
pub const CERTIFICATES: &str = "certificates.list";
/// Names on one line of that list; HAProxy takes at most 2047.
pub const NAMES: usize = 100;

/// The server that refuses every connection while a backend holds its requests.
pub const HOLD: &str = "hold";

/// [`CLOSED`] as an address.
pub fn closed() -> Option<UpstreamAddr> {
    CLOSED.parse::<std::net::SocketAddr>().ok()?.try_into().ok()
}

/// What makes one proxy serve a Plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// The proxy that it is for.
    pub target: TargetId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Which proxy it is.
    pub proxy: ProxyKind,
    /// The pieces of the files, in order within each file.
    pub fragments: Vec<Shared<Fragment>>,
    /// What the proxy can change without a reload.
    #[serde(default)]
    pub live: Live,
    /// Certificates and keys that the fragments refer to; contents travel apart.
    #[serde(default)]
    pub secrets: Vec<SecretRef>,
    /// Covers the fragments and secrets without the live part: not what certificates hold and whom they are for,
    /// where the proxy can change that.
    pub static_digest: Digest,
    /// Covers everything.
    pub digest: Digest,
    /// nginx: the loopback port whose `GET /digest` with `Host: interlock.invalid` answers the static
    /// digest of the worker that serves it; none: the proxy reports it in another way. It is part of no
    /// digest: the fragment that listens there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_port: Option<Port>,
    /// HAProxy: how long, in milliseconds, an emptied backend rests before anybody else may sit in it. Part of
    /// no digest: what it follows from is.
    #[serde(default)]
    pub rest_ms: u64,
    /// Whether objects that were applied ask for some of it. Part of no digest: it changes nothing that the proxy does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applied: bool,
}

/// One piece of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    /// Where it is the lines of one certificate, which are all live: its text is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateLines>,
    /// The intents that it serves, by digest; empty for the base that every configuration has.
    #[serde(default)]
    pub intents: Vec<Digest>,
}

/// How the live servers of a backend are written into its fragment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerLines {
    /// Key into [`Live::servers`].
    pub backend: String,
    /// Parameters behind each address, as ` ssl verify none`; empty or with a leading space.
    #[serde(default)]
    pub parameters: String,
    /// What both text and parameters were made from.
    #[serde(default)]
    pub shape: Shape,
}

/// Which lines of the certificate list a fragment stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateLines {
    /// Key into [`Live::certificates`].
    pub file: String,
    /// Whether it is the line by which the certificate answers for every name that no other line has; else it is
    /// those with names.
    #[serde(default)]
    pub default: bool,
}

/// What the proxy can change without a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Server slots of each backend, in order; their number is static, who sits in them is not.
    #[serde(default)]
    pub servers: BTreeMap<String, Shared<Vec<Slot>>>,
    /// Map files by name (`hosts.map`): key to value, sorted.
    #[serde(default)]
    pub maps: BTreeMap<String, Shared<BTreeMap<String, String>>>,
    /// Certificates that are presented, by the name of their file among the secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, Presented>,
}

/// For whom a certificate is presented.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presented {
    /// Names that it answers for.
    #[serde(default)]
    pub names: BTreeSet<HostPattern>,
    /// Whether it answers for every other name.
    #[serde(default)]
    pub default: bool,
}

impl Live {
    /// The slots of a backend; none where there is no such backend.
    pub fn slots(&self, backend: &str) -> &[Slot] {
        self.servers.get(backend).map_or(&[], |slots| slots)
    }

    /// The digest of the whole bundle that this live part and these fragments make: what a receipt
    /// holds, computed from what was read back.
    pub fn digest(&self, static_digest: &Digest) -> Digest {
        Digest::of([static_digest.as_str().as_bytes(), live_text(self).as_bytes()])
    }
}

/// One server slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// The server's name inside its backend.
    pub name: ServerName,
    /// Who sits in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occupant: Option<Occupant>,
    /// Whose connections may still be kept for it although nobody sits in it; none: nobody's, which is proven.
    /// Part of no digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<UpstreamAddr>,
}

/// Who sits in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Occupant {
    /// Where requests go.
    pub address: UpstreamAddr,
    /// Whether it finishes what it has and gets nothing new.
    #[serde(default)]
    pub draining: bool,
}

/// A certificate with its key, or another secret that a fragment refers to, by content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// File name inside the secrets folder: `<digest>.pem`, certificate chain and key together;
    /// `<digest>.txt` for what opens the statistics page.
    pub file: String,
    /// [`Digest::of`] the content as its only part; the agent verifies it.
    pub digest: Digest,
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
        fragments: impl IntoIterator<Item = impl Into<Shared<Fragment>>>,
        live: Live,
        mut secrets: Vec<SecretRef>,
    ) -> Self {
        secrets.sort();
        secrets.dedup();
        let fragments: Vec<_> = fragments.into_iter().map(Into::into).collect();
        let static_digest = static_digest(&fragments, &live, &secrets);
        let digest = live.digest(&static_digest);
        Self {
            target,
            cluster,
            proxy,
            fragments,
            live,
            secrets,
            static_digest,
            digest,
            confirm_port: None,
            rest_ms: 0,
            applied: false,
        }
    }

    /// The same bundle, confirmed by a request to this loopback port (nginx).
    #[must_use]
    pub fn with_confirm_port(self, port: Port) -> Self {
        Self { confirm_port: Some(port), ..self }
    }

    /// The same bundle, whose emptied backends rest this long (HAProxy).
    #[must_use]
    pub fn with_rest(self, rest_ms: u64) -> Self {
        Self { rest_ms, ..self }
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
            if !files.contains_key(&fragment.file) {
                files.insert(fragment.file.clone(), String::new());
            }
            if let Some(out) = files.get_mut(&fragment.file) {
                self.write(fragment, paths, out);
            }
        }
        for (name, map) in &self.live.maps {
            files.insert(name.clone(), map_text(map));
        }
        files
    }

    /// One fragment as it stands in its file, server lines included.
    pub fn text_of(&self, fragment: &Fragment, paths: Paths<'_>) -> String {
        let mut text = String::new();
        self.write(fragment, paths, &mut text);
        text
    }

    fn write(&self, fragment: &Fragment, paths: Paths<'_>, out: &mut String) {
        let values = [
            (DIR, paths.dir),
            (RUN, paths.run),
            (SECRETS, paths.secrets),
            (DIGEST, self.static_digest.as_str()),
        ];
        let mut rest = fragment.text.as_str();
        while let Some(at) = rest.find(PLACEHOLDER) {
            let known = values.iter().find(|(name, _)| rest[at..].starts_with(name));
            let (name, value) = known.copied().unwrap_or((PLACEHOLDER, PLACEHOLDER));
            out.push_str(&rest[..at]);
            out.push_str(value);
            rest = &rest[at + name.len()..];
        }
        out.push_str(rest);
        if let Some(lines) = &fragment.servers {
            for slot in self.live.slots(&lines.backend) {
                write_server(slot, &lines.parameters, out);
            }
        }
        if let Some(lines) = &fragment.certificate {
            let file = format!("{}/{}", paths.secrets, lines.file);
            // `!*`: for no name of its own, only where nothing else fits.
            let names = match self.live.certificates.get(&lines.file) {
                Some(_) if lines.default => vec!["!*".to_owned()],
                Some(presented) => name_lines(presented.names.iter()),
                None => Vec::new(),
            };
            for names in names {
                let _ = writeln!(out, "{file} {names}");
            }
        }
    }

    /// The name of the fragment that a line of a file belongs to (lines count from 1), for blame.
    pub fn fragment_at(&self, file: &str, line: usize, paths: Paths<'_>) -> Option<&Fragment> {
        let mut end = 0;
        let all = self.fragments.iter().map(|fragment| &**fragment);
        all.filter(|fragment| fragment.file == file).find(|fragment| {
            end += self.text_of(fragment, paths).lines().count();
            line <= end
        })
    }
}

/// A HAProxy server line; a free slot is declared, disabled, at an address that answers nobody.
fn write_server(slot: &Slot, parameters: &str, out: &mut String) {
    out.extend(["    server ", slot.name.as_str(), " "]);
    match slot.occupant {
        Some(Occupant { address, draining }) => {
            // Writing to a text cannot fail.
            let _ = write!(out, "{address}");
            // `weight 0` at boot is HAProxy's drain: sessions that belong there go on, nothing new does.
            out.extend([parameters, if draining { " weight 0\n" } else { "\n" }]);
        }
        None => out.extend([CLOSED, parameters, " disabled\n"]),
    }
}

/// Names as they stand behind a certificate, in as many lines as they take.
pub fn name_lines<'a>(names: impl IntoIterator<Item = &'a HostPattern>) -> Vec<String> {
    let names: Vec<String> = names.into_iter().map(ToString::to_string).collect();
    names.chunks(NAMES).map(|names| names.join(" ")).collect()
}

/// A map file: one `key value` line each, sorted.
pub fn map_text(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        text.extend([key, " ", value, "\n"]);
    }
    text
}

fn static_digest(fragments: &[Shared<Fragment>], live: &Live, secrets: &[SecretRef]) -> Digest {
    let mut parts: Vec<&str> = Vec::with_capacity(8 * fragments.len());
    for fragment in fragments.iter().filter(|fragment| fragment.certificate.is_none()) {
        parts.extend([fragment.file.as_str(), &fragment.name, &fragment.text]);
        if let Some(lines) = &fragment.servers {
            parts.push(&lines.parameters);
            parts.extend(live.slots(&lines.backend).iter().map(|slot| slot.name.as_str()));
        }
    }
    parts.extend(live.maps.keys().map(String::as_str));
    let fixed = secrets.iter().filter(|secret| !live.certificates.contains_key(&secret.file));
    parts.extend(fixed.map(|secret| secret.digest.as_str()));
    Digest::of(parts.into_iter().map(str::as_bytes))
}

fn live_text(live: &Live) -> String {
    let mut text = String::new();
    for (backend, slots) in &live.servers {
        text.extend(["[", backend, "]\n"]);
        for slot in slots {
            text.push_str(slot.name.as_str());
            match slot.occupant {
                Some(who) => {
                    let _ = writeln!(text, " {} {}", who.address, who.draining);
                }
                None => text.push_str(" -\n"),
            }
        }
    }
    for (name, map) in &live.maps {
        text.extend(["<", name, ">\n"]);
        text.push_str(&map_text(map));
    }
    for (file, Presented { names, default }) in &live.certificates {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "({file}) {default} {}", names.join(" "));
    }
    text
}
