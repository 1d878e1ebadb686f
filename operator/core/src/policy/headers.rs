//! Headers that a route changes: names and values that mean nothing else in any proxy's file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is done to the headers of a request or an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderChanges {
    /// Headers that get this value, whatever they had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Headers that get this value besides what they had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Headers that go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    /// The most of one modifier: each is a line of the proxy's file.
    pub const MOST: usize = 64;

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every name, in the order of the changes.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove)
    }
}

/// Why a text is no name or value of a header that may be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not what every proxy takes.
    #[error("a header's name is 1 to 64 letters, digits and `-`")]
    Name,
    /// What a connection or the proxy itself decides.
    #[error("the proxy alone decides this header")]
    Reserved,
    /// Not what every proxy takes.
    #[error("a header's value is 1 to 1,024 printable ASCII characters, without spaces at its ends")]
    Value,
}

/// A header's name: letters, digits, hyphens; none that a connection or the proxy itself decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderName(String);

impl HeaderName {
    /// Lower case: what one connection is made of, and what the proxy says of the client. Another value would break
    /// messages, or let somebody pass for another.
    const RESERVED: [&'static str; 14] = [
        "connection",
        "content-length",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded",
        "x-real-ip",
        "x-request-id",
    ];

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are the same header.
    pub fn is(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }
}

impl FromStr for HeaderName {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=64).contains(&text.len()) || !text.bytes().all(good) {
            return Err(HeaderError::Name);
        }
        let name = text.to_ascii_lowercase();
        let family = name.starts_with("x-forwarded-") || name.starts_with("proxy-");
        if family || Self::RESERVED.contains(&name.as_str()) {
            return Err(HeaderError::Reserved);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A header's value: printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderValue(String);

impl HeaderValue {
    /// As HAProxy takes it: in quotes, and nothing in it is looked up.
    pub(crate) fn for_haproxy(&self) -> String {
        format!("'{}'", self.0.replace('%', "%%").replace('\'', r"'\''"))
    }

    /// As nginx takes it inside double quotes. A dollar sign can only be had from a variable.
    pub(crate) fn for_nginx(&self) -> String {
        self.0.replace('\\', r"\\").replace('"', r#"\""#).replace('$', "${interlock_dollar}")
    }
}

impl FromStr for HeaderValue {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let good = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text;
        if good && (1..=1024).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(HeaderError::Value)
        }
    }
}

macro_rules! text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = HeaderError;
            fn try_from(text: String) -> Result<Self, HeaderError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }
    };
}

text!(HeaderName);
text!(HeaderValue);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_what_every_proxy_takes() {
        for good in ["X-Frame-Options", "a", "Strict-Transport-Security"] {
            assert_eq!(good.parse::<HeaderName>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a_b", "a:b", "x\n", &"a".repeat(65)] {
            assert_eq!(bad.parse::<HeaderName>(), Err(HeaderError::Name), "{bad}");
        }
        for reserved in ["Host", "X-Forwarded-For", "transfer-encoding", "Proxy-Authorization"] {
            assert_eq!(reserved.parse::<HeaderName>(), Err(HeaderError::Reserved), "{reserved}");
        }
        for bad in ["", " a", "a ", "a\tb", "a\r\nb: c", "\u{e9}", &"a".repeat(1025)] {
            assert_eq!(bad.parse::<HeaderValue>(), Err(HeaderError::Value), "{bad}");
        }
    }
}
