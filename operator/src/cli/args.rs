//! The arguments, as clap reads them, and the settings' flags that they become.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use interlock_core::model::TargetId;
use interlock_crds::{LogFormat, ProxyKind};

use crate::settings::Flags;

/// Keeps load balancers in step with Docker.
#[derive(Debug, Parser)]
#[command(name = "interlock", version, disable_help_subcommand = true, after_help = ENVIRONMENT)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

const ENVIRONMENT: &str = "\
Environment:
  INTERLOCK_CONFIG   a configuration as YAML text; stronger than --config, weaker than flags
  DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH
                     the engine, where the configuration names none
  NO_COLOR           no colours";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Watch Docker and keep every proxy in step, until told to stop.
    Run(Box<RunArgs>),
    /// Say which container serves a URL, or exactly why none does and what to change.
    Why(WhyArgs),
    /// List what is wrong with what containers ask for; exit 1 if a route is refused.
    Lint(LintArgs),
    /// Print what would be applied: the files of each proxy.
    Render(RenderArgs),
    /// Print the facts that everything is computed from, for `--from`.
    Observe(ObserveArgs),
    /// Show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Drive the proxy beside this process for an operator elsewhere.
    Agent(AgentArgs),
    /// Print the version.
    Version(VersionArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the effective configuration, with every default.
    View(ViewArgs),
}

/// Flags that say how the engine and the operator are reached.
#[derive(Debug, Clone, Args)]
pub(super) struct Common {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The engine: `unix:///var/run/docker.sock`, `tcp://host:2375`.
    #[arg(long, value_name = "URL")]
    pub(super) docker_host: Option<String>,
    /// See only containers with this label.
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(super) label_selector: Option<String>,
    /// The unix socket of the operator's API.
    #[arg(long, value_name = "PATH")]
    pub(super) api: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Compute and compare with what runs, but deliver nothing.
    #[arg(long)]
    pub(super) observe: bool,
    /// Run a proxy of this kind as this operator's own.
    #[arg(long, value_name = "PROXY")]
    pub(super) embedded: Option<Proxy>,
    /// Refuse everything but reading from Docker.
    #[arg(long)]
    pub(super) read_only_docker: bool,
    /// The shape of log lines.
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<LogShape>,
    /// A level (`info`, `debug`) or a filter (`interlock=debug`).
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<String>,
    /// Where health and metrics listen.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) metrics: Option<String>,
    /// The folder of the agents' sockets.
    #[arg(long, value_name = "FOLDER")]
    pub(super) agents: Option<String>,
    /// The folder of what must survive a restart.
    #[arg(long, value_name = "FOLDER")]
    pub(super) state_dir: Option<String>,
    /// This is the restartable child of an embedded run: its agent is on standard input.
    #[arg(long, hide = true)]
    pub(super) operator_child: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("channel").required(true))]
pub(super) struct AgentArgs {
    /// Speak with the operator over standard input and output.
    #[arg(long, group = "channel")]
    pub(super) stdio: bool,
    /// Run the proxy and listen for operators on this unix socket; in a folder, on one by this host's name.
    #[arg(long, value_name = "PATH", group = "channel")]
    pub(super) socket: Option<PathBuf>,
    /// The proxy beside this agent; without it, whichever is found running.
    #[arg(long, value_name = "PROXY")]
    pub(super) proxy: Option<Proxy>,
    /// The proxy's configuration file, where it is not the one that it was started with.
    #[arg(long, value_name = "PATH")]
    pub(super) config_path: Option<PathBuf>,
    /// Let the configuration lie on a mounted volume.
    #[arg(long)]
    pub(super) mounted_config: bool,
    /// The agent's own folder; survives a restart of the proxy.
    #[arg(long, value_name = "FOLDER")]
    pub(super) state_dir: Option<PathBuf>,
    /// The folder of runtime sockets and keys, on a memory file system where there is one.
    #[arg(long, value_name = "FOLDER")]
    pub(super) run_dir: Option<PathBuf>,
    /// A port on which the proxy answers 503 until an operator has spoken.
    #[arg(long = "http-port", value_name = "PORT", default_value = "80")]
    pub(super) http_ports: Vec<u16>,
    /// The shape of log lines.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogShape,
    /// A level (`info`, `debug`) or a filter (`interlock=debug`).
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: String,
    /// The proxy's command line, where it is not the usual one; it stays in the foreground.
    #[arg(last = true, value_name = "ARGV")]
    pub(super) argv: Vec<String>,
}

/// Flags that say where the facts come from.
#[derive(Debug, Args)]
pub(super) struct FactsArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Facts from a file that `interlock observe` wrote (`-`: standard input), instead of live ones.
    #[arg(long, value_name = "FILE")]
    pub(super) from: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// A host with or without a path (a whole URL will do), or a container's name or id.
    #[arg(value_name = "HOST[/PATH]|CONTAINER")]
    pub(super) subject: String,
    #[command(flatten)]
    pub(super) facts: FactsArgs,
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

#[derive(Debug, Args)]
pub(super) struct LintArgs {
    #[command(flatten)]
    pub(super) facts: FactsArgs,
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// Only this proxy's files.
    #[arg(long, value_name = "NAME")]
    pub(super) target: Option<TargetId>,
    #[command(flatten)]
    pub(super) facts: FactsArgs,
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub(super) output: Machine,
}

#[derive(Debug, Args)]
pub(super) struct ViewArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub(super) output: Machine,
}

#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct ShapeArgs {
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Shape,
}

/// Tables for people, or a stable form for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shape {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// A stable form for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Machine {
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// A kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Proxy {
    /// HAProxy 2.6 or newer.
    Haproxy,
    /// nginx 1.22 or newer.
    Nginx,
}

impl From<Proxy> for ProxyKind {
    fn from(proxy: Proxy) -> Self {
        match proxy {
            Proxy::Haproxy => Self::Haproxy,
            Proxy::Nginx => Self::Nginx,
        }
    }
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogShape {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl From<LogShape> for LogFormat {
    fn from(shape: LogShape) -> Self {
        match shape {
            LogShape::Text => Self::Text,
            LogShape::Json => Self::Json,
        }
    }
}

impl Common {
    /// As the settings take them.
    pub(super) fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            docker_host: self.docker_host.clone(),
            label_selector: self.label_selector.clone(),
            api: self.api.clone(),
            ..Flags::default()
        }
    }
}

impl RunArgs {
    /// As the settings take them.
    pub(super) fn flags(&self) -> Flags {
        Flags {
            read_only_docker: self.read_only_docker,
            embedded: self.embedded.map(ProxyKind::from),
            observe: self.observe,
            log_format: self.log_format.map(LogFormat::from),
            log_level: self.log_level.clone(),
            metrics: self.metrics.clone(),
            agents: self.agents.clone(),
            state_dir: self.state_dir.clone(),
            ..self.common.flags()
        }
    }
}
