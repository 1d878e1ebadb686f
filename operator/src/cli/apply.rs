//! `interlock apply`: documents to the operator, all of them or none.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use interlock_core::model::DocumentId;
use interlock_crds::schema::Kind;

use super::api::{Found, Operator, Refused, encoded, title};
use super::args::{ApplyArgs, FilesArgs};
use super::failure::Failure;
use super::files::{self, Source};
use super::output::{Output, Tone};
use super::wait::{self, Awaited};
use super::{FAILED, FOUND, OK, lint};
use crate::manifest;
use crate::serve::rest::problem::{Cause, Problem};
use crate::serve::rest::{Applied, AppliedItem, ROOT};
use crate::settings::Environment;
use crate::store::{Key, Stored};

/// Applies documents, and tells what became of each.
pub(super) fn run(args: &ApplyArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let operator = Operator::of(&args.files.api, environment)?;
    let Some(applied) = send(&operator, &args.files, args.dry_run.is_some(), output)? else {
        return Ok(FAILED);
    };
    show(&applied, output)?;
    if !args.wait || applied.dry_run {
        return Ok(OK);
    }
    await_all(&operator, &applied, args.timeout.get(), output)
}

/// What became of each document, and what is worth knowing of them.
pub(super) fn show(applied: &Applied<Found>, output: &mut Output) -> Result<(), Failure> {
    for AppliedItem { outcome, object } in &applied.items {
        let tone = if outcome == "unchanged" { Tone::Quiet } else { Tone::Good };
        let outcome = output.toned(tone, outcome);
        let dry = if applied.dry_run { " (dry run)" } else { "" };
        output.line(format!("{} {outcome}{dry}", title(object)))?;
    }
    lint::show(&applied.warnings, output)
}

/// Waits until everything that was put is served.
fn await_all(
    operator: &Operator,
    applied: &Applied<Found>,
    timeout: Duration,
    output: &mut Output,
) -> Result<u8, Failure> {
    let put = applied.items.iter().filter(|item| item.outcome != "deleted").map(|item| &item.object);
    let mut awaited: BTreeMap<(Kind, DocumentId), Awaited> = BTreeMap::new();
    for object in put {
        let kind = super::api::kind_of(&object.kind)?;
        let id = DocumentId::new(object.metadata.namespace(), &object.metadata.name).map_err(Failure::new)?;
        let generation = object.metadata.generation.unwrap_or_default();
        awaited.insert((kind, id), Awaited::condition("Programmed", "True", generation));
    }
    let lacking = operator.block(wait::until(operator, awaited, timeout))?;
    for (name, why) in &lacking {
        output.error(&format!("{name} is not Programmed after {timeout:?}: {why}"));
    }
    Ok(if lacking.is_empty() { OK } else { FOUND })
}

/// Sends documents; none: something is wrong with them, and it was told.
pub(super) fn send(
    operator: &Operator,
    args: &FilesArgs,
    dry_run: bool,
    output: &mut Output,
) -> Result<Option<Applied<Found>>, Failure> {
    let sources = files::documents(&args.files)?;
    let namespace = args.namespace.as_deref();
    let Some(body) = body(&sources, namespace, output)? else { return Ok(None) };
    if body.is_empty() && !args.prune {
        return Err(Failure::new("there is no document in what was given")
            .hint("a document begins with `apiVersion: interlock.dev/v1alpha1`"));
    }
    let owner = args.owner.as_ref();
    let mut query = owner.map(|owner| format!("owner={}&", encoded(owner))).unwrap_or_default();
    if args.prune {
        query.push_str("prune=1&");
    }
    if dry_run {
        query.push_str("dryRun=All&");
    }
    post(operator, &format!("{ROOT}/apply?{query}"), body, &sources, namespace, output)
}

/// Posts documents that were read from these files; none: something is wrong with them, and it was told.
pub(super) fn post(
    operator: &Operator,
    path: &str,
    body: String,
    sources: &[Source],
    namespace: Option<&str>,
    output: &mut Output,
) -> Result<Option<Applied<Found>>, Failure> {
    match operator.ask(Method::POST, path, Some(body)) {
        Ok(applied) => Ok(Some(applied)),
        Err(Refused::Problem(problem)) if !problem.details.causes.is_empty() => {
            tell(&problem, sources, namespace, output);
            Ok(None)
        }
        Err(refused) => Err(refused.into()),
    }
}

/// The documents as one stream; none: one of them cannot be read, and it was told.
pub(super) fn body(
    sources: &[Source],
    namespace: Option<&str>,
    output: &mut Output,
) -> Result<Option<String>, Failure> {
    let mut body = String::new();
    let mut good = true;
    for document in sources.iter().flat_map(|source| &source.documents) {
        match (&document.body, &document.id) {
            (Ok(read), Some((kind, id))) => {
                let (mut metadata, spec) = read.clone().into();
                if kind.namespaced() && metadata.namespace.is_none() {
                    metadata.namespace = namespace.map(str::to_owned);
                }
                let stored = Stored { key: Key { kind: *kind, id: id.clone() }, metadata, spec };
                let text = serde_json::to_string(&stored.written(None)).map_err(Failure::new)?;
                body.push_str("---\n");
                body.push_str(&text);
                body.push('\n');
            }
            (Ok(_), None) => {}
            (Err(invalid), _) => {
                good = false;
                output.error(&invalid.to_string());
                if let Some(fix) = &invalid.fix {
                    output.hint(fix);
                }
            }
        }
    }
    Ok(good.then_some(body))
}

/// Everything that the operator found wrong, each with the place that it is from.
fn tell(problem: &Problem, sources: &[Source], namespace: Option<&str>, output: &mut Output) {
    for cause in &problem.details.causes {
        let place = place(cause, sources, namespace).map(|place| format!("{place}: ")).unwrap_or_default();
        let document = cause.document.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        output.error(&format!("{place}{document}{} ({})", cause.message, cause.reason));
        if let Some(fix) = &cause.fix {
            output.hint(fix);
        }
    }
    output.note("nothing was changed");
}

fn place(cause: &Cause, sources: &[Source], namespace: Option<&str>) -> Option<String> {
    let title = cause.document.as_deref()?;
    for source in sources {
        for document in &source.documents {
            let Some((kind, id)) = &document.id else { continue };
            let own = manifest::title(*kind, id);
            let moved = namespace.map(|namespace| format!("{} {namespace}/{}", kind.as_str(), id.name()));
            if title == own || Some(title) == moved.as_deref() {
                let line = document.locate(&source.text, &cause.field).unwrap_or(document.line);
                return Some(format!("{}:{line}", source.file));
            }
        }
    }
    None
}
