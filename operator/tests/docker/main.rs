//! The Docker client and the engine's source: against a fake engine that misbehaves on demand, and
//! against the machine's real one with containers of the tests' own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

mod diagnosis;
mod fake;
mod following;
mod real;
