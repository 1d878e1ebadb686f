//! The schemas in crds/schemas are what the types say: compared here, written with `UPDATE_SCHEMAS=1`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::{Path, PathBuf};

use interlock_crds::schema::{self, Kind};
use interlock_crds::{
    API_VERSION, Configuration, Engine, EngineSpec, Route, RouteSpec, ServiceCluster, ServiceClusterSpec,
};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A `CustomResourceDefinition` around a spec, structural as Kubernetes wants it.
fn definition<T: JsonSchema>(kind: Kind, scope: &str) -> Value {
    let plural = format!("{}s", kind.as_str().to_lowercase());
    let kind = (kind.as_str(), kind.short());
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let mut spec = Schema::to_value(settings.into_generator().into_root_schema_for::<T>());
    structural(&mut spec);
    let (group, version) = API_VERSION.split_once('/').unwrap();
    let text = |description: &str| json!({"type": "string", "description": description});
    sorted(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "names": {
                "kind": kind.0, "plural": plural, "singular": kind.0.to_lowercase(), "shortNames": [kind.1],
            },
            "scope": scope,
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": spec["description"],
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": text(&format!("`{API_VERSION}`.")),
                        "kind": text(&format!("`{}`.", kind.0)),
                        "metadata": {"type": "object"},
                        "spec": spec,
                    },
                }},
            }],
        },
    }))
}

/// Structural schemas know no `additionalProperties: false` beside properties (unknown fields are pruned
/// or refused by the server) and no types inside `oneOf`: a list of constants becomes one `enum`.
fn structural(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(structural),
        Value::Object(map) => {
            if map.contains_key("properties") {
                map.remove("additionalProperties");
            }
            map.remove("title");
            merge_all_of(map);
            merge_nullable(map);
            merge_constants(map);
            map.values_mut().for_each(structural);
        }
        _ => {}
    }
}

/// `allOf` of one schema is how a reference carries its own description.
fn merge_all_of(map: &mut Map<String, Value>) {
    let Some(Value::Array(parts)) = map.remove("allOf") else { return };
    assert_eq!(parts.len(), 1, "an allOf of several schemas is not structural: {parts:?}");
    for part in parts {
        let Value::Object(part) = part else { continue };
        for (key, value) in part {
            map.entry(key).or_insert(value);
        }
    }
}

/// `anyOf` of a type and null is how an optional enum is written.
fn merge_nullable(map: &mut Map<String, Value>) {
    let Some(Value::Array(parts)) = map.remove("anyOf") else { return };
    assert_eq!(parts.len(), 2, "only an optional type: {parts:?}");
    for part in parts {
        let Value::Object(part) = part else { continue };
        let null = part.get("enum") == Some(&json!([null]));
        for (key, value) in part.into_iter().filter(|(key, _)| !null || key == "nullable") {
            map.entry(key).or_insert(value);
        }
    }
}

fn merge_constants(map: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = map.remove("oneOf") else { return };
    let values: Vec<Value> = choices
        .iter()
        .map(|choice| choice.get("const").or_else(|| choice["enum"].get(0)).cloned().expect("only constants"))
        .collect();
    let meanings = choices.iter().zip(&values).map(|(choice, value)| {
        format!("`{}`: {}", value.as_str().unwrap(), choice["description"].as_str().unwrap_or_default())
    });
    let head = map.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let description = std::iter::once(head).chain(meanings).collect::<Vec<_>>().join(" ");
    map.insert("description".to_owned(), json!(description.trim()));
    map.insert("type".to_owned(), json!("string"));
    map.insert("enum".to_owned(), Value::Array(values));
}

/// The same value with keys in order, whichever map `serde_json` was built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn is_current(name: &str, text: &str) {
    let path = folder().join(name);
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "crds/schemas/{name} is old: UPDATE_SCHEMAS=1 cargo test -p interlock-crds");
}

fn json_text(schema: &Value) -> String {
    serde_json::to_string_pretty(schema).unwrap() + "\n"
}

fn yaml_text(definition: &Value) -> String {
    format!(
        "# Generated from the types in crds/src; do not edit.\n{}",
        serde_yaml::to_string(definition).unwrap()
    )
}

