//! `interlock config view`, `interlock version` and `interlock completion`.

use clap::CommandFactory as _;
use serde::Serialize;

use super::OK;
use super::args::{Arguments, CompletionArgs, VersionArgs, ViewArgs};
use super::failure::Failure;
use super::output::Output;
use crate::settings::{Environment, Settings};

/// Prints the effective configuration with every default.
pub(super) fn view(args: &ViewArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let settings = Settings::load(&args.common.flags(), environment)?;
    output.document(args.output, &settings.configuration)?;
    Ok(OK)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    protocol: u16,
}

/// Prints the version, and that of the protocol between operator and agent.
pub(super) fn version(args: &VersionArgs, output: &mut Output) -> Result<u8, Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), protocol: interlock_core::protocol::VERSION };
    match args.shape.output.machine() {
        Some(form) => output.document(form, &version)?,
        None => output.line(format!("interlock {}", version.version))?,
    }
    Ok(OK)
}

/// Prints what a shell needs to complete commands.
pub(super) fn completion(args: &CompletionArgs, output: &mut Output) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "interlock", &mut script);
    output.raw(&String::from_utf8_lossy(&script))?;
    Ok(OK)
}
