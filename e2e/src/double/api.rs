//! The double's HTTP side: the calls that an operator makes, answered as Docker 20.10 answers them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, DATE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::{Facts, Listener, NETWORK, Shared, lock};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers until the task is ended.
pub(super) async fn serve(listener: UnixListener, known: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        let known = Shared::clone(&known);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&known, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(known: &Shared, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    // `/v1.41/containers/json`: the version says nothing here.
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty() && !is_version(word)).collect();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let call = match words.as_slice() {
        _ if !reads => "write",
        ["_ping"] => "ping",
        ["version"] => "version",
        ["info"] => "info",
        ["events"] => "events",
        ["containers", "json"] => "container_list",
        ["containers", _, "json"] => "container_inspect",
        ["images", .., "json"] => "image_inspect",
        ["networks"] | ["networks", _] => "network",
        _ => "other",
    };
    *lock(known).requests.entry(call.to_owned()).or_default() += 1;
    match (call, words.as_slice()) {
        ("ping", _) => text("OK"),
        ("version", _) => reply(&json!({"Version": "20.10.24", "ApiVersion": "1.41", "Arch": "amd64"})),
        ("info", _) => reply(&json!({"ServerVersion": "20.10.24", "Name": "double"})),
        ("events", _) => events(known, &parameters(request.uri().query().unwrap_or_default())),
        ("container_list", _) => {
            let known = lock(known);
            reply(&known.containers.iter().map(|(id, facts)| listed(id, facts)).collect::<Value>())
        }
        ("container_inspect", [_, id, _]) => {
            let mut known = lock(known);
            *known.inspected.entry((*id).to_owned()).or_default() += 1;
            match known.containers.get(*id) {
                Some(facts) => reply(&inspected(id, facts)),
                None => refusal(StatusCode::NOT_FOUND, "No such container"),
            }
        }
        ("image_inspect", _) => reply(&json!({"Id": "sha256:app", "Config": {"Labels": {}}})),
        ("network", _) => reply(&json!([])),
        _ => refusal(StatusCode::NOT_IMPLEMENTED, "the double does not do this"),
    }
}

fn is_version(word: &str) -> bool {
    word.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn text(body: &str) -> Response<Body> {
    finished(StatusCode::OK, "text/plain", body.to_owned())
}

fn reply(value: &Value) -> Response<Body> {
    finished(StatusCode::OK, "application/json", value.to_string())
}

fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    finished(status, "application/json", json!({ "message": message }).to_string())
}

fn finished(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Full::from(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The query's parameters, decoded.
fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| (byte? as char).to_digit(16);
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (hex(rest.next()), hex(rest.next()));
                high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok()).unwrap_or(b'?')
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The past since `since`, and then what happens, as lines of JSON.
fn events(known: &Shared, parameters: &BTreeMap<String, String>) -> Response<Body> {
    let filters: BTreeMap<String, Value> =
        parameters.get("filters").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    // A list, or an object whose keys count: Docker takes both.
    let actions: BTreeSet<String> = match filters.get("event") {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::Object(map)) => map.keys().cloned().collect(),
        _ => BTreeSet::new(),
    };
    let since: u64 = parameters.get("since").and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let (lines, receiver) = mpsc::unbounded_channel();
    let mut known = lock(known);
    let wanted = |event: &Value| event["Action"].as_str().is_some_and(|action| actions.contains(action));
    for (_, event) in known.past.iter().filter(|(at, event)| *at >= since && wanted(event)) {
        let _ = lines.send(Bytes::from(format!("{event}\n")));
    }
    known.listeners.push(Listener { actions, lines });
    let frames = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let body = StreamBody::new(frames.map(|line| Ok::<_, Infallible>(Frame::data(line))));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // hyper adds the date to answers; an event stream's matters to nobody, but its absence would to a clock.
    response.headers_mut().remove(DATE);
    response
}

fn listed(id: &str, facts: &Facts) -> Value {
    let state = if facts.running { "running" } else { "created" };
    json!({
        "Id": id, "Names": [format!("/{}", facts.name)], "Image": "app:1", "ImageID": "sha256:app",
        "Created": seconds(facts.created), "State": state,
        "Status": if facts.running { "Up 1 second" } else { "Created" },
        "Labels": facts.labels, "HostConfig": {"NetworkMode": NETWORK},
        "NetworkSettings": {"Networks": {NETWORK: endpoint(facts)}}, "Ports": [], "Mounts": [],
    })
}

fn inspected(id: &str, facts: &Facts) -> Value {
    json!({
        "Id": id, "Name": format!("/{}", facts.name), "Image": "sha256:app",
        "Created": time(facts.created),
        "State": {
            "Status": if facts.running { "running" } else { "created" }, "Running": facts.running,
            "StartedAt": time(facts.started),
        },
        "Config": {
            "Hostname": &id[..12], "Image": "app:1", "Labels": facts.labels,
            "Env": facts.env, "ExposedPorts": {format!("{}/tcp", facts.at.port()): {}},
        },
        "HostConfig": {"NetworkMode": NETWORK},
        "NetworkSettings": {"Ports": {}, "Networks": {NETWORK: endpoint(facts)}},
        "Mounts": [],
    })
}

fn endpoint(facts: &Facts) -> Value {
    let address = if facts.running { facts.at.ip().to_string() } else { String::new() };
    json!({"IPAddress": address, "Gateway": "", "NetworkID": NETWORK})
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// RFC 3339 with nanoseconds, as Docker writes it (days to a date as in Hinnant's `civil_from_days`).
fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_docker_writes_them() {
        let at = |seconds, nanos| time(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_795_267_199, 0), "2026-11-21T13:19:59.000000000Z");
    }

    #[test]
    fn a_query_is_decoded() {
        let found = parameters("since=5&filters=%7B%22event%22%3A%5B%22start%22%5D%7D");
        assert_eq!(found["filters"], r#"{"event":["start"]}"#);
    }
}
