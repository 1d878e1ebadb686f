//! The command line: arguments in, one exit code out.

mod agent;
mod api;
mod apply;
mod args;
mod backup;
mod config;
mod contexts;
mod delete;
mod describe;
mod dial;
mod diff;
mod engine;
mod events;
mod explain;
mod failure;
mod files;
mod get;
mod lint;
mod observe;
mod output;
mod probe;
mod render;
mod report;
mod rollout;
mod run;
mod wait;
mod why;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::settings::Environment;
use args::{Arguments, Command, ConfigCommand};
use failure::Failure;
use output::Output;

/// It could not be done, and what is wrong was told.
const FAILED: u8 = 2;
/// Everything is as it should be.
const OK: u8 = 0;
/// The command worked and found something (`lint`, `why`, `probe`, `diff`), or waited in vain (`wait`).
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
        Command::Apply(apply) => apply::run(&apply, environment, output),
        Command::Diff(diff) => diff::run(&diff, environment, output),
        Command::Get(get) => get::run(&get, environment, output),
        Command::Describe(describe) => describe::run(&describe, environment, output),
        Command::Delete(delete) => delete::run(&delete, environment, output),
        Command::Rollout(rollout) => rollout::run(&rollout, environment, output),
        Command::Wait(wait) => wait::run(&wait, environment, output),
        Command::Backup(backup) => backup::save(&backup, environment, output),
        Command::Restore(restore) => backup::restore(&restore, environment, output),
        Command::Events(events) => events::run(&events, environment, output),
        Command::Explain(explain) => explain::run(&explain, output),
        Command::Completion(completion) => config::completion(&completion, output),
        Command::Observe(observe) => observe::run(&observe, environment, output),
        Command::DialStdio(api) => dial::run(&api, environment),
        Command::Config(ConfigCommand::Contexts(contexts)) => contexts::run(&contexts, environment, output),
        Command::Config(ConfigCommand::View(view)) => config::view(&view, environment, output),
        Command::Why(why) => why::run(&why, environment, output),
        Command::Probe(probe) => probe::run(&probe, output),
        Command::Agent(agent) => agent::run(agent, environment),
        Command::Version(version) => config::version(&version, output),
    }
}
