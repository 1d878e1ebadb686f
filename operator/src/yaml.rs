//! YAML in and out: the only caller of `serde_yaml`, so that one file changes when it is replaced.

use serde::Serialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
};
use serde_path_to_error::Segment;

/// Where in a text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Why a text is not what was expected of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// The field, as `docker.tls.ca` or `clusters[0].spec`; empty for the whole document.
    pub field: String,
    /// Where; none where the text ended too early.
    pub position: Option<Position>,
    /// What is wrong, without field and position.
    pub message: String,
    /// What to write instead, where that can be told.
    pub fix: Option<String>,
}

/// Parses one document. An empty text is an empty mapping.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let text = if blank { "{}" } else { text };
    serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let path: Vec<Step> = error.path().iter().filter_map(Step::of).collect();
        let field = field_of(&path);
        let inner = error.into_inner();
        let message = bare_message(&inner, &path);
        // The parser knows where an unknown key stands, but only the mapping around a bad value.
        let own = inner.location().map(Position::from);
        let walked = locate_steps(text, &path);
        let position = if message.starts_with("unknown field") { own } else { walked.or(own) };
        let (message, fix) = plain_words(message);
        YamlError { field, position, message, fix }
    })
}

/// A document of any shape, with `<<` done as compose does it.
pub fn value(text: &str) -> Result<serde_json::Value, YamlError> {
    let error = |error: &serde_yaml::Error| {
        let position = error.location().map(Position::from);
        YamlError { field: String::new(), position, message: bare_message(error, &[]), fix: None }
    };
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| error(&e))?;
    value.apply_merge().map_err(|e| error(&e))?;
    serde_json::to_value(value).map_err(|error| YamlError {
        field: String::new(),
        position: None,
        message: error.to_string(),
        fix: None,
    })
}

/// The value as YAML.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, YamlError> {
    serde_yaml::to_string(value).map_err(|error| YamlError {
        field: String::new(),
        position: None,
        message: error.to_string(),
        fix: None,
    })
}

/// Where the value of `field` (as in [`YamlError::field`]) stands in `text`, if it does.
pub fn locate(text: &str, field: &str) -> Option<Position> {
    let steps: Vec<Step> = field
        .split('.')
        .flat_map(|part| {
            let (key, indices) = part.split_once('[').map_or((part, ""), |(key, rest)| (key, rest));
            let indices = indices.split('[').filter_map(|i| i.trim_end_matches(']').parse().ok());
            std::iter::once(Step::Key(key.to_owned())).chain(indices.map(Step::Index))
        })
        .collect();
    locate_steps(text, &steps)
}

impl From<serde_yaml::Location> for Position {
    fn from(location: serde_yaml::Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn of(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Map { key } => Some(Self::Key(key.clone())),
            Segment::Enum { variant } => Some(Self::Key(variant.clone())),
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Unknown => None,
        }
    }
}

fn field_of(path: &[Step]) -> String {
    let mut field = String::new();
    for step in path {
        match step {
            Step::Index(index) => field.extend(["[", &index.to_string(), "]"]),
            Step::Key(key) => {
                if !field.is_empty() {
                    field.push('.');
                }
                field.push_str(key);
            }
        }
    }
    field
}

/// `serde_yaml` puts a path in front and a position behind; both are told apart here.
fn bare_message(error: &serde_yaml::Error, path: &[Step]) -> String {
    let mut message = error.to_string();
    if let Some(cut) = message.rfind(" at line ") {
        message.truncate(cut);
    }
    for length in (1..=path.len()).rev() {
        if let Some(rest) = message.strip_prefix(&format!("{}: ", field_of(&path[..length]))) {
            return rest.to_owned();
        }
    }
    message
}

