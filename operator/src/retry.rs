//! Retry: growing pauses with jitter. The only place that uses the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Pauses that grow from one try to the next and never end.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// Begins at `first` and grows by half up to `longest`, each ± 20 %.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let mut inner = ExponentialBackoff {
            initial_interval: first,
            max_interval: longest,
            multiplier: 1.5,
            randomization_factor: 0.2,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        inner.reset();
        Self(inner)
    }

    /// How long to wait before the next try.
    pub fn pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// It worked: the next pause is the first again.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_bound_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let first = backoff.pause();
        assert!((Duration::from_millis(80)..=Duration::from_millis(120)).contains(&first), "{first:?}");
        let late = (0..20).map(|_| backoff.pause()).last().unwrap();
        assert!((Duration::from_millis(1600)..=Duration::from_millis(2400)).contains(&late), "{late:?}");
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(120));
    }
}
