//! The schemas in crds/schemas are what the types say: compared here, written with `UPDATE_SCHEMAS=1`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::{Path, PathBuf};

use interlock_crds::{API_VERSION, Configuration, ServiceClusterSpec};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// Plain JSON Schema for editors: `# yaml-language-server: $schema=…/configuration.json`.
fn editor_schema<T: JsonSchema>(title: &str) -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let mut schema = sorted(Schema::to_value(schema));
    schema["title"] = json!(title);
    schema
}

/// A `CustomResourceDefinition` around a spec, structural as Kubernetes wants it.
fn definition<T: JsonSchema>(kind: &str, plural: &str) -> Value {
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
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "scope": "Cluster",
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
                        "kind": text(&format!("`{kind}`.")),
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
    is_current("configuration.json", &json_text(&editor_schema::<Configuration>("Configuration")));
    is_current("servicecluster.json", &json_text(&editor_schema::<ServiceClusterSpec>("ServiceClusterSpec")));
}

#[test]
fn definitions_are_current() {
    let definition = definition::<ServiceClusterSpec>("ServiceCluster", "serviceclusters");
    is_current("servicecluster.yaml", &yaml_text(&definition));
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
    undescribed(&editor_schema::<Configuration>("Configuration"), "", &mut found);
    let spec = definition::<ServiceClusterSpec>("ServiceCluster", "serviceclusters");
    undescribed(
        &spec["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
        "spec",
        &mut found,
    );
    assert!(found.is_empty(), "without a description: {found:#?}");
}

/// What the schemas are for: a default configuration fits, a misspelt key does not.
#[test]
fn the_schema_closes_every_object() {
    let schema = editor_schema::<Configuration>("Configuration");
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
