//! Probes: whether endpoints answer, asked from the proxy's own network, side by side and bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use interlock_core::model::{ProbeKey, ProbeResult};
use interlock_core::protocol::{Probe, ProbeChange, ProbeKind, ProbeSet};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::unverified::unverified;

/// The shortest wait after a failure of a probe that has never passed.
const WAIT_FLOOR: Duration = Duration::from_millis(5);
/// The longest such wait.
const WAIT_CEILING: Duration = Duration::from_secs(1);
/// Who took a while to start is found this part of that while late, at most: requests may be held meanwhile.
const LATE: u32 = 16;
/// What takes longer than this waits in the slow lane from then on, so that dead addresses hold up only
/// one another.
const FAST: Duration = Duration::from_millis(250);
/// Results are told this far apart: what comes in between is gathered.
const BATCH: Duration = Duration::from_millis(1);
/// The most that is read of an answer: its status line.
const STATUS_LINE: usize = 1024;
/// The most probes of one set; what is beyond is not probed.
const MOST: usize = 20_000;

/// Runs a set of probes and keeps their results.
#[derive(Debug)]
pub(super) struct Prober {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug)]
struct State {
    running: BTreeMap<ProbeKey, Running>,
    results: BTreeMap<ProbeKey, ProbeResult>,
    unsent: BTreeSet<ProbeKey>,
    /// When results were told last.
    told: Option<Instant>,
    concurrency: u16,
    fast: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

#[derive(Debug)]
struct Running {
    probe: Probe,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    /// How many may be under way at once, in each lane.
    fn allow(&mut self, concurrency: u16) {
        let concurrency = concurrency.clamp(1, most_at_once());
        if concurrency != self.concurrency {
            self.concurrency = concurrency;
            self.fast = Arc::new(Semaphore::new(usize::from(concurrency)));
            self.slow = Arc::new(Semaphore::new(usize::from(concurrency)));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, key: &ProbeKey, result: ProbeResult) {
        let mut state = self.state();
        let news = state.results.get(key).is_none_or(|known| !known.same_verdict(&result));
        if news && state.running.contains_key(key) {
            state.results.insert(key.clone(), result);
            state.unsent.insert(key.clone());
            drop(state);
            self.news.notify_one();
        }
    }
}

impl Prober {
    /// No probes yet.
    pub(super) fn new() -> Self {
        let lane = || Arc::new(Semaphore::new(1));
        let state = State {
            running: BTreeMap::new(),
            results: BTreeMap::new(),
            unsent: BTreeSet::new(),
            told: None,
            concurrency: 1,
            fast: lane(),
            slow: lane(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), news: Notify::new() }) }
    }

    /// Replaces the set; a probe that stays the same goes on and keeps its result.
    pub(super) fn set(&self, set: ProbeSet) {
        let mut state = self.shared.state();
        state.allow(set.concurrency);
        let stays = |key: &ProbeKey, running: &mut Running| set.probes.get(key) == Some(&running.probe);
        state.running.retain(stays);
        let State { running, results, unsent, .. } = &mut *state;
        results.retain(|key, _| running.contains_key(key));
        unsent.retain(|key| running.contains_key(key));
        self.begin(&mut state, set.probes);
    }

    /// Changes the set; what is not named stays as it is.
    pub(super) fn change(&self, change: ProbeChange) {
        let mut state = self.shared.state();
        state.allow(change.concurrency);
        for key in change.gone.iter().chain(change.set.keys()) {
            state.running.remove(key);
            state.results.remove(key);
            state.unsent.remove(key);
        }
        self.begin(&mut state, change.set);
    }

    /// Starts what does not run yet.
    fn begin(&self, state: &mut State, probes: BTreeMap<ProbeKey, Probe>) {
        for (key, probe) in probes {
            if state.running.len() >= MOST {
                return;
            }
            state.running.entry(key.clone()).or_insert_with(|| {
                let task = tokio::spawn(watch(Arc::clone(&self.shared), key, probe.clone()));
                Running { probe, task }
            });
        }
    }

    /// Lets the next [`Self::changes`] tell everything: a new operator knows nothing.
    pub(super) fn retell(&self) {
        let mut state = self.shared.state();
        state.unsent = state.results.keys().cloned().collect();
    }

    /// Waits for results that changed. Safe to cancel: what was not returned is told the next time.
    pub(super) async fn changes(&self) -> BTreeMap<ProbeKey, ProbeResult> {
        loop {
            let (some, told) = {
                let state = self.shared.state();
                (!state.unsent.is_empty(), state.told)
            };
            if some {
                // The first after quiet is told at once: an endpoint waits for it.
                match told.map(|told| told + BATCH).filter(|due| *due > Instant::now()) {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => tokio::task::yield_now().await,
                }
                let mut state = self.shared.state();
                state.told = Some(Instant::now());
                let unsent = std::mem::take(&mut state.unsent);
                let told: BTreeMap<_, _> = unsent
                    .into_iter()
                    .filter_map(|key| state.results.get(&key).cloned().map(|result| (key, result)))
                    .collect();
                if !told.is_empty() {
                    return told;
                }
            }
            self.shared.news.notified().await;
        }
    }
}

