//! Interlock's pure core: facts in ([`model::Observed`]), plans, bundles and findings out.
//!
//! Nothing here performs IO, reads a clock or the environment; `clippy.toml` bans the ways to do so.
//! The way of the data: `intent` parses dialects, `compile` makes one [`plan::Plan`] per target,
//! `assign` and `render` turn it into a [`bundle::Bundle`], `change` says what separates a running
//! proxy from it.

pub mod assign;
pub mod bundle;
pub mod capacity;
pub mod change;
pub mod compile;
pub mod declared;
pub mod explain;
pub mod finding;
pub mod fit;
pub mod intent;
pub mod model;
pub mod pace;
pub mod patch;
pub mod plan;
pub mod policy;
pub mod protocol;
mod receipt;
pub mod render;
pub mod search;
pub mod separation;
pub mod status;
pub mod withdrawal;
