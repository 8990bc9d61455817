//! Compaction: rewrites closed segments so that only the newest record of each key is left.
//!
//! A compaction maps the keys of the dirty section as far as memory allows, rewrites all segments
//! up to there in groups of up to `segment.bytes`, and swaps each group in as `swap` describes. It
//! goes in steps that read and write about a megabyte, so that whoever drives it can pause or stop
//! in between. Readers that hold slices of old files go on reading them.
//!
//! Invariants: a log has one compaction at a time; the cleaner's checkpoint is raised after
//! everything below it is clean on disk; neither the writer nor readers wait for it. Dropping a
//! compaction leaves at most `.cleaned` files, which the next one overwrites and the next opening
//! of the log removes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    clean::{Filter, LastOfProducers, NewestOffsets},
    compact::{Compact, Plan, groups},
    config::LogConfig,
    dir::{Dir, File},
    error::{Damage, LogError, Operation},
    header,
    output::{Output, remove_cleaned},
    partition::Log,
    scan::Scan,
    segment::{AbortedTxn, Kind, Segment},
    swap,
};
use crate::{
    base::Offset,
    protocol::batch::{Batch, Header},
};

/// What one step reads and writes, but for the last batch.
const STEP_BYTES: u64 = 1 << 20;
/// What a walk over headers reads of each batch at most.
const HEADERS_BYTES: u64 = 4096;

/// Why a log was not compacted. It stays as it was, and can be read and written.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The disk failed, or the records of a batch do not decode (`Corrupt`, which leaves the
    /// directory online).
    #[error(transparent)]
    Log(#[from] LogError),
    /// The old and the new segments do not find room beside each other.
    #[error("{needed_bytes} bytes are needed to compact {log}, and {usable_bytes} are free")]
    NoRoom {
        /// The log.
        log: Arc<str>,
        /// What the new segment may take.
        needed_bytes: u64,
        /// What the volume has left.
        usable_bytes: u64,
    },
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

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes read and written.
    pub bytes: u64,
    /// What the whole compaction did, after its last step.
    pub done: Option<Compacted>,
}

/// The right to compact a log, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(pub(super) Arc<Log>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.compacting.store(false, Ordering::Release);
    }
}

/// A compaction under way. Blocks in [`Self::step`] only.
pub struct Compaction {
    turn: Turn,
    config: Arc<LogConfig>,
    how: Compact,
    stage: Stage,
    done: Compacted,
    /// The log's, as far as this compaction has changed it.
    generation: u64,
}

enum Stage {
    Begin,
    Map(Box<Mapping>),
    Rewrite(Box<Rewriting>),
    Done,
}

/// The walk that finds the newest offset of each key.
struct Mapping {
    plan: Plan,
    filter: Filter,
    at: usize,
    source: Option<Source>,
}

struct Rewriting {
    segments: Vec<(Arc<Segment>, Offset)>,
    groups: VecDeque<Range<usize>>,
    filter: Filter,
    group: Option<Group>,
}

/// Segments that become one.
struct Group {
    segments: Range<usize>,
    at: usize,
    source: Option<Source>,
    output: Output,
    /// The batch before, which is decided once it is known not to be the last.
    waiting: Option<Located>,
    aborted: BTreeMap<Offset, AbortedTxn>,
}

/// A walk over a segment; its file stays readable whatever becomes of the log.
struct Source {
    scan: Scan,
    path: Arc<str>,
}

/// A batch and where it lies.
struct Located {
    path: Arc<str>,
    position: u64,
    batch: Batch,
}

impl Compaction {
    pub(super) fn new(turn: Turn, how: Compact) -> Self {
        let config = turn.0.config();
        let done = Compacted::default();
        Self { turn, config, how, stage: Stage::Begin, done, generation: 0 }
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> &Arc<Log> {
        &self.turn.0
    }

    /// Goes on for about a megabyte. After an error, or a step that is the last, nothing is left
    /// to do. A log that was cut, deleted or closed meanwhile ends the compaction without error.
    ///
    /// # Errors
    /// See [`CompactError`].
    pub fn step(&mut self) -> Result<Step, CompactError> {
        let step = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Begin => self.begin(),
            Stage::Map(mapping) => self.map(mapping),
            Stage::Rewrite(rewriting) => self.rewrite(rewriting),
            Stage::Done => Ok(self.end(0)),
        };
        match step {
            Err(CompactError::Log(LogError::Closed(_))) => Ok(self.end(0)),
            Err(CompactError::Log(LogError::Corrupt { .. })) if self.was_cut() => Ok(self.end(0)),
            step => step,
        }
    }

