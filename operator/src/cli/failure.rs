//! What a command could not do: an error with its causes, each once, and what to do about it.

use std::error::Error;
use std::process::ExitCode;

use super::output::Output;
use crate::serve::ServeError;
use crate::settings::SettingsError;

/// The command line is wrong, or the command could not be carried out.
const CODE: u8 = 2;

/// Why a command could not be carried out.
#[derive(Debug)]
pub(super) struct Failure {
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

impl Failure {
    /// `error` with its causes.
    pub(super) fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), hint: None }
    }

    /// What to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints it on standard error.
    pub(super) fn report(&self, output: &mut Output) -> ExitCode {
        if self.broken_pipe() {
            return ExitCode::SUCCESS;
        }
        let mut told = self.error.to_string();
        output.error(&told);
        let mut cause = self.error.source();
        while let Some(error) = cause {
            // An error that repeats its source in its own words would be read twice.
            let text = error.to_string();
            if !told.contains(&text) {
                output.cause(&text);
            }
            told = text;
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            output.hint(hint);
        }
        ExitCode::from(CODE)
    }

    /// Whoever read our output has had enough: no failure.
    fn broken_pipe(&self) -> bool {
        let io = self.error.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        let hint = error.hint();
        Self { error: error.into(), hint }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let hint = error.hint();
        Self::new(error).hint(hint)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}
