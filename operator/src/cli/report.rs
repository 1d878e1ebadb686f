//! Findings as other tools read them: SARIF 2.1.0, and the lines that GitHub shows beside a change.

use std::collections::BTreeSet;

use interlock_core::finding::{Finding, Verdict};
use serde_json::{Value, json};

use super::files::Place;

/// A finding and where it belongs.
pub(super) type Placed<'f> = (&'f Finding, Option<Place>);

/// One SARIF log.
pub(super) fn sarif(findings: &[Placed<'_>]) -> Value {
    let rules: BTreeSet<&str> = findings.iter().map(|(finding, _)| finding.reason.as_str()).collect();
    let results: Vec<Value> = findings.iter().map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "interlock",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.into_iter().map(|id| json!({"id": id})).collect::<Vec<_>>(),
            }},
            "results": results,
        }],
    })
}

fn result((finding, place): &Placed<'_>) -> Value {
    let level = match finding.verdict {
        Verdict::Refused => "error",
        Verdict::Degraded => "warning",
        Verdict::Waiting | Verdict::Note => "note",
    };
    let locations: Vec<Value> = place
        .iter()
        .map(|place| {
            json!({"physicalLocation": {
                "artifactLocation": {"uri": place.file},
                "region": {"startLine": place.line},
            }})
        })
        .collect();
    json!({
        "ruleId": finding.reason.as_str(),
        "level": level,
        "message": {"text": with_fix(finding)},
        "locations": locations,
    })
}

/// One line of GitHub's workflow commands.
pub(super) fn github((finding, place): &Placed<'_>) -> String {
    let command = match finding.verdict {
        Verdict::Refused => "error",
        Verdict::Degraded => "warning",
        Verdict::Waiting | Verdict::Note => "notice",
    };
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let place = place
        .as_ref()
        .map(|place| format!("file={},line={},", property(&place.file), place.line))
        .unwrap_or_default();
    format!("::{command} {place}title={}::{}", finding.reason, data(&with_fix(finding)))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn with_fix(finding: &Finding) -> String {
    match &finding.fix {
        Some(fix) => format!("{}\nfix: {fix}", finding.message),
        None => finding.message.clone(),
    }
}
