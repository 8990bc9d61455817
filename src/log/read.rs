//! Reading a log: slices of files for fetches, and lookups by time and of aborted transactions.
//!
//! Reads take the state for a moment and go to the files outside of it, so a truncation may cut
//! what they look at. They notice by the generation and start over; anything else that does not
//! parse is damage.

use std::sync::Arc;

use super::{
    disk::Disk,
    error::LogError,
    partition::{FileSlice, Log},
    segment::{AbortedTxn, Kind, Segment, TimestampOffset},
};
use crate::base::Offset;

/// Truncations that one read outlives.
const MAX_RETRIES: usize = 8;

/// Where the records of a timestamp lie: the batch that a caller must look into.
#[derive(Debug, Clone)]
pub struct TimestampBatch {
    /// The whole batch.
    pub slice: FileSlice,
    /// Its highest timestamp.
    pub max_timestamp_ms: i64,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// The epoch it was written in.
    pub leader_epoch: crate::base::LeaderEpoch,
}

impl Log {
    /// Whole batches from the one that holds `from` up to `upper_bound` (exclusive), of at most
    /// `max_bytes`, or the first batch alone where that is larger and `at_least_one` is asked for.
    ///
    /// None where nothing qualifies. The batches are of one segment; the next read goes on.
    ///
    /// # Errors
    /// `OffsetOutOfRange` outside of log start to log end offset; else where the disk fails.
    pub fn read(
        &self,
        from: Offset,
        upper_bound: Offset,
        max_bytes: u32,
        at_least_one: bool,
    ) -> Result<Option<FileSlice>, LogError> {
        self.with_retries(
            |view| {
                let upper_bound = upper_bound.min(view.end);
                if from >= upper_bound {
                    return Ok(None);
                }
                let Some((segment, next_base, found)) = view.locate(&self.disk, from)? else {
                    return Ok(None);
                };
                if found.header.base_offset >= upper_bound {
                    return Ok(None);
                }
                let start = found.position as u32;
                // The active segment may have grown beyond the offset that was taken with it.
                let whole = next_base.is_some_and(|base| base <= upper_bound);
                let end = if whole {
                    segment.size_bytes()
                } else {
                    let beyond = segment.locate(&self.disk, upper_bound)?;
                    beyond.map_or_else(|| segment.size_bytes(), |found| found.position as u32)
                };
                let limit = start.saturating_add(max_bytes);
                let mut end =
                    if end > limit { segment.batch_end(&self.disk, start, limit)? } else { end };
                if end <= start {
                    if !at_least_one || upper_bound < found.header.next_offset() {
                        return Ok(None);
                    }
                    end = start + found.header.size_bytes() as u32;
                }
                let file = segment.file(&self.disk, Kind::Log)?;
                let len_bytes = end - start;
                Ok(Some(FileSlice {
                    file,
                    position: u64::from(start),
                    len_bytes,
                    disk: Arc::clone(&self.disk),
                    segment: Arc::clone(segment),
                }))
            },
            Some(from),
        )
    }

    /// About how many bytes the log has from `offset` on. Reads nothing: within a segment, records are
    /// taken to be of one size.
    #[must_use]
    pub fn bytes_from(&self, offset: Offset) -> u64 {
        let state = self.state.read();
        let first = state.segment_at(offset);
        let ends = state.segments.iter().skip(first + 1).map(|segment| segment.base);
        let end = ends.chain([state.log_end_offset]).next().unwrap_or(offset);
        let mut sizes =
            state.segments[first..].iter().map(|segment| u64::from(segment.size_bytes()));
        let held = sizes.next().unwrap_or(0);
        let records = end.since(state.segments[first].base).max(1).unsigned_abs();
        let missed = end.since(offset).max(0).unsigned_abs();
        (u128::from(held) * u128::from(missed) / u128::from(records)) as u64 + sizes.sum::<u64>()
    }

    /// How many bytes lie behind a slice of this log.
    #[must_use]
    pub fn bytes_behind(&self, slice: &FileSlice) -> u64 {
        let state = self.state.read();
        let later = state.segments.iter().filter(|segment| segment.base > slice.segment.base);
        let later: u64 = later.map(|segment| u64::from(segment.size_bytes())).sum();
        let read = slice.position + u64::from(slice.len_bytes);
        u64::from(slice.segment.size_bytes()).saturating_sub(read) + later
    }

