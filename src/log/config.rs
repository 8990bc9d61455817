//! The settings that a log heeds.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::base::Offset;

/// Settings of one log, with Kafka's names and defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u32,
    /// `segment.ms`
    pub segment_ms: i64,
    /// `segment.jitter.ms`
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `retention.ms`; negative for no limit.
    pub retention_ms: i64,
    /// `retention.bytes`; negative for no limit.
    pub retention_bytes: i64,
    /// `cleanup.policy` has `delete`.
    pub delete: bool,
    /// `cleanup.policy` has `compact`.
    pub compact: bool,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: i64,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_dirty_ratio: f64,
    /// `producer.id.expiration.ms`
    pub producer_id_expiration_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * DAY_MS;
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: WEEK_MS,
            retention_bytes: -1,
            delete: true,
            compact: false,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            delete_retention_ms: DAY_MS,
            min_cleanable_dirty_ratio: 0.5,
            producer_id_expiration_ms: DAY_MS,
        }
    }
}

impl LogConfig {
    /// The age at which a segment rolls: compaction leaves the active one alone, so what must be
    /// compacted by some time must have left it by then.
    pub(super) fn roll_ms(&self) -> i64 {
        if self.compact { self.segment_ms.min(self.max_compaction_lag_ms) } else { self.segment_ms }
    }

    /// How much earlier than `segment.ms` the segment at `base` rolls: the same in every run.
    pub(super) fn jitter_ms(&self, log: &str, base: Offset) -> i64 {
        let most = self.segment_jitter_ms.min(self.roll_ms());
        if most <= 0 {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        (log, base.0).hash(&mut hasher);
        (hasher.finish() % most as u64) as i64
    }
}
