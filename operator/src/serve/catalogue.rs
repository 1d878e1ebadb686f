//! The catalogue of all metrics as data: what is registered and what docs/metrics.md lists.

use std::fmt::Write as _;

use interlock_core::finding::Reason;

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The full name.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [Label],
    /// One sentence for people.
    pub help: &'static str,
}

/// How a metric moves.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
    /// Observations in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word in docs and exposition.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One label of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it can hold.
    pub values: Values,
}

/// What a label can hold. Never a host or a container: their number has no bound.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// Exactly these, all present from the start.
    Closed(fn() -> Vec<&'static str>),
    /// Names from the configuration or the build, described.
    Open(&'static str),
}

macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $value:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $value),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The label's text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => stringify!($value)),+ }
            }

            fn texts() -> Vec<&'static str> {
                Self::ALL.iter().map(|value| value.as_str()).collect()
            }
        }
    };
}

label_values! {
    /// How one round of the loop ended.
    RoundResult {
        /// Every proxy was in step already.
        Unchanged,
        /// Something was delivered.
        Changed,
        /// At least one proxy could not be brought in step.
        Failed,
    }
}

label_values! {
    /// A step of a round.
    Stage {
        /// Facts are gathered.
        Observe,
        /// Facts become plans and findings.
        Compile,
        /// Plans become bundles.
        Render,
        /// Bundles are delivered and read back.
        Apply,
    }
}

label_values! {
    /// What became of one delivery.
    ApplyOutcome {
        /// It runs, read back.
        Applied,
        /// The proxy's checker refused it.
        Refused,
        /// It passed the check and did not start; the last good state was put back.
        ActivationFailed,
        /// It could not be written or activated; nothing was touched.
        Failed,
        /// The agent could not be reached.
        Unreachable,
    }
}

label_values! {
    /// For whose sake a proxy was reloaded.
    ReloadReason {
        /// The proxy ran nothing of ours before.
        First,
        /// A file was edited by hand.
        Drift,
        /// A live change did not hold.
        Live,
        /// The part that every configuration has: process-wide settings, defaults, listeners.
        Base,
        /// A backend appeared, went away or changed its shape.
        Backend,
        /// A certificate.
        Certificate,
        /// A map or another file beside the configuration.
        File,
    }
}

impl ReloadReason {
    /// The reason behind a fragment's name, as an agent reports it.
    pub fn of(fragment: &str) -> Self {
        match fragment.split_whitespace().next().unwrap_or_default() {
            "first" => Self::First,
            "drift" => Self::Drift,
            "live" => Self::Live,
            "backend" | "host" => Self::Backend,
            "certificate" | "certificates" | "default" => Self::Certificate,
            "maps" => Self::File,
            _ => Self::Base,
        }
    }
}

label_values! {
    /// What had been changed by hand in a proxy and was put back.
    DriftKind {
        /// A server's address, state or weight.
        Server,
        /// A map's entry.
        Map,
        /// A file on disk.
        File,
    }
}

impl DriftKind {
    /// The kind that an agent reports; none for one that this version does not know.
    pub fn of(reported: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == reported)
    }
}

label_values! {
    /// What a spare backend is doing.
    SlotState {
        /// The next new host may sit in it.
        Free,
        /// A host sits in it that came since the last reload.
        Used,
        /// It was left, and connections of whoever sat in it may still be open.
        Cooling,
    }
}

label_values! {
    /// What an endpoint is doing.
    EndpointState {
        /// It takes requests.
        Ready,
        /// It was never ready in this run.
        Cold,
        /// It was ready and is not now.
        Unhealthy,
        /// It was told to stop.
        Draining,
    }
}

fn reasons() -> Vec<&'static str> {
    Reason::ALL.iter().map(|reason| reason.as_str()).collect()
}

const CLUSTER: Label = Label { name: "cluster", values: Values::Open("a cluster's name") };
const ENGINE: Label = Label { name: "engine", values: Values::Open("an engine's name") };

/// From half a millisecond (a pure step) to half a minute (a proxy that hangs).
const DURATIONS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

