//! The loop's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use interlock_core::model::Timestamp;

/// Milliseconds since the epoch, for what is compared with an engine's times.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
