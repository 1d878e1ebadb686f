//! `interlock get`: objects as tables or documents, once or as they change; and proxies, endpoints, findings.

use interlock_core::model::Readiness;
use interlock_crds::schema::Kind;
use serde_json::{Value, json};

use super::api::{Event, Found, Operator, condition, kind_of, namespace_or_default, word_of};
use super::args::{GetArgs, GetShape, Machine};
use super::failure::Failure;
use super::output::{Output, Tone};
use super::world::{self, World};
use super::{OK, events, lint};
use crate::serve::TargetState;
use crate::settings::Environment;

/// Prints what is asked for.
pub(super) fn run(args: &GetArgs, environment: &Environment, output: &mut Output) -> Result<u8, Failure> {
    let operator = Operator::of(&args.api, environment)?;
    match args.kind.to_ascii_lowercase().as_str() {
        "target" | "targets" | "proxies" | "proxy" => return targets(&operator, args, output),
        "endpoint" | "endpoints" => return endpoints(&operator, args, output),
        "finding" | "findings" => return findings(&operator, args, output),
        _ => {}
    }
    let (word, name) = match (args.kind.split_once('/'), &args.name) {
        (Some((word, name)), None) => (word, Some(name.to_owned())),
        _ => (args.kind.as_str(), args.name.clone()),
    };
    let kind = kind_of(word)?;
    let namespace = (!args.all_namespaces).then(|| namespace_or_default(args.namespace.as_ref()));
    if args.watch {
        return operator.block(watch(&operator, kind, namespace, name.as_deref(), args, output));
    }
    let view =
        View { kind, spaces: args.all_namespaces && kind.namespaced(), wide: args.output == GetShape::Wide };
    let found = match &name {
        Some(name) => vec![operator.get(kind, namespace_or_default(args.namespace.as_ref()), name)?],
        None => operator.list(kind, namespace, &args.selector)?,
    };
    match args.output {
        GetShape::Name => {
            for object in &found {
                output.line(name_of(object))?;
            }
        }
        GetShape::Json if name.is_some() => output.document(Machine::Json, &found.first())?,
        GetShape::Json => output.document(
            Machine::Json,
            &json!({
                "apiVersion": "v1", "kind": "List", "items": found,
            }),
        )?,
        GetShape::Yaml => {
            for (at, object) in found.iter().enumerate() {
                if at > 0 {
                    output.line("---")?;
                }
                output.document(Machine::Yaml, object)?;
            }
        }
        GetShape::Table | GetShape::Wide if found.is_empty() => {
            let place = namespace.map(|space| format!(" in namespace {space}")).filter(|_| kind.namespaced());
            output.note(&format!("there are no {}{}", kind.plural(), place.unwrap_or_default()));
        }
        GetShape::Table | GetShape::Wide => {
            let rows: Vec<_> = found.iter().map(|object| view.row(object)).collect();
            output.table(&view.head(), &rows)?;
        }
    }
    Ok(OK)
}

fn name_of(object: &Found) -> String {
    format!("{}/{}", object.kind.to_lowercase(), object.metadata.name)
}

async fn watch(
    operator: &Operator,
    kind: Kind,
    namespace: Option<&str>,
    name: Option<&str>,
    args: &GetArgs,
    output: &mut Output,
) -> Result<u8, Failure> {
    let view =
        View { kind, spaces: args.all_namespaces && kind.namespaced(), wide: args.output == GetShape::Wide };
    let mut watch = operator.watch(kind, namespace, &args.selector).await?;
    let mut first = Some(Vec::new());
    while let Some(event) = watch.next().await? {
        let (object, gone) = match event {
            Event::Begun => {
                // What there is first, as one table.
                let rows: Vec<_> = first.take().unwrap_or_default();
                if matches!(args.output, GetShape::Table | GetShape::Wide) {
                    output.table(&view.head(), &rows)?;
                }
                continue;
            }
            Event::Is(object) => (object, false),
            Event::Gone(object) => (object, true),
        };
        if name.is_some_and(|name| name != object.metadata.name) {
            continue;
        }
        match (args.output, &mut first) {
            (GetShape::Name, _) => output.line(name_of(&object))?,
            (GetShape::Json, _) => output.line(serde_json::to_string(&object).map_err(Failure::new)?)?,
            (GetShape::Yaml, _) => {
                output.line("---")?;
                output.document(Machine::Yaml, &object)?;
            }
            (GetShape::Table | GetShape::Wide, Some(rows)) => rows.push(view.row(&object)),
            (GetShape::Table | GetShape::Wide, None) => {
                let cells: Vec<String> =
                    view.row(&object).into_iter().map(|(tone, text)| output.toned(tone, &text)).collect();
                let gone = if gone { output.toned(Tone::Bad, "  deleted") } else { String::new() };
                output.line(format!("{}{gone}", cells.join("  ")))?;
            }
        }
    }
    Ok(OK)
}

