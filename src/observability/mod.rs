//! Metrics, logs and the operator plane's HTTP endpoints.
