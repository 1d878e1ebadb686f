//! Load that never retries, by the engine of `interlock probe`: half of it may be executed only once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use interlock::probe::{self, Connections, Pace, Plan};

use crate::{Container, Result, ensure};

/// Failures that are kept word for word.
const KEPT: usize = 10;

/// Load to be put on one address.
#[derive(Debug, Clone)]
pub struct Load {
    plan: Plan,
    path: String,
}

/// Load that is under way.
#[derive(Debug)]
pub struct Running {
    probe: probe::Running,
}

/// What became of the requests.
#[derive(Debug, Clone)]
pub struct Tally(probe::Tally);

impl Deref for Tally {
    type Target = probe::Tally;
    fn deref(&self) -> &probe::Tally {
        &self.0
    }
}

impl Load {
    fn new(address: SocketAddr, host: &str, pace: Pace) -> Self {
        let mut plan = Plan::new(address, host, pace);
        plan.slow = Duration::from_secs(30);
        plan.timeout = Duration::from_mins(1);
        plan.good = 200..=200;
        plan.keep_ids = true;
        plan.events = KEPT;
        Self { plan, path: String::new() }
    }

    /// As many clients, each making its next request after its last answer.
    pub fn closed(address: SocketAddr, host: &str, clients: usize) -> Self {
        Self::new(address, host, Pace::Closed(clients))
    }

    /// As many requests a second, whatever became of those before.
    pub fn open(address: SocketAddr, host: &str, per_second: u32) -> Self {
        Self::new(address, host, Pace::Open(f64::from(per_second)))
    }

    /// Under a path prefix, without a slash at its end.
    #[must_use]
    pub fn path(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.path);
        self
    }

    /// Connections are kept. One that the proxy has closed before the next request is written is replaced; one that
    /// closes under a request has lost it.
    #[must_use]
    pub const fn keep_alive(mut self) -> Self {
        self.plan.connections = Connections::Kept;
        self
    }

    /// The longest that an answer may take without being counted as slow; 30 s by default: machines of tests are busy.
    #[must_use]
    pub const fn slow_after(mut self, slow: Duration) -> Self {
        self.plan.slow = slow;
        self
    }

    /// The apps that may answer; none: any.
    #[must_use]
    pub fn served_by(mut self, apps: &[&str]) -> Self {
        self.plan.served_by = apps.iter().map(|app| (*app).to_owned()).collect();
        self
    }

    /// Begins; ids are unique over everything that is ever sent.
    pub fn start(self) -> Running {
        let Self { mut plan, path } = self;
        plan.get = Some(format!("{path}/whoami"));
        plan.post = Some(format!("{path}/count?id={{id}}"));
        Running { probe: plan.start() }
    }
}

impl Running {
    /// What has come of it so far.
    pub fn so_far(&self) -> Tally {
        Tally(self.probe.so_far())
    }

    /// Waits for this many more answered requests.
    pub async fn answers(&self, more: u64) -> Result {
        let wanted = self.probe.look(answered) + more;
        crate::eventually(Duration::from_secs(30), "the load goes on", async || {
            let answered = self.probe.look(answered);
            ensure!(answered >= wanted, "{answered} of {wanted} answers");
            Ok(())
        })
        .await
    }

    /// Makes no more requests, waits for the open ones and counts.
    pub async fn stop(mut self) -> Result<Tally> {
        self.probe.stop();
        self.probe.ended().await;
        Ok(self.so_far())
    }
}

fn answered(tally: &probe::Tally) -> u64 {
    tally.statuses.values().sum()
}

impl Tally {
    /// Requests without a good answer, and good answers of somebody else.
    pub fn bad(&self) -> u64 {
        self.lost_in_all() + self.misrouted
    }

    /// The first failures, for people.
    pub fn failures(&self) -> Vec<String> {
        let events = self.events.iter();
        events.map(|event| format!("request {}: {}: {}", event.number, event.kind, event.detail)).collect()
    }

