//! Redirects: where clients are sent in place of being served.

use interlock_crds::ServiceClusterSpec;
use serde::{Deserialize, Serialize};

use crate::model::{Hostname, PathPrefix, Port};

/// Where clients are sent. What is not said stays as they asked for it, the query always.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// The scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Hostname>,
    /// The port; none: where the cluster listens for the scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<NewPath>,
    /// The status code.
    pub status: Status,
}

/// What is spoken to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that no URL needs to name.
    const fn usual(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The path that clients are sent to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum NewPath {
    /// This one.
    Full(PathPrefix),
    /// Theirs, with another prefix; the rest stays.
    Prefix {
        /// What they asked for begins with this.
        from: PathPrefix,
        /// What stands in its place.
        to: PathPrefix,
    },
}

/// A status code that sends a client elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Status(u16);

/// Why a number is no such code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a redirect's status code is 301, 302, 307 or 308")]
pub struct StatusError;

impl TryFrom<u16> for Status {
    type Error = StatusError;

    fn try_from(code: u16) -> Result<Self, StatusError> {
        if matches!(code, 301 | 302 | 307 | 308) { Ok(Self(code)) } else { Err(StatusError) }
    }
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        status.0
    }
}

/// Where the clients of a proxy may already be: what a redirect to there would not change.
pub(crate) fn own_ports(settings: &ServiceClusterSpec) -> [u16; 4] {
    // The usual ones too: a container's port is often published as one of them.
    [settings.listeners.http, settings.listeners.https, Scheme::Http.usual(), Scheme::Https.usual()]
}

impl Redirect {
    /// The scheme that clients are sent to, and what stands behind the host; by the scheme that they come with, where
    /// that makes a difference.
    pub(crate) fn ways(&self, settings: &ServiceClusterSpec) -> Vec<(Option<Scheme>, Scheme, String)> {
        let behind = |scheme: Scheme| {
            let listens = match scheme {
                Scheme::Http => settings.listeners.http,
                Scheme::Https => settings.listeners.https,
            };
            match self.port.map_or(listens, Port::get) {
                // 0: the cluster does not listen for it.
                0 => String::new(),
                port if port == scheme.usual() => String::new(),
                port => format!(":{port}"),
            }
        };
        match self.scheme {
            Some(to) => vec![(None, to, behind(to))],
            None => [Scheme::Http, Scheme::Https]
                .map(|as_it_is| (Some(as_it_is), as_it_is, behind(as_it_is)))
                .into(),
        }
    }
}

impl std::fmt::Display for Redirect {
    /// For people: `308 to https://new.example.com:8443/new`, with a word for what stays.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to ", self.status.0)?;
        if let Some(scheme) = self.scheme {
            write!(f, "{}://", scheme.as_str())?;
        }
        f.write_str(self.host.as_ref().map_or("the same host", Hostname::as_str))?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.path {
            None => f.write_str(", the same path"),
            Some(NewPath::Full(path)) if self.host.is_some() => write!(f, "{path}"),
            Some(NewPath::Full(path)) => write!(f, ", {path}"),
            Some(NewPath::Prefix { from, to }) => write!(f, ", {to} in place of {from}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_where_the_scheme_does_not_say_it() {
        let plain = Redirect { scheme: None, host: None, port: None, path: None, status: Status(302) };
        let mut settings = ServiceClusterSpec::implicit(interlock_crds::ProxyKind::Haproxy);
        (settings.listeners.http, settings.listeners.https) = (8080, 443);
        let behind = |redirect: &Redirect| -> Vec<String> {
            redirect
                .ways(&settings)
                .into_iter()
                .map(|(_, to, behind)| format!("{}{behind}", to.as_str()))
                .collect()
        };
        assert_eq!(behind(&plain), ["http:8080", "https"]);
        let port = 443.try_into().ok();
        assert_eq!(behind(&Redirect { port, ..plain.clone() }), ["http:443", "https"]);
        assert_eq!(behind(&Redirect { scheme: Some(Scheme::Https), port, ..plain }), ["https"]);
    }

    #[test]
    fn a_status_code_sends_elsewhere() {
        assert!([301, 302, 307, 308].iter().all(|code| Status::try_from(*code).is_ok()));
        assert!([0, 200, 300, 303, 304, 309, 503].iter().all(|code| Status::try_from(*code).is_err()));
    }
}
