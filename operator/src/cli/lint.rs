//! `interlock lint`: what is wrong with what containers ask for.

use interlock_core::finding::{Finding, Subject, Verdict};
use serde::Serialize;

use super::args::LintArgs;
use super::failure::Failure;
use super::output::{Output, Tone};
use super::world::World;
use super::{FOUND, OK};
use crate::settings::Environment;

#[derive(Serialize)]
struct Report<'a> {
    refused: usize,
    degraded: usize,
    waiting: usize,
    notes: usize,
    findings: &'a [Finding],
}

/// Prints every finding; exit code 1 if a route is refused.
pub(super) fn run(args: &LintArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let world = World::look(&args.facts, environment, output)?;
    let count = |verdict| world.findings.iter().filter(|finding| finding.verdict == verdict).count();
    let report = Report {
        refused: count(Verdict::Refused),
        degraded: count(Verdict::Degraded),
        waiting: count(Verdict::Waiting),
        notes: count(Verdict::Note),
        findings: &world.findings,
    };
    match args.shape.output.machine() {
        Some(form) => output.document(form, &report)?,
        None => people(&report, output)?,
    }
    Ok(if report.refused == 0 { OK } else { FOUND })
}

fn people(report: &Report<'_>, output: &mut Output) -> Result<(), Failure> {
    for finding in report.findings {
        show(finding, output)?;
        output.line("")?;
    }
    let Report { refused, degraded, waiting, notes, .. } = report;
    output.line(format!("{refused} refused, {degraded} degraded, {waiting} waiting, {notes} noted"))?;
    Ok(())
}

/// One finding: what it is about, what is wrong, what to change.
pub(super) fn show(finding: &Finding, output: &mut Output) -> Result<(), Failure> {
    let (tone, word) = match finding.verdict {
        Verdict::Refused => (Tone::Bad, "refused"),
        Verdict::Degraded => (Tone::Fair, "degraded"),
        Verdict::Waiting => (Tone::Fair, "waiting"),
        Verdict::Note => (Tone::Quiet, "note"),
    };
    let word = output.toned(tone, word);
    let subject = output.toned(Tone::Bold, &about(&finding.subject));
    let reason = output.toned(Tone::Quiet, finding.reason.as_str());
    output.line(format!("{word} {subject} {reason}"))?;
    output.line(format!("  {}", finding.message))?;
    if let Some(fix) = &finding.fix {
        let word = output.toned(Tone::Help, "fix:");
        // A fix of several lines is a snippet to copy: on lines of its own.
        let gap = if fix.contains('\n') { "\n    " } else { " " };
        output.line(format!("  {word}{gap}{}", fix.trim_end().replace('\n', "\n    ")))?;
    }
    Ok(())
}

/// The subject in a few words: the container or proxy, the route, the key.
fn about(subject: &Subject) -> String {
    let container =
        subject.name.clone().or_else(|| subject.container.as_ref().map(|id| id.short().to_owned()));
    let target = subject.target.as_ref();
    let behind = container.as_ref().and(target).map(|target| format!("behind {target}"));
    let who = container
        .or_else(|| target.map(ToString::to_string))
        .or_else(|| subject.cluster.as_ref().map(|name| format!("cluster {name}")))
        .or_else(|| subject.engine.as_ref().map(|name| format!("engine {name}")));
    let mut words: Vec<String> = who.into_iter().collect();
    words.extend(subject.route.clone());
    words.extend(subject.key.as_ref().map(|key| format!("({key})")));
    words.extend(behind);
    if words.is_empty() { "operator".to_owned() } else { words.join(" ") }
}
