//! `interlock rollout`: what an object has said so far, and back to it.

use std::collections::BTreeMap;

use hyper::Method;
use interlock_core::model::DocumentId;
use interlock_crds::schema::Kind;

use super::api::{Found, Operator, condition, kind_of, namespace_or_default, path_of};
use super::apply;
use super::args::{HistoryArgs, Machine, ObjectArgs, RolloutCommand, RolloutStatusArgs, UndoArgs};
use super::failure::Failure;
use super::get;
use super::output::{Output, Tone};
use super::wait::{self, Awaited};
use super::{FOUND, OK};
use crate::manifest;
use crate::serve::rest::Applied;
use crate::serve::rest::rollout::{Generation, Generations};
use crate::settings::Environment;
use crate::yaml;

/// Runs one of its commands.
pub(super) fn run(
    command: &RolloutCommand,
    environment: &Environment,
    output: &mut Output,
) -> Result<u8, Failure> {
    match command {
        RolloutCommand::History(args) => history(args, environment, output),
        RolloutCommand::Undo(args) => undo(args, environment, output),
        RolloutCommand::Release(args) => release(args, environment, output),
        RolloutCommand::Status(args) => status(args, environment, output),
    }
}

/// Which object, and where what is said of it is asked.
struct Object {
    kind: Kind,
    id: DocumentId,
    operator: Operator,
}

impl Object {
    fn of(args: &ObjectArgs, environment: &Environment) -> Result<Self, Failure> {
        let (kind, name) = args.object.split_once('/').ok_or_else(|| {
            Failure::new(format!("`{}` is no object", args.object.escape_debug())).hint("write `route/NAME`")
        })?;
        let kind = kind_of(kind)?;
        let namespace = namespace_or_default(args.namespace.as_ref().filter(|_| kind.namespaced()));
        let id = DocumentId::new(namespace, name).map_err(Failure::new)?;
        Ok(Self { kind, id, operator: Operator::of(&args.api, environment)? })
    }

    fn path(&self, rest: &str) -> String {
        let path = path_of(self.kind, Some(self.id.namespace()), Some(self.id.name()));
        if rest.is_empty() { path } else { format!("{path}/{rest}") }
    }

    fn title(&self) -> String {
        manifest::title(self.kind, &self.id)
    }
}

fn history(args: &HistoryArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let object = Object::of(&args.of, environment)?;
    let mut all: Generations<Found> = object.operator.ask(Method::GET, &object.path("history"), None)?;
    if let Some(number) = args.generation {
        all.items.retain(|one| one.generation == number);
        let one = all.items.first().ok_or_else(|| {
            Failure::new(format!("generation {number} of {} is not remembered", object.title()))
                .hint("`interlock rollout history` without `--generation` names those that are")
        })?;
        return match args.shape.output.machine() {
            Some(form) => output.document(form, one).map(|()| OK),
            None => show(one, output),
        };
    }
    if let Some(form) = args.shape.output.machine() {
        output.document(form, &all)?;
        return Ok(OK);
    }
    let rows: Vec<Vec<(Tone, String)>> = all.items.iter().map(row).collect();
    output.table(&["GENERATION", "AGE", "NOW", "PROGRAMMED", "SAYS"], &rows)?;
    Ok(OK)
}

fn row(one: &Generation<Found>) -> Vec<(Tone, String)> {
    let now = match (one.current, one.held) {
        (true, Some(from)) => format!("held, as of {from}"),
        (true, None) => "yes".to_owned(),
        (false, _) => "-".to_owned(),
    };
    let programmed = one.rendered.as_ref().map_or_else(
        || "-".to_owned(),
        |rendered| rendered.targets.keys().cloned().collect::<Vec<_>>().join(","),
    );
    let says = match one.object.spec["hostnames"].as_array() {
        Some(hosts) => hosts.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(","),
        None => one.object.spec["proxy"].as_str().unwrap_or("-").to_owned(),
    };
    vec![
        (Tone::Bold, one.generation.to_string()),
        (Tone::Quiet, get::since(Some(&one.at))),
        (if one.current { Tone::Good } else { Tone::Quiet }, now),
        (Tone::Plain, programmed),
        (Tone::Plain, says),
    ]
}

/// What a generation said, and what proxies ran of it.
fn show(one: &Generation<Found>, output: &mut Output) -> Result<u8, Failure> {
    output.document(Machine::Yaml, &one.object)?;
    for (target, pieces) in one.rendered.iter().flat_map(|rendered| &rendered.targets) {
        let heading = format!("\n# {target} ran {}", pieces.digest);
        let heading = output.toned(Tone::Bold, &heading);
        output.line(heading)?;
        for (name, text) in &pieces.fragments {
            output.line(output.toned(Tone::Quiet, &format!("# {name}")))?;
            output.line(text.trim_end())?;
        }
    }
    Ok(OK)
}

fn undo(args: &UndoArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let object = Object::of(&args.of, environment)?;
    let to = args.to_generation.map(|generation| format!("generation={generation}&")).unwrap_or_default();
    let dry_run = if args.dry_run.is_some() { "dryRun=All" } else { "" };
    let path = object.path(&format!("undo?{to}{dry_run}"));
    let applied: Applied<Found> = object.operator.ask(Method::POST, &path, None)?;
    apply::show(&applied, output)?;
    if let Some(item) = applied.items.first().filter(|_| applied.dry_run) {
        output.line(yaml::to_string(&item.object.spec).map_err(Failure::new)?.trim_end())?;
    }
    output
        .note(&format!("it is held until it is applied, or `interlock rollout release {}`", args.of.object));
    Ok(OK)
}

fn release(args: &ObjectArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let object = Object::of(args, environment)?;
    let applied: Applied<Found> = object.operator.ask(Method::POST, &object.path("release"), None)?;
    let released = applied.items.iter().any(|item| item.outcome != "unchanged");
    output.line(format!("{} {}", object.title(), if released { "released" } else { "was not held" }))?;
    Ok(OK)
}

/// Waits until every proxy provably runs the generation that there is now.
fn status(args: &RolloutStatusArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let object = Object::of(&args.of, environment)?;
    let now: Found = object.operator.ask(Method::GET, &object.path(""), None)?;
    let generation = now.metadata.generation.unwrap_or_default();
    let awaited = Awaited::condition("Programmed", "True", generation);
    let all = BTreeMap::from([((object.kind, object.id.clone()), awaited)]);
    let lacking = object.operator.block(wait::until(&object.operator, all, args.timeout.get()))?;
    let title = object.title();
    for why in lacking.values() {
        output.error(&format!("generation {generation} of {title} is not programmed: {why}"));
    }
    if !lacking.is_empty() {
        return Ok(FOUND);
    }
    let then: Found = object.operator.ask(Method::GET, &object.path(""), None)?;
    let said = |kind| condition(&then, kind).map_or_else(String::new, |known| format!(": {}", known.message));
    let done = output.toned(Tone::Good, "programmed");
    output.line(format!("generation {generation} of {title} is {done}{}", said("Programmed")))?;
    if condition(&then, "Held").is_some() {
        output.line(format!("it is held{}", said("Held")))?;
    }
    Ok(OK)
}
