//! Where settings come from, in order, and who said what.

use std::fs;

use interlock_crds::{Configuration, LogFormat};
use serde_json::{Map, Value, json};

use super::error::line_of;
use super::{Environment, Flags, Invalid, SettingsError};
use crate::yaml;

/// The texts and flags that speak, weakest first.
pub(super) struct Layers {
    texts: Vec<Text>,
    flags: Vec<Flag>,
}

/// One YAML text.
struct Text {
    origin: String,
    content: String,
    /// Only what the text itself says, in the API types' own spelling.
    said: Value,
}

/// One flag and the field that it sets.
struct Flag {
    name: &'static str,
    field: &'static str,
    value: Value,
}

impl Layers {
    /// Reads the file and `INTERLOCK_CONFIG` and judges each by itself, so that a position is one of a
    /// text that somebody wrote.
    pub(super) fn read(flags: &Flags, environment: &Environment) -> Result<Self, SettingsError> {
        let mut texts = Vec::new();
        if let Some(path) = &flags.config {
            let text = fs::read_to_string(path)
                .map_err(|source| SettingsError::Unreadable { path: path.clone(), source })?;
            texts.push(Text::parse(path.display().to_string(), text)?);
        }
        if let Some(text) = &environment.config {
            texts.push(Text::parse("INTERLOCK_CONFIG".to_owned(), text.clone())?);
        }
        Ok(Self { texts, flags: flag_values(flags) })
    }

    /// Everything that was said, over the defaults.
    pub(super) fn join(&self) -> Result<Configuration, SettingsError> {
        let mut joined = json!({});
        for text in &self.texts {
            overlay(&mut joined, text.said.clone());
        }
        for flag in &self.flags {
            overlay(&mut joined, nested(flag.field, flag.value.clone()));
        }
        serde_json::from_value(joined).map_err(|error| {
            let field = String::new();
            self.invalid(&field, error.to_string(), None).into()
        })
    }

    /// An error about `field`, with the strongest origin that set it and its position there.
    pub(super) fn invalid(&self, field: &str, message: String, fix: Option<String>) -> Invalid {
        if let Some(flag) = self.flags.iter().find(|flag| flag.field == field) {
            let (origin, field) = (flag.name.to_owned(), String::new());
            return Invalid { origin, position: None, line: None, field, message, fix };
        }
        let found =
            self.texts.iter().rev().find_map(|text| Some((text, yaml::locate(&text.content, field)?)));
        let origin = found.map_or_else(|| "configuration".to_owned(), |(text, _)| text.origin.clone());
        let position = found.map(|(_, position)| position);
        let line = found.and_then(|(text, at)| line_of(&text.content, at.line));
        Invalid { origin, position, line, field: field.to_owned(), message, fix }
    }
}

impl Text {
    fn parse(origin: String, text: String) -> Result<Self, SettingsError> {
        let parsed = yaml::from_str::<Configuration>(&text)
            .and_then(|typed| Ok((typed, yaml::from_str::<Value>(&text)?)));
        match parsed {
            Ok((typed, raw)) => {
                let typed = serde_json::to_value(typed).unwrap_or_default();
                Ok(Self { origin, content: text, said: masked(typed, &raw) })
            }
            Err(error) => Err(Invalid::of(origin, &text, error).into()),
        }
    }
}

/// Of `typed`, which has every default, only what `raw` mentions.
fn masked(typed: Value, raw: &Value) -> Value {
    match (typed, raw) {
        (Value::Object(mut typed), Value::Object(raw)) => Value::Object(
            raw.iter()
                .filter_map(|(key, raw)| Some((key.clone(), masked(typed.remove(key)?, raw))))
                .collect::<Map<_, _>>(),
        ),
        (typed, _) => typed,
    }
}

/// Lays `over` on `base`: mappings field by field, anything else replaces.
fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn nested(field: &str, value: Value) -> Value {
    field.rsplit('.').fold(value, |inner, key| json!({ key: inner }))
}

fn flag_values(flags: &Flags) -> Vec<Flag> {
    let text = |name, field, value: &Option<String>| {
        value.clone().map(|value| Flag { name, field, value: Value::String(value) })
    };
    let format = flags.log_format.map(|format| match format {
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    });
    let read_only = Flag { name: "--read-only-docker", field: "docker.readOnly", value: Value::Bool(true) };
    [
        text("--docker-host", "docker.host", &flags.docker_host),
        text("--label-selector", "docker.labelSelector", &flags.label_selector),
        flags.read_only_docker.then_some(read_only),
        text("--log-format", "log.format", &format),
        text("--log-level", "log.level", &flags.log_level),
        text("--metrics", "listen.metrics", &flags.metrics),
        text("--api", "listen.api", &flags.api),
        text("--agents", "listen.agents", &flags.agents),
        text("--state-dir", "stateDirectory", &flags.state_dir),
    ]
    .into_iter()
    .flatten()
    .collect()
}