    /// The first batch at or after the log start offset that holds `timestamp_ms` or later.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn batch_for_timestamp(
        &self,
        timestamp_ms: i64,
    ) -> Result<Option<TimestampBatch>, LogError> {
        self.with_retries(
            |view| {
                for segment in &view.segments {
                    let reaches =
                        segment.max_timestamp().is_some_and(|(max, _)| max >= timestamp_ms);
                    if !reaches {
                        continue;
                    }
                    let Some(mut found) = segment.locate_timestamp(&self.disk, timestamp_ms)?
                    else {
                        continue;
                    };
                    if found.header.last_offset() < view.start {
                        let Some(later) = segment.locate(&self.disk, view.start)? else { continue };
                        found = later;
                    }
                    let position = found.position as u32;
                    for found in segment.scan(&self.disk, position)? {
                        let path = segment.path(Kind::Log);
                        let found = found.map_err(|e| e.into_error(&self.disk, &path))?;
                        if found.header.max_timestamp_ms < timestamp_ms {
                            continue;
                        }
                        let slice = FileSlice {
                            file: segment.file(&self.disk, Kind::Log)?,
                            position: found.position,
                            len_bytes: found.header.size_bytes() as u32,
                            disk: Arc::clone(&self.disk),
                            segment: Arc::clone(segment),
                        };
                        return Ok(Some(TimestampBatch {
                            slice,
                            max_timestamp_ms: found.header.max_timestamp_ms,
                            last_offset: found.header.last_offset(),
                            leader_epoch: found.header.leader_epoch,
                        }));
                    }
                }
                Ok(None)
            },
            None,
        )
    }

    /// The highest timestamp in the log and the last offset of the first batch that has it.
    #[must_use]
    pub fn max_timestamp(&self) -> Option<TimestampOffset> {
        let state = self.state.read();
        let highest = state.segments.iter().filter_map(|segment| segment.max_timestamp());
        // Of equal timestamps the first counts.
        let highest = highest.reduce(|a, b| if b.0 > a.0 { b } else { a });
        highest.map(|(timestamp_ms, offset)| TimestampOffset {
            timestamp_ms,
            offset,
            leader_epoch: state.epochs.of(offset).unwrap_or(crate::base::LeaderEpoch::NONE),
        })
    }

    /// Aborted transactions with data in `from..upper_bound`, which a reader of committed data
    /// must skip.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn aborted_transactions(
        &self,
        from: Offset,
        upper_bound: Offset,
    ) -> Result<Vec<AbortedTxn>, LogError> {
        self.with_retries(
            |view| {
                let mut aborted = Vec::new();
                let at = view.segments.partition_point(|segment| segment.base <= from);
                for segment in &view.segments[at.saturating_sub(1)..] {
                    for txn in segment.aborted(&self.disk)? {
                        if txn.last_offset >= from && txn.first_offset < upper_bound {
                            aborted.push(txn);
                        }
                        if txn.last_stable_offset >= upper_bound {
                            return Ok(aborted);
                        }
                    }
                }
                Ok(aborted)
            },
            None,
        )
    }

    fn with_retries<T>(
        &self,
        run: impl Fn(&View) -> Result<T, LogError>,
        from: Option<Offset>,
    ) -> Result<T, LogError> {
        let mut retries = 0;
        loop {
            self.disk.check()?;
            let view = self.view(from)?;
            let result = run(&view);
            let cut = {
                let state = self.state.read();
                state.generation != view.generation
                    || result.is_err() && state.removals != view.removals
            };
            if !cut || retries == MAX_RETRIES {
                return result.map_err(|error| match error {
                    LogError::Corrupt { .. } if !cut => self.disk.fail(error),
                    error => error,
                });
            }
            retries += 1;
        }
    }

    fn view(&self, from: Option<Offset>) -> Result<View, LogError> {
        let state = self.state.read();
        if state.closed {
            return Err(LogError::Closed(Arc::clone(&self.name)));
        }
        let (start, end) = (state.log_start_offset, state.log_end_offset);
        if let Some(offset) = from
            && !(start..=end).contains(&offset)
        {
            return Err(LogError::OffsetOutOfRange { offset, start, end });
        }
        let first = state.segment_at(from.unwrap_or(start));
        let segments = match from {
            // One to read from, and those that follow where compaction emptied it.
            Some(_) => state.segments[first..].iter().take(2).cloned().collect(),
            None => state.segments[first..].to_vec(),
        };
        let more = first + 2 < state.segments.len();
        let rest = if more && from.is_some() {
            state.segments[first + 2..].iter().take(1).map(|segment| segment.base).next()
        } else {
            None
        };
        Ok(View {
            segments,
            next_base: rest,
            start,
            end,
            generation: state.generation,
            removals: state.removals,
        })
    }
}

/// What a read saw of the log.
struct View {
    segments: Vec<Arc<Segment>>,
    /// The base offset of the segment after those.
    next_base: Option<Offset>,
    start: Offset,
    end: Offset,
    generation: u64,
    removals: u64,
}

type Located<'a> = (&'a Arc<Segment>, Option<Offset>, super::scan::Found);

impl View {
    /// The first batch that holds `offset` or a later one, its segment and the next one's base.
    fn locate(&self, disk: &Disk, offset: Offset) -> Result<Option<Located<'_>>, LogError> {
        for (at, segment) in self.segments.iter().enumerate() {
            if let Some(found) = segment.locate(disk, offset)? {
                let next = self.segments.get(at + 1).map(|segment| segment.base);
                return Ok(Some((segment, next.or(self.next_base), found)));
            }
        }
        Ok(None)
    }
}
