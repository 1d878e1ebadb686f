//! Logs: text for people or JSON for machines, on standard error, so that output stays pipeable.

use std::io::{self, IsTerminal};

use interlock_crds::{LogFormat, LogSpec};
use tracing_subscriber::EnvFilter;

/// Turns logs on for this process. A second call changes nothing.
///
/// `colour` is what the environment allows; text goes without when nobody watches.
pub fn start(spec: &LogSpec, colour: bool) {
    // The settings have checked the filter already.
    let filter = EnvFilter::try_new(&spec.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    let started = match spec.format {
        LogFormat::Text => builder.with_ansi(colour && io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logs were on already");
    }
}
