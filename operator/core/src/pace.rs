//! Pace: when a change may go out. Live changes at once; reloads with a holdoff and a ceiling.

use crate::model::Timestamp;

/// Remembers what pacing one target needs. A first change after quiet goes out at once; while changes
/// keep coming they are gathered until `ceiling` milliseconds have passed since the last reload began,
/// so that a busy host neither starves nor storms. A cosmetic reload holds up none that matters: there is at most one
/// for each ceiling, and only where nothing else was pressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    ceiling_ms: u64,
    last_reload: Option<Timestamp>,
    /// Of those that somebody's traffic depended on.
    last_pressing: Option<Timestamp>,
    waiting_since: Option<Timestamp>,
}

/// How pressing a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// The running proxy can take it without a reload.
    Live,
    /// It needs a reload, and takes an endpoint out of rotation that was told to stop or is gone: every
    /// moment longer sends requests to somebody who will not answer them.
    Withdrawal,
    /// It needs a reload, and some endpoint's traffic depends on it.
    Reload,
    /// It needs a reload, and nothing but error answers changes: a host whose endpoints are all cold.
    Cosmetic,
}

impl Pace {
    /// `ceiling_ms`: the longest that a reload is put off.
    pub const fn new(ceiling_ms: u64) -> Self {
        Self { ceiling_ms, last_reload: None, last_pressing: None, waiting_since: None }
    }

    /// When a change that is pending at `now` may go out; not after `now` means at once.
    pub fn due(&mut self, now: Timestamp, urgency: Urgency) -> Timestamp {
        if matches!(urgency, Urgency::Live | Urgency::Withdrawal) {
            return now;
        }
        let waiting_since = *self.waiting_since.get_or_insert(now);
        let after = |last: Option<Timestamp>| last.map_or(0, |last| last.0.saturating_add(self.ceiling_ms));
        let earliest = match urgency {
            Urgency::Cosmetic => after(Some(waiting_since)).max(after(self.last_reload)),
            Urgency::Live | Urgency::Withdrawal | Urgency::Reload => after(self.last_pressing),
        };
        Timestamp(earliest.max(now.0))
    }

    /// Nothing is pending any more.
    pub fn settled(&mut self) {
        self.waiting_since = None;
    }

    /// A change that needs a reload went out at `now`.
    pub fn reloaded(&mut self, now: Timestamp, urgency: Urgency) {
        self.last_reload = Some(now);
        if urgency != Urgency::Cosmetic {
            self.last_pressing = Some(now);
        }
        self.waiting_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(10_000);

    fn at(ms: u64) -> Timestamp {
        Timestamp(NOW.0 + ms)
    }

    #[test]
    fn first_change_after_quiet_goes_out_at_once() {
        let mut pace = Pace::new(500);
        assert_eq!(pace.due(NOW, Urgency::Reload), NOW);
        pace.reloaded(NOW, Urgency::Reload);
        assert_eq!(pace.due(at(501), Urgency::Reload), at(501));
    }

    #[test]
    fn reloads_are_a_ceiling_apart_however_often_changes_come() {
        let mut pace = Pace::new(500);
        pace.reloaded(NOW, Urgency::Reload);
        for ms in (0..500).step_by(10) {
            assert_eq!(
                pace.due(at(ms), Urgency::Reload),
                at(500),
                "a later change must not push the time out"
            );
        }
        assert_eq!(pace.due(at(500), Urgency::Reload), at(500));
    }

    #[test]
    fn live_changes_never_wait() {
        let mut pace = Pace::new(500);
        pace.reloaded(NOW, Urgency::Reload);
        assert_eq!(pace.due(at(1), Urgency::Live), at(1));
    }

    #[test]
    fn a_withdrawal_never_waits() {
        let mut pace = Pace::new(500);
        pace.reloaded(NOW, Urgency::Reload);
        assert_eq!(pace.due(at(1), Urgency::Withdrawal), at(1));
    }

    #[test]
    fn cosmetic_changes_wait_for_company_but_not_for_ever() {
        let mut pace = Pace::new(500);
        assert_eq!(pace.due(NOW, Urgency::Cosmetic), at(500));
        assert_eq!(pace.due(at(300), Urgency::Cosmetic), at(500));
        assert_eq!(pace.due(at(300), Urgency::Reload), at(300), "a pressing one takes it along");
        pace.settled();
        assert_eq!(pace.due(at(600), Urgency::Cosmetic), at(1100));
    }

    #[test]
    fn a_cosmetic_reload_holds_up_none_that_matters() {
        let mut pace = Pace::new(500);
        pace.reloaded(NOW, Urgency::Reload);
        assert_eq!(pace.due(at(100), Urgency::Cosmetic), at(600));
        pace.reloaded(at(600), Urgency::Cosmetic);
        assert_eq!(pace.due(at(610), Urgency::Reload), at(610));
        pace.reloaded(at(610), Urgency::Reload);
        assert_eq!(pace.due(at(620), Urgency::Reload), at(1110), "but one that matters does");
        assert_eq!(pace.due(at(620), Urgency::Cosmetic), at(1120), "and another cosmetic one waits");
    }
}
