//! What a container of a double asks for, and where an answer to that is looked for.

use std::collections::BTreeMap;

/// The label that asks for a host.
const HOST: &str = "interlock.host";

/// One container's labels and environment, and the route that they come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) env: Vec<String>,
    host: String,
    path: String,
    heavy: bool,
}

impl Wish {
    /// A host and nothing else.
    pub fn of(host: &str) -> Self {
        Self::bare(host).label(HOST, host)
    }

    /// No label yet: those that follow must come to this host.
    pub fn bare(host: &str) -> Self {
        Self {
            labels: BTreeMap::new(),
            env: Vec::new(),
            host: host.to_owned(),
            path: String::new(),
            heavy: false,
        }
    }

    /// One more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// One more variable of the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push(format!("{key}={value}"));
        self
    }

    /// The path to ask for.
    #[must_use]
    pub(super) fn at(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// It takes more than one spare backend of the common shape.
    #[must_use]
    pub(super) const fn heavy(mut self) -> Self {
        self.heavy = true;
        self
    }

    /// Whether a running HAProxy takes it with one spare backend of the common shape.
    pub const fn is_light(&self) -> bool {
        !self.heavy
    }

    /// What to ask for: the host, and a path where one was named.
    pub fn url(&self) -> String {
        format!("{}{}", self.host, self.path)
    }

    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The keys of its labels and variables.
    pub fn keys(&self) -> Vec<String> {
        let variables =
            self.env.iter().filter_map(|line| line.split_once('=')).map(|(key, _)| key.to_owned());
        self.labels.keys().cloned().chain(variables).collect()
    }
}