/// Which columns are shown.
struct View {
    kind: Kind,
    spaces: bool,
    wide: bool,
}

/// The tone of `True`, `False` and `Unknown`.
pub(super) fn tone(word: &str) -> Tone {
    match word {
        "True" => Tone::Good,
        "False" => Tone::Bad,
        _ => Tone::Fair,
    }
}

/// How long ago a time of RFC 3339 was.
pub(super) fn since(time: Option<&String>) -> String {
    let then = time.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    then.map_or_else(
        || "-".to_owned(),
        |then| events::age(jiff::Timestamp::now().as_second().saturating_sub(then.as_second())),
    )
}

impl View {
    fn head(&self) -> Vec<&'static str> {
        let own: &[&str] = match (self.kind, self.wide) {
            (Kind::Route, false) => &["HOSTS", "READY", "PROGRAMMED", "AGE"],
            (Kind::Route, true) => {
                &["HOSTS", "ACCEPTED", "RESOLVED", "READY", "PROGRAMMED", "AGE", "OWNER", "MESSAGE"]
            }
            (Kind::ServiceCluster, false) => &["PROXY", "PROXIES", "PROGRAMMED"],
            (Kind::ServiceCluster, true) => &["PROXY", "PROXIES", "PROGRAMMED", "MESSAGE"],
            (_, false) => &["ADDRESS", "CONNECTED"],
            (_, true) => &["ADDRESS", "CONNECTED", "MESSAGE"],
        };
        let space = self.spaces.then_some("NAMESPACE");
        space.into_iter().chain(["NAME"]).chain(own.iter().copied()).collect()
    }

    fn row(&self, object: &Found) -> Vec<(Tone, String)> {
        let plain = |text: String| (Tone::Plain, text);
        let says = |kind: &str| {
            let word = word_of(object, kind);
            (tone(word), word.to_owned())
        };
        let mut row = Vec::new();
        if self.spaces {
            row.push(plain(object.metadata.namespace().to_owned()));
        }
        row.push((Tone::Bold, object.metadata.name.clone()));
        match self.kind {
            Kind::Route => {
                row.push(plain(texts(&object.spec["hostnames"])));
                if self.wide {
                    row.extend([says("Accepted"), says("ResolvedRefs")]);
                }
                row.extend([says("Ready"), says("Programmed")]);
                row.push((Tone::Quiet, since(object.metadata.creation_timestamp.as_ref())));
                if self.wide {
                    let owner = object.metadata.labels.get(crate::store::OWNER).cloned();
                    row.push(plain(owner.unwrap_or_else(|| "-".to_owned())));
                }
            }
            Kind::ServiceCluster => {
                row.push(plain(object.spec["proxy"].as_str().unwrap_or("-").to_owned()));
                let targets = object.status.as_ref().map_or(0, |status| status.targets.len());
                row.extend([plain(targets.to_string()), says("Programmed")]);
            }
            _ => {
                row.push(plain(object.spec["address"].as_str().unwrap_or("-").to_owned()));
                row.push(says("Connected"));
            }
        }
        if self.wide {
            row.push(plain(message(object)));
        }
        row
    }
}

/// Why the first condition that is not true is not.
fn message(object: &Found) -> String {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let kinds = conditions.map(|condition| condition.kind.as_str());
    let untrue =
        kinds.filter(|kind| word_of(object, kind) != "True").find_map(|kind| condition(object, kind));
    untrue.map_or_else(String::new, |condition| condition.message.clone())
}

fn texts(list: &Value) -> String {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join(",")
}

