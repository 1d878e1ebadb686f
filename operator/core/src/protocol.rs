//! What operator and agent say to each other: one vocabulary over every transport.
//!
//! Frames are JSON behind a four-byte big-endian length, at most [`MAX_FRAME`] bytes. The operator
//! speaks first ([`ToAgent::Hello`]); the agent answers [`ToOperator::Welcome`] or
//! [`ToOperator::Declined`]. Versions are compatible when they differ by at most one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, Receipt};
use crate::model::{Digest, ProbeKey, ProbeResult, UpstreamAddr};
use crate::patch::Patch;
use crate::plan::Abilities;

/// This build's protocol version.
pub const VERSION: u16 = 2;
/// The first version that has [`ToAgent::Patch`], [`ToAgent::Probes`] and [`ToOperator::Lacks`].
pub const PATCHES: u16 = 2;
/// The first version that has [`ToOperator::OldWorkers`].
pub const OLD_WORKERS: u16 = 2;
/// The largest frame in bytes; a longer one ends the connection.
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

/// From the operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ToAgent {
    /// Who calls.
    Hello(Hello),
    /// Bring the proxy to this bundle, whatever it runs now; answered by one [`ToOperator::Outcome`].
    Apply(Box<Apply>),
    /// Judge this bundle without activating it; answered by one [`ToOperator::Outcome`].
    Check(Box<Apply>),
    /// The full set of what to probe from now on; replaces the one before.
    Probe(ProbeSet),
    /// As [`ToAgent::Apply`], for a bundle that differs from the last one that was applied in its live part only.
    /// An agent that does not have that one answers [`ToOperator::Lacks`].
    Patch {
        /// Echoed in the answer.
        id: u64,
        /// What to run.
        patch: Patch,
        /// As [`Apply::withdraws`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        withdraws: bool,
    },
    /// What to probe from now on, and what no more, beside what was asked for before.
    Probes(ProbeChange),
    /// Answered by [`ToOperator::Pong`].
    Ping,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The caller's protocol version.
    pub protocol: u16,
    /// The operator's identity: a proxy obeys one.
    pub operator: String,
    /// Grows with every start of the operator; a higher epoch takes over from a lower one.
    pub epoch: u64,
    /// Whether it only looks: it is told what runs, at each ping what has changed of that, and nothing is done for it.
    /// It stands in nobody's way, whoever is served.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub observes: bool,
}

/// A bundle to apply or check.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Apply {
    /// Echoed in the outcome.
    pub id: u64,
    /// What to run.
    pub bundle: Bundle,
    /// Contents of the secrets that the bundle refers to, by digest.
    #[serde(default)]
    pub secrets: BTreeMap<Digest, SecretText>,
    /// Whether it serves less than what was applied last and nothing in another way: the proxy runs it at once, and
    /// what it would boot into may follow a little later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdraws: bool,
}

impl fmt::Debug for Apply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apply")
            .field("id", &self.id)
            .field("digest", &self.bundle.digest)
            .finish_non_exhaustive()
    }
}

/// A secret's content; never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Everything that an agent shall probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSet {
    /// Probes under way at once.
    pub concurrency: u16,
    /// What to probe.
    pub probes: BTreeMap<ProbeKey, Probe>,
}

/// What separates one [`ProbeSet`] from the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeChange {
    /// Probes under way at once.
    pub concurrency: u16,
    /// What is new or other than before.
    #[serde(default)]
    pub set: BTreeMap<ProbeKey, Probe>,
    /// What is not asked for any more.
    #[serde(default)]
    pub gone: BTreeSet<ProbeKey>,
}

impl ProbeSet {
    /// What turns `before` into this.
    pub fn since(&self, before: &Self) -> ProbeChange {
        let news = self.probes.iter().filter(|(key, probe)| before.probes.get(*key) != Some(probe));
        let gone = before.probes.keys().filter(|key| !self.probes.contains_key(*key));
        ProbeChange {
            concurrency: self.concurrency,
            set: news.map(|(key, probe)| (key.clone(), probe.clone())).collect(),
            gone: gone.cloned().collect(),
        }
    }
}

/// One thing to probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Where; always the address that the endpoint itself would be served at.
    pub address: UpstreamAddr,
    /// How.
    pub kind: ProbeKind,
    /// A try that takes longer has failed.
    pub timeout_ms: u64,
    /// Between two tries once it has passed; none: it is not looked at again after it has passed.
    pub interval_ms: Option<u64>,
    /// Failures in a row, after it has passed, that make it fail.
    pub unhealthy_after: u8,
}

