//! Keeps `docs/routes.md` true: its table is the schema of `Route` and the table of what proxies make of it.
//!
//! `UPDATE_DOCS=1 cargo test -p interlock-core --test routes_reference` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]
#![allow(clippy::disallowed_methods, reason = "the test reads and writes the page; the core does not")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use interlock_core::declared::{Cost, FIELDS, Support, support};
use interlock_core::plan::Abilities;
use interlock_crds::ProxyKind;
use interlock_crds::schema::Kind;
use serde_json::Value;

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/routes.md")
}

/// One field of the schema that has no fields of its own.
struct Leaf {
    path: String,
    description: String,
    default: String,
    /// The values that it takes, where these are few.
    values: Vec<String>,
}

fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let inner = schema["$ref"].as_str().or_else(|| schema["anyOf"][0]["$ref"].as_str());
    match inner.and_then(|reference| reference.strip_prefix("#/$defs/")) {
        Some(name) => &root["$defs"][name],
        None => schema,
    }
}

fn leaves(root: &Value, schema: &Value, at: &str, found: &mut Vec<Leaf>) {
    for (name, property) in schema["properties"].as_object().unwrap() {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let inner = resolved(root, property);
        let inner = if inner["type"] == "array" { resolved(root, &inner["items"]) } else { inner };
        if inner.get("properties").is_some() {
            leaves(root, inner, &path, found);
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().replace('\n', " ");
        let values = inner["oneOf"].as_array().into_iter().flatten().map(|one| text(&one["const"])).collect();
        let default = &property["default"];
        let default = if default.is_null() { String::new() } else { format!("`{default}`").replace('"', "") };
        found.push(Leaf { path, description: text(&property["description"]), default, values });
    }
}

fn all() -> Vec<Leaf> {
    let schema = Kind::Route.schema();
    let mut found = Vec::new();
    leaves(&schema, &schema["$defs"]["RouteSpec"], "", &mut found);
    found
}

fn cells(support: Support) -> (String, String, &'static str) {
    let since = |proxy| {
        let Abilities { major, minor, .. } = Abilities::oldest(proxy);
        format!("{major}.{minor}")
    };
    let (haproxy, nginx) = (since(ProxyKind::Haproxy), since(ProxyKind::Nginx));
    let no = || "not yet".to_owned();
    match support {
        Support::Live => (haproxy, nginx, "live"),
        Support::Reload => (haproxy, nginx, "reload"),
        Support::Only(ProxyKind::Haproxy) => (haproxy, no(), "reload"),
        Support::Only(ProxyKind::Nginx) => (no(), nginx, "reload"),
        Support::Not(cost, _) => (
            no(),
            no(),
            match cost {
                Cost::Field => "served without it",
                Cost::Reference => "the reference is left out",
                Cost::Match => "left out",
                Cost::Closed => "answered 503",
            },
        ),
    }
}

fn table() -> String {
    let mut rows = "| field | what it says | default | HAProxy from | nginx from | a change |\n\
                    | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for Leaf { path, description, default, values } in all() {
        let mut row = |path: &str, description: &str, default: &str| {
            let (haproxy, nginx, change) = cells(support(path).unwrap());
            writeln!(rows, "| `{path}` | {description} | {default} | {haproxy} | {nginx} | {change} |")
                .unwrap();
        };
        row(&path, &description, &default);
        for value in values {
            let path = format!("{path}={value}");
            if FIELDS.iter().any(|field| field.path == path) {
                row(&path, "", "");
            }
        }
    }
    rows
}

#[test]
fn the_reference_has_every_field() {
    let written = std::fs::read_to_string(page()).unwrap();
    let (open, close) = ("<!-- fields -->\n", "<!-- end fields -->");
    let (before, rest) = written.split_once(open).unwrap();
    let (_, after) = rest.split_once(close).unwrap();
    let filled = format!("{before}{open}{}{close}{after}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page(), &filled).unwrap();
        return;
    }
    assert!(written == filled, "docs/routes.md is behind: run this test with UPDATE_DOCS=1");
}

#[test]
fn every_field_is_done_or_answered() {
    let missing: Vec<String> =
        all().into_iter().map(|leaf| leaf.path).filter(|path| support(path).is_none()).collect();
    assert!(missing.is_empty(), "neither done nor answered: {missing:?}");
}

/// A path of the table that the schema does not have would answer for nothing.
#[test]
fn the_table_has_no_other_fields() {
    let mut known = BTreeSet::new();
    for Leaf { path, values, .. } in all() {
        known.extend(values.iter().map(|value| format!("{path}={value}")));
        let mut path = path.as_str();
        known.insert(path.to_owned());
        while let Some((above, _)) = path.rsplit_once('.') {
            known.insert(above.to_owned());
            path = above;
        }
    }
    let unknown: Vec<&str> =
        FIELDS.iter().map(|field| field.path).filter(|path| !known.contains(*path)).collect();
    assert!(unknown.is_empty(), "not in the schema: {unknown:?}");
}

/// Whatever is not done was asked for in the golden cases, and answered there.
#[test]
fn what_is_not_done_is_answered_in_a_golden_case() {
    let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let read = |case: &str| std::fs::read_to_string(cases.join(case).join("findings.yaml")).unwrap();
    let told = read("route_document_asks_for_what_cannot_be_done") + &read("route_document_without_backends");
    let silent: Vec<&str> = FIELDS
        .iter()
        .filter_map(|field| match field.support {
            Support::Not(_, why) => Some((field.path, why)),
            _ => None,
        })
        .filter(|(_, why)| !told.contains(&why.replace('\'', "''")))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "nobody was told of {silent:?}");
}
