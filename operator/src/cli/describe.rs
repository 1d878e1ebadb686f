//! `interlock describe`: everything of one object.

use super::api::{Found, Operator, kind_of, namespace_or_default, title};
use super::args::{DescribeArgs, Machine};
use super::failure::Failure;
use super::output::{Output, Tone};
use super::world::{self, World};
use super::{OK, events, get, lint};
use crate::settings::Environment;

/// Prints what it asks for, what is true of it, what is wrong and what happened.
pub(super) fn run(
    args: &DescribeArgs,
    environment: &Environment,
    output: &mut Output,
) -> Result<u8, Failure> {
    let (word, name) = match (args.kind.split_once('/'), &args.name) {
        (Some((word, name)), None) => (word, name),
        (None, Some(name)) => (args.kind.as_str(), name.as_str()),
        _ => {
            return Err(
                Failure::new("one object can be described").hint("write `interlock describe route NAME`")
            );
        }
    };
    let kind = kind_of(word)?;
    let operator = Operator::of(&args.api, environment)?;
    let object = operator.get(kind, namespace_or_default(args.namespace.as_ref()), name)?;
    head(&object, output)?;
    conditions(&object, output)?;
    let spec = output.toned(Tone::Bold, "\nSpec:");
    output.line(spec)?;
    output.document(Machine::Yaml, &object.spec)?;
    let name = title(&object);
    let world = World::of(world::of_operator(&operator)?);
    let told: Vec<_> = world
        .compiled
        .findings
        .iter()
        .filter(|finding| finding.subject.document.as_deref() == Some(name.as_str()))
        .cloned()
        .collect();
    if !told.is_empty() {
        let heading = output.toned(Tone::Bold, "\nFindings:");
        output.line(heading)?;
        lint::show(&told, output)?;
    }
    let mut happened = events::of(&operator)?;
    happened.retain(|event| event.object == name);
    if !happened.is_empty() {
        let heading = output.toned(Tone::Bold, "\nEvents:");
        output.line(heading)?;
        events::show(&happened, output)?;
    }
    Ok(OK)
}

fn head(object: &Found, output: &mut Output) -> Result<(), Failure> {
    let metadata = &object.metadata;
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    let lines = [
        ("Name", metadata.name.clone()),
        ("Namespace", metadata.namespace.clone().unwrap_or_default()),
        ("Kind", object.kind.clone()),
        ("Labels", pairs(&metadata.labels)),
        ("Annotations", pairs(&metadata.annotations)),
        ("Created", metadata.creation_timestamp.clone().unwrap_or_default()),
        ("Generation", metadata.generation.map(|number| number.to_string()).unwrap_or_default()),
        ("Version", metadata.resource_version.clone().unwrap_or_default()),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let name = output.toned(Tone::Bold, &format!("{:<13}", format!("{name}:")));
        output.line(format!("{name}{value}"))?;
    }
    Ok(())
}

fn conditions(object: &Found, output: &mut Output) -> Result<(), Failure> {
    let Some(status) = &object.status else {
        return Ok(output.line("\nNothing is known of it yet.")?);
    };
    let heading = output.toned(Tone::Bold, "\nConditions:");
    output.line(heading)?;
    let rows: Vec<Vec<(Tone, String)>> = status
        .conditions
        .iter()
        .map(|condition| {
            let word = format!("{:?}", condition.status);
            vec![
                (Tone::Bold, condition.kind.clone()),
                (get::tone(&word), word),
                (Tone::Plain, condition.reason.clone()),
                (Tone::Quiet, get::since(Some(&condition.last_transition_time))),
                (Tone::Plain, condition.observed_generation.unwrap_or_default().to_string()),
                (Tone::Plain, condition.message.clone()),
            ]
        })
        .collect();
    output.table(&["TYPE", "STATUS", "REASON", "SINCE", "GENERATION", "MESSAGE"], &rows)?;
    if !status.targets.is_empty() {
        let heading = output.toned(Tone::Bold, "\nProxies:");
        output.line(heading)?;
        let rows: Vec<Vec<(Tone, String)>> = status
            .targets
            .iter()
            .map(|target| {
                let word = if target.programmed { "True" } else { "False" };
                vec![
                    (Tone::Bold, target.name.clone()),
                    (get::tone(word), word.to_owned()),
                    (Tone::Plain, target.digest.clone().unwrap_or_else(|| "-".to_owned())),
                    (Tone::Plain, target.message.clone().unwrap_or_default()),
                ]
            })
            .collect();
        output.table(&["PROXY", "PROGRAMMED", "RUNS", "WHY"], &rows)?;
    }
    Ok(())
}
