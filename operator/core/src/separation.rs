//! What separates two sorted maps, found by walking through them side by side.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The keys under which two maps differ, in order.
pub fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> Vec<&'a K> {
    differing_by(before, now, V::eq)
}

/// The keys under which two maps differ, where `same` says what counts, in order.
pub fn differing_by<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> Vec<&'a K> {
    let mut keys = Vec::new();
    if std::ptr::eq(before, now) {
        return keys;
    }
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return keys,
        };
        let a = if order.is_le() { old.next() } else { None };
        let b = if order.is_ge() { new.next() } else { None };
        match (a, b) {
            (Some((_, was)), Some((_, is))) if same(was, is) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => keys.push(key),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_that_differs_is_found_once_and_in_order(
            before in btree_map(0_u8..20, 0_u8..3, 0..15),
            now in btree_map(0_u8..20, 0_u8..3, 0..15),
        ) {
            let expected: Vec<u8> = (0..20).filter(|key| before.get(key) != now.get(key)).collect();
            prop_assert_eq!(differing(&before, &now).into_iter().copied().collect::<Vec<_>>(), expected);
            prop_assert!(differing(&now, &now).is_empty());
        }
    }
}
