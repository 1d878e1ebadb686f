//! How endpoints stand over time: who has served, who falls over and over, and how long that keeps one out.

use interlock_crds::Period;

use crate::model::{Container, ContainerState, Observed, Readiness, Standing, Standings, Timestamp};

use super::readiness::Judged;
use super::select::Candidate;
use super::targets::Member;

/// The first penalty, for the second fall; each further one is twice as long.
const FIRST_MS: u64 = 1_000;
/// The longest penalty.
const LONGEST_MS: u64 = 5 * 60_000;
/// Whoever has not fallen for this long, and for twice the last penalty, begins anew.
const STABLE_MS: u64 = 60_000;

/// The standings of one proxy's endpoints while they are judged.
pub(super) struct Ledger<'o> {
    observed: &'o Observed,
    before: Option<&'o Standings>,
    after: Standings,
    look_again: Option<Timestamp>,
}

impl<'o> Ledger<'o> {
    pub(super) fn of(member: &Member<'_>, observed: &'o Observed) -> Self {
        let before = observed.standings.get(&member.id).map(|standings| &**standings);
        Self { observed, before, after: Standings::new(), look_again: None }
    }

    /// Notes what was found out about an endpoint. One that falls over and over is kept out, although it is ready
    /// now, until it has been ready for as long as its penalty: a penalty longer than its life keeps a crash loop
    /// out for good, and no reload is spent on it.
    pub(super) fn enter(&mut self, candidate: &Candidate<'_>, judged: &mut Judged) {
        let at = self.observed.at;
        let container = candidate.container;
        let mut standing = self.before(candidate).unwrap_or_default();
        if standing.started != container.started {
            let by_request = candidate
                .view
                .departed
                .get(&container.id)
                .is_some_and(|gone| gone.container.stopped_by_request);
            leave(&mut standing, at, !by_request);
            end(&mut standing, at);
            standing.started = container.started;
        }
        match judged.readiness {
            Readiness::Ready => {
                let since = *standing.ready.get_or_insert(at);
                if elapsed(since, at) >= stable_ms(standing.falls) {
                    standing.falls = 0;
                }
                let admitted = Timestamp(since.0.saturating_add(penalty_ms(standing.falls)));
                if admitted > at {
                    // Of the same run it is somebody who was ready and is not trusted now: where nobody else is
                    // left, it stays.
                    judged.readiness = if standing.served { Readiness::Unhealthy } else { Readiness::Cold };
                    judged.because = format!(
                        "it fell {} times in a row, so it must stay ready for {} s, until {}",
                        standing.falls,
                        penalty_ms(standing.falls) / 1000,
                        time_of_day(admitted)
                    );
                    judged.flapping = true;
                    self.look_again_at(admitted);
                } else {
                    (standing.served, standing.left) = (true, None);
                }
            }
            Readiness::Unhealthy => leave(&mut standing, at, true),
            Readiness::Cold | Readiness::Draining => leave(&mut standing, at, false),
        }
        let routes = self.after.entry(container.id.clone()).or_default();
        routes.insert(candidate.intent.primary().to_owned(), standing);
    }

    /// Whether requests wait for the successor of a container whose run has ended: it, or a run of its shortly
    /// before, took some.
    pub(super) fn holds(&mut self, ended: &Candidate<'_>, hold: Period) -> bool {
        let Some(before) = self.before(ended) else { return false };
        let at = ended.view.departed.get(&ended.container.id).map(|gone| gone.at);
        let this = before.served && before.started == ended.container.started;
        let Some(left) = at.filter(|_| this).or(before.left) else { return false };
        let until = Timestamp(left.0.saturating_add(hold.as_millis()));
        let holds = until > self.observed.at;
        if holds {
            self.look_again_at(until);
        }
        holds
    }

    /// Looks again at this time at the latest.
    pub(super) fn look_again_at(&mut self, at: Timestamp) {
        self.look_again = Some(self.look_again.map_or(at, |other| other.min(at)));
    }

    fn before(&self, candidate: &Candidate<'_>) -> Option<Standing> {
        self.before?.get(&candidate.container.id)?.get(candidate.intent.primary()).copied()
    }

    /// The standings to go on from, and when to look again. Who was not judged this time stays in them while
    /// anything is left of the container.
    pub(super) fn close(mut self) -> (Standings, Option<Timestamp>) {
        for (id, routes) in self.before.into_iter().flatten() {
            let judged = self.after.get(id);
            let unjudged: Vec<(&String, &Standing)> = routes
                .iter()
                .filter(|(route, _)| judged.is_none_or(|judged| !judged.contains_key(*route)))
                .collect();
            if unjudged.is_empty() {
                continue;
            }
            let views = || self.observed.engines.values();
            let departed = views().find_map(|view| view.departed.get(id));
            let container = views().find_map(|view| view.containers.get(id));
            for (route, standing) in unjudged {
                let mut standing = *standing;
                leave(
                    &mut standing,
                    self.observed.at,
                    container.is_some_and(|container| ended_by_itself(container)),
                );
                if let Some(gone) = departed.filter(|gone| gone.container.started == standing.started) {
                    end(&mut standing, gone.at);
                }
                let remembered =
                    standing.falls > 0 && elapsed(standing.fell, self.observed.at) < 2 * LONGEST_MS;
                if departed.is_some() || container.is_some() && remembered {
                    self.after.entry(id.clone()).or_default().insert(route.clone(), standing);
                }
            }
        }
        (self.after, self.look_again)
    }
}

/// It is not ready any more; `by_itself`: nobody wanted that, and if it had taken requests, it fell.
fn leave(standing: &mut Standing, at: Timestamp, by_itself: bool) {
    let Some(since) = standing.ready.take() else { return };
    let lasted = elapsed(since, at);
    if !by_itself || lasted < penalty_ms(standing.falls) {
        return;
    }
    if lasted >= stable_ms(standing.falls) {
        standing.falls = 0;
    }
    standing.falls = standing.falls.saturating_add(1);
    standing.fell = at;
}

/// Its run has ended.
fn end(standing: &mut Standing, at: Timestamp) {
    if std::mem::take(&mut standing.served) {
        standing.left = Some(at);
    }
}

fn ended_by_itself(container: &Container) -> bool {
    let ended =
        matches!(container.state, ContainerState::Restarting | ContainerState::Exited | ContainerState::Dead);
    ended && !container.stopped_by_request
}

/// How long an endpoint that fell this often must be ready before it is taken in: a single fall costs nothing.
fn penalty_ms(falls: u32) -> u64 {
    let Some(doublings) = falls.checked_sub(2) else { return 0 };
    FIRST_MS.saturating_mul(1 << doublings.min(20)).min(LONGEST_MS)
}

fn stable_ms(falls: u32) -> u64 {
    penalty_ms(falls).saturating_mul(2).max(STABLE_MS)
}

const fn elapsed(since: Timestamp, at: Timestamp) -> u64 {
    at.0.saturating_sub(since.0)
}

/// `14:03:22 UTC`.
fn time_of_day(at: Timestamp) -> String {
    let seconds = at.0.div_ceil(1000) % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
