//! The environment: the only place that reads it.

use std::ffi::OsString;
use std::path::PathBuf;

/// The variables that Interlock knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `INTERLOCK_CONFIG`: a configuration as YAML text, for containers without a file.
    pub config: Option<String>,
    /// `DOCKER_HOST`: the engine, where the configuration names none.
    pub docker_host: Option<String>,
    /// `DOCKER_TLS_VERIFY`: TLS for a `tcp://` engine; any text but none.
    pub docker_tls_verify: bool,
    /// `DOCKER_CERT_PATH`: the folder of `ca.pem`, `cert.pem` and `key.pem`; else `~/.docker`.
    pub docker_cert_path: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `INTERLOCK_CONTEXTS`: the file of contexts; else `~/.config/interlock/contexts.yaml`.
    pub contexts: Option<PathBuf>,
    /// `NO_COLOR`: any text but none turns colours off (no-color.org).
    pub no_color: bool,
}

impl Environment {
    /// Reads this process's environment.
    pub fn read() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    /// Reads variables through `get`; an empty one counts as none.
    pub fn of(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let raw = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &str| raw(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            config: text("INTERLOCK_CONFIG"),
            docker_host: text("DOCKER_HOST"),
            docker_tls_verify: raw("DOCKER_TLS_VERIFY").is_some(),
            docker_cert_path: raw("DOCKER_CERT_PATH").map(PathBuf::from),
            home: raw("HOME").map(PathBuf::from),
            contexts: raw("INTERLOCK_CONTEXTS").map(PathBuf::from),
            no_color: raw("NO_COLOR").is_some(),
        }
    }

    /// The file of contexts.
    pub fn contexts(&self) -> PathBuf {
        self.contexts.clone().unwrap_or_else(|| {
            let home = self.home.clone().unwrap_or_else(|| PathBuf::from("/root"));
            home.join(".config/interlock/contexts.yaml")
        })
    }

    /// The folder of the client's certificate for a `tcp://` engine.
    pub(super) fn certificates(&self) -> PathBuf {
        self.docker_cert_path
            .clone()
            .unwrap_or_else(|| self.home.clone().unwrap_or_else(|| PathBuf::from("/root")).join(".docker"))
    }
}
