//! Cutting a log at either end: truncation by a follower, DeleteRecords, retention.

use std::sync::{Arc, atomic::Ordering};

use super::{
    error::{LogError, Operation},
    partition::Log,
    segment::{Kind, Segment, path},
};
use crate::base::Offset;

impl Log {
    /// Cuts everything from `offset` on, leader epochs without a record included; a batch that
    /// holds it in its middle goes whole.
    ///
    /// # Errors
    /// Where the disk fails, or the log is closed.
    pub fn truncate_to(&self, offset: Offset) -> Result<(), LogError> {
        let (_cutting, _writer) = (self.cutting.lock(), self.writer.lock());
        self.check_open()?;
        let (segments, start, end) = {
            let state = self.state.read();
            (state.segments.clone(), state.log_start_offset, state.log_end_offset)
        };
        if offset >= end {
            // An epoch in which nothing was written may begin at the end.
            if self.state.write().epochs.truncate_from_end(offset) {
                self.epochs_dirty.store(true, Ordering::Release);
            }
            return Ok(());
        }
        if offset <= start {
            return self.start_over(offset);
        }
        let at = self.state.read().segment_at(offset);
        let segment = &segments[at];
        let cut = segment.locate(&self.disk, offset)?;
        let end = cut.map_or(offset, |cut| offset.min(cut.header.base_offset));
        if end <= start {
            // What is left of the batch that goes is deleted already.
            return self.start_over(start);
        }
        self.disk.lower(&self.disk.recovery_points, &self.key, end)?;
        self.disk.lower(&self.disk.cleaner_points, &self.key, end)?;
        self.disk.lower(&self.disk.high_watermarks, &self.key, end)?;
        {
            // Readers see the shorter log before any byte of it goes.
            let mut state = self.state.write();
            state.segments.truncate(at + 1);
            state.log_end_offset = end;
            state.recovery_point = state.recovery_point.min(end);
            state.generation += 1;
            if state.epochs.truncate_from_end(end) {
                self.epochs_dirty.store(true, Ordering::Release);
            }
        }
        for later in segments[at + 1..].iter().rev() {
            later.remove(&self.disk)?;
        }
        if let Some(cut) = cut {
            segment.truncate(&self.disk, cut.position as u32, end)?;
        }
        self.remove_snapshots(|at| at > end)?;
        self.disk.run(Operation::Sync, &self.name, |dir| dir.sync_dir(&self.name))?;
        segment.sync(&self.disk, &[Kind::Log])?;
        self.rebuild_producers(self.snapshots()?)
    }

