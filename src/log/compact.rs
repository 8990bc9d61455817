//! Compaction: rewrites closed segments so that only the newest record of each key is left.
//!
//! One run maps the keys of the dirty section as far as memory allows, rewrites all segments up to
//! there in groups of up to `segment.bytes`, and swaps each group in as `swap` describes. Readers
//! that hold slices of old files go on reading them.
//!
//! Invariants: only what is stable, flushed and in a closed segment is touched; the cleaner's
//! checkpoint is raised after everything below it is clean on disk; the writer is held up for
//! renames only, readers not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    clean::{Filter, LastOfProducers, NewestOffsets, Outcome},
    config::LogConfig,
    dir::{File, Open},
    error::{Damage, LogError, Operation},
    header::{HEADER_BYTES, Header},
    partition::Log,
    scan::Scan,
    segment::{AbortedTxn, Kind, Segment, path},
    swap,
};
use crate::{base::Offset, protocol::batch::Batch};

/// Output that is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;

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

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Everything below is clean.
    pub clean_to: Offset,
    /// The rewritten segments' size before.
    pub read_bytes: u64,
    /// Their size now.
    pub written_bytes: u64,
    /// Segments before less segments now.
    pub merged_segments: usize,
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

/// What one run may touch.
struct Plan {
    /// The cleanable segments with the offsets at which the next ones begin.
    segments: Vec<(Arc<Segment>, Offset)>,
    first_dirty: Offset,
    end: Offset,
}

