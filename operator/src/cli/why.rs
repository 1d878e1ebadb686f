//! `interlock why`: which container serves a URL, or exactly why none does and what to change.

use std::collections::BTreeMap;

use interlock_core::explain::{self, Answer, EndpointAnswer, Explanation, TargetAnswer};
use interlock_core::model::{Digest, Readiness, TargetId};
use serde::Serialize;

use super::args::WhyArgs;
use super::failure::Failure;
use super::output::{Output, Tone};
use super::world::World;
use super::{FOUND, OK, lint};
use crate::serve::{TargetState, TargetStatus};
use crate::settings::Environment;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    #[serde(flatten)]
    explanation: &'a Explanation,
    /// Of each proxy that the answer names, whether it is in step; empty without an operator.
    programmed: BTreeMap<&'a TargetId, Programmed<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Programmed<'a> {
    state: TargetState,
    running: Option<&'a Digest>,
    wanted: Option<&'a Digest>,
    message: Option<&'a str>,
}

impl<'a> Programmed<'a> {
    fn of(status: &'a TargetStatus) -> Self {
        let TargetStatus { state, running, wanted, message, .. } = status;
        let (running, wanted) = (running.as_ref(), wanted.as_ref());
        Self { state: *state, running, wanted, message: message.as_deref() }
    }
}

/// Prints the answer; exit code 1 if nothing serves it.
pub(super) fn run(args: &WhyArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let world = World::look(&args.facts, environment, output)?;
    let (host, path) = split(&args.subject);
    let snapshot = &world.snapshot;
    let explanation = explain::why(&world.compiled, &snapshot.observed, &snapshot.config, host, &path);
    let statuses = snapshot.targets.iter();
    let programmed = statuses
        .filter(|(target, _)| explanation.targets.contains_key(*target))
        .map(|(target, status)| (target, Programmed::of(status)))
        .collect();
    let report = Report { explanation: &explanation, programmed };
    match args.shape.output.machine() {
        Some(form) => output.document(form, &report)?,
        None => people(&report, output)?,
    }
    let good = matches!(explanation.answer, Answer::Served | Answer::Redirected);
    Ok(if good { OK } else { FOUND })
}

/// Host and path of whatever a person pastes: a URL with its scheme, user, query and fragment.
pub(super) fn split(subject: &str) -> (&str, String) {
    let rest = subject.split_once("://").map_or(subject, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (host, path.to_owned())
}

fn people(report: &Report<'_>, output: &mut Output) -> Result<(), Failure> {
    let explanation = report.explanation;
    let summary = output.toned(tone(explanation.answer), &explanation.summary);
    output.line(summary)?;
    let rows: Vec<Vec<(Tone, String)>> =
        explanation.targets.iter().flat_map(|(target, answer)| rows(target, answer)).collect();
    if !rows.is_empty() {
        output.line("")?;
        output.table(&["PROXY", "CLUSTER", "ANSWER", "ROUTE", "CONTAINER", "ADDRESS", "STATE"], &rows)?;
    }
    for (target, answer) in &explanation.targets {
        for remains in &answer.remains {
            let word = output.toned(Tone::Quiet, "note");
            output.line(format!("{word}: {target}: {remains}"))?;
        }
    }
    if !explanation.findings.is_empty() {
        output.line("")?;
        lint::show(&explanation.findings, output)?;
    }
    for (target, status) in &report.programmed {
        if status.state != TargetState::Programmed {
            let why = status.message.unwrap_or("a delivery is under way");
            let state = output.toned(Tone::Fair, status.state.as_str());
            output.line(format!("{state}: {target} does not provably run this: {why}"))?;
        }
    }
    Ok(())
}

const fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Served => "served",
        Answer::Redirected => "redirected",
        Answer::NoEndpoint => "no endpoint",
        Answer::PathNotCovered => "path not covered",
        Answer::UnknownHost => "not served",
        Answer::InvalidHost => "invalid host",
        Answer::NoProxy => "no proxy",
    }
}

const fn tone(answer: Answer) -> Tone {
    match answer {
        Answer::Served | Answer::Redirected => Tone::Good,
        Answer::NoEndpoint => Tone::Fair,
        _ => Tone::Bad,
    }
}

/// One row for each endpoint; one at least, so that no proxy goes unmentioned.
fn rows(target: &TargetId, answer: &TargetAnswer) -> Vec<Vec<(Tone, String)>> {
    let status = answer.status.map_or_else(String::new, |status| format!(" ({status})"));
    let head = |route: &str| {
        vec![
            (Tone::Bold, target.to_string()),
            (Tone::Plain, answer.cluster.to_string()),
            (tone(answer.answer), format!("{}{status}", word(answer.answer))),
            (Tone::Plain, route.to_owned()),
        ]
    };
    let none = || vec![(Tone::Quiet, "-".to_owned()); 3];
    let mut rows = Vec::new();
    for route in &answer.routes {
        rows.extend(route.endpoints.iter().map(|one| [head(&route.route), endpoint(one)].concat()));
        if route.endpoints.is_empty() {
            rows.push([head(&route.route), none()].concat());
        }
    }
    if rows.is_empty() {
        rows.push([head("-"), none()].concat());
    }
    rows
}

fn endpoint(endpoint: &EndpointAnswer) -> Vec<(Tone, String)> {
    let address = endpoint.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let state = match endpoint.readiness {
        Some(Readiness::Ready) => "ready",
        Some(Readiness::Cold) => "not ready yet",
        Some(Readiness::Unhealthy) => "unhealthy",
        Some(Readiness::Draining) => "stopping",
        None => "not reachable",
    };
    let tone = if endpoint.serving { Tone::Good } else { Tone::Fair };
    vec![(Tone::Plain, endpoint.name.clone()), (Tone::Plain, address), (tone, state.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn whatever_is_pasted_is_split() {
        for (subject, host, path) in [
            ("shop.example.com", "shop.example.com", "/"),
            ("shop.example.com/a/b", "shop.example.com", "/a/b"),
            ("https://me:pw@shop.example.com:8443/a?x=/y#z", "shop.example.com:8443", "/a"),
            ("http://shop.example.com?x", "shop.example.com", "/"),
            ("shop-1", "shop-1", "/"),
        ] {
            assert_eq!(split(subject), (host, path.to_owned()), "{subject}");
        }
    }
}
