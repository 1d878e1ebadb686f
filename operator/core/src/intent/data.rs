//! `INTERLOCK_DATA`: the JSON object of the first Interlocks, brought into the same words as labels.

use serde_json::Value;

use super::keys::{self, DATA, Dialect, Key, Kind};
use super::said::{Said, Word, set_to};
use crate::finding::{Finding, Reason, Subject, Verdict, shown};

/// Reads the variable's value; what cannot be read costs only itself.
pub(super) fn read(text: &str, subject: &Subject, findings: &mut Vec<Finding>) -> Said {
    let object = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object,
        Ok(other) => {
            findings.push(invalid(&format!("it is {}, not a JSON object", describe(&other)), subject));
            return Said::new();
        }
        Err(error) => {
            findings.push(invalid(&error.to_string(), subject));
            return Said::new();
        }
    };
    let mut entries: Vec<(&String, &Value)> = object.iter().collect();
    entries.sort_by_key(|(name, _)| *name);
    let mut said = Said::new();
    for (name, value) in entries {
        let Some(key) = keys::data_key(name) else {
            findings.push(unknown(name, subject));
            continue;
        };
        let mut words = Vec::new();
        for (full, text) in texts(key, value) {
            match text {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => words.push(Word::new(key, full, &text)),
                Err(why) => findings.push(
                    Finding::new(
                        Verdict::Degraded,
                        Reason::InvalidValue,
                        subject.clone().with_key(&full),
                        format!("`{full}`: {why}"),
                    )
                    .fix(set_to(&full, example(key.kind))),
                ),
            }
        }
        if !words.is_empty() {
            // `Port` and `port` in one object: the later one counts, as in Go's decoder.
            said.insert(key.setting, words);
        }
    }
    said
}

fn invalid(why: &str, subject: &Subject) -> Finding {
    let message = format!("`{DATA}` is not used: {why}");
    Finding::new(Verdict::Degraded, Reason::InvalidData, subject.clone().with_key(DATA), message).fix(
        format!(
            "write `{DATA}` as one JSON object: `{{\"hostname\": \"shop\", \"domain\": \"example.com\"}}`"
        ),
    )
}

fn unknown(name: &str, subject: &Subject) -> Finding {
    let full = format!("{DATA}.{}", shown(name));
    let meant = keys::nearest(Dialect::Data, name);
    let (verdict, message, fix) = match meant {
        Some(key) => (
            Verdict::Degraded,
            format!("`{full}` is not used: no such key; did you mean `{}`?", key.name),
            format!("in `{DATA}`, write the key as `{}`", key.name),
        ),
        None => (
            Verdict::Note,
            format!("`{full}` is not used: no such key"),
            format!("remove the key from `{DATA}`"),
        ),
    };
    Finding::new(verdict, Reason::UnknownKey, subject.clone().with_key(full), message).fix(fix)
}

/// One value as texts, each with its full key, or why it is none.
fn texts(key: &Key, value: &Value) -> Vec<(String, Result<String, String>)> {
    let full = key.full_name();
    if let (Kind::List, Value::Array(items)) = (key.kind, value) {
        let text = |item: &Value| match item {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            other => Err(format!("it is {}, not a text", describe(other))),
        };
        return items.iter().enumerate().map(|(i, item)| (format!("{full}[{i}]"), text(item))).collect();
    }
    let text = match (key.kind, value) {
        (_, Value::Null) => Ok(String::new()),
        (Kind::Bool, Value::String(text)) if text.trim().is_empty() => {
            Err("an empty text is neither `true` nor `false`".to_owned())
        }
        (_, Value::String(text)) => Ok(text.clone()),
        (Kind::Bool, Value::Bool(flag)) => Ok(flag.to_string()),
        (Kind::Bool | Kind::Number, Value::Number(number)) => Ok(number.to_string()),
        (kind, other) => Err(format!("it is {}, not a {}", describe(other), kind.describe())),
    };
    vec![(full, text)]
}

const fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

const fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true",
        Kind::Number => "8080",
        Kind::Text => "\"text\"",
        Kind::List => "[\"text\"]",
    }
}