macro_rules! catalogue {
    ($($id:ident = $name:literal $kind:expr, [$($label:expr),*], $help:literal;)+) => {
        $(pub(super) const $id: Entry = Entry { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)+

        /// Every metric, in the order of docs/metrics.md.
        pub const ALL: &[Entry] = &[$($id),+];
    };
}

catalogue! {
    BUILD_INFO = "interlock_build_info" Kind::Gauge,
        [Label { name: "version", values: Values::Open("the running build's version") }],
        "Always 1; the label says which build runs.";
    RECONCILE = "interlock_reconcile_total" Kind::Counter,
        [Label { name: "result", values: Values::Closed(RoundResult::texts) }],
        "Rounds of the loop, by how they ended.";
    RECONCILE_DURATION = "interlock_reconcile_duration_seconds" Kind::Histogram(DURATIONS),
        [Label { name: "stage", values: Values::Closed(Stage::texts) }],
        "Time that each step of a round took.";
    CONVERGENCE = "interlock_convergence_duration_seconds" Kind::Histogram(DURATIONS), [],
        "Time from Docker's own time of an event to the receipt of the last proxy that it concerned.";
    APPLIES = "interlock_applies_total" Kind::Counter,
        [CLUSTER, Label { name: "outcome", values: Values::Closed(ApplyOutcome::texts) }],
        "Deliveries to proxies, by what became of them.";
    LAST_APPLY = "interlock_last_successful_apply_timestamp_seconds" Kind::Gauge, [CLUSTER],
        "When a proxy of the cluster last proved that it runs what it should; 0 before that.";
    RELOADS = "interlock_reloads_total" Kind::Counter,
        [CLUSTER, Label { name: "reason", values: Values::Closed(ReloadReason::texts) }],
        "Reloads of proxies, once for each kind of reason that a reload had.";
    LIVE_UPDATES = "interlock_live_updates_total" Kind::Counter, [CLUSTER],
        "Commands that changed a running proxy without a reload.";
    DRIFT = "interlock_drift_healed_total" Kind::Counter,
        [CLUSTER, Label { name: "kind", values: Values::Closed(DriftKind::texts) }],
        "Changes made by hand in a proxy that were put back.";
    OUT_OF_SYNC = "interlock_out_of_sync" Kind::Gauge, [CLUSTER],
        "Proxies of the cluster that do not provably run what they should.";
    SPARE_SLOTS = "interlock_spare_slots" Kind::Gauge,
        [CLUSTER, Label { name: "state", values: Values::Closed(SlotState::texts) }],
        "Spare backends of the cluster's HAProxies, by what they are doing; without a free one a new host takes a reload.";
    OLD_WORKERS = "interlock_old_workers" Kind::Gauge, [CLUSTER],
        "Configurations before the newest whose workers still finish what they have, over the cluster's proxies.";
    CONNECTIONS_CUT = "interlock_connections_cut_total" Kind::Counter, [CLUSTER],
        "Connections, to clients and to endpoints, that were open in an old worker when the drain time ended it: as many as could be counted, and at least one for each such worker.";
    ENGINE_UP = "interlock_engine_up" Kind::Gauge, [ENGINE],
        "1 while the engine's list of containers is current, else 0.";
    DOCKER_REQUESTS = "interlock_docker_requests_total" Kind::Counter,
        [ENGINE, Label { name: "call", values: Values::Open("a call of Docker's API, as `container_list`") }],
        "Requests to the engine's API.";
    FINDINGS = "interlock_findings" Kind::Gauge,
        [Label { name: "reason", values: Values::Closed(reasons) }],
        "Findings that hold now; `interlock lint` names them.";
    ENDPOINTS = "interlock_endpoints" Kind::Gauge,
        [CLUSTER, Label { name: "state", values: Values::Closed(EndpointState::texts) }],
        "Endpoints of the cluster, by what they are doing.";
    PROBE_DURATION = "interlock_probe_duration_seconds" Kind::Histogram(DURATIONS), [],
        "Time that the last probe of an endpoint took, as its agent reports changes.";
    BACKOFF = "interlock_backoff_seconds" Kind::Gauge, [CLUSTER],
        "Time until a proxy of the cluster that failed is tried again; 0 when none is waited for.";
    CERTIFICATE_NOT_AFTER = "interlock_certificate_not_after_timestamp_seconds" Kind::Gauge, [CLUSTER],
        "When the first of the cluster's certificates expires; 0 without any.";
}

/// docs/metrics.md.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Generated from `operator/src/serve/catalogue.rs` by `UPDATE_DOCS=1 cargo test -p interlock metrics`; \
         do not edit.\n\n\
         Served as Prometheus text at `/metrics` on `listen.metrics` (127.0.0.1:9090), beside `/healthz` (the \
         process lives) and `/readyz` (the first sync is done). Every series with closed labels exists from \
         the start; those of a cluster or an engine from when it is known. No label holds a host or a \
         container.\n",
    );
    for entry in ALL {
        let _ = write!(page, "\n## `{}`\n\n{}, {}\n", entry.name, entry.kind.as_str(), lowered(entry.help));
        for label in entry.labels {
            let values = match label.values {
                Values::Closed(values) => format!("`{}`", values().join("`, `")),
                Values::Open(what) => what.to_owned(),
            };
            let _ = write!(page, "\n- `{}`: {values}", label.name);
        }
        if !entry.labels.is_empty() {
            page.push('\n');
        }
    }
    page
}

fn lowered(help: &str) -> String {
    let mut chars = help.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
