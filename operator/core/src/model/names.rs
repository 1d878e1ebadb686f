//! Newtypes for every name that may reach a proxy's configuration: parsed once, safe for ever after.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Why a text is not a valid name; the message completes "`<value>` is not a valid `<what>`: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {what}: {why}")]
pub struct NameError {
    /// What was being parsed, for people: "host name", "path".
    pub what: &'static str,
    /// The offending text, shortened and with control characters escaped.
    pub value: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl NameError {
    pub(crate) fn new(what: &'static str, value: &str, why: &'static str) -> Self {
        let shown: String = value.chars().take(80).flat_map(char::escape_default).collect();
        Self { what, value: shown, why }
    }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        // Names are repeated in every snapshot, plan and bundle: a copy is a count, not an allocation.
        pub struct $name(Arc<str>);

        impl $name {
            /// The text, already validated.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&&*self.0).finish()
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                (*name.0).to_owned()
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
    };
}

text_newtype! {
    /// A host name as a request may carry it: lower case, no trailing dot, no port (RFC 1123).
    Hostname
}

impl FromStr for Hostname {
    type Err = NameError;

    /// Accepts any case and one trailing dot; both are normalised away.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let err = |why| Err(NameError::new("host name", text, why));
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return err("it is empty");
        }
        if name.len() > 253 {
            return err("it is longer than 253 characters");
        }
        for label in name.split('.') {
            if label.is_empty() {
                return err("it has an empty label (two dots in a row, or a dot in front)");
            }
            if label.len() > 63 {
                return err("a label is longer than 63 characters");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return err("a label begins or ends with `-`");
            }
            if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                return err("only letters, digits, `-` and `.` are allowed");
            }
        }
        if name == IDENTITY_HOST {
            return err("Interlock asks its proxies for their configuration's digest under this name");
        }
        Ok(Self(name.into()))
    }
}

/// The host under which an agent asks nginx for its digest; RFC 6761 keeps it from ever being anyone's.
pub const IDENTITY_HOST: &str = "interlock.invalid";

/// Which hosts a route answers for. Exact names come before wildcards, longer wildcards before shorter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// Exactly this host.
    Exact(Hostname),
    /// `*.suffix`: every name below `suffix`, but not `suffix` itself.
    Wildcard(Hostname),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix("*.") {
            Some(suffix) => Ok(Self::Wildcard(suffix.parse()?)),
            None if text.contains('*') => Err(NameError::new(
                "host name",
                text,
                "a wildcard is one whole leading label, as in `*.example.com`",
            )),
            None => Ok(Self::Exact(text.parse()?)),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(host: HostPattern) -> Self {
        host.to_string()
    }
}

impl HostPattern {
    /// Whether a request for `host` falls under this pattern.
    pub fn covers(&self, host: &Hostname) -> bool {
        match self {
            Self::Exact(own) => own == host,
            Self::Wildcard(suffix) => host
                .as_str()
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

text_newtype! {
    /// A path prefix on segment boundaries: `/` or `/a/b`, never with a trailing slash, a dot
    /// segment, an empty segment or an escape.
    PathPrefix
}

impl FromStr for PathPrefix {
    type Err = NameError;

    /// A missing leading slash is added and trailing slashes are dropped, as old Interlocks did.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let err = |why| Err(NameError::new("path", text, why));
        let trimmed = text.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Self("/".into()));
        }
        if trimmed.len() > 1024 {
            return err("it is longer than 1024 characters");
        }
        for segment in trimmed.split('/') {
            if segment.is_empty() {
                return err("it has an empty segment (`//`)");
            }
            if segment == "." || segment == ".." {
                return err("`.` and `..` segments are not allowed");
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!@+,:=".contains(&b)) {
                return err("only letters, digits and `-._~!@+,:=` are allowed between slashes");
            }
        }
        Ok(Self(format!("/{trimmed}").into()))
    }
}

impl PathPrefix {
    /// The prefix that covers everything.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// Whether a (normalised) request path falls under this prefix, on a segment boundary.
    pub fn covers(&self, path: &str) -> bool {
        self.is_root()
            || path.strip_prefix(self.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A TCP port; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(std::num::NonZeroU16);

impl Port {
    /// The number, 1 to 65535.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> Self {
        port.get()
    }
}

impl TryFrom<u16> for Port {
    type Error = NameError;
    fn try_from(number: u16) -> Result<Self, NameError> {
        std::num::NonZeroU16::new(number)
            .map(Self)
            .ok_or_else(|| NameError::new("port", "0", "it must be 1 to 65535"))
    }
}

impl FromStr for Port {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        text.trim()
            .parse::<u16>()
            .ok()
            .and_then(|n| Self::try_from(n).ok())
            .ok_or_else(|| NameError::new("port", text, "it must be a number from 1 to 65535"))
    }
}

/// Where a request can be sent: an address that names one machine, and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "SocketAddr", into = "SocketAddr")]
pub struct UpstreamAddr(SocketAddr);

impl UpstreamAddr {
    /// Refuses the unspecified, multicast and broadcast addresses.
    pub fn new(ip: IpAddr, port: Port) -> Result<Self, NameError> {
        Self::try_from(SocketAddr::new(ip, port.get()))
    }

