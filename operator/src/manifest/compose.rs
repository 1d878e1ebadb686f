//! Compose files: the containers that one would make, as far as a file can tell.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::model::{Container, ContainerId, Digest, Port};
use serde_json::{Map, Value, json};

use crate::yaml::{self, YamlError};

/// The containers of a compose file, by service; none where the text is not one.
pub fn read(text: &str, project: &str) -> Result<Option<BTreeMap<String, Container>>, YamlError> {
    let file = yaml::value(text)?;
    let Some(services) = file.get("services").and_then(Value::as_object) else { return Ok(None) };
    let project = file.get("name").and_then(Value::as_str).unwrap_or(project);
    let containers = services.iter().enumerate().filter_map(|(at, (name, service))| {
        let container = container(project, name, service.as_object()?, at)?;
        Some((name.clone(), container))
    });
    Ok(Some(containers.collect()))
}

fn container(project: &str, name: &str, service: &Map<String, Value>, at: usize) -> Option<Container> {
    let text = |key: &str| service.get(key).and_then(Value::as_str).map(plain).unwrap_or_default();
    let mut labels = pairs(service.get("labels"));
    labels.insert("com.docker.compose.project".to_owned(), project.to_owned());
    labels.insert("com.docker.compose.service".to_owned(), name.to_owned());
    let data = pairs(service.get("environment")).remove("INTERLOCK_DATA");
    let (published, mut exposed) = ports(service.get("ports"));
    exposed.extend(texts(service.get("expose")).iter().filter_map(|port| port_of(port)));
    let named = service.get("container_name").and_then(Value::as_str).map(plain);
    let networks: BTreeMap<String, Value> = networks(service)
        .into_iter()
        // Any address will do; nothing is ever sent there.
        .map(|network| {
            (format!("{project}_{network}"), json!({"ipv4": format!("198.18.0.{}", at % 250 + 1)}))
        })
        .collect();
    let id = Digest::of([project.as_bytes(), name.as_bytes()]);
    let id: ContainerId = id.as_str().parse().ok()?;
    // By its serialised form, as `interlock observe` writes it: what is not said has its default.
    serde_json::from_value(json!({
        "id": id,
        "name": named.unwrap_or_else(|| format!("{project}-{name}-1")),
        "image": text("image"),
        "created": at,
        "started": at,
        "state": "running",
        "hostname": text("hostname"),
        "domainname": text("domainname"),
        "labels": labels,
        "data": data,
        "hostNetwork": text("network_mode") == "host",
        "networks": networks,
        "published": published,
        "exposed": exposed,
    }))
    .ok()
}

/// `KEY: value` or `- KEY=value`.
fn pairs(value: Option<&Value>) -> BTreeMap<String, String> {
    match value {
        Some(Value::Object(map)) => map.iter().map(|(key, value)| (key.clone(), scalar(value))).collect(),
        Some(Value::Array(list)) => list
            .iter()
            .map(scalar)
            .map(|line| match line.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (line, String::new()),
            })
            .collect(),
        _ => BTreeMap::new(),
    }
}

fn networks(service: &Map<String, Value>) -> Vec<String> {
    match service.get("networks") {
        Some(Value::Object(map)) => map.keys().cloned().collect(),
        Some(list @ Value::Array(_)) => texts(Some(list)),
        _ if service.contains_key("network_mode") => Vec::new(),
        _ => vec!["default".to_owned()],
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().map(scalar).collect()
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// A text with compose's variables taken out: their default where they have one, else `value`.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((inside, after)) =
            after.strip_prefix('{').and_then(|inside| inside.split_once('}'))
        {
            let default = inside.split_once('-').map_or("value", |(_, default)| default);
            out.push_str(default);
            rest = after;
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            out.push_str("value");
            rest = after.get(end..).unwrap_or_default();
        }
    }
    out + rest
}

/// What is published, and which ports of the container that are.
fn ports(value: Option<&Value>) -> (Vec<Value>, BTreeSet<Port>) {
    let mut exposed = BTreeSet::new();
    let mut published = Vec::new();
    for entry in value.and_then(Value::as_array).into_iter().flatten() {
        let long = entry.get("target").map(|target| {
            let host = entry.get("published").map(scalar).unwrap_or_default();
            let ip = entry.get("host_ip").map(scalar).unwrap_or_default();
            (ip, host, scalar(target))
        });
        let (ip, host, inner) = long.unwrap_or_else(|| short(&scalar(entry)));
        let Some(inner) = port_of(&inner) else { continue };
        exposed.insert(inner);
        let ip = if ip.is_empty() { "0.0.0.0" } else { ip.trim_matches(['[', ']']) };
        // Without a port of the host Docker takes one of its own range.
        let host = port_of(&host).map_or(32_768, Port::get);
        if ip.parse::<std::net::IpAddr>().is_ok() {
            published.push(json!({"container": inner, "hostIp": ip, "host": host}));
        }
    }
    (published, exposed)
}

/// `[[IP:]HOST:]CONTAINER`.
fn short(text: &str) -> (String, String, String) {
    let mut parts = text.rsplitn(3, ':');
    let inner = parts.next().unwrap_or_default().to_owned();
    let host = parts.next().unwrap_or_default().to_owned();
    (parts.next().unwrap_or_default().to_owned(), host, inner)
}

/// The first port of `8080`, `8080/tcp` or `8000-8010`; none of UDP's.
fn port_of(text: &str) -> Option<Port> {
    if text.ends_with("/udp") {
        return None;
    }
    let text = text.split('/').next()?;
    text.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compose_file_says_what_routing_needs() {
        let text = r#"
name: shop
x-labels: &labels {interlock.warm: true}
services:
  web:
    image: shop/web:${TAG:-3}
    hostname: web
    labels: {<<: *labels, interlock.host: "${HOST}.example.com"}
    environment: [A=b, 'INTERLOCK_DATA={"port": 80}']
    ports: ["8080:80", "127.0.0.1:9000:9000/tcp", "53:53/udp", {target: 70, published: "7070"}]
    networks: [front]
  host:
    container_name: on-host
    network_mode: host
    expose: ["8080"]
    labels: [interlock.host=h.example.com]
"#;
        let read = read(text, "folder").unwrap().unwrap();
        let web = &read["web"];
        assert_eq!((web.name.as_str(), web.image.as_str()), ("shop-web-1", "shop/web:3"));
        assert_eq!(web.labels["interlock.host"], "value.example.com");
        assert_eq!(web.labels["interlock.warm"], "true");
        assert_eq!(web.labels["com.docker.compose.service"], "web");
        assert_eq!(web.data.as_deref(), Some("{\"port\": 80}"));
        let exposed: Vec<u16> = web.exposed.iter().map(|port| port.get()).collect();
        assert_eq!(exposed, [70, 80, 9000]);
        let published: Vec<String> =
            web.published.iter().map(|p| format!("{}:{}:{}", p.host_ip, p.host, p.container)).collect();
        assert_eq!(published, ["0.0.0.0:8080:80", "127.0.0.1:9000:9000", "0.0.0.0:7070:70"]);
        assert_eq!(web.networks.keys().collect::<Vec<_>>(), ["shop_front"]);
        let host = &read["host"];
        assert!(host.host_network && host.networks.is_empty() && host.name == "on-host");
        assert_eq!(host.labels["interlock.host"], "h.example.com");
    }

    #[test]
    fn what_is_no_compose_file_is_none() {
        assert_eq!(read("kind: Route\n", "x"), Ok(None));
        assert!(read("services: [\n", "x").is_err());
    }
}
