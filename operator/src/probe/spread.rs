//! How times are spread, in bounded memory however many they are.

use std::collections::BTreeMap;
use std::time::Duration;

/// Times, each rounded to three digits; the slowest as it was.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    counts: BTreeMap<u64, u64>,
    total: u64,
    most: Duration,
}

impl Spread {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        *self.counts.entry(rounded(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))).or_default() += 1;
        self.total += 1;
        self.most = self.most.max(time);
    }

    /// How many there are.
    pub const fn len(&self) -> u64 {
        self.total
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The slowest.
    pub const fn most(&self) -> Duration {
        self.most
    }

    /// The smallest time that is not exceeded by so many of a thousand; zero of none.
    pub fn permille(&self, share: u64) -> Duration {
        let rank = (self.total * share).div_ceil(1000).max(1);
        let mut seen = 0;
        for (time, count) in &self.counts {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(*time).min(self.most);
            }
        }
        Duration::ZERO
    }
}

/// Three digits are kept, the rest is rounded up.
const fn rounded(microseconds: u64) -> u64 {
    let mut unit = 1;
    while microseconds / unit >= 1000 {
        unit *= 10;
    }
    microseconds.div_ceil(unit).saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let mut spread = Spread::default();
        for ms in (1..=20).rev() {
            spread.add(Duration::from_millis(ms));
        }
        assert_eq!(spread.permille(500), Duration::from_millis(10));
        assert_eq!(spread.permille(950), Duration::from_millis(19));
        assert_eq!(spread.permille(1000), Duration::from_millis(20));
        assert_eq!(Spread::default().permille(500), Duration::ZERO);
    }

    #[test]
    fn three_digits_are_kept() {
        for (from, to) in
            [(0, 0), (999, 999), (1000, 1000), (1001, 1010), (12_345, 12_400), (999_999, 1_000_000)]
        {
            assert_eq!(rounded(from), to);
        }
        let mut spread = Spread::default();
        spread.add(Duration::from_micros(12_345));
        assert_eq!(spread.permille(500), Duration::from_micros(12_345), "never more than the slowest");
    }
}
