//! `interlock diff`: what applying documents would change, in them and in the files of each proxy.

use std::collections::BTreeMap;

use interlock_core::declared::Declared;
use interlock_core::model::{ClusterName, DocumentId, Shared};
use interlock_core::render::Templates;
use interlock_crds::schema::Kind;
use serde::de::DeserializeOwned;
use serde_json::Value;
use similar::TextDiff;

use super::api::{Found, Operator, kind_of, title};
use super::args::DiffArgs;
use super::failure::Failure;
use super::output::{Output, Tone};
use super::world::{self, World};
use super::{FAILED, FOUND, OK, apply, lint, render};
use crate::serve::rest::{Applied, AppliedItem};
use crate::settings::Environment;
use crate::yaml;

/// Prints the differences; exit code 1 if there are some.
pub(super) fn run(args: &DiffArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let operator = Operator::of(&args.files.api, environment)?;
    let Some(applied) = apply::send(&operator, &args.files, true, output)? else { return Ok(FAILED) };
    let known = known(&operator, &applied)?;
    let mut differs = false;
    for AppliedItem { outcome, object } in applied.items.iter().filter(|item| item.outcome != "unchanged") {
        let name = title(object);
        let before = known.get(&name).map(shown).transpose()?.unwrap_or_default();
        let after = if outcome == "deleted" { String::new() } else { shown(object)? };
        differs |= print(&name, &before, &after, output)?;
    }
    if differs {
        files(&operator, &applied, output)?;
    }
    Ok(if differs { FOUND } else { OK })
}

/// What there is of the kinds that would change, by title.
fn known(operator: &Operator, applied: &Applied<Found>) -> Result<BTreeMap<String, Found>, Failure> {
    let mut kinds: Vec<Kind> = Vec::new();
    for item in &applied.items {
        let kind = kind_of(&item.object.kind)?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let mut known = BTreeMap::new();
    for kind in kinds {
        known.extend(operator.list(kind, None, "")?.into_iter().map(|object| (title(&object), object)));
    }
    Ok(known)
}

/// An object without what the operator counts.
fn shown(object: &Found) -> Result<String, Failure> {
    let mut object = object.clone();
    object.status = None;
    object.metadata.resource_version = None;
    object.metadata.generation = None;
    object.metadata.creation_timestamp = None;
    yaml::to_string(&object).map_err(Failure::new)
}

/// Whether two texts differ; how, in the form that everybody knows.
fn print(name: &str, before: &str, after: &str, output: &mut Output) -> Result<bool, Failure> {
    if before == after {
        return Ok(false);
    }
    let diff = TextDiff::from_lines(before, after);
    let text = diff
        .unified_diff()
        .context_radius(3)
        .header(&format!("live: {name}"), &format!("applied: {name}"))
        .to_string();
    for line in text.lines() {
        let tone = match line.as_bytes().first() {
            _ if line.starts_with("+++") || line.starts_with("---") => Tone::Bold,
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            Some(b'@') => Tone::Help,
            _ => Tone::Plain,
        };
        let line = output.toned(tone, line);
        output.line(line)?;
    }
    Ok(true)
}

/// The differences of each proxy's files, and what would newly be wrong. Who has never been probed counts as not ready.
fn files(operator: &Operator, applied: &Applied<Found>, output: &mut Output) -> Result<(), Failure> {
    let mut snapshot = world::of_operator(operator)?;
    let before = World::of(snapshot.clone());
    change(snapshot.observed.declared.change(), applied)?;
    let after = World::of(snapshot);
    let templates = Templates::embedded();
    let (old, new) = (render::all(&before, &templates)?, render::all(&after, &templates)?);
    for (target, files) in &new {
        let none = BTreeMap::new();
        let known = old.get(target).unwrap_or(&none);
        for (file, text) in files {
            print(&format!("{target}: {file}"), known.get(file).map_or("", String::as_str), text, output)?;
        }
    }
    let told = after.compiled.findings.iter().filter(|one| !before.compiled.findings.contains(one));
    let told: Vec<_> = told.cloned().collect();
    if !told.is_empty() {
        output.line("")?;
        lint::show(&told, output)?;
    }
    Ok(())
}

fn change(declared: &mut Declared, applied: &Applied<Found>) -> Result<(), Failure> {
    for AppliedItem { outcome, object } in applied.items.iter().filter(|item| item.outcome != "unchanged") {
        let gone = outcome == "deleted";
        let name = &object.metadata.name;
        match Kind::of(&object.kind) {
            Some(Kind::Route) => {
                let id = DocumentId::new(object.metadata.namespace(), name).map_err(Failure::new)?;
                put(&mut declared.routes, id, gone, &object.spec)?;
            }
            Some(Kind::ServiceCluster) => {
                let name = name.parse::<ClusterName>().map_err(Failure::new)?;
                put(&mut declared.clusters, name, gone, &object.spec)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn put<K: Ord, S: DeserializeOwned>(
    all: &mut BTreeMap<K, Shared<S>>,
    key: K,
    gone: bool,
    spec: &Value,
) -> Result<(), Failure> {
    if gone {
        all.remove(&key);
        return Ok(());
    }
    let spec: S = serde_json::from_value(spec.clone()).map_err(|error| super::api::not_understood(&error))?;
    all.insert(key, spec.into());
    Ok(())
}
