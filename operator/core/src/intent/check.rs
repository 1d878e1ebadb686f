//! Health checks: HAProxy's words for them, read strictly, because the agent sends what comes out.

use super::CheckKind;
use super::said::Fault;
use crate::finding::{Reason, Verdict, shown};

/// Checks of other protocols that HAProxy knows; a connection is what is tried of them.
const OTHER: &[&str] = &[
    "external-check",
    "ldap-check",
    "mysql-check",
    "pgsql-check",
    "redis-check",
    "smtpchk",
    "spop-check",
    "ssl-hello-chk",
];

const METHODS: &[&str] = &["GET", "HEAD", "OPTIONS"];

/// Reads `httpchk [METHOD] [PATH] [VERSION[\r\nHost:\ NAME]]`, `tcp-check`, a bare `/path`, each with or
/// without `option ` in front; and what is to be told although it is taken.
pub(crate) fn check(text: &str) -> Result<(CheckKind, Option<Fault>), Fault> {
    if text.chars().any(char::is_control) {
        return Err(bad(text, "it has control characters"));
    }
    let text = text.strip_prefix("option ").unwrap_or(text).trim();
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "tcp-check" if rest.is_empty() => Ok((CheckKind::Tcp, None)),
        "httpchk" => http(text, rest.trim()),
        _ if word.starts_with('/') || METHODS.contains(&word) => {
            http(text, &if word.starts_with('/') { format!("GET {text}") } else { text.to_owned() })
        }
        _ if OTHER.contains(&word) => {
            let message = format!("`{word}` is not done; a TCP connection is tried instead");
            let told = Fault::value(message).reason(Reason::NotSupported).write("tcp-check");
            Ok((CheckKind::Tcp, Some(told)))
        }
        _ => Err(bad(text, "it is neither `httpchk …`, `tcp-check` nor a path")),
    }
}

/// Reads what follows `httpchk`. Without a method it is `OPTIONS`, without a path `/`: HAProxy 2.6's
/// configuration manual, `option httpchk`.
fn http(text: &str, rest: &str) -> Result<(CheckKind, Option<Fault>), Fault> {
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let (method, rest) =
        if first.is_empty() || first.starts_with('/') { ("OPTIONS", rest) } else { (first, after.trim()) };
    if !METHODS.contains(&method) {
        return Err(bad(text, "the method is `GET`, `HEAD` or `OPTIONS`"));
    }
    let (path, version) = rest.split_once(' ').unwrap_or((rest, ""));
    let path = if path.is_empty() { "/" } else { path };
    if let Some(why) = bad_path(path) {
        return Err(bad(text, why));
    }
    let (host, told) = version_and_headers(text, version.trim())?;
    Ok((CheckKind::Http { method: method.to_owned(), path: path.to_owned(), host }, told))
}

/// Reads `HTTP/1.1\r\nHost:\ shop.example.com`, the way to name a host before HAProxy 2.2: `\r`, `\n` and
/// `\ ` are two characters each, as in HAProxy's own file.
fn version_and_headers(text: &str, version: &str) -> Result<(Option<String>, Option<Fault>), Fault> {
    let mut lines = version.split("\\r\\n");
    let first = lines.next().unwrap_or_default();
    if !["", "HTTP/1.0", "HTTP/1.1", "HTTP/2"].contains(&first) {
        return Err(bad(text, "after the path comes nothing, or `HTTP/1.1`"));
    }
    let (mut host, mut told) = (None, None);
    for line in lines.filter(|line| !line.is_empty()) {
        let line = line.replace("\\ ", " ");
        let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
        if name.eq_ignore_ascii_case("host") {
            let value = value.trim();
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
            if value.is_empty() || value.len() > 259 || !value.bytes().all(good) {
                return Err(bad(text, "its `Host` is no host name"));
            }
            host = Some(value.to_ascii_lowercase());
        } else {
            let message = format!("the header `{}` is not sent; only `Host` is", shown(name));
            told = Some(Fault::value(message).reason(Reason::NotSupported));
        }
    }
    Ok((host, told))
}

/// Why a text is no request path with query (RFC 3986, without the characters that mean something in a
/// shell or a configuration).
fn bad_path(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("the path begins with `/`");
    }
    if path.len() > 1024 {
        return Some("the path is longer than 1024 characters");
    }
    if path.split(['/', '?']).any(|segment| segment == "..") {
        return Some("`..` is not allowed in the path");
    }
    let bytes = path.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let hex = |offset: usize| bytes.get(at + offset).is_some_and(u8::is_ascii_hexdigit);
        let good = match byte {
            b'%' => hex(1) && hex(2),
            _ => byte.is_ascii_alphanumeric() || b"-._~!*+,:=@/?&".contains(byte),
        };
        if !good {
            return Some("the path has a character that is not allowed");
        }
    }
    None
}

fn bad(text: &str, why: &str) -> Fault {
    let message = format!("`{}` is no health check: {why}; it is left out", shown(text));
    let path = text.split(' ').map(|word| word.split_once("://").map_or(word, |(_, rest)| rest));
    let path = path.filter_map(|word| word.find('/').and_then(|at| word.get(at..)));
    let path = path.filter(|path| bad_path(path).is_none()).find(|path| !path.starts_with("/1."));
    Fault::value(message).verdict(Verdict::Degraded).write(format!("httpchk GET {}", path.unwrap_or("/ping")))
}
