//! What the cluster plane counts, its peers apart (see `figures`). Handles are made with the
//! recorder that is current at the start.

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};

/// Every reason that a handshake fails for, as `ConnectError` and `RefuseError` label them.
const FAILURES: &[&str] = &[
    "address",
    "cluster",
    "endpoint",
    "identity",
    "malformed",
    "network",
    "not_admitted",
    "refused_by_peer",
    "timeout",
    "tls",
    "version",
];

pub(super) struct Metrics {
    dialed_failures: Vec<(&'static str, Counter)>,
    accepted_failures: Vec<(&'static str, Counter)>,
    pub(super) overload: Counter,
    pub(super) streams_refused: Counter,
    pub(super) requests: Counter,
    pub(super) request_seconds: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        describe();
        let failures = |side: &'static str| {
            let one = |reason: &&'static str| {
                let labels = [("side", side), ("reason", *reason)];
                (*reason, counter!("ottla_cluster_handshake_failures_total", &labels))
            };
            FAILURES.iter().map(one).collect()
        };
        Self {
            dialed_failures: failures("dialed"),
            accepted_failures: failures("accepted"),
            overload: counter!("ottla_cluster_handshakes_turned_away_total"),
            streams_refused: counter!("ottla_cluster_streams_refused_total"),
            requests: counter!("ottla_cluster_requests_served_total"),
            request_seconds: histogram!("ottla_cluster_request_duration_seconds"),
        }
    }

    pub(super) fn dialed_failure(&self, reason: &str) {
        count(&self.dialed_failures, reason);
    }

    pub(super) fn accepted_failure(&self, reason: &str) {
        count(&self.accepted_failures, reason);
    }
}

fn count(counters: &[(&'static str, Counter)], reason: &str) {
    let found = counters.iter().find(|(name, _)| *name == reason);
    debug_assert!(found.is_some(), "{reason} is not counted");
    if let Some((_, counter)) = found {
        counter.increment(1);
    }
}

fn describe() {
    describe_counter!(
        "ottla_cluster_handshake_failures_total",
        "Connections that did not come about, by the side that this node was on, and the reason."
    );
    describe_counter!(
        "ottla_cluster_handshakes_turned_away_total",
        "Connections that were turned away, as too many handshakes were under way."
    );
    describe_counter!(
        "ottla_cluster_streams_refused_total",
        "Streams of peers that were refused: of an unknown class, malformed or too large."
    );
    describe_counter!("ottla_cluster_requests_served_total", "Requests of peers that were served.");
    describe_histogram!(
        "ottla_cluster_request_duration_seconds",
        "From a peer's request to the response handed to the connection."
    );
}
