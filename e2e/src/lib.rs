//! Interlock on a real engine, with real proxies and real traffic: what end-to-end tests and benches are written with.
//!
//! A test is one closure over a [`World`]: everything that it starts carries the world's label and is removed with
//! it, also when the test fails, and by the next run when its process was killed.

pub mod bare;
pub mod container;
pub mod double;
pub mod http;
pub mod load;
pub mod operator;
pub mod private;
pub mod stage;
pub mod tls;
pub mod wait;
pub mod world;

pub use container::{Container, Run};
pub use http::{Answer, Call};
pub use load::{Load, Tally};
pub use operator::Operator;
pub use private::PrivateEngine;
pub use stage::{Stage, Way};
pub use wait::eventually;
pub use world::{Kind, Network, World};

/// Anything that goes wrong in a test ends it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of a test and of everything that it is made of.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// The images that `make image` builds.
const IMAGES: &[&str] =
    &["interlock", world::APP, "interlock-docker-filter", "interlock-haproxy", "interlock-nginx"];

/// The full name of an image: of ours, the tag that this checkout builds (`INTERLOCK_TAG`, as in make/images.sh).
pub fn image(name: &str) -> String {
    match std::env::var("INTERLOCK_TAG") {
        Ok(tag) if IMAGES.contains(&name) => format!("{name}:{tag}"),
        _ => name.to_owned(),
    }
}

/// Ends a test, or one try of [`eventually`], unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}

/// Ends a test, or one try of [`eventually`], unless two values are equal; shows both.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err(format!("{}: {left:?} is not {right:?}", format_args!($($message)+)).into());
                }
            }
        }
    };
}
