//! Serve: metrics, health and the API.
