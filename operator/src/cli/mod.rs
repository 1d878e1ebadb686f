//! The command line: arguments in, one exit code out.

mod agent;
mod args;
mod config;
mod engine;
mod failure;
mod lint;
mod observe;
mod output;
mod render;
mod run;
mod why;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::settings::Environment;
use args::{Arguments, Command, ConfigCommand};
use failure::Failure;
use output::Output;

/// Everything is as it should be.
const OK: u8 = 0;
/// The command worked and found something (`lint`, `why`).
const FOUND: u8 = 1;

/// Parses the command line and runs it: 0 done, 1 something was found, 2 it could not be done.
pub fn main() -> ExitCode {
    let environment = Environment::read();
    let arguments = Arguments::parse();
    let mut output = Output::standard(&environment);
    match dispatch(arguments.command, &environment, &mut output) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(&mut output),
    }
}

fn dispatch(command: Command, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    match command {
        Command::Run(run) => run::run(&run, environment),
        Command::Render(render) => render::run(&render, environment, output),
        Command::Lint(lint) => lint::run(&lint, environment, output),
        Command::Observe(observe) => observe::run(&observe, environment, output),
        Command::Config(ConfigCommand::View(view)) => config::view(&view, environment, output),
        Command::Why(why) => why::run(&why, environment, output),
        Command::Agent(agent) => agent::run(agent, environment),
        Command::Version(version) => config::version(&version, output),
    }
}