    /// Gives up and removes what was written so far. Blocks.
    pub fn abandon(mut self) {
        if let Stage::Rewrite(rewriting) = &self.stage
            && let Some(group) = &rewriting.group
        {
            // A failure takes the directory offline and is logged there.
            drop(remove_cleaned(self.log(), group.output.base()));
        }
        self.stage = Stage::Done;
    }

    fn was_cut(&self) -> bool {
        self.log().state.read().generation != self.generation
    }

    /// Nothing is left to do.
    fn end(&mut self, bytes: u64) -> Step {
        self.stage = Stage::Done;
        self.done.clean_to = self.log().clean_to();
        Step { bytes, done: Some(self.done) }
    }

    fn begin(&mut self) -> Result<Step, CompactError> {
        let log = Arc::clone(self.log());
        // What is stable may rest on markers that only now become durable: were one lost after its
        // transaction's data were dropped as aborted, the transaction would be open without them.
        log.flush()?;
        self.generation = log.state.read().generation;
        let Some(plan) = log.plan(&self.config, self.how.now_ms, self.how.stable_offset) else {
            return Ok(self.end(0));
        };
        let aborted = {
            let _cutting = log.cutting.lock();
            log.check_open()?;
            log.aborted_transactions(log.log_start_offset(), plan.end)?
        };
        let filter = Filter {
            end: plan.end,
            newest: NewestOffsets::new(self.how.max_map_bytes),
            last: LastOfProducers::default(),
            active: log.active_producers().iter().map(|producer| producer.producer_id).collect(),
            aborted,
            now_ms: self.how.now_ms,
            delete_retention_ms: self.config.delete_retention_ms,
            with_data: BTreeSet::new(),
        };
        self.stage = Stage::Map(Box::new(Mapping { plan, filter, at: 0, source: None }));
        Ok(Step { bytes: 0, done: None })
    }

