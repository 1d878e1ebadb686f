//! Search: which intent makes a checker refuse a bundle, found by check-only requests.
//!
//! A pure state machine: it says which intents to leave in for the next check and is told the verdict.
//! Prefixes of the sorted suspects are halved, so one culprit of a thousand costs eleven checks.

use std::collections::BTreeSet;

use crate::model::Digest;

/// The most checks that one search may cost.
pub const MAX_CHECKS: u32 = 24;

/// A search under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    suspects: Vec<Digest>,
    /// A prefix of this length passes.
    good: usize,
    /// A prefix of this length is refused.
    bad: usize,
    base_checked: bool,
    checks: u32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Check a bundle without these intents.
    CheckWithout(BTreeSet<Digest>),
    /// This one is to blame.
    Culprit(Digest),
    /// The base without any route is refused: no route is to blame.
    Base,
    /// The bound was reached, or the refusal does not repeat.
    GaveUp,
}

impl Search {
    /// Starts over all intents of a refused bundle.
    pub fn new(suspects: impl IntoIterator<Item = Digest>) -> Self {
        let suspects: Vec<Digest> = suspects.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let bad = suspects.len();
        Self { suspects, good: 0, bad, base_checked: false, checks: 0 }
    }

    /// Whether there is nobody to suspect.
    pub fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    /// The next step.
    pub fn step(&self) -> Step {
        if self.checks >= MAX_CHECKS {
            return Step::GaveUp;
        }
        if !self.base_checked {
            return Step::CheckWithout(self.suspects.iter().cloned().collect());
        }
        if self.bad == 0 {
            return Step::Base;
        }
        if self.bad - self.good == 1 {
            return self.suspects.get(self.good).cloned().map_or(Step::GaveUp, Step::Culprit);
        }
        Step::CheckWithout(self.suspects[self.middle()..].iter().cloned().collect())
    }

    /// Tells the verdict on the last [`Step::CheckWithout`].
    pub fn told(&mut self, passed: bool) {
        self.checks += 1;
        if !self.base_checked {
            self.base_checked = true;
            if !passed {
                self.bad = 0;
            }
            return;
        }
        let middle = self.middle();
        if passed {
            self.good = middle;
        } else {
            self.bad = middle;
        }
    }

    fn middle(&self) -> usize {
        self.good + (self.bad - self.good) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(n: usize) -> Vec<Digest> {
        (0..n).map(|i| Digest::of([i.to_string().as_bytes()])).collect()
    }

    fn run(suspects: &[Digest], bad: &Digest) -> (Step, u32) {
        let mut search = Search::new(suspects.iter().cloned());
        loop {
            match search.step() {
                Step::CheckWithout(out) => search.told(out.contains(bad)),
                end => return (end, search.checks),
            }
        }
    }

    #[test]
    fn finds_every_single_culprit_cheaply() {
        let suspects = digests(1000);
        for bad in suspects.iter().step_by(37) {
            let (end, checks) = run(&suspects, bad);
            assert_eq!(end, Step::Culprit(bad.clone()));
            assert!(checks <= 11, "{checks} checks");
        }
    }

    #[test]
    fn a_refused_base_blames_no_route() {
        let mut search = Search::new(digests(8));
        assert!(matches!(search.step(), Step::CheckWithout(out) if out.len() == 8));
        search.told(false);
        assert_eq!(search.step(), Step::Base);
    }

    #[test]
    fn gives_up_within_its_bound() {
        let mut search = Search::new(digests(1 << 12));
        search.checks = MAX_CHECKS;
        assert_eq!(search.step(), Step::GaveUp);
    }

    #[test]
    fn one_suspect_is_named_after_the_base_passed() {
        let suspects = digests(1);
        assert_eq!(run(&suspects, &suspects[0]).0, Step::Culprit(suspects[0].clone()));
    }

    #[test]
    fn no_suspect_at_all_gives_the_base() {
        let mut search = Search::new([]);
        search.told(true);
        assert_eq!(search.step(), Step::Base);
    }
}
