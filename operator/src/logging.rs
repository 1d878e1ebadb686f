//! Logs: text for people or JSON for machines, on standard error, so that output stays pipeable.

use std::io::{self, IsTerminal};

use interlock_crds::{LogFormat, LogSpec};
use tracing_subscriber::EnvFilter;

/// Turns logs on for this process. A second call changes nothing.
///
/// `colour` is what the environment allows; text goes without when nobody watches.
pub fn start(spec: &LogSpec, colour: bool) {
    // The settings have checked the filter already.
    let filter = EnvFilter::try_new(filter(&spec.level)).unwrap_or_else(|_| EnvFilter::new("info"));
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

/// A bare level below `info` is meant for Interlock's own lines: those of libraries would drown them. A filter is taken
/// as it is.
fn filter(level: &str) -> String {
    match level.trim().to_ascii_lowercase().as_str() {
        level @ ("debug" | "trace") => format!("info,interlock={level}"),
        _ => level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_bare_level_is_for_our_own_lines() {
        assert_eq!(filter("debug"), "info,interlock=debug");
        assert_eq!(filter("TRACE"), "info,interlock=trace");
        for whole in ["info", "warn", "debug,hyper=trace", "trace,interlock=trace"] {
            assert_eq!(filter(whole), whole);
        }
    }
}
