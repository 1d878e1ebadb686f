//! `interlock delete`: objects away, those of the command line or those of files.

use hyper::Method;
use interlock_crds::schema::Kind;

use super::api::{Found, Operator, Refused, kind_of, namespace_or_default, path_of, title};
use super::args::DeleteArgs;
use super::failure::Failure;
use super::output::{Output, Tone};
use super::{OK, files};
use crate::settings::Environment;

/// Deletes one object after the other; the first that cannot be ends it.
pub(super) fn run(args: &DeleteArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let objects = asked(args)?;
    let operator = Operator::of(&args.api, environment)?;
    let query = if args.dry_run.is_some() { "?dryRun=All" } else { "" };
    for (kind, namespace, name) in objects {
        let path = format!("{}{query}", path_of(kind, Some(&namespace), Some(&name)));
        match operator.ask::<Found>(Method::DELETE, &path, None) {
            Ok(object) => {
                let word = output.toned(Tone::Good, "deleted");
                let dry = if args.dry_run.is_some() { " (dry run)" } else { "" };
                output.line(format!("{} {word}{dry}", title(&object)))?;
            }
            Err(Refused::Problem(problem)) if problem.code == 404 && args.ignore_not_found => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(OK)
}

/// Kind, namespace and name of everything that is to go.
fn asked(args: &DeleteArgs) -> Result<Vec<(Kind, String, String)>, Failure> {
    let namespace = namespace_or_default(args.namespace.as_ref()).to_owned();
    let mut asked = Vec::new();
    if let Some(word) = &args.kind {
        let (word, first) = match word.split_once('/') {
            Some((word, name)) => (word, Some(name.to_owned())),
            None => (word.as_str(), None),
        };
        let kind = kind_of(word)?;
        asked.extend(first.into_iter().chain(args.names.clone()).map(|name| (kind, namespace.clone(), name)));
        if asked.is_empty() {
            return Err(Failure::new("nobody is named").hint("write `interlock delete route NAME`"));
        }
    }
    for source in files::documents(&args.files)? {
        for document in source.documents {
            match (document.body, document.id) {
                (Ok(body), Some((kind, id))) => {
                    let own = body.metadata().namespace.is_some();
                    let space = if own { id.namespace().to_owned() } else { namespace.clone() };
                    asked.push((kind, space, id.name().to_owned()));
                }
                (Err(invalid), _) => return Err(Failure::new(*invalid)),
                (Ok(_), None) => {}
            }
        }
    }
    Ok(asked)
}
