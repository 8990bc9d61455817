//! What the client plane counts.
//!
//! Handles are made once, from the recorder that is current when the server is made.

use kafka_protocol::messages::ApiKey;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::base::HashMap;

/// Where API keys end, with room for those to come.
const API_KEYS: i16 = 128;

pub(super) struct Metrics {
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    pub(super) refused: Counter,
    pub(super) closed_by_limit: Counter,
    pub(super) request_memory: Gauge,
    apis: HashMap<i16, Api>,
    unknown: Api,
}

pub(super) struct Api {
    pub(super) requests: Counter,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
    pub(super) seconds: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        describe();
        let apis = (0..API_KEYS).filter_map(|key| Some((key, ApiKey::try_from(key).ok()?)));
        Self {
            connections: gauge!("ottla_connections"),
            accepted: counter!("ottla_connections_accepted_total"),
            refused: counter!("ottla_connections_refused_total"),
            closed_by_limit: counter!("ottla_connections_closed_by_limit_total"),
            request_memory: gauge!("ottla_request_memory_bytes"),
            apis: apis.map(|(key, name)| (key, Api::new(format!("{name:?}")))).collect(),
            unknown: Api::new("unknown".to_owned()),
        }
    }

    pub(super) fn api(&self, key: Option<i16>) -> &Api {
        key.and_then(|key| self.apis.get(&key)).unwrap_or(&self.unknown)
    }
}

impl Api {
    fn new(name: String) -> Self {
        Self {
            requests: counter!("ottla_requests_total", "api" => name.clone()),
            request_bytes: histogram!("ottla_request_size_bytes", "api" => name.clone()),
            response_bytes: histogram!("ottla_response_size_bytes", "api" => name.clone()),
            seconds: histogram!("ottla_request_duration_seconds", "api" => name),
        }
    }
}

fn describe() {
    describe_gauge!("ottla_connections", "Connections of clients that are open.");
    describe_counter!("ottla_connections_accepted_total", "Connections that were accepted.");
    describe_counter!(
        "ottla_connections_refused_total",
        "Connections that were closed at once, because max.connections.per.ip was reached."
    );
    describe_counter!(
        "ottla_connections_closed_by_limit_total",
        "Connections that were closed for a request too large or too slow, or for being idle."
    );
    describe_gauge!("ottla_request_memory_bytes", "Bytes of requests in memory.");
    describe_counter!("ottla_requests_total", "Requests that were started.");
    describe_histogram!("ottla_request_size_bytes", "Sizes of requests.");
    describe_histogram!("ottla_response_size_bytes", "Sizes of responses, records included.");
    describe_histogram!(
        "ottla_request_duration_seconds",
        "From a request's last byte to its response's last byte handed to the system."
    );
}