    /// Maps the keys of the dirty section, as far as they find room.
    fn map(&mut self, mut mapping: Box<Mapping>) -> Result<Step, CompactError> {
        let log = Arc::clone(self.log());
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            let Some((segment, next)) = mapping.plan.segments.get(mapping.at) else {
                return Ok(self.mapped(*mapping, bytes));
            };
            let source = match &mut mapping.source {
                Some(source) => source,
                none => none.insert(Source::open(&log, segment)?),
            };
            let filter = &mut mapping.filter;
            if *next <= mapping.plan.first_dirty {
                if let Some(header) = source.next_header(&log)? {
                    bytes += (header.size_bytes() as u64).min(HEADERS_BYTES);
                    filter.last.add(&header);
                    continue;
                }
            } else if let Some(found) = source.next_batch(&log)? {
                bytes += found.batch.bytes().len() as u64;
                filter.last.add(&header_of(found.batch.bytes()));
                if found.batch.is_control() || filter.is_aborted(&found.batch) {
                    continue;
                }
                let full = filter.newest.add(&found.batch, mapping.plan.first_dirty);
                if let Some(offset) = full.map_err(|damage| found.undecodable(&log, damage))? {
                    filter.end = offset;
                    return Ok(self.mapped(*mapping, bytes));
                }
                continue;
            }
            mapping.source = None;
            mapping.at += 1;
        }
        self.stage = Stage::Map(mapping);
        Ok(Step { bytes, done: None })
    }

    fn mapped(&mut self, mapping: Mapping, bytes: u64) -> Step {
        let Mapping { plan, filter, .. } = mapping;
        let mut segments = plan.segments;
        segments.truncate(segments.partition_point(|(segment, _)| segment.base < filter.end));
        let groups = groups(&segments, &self.config).into();
        let rewriting = Rewriting { segments, groups, filter, group: None };
        self.stage = Stage::Rewrite(Box::new(rewriting));
        Step { bytes, done: None }
    }

    fn rewrite(&mut self, mut rewriting: Box<Rewriting>) -> Result<Step, CompactError> {
        let log = Arc::clone(self.log());
        let Rewriting { segments, groups, filter, group: under_way } = &mut *rewriting;
        let Some(mut group) = under_way.take() else {
            let Some(range) = groups.pop_front() else { return Ok(self.finish(filter.end)?) };
            let bytes = segments[range.clone()].iter().map(|(old, _)| old.size_bytes());
            make_sure_of_room(&log, bytes.map(u64::from).sum())?;
            let base = segments[range.start].0.base;
            let Some(output) = Output::begin(&log, base, &self.config)? else {
                return Ok(self.end(0));
            };
            *under_way = Some(Group::new(range, output));
            self.stage = Stage::Rewrite(rewriting);
            return Ok(Step { bytes: 0, done: None });
        };
        let written = group.output.written_bytes();
        let read = match group.rewrite(&log, segments, filter) {
            Ok(read) => read,
            Err(error) => {
                // What was written takes room, and nobody needs it.
                drop(remove_cleaned(&log, group.output.base()));
                return Err(error.into());
            }
        };
        let mut bytes = read + group.output.written_bytes() - written;
        self.done.read_bytes += read;
        if group.at < group.segments.end {
            *under_way = Some(group);
        } else {
            let before = group.output.written_bytes();
            let old = &segments[group.segments.clone()];
            let Some(after) = self.replace(old, group)? else { return Ok(self.end(bytes)) };
            bytes += after - before;
        }
        self.stage = Stage::Rewrite(rewriting);
        Ok(Step { bytes, done: None })
    }

    /// Puts the new segment in the place of the old ones; its size. None where the log was cut or
    /// deleted meanwhile.
    fn replace(
        &mut self,
        old: &[(Arc<Segment>, Offset)],
        group: Group,
    ) -> Result<Option<u64>, LogError> {
        let Group { output, aborted, .. } = group;
        let changed = output.changed() || old.len() > 1;
        let aborted: Vec<AbortedTxn> =
            aborted.into_values().filter(|txn| output.keeps_marker(txn.last_offset)).collect();
        let (fresh, files) = output.finish(&aborted)?;
        let size = u64::from(fresh.size_bytes());
        if changed && size > 0 {
            if !self.swap_in(old, fresh, files)? {
                return Ok(None);
            }
            self.done.merged_segments += old.len() - 1;
        } else {
            drop(files);
            remove_cleaned(self.log(), fresh.base)?;
        }
        self.done.written_bytes += size;
        Ok(Some(size))
    }

    fn swap_in(
        &mut self,
        old: &[(Arc<Segment>, Offset)],
        fresh: Segment,
        files: [Arc<dyn File>; 4],
    ) -> Result<bool, LogError> {
        let log = Arc::clone(self.log());
        let _cutting = log.cutting.lock();
        log.check_open()?;
        let base = fresh.base;
        let Some(at) = place_of(&log, old) else {
            remove_cleaned(&log, base)?;
            return Ok(false);
        };
        swap::decide(&log.disk, &log.name, base)?;
        // From here on readers find the new segment by its open files, whatever they are called.
        fresh.pin(files);
        let fresh = Arc::new(fresh);
        {
            let _writer = log.writer.lock();
            let mut state = log.state.write();
            state.segments.splice(at..at + old.len(), [Arc::clone(&fresh)]);
            state.generation += 1;
            self.generation += 1;
            for (old, _) in old {
                old.retire(&log.disk);
            }
        }
        let bases: Vec<Offset> = old.iter().map(|(old, _)| old.base).collect();
        swap::replace(&log.disk, &log.name, base, &bases)?;
        fresh.unpin();
        Ok(true)
    }

    /// Everything below `end` is clean on disk.
    fn finish(&mut self, end: Offset) -> Result<Step, LogError> {
        let log = Arc::clone(self.log());
        let _cutting = log.cutting.lock();
        log.check_open()?;
        log.disk.raise_cleaner_point(&log.name, end.min(log.log_end_offset()))?;
        Ok(self.end(0))
    }
}

