//! What can be wrong with settings: the place, the value and the fix.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::yaml::{Position, YamlError};

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("the configuration file `{}` cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A text or a value is not usable.
    #[error(transparent)]
    Invalid(Box<Invalid>),
}

/// One unusable value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Who says it: a file's path, `INTERLOCK_CONFIG`, a flag, `DOCKER_HOST`.
    pub origin: String,
    /// Where in it.
    pub position: Option<Position>,
    /// The line of that position, for people.
    pub line: Option<String>,
    /// The field, as `docker.tls.ca`; empty for the whole document.
    pub field: String,
    /// What is wrong, the value included.
    pub message: String,
    /// What to write instead.
    pub fix: Option<String>,
}

impl Invalid {
    /// What is wrong with `text`, which `origin` gave.
    pub fn of(origin: String, text: &str, error: YamlError) -> Self {
        let YamlError { field, position, message, fix } = error;
        let line = position.and_then(|at| line_of(text, at.line));
        Self { origin, position, line, field, message, fix }
    }
}

impl Invalid {
    /// Place, field and what is wrong, on one line.
    pub fn brief(&self) -> String {
        let at =
            self.position.map(|Position { line, column }| format!(":{line}:{column}")).unwrap_or_default();
        let field = if self.field.is_empty() { String::new() } else { format!(": `{}`", self.field) };
        format!("{}{at}{field}: {}", self.origin, self.message)
    }
}

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.brief())?;
        if let (Some(at), Some(text)) = (self.position, &self.line) {
            let number = at.line.to_string();
            let margin = " ".repeat(number.len());
            let indent = " ".repeat(at.column.saturating_sub(1));
            write!(f, "\n {margin} |\n {number} | {text}\n {margin} | {indent}^")?;
        }
        Ok(())
    }
}

impl From<Invalid> for SettingsError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(Box::new(invalid))
    }
}

impl SettingsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, path } if source.kind() == io::ErrorKind::NotFound => Some(format!(
                "leave `--config` out to run without a file, or create `{}`; \
                 `interlock config view` prints one with every default",
                path.display()
            )),
            Self::Unreadable { .. } => None,
            Self::Invalid(invalid) => invalid.fix.clone(),
        }
    }
}

/// The line, shortened: a whole file on one line helps nobody.
pub(super) fn line_of(text: &str, number: usize) -> Option<String> {
    let line = text.lines().nth(number.checked_sub(1)?)?;
    Some(line.chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect())
}
