//! Interlock on a real engine, with real proxies and real traffic: what end-to-end tests and benches are written with.

pub mod bare;
