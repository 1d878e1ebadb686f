//! The loop's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use interlock_core::model::Timestamp;
use tokio::time::Instant;

/// Milliseconds since the epoch, for what is compared with an engine's times. As far ahead of the system's clock
/// as tokio's, which tests can turn, is of the processor's.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let turned = Instant::now().into_std().saturating_duration_since(std::time::Instant::now());
    Timestamp(u64::try_from((since + turned).as_millis()).unwrap_or(u64::MAX))
}

/// The instant at which that clock says `at`.
pub(super) fn instant(at: Timestamp) -> Instant {
    Instant::now() + Duration::from_millis(at.0.saturating_sub(now().0))
}