    /// Fails unless every request was answered with 200, in time, by an app that may.
    pub fn is_clean(&self) -> Result {
        ensure!(self.sent > 0, "no request was made");
        ensure!(
            self.clean() && self.slow == 0,
            "of {} requests {} lost, {} slow, {} misrouted, answers {:?}: {:?}",
            self.sent,
            self.lost_in_all(),
            self.slow,
            self.misrouted,
            self.statuses,
            self.failures()
        );
        Ok(())
    }

    /// Fails if an app executed an id twice, or an acknowledged id was executed by none. `containers` are all apps
    /// that served, those that have stopped included (not those that were removed).
    pub async fn executed_once(&self, containers: &[&Container]) -> Result {
        let mut logs = Vec::new();
        for container in containers {
            logs.push(settled_logs(container).await?);
        }
        self.executed_once_by(&logs.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// As [`Tally::executed_once`], by the logs of the apps.
    pub fn executed_once_by(&self, logs: &[&str]) -> Result {
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for id in logs.iter().flat_map(|log| log.lines()).filter_map(|line| line.strip_prefix("executed ")) {
            *times.entry(id).or_default() += 1;
        }
        let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).take(KEPT).collect();
        ensure!(twice.is_empty(), "executed more than once: {twice:?}");
        let ids: BTreeSet<&str> = times.into_keys().collect();
        let never: Vec<_> =
            self.acknowledged.iter().filter(|id| !ids.contains(id.as_str())).take(KEPT).collect();
        ensure!(never.is_empty(), "acknowledged and executed by none: {never:?}");
        Ok(())
    }
}

/// Stops loads and fails unless all of them are clean and executed only once, by these containers. All stop before
/// anything is counted: what one of them still sends would be counted as well.
pub async fn settle(loads: Vec<Running>, containers: &[&Container]) -> Result {
    let mut tallies = Vec::new();
    for load in loads {
        tallies.push(load.stop().await?);
    }
    for tally in tallies {
        tally.is_clean()?;
        tally.executed_once(containers).await?;
    }
    Ok(())
}

/// The requests that an app took along when it died, by the proxy's log: their connections had come about, and no answer
/// came over them. No proxy can have them back, for the app may have begun.
pub fn lost_inside(log: &str, app: SocketAddr) -> u64 {
    let upstream = app.to_string();
    let is_inside = |line: &serde_json::Value| {
        line["status"] == 502
            && line["upstream"] == upstream.as_str()
            && line["connect_ms"].as_i64().is_some_and(|spent| spent >= 0)
            && line["response_ms"] == -1
    };
    let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.filter(is_inside).count().try_into().unwrap_or(u64::MAX)
}

/// The engine writes a container's output down a little after it was made: what is there when it no longer grows.
pub async fn settled_logs(container: &Container) -> Result<String> {
    let mut before = 0;
    crate::eventually(Duration::from_secs(20), "the app's log no longer grows", async || {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let logs = container.logs().await?;
        let grown = logs.len() - std::mem::replace(&mut before, logs.len()).min(logs.len());
        ensure!(grown == 0, "{grown} more bytes");
        Ok(logs)
    })
    .await
}

/// The smallest value that is not exceeded by this share (0 to 1) of the values; zero of none.
pub fn quantile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rank within a sample that fits in memory"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inside_a_dead_app_is_told_from_what_never_reached_it() {
        let line = |status: u16, upstream: &str, connect: i32, response: i32| {
            let line = serde_json::json!({
                "status": status, "upstream": upstream, "connect_ms": connect, "response_ms": response,
            });
            format!("{line}\n")
        };
        let log = [
            line(502, "10.0.0.2:80", 0, -1),
            line(503, "10.0.0.2:80", -1, -1),
            line(502, "10.0.0.3:80", 0, -1),
            line(200, "10.0.0.2:80", 0, 1),
            "Server a/s1 is going DOWN\n".to_owned(),
        ];
        assert_eq!(lost_inside(&log.concat(), "10.0.0.2:80".parse().unwrap()), 1);
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(10));
        assert_eq!(quantile(&values, 0.95), Duration::from_millis(19));
        assert_eq!(quantile(&values, 1.0), Duration::from_millis(20));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