    /// The plain socket address.
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl TryFrom<SocketAddr> for UpstreamAddr {
    type Error = NameError;
    fn try_from(addr: SocketAddr) -> Result<Self, NameError> {
        let ip = addr.ip();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || broadcast || addr.port() == 0 {
            return Err(NameError::new(
                "upstream address",
                &addr.to_string(),
                "it does not name one machine and port",
            ));
        }
        Ok(Self(addr))
    }
}

impl From<UpstreamAddr> for SocketAddr {
    fn from(addr: UpstreamAddr) -> Self {
        addr.0
    }
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn identifier(what: &'static str, text: &str, extra: &[u8]) -> Result<String, NameError> {
    let err = |why| Err(NameError::new(what, text, why));
    if text.is_empty() {
        return err("it is empty");
    }
    if text.len() > 128 {
        return err("it is longer than 128 characters");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return err("it must begin with a letter or a digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b)) {
        return err("it has a character that is not allowed");
    }
    Ok(text.to_owned())
}

macro_rules! identifier_newtype {
    ($(#[$doc:meta])* $name:ident, $what:literal, $extra:literal) => {
        text_newtype! { $(#[$doc])* $name }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                identifier($what, text, $extra).map(|name| Self(name.into()))
            }
        }
    };
}

identifier_newtype! {
    /// A `ServiceCluster`'s name.
    ClusterName, "cluster name", b"-._"
}
identifier_newtype! {
    /// One proxy to keep in step: a proxy container's name, an agent socket's, or `embedded`.
    TargetId, "target name", b"-._"
}
identifier_newtype! {
    /// One Docker API endpoint; `local` when nothing is configured.
    EngineId, "engine name", b"-._"
}
identifier_newtype! {
    /// A container's full id.
    ContainerId, "container id", b""
}
identifier_newtype! {
    /// The name in `interlock.<name>.host`.
    RouteName, "route name", b"-_"
}
identifier_newtype! {
    /// The name of one server line inside a backend; stable for an endpoint's life.
    ServerName, "server name", b"-._"
}
identifier_newtype! {
    /// A certificate's file name inside the cluster's certificate folder: one path component.
    CertificateName, "certificate name", b"-._*@+"
}

impl EngineId {
    /// The engine of whom no engine knows; none that is configured can have this name.
    pub(crate) fn nowhere() -> Self {
        Self("(declared)".into())
    }
}

text_newtype! {
    /// A document's namespace and name: `shop/web`.
    DocumentId
}

impl FromStr for DocumentId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Self::new(namespace, name)
    }
}

impl DocumentId {
    /// The id of a document; both parts as Kubernetes names things.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        let fits = |text: &str, most: usize, dots: bool| {
            let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            let bytes = text.as_bytes();
            let good = |b: &u8| edge(Some(b)) || *b == b'-' || (dots && *b == b'.');
            edge(bytes.first()) && edge(bytes.last()) && bytes.len() <= most && bytes.iter().all(good)
        };
        if !fits(namespace, 63, false) {
            let why = "it is 1 to 63 lower-case letters, digits and `-`, and begins and ends with none of the latter";
            return Err(NameError::new("namespace", namespace, why));
        }
        if !fits(name, 253, true) {
            let why = "it is 1 to 253 lower-case letters, digits, `-` and `.`, and begins and ends with none of the \
                       latter";
            return Err(NameError::new("document name", name, why));
        }
        Ok(Self(format!("{namespace}/{name}").into()))
    }

    /// The part before the slash.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The part behind it.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl ContainerId {
    /// An id of whom no engine knows.
    pub(crate) fn of(digest: &Digest) -> Self {
        Self(digest.as_str().into())
    }

    /// The twelve characters that `docker ps` shows.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

text_newtype! {
    /// Who stands behind a workload, stable over redeploys: `compose:shop/web`, `image:nginx`, a label's text.
    Owner
}

impl FromStr for Owner {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > Self::MOST || !text.chars().all(Self::takes) {
            return Err(NameError::new("owner", text, "it must be 1 to 256 printable ASCII characters"));
        }
        Ok(Self(text.into()))
    }
}

impl Owner {
    /// The longest text.
    const MOST: usize = 256;

    /// Nothing that could hide or turn round other text where people read it.
    fn takes(c: char) -> bool {
        c.is_ascii_graphic() || c == ' '
    }

    /// Any text as an owner: characters that an owner cannot have and what is too long are dropped.
    pub fn lossy(text: &str) -> Self {
        let kept: String = text.chars().filter(|c| Self::takes(*c)).take(Self::MOST).collect();
        if kept.is_empty() { Self("-".into()) } else { Self(kept.into()) }
    }
}

text_newtype! {
    /// A SHA-256 in lower-case hex, shortened to 32 digits: enough to tell generations apart.
    Digest
}

impl FromStr for Digest {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() != 32 || !hex {
            return Err(NameError::new("digest", text, "it must be 32 lower-case hex digits"));
        }
        Ok(Self(text.into()))
    }
}

impl Digest {
    /// The digest of a sequence of parts; part boundaries count.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut hasher = sha2::Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut hex = String::with_capacity(32);
        for byte in hasher.finalize().iter().take(16) {
            hex.push(char::from(HEX[usize::from(byte >> 4)]));
            hex.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Self(hex.into())
    }
}
