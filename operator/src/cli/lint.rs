//! `interlock lint`: what is wrong with what is asked for, by containers or in files.

use std::collections::BTreeSet;

use interlock_core::finding::{Finding, Subject, Verdict};
use serde::Serialize;

use super::args::{LintArgs, LintShape, Machine};
use super::failure::Failure;
use super::files::{self, Place};
use super::output::{Output, Tone};
use super::world::World;
use super::{FOUND, OK, report};
use crate::settings::{Environment, Settings};

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
    if args.files.is_empty() {
        let world = World::look(&args.facts, environment, output)?;
        return tell(&world.compiled.findings, |_| None, args.output, output);
    }
    let mut judged = if args.live {
        let World { snapshot, compiled } = World::look(&args.facts, environment, output)?;
        files::beside(&args.files, snapshot, &compiled.findings)?
    } else {
        let settings = Settings::load(&args.facts.common.flags(), environment)?;
        files::judge(&args.files, &settings.config)?
    };
    let mut findings = std::mem::take(&mut judged.findings);
    if args.output == LintShape::Table {
        for finding in &mut findings {
            let place = judged.place(finding);
            let known = |place: &Place| finding.message.starts_with(&format!("{}:", place.file));
            if let Some(Place { file, line }) = place.filter(|place| !known(place)) {
                finding.message = format!("{file}:{line}: {}", finding.message);
            }
        }
    }
    tell(&findings, |finding| judged.place(finding), args.output, output)
}

fn tell(
    findings: &[Finding],
    place: impl Fn(&Finding) -> Option<Place>,
    shape: LintShape,
    output: &mut Output,
) -> Result<u8, Failure> {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let report = Report {
        refused: count(Verdict::Refused),
        degraded: count(Verdict::Degraded),
        waiting: count(Verdict::Waiting),
        notes: count(Verdict::Note),
        findings,
    };
    let placed = || findings.iter().map(|finding| (finding, place(finding))).collect::<Vec<_>>();
    match shape {
        LintShape::Table => people(&report, output)?,
        LintShape::Json => output.document(Machine::Json, &report)?,
        LintShape::Yaml => output.document(Machine::Yaml, &report)?,
        LintShape::Sarif => output.document(Machine::Json, &report::sarif(&placed()))?,
        LintShape::Github => {
            for one in placed() {
                output.line(report::github(&one))?;
            }
        }
    }
    Ok(if report.refused == 0 { OK } else { FOUND })
}

fn people(report: &Report<'_>, output: &mut Output) -> Result<(), Failure> {
    show(report.findings, output)?;
    let groups = grouped(report.findings);
    let count = |verdict| {
        groups.iter().filter(|group| group.first().is_some_and(|first| first.verdict == verdict)).count()
    };
    output.line(format!(
        "{} refused, {} degraded, {} waiting, {} noted",
        count(Verdict::Refused),
        count(Verdict::Degraded),
        count(Verdict::Waiting),
        count(Verdict::Note)
    ))?;
    Ok(())
}

/// Findings as people read them: what each is about, what is wrong, what to change.
pub(super) fn show(findings: &[Finding], output: &mut Output) -> Result<(), Failure> {
    for group in grouped(findings) {
        show_group(&group, output)?;
        output.line("")?;
    }
    Ok(())
}

/// Findings that differ only in the proxy belong together: they are told once.
fn grouped(findings: &[Finding]) -> Vec<Vec<&Finding>> {
    let mut groups: Vec<Vec<&Finding>> = Vec::new();
    for finding in findings {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| alike(first, finding))) {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups
}

fn alike(one: &Finding, other: &Finding) -> bool {
    let rest = |finding: &Finding| {
        let Subject { container, name, route, document, key, .. } = finding.subject.clone();
        (finding.verdict, finding.reason, container, name, route, document, key, finding.fix.clone())
    };
    (one.subject.container.is_some() || one.subject.document.is_some()) && rest(one) == rest(other)
}

fn show_group(group: &[&Finding], output: &mut Output) -> Result<(), Failure> {
    let Some(first) = group.first() else { return Ok(()) };
    let (tone, word) = match first.verdict {
        Verdict::Refused => (Tone::Bad, "refused"),
        Verdict::Degraded => (Tone::Fair, "degraded"),
        Verdict::Waiting => (Tone::Fair, "waiting"),
        Verdict::Note => (Tone::Quiet, "note"),
    };
    let word = output.toned(tone, word);
    let subject = about(&first.subject);
    let subject = if subject.is_empty() { subject } else { output.toned(Tone::Bold, &subject) };
    let behind: BTreeSet<&str> =
        group.iter().filter_map(|finding| Some(finding.subject.target.as_ref()?.as_str())).collect();
    let place = match (behind.is_empty(), &first.subject.container) {
        (false, Some(_)) => format!(" behind {}", behind.into_iter().collect::<Vec<_>>().join(", ")),
        _ => String::new(),
    };
    let reason = output.toned(Tone::Quiet, first.reason.as_str());
    let gap = if subject.is_empty() { "" } else { " " };
    output.line(format!("{word}{gap}{subject}{place}: {reason}"))?;
    let messages: BTreeSet<&str> = group.iter().map(|finding| finding.message.as_str()).collect();
    for message in messages {
        output.line(format!("  {message}"))?;
    }
    if let Some(fix) = &first.fix {
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
    let who = container
        .or_else(|| subject.document.clone())
        .or_else(|| subject.target.as_ref().map(ToString::to_string))
        .or_else(|| subject.cluster.as_ref().map(|name| format!("cluster {name}")))
        .or_else(|| subject.engine.as_ref().map(|name| format!("engine {name}")));
    let mut words: Vec<String> = who.into_iter().collect();
    words.extend(subject.route.clone());
    words.extend(subject.key.as_ref().map(|key| format!("({key})")));
    words.join(" ")
}
