//! `interlock config view` and `interlock version`.

use serde::Serialize;

use super::OK;
use super::args::{VersionArgs, ViewArgs};
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