impl Log {
    /// How dirty the log is; none where nothing can be compacted now.
    #[must_use]
    pub fn dirtiness(&self, now_ms: i64, stable_offset: Offset) -> Option<Dirtiness> {
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

    /// Compacts what is dirty and may be touched; does nothing beside another compaction.
    ///
    /// # Errors
    /// Where the disk fails, or a batch's records do not decode: `Corrupt` with
    /// [`Damage::Records`], which leaves the log as it was and the directory online.
    pub fn compact(&self, how: Compact) -> Result<Compacted, LogError> {
        let config = self.config();
        let idle = || Compacted { clean_to: self.clean_to(), ..Compacted::default() };
        let Some(_running) = self.compaction.try_lock() else { return Ok(idle()) };
        // What is stable may rest on markers that only now become durable: were one lost after its
        // transaction's data were dropped as aborted, the transaction would be open without them.
        self.flush()?;
        let Some(plan) = self.plan(&config, how.now_ms, how.stable_offset) else {
            return Ok(idle());
        };
        let mut filter = self.filter(&plan, &config, how)?;
        let cleaned = plan.segments.partition_point(|(segment, _)| segment.base < filter.end);
        let mut done = Compacted::default();
        for group in groups(&plan.segments[..cleaned], &config) {
            if !self.rewrite(group, &mut filter, &config, &mut done)? {
                // The log was cut or deleted meanwhile.
                done.clean_to = self.clean_to();
                return Ok(done);
            }
        }
        let _writer = self.writer.lock();
        self.check_open()?;
        done.clean_to = filter.end.min(self.log_end_offset());
        self.disk.raise_cleaner_point(&self.name, done.clean_to)?;
        Ok(done)
    }

    fn clean_to(&self) -> Offset {
        let point = self.disk.cleaner_points.lock().get(&*self.name).copied();
        let state = self.state.read();
        let point = point.filter(|point| *point <= state.log_end_offset);
        point.unwrap_or_default().max(state.log_start_offset)
    }

    fn plan(&self, config: &LogConfig, now_ms: i64, stable_offset: Offset) -> Option<Plan> {
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

    /// Maps the keys of the dirty section, as far as they find room.
    fn filter(&self, plan: &Plan, config: &LogConfig, how: Compact) -> Result<Filter, LogError> {
        let aborted = {
            let _writer = self.writer.lock();
            self.check_open()?;
            self.aborted_transactions(self.log_start_offset(), plan.end)?
        };
        let active = self.active_producers().iter().map(|producer| producer.producer_id).collect();
        let mut filter = Filter {
            end: plan.end,
            newest: NewestOffsets::new(how.max_map_bytes),
            last: LastOfProducers::default(),
            active,
            aborted,
            now_ms: how.now_ms,
            delete_retention_ms: config.delete_retention_ms,
            with_data: BTreeSet::new(),
        };
        for (segment, next) in &plan.segments {
            let log = segment.path(Kind::Log);
            let mut scan = self.source(segment)?;
            if *next <= plan.first_dirty {
                for found in scan {
                    filter.last.add(&found.map_err(|e| e.into_error(&self.disk, &log))?.header);
                }
                continue;
            }
            while let Some((position, batch)) = self.next_batch(&mut scan, &log)? {
                filter.last.add(&header_of(batch.bytes()));
                if batch.is_control() || filter.is_aborted(&batch) {
                    continue;
                }
                let full = filter.newest.add(&batch, plan.first_dirty);
                let full = full.map_err(|damage| self.undecodable(&log, position, damage))?;
                if let Some(offset) = full {
                    filter.end = offset;
                    return Ok(filter);
                }
            }
        }
        Ok(filter)
    }

    /// A walk over a segment; its file stays readable whatever becomes of the log.
    fn source(&self, segment: &Segment) -> Result<Scan, LogError> {
        let _writer = self.writer.lock();
        self.check_open()?;
        segment.scan(&self.disk, 0)
    }

    fn next_batch(&self, scan: &mut Scan, log: &str) -> Result<Option<(u64, Batch)>, LogError> {
        match scan.next_batch() {
            Ok(None) => Ok(None),
            Ok(Some((found, bytes))) => {
                let batch = Batch::split_from(&mut Bytes::copy_from_slice(bytes));
                let batch =
                    batch.map_err(|_| self.undecodable(log, found.position, Damage::Records))?;
                Ok(Some((found.position, batch)))
            }
            Err(failure) => Err(failure.into_error(&self.disk, log)),
        }
    }

    fn undecodable(&self, log: &str, position: u64, damage: Damage) -> LogError {
        LogError::Corrupt { path: self.disk.absolute(log), position, damage }
    }

    /// Rewrites a group of segments as one. False where the log was cut or deleted meanwhile.
    fn rewrite(
        &self,
        group: &[(Arc<Segment>, Offset)],
        filter: &mut Filter,
        config: &LogConfig,
        done: &mut Compacted,
    ) -> Result<bool, LogError> {
        let Some(mut output) = Output::begin(self, group[0].0.base, config)? else {
            return Ok(false);
        };
        let mut aborted = BTreeMap::new();
        let mut waiting: Option<(String, u64, Batch)> = None;
        for (segment, _) in group {
            let log = segment.path(Kind::Log);
            let mut scan = self.source(segment)?;
            for txn in segment.aborted(&self.disk)? {
                aborted.insert(txn.last_offset, txn);
            }
            done.read_bytes += u64::from(segment.size_bytes());
            while let Some((position, batch)) = self.next_batch(&mut scan, &log)? {
                let earlier = waiting.replace((log.clone(), position, batch));
                if let Some((log, position, batch)) = earlier {
                    let outcome = filter.decide(&batch, false);
                    let outcome = outcome.map_err(|e| self.undecodable(&log, position, e))?;
                    output.take(&batch, outcome)?;
                }
            }
        }
        let Some((log, position, batch)) = waiting else { return Ok(true) };
        let outcome = filter.decide(&batch, true);
        let outcome = outcome.map_err(|e| self.undecodable(&log, position, e))?;
        output.take(&batch, outcome)?;
        aborted.retain(|marker, _| output.markers.contains(marker));
        let changed = output.changed || group.len() > 1;
        let aborted: Vec<AbortedTxn> = aborted.into_values().collect();
        let (fresh, files) = output.finish(&aborted)?;
        done.written_bytes += u64::from(fresh.size_bytes());
        if !changed {
            drop(files);
            self.remove_cleaned(fresh.base)?;
            return Ok(true);
        }
        done.merged_segments += group.len() - 1;
        self.swap_in(group, fresh, files)
    }

    fn remove_cleaned(&self, base: Offset) -> Result<(), LogError> {
        for kind in Kind::ALL {
            let cleaned = format!("{}.cleaned", path(&self.name, base, kind.suffix()));
            self.disk.run(Operation::Remove, &cleaned, |dir| dir.remove_file(&cleaned))?;
        }
        Ok(())
    }

    fn swap_in(
        &self,
        group: &[(Arc<Segment>, Offset)],
        fresh: Segment,
        files: [Arc<dyn File>; 4],
    ) -> Result<bool, LogError> {
        let _writer = self.writer.lock();
        self.check_open()?;
        let at = {
            let state = self.state.read();
            let at = state.segments.iter().position(|held| Arc::ptr_eq(held, &group[0].0));
            let same = |at: &usize| {
                let held = state.segments[*at..].iter();
                let next = state.segments.get(at + group.len()).map(|next| next.base);
                next == group.last().map(|(_, next)| *next)
                    && held.zip(group).all(|(held, (old, _))| Arc::ptr_eq(held, old))
            };
            at.filter(same)
        };
        let base = fresh.base;
        let Some(at) = at else {
            self.remove_cleaned(base)?;
            return Ok(false);
        };
        swap::decide(&self.disk, &self.name, base)?;
        // From here on readers find the new segment by its open files, whatever they are called.
        fresh.pin(files);
        let fresh = Arc::new(fresh);
        {
            let mut state = self.state.write();
            state.segments.splice(at..at + group.len(), [Arc::clone(&fresh)]);
            state.generation += 1;
            for (old, _) in group {
                old.retire(&self.disk);
            }
        }
        let bases: Vec<Offset> = group.iter().map(|(old, _)| old.base).collect();
        swap::replace(&self.disk, &self.name, base, &bases)?;
        fresh.unpin();
        Ok(true)
    }
}

fn header_of(batch: &[u8]) -> Header {
    let fixed = batch.first_chunk::<HEADER_BYTES>().map(Header::parse);
    fixed.and_then(Result::ok).expect("the bytes are a whole batch that was parsed or built")
}

/// Neighbours that fit into one segment together.
fn groups<'a>(
    segments: &'a [(Arc<Segment>, Offset)],
    config: &LogConfig,
) -> Vec<&'a [(Arc<Segment>, Offset)]> {
    let mut groups = Vec::new();
    let mut rest = segments;
    while let Some((first, _)) = rest.first() {
        let (mut bytes, mut index_bytes) = (0, 0);
        let fitting = rest.iter().take_while(|(segment, next)| {
            bytes += u64::from(segment.size_bytes());
            index_bytes += segment.index_bytes();
            bytes <= u64::from(config.segment_bytes)
                && index_bytes <= u64::from(config.segment_index_bytes)
                && next.since(first.base) <= i64::from(i32::MAX)
        });
        let (group, others) = rest.split_at(fitting.count().max(1));
        groups.push(group);
        rest = others;
    }
    groups
}

