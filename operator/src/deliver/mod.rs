//! Deliver: the operator side of the agent protocol and the ways to reach an agent.

pub mod exec;