/// How to probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ProbeKind {
    /// A TCP connection is accepted.
    Tcp,
    /// An HTTP/1.1 request is answered by a status from 200 to 399; redirects are not followed.
    Http {
        /// `GET`, `HEAD` or `OPTIONS`.
        method: String,
        /// Path and query.
        path: String,
        /// The `Host` header.
        host: String,
        /// Whether to speak TLS (without verification: it is the endpoint's health that is asked).
        tls: bool,
    },
    /// A GET whose any answer at all will do: the app has started (`warm`).
    Warm {
        /// The `Host` header.
        host: String,
        /// Whether to speak TLS.
        tls: bool,
    },
}

/// From the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ToOperator {
    /// The agent serves this operator now.
    Welcome(Welcome),
    /// The agent does not; the connection ends.
    Declined(Declined),
    /// What became of an apply or a check.
    Outcome {
        /// The request's id.
        id: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Probe results that changed.
    Probed {
        /// By key.
        results: BTreeMap<ProbeKey, ProbeResult>,
    },
    /// The proxy started, restarted or went away: look again.
    ProxyChanged(ProxyFacts),
    /// The proxy's old workers are others than before. From version 2.
    OldWorkers(OldWorkers),
    /// A patch is for a bundle that is not there: send the whole.
    Lacks {
        /// The request's id.
        id: u64,
    },
    /// Answers a ping.
    Pong,
}

/// Workers that were replaced by a reload and still finish what they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OldWorkers {
    /// How many configurations still run beside the newest.
    pub count: u16,
    /// Milliseconds until the first of them is ended, where the drain time is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_ms: Option<u64>,
    /// Connections that were open in workers which the drain time has ended since the last such message: as many
    /// as could be counted, and at least one for each worker.
    #[serde(default)]
    pub cut: u32,
}

/// The agent's first words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// The agent's protocol version.
    pub protocol: u16,
    /// The agent's build.
    pub version: String,
    /// Its proxy.
    pub proxy: ProxyFacts,
    /// The host name that it sees.
    pub hostname: String,
    /// Its interfaces' addresses, loopback left out.
    pub addresses: BTreeSet<IpAddr>,
}

/// What an agent knows of its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyFacts {
    /// What it can do.
    pub abilities: Abilities,
    /// Whether it runs.
    pub running: bool,
    /// What bounds it where it runs; none: it does not run, or its agent is older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What it runs, read back, if it is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// What bounds a proxy where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Bytes of memory that its control group may take; none: as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The hard limit of its open files.
    pub files: u64,
    /// Processors that are online.
    pub processors: u16,
    /// Whether its kernel gives it no IPv6 sockets (`ipv6.disable=1`, a seccomp profile).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv4_only: bool,
}

/// Why an agent declines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "why")]
pub enum Declined {
    /// The proxy obeys another operator.
    ForeignOwner {
        /// Which.
        operator: String,
    },
    /// A newer epoch of the same operator has taken over.
    Superseded {
        /// The newer epoch.
        epoch: u64,
    },
    /// The versions are too far apart.
    Protocol {
        /// The agent's version.
        agent: u16,
    },
    /// The agent cannot work here.
    Unable {
        /// Why, for people.
        reason: String,
    },
}

/// What became of an apply or a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// It runs; read back.
    Applied(Applied),
    /// A check passed.
    Passed,
    /// The proxy's checker refused it; nothing was touched.
    Refused(Refusal),
    /// It passed the check and did not start; the last good files are back on disk.
    ActivationFailed {
        /// What was seen.
        reason: String,
    },
    /// Files could not be written, the proxy could not be found, and the like; nothing was touched.
    Failed {
        /// What was seen.
        reason: String,
    },
}

/// How a bundle came to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Proof.
    pub receipt: Receipt,
    /// The fragments for whose sake the proxy was reloaded; empty: it was not.
    pub reload: Vec<String>,
    /// Live commands that were sent.
    pub commands: u32,
    /// What had been changed by hand and was put back: kind (`Server`, `Map`, `File`) to how many.
    #[serde(default)]
    pub healed: BTreeMap<String, u32>,
    /// Milliseconds that check and activation took.
    pub check_ms: u64,
    /// Milliseconds from activation to the read-back.
    pub activate_ms: u64,
}

/// A checker's no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Its words, bounded.
    pub output: String,
    /// The intents of the fragments that its words point to; empty: unknown.
    #[serde(default)]
    pub culprits: Vec<Digest>,
}