#[test]
fn editor_schemas_are_current() {
    for kind in Kind::ALL {
        is_current(&format!("{}.json", kind.as_str().to_lowercase()), &json_text(&kind.schema()));
    }
}

/// The definition of each kind that is a document.
fn definitions() -> [(&'static str, Value); 3] {
    [
        ("servicecluster.yaml", definition::<ServiceClusterSpec>(Kind::ServiceCluster, "Cluster")),
        ("route.yaml", definition::<RouteSpec>(Kind::Route, "Namespaced")),
        ("engine.yaml", definition::<EngineSpec>(Kind::Engine, "Cluster")),
    ]
}

#[test]
fn definitions_are_current() {
    for (file, definition) in definitions() {
        is_current(file, &yaml_text(&definition));
    }
}

/// The examples of a kind, each put into a document.
fn examples<T: DeserializeOwned>(kind: Kind, spec: &str) -> Vec<T> {
    let schema = kind.schema();
    let examples = schema["$defs"][spec]["examples"].as_array().cloned().unwrap_or_default();
    examples
        .into_iter()
        .map(|spec| {
            let document = json!({
                "apiVersion": API_VERSION, "kind": kind.as_str(), "metadata": {"name": "example"}, "spec": spec,
            });
            serde_json::from_value(document).unwrap()
        })
        .collect()
}

#[test]
fn every_kind_has_examples_that_it_takes() {
    assert!(examples::<Route>(Kind::Route, "RouteSpec").len() >= 2);
    assert!(!examples::<ServiceCluster>(Kind::ServiceCluster, "ServiceClusterSpec").is_empty());
    assert!(!examples::<Engine>(Kind::Engine, "EngineSpec").is_empty());
}

#[test]
fn a_kind_is_found_by_any_of_its_names() {
    for (word, kind) in [
        ("route", Some(Kind::Route)),
        ("Routes", Some(Kind::Route)),
        ("rt", Some(Kind::Route)),
        ("SC", Some(Kind::ServiceCluster)),
        ("engines", Some(Kind::Engine)),
        ("ingress", None),
    ] {
        assert_eq!(Kind::of(word), kind, "{word}");
    }
}

#[test]
fn a_misspelt_field_is_refused() {
    let text = r#"{"apiVersion": "interlock.dev/v1alpha1", "kind": "Route", "metadata": {"name": "a"},
        "spec": {"hostnames": ["a.example.com"], "rules": [{"backendRef": []}]}}"#;
    let error = serde_json::from_str::<Route>(text).unwrap_err().to_string();
    assert!(error.contains("unknown field `backendRef`"), "{error}");
}

/// Fields without a description, as paths.
fn undescribed(schema: &Value, at: &str, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                for (name, property) in properties {
                    if property.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
                        found.push(format!("{at}/{name}"));
                    }
                }
            }
            for (key, value) in map {
                undescribed(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| undescribed(item, &format!("{at}/{i}"), found));
        }
        _ => {}
    }
}

#[test]
fn every_field_is_described() {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        undescribed(&kind.schema(), kind.as_str(), &mut found);
    }
    for (file, definition) in definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        undescribed(schema, file, &mut found);
    }
    assert!(found.is_empty(), "without a description: {found:#?}");
}

/// What the schemas are for: a default configuration fits, a misspelt key does not.
#[test]
fn the_schema_closes_every_object() {
    assert_eq!(schema::of::<Configuration>("Configuration"), Kind::Configuration.schema());
    for kind in Kind::ALL {
        let schema = kind.schema();
        assert_eq!(schema["additionalProperties"], json!(false), "{}", kind.as_str());
        let definitions = schema["$defs"].as_object().unwrap();
        let open: Vec<&String> = definitions
            .iter()
            .filter(|(_, schema)| {
                schema.get("properties").is_some() && schema["additionalProperties"] != json!(false)
            })
            .map(|(name, _)| name)
            .collect();
        assert!(open.is_empty(), "unknown keys pass in {open:?}");
    }
}
