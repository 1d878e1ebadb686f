//! Interlock: operator, agent and command line in one binary; the rooms are in ARCHITECTURE.md.

pub mod agent;
pub mod chain;
pub mod cli;
pub mod deliver;
pub mod docker;
pub mod logging;
pub mod reconcile;
pub mod retry;
pub mod serve;
pub mod settings;
pub mod source;
pub mod store;
pub mod wire;
pub mod yaml;
