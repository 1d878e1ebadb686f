//! The registry: typed methods over the catalogue, so that no caller spells a name or a label.

use std::time::Duration;

use interlock_core::finding::{Finding, Reason};
use interlock_core::model::{ClusterName, EngineId, Timestamp};
use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

use super::catalogue::{
    self, ApplyOutcome, DriftKind, EndpointState, Entry, Kind, ReloadReason, RoundResult, SlotState, Stage,
};

/// Every metric of the catalogue, registered once; clones share one registry.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    reconcile: IntCounterVec,
    reconcile_duration: HistogramVec,
    convergence: HistogramVec,
    applies: IntCounterVec,
    last_apply: GaugeVec,
    reloads: IntCounterVec,
    live_updates: IntCounterVec,
    drift: IntCounterVec,
    out_of_sync: GaugeVec,
    spare_slots: GaugeVec,
    old_workers: GaugeVec,
    connections_cut: IntCounterVec,
    engine_up: GaugeVec,
    docker_requests: IntCounterVec,
    findings: GaugeVec,
    endpoints: GaugeVec,
    probe_duration: HistogramVec,
    backoff: GaugeVec,
    certificate_not_after: GaugeVec,
}

impl Metrics {
    /// Registers the whole catalogue; series with closed labels exist at once.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let build = gauge(r, &catalogue::BUILD_INFO)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let metrics = Self {
            reconcile: counter(r, &catalogue::RECONCILE)?,
            reconcile_duration: histogram(r, &catalogue::RECONCILE_DURATION)?,
            convergence: histogram(r, &catalogue::CONVERGENCE)?,
            applies: counter(r, &catalogue::APPLIES)?,
            last_apply: gauge(r, &catalogue::LAST_APPLY)?,
            reloads: counter(r, &catalogue::RELOADS)?,
            live_updates: counter(r, &catalogue::LIVE_UPDATES)?,
            drift: counter(r, &catalogue::DRIFT)?,
            out_of_sync: gauge(r, &catalogue::OUT_OF_SYNC)?,
            spare_slots: gauge(r, &catalogue::SPARE_SLOTS)?,
            old_workers: gauge(r, &catalogue::OLD_WORKERS)?,
            connections_cut: counter(r, &catalogue::CONNECTIONS_CUT)?,
            engine_up: gauge(r, &catalogue::ENGINE_UP)?,
            docker_requests: counter(r, &catalogue::DOCKER_REQUESTS)?,
            findings: gauge(r, &catalogue::FINDINGS)?,
            endpoints: gauge(r, &catalogue::ENDPOINTS)?,
            probe_duration: histogram(r, &catalogue::PROBE_DURATION)?,
            backoff: gauge(r, &catalogue::BACKOFF)?,
            certificate_not_after: gauge(r, &catalogue::CERTIFICATE_NOT_AFTER)?,
            registry,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for result in RoundResult::ALL {
            self.reconcile.with_label_values(&[result.as_str()]);
        }
        for stage in Stage::ALL {
            self.reconcile_duration.with_label_values(&[stage.as_str()]);
        }
        for reason in Reason::ALL {
            self.findings.with_label_values(&[reason.as_str()]);
        }
        self.convergence.with_label_values::<&str>(&[]);
        self.probe_duration.with_label_values::<&str>(&[]);
    }

    /// Makes every series of a cluster exist.
    pub fn know_cluster(&self, cluster: &ClusterName) {
        let name = cluster.as_str();
        for outcome in ApplyOutcome::ALL {
            self.applies.with_label_values(&[name, outcome.as_str()]);
        }
        for reason in ReloadReason::ALL {
            self.reloads.with_label_values(&[name, reason.as_str()]);
        }
        for kind in DriftKind::ALL {
            self.drift.with_label_values(&[name, kind.as_str()]);
        }
        for state in SlotState::ALL {
            self.spare_slots.with_label_values(&[name, state.as_str()]);
        }
        for state in EndpointState::ALL {
            self.endpoints.with_label_values(&[name, state.as_str()]);
        }
        self.live_updates.with_label_values(&[name]);
        self.connections_cut.with_label_values(&[name]);
        for gauge in [
            &self.old_workers,
            &self.last_apply,
            &self.out_of_sync,
            &self.backoff,
            &self.certificate_not_after,
        ] {
            gauge.with_label_values(&[name]);
        }
    }

    /// A round of the loop has ended.
    pub fn round(&self, result: RoundResult) {
        self.reconcile.with_label_values(&[result.as_str()]).inc();
    }

    /// A step of a round took `took`.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.reconcile_duration.with_label_values(&[stage.as_str()]).observe(took.as_secs_f64());
    }

    /// An event of the engine has reached every proxy that it concerned, `took` after Docker's time of it.
    pub fn converged(&self, took: Duration) {
        self.convergence.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// A delivery has ended.
    pub fn applied(&self, cluster: &ClusterName, outcome: ApplyOutcome) {
        self.applies.with_label_values(&[cluster.as_str(), outcome.as_str()]).inc();
    }

    /// A proxy has proved that it runs what it should.
    pub fn programmed(&self, cluster: &ClusterName, at: Timestamp) {
        self.last_apply.with_label_values(&[cluster.as_str()]).set(seconds(at));
    }

    /// A proxy was reloaded for the sake of these fragments; each kind of reason counts once.
    pub fn reloaded<'a>(&self, cluster: &ClusterName, fragments: impl IntoIterator<Item = &'a str>) {
        let found: Vec<ReloadReason> = fragments.into_iter().map(ReloadReason::of).collect();
        for reason in ReloadReason::ALL.iter().filter(|reason| found.contains(reason)) {
            self.reloads.with_label_values(&[cluster.as_str(), reason.as_str()]).inc();
        }
    }

    /// Live commands were sent.
    pub fn live_updates(&self, cluster: &ClusterName, commands: u32) {
        self.live_updates.with_label_values(&[cluster.as_str()]).inc_by(u64::from(commands));
    }

    /// Something changed by hand was put back, `times` times.
    pub fn healed(&self, cluster: &ClusterName, kind: DriftKind, times: u32) {
        self.drift.with_label_values(&[cluster.as_str(), kind.as_str()]).inc_by(u64::from(times));
    }

    /// How many proxies of a cluster are not provably in step.
    pub fn out_of_sync(&self, cluster: &ClusterName, targets: usize) {
        self.out_of_sync.with_label_values(&[cluster.as_str()]).set(number(targets));
    }

    /// How many server slots of a cluster are in `state`.
    pub fn slots(&self, cluster: &ClusterName, state: SlotState, slots: usize) {
        self.spare_slots.with_label_values(&[cluster.as_str(), state.as_str()]).set(number(slots));
    }

    /// How many old workers the proxies of a cluster have.
    pub fn old_workers(&self, cluster: &ClusterName, workers: usize) {
        self.old_workers.with_label_values(&[cluster.as_str()]).set(number(workers));
    }

    /// Connections ended with an old worker whose drain time was over.
    pub fn connections_cut(&self, cluster: &ClusterName, connections: u32) {
        self.connections_cut.with_label_values(&[cluster.as_str()]).inc_by(u64::from(connections));
    }

    /// Whether an engine's list is current.
    pub fn engine(&self, engine: &EngineId, up: bool) {
        self.engine_up.with_label_values(&[engine.as_str()]).set(f64::from(u8::from(up)));
    }

    /// How many requests were sent to an engine's API so far.
    pub fn docker_requests(&self, engine: &EngineId, call: &'static str, total: u64) {
        let counter = self.docker_requests.with_label_values(&[engine.as_str(), call]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// The findings that hold now; reasons without one fall to 0.
    pub fn findings<'a>(&self, findings: impl IntoIterator<Item = &'a Finding>) {
        let reasons: Vec<Reason> = findings.into_iter().map(|finding| finding.reason).collect();
        for reason in Reason::ALL {
            let count = reasons.iter().filter(|found| *found == reason).count();
            self.findings.with_label_values(&[reason.as_str()]).set(number(count));
        }
    }

    /// How many endpoints of a cluster are in `state`.
    pub fn endpoints(&self, cluster: &ClusterName, state: EndpointState, endpoints: usize) {
        self.endpoints.with_label_values(&[cluster.as_str(), state.as_str()]).set(number(endpoints));
    }

    /// A probe took `took`.
    pub fn probed(&self, took: Duration) {
        self.probe_duration.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// How long a cluster's failed proxy is left alone.
    pub fn backoff(&self, cluster: &ClusterName, left: Duration) {
        self.backoff.with_label_values(&[cluster.as_str()]).set(left.as_secs_f64());
    }

    /// When the first of a cluster's certificates expires.
    pub fn certificate_not_after(&self, cluster: &ClusterName, earliest: Option<Timestamp>) {
        let at = earliest.map_or(0.0, seconds);
        self.certificate_not_after.with_label_values(&[cluster.as_str()]).set(at);
    }

    /// Prometheus text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds stay exact until the year 287396")]
fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of things in one machine's memory")]
fn number(count: usize) -> f64 {
    count as f64
}

fn label_names(entry: &Entry) -> Vec<&'static str> {
    entry.labels.iter().map(|label| label.name).collect()
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, entry: &Entry) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(Opts::new(entry.name, entry.help), &label_names(entry))?)
}

