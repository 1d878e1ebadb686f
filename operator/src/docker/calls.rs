//! Counts of requests to one engine, by call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Requests sent to one engine since the start, by call name: `container_inspect`, `events` …
/// Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Calls {
    pub(super) fn count(&self, call: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(call).or_default() += 1;
    }

    /// The counts so far.
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sum over all calls.
    pub fn total(&self) -> u64 {
        self.snapshot().values().sum()
    }
}
