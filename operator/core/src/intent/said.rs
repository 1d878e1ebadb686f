//! What the sources of one route said, setting by setting, and how the strongest one is picked.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::keys::{Dialect, KEYS, Key, PREFIX, Setting};
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::model::RouteName;

/// One value as its source wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// The whole label, or `INTERLOCK_DATA.<key>`.
    pub(super) key: String,
    /// The value, trimmed.
    pub(super) text: String,
    /// The key's place in the table: of two keys for one setting the first is the stronger.
    rank: usize,
}

impl Word {
    pub(super) fn new(key: &Key, written: String, text: &str) -> Self {
        let rank = KEYS.iter().position(|known| known == key).unwrap_or(KEYS.len());
        Self { key: written, text: text.trim().to_owned(), rank }
    }
}

/// Puts the words of each setting in the order of the table, keeping the order within a list.
pub(super) fn strongest_key_first(said: &mut Said) {
    for words in said.values_mut() {
        words.sort_by_key(|word| word.rank);
    }
}

/// Everything that one source said about one route.
pub(super) type Said = BTreeMap<Setting, Vec<Word>>;

/// Why a value was not taken as written, and what that costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) fix: Option<String>,
}

impl Fault {
    /// A value that its key cannot take; the route does without.
    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Degraded, reason: Reason::InvalidValue, message: message.into(), fix: None }
    }

    pub(crate) fn reason(mut self, reason: Reason) -> Self {
        self.reason = reason;
        self
    }

    pub(crate) fn verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self
    }

    /// What the value should be; the label or key is put in front of it.
    pub(crate) fn write(mut self, value: impl Into<String>) -> Self {
        self.fix = Some(value.into());
        self
    }
}

/// What became of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pick<T> {
    /// Nobody said anything.
    Absent,
    /// What was said cannot be taken; a finding says so.
    Bad,
    /// Taken.
    Good(T),
}

impl<T> Pick<T> {
    pub(super) fn good(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }
}

/// Reads one route's settings out of its sources, the strongest first, and keeps what is to be told.
pub(super) struct Reader<'a> {
    sources: Vec<&'a Said>,
    route: Option<&'a RouteName>,
    subject: &'a Subject,
    findings: &'a mut Vec<Finding>,
    label: Option<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        sources: Vec<&'a Said>,
        route: Option<&'a RouteName>,
        subject: &'a Subject,
        findings: &'a mut Vec<Finding>,
    ) -> Self {
        Self { sources, route, subject, findings, label: None }
    }

    /// From here on findings are about this `host/path`.
    pub(super) fn narrow(&mut self, label: String) {
        self.label = Some(label);
    }

    /// The words for a setting, the strongest source's first.
    pub(super) fn words(&self, setting: Setting) -> Vec<Word> {
        self.sources.iter().filter_map(|said| said.get(&setting)).flatten().cloned().collect()
    }

    /// How strong the strongest source is that says anything about a setting: the smaller, the stronger.
    pub(super) fn strength(&self, setting: Setting) -> Option<usize> {
        self.sources.iter().position(|said| said.contains_key(&setting))
    }

    /// The words of the strongest source that says anything about a list.
    pub(super) fn list(&mut self, setting: Setting) -> Vec<Word> {
        let mut lists = self.sources.iter().filter_map(|said| said.get(&setting));
        let Some(strongest) = lists.next().cloned() else { return Vec::new() };
        let texts = |words: &[Word]| -> Vec<String> { words.iter().map(|word| word.text.clone()).collect() };
        let losers: Vec<Word> = lists
            .filter(|weaker| texts(weaker) != texts(&strongest))
            .filter_map(|weaker| weaker.first().cloned())
            .collect();
        if let Some(winner) = strongest.first() {
            for loser in losers {
                self.overridden(&loser.key, &winner.key);
            }
        }
        strongest
    }

    /// The setting by its strongest word; weaker ones that say something else are told so.
    pub(super) fn one<T: PartialEq>(
        &mut self,
        setting: Setting,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Pick<T> {
        let mut words = self.words(setting).into_iter();
        let Some(first) = words.next() else { return Pick::Absent };
        let picked = parse(&first.text);
        for weaker in words {
            if parse(&weaker.text) != picked {
                self.overridden(&weaker.key, &first.key);
            }
        }
        match picked {
            Ok(value) => Pick::Good(value),
            Err(fault) => {
                self.tell(&first.key, fault);
                Pick::Bad
            }
        }
    }

    /// Tells that `loser` is set aside because `winner` says otherwise.
    pub(super) fn overridden(&mut self, loser: &str, winner: &str) {
        let message = format!("`{loser}` is set aside: `{winner}` is stronger and says something else");
        self.push(Verdict::Note, Reason::Overridden, Some(loser), message, None);
    }

    /// Tells what is wrong with a key's value.
    pub(super) fn tell(&mut self, key: &str, fault: Fault) {
        let fix = fault.fix.map(|value| set_to(key, &value));
        self.push(fault.verdict, fault.reason, Some(key), format!("`{key}`: {}", fault.message), fix);
    }

    /// Tells something about the route.
    pub(super) fn push(
        &mut self,
        verdict: Verdict,
        reason: Reason,
        key: Option<&str>,
        message: String,
        fix: Option<String>,
    ) {
        let mut subject = self.subject.clone();
        subject.key = key.map(str::to_owned);
        subject.route.clone_from(&self.label);
        self.findings.push(Finding { verdict, reason, subject, message, fix });
    }

    /// The label that decides a setting of this route, for fixes: `interlock.web.port`.
    pub(super) fn label(&self, setting: Setting) -> String {
        let name = KEYS
            .iter()
            .find(|key| key.dialect == Dialect::Label && key.setting == setting)
            .map_or("host", |key| key.name);
        match self.route {
            Some(route) => format!("{PREFIX}{route}.{name}"),
            None => format!("{PREFIX}{name}"),
        }
    }

    /// The first key that was written for this route, those left out that speak for the whole container.
    pub(super) fn any_route_key(&self) -> Option<String> {
        self.sources
            .iter()
            .flat_map(|said| said.iter())
            .filter(|(setting, _)| !setting.of_container())
            .find_map(|(_, words)| words.first())
            .map(|word| word.key.clone())
    }
}

/// The line that sets a label or a JSON key, for fixes.
pub(super) fn set_to(key: &str, value: &str) -> String {
    match key.strip_prefix("INTERLOCK_DATA.") {
        Some(json) => format!("in `INTERLOCK_DATA`, set `{json}` to `{value}`"),
        None => format!("label `{key}={value}`"),
    }
}

/// Orders keys as people count: `.2` before `.10`, the bare key first.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while !left.is_empty() && !right.is_empty() {
        let (head_left, rest_left) = chunk(left);
        let (head_right, rest_right) = chunk(right);
        let order = if is_number(head_left) && is_number(head_right) {
            let (less, more) = (head_left.trim_start_matches('0'), head_right.trim_start_matches('0'));
            less.len().cmp(&more.len()).then_with(|| less.cmp(more))
        } else {
            head_left.cmp(head_right)
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (rest_left, rest_right);
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// The leading run of digits, or of anything else, and the rest.
fn chunk(text: &str) -> (&str, &str) {
    let digit = is_number(text);
    let end = text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len());
    text.split_at(end)
}
