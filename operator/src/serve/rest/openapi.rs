//! The API's description, made from the schemas of the kinds.

use interlock_crds::schema::Kind;
use serde_json::{Map, Value, json};

use super::ROOT;

/// The OpenAPI document. Its schemas are those of the types, so that nothing is said twice.
pub fn document() -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in [Kind::Route, Kind::ServiceCluster, Kind::Engine] {
        let mut schema = kind.schema();
        let inner = schema.as_object_mut().and_then(|schema| schema.remove("$defs"));
        if let Some(Value::Object(inner)) = inner {
            schemas.extend(inner);
        }
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("$schema");
        }
        schemas.insert(kind.as_str().to_owned(), schema);
        add_paths(kind, &mut paths);
    }
    schemas.insert("Problem".to_owned(), problem());
    paths.insert(format!("{ROOT}/apply"), apply());
    let any = operation("Everything that is stored", &[], None, None);
    paths.insert(format!("{ROOT}/backup"), json!({"get": any}));
    paths.insert(format!("{ROOT}/restore"), restore());
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Interlock",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What is declared, and what is true of it. Only the owner of the socket may ask.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    });
    point(&mut document);
    document
}

/// References lead to the components.
fn point(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                *reference = reference.replace("#/$defs/", "#/components/schemas/");
            }
            map.values_mut().for_each(point);
        }
        Value::Array(items) => items.iter_mut().for_each(point),
        _ => {}
    }
}

fn schema(name: &str) -> Value {
    json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{name}")}}})
}

fn query(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "required": false, "description": description,
        "schema": {"type": "string"}})
}

fn place(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

fn operation(summary: &str, parameters: &[Value], body: Option<&str>, answer: Option<&str>) -> Value {
    let mut content = json!({"description": "done"});
    if let Some(answer) = answer {
        content["content"] = schema(answer);
    }
    let problem = json!({"description": "nothing was done", "content": schema("Problem")});
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": {"2XX": content, "4XX": problem, "5XX": problem},
    });
    if let Some(body) = body {
        let mut content = schema(body);
        content["application/yaml"] = content["application/json"].clone();
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn add_paths(kind: Kind, paths: &mut Map<String, Value>) {
    let (name, plural) = (kind.as_str(), kind.plural());
    let (base, spaces) = if kind.namespaced() {
        (format!("{ROOT}/namespaces/{{namespace}}/{plural}"), vec![place("namespace")])
    } else {
        (format!("{ROOT}/{plural}"), Vec::new())
    };
    let dry = query("dryRun", "`All`: only say what would happen");
    let with = |more: &[Value]| [spaces.as_slice(), more].concat();
    let lists = [
        query("labelSelector", "only objects with these labels: `a=b,c!=d,e,!f`"),
        query("watch", "`1`: one JSON line for each thing that happens"),
        query("resourceVersion", "when watching: only what happened since that write"),
    ];
    if kind.namespaced() {
        let all = json!({"get": operation(&format!("Every {name} of all namespaces"), &lists, None, None)});
        paths.insert(format!("{ROOT}/{plural}"), all);
    }
    let collection = json!({
        "get": operation(&format!("Every {name}"), &with(&lists), None, None),
        "post": operation(&format!("A new {name}"), &with(std::slice::from_ref(&dry)), Some(name), Some(name)),
    });
    paths.insert(base.clone(), collection);
    let one = with(&[place("name")]);
    let as_of = query("resourceVersion", "only if it is as of that write");
    let writes = [one.as_slice(), std::slice::from_ref(&dry)].concat();
    let object = json!({
        "get": operation(&format!("One {name}"), &one, None, Some(name)),
        "put": operation(
            &format!("A {name}, whatever was there; `metadata.resourceVersion` says what may have been"),
            &writes, Some(name), Some(name)
        ),
        "delete": operation(
            &format!("No {name} any more"), &[writes.as_slice(), &[as_of]].concat(), None, Some(name)
        ),
    });
    paths.insert(format!("{base}/{{name}}"), object);
    let history =
        operation(&format!("What a {name} has said so far, and what proxies ran of it"), &one, None, None);
    paths.insert(format!("{base}/{{name}}/history"), json!({"get": history}));
    let to = query("generation", "which one; without it the one before the present");
    let undo = operation(
        &format!("A generation of a {name} is back, and held until it is applied or released"),
        &[writes.as_slice(), &[to]].concat(),
        None,
        None,
    );
    paths.insert(format!("{base}/{{name}}/undo"), json!({"post": undo}));
    let release = operation(&format!("A {name} is not held any more"), &one, None, None);
    paths.insert(format!("{base}/{{name}}/release"), json!({"post": release}));
}

fn apply() -> Value {
    let parameters = [
        query("dryRun", "`All`: only say what would happen"),
        query("owner", "whose the objects become; nobody else's are written"),
        query("prune", "`1`: the owner's other objects go"),
    ];
    let mut apply = operation("Any number of documents, all of them or none", &parameters, None, None);
    let any = json!({"application/yaml": {"schema": {"type": "string"}}});
    apply["requestBody"] = json!({"required": true, "content": any});
    json!({"post": apply})
}

fn restore() -> Value {
    let parameters = [query("replace", "`1`: also where something is stored")];
    let mut restore = operation("Documents in place of everything that is stored", &parameters, None, None);
    restore["requestBody"] =
        json!({"required": true, "content": {"application/yaml": {"schema": {"type": "string"}}}});
    json!({"post": restore})
}

fn problem() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "description": "Why a request was not carried out.",
        "properties": {
            "kind": {"const": "Status"}, "apiVersion": {"const": "v1"}, "status": {"const": "Failure"},
            "message": text, "reason": text, "code": {"type": "integer"},
            "details": {"type": "object", "properties": {
                "kind": text, "name": text, "fix": text,
                "causes": {"type": "array", "items": {"type": "object", "properties": {
                    "reason": text, "document": text, "field": text, "message": text, "value": {}, "fix": text,
                }}},
            }},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_path_has_its_parameters() {
        let document = document();
        for (path, item) in document["paths"].as_object().unwrap() {
            let wanted = path.matches('{').count();
            for (method, operation) in item.as_object().unwrap() {
                let parameters = operation["parameters"].as_array().unwrap();
                let named = parameters.iter().filter(|one| one["in"] == "path").count();
                assert_eq!(named, wanted, "{method} {path}");
            }
        }
    }
}