fn gauge(registry: &Registry, entry: &Entry) -> Result<GaugeVec, prometheus::Error> {
    registered(registry, GaugeVec::new(Opts::new(entry.name, entry.help), &label_names(entry))?)
}

fn histogram(registry: &Registry, entry: &Entry) -> Result<HistogramVec, prometheus::Error> {
    let mut options = HistogramOpts::new(entry.name, entry.help);
    if let Kind::Histogram(buckets) = entry.kind {
        options = options.buckets(buckets.to_vec());
    }
    registered(registry, HistogramVec::new(options, &label_names(entry))?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn names_of(metrics: &Metrics) -> BTreeSet<String> {
        metrics.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }

    #[test]
    fn the_registry_is_the_catalogue() {
        let metrics = Metrics::new().unwrap();
        metrics.know_cluster(&"web".parse().unwrap());
        metrics.engine(&"local".parse().unwrap(), true);
        metrics.docker_requests(&"local".parse().unwrap(), "container_list", 1);
        let listed: BTreeSet<String> = catalogue::ALL.iter().map(|entry| entry.name.to_owned()).collect();
        assert_eq!(names_of(&metrics), listed);
    }

    #[test]
    fn closed_series_exist_from_the_start_at_zero() {
        let text = Metrics::new().unwrap().text().unwrap();
        for line in [
            "interlock_reconcile_total{result=\"Changed\"} 0",
            "interlock_findings{reason=\"AmbiguousPort\"} 0",
            "interlock_convergence_duration_seconds_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn a_reload_counts_once_for_each_kind_of_reason() {
        let metrics = Metrics::new().unwrap();
        let cluster = "web".parse().unwrap();
        metrics.know_cluster(&cluster);
        metrics.reloaded(&cluster, ["backend a.example.com", "backend b.example.com", "global"]);
        metrics.reloaded(&cluster, ["first"]);
        metrics.reloaded(&cluster, ["default certificate", "host a.example.com"]);
        let text = metrics.text().unwrap();
        for (reason, count) in [("Backend", 2), ("Base", 1), ("Certificate", 1), ("First", 1), ("Drift", 0)] {
            let line = format!("interlock_reloads_total{{cluster=\"web\",reason=\"{reason}\"}} {count}");
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn a_finding_that_is_gone_falls_to_zero() {
        let metrics = Metrics::new().unwrap();
        let finding = Finding {
            verdict: interlock_core::finding::Verdict::Refused,
            reason: Reason::NoPort,
            subject: interlock_core::finding::Subject::default(),
            message: String::new(),
            fix: None,
        };
        metrics.findings([&finding]);
        assert!(metrics.text().unwrap().contains("interlock_findings{reason=\"NoPort\"} 1\n"));
        metrics.findings([]);
        assert!(metrics.text().unwrap().contains("interlock_findings{reason=\"NoPort\"} 0\n"));
    }

    #[test]
    fn the_page_about_metrics_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, catalogue::page()).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap();
        assert!(page == catalogue::page(), "docs/metrics.md is old: run this test with UPDATE_DOCS=1");
    }
}
