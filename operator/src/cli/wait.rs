//! `interlock wait`: until something is true of an object.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interlock_core::model::DocumentId;
use interlock_crds::schema::Kind;

use super::api::{Event, Found, Operator, condition, kind_of, namespace_or_default, word_of};
use super::args::WaitArgs;
use super::failure::Failure;
use super::output::{Output, Tone};
use super::{FOUND, OK};
use crate::manifest;
use crate::settings::Environment;

/// What is waited for.
#[derive(Debug, Clone)]
pub(super) enum Awaited {
    /// A condition, of this generation at least.
    Condition { kind: String, status: String, generation: u64 },
    /// That it is gone.
    Gone,
}

impl Awaited {
    /// A condition of a generation or a later one.
    pub(super) fn condition(kind: &str, status: &str, generation: u64) -> Self {
        Self::Condition { kind: kind.to_owned(), status: status.to_owned(), generation }
    }

    fn of(text: &str) -> Result<Self, Failure> {
        if text.eq_ignore_ascii_case("delete") {
            return Ok(Self::Gone);
        }
        let rest = text.strip_prefix("condition=").filter(|rest| !rest.is_empty());
        let rest = rest.ok_or_else(|| {
            Failure::new(format!("`--for={}` is not known", text.escape_debug()))
                .hint("write `--for=condition=Programmed`, `--for=condition=Ready=False` or `--for=delete`")
        })?;
        let (kind, status) = rest.split_once('=').unwrap_or((rest, "True"));
        Ok(Self::condition(kind, status, 0))
    }

    fn holds(&self, object: &Found) -> bool {
        match self {
            Self::Gone => false,
            Self::Condition { kind, status, generation } => {
                object.metadata.generation.unwrap_or_default() >= *generation
                    && word_of(object, kind).eq_ignore_ascii_case(status)
            }
        }
    }

    fn why(&self, object: &Found) -> String {
        match self {
            Self::Gone => "it is still there".to_owned(),
            Self::Condition { kind, .. } => condition(object, kind)
                .map_or("nothing is known of it yet".to_owned(), |known| {
                    format!("{} ({})", known.message, known.reason)
                }),
        }
    }
}

/// Waits; exit code 1 if it is not so in time.
pub(super) fn run(args: &WaitArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let (kind, name) = args.object.split_once('/').ok_or_else(|| {
        Failure::new(format!("`{}` is no object", args.object.escape_debug())).hint("write `route/NAME`")
    })?;
    let kind = kind_of(kind)?;
    let id = DocumentId::new(namespace_or_default(args.namespace.as_ref()), name).map_err(Failure::new)?;
    let awaited = Awaited::of(&args.what)?;
    let operator = Operator::of(&args.api, environment)?;
    let all = BTreeMap::from([((kind, id.clone()), awaited)]);
    let lacking = operator.block(until(&operator, all, args.timeout.get()))?;
    let title = manifest::title(kind, &id);
    for why in lacking.values() {
        output.error(&format!("{title}: `{}` does not hold after {}: {why}", args.what, args.timeout));
    }
    if lacking.is_empty() {
        let met = output.toned(Tone::Good, "met");
        output.line(format!("{title} {met}: {}", args.what))?;
    }
    Ok(if lacking.is_empty() { OK } else { FOUND })
}

/// Waits until everything holds; what does not in time, and why.
pub(super) async fn until(
    operator: &Operator,
    awaited: BTreeMap<(Kind, DocumentId), Awaited>,
    timeout: Duration,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut lacking: BTreeMap<(Kind, DocumentId), String> =
        awaited.keys().map(|key| (key.clone(), "there is no such object".to_owned())).collect();
    let kinds: BTreeSet<Kind> = awaited.keys().map(|(kind, _)| *kind).collect();
    let deadline = tokio::time::Instant::now() + timeout;
    for kind in kinds {
        let waiting = follow(operator, kind, &awaited, &mut lacking);
        if let Ok(followed) = tokio::time::timeout_at(deadline, waiting).await {
            followed?;
        }
    }
    Ok(lacking.into_iter().map(|((kind, id), why)| (manifest::title(kind, &id), why)).collect())
}

/// Follows the objects of a kind until nothing is lacking of it any more.
async fn follow(
    operator: &Operator,
    kind: Kind,
    awaited: &BTreeMap<(Kind, DocumentId), Awaited>,
    lacking: &mut BTreeMap<(Kind, DocumentId), String>,
) -> Result<(), Failure> {
    let mut watch = operator.watch(kind, None, "").await?;
    let mut seen = BTreeSet::new();
    while lacking.keys().any(|(of, _)| *of == kind) {
        let event = watch.next().await?.ok_or_else(|| Failure::new("the operator has ended"))?;
        match event {
            Event::Is(object) => {
                let key = key(kind, &object)?;
                let Some(awaited) = awaited.get(&key) else { continue };
                if awaited.holds(&object) {
                    lacking.remove(&key);
                } else {
                    lacking.insert(key.clone(), awaited.why(&object));
                }
                seen.insert(key);
            }
            Event::Gone(object) => {
                let key = key(kind, &object)?;
                match awaited.get(&key) {
                    Some(Awaited::Gone) => drop(lacking.remove(&key)),
                    Some(_) => drop(lacking.insert(key, "it was deleted".to_owned())),
                    None => {}
                }
            }
            // Who was not named is not there.
            Event::Begun => {
                lacking
                    .retain(|key, _| !matches!(awaited.get(key), Some(Awaited::Gone)) || seen.contains(key));
            }
        }
    }
    Ok(())
}

fn key(kind: Kind, object: &Found) -> Result<(Kind, DocumentId), Failure> {
    let id = DocumentId::new(object.metadata.namespace(), &object.metadata.name).map_err(Failure::new)?;
    Ok((kind, id))
}