/// A quarter of the files that this process may open.
fn most_at_once() -> u16 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(u16::MAX, |limit| u16::try_from(limit / 8).unwrap_or(u16::MAX)).max(1)
}

async fn watch(shared: Arc<Shared>, key: ProbeKey, probe: Probe) {
    let timeout = Duration::from_millis(probe.timeout_ms);
    let interval = probe.interval_ms.map(Duration::from_millis);
    let (mut failures, mut slow, mut passed_once) = (0_u8, timeout <= FAST, false);
    let since = Instant::now();
    loop {
        let lane = {
            let state = shared.state();
            Arc::clone(if slow && timeout > FAST { &state.slow } else { &state.fast })
        };
        let Ok(permit) = lane.acquire_owned().await else { return };
        let limit = if slow { timeout } else { FAST };
        let begun = Instant::now();
        let tried = tokio::time::timeout(limit, attempt(&probe)).await;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).ok();
        drop(permit);
        let failed = match tried {
            Ok(Ok(())) => {
                (failures, passed_once) = (0, true);
                shared.publish(&key, ProbeResult { passing: true, passed_once: true, error: None, took_ms });
                let Some(interval) = interval else { return };
                tokio::time::sleep(interval).await;
                continue;
            }
            Ok(Err(why)) => why,
            // Not a verdict yet: it gets its whole time in the other lane.
            Err(_) if !slow => {
                slow = true;
                continue;
            }
            Err(_) => format!("no answer within {} ms", timeout.as_millis()),
        };
        failures = failures.saturating_add(1);
        if !passed_once || failures >= probe.unhealthy_after {
            shared.publish(&key, ProbeResult { passing: false, passed_once, error: Some(failed), took_ms });
        }
        let pause = interval.filter(|_| passed_once).unwrap_or_else(|| wait(since.elapsed()));
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait when it has not passed for this long.
fn wait(since: Duration) -> Duration {
    (since / LATE).clamp(WAIT_FLOOR, WAIT_CEILING)
}

/// One try; the failure is for people.
async fn attempt(probe: &Probe) -> Result<(), String> {
    let address = probe.address.get();
    let stream =
        TcpStream::connect(address).await.map_err(|err| format!("connecting to {address}: {err}"))?;
    match &probe.kind {
        ProbeKind::Tcp => Ok(()),
        ProbeKind::Http { method, path, host, tls } => {
            let status = ask(stream, address, (method, path, host), *tls).await?;
            if (200..400).contains(&status) {
                Ok(())
            } else {
                Err(format!("{method} {path} answered {status}"))
            }
        }
        ProbeKind::Warm { host, tls } => ask(stream, address, ("GET", "/", host), *tls).await.map(|_| ()),
    }
}

async fn ask(
    stream: TcpStream,
    address: SocketAddr,
    (method, path, host): (&str, &str, &str),
    tls: bool,
) -> Result<u16, String> {
    let request = request(method, path, host)?;
    if !tls {
        return status(stream, &request).await;
    }
    let name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::from(address.ip()));
    let config = unverified().map_err(|err| format!("TLS: {err}"))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|err| format!("TLS with {address}: {err}"))?;
    status(stream, &request).await
}

/// Nothing in it can end its line.
fn request(method: &str, path: &str, host: &str) -> Result<String, String> {
    let plain = |text: &str| text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic());
    if !matches!(method, "GET" | "HEAD" | "OPTIONS") {
        return Err(format!("the method {} is not one that probes may use", method.escape_default()));
    }
    if !path.starts_with('/') || !plain(path) || !plain(host) {
        return Err("the path or the host name cannot stand in a request".to_owned());
    }
    Ok(format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: interlock\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ))
}

async fn status(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<u16, String> {
    let broke = |err: std::io::Error| format!("the connection broke: {err}");
    stream.write_all(request.as_bytes()).await.map_err(broke)?;
    let mut line = Vec::new();
    let mut chunk = [0_u8; 256];
    while !line.contains(&b'\n') && line.len() < STATUS_LINE {
        match stream.read(&mut chunk).await.map_err(broke)? {
            0 => break,
            count => line.extend_from_slice(&chunk[..count]),
        }
    }
    let text = String::from_utf8_lossy(&line);
    let mut words = text.split_ascii_whitespace();
    words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))
        .and_then(|_| words.next()?.parse().ok())
        .filter(|status| (100..600).contains(status))
        .ok_or_else(|| "the answer is not HTTP".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_slowly_is_found_a_little_late_and_costs_few_probes() {
        let (mut since, mut probes) = (Duration::ZERO, 0);
        while since < Duration::from_mins(1) {
            since += wait(since);
            probes += 1;
        }
        assert!(probes < 160, "{probes}");
        let late = wait(Duration::from_millis(1500));
        assert!(late <= Duration::from_millis(100), "{late:?}");
        assert_eq!(wait(Duration::from_hours(1)), WAIT_CEILING);
    }
}
