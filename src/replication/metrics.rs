//! What partitions count.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

/// Handles that all partitions share, from the recorder that is current when they are made.
#[derive(Clone)]
pub struct Metrics {
    pub(super) flush_seconds: Histogram,
    pub(super) failed_flushes: Counter,
    pub(super) leaderships: Counter,
    pub(super) unclean_leaderships: Counter,
    pub(super) isr_shrinks: Counter,
    pub(super) isr_expands: Counter,
    pub(super) pushed_bytes: Counter,
    pub(super) received_bytes: Counter,
    pub(super) truncations: Counter,
    pub(super) moved_bytes: Counter,
    pub(super) moved_replicas: Counter,
    pub(super) replaced_replicas: Counter,
    /// Rate and bytes, as `throttle` numbers them.
    pub(super) throttles: [(Gauge, Counter); 4],
}

impl Metrics {
    /// Handles of the current recorder.
    #[must_use]
    pub fn new() -> Self {
        describe_histogram!(
            "ottla_log_flush_duration_seconds",
            "Flushes of logs that succeeded, from when they were asked for."
        );
        let count = |name: &'static str, help: &'static str| {
            describe_counter!(name, help);
            counter!(name)
        };
        Self {
            flush_seconds: histogram!("ottla_log_flush_duration_seconds"),
            failed_flushes: count("ottla_log_flushes_failed_total", "Flushes of logs that failed."),
            leaderships: count(
                "ottla_leaderships_total",
                "How often this node began to lead a partition.",
            ),
            unclean_leaderships: count(
                "ottla_unclean_leaderships_total",
                "How often this node began to lead a partition out of sync: records may be lost.",
            ),
            isr_shrinks: count(
                "ottla_isr_shrinks_total",
                "How often a replica of a partition led here fell out of sync.",
            ),
            isr_expands: count(
                "ottla_isr_expands_total",
                "How often a replica of a partition led here came back in sync.",
            ),
            pushed_bytes: count(
                "ottla_replication_pushed_bytes_total",
                "Bytes of records that were sent to followers.",
            ),
            received_bytes: count(
                "ottla_replication_received_bytes_total",
                "Bytes of records that came from leaders.",
            ),
            truncations: count(
                "ottla_replication_truncations_total",
                "How often a log was cut, or begun anew, to agree with its leader's.",
            ),
            moved_bytes: count(
                "ottla_directory_move_bytes_total",
                "Bytes copied to other log directories of the node.",
            ),
            moved_replicas: count(
                "ottla_directory_moves_total",
                "Replicas that have moved to another log directory of the node.",
            ),
            replaced_replicas: count(
                "ottla_directory_replacements_total",
                "Replicas of failed log directories that began anew in another one.",
            ),
            throttles: throttles(),
        }
    }
}

fn throttles() -> [(Gauge, Counter); 4] {
    const RATE: &str = "ottla_replication_throttle_bytes_per_second";
    const BYTES: &str = "ottla_replication_throttled_bytes_total";
    describe_gauge!(
        RATE,
        "The rate to which throttled replicas out of sync are held, by the operator's and by the \
         balancer's throttle; +Inf without limit."
    );
    describe_counter!(
        BYTES,
        "Bytes that this node sent to throttled replicas (leader), or let others send (follower)."
    );
    let numbered = [
        ("leader", "operator"),
        ("leader", "balancer"),
        ("follower", "operator"),
        ("follower", "balancer"),
    ];
    numbered.map(|(side, by)| {
        let labels = [("side", side), ("by", by)];
        (gauge!(RATE, &labels), counter!(BYTES, &labels))
    })
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
