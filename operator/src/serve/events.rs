//! Events: what happened in the last hours, for people; bounded, so that a bad day costs no memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use interlock_core::model::Timestamp;
use serde::{Deserialize, Serialize};

/// So many are kept,
const MOST: usize = 2_000;
/// and for so long.
const LONGEST: Duration = Duration::from_hours(6);

/// One thing that happened, over and over where it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When it did first, in milliseconds since the epoch.
    pub first: Timestamp,
    /// When it did last.
    pub last: Timestamp,
    /// How often.
    pub count: u32,
    /// Whether somebody should look.
    pub warning: bool,
    /// Why, in one word of a closed list.
    pub reason: String,
    /// What it is about: `Route shop/web`, `Proxy edge`.
    pub object: String,
    /// What happened, for people.
    pub message: String,
}

/// The last events; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Mutex<VecDeque<Event>>>);

impl Events {
    /// Notes that something happened. What has happened lately just so is counted.
    pub fn note(&self, at: Timestamp, warning: bool, reason: &str, object: &str, message: &str) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        while events.front().is_some_and(|first| first.last.0.saturating_add(longest) < at.0) {
            events.pop_front();
        }
        let same =
            |event: &Event| event.reason == reason && event.object == object && event.message == message;
        let known = events.iter().position(same).and_then(|index| events.remove(index));
        let (first, count) = known.map_or((at, 0), |known| (known.first, known.count));
        let (reason, object, message) = (reason.to_owned(), object.to_owned(), message.to_owned());
        events.push_back(Event {
            first,
            last: at,
            count: count.saturating_add(1),
            warning,
            reason,
            object,
            message,
        });
        if events.len() > MOST {
            events.pop_front();
        }
    }

    /// All of them, the last one last.
    pub fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_is_counted_and_comes_last() {
        let events = Events::default();
        events.note(Timestamp(1), false, "Reloaded", "Proxy a", "once");
        events.note(Timestamp(2), true, "NotWarm", "Route b", "cold");
        events.note(Timestamp(3), false, "Reloaded", "Proxy a", "once");
        let all = events.all();
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].first.0, all[1].last.0, all[1].count), (1, 3, 2));
    }

    #[test]
    fn they_are_bounded_in_number_and_time() {
        let events = Events::default();
        for at in 0..3_000 {
            events.note(Timestamp(at), false, "Reloaded", "Proxy a", &at.to_string());
        }
        assert_eq!(events.all().len(), MOST);
        events.note(Timestamp(7 * 3_600_000), false, "Reloaded", "Proxy a", "hours later");
        assert_eq!(events.all().len(), 1);
    }
}
