//! The agent: the code beside a proxy that probes, stages, checks, activates and reports. It has no Docker API.
