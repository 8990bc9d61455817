//! What a log has to compact, and how much.
//!
//! [`Log::dirtiness`] says what a compaction would do; [`Log::begin_compaction`] begins one, which
//! `compaction` then carries out.
//!
//! Invariant: only what is stable, flushed and in a closed segment is ever touched.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use super::{
    compaction::{Compaction, Turn},
    config::LogConfig,
    partition::Log,
    segment::Segment,
};
use crate::base::Offset;

/// How to compact.
#[derive(Debug, Clone, Copy)]
pub struct Compact {
    /// Now.
    pub now_ms: i64,
    /// The last stable offset: nothing from there on is touched.
    pub stable_offset: Offset,
    /// Bound on the memory for the keys of the dirty section; one key always fits.
    pub max_map_bytes: usize,
}

/// How much a compaction would have to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dirtiness {
    /// Bytes that are clean.
    pub clean_bytes: u64,
    /// Bytes that could be cleaned.
    pub dirty_bytes: u64,
    /// The dirty share of both.
    pub ratio: f64,
    /// A dirty record is older than `max.compaction.lag.ms`.
    pub overdue: bool,
}

impl Dirtiness {
    /// Whether a compaction is worth it: records wait for longer than `max.compaction.lag.ms`, or
    /// the ratio is above `min.cleanable.dirty.ratio`.
    #[must_use]
    pub fn is_due(&self, config: &LogConfig) -> bool {
        self.overdue || self.ratio > config.min_cleanable_dirty_ratio
    }

    /// Orders logs by urgency: what is overdue, then what is dirtiest.
    #[must_use]
    pub fn cmp_urgency(&self, other: &Self) -> std::cmp::Ordering {
        self.overdue.cmp(&other.overdue).then(self.ratio.total_cmp(&other.ratio))
    }
}

/// What one run may touch.
pub(super) struct Plan {
    /// The cleanable segments with the offsets at which the next ones begin.
    pub(super) segments: Vec<(Arc<Segment>, Offset)>,
    pub(super) first_dirty: Offset,
    pub(super) end: Offset,
}

impl Log {
    /// How dirty the log is; none where nothing can be compacted now.
    #[must_use]
    pub fn dirtiness(&self, now_ms: i64, stable_offset: Offset) -> Option<Dirtiness> {
        self.check_open().ok()?;
        if self.compacting.load(Ordering::Acquire) {
            return None;
        }
        let config = self.config();
        let plan = self.plan(&config, now_ms, stable_offset)?;
        let size = |(segment, _): &(Arc<Segment>, Offset)| u64::from(segment.size_bytes());
        let clean = plan.segments.partition_point(|(_, next)| *next <= plan.first_dirty);
        let clean_bytes = plan.segments[..clean].iter().map(size).sum();
        let dirty_bytes: u64 = plan.segments[clean..].iter().map(size).sum();
        let oldest = plan.segments[clean].0.first_timestamp_ms(&self.disk).ok().flatten();
        let oldest = oldest.filter(|oldest_ms| *oldest_ms >= 0);
        Some(Dirtiness {
            clean_bytes,
            dirty_bytes,
            ratio: dirty_bytes as f64 / (clean_bytes + dirty_bytes).max(1) as f64,
            overdue: oldest
                .is_some_and(|oldest_ms| now_ms - oldest_ms > config.max_compaction_lag_ms),
        })
    }

    /// Begins to compact what is dirty and may be touched; none beside another compaction.
    #[must_use]
    pub fn begin_compaction(self: &Arc<Self>, how: Compact) -> Option<Compaction> {
        Some(Compaction::new(self.take_turn()?, how))
    }

    /// The right to compact the log; none while another has it.
    pub(super) fn take_turn(self: &Arc<Self>) -> Option<Turn> {
        let free = !self.compacting.swap(true, Ordering::AcqRel);
        free.then(|| Turn(Arc::clone(self)))
    }

    pub(super) fn clean_to(&self) -> Offset {
        let point = self.disk.cleaner_points.offsets.lock().get(&*self.name).copied();
        let state = self.state.read();
        let point = point.filter(|point| *point <= state.log_end_offset);
        point.unwrap_or_default().max(state.log_start_offset)
    }

    pub(super) fn plan(
        &self,
        config: &LogConfig,
        now_ms: i64,
        stable_offset: Offset,
    ) -> Option<Plan> {
        let first_dirty = self.clean_to();
        let state = self.state.read();
        let bound = stable_offset.min(state.recovery_point);
        let mut segments = Vec::new();
        for pair in state.segments.windows(2) {
            let next = pair[1].base;
            let young = config.min_compaction_lag_ms > 0
                && next > first_dirty
                && pair[0].max_timestamp().is_some_and(|(max_ms, _)| {
                    max_ms > now_ms.saturating_sub(config.min_compaction_lag_ms)
                });
            if next > bound || young {
                break;
            }
            segments.push((Arc::clone(&pair[0]), next));
        }
        let end = segments.last()?.1;
        (end > first_dirty).then_some(Plan { segments, first_dirty, end })
    }
}

/// Neighbours that fit into one segment together.
pub(super) fn groups(segments: &[(Arc<Segment>, Offset)], config: &LogConfig) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut start = 0;
    while let Some((first, _)) = segments.get(start) {
        let (mut bytes, mut index_bytes) = (0, 0);
        let fitting = segments[start..].iter().take_while(|(segment, next)| {
            bytes += u64::from(segment.size_bytes());
            index_bytes += segment.index_bytes();
            bytes <= u64::from(config.segment_bytes)
                && index_bytes <= u64::from(config.segment_index_bytes)
                && next.since(first.base) <= i64::from(i32::MAX)
        });
        let end = start + fitting.count().max(1);
        groups.push(start..end);
        start = end;
    }
    groups
}
