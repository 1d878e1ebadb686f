//! Where a command's facts come from: a file, the running operator, or one look at the engine.

use std::io::{self, Read};
use std::path::Path;

use hyper::Method;
use interlock_core::compile::{self, Compiled};
use interlock_core::model::Observed;

use super::api::Operator;
use super::args::{ApiArgs, Common, FactsArgs};
use super::contexts;
use super::failure::Failure;
use super::output::Output;
use crate::client::{Client, ClientError};
use crate::serve::Snapshot;
use crate::serve::api::SNAPSHOT_PATH;
use crate::settings::{Environment, Invalid, Settings};
use crate::yaml;

/// Facts and settings, and what follows from them.
pub(super) struct World {
    /// Facts, settings, and what only the operator knows.
    pub(super) snapshot: Snapshot,
    /// What follows; its findings are joined by those that the operator met besides.
    pub(super) compiled: Compiled,
}

impl World {
    /// Facts from `--from`, else from the operator, else from the engine; says which of them if it matters.
    pub(super) fn look(
        facts: &FactsArgs,
        environment: &Environment,
        output: &mut Output,
    ) -> Result<Self, Failure> {
        let snapshot = match &facts.from {
            Some(file) => {
                let settings = Settings::load(&facts.common.flags(), environment)?;
                snapshot_of(settings, from_file(file)?)
            }
            None => live(&facts.common, facts.context.clone(), environment, output)?,
        };
        Ok(Self::of(snapshot))
    }

    /// What follows from a snapshot.
    pub(super) fn of(snapshot: Snapshot) -> Self {
        let mut compiled = compile::compile(&snapshot.observed, &snapshot.config);
        compiled.findings.extend(snapshot.findings.iter().cloned());
        compiled.findings.sort();
        compiled.findings.dedup();
        Self { snapshot, compiled }
    }
}

fn snapshot_of(settings: Settings, observed: Observed) -> Snapshot {
    Snapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: settings.config,
        observed,
        targets: std::collections::BTreeMap::new(),
        findings: Vec::new(),
        observe: settings.observe,
    }
}

/// What the operator sees; there must be one.
pub(super) fn of_operator(operator: &Operator) -> Result<Snapshot, Failure> {
    operator.block(from_operator(operator.client())).map_err(|unanswered| match unanswered {
        Unanswered::Failed(failure) => failure,
        Unanswered::Absent => Failure::new("no operator answers any more"),
        Unanswered::Closed(error) => Failure::new(error),
    })
}

/// The operator's snapshot, else one look at the engine.
pub(super) fn live(
    common: &Common,
    context: Option<String>,
    environment: &Environment,
    output: &mut Output,
) -> Result<Snapshot, Failure> {
    let api = ApiArgs { config: common.config.clone(), api: common.api.clone(), context };
    if common.docker_host.is_none() && contexts::is_named(&api.reach(), environment)? {
        // Who names an operator wants that one, not a look at an engine.
        return of_operator(&Operator::of(&api, environment)?);
    }
    let settings = Settings::load(&common.flags(), environment)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Who names an engine wants that engine, not an operator's view of another.
        if common.docker_host.is_none() {
            match from_operator(&Client::new(&settings.api)).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(Unanswered::Absent) => {}
                Err(Unanswered::Closed(error)) => output.note(&format!(
                    "the operator's socket `{}` cannot be opened ({error}); asking the engine itself",
                    settings.api.display()
                )),
                Err(Unanswered::Failed(failure)) => return Err(failure),
            }
        }
        let observed = super::engine::look(&settings).await?;
        output.note("no operator was asked, so whether endpoints are ready is not known");
        Ok(snapshot_of(settings, observed))
    })
}

/// Facts as `interlock observe` wrote them.
fn from_file(file: &Path) -> Result<Observed, Failure> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let text = text.map_err(|error| Failure::new(format!("{name} cannot be read: {error}")))?;
    yaml::from_str(&text).map_err(|error| {
        let fix = error.fix.clone();
        let hint = fix.unwrap_or_else(|| "`interlock observe > observed.yaml` writes such a file".to_owned());
        Failure::new(Invalid::of(name, &text, error)).hint(hint)
    })
}

/// Why the operator gave no snapshot.
enum Unanswered {
    /// There is none.
    Absent,
    /// This user may not ask.
    Closed(io::Error),
    /// It is there and something is wrong.
    Failed(Failure),
}

async fn from_operator(client: &Client) -> Result<Snapshot, Unanswered> {
    let asked = client.send(Method::GET, SNAPSHOT_PATH, None).await;
    let answer = asked.map_err(|error| match error {
        ClientError::Absent { .. } => Unanswered::Absent,
        ClientError::Closed { source, .. } => Unanswered::Closed(source),
        ClientError::Broken(_) | ClientError::Unreached { .. } => Unanswered::Failed(Failure::new(error)),
    })?;
    if !answer.status.is_success() {
        let words = String::from_utf8_lossy(&answer.body);
        let failure = Failure::new(format!("the operator does not answer yet: {}", words.trim()));
        return Err(Unanswered::Failed(
            failure.hint("try again in a moment; its log says what it waits for"),
        ));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| Unanswered::Failed(super::api::not_understood(&error)))
}
