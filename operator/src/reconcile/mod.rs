//! Reconcile: the level-triggered loop that joins sources, core and deliver.

mod actions;
mod clock;
mod cycle;
mod driver;
mod policy;
mod publish;
mod run;
mod target;
mod world;

pub use actions::{Act, Acting};
pub use driver::{Driver, Parts, SecretLookup};
pub use publish::Publisher;
pub use run::{RunError, run};
pub use world::{Certificates, Sources};
