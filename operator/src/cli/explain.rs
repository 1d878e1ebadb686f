//! `interlock explain`: what a field of a kind says, from the schema.

use interlock_core::declared::{Cost, Support, support};
use interlock_crds::schema::Kind;
use serde_json::Value;

use super::OK;
use super::args::ExplainArgs;
use super::failure::Failure;
use super::output::{Output, Tone};

/// Prints a field and those below it.
pub(super) fn run(args: &ExplainArgs, output: &mut Output) -> Result<u8, Failure> {
    let Some(field) = &args.field else {
        output.line("Kinds:")?;
        for kind in Kind::ALL {
            output.line(format!("  {} ({})", kind.as_str(), kind.short()))?;
        }
        return Ok(OK);
    };
    let mut steps = field.split('.');
    let word = steps.next().unwrap_or_default();
    let kind = Kind::of(word).ok_or_else(|| {
        let names = Kind::ALL.map(Kind::as_str).join("`, `");
        Failure::new(format!("there is no kind `{}`", word.escape_debug()))
            .hint(format!("write one of `{names}`"))
    })?;
    let root = kind.schema();
    let mut found = Found { schema: &root, of: &root, path: kind.as_str().to_owned() };
    for (at, step) in steps.enumerate() {
        // The spec is what is mostly meant.
        if at == 0 && found.child(&root, step).is_none() && kind != Kind::Configuration {
            found = found.step(&root, "spec")?;
        }
        found = found.step(&root, step)?;
    }
    found.print(kind, &root, output)?;
    Ok(OK)
}

/// A field's schema: as it stands in its parent, and what that refers to.
#[derive(Clone)]
struct Found<'s> {
    schema: &'s Value,
    of: &'s Value,
    path: String,
}

/// What a schema refers to: a definition, one that may be missing, or what a list consists of.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let reference = schema["$ref"].as_str().or_else(|| schema["anyOf"][0]["$ref"].as_str());
    match reference.and_then(|reference| reference.strip_prefix("#/$defs/")) {
        Some(name) => resolved(root, &root["$defs"][name]),
        None if schema["items"].is_object() => resolved(root, &schema["items"]),
        None => schema,
    }
}

impl<'s> Found<'s> {
    fn child(&self, root: &'s Value, name: &str) -> Option<Self> {
        let bare = name.split('[').next().unwrap_or_default();
        let schema = self.of.get("properties")?.get(bare)?;
        let path = format!("{}.{bare}", self.path);
        Some(Self { schema, of: resolved(root, schema), path })
    }

    fn step(&self, root: &'s Value, name: &str) -> Result<Self, Failure> {
        self.child(root, name).ok_or_else(|| {
            let names: Vec<&str> = self.of["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.as_str())
                .collect();
            let failure = Failure::new(format!("`{}` has no field `{}`", self.path, name.escape_debug()));
            let near = names
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            match near {
                Some(near) if strsim::jaro_winkler(near, name) > 0.8 => {
                    failure.hint(format!("did you mean `{near}`?"))
                }
                Some(_) => failure.hint(format!("write one of `{}`", names.join("`, `"))),
                None => failure.hint("it has no fields of its own"),
            }
        })
    }

    fn print(&self, kind: Kind, root: &Value, output: &mut Output) -> Result<(), Failure> {
        let title = output.toned(Tone::Bold, &self.path);
        output.line(format!("{title} <{}>", kind_of(root, self.schema)))?;
        for line in [text(self.schema), text(self.of)].iter().filter(|line| !line.is_empty()).take(1) {
            output.line(format!("  {line}"))?;
        }
        if let Some(default) = self.schema.get("default").filter(|default| !default.is_null()) {
            output.line(format!("  default: {}", shown(default)))?;
        }
        for choice in self.of["oneOf"].as_array().into_iter().flatten() {
            output.line(format!("  `{}`: {}", shown(&choice["const"]), text(choice)))?;
        }
        let path = self.path.strip_prefix("Route.spec.").filter(|_| kind == Kind::Route);
        if let Some(support) = path.and_then(support) {
            output.line(format!("  {}", proxies(support)))?;
        }
        let required = self.of["required"].as_array().cloned().unwrap_or_default();
        for (name, field) in self.of["properties"].as_object().into_iter().flatten() {
            let must = if required.iter().any(|one| one == name) { ", required" } else { "" };
            let word = output.toned(Tone::Help, name);
            output.line("")?;
            output.line(format!("  {word} <{}{must}>", kind_of(root, field)))?;
            let own = text(field);
            let line = if own.is_empty() { text(resolved(root, field)) } else { own };
            output.line(format!("    {line}"))?;
        }
        Ok(())
    }
}

fn proxies(support: Support) -> String {
    match support {
        Support::Live => "both proxies do it; HAProxy takes a change while it runs".to_owned(),
        Support::Reload => "both proxies do it, by a reload".to_owned(),
        Support::Only(proxy) => format!("only {} does it, by a reload", proxy.as_str()),
        Support::Not(cost, why) => {
            let so = match cost {
                Cost::Field => "the route is served without it",
                Cost::Reference => "the reference is left out",
                Cost::Match => "what it is about is left out",
                Cost::Closed => "its requests are answered 503",
            };
            format!("no proxy does it yet: {why}; {so}")
        }
    }
}

fn text(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The type in a word or two.
fn kind_of(root: &Value, schema: &Value) -> String {
    if schema["items"].is_object() {
        return format!("list of {}", kind_of(root, &schema["items"]));
    }
    let of = resolved(root, schema);
    let of_type = |value: &Value| match value {
        Value::Array(types) => types.first().map(shown).unwrap_or_default(),
        other => shown(other),
    };
    match of_type(&of["type"]).as_str() {
        "object" if of.get("properties").is_none() => "map".to_owned(),
        "object" => "object".to_owned(),
        "null" | "" | "string" => "text".to_owned(),
        "integer" => "number".to_owned(),
        other => other.to_owned(),
    }
}
