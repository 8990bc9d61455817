//! What partitions count.

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};

/// Handles that all partitions share, from the recorder that is current when they are made.
#[derive(Clone)]
pub struct Metrics {
    pub(super) flush_seconds: Histogram,
    pub(super) failed_flushes: Counter,
}

impl Metrics {
    /// Handles of the current recorder.
    #[must_use]
    pub fn new() -> Self {
        describe_histogram!(
            "ottla_log_flush_duration_seconds",
            "Flushes of logs that succeeded, from when they were asked for."
        );
        describe_counter!("ottla_log_flushes_failed_total", "Flushes of logs that failed.");
        Self {
            flush_seconds: histogram!("ottla_log_flush_duration_seconds"),
            failed_flushes: counter!("ottla_log_flushes_failed_total"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
