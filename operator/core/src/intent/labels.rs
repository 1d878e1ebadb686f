//! Labels: sorted into the unnamed route, named ones, and those that nobody knows.

use std::collections::BTreeMap;

use super::keys::{self, Dialect, Key, Kind, PREFIX};
use super::said::{Said, Word, natural, strongest_key_first};
use crate::finding::{Finding, Reason, Subject, Verdict, shown};
use crate::model::RouteName;

/// What a container's labels say.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// `interlock.<key>`.
    pub(super) unnamed: Said,
    /// `interlock.<name>.<key>`.
    pub(super) named: BTreeMap<RouteName, Said>,
}

/// Sorts labels out; what nobody knows becomes a finding.
pub(super) fn read(labels: &BTreeMap<&str, &str>, subject: &Subject, findings: &mut Vec<Finding>) -> Labels {
    let mut sorted: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (*key, *value)).collect();
    sorted.sort_by(|a, b| natural(a.0, b.0));
    let mut read = Labels::default();
    for (label, value) in sorted {
        let Some(rest) = label.strip_prefix(PREFIX) else { continue };
        match place(rest) {
            Place::Reserved => {}
            Place::Unnamed(key) => {
                add(&mut read.unnamed, key, label, value, subject, findings);
            }
            Place::Named(name, key) => {
                let said = read.named.entry(name).or_default();
                add(said, key, label, value, subject, findings);
            }
            Place::Unknown(unknown) => findings.push(unknown.tell(label, value, subject)),
        }
    }
    for said in std::iter::once(&mut read.unnamed).chain(read.named.values_mut()) {
        strongest_key_first(said);
    }
    read
}

/// Where a label belongs.
enum Place {
    Reserved,
    Unnamed(&'static Key),
    Named(RouteName, &'static Key),
    Unknown(Unknown),
}

/// Why a label belongs nowhere.
struct Unknown {
    why: String,
    /// The label that was probably meant.
    meant: Option<String>,
}

/// Places the text after `interlock.`.
fn place(rest: &str) -> Place {
    let reserved = |text: &str| keys::RESERVED.contains(&text);
    if reserved(rest) || rest.starts_with("ext.") {
        return Place::Reserved;
    }
    if let Some(key) = keys::label_key(rest) {
        return Place::Unnamed(key);
    }
    // What documents select by; a route of that name keeps its labels.
    if rest.strip_prefix(keys::SELECT).is_some_and(|below| keys::label_key(below).is_none()) {
        return Place::Reserved;
    }
    let Some((name, below)) = rest.split_once('.') else {
        let meant = keys::nearest(Dialect::Label, rest).map(Key::full_name);
        return Place::Unknown(Unknown { why: "no such label".to_owned(), meant });
    };
    if let Some(key) = keys::label_key(name) {
        let why = format!("`interlock.{}` takes no suffix and is no name for a route", key.name);
        return Place::Unknown(Unknown { why, meant: Some(key.full_name()) });
    }
    let key = match keys::label_key(below) {
        Some(key) if key.can_be_named() => key,
        Some(key) => {
            let why = format!("`{}` is said once for the whole container", key.name);
            return Place::Unknown(Unknown { why, meant: Some(key.full_name()) });
        }
        None => {
            let meant = keys::nearest(Dialect::Label, below)
                .filter(|key| key.can_be_named())
                .and_then(|key| Some(format!("{PREFIX}{}.{}", name.parse::<RouteName>().ok()?, key.name)));
            return Place::Unknown(Unknown { why: "no such label".to_owned(), meant });
        }
    };
    match name.parse() {
        Ok(name) => Place::Named(name, key),
        Err(error) => Place::Unknown(Unknown { why: error.to_string(), meant: None }),
    }
}

impl Unknown {
    /// A label close to a known one was meant to do something, so that the route lacks it.
    fn tell(self, label: &str, value: &str, subject: &Subject) -> Finding {
        let label = shown(label);
        let verdict = if self.meant.is_some() { Verdict::Degraded } else { Verdict::Note };
        let hint = self.meant.as_ref().map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        let message = format!("`{label}` is not used: {}{hint}", self.why);
        let fix = match self.meant {
            Some(meant) => format!("label `{meant}={}`", shown(value)),
            None => format!("remove the label `{label}`"),
        };
        Finding::new(verdict, Reason::UnknownKey, subject.clone().with_key(label), message).fix(fix)
    }
}

/// Adds a label's value. An empty value says nothing, except that a boolean is meant.
fn add(
    said: &mut Said,
    key: &'static Key,
    label: &str,
    value: &str,
    subject: &Subject,
    findings: &mut Vec<Finding>,
) {
    let text = value.trim();
    if text.is_empty() && key.kind != Kind::Bool {
        let message = format!("`{}` is empty and counts as not set", shown(label));
        findings.push(Finding::new(
            Verdict::Note,
            Reason::InvalidValue,
            subject.clone().with_key(shown(label)),
            message,
        ));
        return;
    }
    said.entry(key.setting).or_default().push(Word::new(key, shown(label), text));
}