/// serde's words with the names of Rust's types taken out, and what to write instead.
fn plain_words(message: String) -> (String, Option<String>) {
    let Some((found, expected)) = message.split_once(", expected ") else {
        let missing = message.strip_prefix("missing field ").map(|name| format!("add {name} here"));
        return (message, missing);
    };
    let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    if let Some(wrong) = found.strip_prefix("unknown field ").or(found.strip_prefix("unknown variant ")) {
        let what =
            if found.starts_with("unknown field") { "there is no such field" } else { "is not known here" };
        let message = if what.starts_with("is") { format!("{wrong} {what}") } else { what.to_owned() };
        return (message, nearest(wrong.trim_matches('`'), &names));
    }
    let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
    let wanted = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i64" => "a whole number",
        "a boolean" => "`true` or `false`",
        "a string" => "a text",
        "a sequence" => "a list",
        other if other.starts_with("struct ") || other == "a map" => "a mapping (`key: value`)",
        other => other,
    };
    (
        format!("{found} where {wanted} is wanted")
            .replace("sequence", "a list")
            .replace("unit value", "nothing"),
        None,
    )
}

/// The name that was probably meant, else all of them.
fn nearest(wrong: &str, names: &[&str]) -> Option<String> {
    let near = names
        .iter()
        .map(|name| (strsim::jaro_winkler(&name.to_lowercase(), &wrong.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, name)) => Some(format!("did you mean `{name}`?")),
        None if names.is_empty() => None,
        None => Some(format!("write one of `{}`", names.join("`, `"))),
    }
}

/// Walks to the value and fails there on purpose: the parser then says where "there" is.
fn locate_steps(text: &str, steps: &[Step]) -> Option<Position> {
    let walk = Walk { steps };
    let error = walk.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    error.to_string().contains(FOUND).then(|| error.location().map(Position::from)).flatten()
}

const FOUND: &str = "here it is";

struct Walk<'a> {
    steps: &'a [Step],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Scalars are the end of any walk.
macro_rules! scalars {
    ($($visit:ident: $type:ty),+) => {
        $(fn $visit<E: serde::de::Error>(self, _: $type) -> Result<(), E> { self.arrive() })+
    };
}

impl Walk<'_> {
    fn arrive<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.steps.is_empty() { Err(E::custom(FOUND)) } else { Ok(()) }
    }
}

impl<'de> serde::de::Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.arrive()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.steps.split_first() else {
            return Err(A::Error::custom(FOUND));
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Walk { steps: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.steps.split_first() else {
            return Err(A::Error::custom(FOUND));
        };
        for _ in 0..*wanted {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        seq.next_element_seed(Walk { steps: rest }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interlock_crds::Configuration;

    fn fails(text: &str) -> YamlError {
        from_str::<Configuration>(text).expect_err(text)
    }

    #[test]
    fn an_empty_text_is_an_empty_mapping() {
        assert_eq!(from_str::<Configuration>("# nothing\n"), Ok(Configuration::default()));
    }

    #[test]
    fn a_bad_value_is_named_with_its_own_position() {
        let error = fails("listen:\n  metrics: 127.0.0.1:1\npace:\n  resync: 5s\n  ceiling: 5\n");
        assert_eq!(error.field, "pace.ceiling");
        assert_eq!(error.position, Some(Position { line: 5, column: 12 }));
        assert!(error.message.starts_with("`5` is not a span of time"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named_where_the_key_stands() {
        let error = fails("clusters:\n- name: a\n  spec:\n    proxy: haproxy\n    listner: 1\n");
        assert_eq!(error.field, "clusters[0].spec.listner");
        assert_eq!(error.position, Some(Position { line: 5, column: 5 }));
        assert_eq!(error.fix.as_deref(), Some("did you mean `listeners`?"));
    }

    #[test]
    fn a_broken_text_has_a_position() {
        let error = fails("docker:\n  host: [\n");
        assert_eq!(error.position.map(|p| p.line), Some(2));
    }

    #[test]
    fn positions_are_found_by_field() {
        let text = "a:\n- b: 1\n  c: {d: 2}\n";
        assert_eq!(locate(text, "a[0].c.d"), Some(Position { line: 3, column: 10 }));
        assert_eq!(locate(text, "a[1].c"), None);
    }
}
