//! Render: a Plan, an assignment and abilities to a Bundle. Equal input, equal bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::Slot;

/// Who sits in which server slot of each backend: data, carried from receipt to receipt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Assignment {
    /// By backend name.
    pub servers: BTreeMap<String, Vec<Slot>>,
}