    /// Drops all records; the next one gets `offset`.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), LogError> {
        let (_cutting, _writer) = (self.cutting.lock(), self.writer.lock());
        self.check_open()?;
        self.start_over(offset)
    }

    fn start_over(&self, offset: Offset) -> Result<(), LogError> {
        self.disk.lower(&self.disk.recovery_points, &self.key, Offset::ZERO)?;
        self.disk.lower(&self.disk.cleaner_points, &self.key, Offset::ZERO)?;
        self.disk.lower(&self.disk.log_starts, &self.key, offset)?;
        self.disk.lower(&self.disk.high_watermarks, &self.key, offset)?;
        let old = {
            let mut state = self.state.write();
            let old = std::mem::take(&mut state.segments);
            let segment = Arc::new(Segment::empty(&self.disk, &self.name, offset));
            state.segments.push(segment);
            state.log_start_offset = offset;
            state.log_end_offset = offset;
            state.recovery_point = offset;
            state.generation += 1;
            state.epochs = Default::default();
            state.producers = Default::default();
            old
        };
        self.epochs_dirty.store(true, Ordering::Release);
        for segment in old.iter().rev() {
            segment.remove(&self.disk)?;
        }
        self.remove_snapshots(|_| true)?;
        let segment = Arc::clone(self.state.read().active());
        segment.file(&self.disk, Kind::Log)?;
        self.disk.run(Operation::Sync, &self.name, |dir| dir.sync_dir(&self.name))
    }

    fn snapshots(&self) -> Result<Vec<Offset>, LogError> {
        let entries = self.disk.run(Operation::List, &self.name, |dir| dir.list(&self.name))?;
        let snapshots = entries
            .iter()
            .filter_map(|entry| entry.name.strip_suffix(".snapshot")?.parse().ok().map(Offset));
        Ok(snapshots.collect())
    }

    fn remove_snapshots(&self, which: impl Fn(Offset) -> bool) -> Result<(), LogError> {
        for at in self.snapshots()?.into_iter().filter(|at| which(*at)) {
            let file = path(&self.name, at, ".snapshot");
            self.disk.run(Operation::Remove, &file, |dir| dir.remove_file(&file))?;
        }
        Ok(())
    }

    /// Raises the log start offset (DeleteRecords) and removes the segments that lie below.
    ///
    /// The new start survives a restart once the directory's checkpoints were written.
    ///
    /// # Errors
    /// `OffsetOutOfRange` where `to` lies beyond `high_watermark`; else where the disk fails.
    pub fn delete_records(&self, to: Offset, high_watermark: Offset) -> Result<Offset, LogError> {
        let _cutting = self.cutting.lock();
        self.check_open()?;
        {
            let mut state = self.state.write();
            let end = high_watermark.min(state.log_end_offset);
            if to > end {
                let start = state.log_start_offset;
                return Err(LogError::OffsetOutOfRange { offset: to, start, end });
            }
            state.log_start_offset = state.log_start_offset.max(to);
        }
        self.remove_below_start()?;
        Ok(self.log_start_offset())
    }

    /// Raises the log start offset, as far as the log's end. The segments below go with the next
    /// [`Self::apply_retention`].
    pub fn raise_start(&self, to: Offset) {
        let mut state = self.state.write();
        state.log_start_offset = state.log_start_offset.max(to.min(state.log_end_offset));
    }

    /// Removes old segments by `retention.ms` and `retention.bytes`, never beyond
    /// `high_watermark`; returns how many went.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn apply_retention(&self, now_ms: i64, high_watermark: Offset) -> Result<usize, LogError> {
        let _cutting = self.cutting.lock();
        let writer = self.writer.lock();
        self.check_open()?;
        let config = self.config();
        let before = self.segment_count();
        if config.delete {
            let expired = self.expired(&config, now_ms, high_watermark);
            if expired > 0 {
                let end = self.log_end_offset();
                if expired == before {
                    // The active segment has expired too: an empty one takes its place.
                    self.roll(end, now_ms)?;
                }
                let mut state = self.state.write();
                let start = state.segments[expired].base;
                state.log_start_offset = state.log_start_offset.max(start);
            }
        }
        drop(writer);
        self.remove_below_start()
    }

    /// How many segments from the oldest on may go.
    fn expired(
        &self,
        config: &super::config::LogConfig,
        now_ms: i64,
        high_watermark: Offset,
    ) -> usize {
        let state = self.state.read();
        let ends = state.segments.iter().skip(1).map(|segment| segment.base);
        let ends = ends.chain([state.log_end_offset]);
        let mut excess = if config.retention_bytes >= 0 {
            let sizes = state.segments.iter().map(|segment| i64::from(segment.size_bytes()));
            sizes.sum::<i64>() - config.retention_bytes
        } else {
            -1
        };
        let mut expired = 0;
        for (segment, end) in state.segments.iter().zip(ends) {
            let size = i64::from(segment.size_bytes());
            let too_old = config.retention_ms >= 0
                && segment
                    .max_timestamp()
                    .is_some_and(|(max, _)| max >= 0 && now_ms - max > config.retention_ms);
            let too_much = excess >= size;
            if end > high_watermark || size == 0 || !(too_old || too_much) {
                break;
            }
            excess -= size;
            expired += 1;
        }
        expired
    }

    /// Removes segments that lie wholly below the log start offset; returns how many. For whoever
    /// holds `cutting`.
    fn remove_below_start(&self) -> Result<usize, LogError> {
        let removed = {
            let mut state = self.state.write();
            let kept_from = state.segment_at(state.log_start_offset);
            let removed: Vec<_> = state.segments.drain(..kept_from).collect();
            // Readers that meet a removed file start over.
            state.removals += u64::from(!removed.is_empty());
            let start = state.log_start_offset;
            if state.epochs.truncate_from_start(start) {
                self.epochs_dirty.store(true, Ordering::Release);
            }
            removed
        };
        // Oldest first, so that a crash never leaves a hole.
        for segment in &removed {
            segment.remove(&self.disk)?;
        }
        if !removed.is_empty() {
            self.dir_dirty.store(true, Ordering::Release);
        }
        Ok(removed.len())
    }
}