/// The segment that is being written, in `.cleaned` files.
struct Output<'a> {
    log: &'a Log,
    config: &'a LogConfig,
    segment: Segment,
    files: [Arc<dyn File>; 4],
    buffer: Vec<u8>,
    written: u64,
    changed: bool,
    /// Where the markers are that were kept.
    markers: BTreeSet<Offset>,
}

impl<'a> Output<'a> {
    /// None where the log is gone.
    fn begin(log: &'a Log, base: Offset, config: &'a LogConfig) -> Result<Option<Self>, LogError> {
        let mut files = Vec::with_capacity(4);
        for kind in Kind::ALL {
            let cleaned = format!("{}.cleaned", path(&log.name, base, kind.suffix()));
            let open = |dir: &dyn super::dir::Dir| dir.open(&cleaned, Open::Truncated);
            let file = log.disk.run_optional(Operation::Open, &cleaned, open)?;
            files.extend(file);
        }
        let Ok(files) = <[Arc<dyn File>; 4]>::try_from(files) else { return Ok(None) };
        let segment = Segment::empty(&log.disk, &log.name, base);
        let (buffer, markers) = (Vec::new(), BTreeSet::new());
        Ok(Some(Self { log, config, segment, files, buffer, written: 0, changed: false, markers }))
    }

    fn take(&mut self, batch: &Batch, outcome: Outcome) -> Result<(), LogError> {
        self.changed |= outcome != Outcome::Kept;
        let bytes = match outcome {
            Outcome::Kept => batch.bytes().clone(),
            Outcome::Replaced(bytes) => bytes,
            Outcome::Dropped => return Ok(()),
        };
        let header = header_of(&bytes);
        if header.is_control() {
            self.markers.insert(header.base_offset);
        }
        self.segment.publish(&header, Log::limits(self.config));
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn failed(&self, operation: Operation, error: std::io::Error) -> LogError {
        self.log.disk.failed(operation, &self.segment.path(Kind::Log), error)
    }

    fn write(&mut self) -> Result<(), LogError> {
        self.log.disk.check()?;
        self.files[0]
            .write_at(self.written, &mut [IoSlice::new(&self.buffer)])
            .map_err(|error| self.failed(Operation::Write, error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, aborted: &[AbortedTxn]) -> Result<(Segment, [Arc<dyn File>; 4]), LogError> {
        self.write()?;
        let [_, index, times, txns] = &self.files;
        self.segment
            .write_indexes_to(&**index, &**times, (&**txns, aborted))
            .map_err(|error| self.failed(Operation::Write, error))?;
        for file in &self.files {
            file.sync_data().map_err(|error| self.failed(Operation::Sync, error))?;
        }
        Ok((self.segment, self.files))
    }
}
