//! `interlock observe`: the facts that everything is computed from.

use super::OK;
use super::args::ObserveArgs;
use super::failure::Failure;
use super::output::Output;
use super::world;
use crate::settings::Environment;

/// Prints the facts, as `--from` takes them.
pub(super) fn run(args: &ObserveArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let snapshot = world::live(&args.common, None, environment, output)?;
    output.document(args.output, &snapshot.observed)?;
    Ok(OK)
}
