//! `Engine`: one Docker API endpoint.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DockerTls;

/// How an engine is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(example = serde_json::json!({"address": "unix:///var/run/docker.sock"}))]
pub struct EngineSpec {
    /// `unix:///var/run/docker.sock`, `tcp://host:2375` or `ssh://user@host`.
    pub address: String,
    /// TLS for a `tcp://` address; none: plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<DockerTls>,
    /// Words to select engines by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
