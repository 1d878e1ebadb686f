//! Interlock: operator, agent and command line in one binary; the rooms are in ARCHITECTURE.md.

pub mod agent;
pub mod chain;
pub mod cli;
pub mod client;
pub mod deliver;
pub mod docker;
pub mod logging;
pub mod manifest;
pub mod probe;
pub mod reconcile;
pub mod retry;
pub mod serve;
pub mod settings;
pub mod source;
pub mod store;
mod unverified;
pub mod wire;
pub mod yaml;