/// Prints rows, or the same as a document.
fn print(
    args: &GetArgs,
    head: &[&str],
    rows: &[Vec<(Tone, String)>],
    whole: &Value,
    output: &mut Output,
) -> Result<u8, Failure> {
    match args.output {
        GetShape::Table | GetShape::Wide => output.table(head, rows)?,
        GetShape::Json => output.document(Machine::Json, whole)?,
        GetShape::Yaml => output.document(Machine::Yaml, whole)?,
        GetShape::Name => {
            for (_, name) in rows.iter().filter_map(|row| row.first()) {
                output.line(name)?;
            }
        }
    }
    Ok(OK)
}

fn targets(operator: &Operator, args: &GetArgs, output: &mut Output) -> Result<u8, Failure> {
    let snapshot = world::of_operator(operator)?;
    let mut rows = Vec::new();
    for (id, status) in &snapshot.targets {
        if args.name.as_ref().is_some_and(|name| name != id.as_str()) {
            continue;
        }
        let good = status.state == TargetState::Programmed;
        let digest = |digest: &Option<interlock_core::model::Digest>| {
            (Tone::Plain, digest.as_ref().map_or("-", |digest| digest.as_str()).to_owned())
        };
        rows.push(vec![
            (Tone::Bold, id.to_string()),
            (Tone::Plain, status.cluster.to_string()),
            (Tone::Plain, status.proxy.as_str().to_owned()),
            (if good { Tone::Good } else { Tone::Fair }, status.state.as_str().to_owned()),
            digest(&status.running),
            digest(&status.wanted),
            (Tone::Plain, status.message.clone().unwrap_or_default()),
        ]);
    }
    let whole: Vec<Value> = snapshot
        .targets
        .iter()
        .map(|(id, status)| {
            json!({
                "name": id, "cluster": status.cluster, "proxy": status.proxy, "state": status.state,
                "running": status.running, "wanted": status.wanted, "message": status.message,
            })
        })
        .collect();
    print(
        args,
        &["PROXY", "CLUSTER", "KIND", "STATE", "RUNS", "WANTED", "MESSAGE"],
        &rows,
        &json!(whole),
        output,
    )
}

fn endpoints(operator: &Operator, args: &GetArgs, output: &mut Output) -> Result<u8, Failure> {
    let world = World::of(world::of_operator(operator)?);
    let placements = &world.compiled.placements;
    let named = |route: &str| args.name.as_ref().is_none_or(|name| route.starts_with(name.as_str()));
    let rows: Vec<Vec<(Tone, String)>> = placements
        .iter()
        .filter(|one| named(&one.route))
        .map(|one| {
            let state = match one.readiness {
                Some(Readiness::Ready) => "ready",
                Some(Readiness::Cold) => "not ready yet",
                Some(Readiness::Unhealthy) => "unhealthy",
                Some(Readiness::Draining) => "stopping",
                None => "not reachable",
            };
            let tone = if one.serving { Tone::Good } else { Tone::Fair };
            vec![
                (Tone::Bold, one.route.clone()),
                (Tone::Plain, one.target.to_string()),
                (Tone::Plain, one.name.clone()),
                (Tone::Plain, one.address.map_or_else(|| "-".to_owned(), |address| address.to_string())),
                (tone, state.to_owned()),
                (
                    Tone::Plain,
                    one.document.as_ref().map_or_else(|| "labels".to_owned(), |id| format!("Route {id}")),
                ),
            ]
        })
        .collect();
    let whole: Vec<_> = placements.iter().filter(|one| named(&one.route)).collect();
    let whole = serde_json::to_value(whole).map_err(Failure::new)?;
    print(args, &["ROUTE", "PROXY", "CONTAINER", "ADDRESS", "STATE", "ASKED BY"], &rows, &whole, output)
}

fn findings(operator: &Operator, args: &GetArgs, output: &mut Output) -> Result<u8, Failure> {
    let world = World::of(world::of_operator(operator)?);
    let findings = &world.compiled.findings;
    if args.output == GetShape::Table || args.output == GetShape::Wide {
        if findings.is_empty() {
            output.note("nothing is wrong");
        }
        lint::show(findings, output)?;
        return Ok(OK);
    }
    let rows: Vec<_> =
        findings.iter().map(|one| vec![(Tone::Plain, one.reason.as_str().to_owned())]).collect();
    let whole = serde_json::to_value(findings).map_err(Failure::new)?;
    print(args, &["REASON"], &rows, &whole, output)
}