impl Group {
    fn new(segments: Range<usize>, output: Output) -> Self {
        let (at, aborted) = (segments.start, BTreeMap::new());
        Self { segments, at, source: None, output, waiting: None, aborted }
    }

    /// Takes over what is kept of the next batches; returns how much was read.
    fn rewrite(
        &mut self,
        log: &Log,
        segments: &[(Arc<Segment>, Offset)],
        filter: &mut Filter,
    ) -> Result<u64, LogError> {
        let mut bytes = 0;
        while bytes < STEP_BYTES && self.at < self.segments.end {
            let source = match &mut self.source {
                Some(source) => source,
                none => {
                    let segment = &segments[self.at].0;
                    let source = none.insert(Source::open(log, segment)?);
                    let aborted = segment.aborted(&log.disk)?;
                    self.aborted.extend(aborted.into_iter().map(|txn| (txn.last_offset, txn)));
                    source
                }
            };
            let next = source.next_batch(log)?;
            let is_end = next.is_none();
            bytes += next.as_ref().map_or(0, |next| next.batch.bytes().len() as u64);
            if is_end {
                self.source = None;
                self.at += 1;
                if self.at < self.segments.end {
                    continue;
                }
            }
            let Some(found) = std::mem::replace(&mut self.waiting, next) else { continue };
            let outcome = filter.decide(&found.batch, is_end);
            let outcome = outcome.map_err(|damage| found.undecodable(log, damage))?;
            self.output.take(&found.batch, outcome)?;
        }
        Ok(bytes)
    }
}

impl Source {
    fn open(log: &Log, segment: &Segment) -> Result<Self, LogError> {
        let _cutting = log.cutting.lock();
        log.check_open()?;
        let scan = segment.scan(&log.disk, 0)?;
        Ok(Self { scan, path: segment.path(Kind::Log).into() })
    }

    fn next_header(&mut self, log: &Log) -> Result<Option<Header>, LogError> {
        let found = self.scan.next().transpose();
        let found = found.map_err(|failure| failure.into_error(&log.disk, &self.path))?;
        Ok(found.map(|found| found.header))
    }

    fn next_batch(&mut self, log: &Log) -> Result<Option<Located>, LogError> {
        let path = &self.path;
        let next = self.scan.next_batch();
        let next = next.map_err(|failure| failure.into_error(&log.disk, path))?;
        let Some((found, bytes)) = next else { return Ok(None) };
        let position = found.position;
        let batch = Batch::split_from(&mut Bytes::copy_from_slice(bytes));
        let batch = batch.map_err(|_| undecodable(log, path, position, Damage::Records))?;
        Ok(Some(Located { path: Arc::clone(path), position, batch }))
    }
}

impl Located {
    fn undecodable(&self, log: &Log, damage: Damage) -> LogError {
        undecodable(log, &self.path, self.position, damage)
    }
}

fn undecodable(log: &Log, path: &str, position: u64, damage: Damage) -> LogError {
    LogError::Corrupt { path: log.disk.absolute(path), position, damage }
}

pub(super) fn header_of(batch: &[u8]) -> Header {
    header::parse(batch).expect("the bytes are a whole batch that was parsed or built")
}

/// Where `old` lie in the log, if all of them still do.
fn place_of(log: &Log, old: &[(Arc<Segment>, Offset)]) -> Option<usize> {
    let state = log.state.read();
    let at = state.segments.iter().position(|held| Arc::ptr_eq(held, &old[0].0))?;
    let next = state.segments.get(at + old.len()).map(|next| next.base);
    let mut held = state.segments[at..].iter().zip(old);
    let same = next == old.last().map(|(_, next)| *next)
        && held.all(|(held, (old, _))| Arc::ptr_eq(held, old));
    same.then_some(at)
}

/// A compaction must not be what fills the disk: whoever writes would be stopped by it.
fn make_sure_of_room(log: &Log, needed_bytes: u64) -> Result<(), CompactError> {
    let space = log.disk.run(Operation::Read, &log.name, Dir::space)?;
    let usable_bytes = space.usable_bytes;
    if usable_bytes >= needed_bytes {
        return Ok(());
    }
    Err(CompactError::NoRoom { log: Arc::clone(&log.name), needed_bytes, usable_bytes })
}
