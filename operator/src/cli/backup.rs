//! `interlock backup` and `interlock restore`: everything that is stored, as documents in a file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use hyper::Method;
use serde::Deserialize;

use super::api::{Found, Operator};
use super::args::{BackupArgs, RestoreArgs};
use super::failure::Failure;
use super::output::{Output, Tone};
use super::{FAILED, OK, apply, files};
use crate::serve::rest::ROOT;
use crate::settings::Environment;
use crate::yaml;

#[derive(Deserialize)]
struct List {
    items: Vec<Found>,
}

/// Writes everything into a file, which is there whole or not at all.
pub(super) fn save(args: &BackupArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let operator = Operator::of(&args.api, environment)?;
    let list: List = operator.ask(Method::GET, &format!("{ROOT}/backup"), None)?;
    let mut text = String::from("# interlock restore FILE puts these documents back\n");
    for object in &list.items {
        text.push_str("---\n");
        text.push_str(&yaml::to_string(object).map_err(Failure::new)?);
    }
    if args.file == Path::new("-") {
        output.raw(&text)?;
        return Ok(OK);
    }
    let folder = args.file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&args.file).map_err(|error| Failure::new(error.error))?;
    output.note(&format!("{} objects are in {}", list.items.len(), args.file.display()));
    Ok(OK)
}

/// Puts the documents of a file in place of everything that is stored.
pub(super) fn restore(
    args: &RestoreArgs,
    environment: &Environment,
    output: &mut Output,
) -> Result<u8, Failure> {
    let operator = Operator::of(&args.api, environment)?;
    let paths: Vec<PathBuf> = args.file.clone().into_iter().collect();
    let sources = files::documents(&paths)?;
    let Some(body) = apply::body(&sources, None, output)? else { return Ok(FAILED) };
    if body.is_empty() && !args.none {
        return Err(Failure::new("there is no document in the backup")
            .hint("`interlock restore --none` accepts that nothing is stored"));
    }
    let query = if args.replace { "?replace=1" } else { "" };
    let path = format!("{ROOT}/restore{query}");
    let Some(applied) = apply::post(&operator, &path, body, &sources, None, output)? else {
        return Ok(FAILED);
    };
    apply::show(&applied, output)?;
    let word = output.toned(Tone::Good, "restored");
    output.line(format!(
        "{} objects {word}",
        applied.items.iter().filter(|item| item.outcome != "deleted").count()
    ))?;
    Ok(OK)
}
