//! `interlock probe`: steady traffic at a host while somebody deploys, and every request that it costs.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use interlock_crds::Period;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{KeepAlive, ProbeArgs, ProbeMethod};
use super::failure::Failure;
use super::output::{Output, Tone};
use super::{FOUND, OK, why};
use crate::probe::{Connections, Event, Kind, Pace, Plan, Running, Spread, Tally};
use crate::unverified::unverified;

/// Where Debian and its like keep the authorities that the system trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How often the live line is written anew.
const LIVE: Duration = Duration::from_millis(250);
/// How long the apps' log may lag behind their answers.
const LAG: Duration = Duration::from_secs(3);

/// Probes until its time is over or a signal comes; exit code 1 if anything was lost.
pub(super) fn run(args: &ProbeArgs, output: &mut Output) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(probe(args, output))
}

async fn probe(args: &ProbeArgs, output: &mut Output) -> Result<u8, Failure> {
    let plan = plan(args).await?;
    let target = Target {
        to: plan.to.to_string(),
        host: plan.host.clone(),
        tls: plan.tls.is_some(),
        get: plan.get.clone(),
        post: plan.post.clone(),
    };
    let mut signals = Signals::new()?;
    let running = plan.start();
    let mut tally = watch(running, &mut signals).await;
    if let Some(log) = &args.executed {
        compare(&mut tally, log).await?;
    }
    let report = Report::of(target, &tally);
    match args.shape.output.machine() {
        Some(form) => output.document(form, &report)?,
        None => people(&report, output)?,
    }
    if tally.sent == 0 {
        return Err(Failure::new("no request was sent"));
    }
    Ok(if tally.clean() { OK } else { FOUND })
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Shows the live line until all is over. The first signal sends no more, the second waits for nothing.
async fn watch(mut running: Running, signals: &mut Signals) -> Tally {
    let live = std::io::stderr().is_terminal();
    let mut told = false;
    let mut ticks = tokio::time::interval(LIVE);
    loop {
        tokio::select! {
            () = running.ended() => break,
            () = signals.any() => {
                if std::mem::replace(&mut told, true) {
                    break;
                }
                running.stop();
            }
            _ = ticks.tick(), if live => show(&running.look(line), told),
        }
    }
    if live {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    running.so_far()
}

fn show(line: &str, told: bool) {
    let ending = if told { "; waiting for open requests" } else { "" };
    // A terminal that is gone needs no live line.
    let _ = write!(std::io::stderr(), "\r\x1b[K{line}{ending}");
}

fn line(tally: &Tally) -> String {
    format!(
        "{:.0} s: {} sent, {} good, {} lost, {} slow, {} misrouted; p95 {} ms",
        tally.lasted().as_secs_f64(),
        tally.sent,
        tally.good_answers(),
        tally.lost_in_all(),
        tally.slow,
        tally.misrouted,
        milliseconds(tally.took.permille(950)),
    )
}

async fn plan(args: &ProbeArgs) -> Result<Plan, Failure> {
    let (host, path) = why::split(&args.subject);
    let tls = args.tls || args.insecure || args.ca.is_some() || args.subject.starts_with("https://");
    let port = port(host).unwrap_or(if tls { 443 } else { 80 });
    let to = args.to.clone().unwrap_or_else(|| format!("127.0.0.1:{port}"));
    let mut addresses = tokio::net::lookup_host(&to).await.map_err(|error| {
        Failure::new(format!("{to} is no address: {error}")).hint("write --to ADDRESS:PORT")
    })?;
    let to = addresses.next().ok_or_else(|| Failure::new(format!("{to} has no address")))?;
    let rate_is_one = args.rate.is_finite() && (0.001..=1_000_000.0).contains(&args.rate);
    if args.clients.is_none() && !rate_is_one {
        return Err(Failure::new("--rate is a number of requests a second, more than 0"));
    }
    let both = args.methods.is_empty() && args.post.is_some();
    let sends = |method| args.methods.contains(&method) || both;
    let mut plan = Plan::new(to, host, args.clients.map_or(Pace::Open(args.rate), Pace::Closed));
    plan.get = (sends(ProbeMethod::Get) || args.methods.is_empty()).then(|| path.clone());
    plan.post = sends(ProbeMethod::Post).then(|| args.post.clone().unwrap_or(path));
    plan.tls = if tls { Some(Arc::new(client(args)?)) } else { None };
    plan.connections = match args.keep_alive {
        KeepAlive::On => Connections::Kept,
        KeepAlive::Off => Connections::New,
        KeepAlive::Both => Connections::Both,
    };
    plan.most = args.connections.max(1);
    plan.duration = args.duration.map(Period::get);
    plan.slow = args.slow.get();
    plan.timeout = args.timeout.get();
    plan.good = args.good.clone();
    plan.expect.clone_from(&args.expect);
    plan.served_by = args.served_by.iter().cloned().collect();
    plan.keep_ids = args.executed.is_some();
    plan.events = args.list;
    Ok(plan)
}

fn port(host: &str) -> Option<u16> {
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

fn client(args: &ProbeArgs) -> Result<ClientConfig, Failure> {
    if args.insecure {
        return unverified().map_err(Failure::new);
    }
    let file = args.ca.as_deref().unwrap_or_else(|| Path::new(AUTHORITIES));
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("no authorities in {}: {error}", file.display()))
            .hint("name a file with --ca, or take any certificate with --insecure")
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
        // A system's bundle may hold what this library does not take; what is missing shows in the handshake.
        roots.add_parsable_certificates([certificate.map_err(|error| failed(&error))?]);
    }
    if roots.is_empty() {
        return Err(failed(&"it holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(Failure::new)?.with_root_certificates(roots).with_no_client_auth())
}

/// Waits a moment for the last lines of the apps' log, then counts who executed what.
async fn compare(tally: &mut Tally, log: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + LAG;
    loop {
        let bytes = std::fs::read(log)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", log.display())))?;
        let text = String::from_utf8_lossy(&bytes);
        let executed = || text.lines().filter_map(executed);
        let missing = {
            let seen: std::collections::BTreeSet<_> = executed().collect();
            tally.acknowledged.iter().any(|id| !seen.contains(id.as_str()))
        };
        if !missing || Instant::now() >= deadline {
            tally.compare(executed());
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The id in a line of an app's log: the word after `executed`, whatever a log collector puts before it.
fn executed(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == "executed").and_then(|_| words.next())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    to: String,
    host: String,
    tls: bool,
    get: Option<String>,
    post: Option<String>,
}

/// What is printed; its fields are in docs/probe.md.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    clean: bool,
    target: Target,
    began: String,
    seconds: f64,
    sent: u64,
    good: u64,
    answered: &'a BTreeMap<u16, u64>,
    lost: Lost,
    slow: u64,
    misrouted: u64,
    executed_twice: u64,
    executed_never: u64,
    latency_ms: Latency,
    longest_gap: Gap,
    served_by: &'a BTreeMap<String, u64>,
    events: Vec<Listed<'a>>,
    unlisted: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lost {
    total: u64,
    by_cause: BTreeMap<String, u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Latency {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Gap {
    at: String,
    seconds: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    at: String,
    after_seconds: f64,
    request: u64,
    method: &'static str,
    kept_connection: bool,
    took_ms: f64,
    what: Kind,
    detail: &'a str,
}

impl<'a> Report<'a> {
    fn of(target: Target, tally: &'a Tally) -> Self {
        let at = |after: Duration| clock(tally.began + after);
        Self {
            clean: tally.clean(),
            target,
            began: clock(tally.began),
            seconds: rounded(tally.lasted().as_secs_f64()),
            sent: tally.sent,
            good: tally.good_answers(),
            answered: &tally.statuses,
            lost: Lost {
                total: tally.lost_in_all(),
                by_cause: tally.lost.iter().map(|(cause, count)| (cause.to_string(), *count)).collect(),
            },
            slow: tally.slow,
            misrouted: tally.misrouted,
            executed_twice: tally.twice,
            executed_never: tally.never,
            latency_ms: Latency::of(&tally.took),
            longest_gap: Gap { at: at(tally.gap.after), seconds: rounded(tally.gap.lasted.as_secs_f64()) },
            served_by: &tally.served_by,
            events: tally.events.iter().map(|event| Listed::of(event, at(event.after))).collect(),
            unlisted: tally.unlisted,
        }
    }
}

impl Latency {
    fn of(took: &Spread) -> Self {
        let ms = |time: Duration| rounded(time.as_secs_f64() * 1000.0);
        Self {
            p50: ms(took.permille(500)),
            p95: ms(took.permille(950)),
            p99: ms(took.permille(990)),
            max: ms(took.most()),
        }
    }
}

impl<'a> Listed<'a> {
    fn of(event: &'a Event, at: String) -> Self {
        Self {
            at,
            after_seconds: rounded(event.after.as_secs_f64()),
            request: event.number,
            method: if event.post { "POST" } else { "GET" },
            kept_connection: event.kept,
            took_ms: rounded(event.took.as_secs_f64() * 1000.0),
            what: event.kind,
            detail: &event.detail,
        }
    }
}

/// Three digits behind the point: milliseconds of a second, microseconds of a millisecond.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// A moment with milliseconds, in UTC.
fn clock(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "-".to_owned(), |stamp| format!("{stamp:.3}"))
}

fn people(report: &Report<'_>, output: &mut Output) -> Result<(), Failure> {
    let Report { target, sent, good, seconds, lost, .. } = report;
    let failed = lost.total + report.misrouted + report.executed_twice + report.executed_never;
    let (tone, verdict) = if report.clean {
        (Tone::Good, "nothing lost".to_owned())
    } else {
        (Tone::Bad, format!("{failed} went wrong"))
    };
    let verdict = output.toned(tone, &verdict);
    output.line(format!(
        "{verdict}: {sent} requests to {} at {} in {seconds:.1} s, {good} good answers",
        target.host, target.to
    ))?;
    output.line("")?;
    output.table(&["WHAT", "FIGURE"], &figures(report))?;
    if report.events.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let rows: Vec<_> = report.events.iter().map(row).collect();
    output.table(&["TIME", "REQUEST", "CONNECTION", "AFTER MS", "WHAT", "DETAIL"], &rows)?;
    if report.unlisted > 0 {
        output.line(format!("and {} more", report.unlisted))?;
    }
    Ok(())
}

fn row(event: &Listed<'_>) -> Vec<(Tone, String)> {
    let tone = if event.what == Kind::Slow { Tone::Fair } else { Tone::Bad };
    vec![
        (Tone::Plain, event.at.clone()),
        (Tone::Plain, format!("{} {}", event.method, event.request)),
        (Tone::Plain, if event.kept_connection { "kept" } else { "new" }.to_owned()),
        (Tone::Plain, format!("{:.1}", event.took_ms)),
        (tone, event.what.to_string()),
        (Tone::Plain, event.detail.to_owned()),
    ]
}

fn figures(report: &Report<'_>) -> Vec<Vec<(Tone, String)>> {
    let mut rows = Vec::new();
    let mut row = |tone, what: String, figure: String| rows.push(vec![(Tone::Plain, what), (tone, figure)]);
    for (status, count) in report.answered {
        row(Tone::Plain, format!("answered {status}"), count.to_string());
    }
    for (cause, count) in &report.lost.by_cause {
        row(Tone::Bad, format!("lost: {cause}"), count.to_string());
    }
    let bad = |count| if count > 0 { Tone::Bad } else { Tone::Plain };
    row(bad(report.lost.total), "lost in all".to_owned(), report.lost.total.to_string());
    row(if report.slow > 0 { Tone::Fair } else { Tone::Plain }, "slow".to_owned(), report.slow.to_string());
    row(bad(report.misrouted), "misrouted".to_owned(), report.misrouted.to_string());
    row(bad(report.executed_twice), "executed more than once".to_owned(), report.executed_twice.to_string());
    if report.executed_never > 0 {
        let count = report.executed_never.to_string();
        row(Tone::Bad, "acknowledged, executed by nobody".to_owned(), count);
    }
    let Latency { p50, p95, p99, max } = report.latency_ms;
    let latency = format!("p50 {p50:.1}  p95 {p95:.1}  p99 {p99:.1}  max {max:.1} ms");
    row(Tone::Plain, "latency".to_owned(), latency);
    let Gap { at, seconds } = &report.longest_gap;
    row(Tone::Plain, "longest without a good answer".to_owned(), format!("{seconds:.3} s, from {at}"));
    for (name, count) in report.served_by {
        row(Tone::Plain, format!("served by {name}"), count.to_string());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_whatever_stands_before_them() {
        for line in ["executed a-1-7", "web-1  | executed a-1-7", "2026-01-01T00:00:00Z executed a-1-7 twice"]
        {
            assert_eq!(executed(line), Some("a-1-7"), "{line}");
        }
        assert_eq!(executed("not executed"), None);
        assert_eq!(executed("executedly x"), None);
    }

    #[test]
    fn moments_have_milliseconds() {
        assert_eq!(
            clock(SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_400)),
            "1970-01-01T00:00:01.500Z"
        );
    }
}
