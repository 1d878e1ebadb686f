//! The arguments, as clap reads them, and the settings' flags that they become.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use interlock_core::model::TargetId;
use interlock_crds::{LogFormat, Period, ProxyKind};

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
    /// List what is wrong with what is asked for, by containers or in files; exit 1 if a route is refused.
    Lint(LintArgs),
    /// Make documents so: all of them, or none if one is wrong.
    Apply(ApplyArgs),
    /// Say what applying documents would change, in them and in each proxy's files; exit 1 if anything.
    Diff(DiffArgs),
    /// List objects, proxies, endpoints or findings.
    Get(GetArgs),
    /// Tell everything of one object: what it asks for, what is true of it and why.
    Describe(DescribeArgs),
    /// Take objects away.
    Delete(DeleteArgs),
    /// What an object has said so far, and back to it.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Wait until something is true of an object; exit 1 if it is not in time.
    Wait(WaitArgs),
    /// Tell what happened in the last hours.
    Events(EventsArgs),
    /// Carry bytes between standard input and output and the operator, for `ssh://` contexts.
    #[command(name = "dial-stdio", hide = true)]
    DialStdio(ApiArgs),
    /// Write everything that is stored into a file.
    Backup(BackupArgs),
    /// Put the documents of a backup into the store, in place of everything.
    Restore(RestoreArgs),
    /// Say what a field of a document means, and which proxies do it.
    Explain(ExplainArgs),
    /// Print what would be applied: the files of each proxy.
    Render(RenderArgs),
    /// Print the facts that everything is computed from, for `--from`.
    Observe(ObserveArgs),
    /// Show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Send steady traffic while you deploy and report what that costs; exit 1 on loss.
    Probe(Box<ProbeArgs>),
    /// Drive the proxy beside this process for an operator elsewhere.
    Agent(AgentArgs),
    /// Print what a shell needs to complete commands.
    Completion(CompletionArgs),
    /// Print the version.
    Version(VersionArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the effective configuration, with every default.
    View(ViewArgs),
    #[command(flatten)]
    Contexts(ContextCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum ContextCommand {
    /// List the operators that have a name.
    #[command(name = "get-contexts")]
    Get(ContextsArgs),
    /// Print which of them is asked.
    #[command(name = "current-context")]
    Current,
    /// Ask this one from now on.
    #[command(name = "use-context")]
    Use {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Give an operator a name.
    #[command(name = "set-context")]
    Set(SetContextArgs),
}

#[derive(Debug, Args)]
pub(super) struct ContextsArgs {
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

#[derive(Debug, Args)]
pub(super) struct SetContextArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// Where it is: `unix:///run/interlock/api.sock` or `ssh://user@host`.
    #[arg(long, value_name = "URL")]
    pub(super) api: String,
    /// What runs `interlock` on that host, as `docker exec -i interlock interlock`.
    #[arg(value_name = "COMMAND", last = true)]
    pub(super) command: Vec<String>,
}

/// What flags say of how the operator is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach<'a> {
    pub(super) config: Option<&'a std::path::Path>,
    pub(super) api: Option<&'a str>,
    pub(super) context: Option<&'a str>,
}

impl ApiArgs {
    pub(super) fn reach(&self) -> Reach<'_> {
        Reach { config: self.config.as_deref(), api: self.api.as_deref(), context: self.context.as_deref() }
    }
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
    /// The operator of this context, in place of the current one.
    #[arg(long, value_name = "NAME", conflicts_with = "api")]
    pub(super) context: Option<String>,
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
pub(super) struct ProbeArgs {
    /// What to ask for (a whole URL will do).
    #[arg(value_name = "HOST[/PATH]")]
    pub(super) subject: String,
    /// The proxy; without it 127.0.0.1, at the URL's port or the usual one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) to: Option<String>,
    /// Requests a second, whatever becomes of them.
    #[arg(short, long, value_name = "NUMBER", default_value = "100")]
    pub(super) rate: f64,
    /// As many clients, each with its next request after its last answer, instead of a rate.
    #[arg(long, value_name = "NUMBER", conflicts_with = "rate")]
    pub(super) clients: Option<usize>,
    /// The most connections at once.
    #[arg(short, long, value_name = "NUMBER", default_value = "1000")]
    pub(super) connections: usize,
    /// How long, `30s` for example; without it until Ctrl-C.
    #[arg(short, long, value_name = "TIME")]
    pub(super) duration: Option<Period>,
    /// What is sent; of both, half each.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    pub(super) methods: Vec<ProbeMethod>,
    /// What a POST asks for; `{id}` in it becomes the request's id. Half of the requests are POST then.
    #[arg(long, value_name = "PATH")]
    pub(super) post: Option<String>,
    /// Whether connections are kept between requests.
    #[arg(long, value_name = "WHICH", default_value = "both")]
    pub(super) keep_alive: KeepAlive,
    /// An answer that takes longer is reported as slow.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(super) slow: Period,
    /// An answer that takes longer is lost.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(super) timeout: Period,
    /// Status codes that count as good.
    #[arg(long, value_name = "FROM-TO", default_value = "200-399", value_parser = codes)]
    pub(super) good: RangeInclusive<u16>,
    /// A text that answers have; of several, one. Any other answer is misrouted.
    #[arg(long, value_name = "TEXT")]
    pub(super) expect: Vec<String>,
    /// A name that answers have in `X-Served-By`; of several, one. Any other answer is misrouted.
    #[arg(long, value_name = "NAME")]
    pub(super) served_by: Vec<String>,
    /// A log of the apps with a line `executed ID` for each POST, to be compared at the end.
    #[arg(long, value_name = "FILE")]
    pub(super) executed: Option<PathBuf>,
    /// Speak TLS, as with an https URL.
    #[arg(long)]
    pub(super) tls: bool,
    /// Take any certificate.
    #[arg(long)]
    pub(super) insecure: bool,
    /// The authorities to trust, as PEM; without it the system's.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// The most losses that are listed; the others are counted.
    #[arg(long, value_name = "NUMBER", default_value = "100")]
    pub(super) list: usize,
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProbeMethod {
    /// GET.
    Get,
    /// POST, each with an id of its own.
    Post,
}

/// Whether connections are kept between requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KeepAlive {
    /// Kept.
    On,
    /// A connection of its own for each request.
    Off,
    /// Half of the requests each.
    Both,
}

/// `200-399`, or one code.
fn codes(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if (100..600).contains(&from) && (from..600).contains(&to) => Ok(from..=to),
        _ => Err("status codes are written 200-399, or 204".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct LintArgs {
    /// Judge documents and compose files in place of what runs; no engine is asked. A folder is all of its
    /// files, `-` standard input.
    #[arg(short, long = "file", value_name = "FILE|FOLDER", conflicts_with = "from")]
    pub(super) files: Vec<PathBuf>,
    /// Judge the files beside what runs: what would newly be wrong if they were applied.
    #[arg(long, requires = "files")]
    pub(super) live: bool,
    #[command(flatten)]
    pub(super) facts: FactsArgs,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: LintShape,
}

/// Flags that say how the operator is reached.
#[derive(Debug, Clone, Args)]
pub(super) struct ApiArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The unix socket of the operator's API.
    #[arg(long, value_name = "PATH")]
    pub(super) api: Option<String>,
    /// The operator of this context, in place of the current one.
    #[arg(long, value_name = "NAME", conflicts_with = "api")]
    pub(super) context: Option<String>,
}

/// Documents and whose they are.
#[derive(Debug, Clone, Args)]
pub(super) struct FilesArgs {
    /// A file of documents, a folder of them, or `-` for standard input.
    #[arg(short, long = "file", value_name = "FILE|FOLDER", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// The namespace of documents that name none.
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Whose the documents become; nobody else may write them then.
    #[arg(long, value_name = "NAME")]
    pub(super) owner: Option<String>,
    /// Take the owner's other objects away; never all of them.
    #[arg(long, requires = "owner")]
    pub(super) prune: bool,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    pub(super) files: FilesArgs,
    /// Only say what would happen.
    #[arg(long, value_name = "WHERE")]
    pub(super) dry_run: Option<DryRun>,
    /// Wait until every proxy provably serves them.
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(super) timeout: Period,
}

/// Who says what would happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DryRun {
    /// The operator.
    Server,
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    pub(super) files: FilesArgs,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// `routes`, `serviceclusters`, `engines`, `targets`, `endpoints` or `findings`.
    #[arg(value_name = "KIND")]
    pub(super) kind: String,
    /// One of them.
    #[arg(value_name = "NAME")]
    pub(super) name: Option<String>,
    /// The namespace; without it `default`.
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Those of every namespace.
    #[arg(short = 'A', long)]
    pub(super) all_namespaces: bool,
    /// Only those with these labels: `a=b,c!=d,e,!f`.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub(super) selector: String,
    /// Go on telling what happens to them.
    #[arg(short, long)]
    pub(super) watch: bool,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: GetShape,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum GetShape {
    /// For people.
    Table,
    /// With more columns.
    Wide,
    /// YAML documents.
    Yaml,
    /// JSON.
    Json,
    /// `kind/name` alone.
    Name,
}

#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// `route`, `servicecluster` or `engine`; `KIND/NAME` will do.
    #[arg(value_name = "KIND")]
    pub(super) kind: String,
    /// Which one.
    #[arg(value_name = "NAME")]
    pub(super) name: Option<String>,
    /// The namespace; without it `default`.
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// `route`, or `route/NAME`.
    #[arg(value_name = "KIND", required_unless_present = "files", conflicts_with = "files")]
    pub(super) kind: Option<String>,
    /// Which ones.
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// The documents of these files.
    #[arg(short, long = "file", value_name = "FILE|FOLDER")]
    pub(super) files: Vec<PathBuf>,
    /// The namespace; without it `default`.
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// What is not there is no failure.
    #[arg(long)]
    pub(super) ignore_not_found: bool,
    /// Only say what would happen.
    #[arg(long, value_name = "WHERE")]
    pub(super) dry_run: Option<DryRun>,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// The generations that are remembered, and what proxies ran of each.
    History(HistoryArgs),
    /// Bring a generation back, and hold it until the object is applied or released.
    Undo(UndoArgs),
    /// End the holding of what was brought back.
    Release(ObjectArgs),
    /// Wait until every proxy provably runs the present generation; exit 1 if not in time.
    Status(RolloutStatusArgs),
}

/// One object, as `route/NAME`.
#[derive(Debug, Args)]
pub(super) struct ObjectArgs {
    /// Which object.
    #[arg(value_name = "KIND/NAME")]
    pub(super) object: String,
    /// The namespace; without it `default`.
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    pub(super) of: ObjectArgs,
    /// Only this one, with everything that it said.
    #[arg(long, value_name = "NUMBER")]
    pub(super) generation: Option<u64>,
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    #[command(flatten)]
    pub(super) of: ObjectArgs,
    /// Which one; without it the one before the present.
    #[arg(long, value_name = "NUMBER")]
    pub(super) to_generation: Option<u64>,
    /// Only say what would happen: `server`.
    #[arg(long, value_name = "WHERE")]
    pub(super) dry_run: Option<DryRun>,
}

#[derive(Debug, Args)]
pub(super) struct RolloutStatusArgs {
    #[command(flatten)]
    pub(super) of: ObjectArgs,
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(super) timeout: Period,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Which object.
    #[arg(value_name = "KIND/NAME")]
    pub(super) object: String,
    /// `condition=TYPE`, `condition=TYPE=STATUS`, or `delete`.
    #[arg(long = "for", value_name = "WHAT", default_value = "condition=Programmed")]
    pub(super) what: String,
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(super) timeout: Period,
    /// The namespace; without it `default`.
    #[arg(short, long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file; `-` is standard output.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The file; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "none")]
    pub(super) file: Option<PathBuf>,
    /// Accept that nothing is stored: what proxies serve of it may go.
    #[arg(long, conflicts_with = "file")]
    pub(super) none: bool,
    /// Take away what is stored already.
    #[arg(long)]
    pub(super) replace: bool,
    #[command(flatten)]
    pub(super) api: ApiArgs,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    pub(super) api: ApiArgs,
    #[command(flatten)]
    pub(super) shape: ShapeArgs,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LintShape {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Workflow commands, which GitHub shows beside a change.
    Github,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// A kind and a field of it, as `Route.spec.tls`; without it the kinds.
    #[arg(value_name = "KIND.FIELD")]
    pub(super) field: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(super) shell: clap_complete::Shell,
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
