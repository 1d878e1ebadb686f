//! History: what each object has said so far, its last words and those of objects that are gone, within bounds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::object::{Key, Stored};

/// The most generations of one object; the one in force is among them.
const MOST: usize = 10;
/// All generations of all objects together, as JSON. The oldest go first, whosever they are.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// One generation of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The object as it was when the generation began.
    pub stored: Arc<Stored>,
    /// When that was, as RFC 3339 has it.
    pub at: String,
    bytes: usize,
}

impl Revision {
    pub(super) fn new(stored: Arc<Stored>, at: String) -> Self {
        // What cannot be counted is not there, which would be no reason to forget the others.
        let bytes = serde_json::to_string(&stored.written(None)).map_or(0, |text| text.len());
        Self { stored, at, bytes }
    }
}

/// Every generation that is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    of: BTreeMap<Key, VecDeque<Arc<Revision>>>,
    bytes: usize,
}

impl History {
    /// What an object has said, the oldest first.
    pub fn of(&self, key: &Key) -> impl DoubleEndedIterator<Item = &Arc<Revision>> {
        self.of.get(key).into_iter().flatten()
    }

    /// The last generation of an object, also of one that is gone.
    pub fn last(&self, key: &Key) -> Option<&Arc<Revision>> {
        self.of(key).next_back()
    }

    /// All of them in the order in which they were written.
    pub(super) fn all(&self) -> Vec<Arc<Revision>> {
        let mut all: Vec<_> = self.of.values().flatten().cloned().collect();
        all.sort_by_key(|revision| revision.stored.revision());
        all
    }

    /// Remembers a generation; a write that changes labels alone begins none.
    pub(super) fn note(&mut self, revision: Revision) {
        let known = self.of.entry(revision.stored.key.clone()).or_default();
        if known.back().is_some_and(|last| last.stored.generation() == revision.stored.generation()) {
            return;
        }
        self.bytes += revision.bytes;
        known.push_back(Arc::new(revision));
        if known.len() > MOST {
            self.bytes -= known.pop_front().map_or(0, |gone| gone.bytes);
        }
        while self.bytes > MOST_BYTES && self.forget() {}
    }

    /// Forgets the oldest generation; whether there was one.
    fn forget(&mut self) -> bool {
        let oldest = self.of.iter().min_by_key(|(_, all)| all.front().map(|first| first.stored.revision()));
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return false };
        let Some(all) = self.of.get_mut(&key) else { return false };
        self.bytes -= all.pop_front().map_or(0, |gone| gone.bytes);
        if all.is_empty() {
            self.of.remove(&key);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Spec;
    use interlock_crds::schema::Kind;
    use interlock_crds::{Metadata, RouteSpec};

    fn revision(name: &str, write: u64, generation: u64, bytes: usize) -> Revision {
        let metadata = Metadata {
            resource_version: Some(write.to_string()),
            generation: Some(generation),
            ..Metadata::default()
        };
        let spec = RouteSpec { hostnames: vec!["x".repeat(bytes)], ..RouteSpec::default() };
        let key = Key::new(Kind::Route, "default", name).unwrap();
        let stored = Stored { key, metadata, spec: Spec::Route(spec.into()) };
        Revision::new(Arc::new(stored), String::new())
    }

    fn kept(history: &History, name: &str) -> Vec<u64> {
        history
            .of(&Key::new(Kind::Route, "default", name).unwrap())
            .map(|one| one.stored.generation())
            .collect()
    }

    #[test]
    fn the_last_ten_of_each_are_kept() {
        let mut history = History::default();
        for write in 1..=12 {
            history.note(revision("a", write, write, 1));
            history.note(revision("a", write, write, 1));
        }
        history.note(revision("b", 13, 1, 1));
        assert_eq!(kept(&history, "a"), (3..=12).collect::<Vec<_>>());
        assert_eq!(kept(&history, "b"), [1]);
    }

    #[test]
    fn beyond_the_bytes_the_oldest_go_first() {
        let mut history = History::default();
        // With what stands around the text of each.
        let third = MOST_BYTES / 3 - 1_000;
        for (name, write, generation) in [("a", 1, 1), ("b", 2, 1), ("a", 3, 2), ("c", 4, 1)] {
            history.note(revision(name, write, generation, third));
        }
        assert!(history.bytes <= MOST_BYTES);
        assert_eq!(
            (kept(&history, "a"), kept(&history, "b"), kept(&history, "c")),
            (vec![2], vec![1], vec![1])
        );
        history.note(revision("d", 5, 1, MOST_BYTES + 1));
        assert!(history.all().is_empty() && history.bytes == 0, "what is larger than all of it is not kept");
    }
}
