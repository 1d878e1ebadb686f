//! `interlock events`: what happened in the last hours.

use hyper::Method;
use serde::Deserialize;

use super::OK;
use super::api::Operator;
use super::args::EventsArgs;
use super::failure::Failure;
use super::output::{Output, Tone};
use crate::serve::Event;
use crate::serve::rest::ROOT;
use crate::settings::Environment;

#[derive(Deserialize)]
struct List {
    items: Vec<Event>,
}

/// All that the operator remembers, the last one last.
pub(super) fn of(operator: &Operator) -> Result<Vec<Event>, Failure> {
    let list: List = operator.ask(Method::GET, &format!("{ROOT}/events"), None)?;
    Ok(list.items)
}

/// Prints them.
pub(super) fn run(args: &EventsArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let events = of(&Operator::of(&args.api, environment)?)?;
    match args.shape.output.machine() {
        Some(form) => output.document(form, &events)?,
        None if events.is_empty() => output.line("nothing has happened yet")?,
        None => show(&events, output)?,
    }
    Ok(OK)
}

/// Events as a table.
pub(super) fn show(events: &[Event], output: &mut Output) -> Result<(), Failure> {
    let now = jiff::Timestamp::now().as_millisecond();
    let rows: Vec<Vec<(Tone, String)>> = events
        .iter()
        .map(|event| {
            let last = i64::try_from(event.last.0).unwrap_or(i64::MAX);
            let times = if event.count > 1 { format!(" (x{})", event.count) } else { String::new() };
            let tone = if event.warning { Tone::Fair } else { Tone::Plain };
            vec![
                (Tone::Quiet, format!("{}{times}", age(now.saturating_sub(last) / 1000))),
                (tone, event.reason.clone()),
                (Tone::Bold, event.object.clone()),
                (Tone::Plain, event.message.clone()),
            ]
        })
        .collect();
    output.table(&["AGE", "REASON", "OBJECT", "MESSAGE"], &rows)?;
    Ok(())
}

/// Seconds as people say them: `45s`, `12m`, `5h`, `3d`.
pub(super) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}
