//! `interlock agent`, and the outer process of `interlock run --embedded`, which is an agent too.

use std::process::Command;

use interlock_crds::{LogSpec, ProxyKind};

use super::OK;
use super::args::AgentArgs;
use super::failure::Failure;
use crate::agent::{self, Options};
use crate::logging;
use crate::settings::{Environment, Settings};

/// Drives the proxy beside this process until the operator hangs up (`--stdio`) or SIGTERM (`--socket`).
pub(super) fn run(args: AgentArgs, environment: &Environment) -> Result<u8, Failure> {
    let log = LogSpec { format: args.log_format.into(), level: args.log_level.clone() };
    logging::start(&log, !environment.no_color);
    let kind = args.proxy.map(ProxyKind::from);
    let mut options = Options::new(kind);
    options.config = args.config_path;
    options.first_ports = args.http_ports;
    options.mounted_config = args.mounted_config;
    if let Some(state) = args.state_dir {
        options.state = state;
    }
    if let Some(run) = args.run_dir {
        options.secrets = run.join("secrets");
        options.run = run;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = match args.socket {
        None => runtime.block_on(agent::run_stdio(options)),
        Some(socket) => {
            let argv = argv(&mut options, args.argv)?;
            runtime.block_on(agent::run_listener(options, &socket, argv))
        }
    };
    // A read of standard input that is still waiting must not hold the process.
    runtime.shutdown_background();
    done.map(|()| OK).map_err(Failure::new)
}

/// The proxy's command line: the given one, else the usual one with a main file of the agent's own, so that
/// no file of a distribution is overwritten.
fn argv(options: &mut Options, given: Vec<String>) -> Result<Vec<String>, Failure> {
    if !given.is_empty() {
        return Ok(given);
    }
    let Some(kind) = options.proxy else {
        return Err(Failure::new("nothing says which proxy to run")
            .hint("add `--proxy haproxy` or `--proxy nginx`, or the proxy's own command line behind `--`"));
    };
    // A file of the agent's own may lie on a volume: the state folder usually does.
    options.mounted_config |= options.config.is_none();
    let file = options.config.get_or_insert_with(|| options.state.join(agent::main_file(kind)));
    Ok(agent::supervised_argv(kind, file))
}

/// Owns the embedded proxy, with the operator as its restartable child, until SIGTERM.
pub(super) fn embed(settings: &Settings, kind: ProxyKind) -> Result<u8, Failure> {
    let mut options = Options::new(Some(kind));
    options.state = settings.state.join("agent");
    if let Some(folder) = settings.api.parent() {
        folder.clone_into(&mut options.run);
        options.secrets = folder.join("secrets");
    }
    let cluster = settings.config.embedded.as_ref().and_then(|name| settings.config.clusters.get(name));
    if let Some(spec) = cluster {
        options.first_ports = vec![spec.listeners.http];
    }
    let argv = argv(&mut options, Vec::new())?;
    let program = std::env::current_exe()?;
    let operator = || {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).arg("--operator-child");
        command
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(agent::run_embedded(options, argv, operator)).map_err(Failure::new)?;
    Ok(OK)
}
