//! The log of one partition.
//!
//! Owns the segments, the offsets between which they are valid, the leader epochs and the state of
//! the producers. One writer at a time appends, cuts and swaps segments, under `writer`; what it
//! has done becomes visible at once, under `state`, which is never held over a write or a sync.
//! Reading and flushing go on beside it.
//!
//! Invariants: `log_start_offset <= recovery_point.. <= log_end_offset`; offsets below the recovery
//! point are on disk; segments are ordered and the last one takes appends.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::{
    checkpoint::{LEADER_EPOCHS, PARTITION_METADATA},
    config::LogConfig,
    dir::{File, Open, read_exact_at},
    disk::Disk,
    epochs::{EpochStart, Epochs},
    error::{AppendError, Damage, LogError, Operation},
    header::{self, EndMarker},
    producers::{ActiveProducer, Origin, Producers, Staged},
    segment::{AbortedTxn, IndexLimits, Kind, Segment, path},
};
use crate::{
    base::{LeaderEpoch, Offset, TopicId},
    protocol::batch::{HEADER_BYTES, Header},
};

/// A partition's log.
#[derive(Debug)]
pub struct Log {
    pub(super) name: Arc<str>,
    /// Its name in the directory's checkpoints, which a future log has from the log that it copies.
    pub(super) key: Arc<str>,
    pub(super) topic_id: RwLock<TopicId>,
    pub(super) disk: Arc<Disk>,
    pub(super) config: RwLock<Arc<LogConfig>>,
    /// Whoever removes or replaces files, or goes by their names for long. Taken before `writer`,
    /// which is not held meanwhile unless the log's end is at stake: appends do not wait for it.
    pub(super) cutting: Mutex<()>,
    pub(super) writer: Mutex<()>,
    /// Whether a compaction runs.
    pub(super) compacting: AtomicBool,
    pub(super) state: RwLock<State>,
    /// Whoever flushes: what one takes upon itself, such as the directory, another must not take for
    /// done before it is.
    pub(super) flushing: Mutex<()>,
    /// Files were made or removed since the directory was last synced.
    pub(super) dir_dirty: AtomicBool,
    pub(super) epochs_dirty: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) log_start_offset: Offset,
    pub(super) log_end_offset: Offset,
    pub(super) recovery_point: Offset,
    pub(super) epochs: Epochs,
    pub(super) producers: Producers,
    /// Raised whenever published bytes are cut or replaced.
    pub(super) generation: u64,
    /// Raised whenever whole segments go from the front.
    pub(super) removals: u64,
    /// When the active segment was made.
    pub(super) rolled_ms: i64,
    /// Where the log ended when it was opened, after it had been closed in order.
    pub(super) opened_clean_at: Option<Offset>,
    pub(super) closed: bool,
}

impl State {
    pub(super) fn active(&self) -> &Arc<Segment> {
        self.segments.last().expect("a log always has a segment")
    }

    /// The segment that holds `offset`, or would.
    pub(super) fn segment_at(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }
}

/// How batches come to be appended.
#[derive(Debug, Clone, Copy)]
pub struct Append {
    /// Who wrote them. From `Replication` they keep their offsets and leader epochs.
    pub origin: Origin,
    /// The epoch of the leader that takes them; not used for `Replication`.
    pub leader_epoch: LeaderEpoch,
    /// Where the topic has LogAppendTime: the time to stamp.
    pub log_append_time_ms: Option<i64>,
    /// Now.
    pub now_ms: i64,
}

/// The fixed part of a batch as the log holds it.
pub type StampedHeader = [u8; HEADER_BYTES];

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub first_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The stamped time, where the topic has LogAppendTime.
    pub log_append_time_ms: Option<i64>,
    /// The log start offset.
    pub log_start_offset: Offset,
    /// The batch was in the log already: the offsets are those of the first time.
    pub duplicate: bool,
}

/// A stretch of whole batches in a file.
#[derive(Debug, Clone)]
pub struct FileSlice {
    /// The file. Whoever holds it can read it, also when the log drops it.
    pub file: Arc<dyn File>,
    /// Where the batches begin.
    pub position: u64,
    /// How many bytes they have.
    pub len_bytes: u32,
    pub(super) disk: Arc<Disk>,
    pub(super) segment: Arc<Segment>,
}

impl FileSlice {
    /// Fills `buffer` from `position` of the batches on.
    ///
    /// # Errors
    /// `UnexpectedEof` where the log was cut meanwhile; else the disk has failed, and the directory
    /// goes offline.
    pub fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = read_exact_at(&*self.file, self.position + position, buffer);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => error,
            kind => {
                let path = self.segment.path(Kind::Log);
                io::Error::new(kind, self.disk.failed(Operation::Read, &path, error))
            }
        })
    }
}

impl Log {
    /// Topic and partition as the directory is named: `topic-0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory that it lies in.
    #[must_use]
    pub fn directory(&self) -> String {
        self.disk.location()
    }

    /// The name of the log that it is, or is a copy of: `topic-0`.
    #[must_use]
    pub fn of(&self) -> &str {
        &self.key
    }

    /// The topic's id, as `partition.metadata` has it; `NONE` where a crash came before it was
    /// safe.
    #[must_use]
    pub fn topic_id(&self) -> TopicId {
        *self.topic_id.read()
    }

    /// The first offset that may be read.
    #[must_use]
    pub fn log_start_offset(&self) -> Offset {
        self.state.read().log_start_offset
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn log_end_offset(&self) -> Offset {
        self.state.read().log_end_offset
    }

    /// Everything below is on disk.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.state.read().recovery_point
    }

    /// The size of all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.state.read().segments.iter().map(|segment| u64::from(segment.size_bytes())).sum()
    }

    /// How many segments there are.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.state.read().segments.len()
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> Arc<LogConfig> {
        Arc::clone(&self.config.read())
    }

    /// Puts other settings in force.
    pub fn set_config(&self, config: Arc<LogConfig>) {
        *self.config.write() = config;
    }

    /// Refuses where the directory has failed.
    ///
    /// # Errors
    /// [`LogError::Offline`], with the first failure.
    pub fn check_online(&self) -> Result<(), LogError> {
        self.disk.check()
    }

    /// Whether the directory has failed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.disk.failure().is_some()
    }

    /// The producers that the log knows.
    #[must_use]
    pub fn active_producers(&self) -> Vec<ActiveProducer> {
        self.state.read().producers.active()
    }

    /// The first offset of a transaction that is open, or whose end is not below
    /// `high_watermark`. The last stable offset is the lower of the two.
    #[must_use]
    pub fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        self.state.read().producers.first_unstable_offset(high_watermark)
    }

    /// Lets the log forget transactions that ended below the high watermark.
    pub fn high_watermark_moved(&self, high_watermark: Offset) {
        if self.state.read().producers.has_completed() {
            self.state.write().producers.high_watermark_moved(high_watermark);
        }
    }

    /// Forgets producers that have not written for `producer.id.expiration.ms`.
    pub fn expire_producers(&self, now_ms: i64) {
        let expiration_ms = self.config().producer_id_expiration_ms;
        self.state.write().producers.expire(now_ms, expiration_ms);
    }

    /// The leader epochs, oldest first.
    #[must_use]
    pub fn leader_epochs(&self) -> Vec<EpochStart> {
        self.state.read().epochs.all().to_vec()
    }

    /// The newest leader epoch that the log knows.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.read().epochs.latest().map(|latest| latest.epoch)
    }

    /// The largest epoch not above `epoch` and its end offset (KIP-101, KIP-279).
    #[must_use]
    pub fn offset_for_leader_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state.read();
        state.epochs.end_offset(epoch, state.log_end_offset)
    }

    /// Notes that a leader epoch begins at the log's end, to which nobody appends meanwhile. Durable with the flush of its first
    /// record: without any, nobody can have seen it.
    pub fn assign_epoch(&self, epoch: LeaderEpoch) {
        let mut state = self.state.write();
        let end = state.log_end_offset;
        state.epochs.assign(epoch, end);
    }

    pub(super) fn limits(config: &LogConfig) -> IndexLimits {
        IndexLimits {
            interval_bytes: config.index_interval_bytes,
            max_bytes: config.segment_index_bytes,
        }
    }

    pub(super) fn check_open(&self) -> Result<(), LogError> {
        self.disk.check()?;
        if self.state.read().closed {
            return Err(LogError::Closed(Arc::clone(&self.name)));
        }
        Ok(())
    }

    /// Appends whole batches that have been validated (A batch a `Bytes`), in one write.
    ///
    /// The records become readable at once and durable with [`Self::flush`].
    ///
    /// # Errors
    /// See [`AppendError`]. Nothing was appended then.
    pub fn append(&self, batches: &[Bytes], how: Append) -> Result<Appended, AppendError> {
        self.append_stamped(batches, how).map(|(appended, _)| appended)
    }

    /// As [`Self::append`]; returns the headers as they were written too, which with the rest of the
    /// batches is what the log holds. None of a batch that was in the log already.
    ///
    /// # Errors
    /// See [`AppendError`]. Nothing was appended then.
    pub fn append_stamped(
        &self,
        batches: &[Bytes],
        how: Append,
    ) -> Result<(Appended, Vec<StampedHeader>), AppendError> {
        let _writer = self.writer.lock();
        self.check_open()?;
        let config = self.config();
        let mut headers = self.parse(batches)?;
        if how.origin.is_client()
            && let Some(repeated) = self.find_duplicate(&headers, how)
        {
            return Ok((repeated, Vec::new()));
        }
        let (log_end_offset, log_start_offset) = {
            let state = self.state.read();
            (state.log_end_offset, state.log_start_offset)
        };
        let stamped = self.stamp(&mut headers, batches, how, log_end_offset)?;
        let (Some(first), Some(last)) = (headers.first().copied(), headers.last().copied()) else {
            let nothing = Appended {
                first_offset: log_end_offset,
                last_offset: log_end_offset.plus(-1),
                log_append_time_ms: None,
                log_start_offset,
                duplicate: false,
            };
            return Ok((nothing, stamped));
        };
        let size = headers.iter().map(|header| header.size_bytes() as u64).sum();
        if size > u64::from(config.segment_bytes) && how.origin != Origin::Replication {
            let segment_bytes = config.segment_bytes;
            return Err(AppendError::LargerThanSegment { bytes: size, segment_bytes });
        }
        let staged = self.stage(&headers, batches, how)?;
        self.roll_if_due(&config, &first, last.last_offset(), size, how.now_ms)?;
        let segment = Arc::clone(self.state.read().active());
        let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(2 * stamped.len());
        for (fixed, batch) in stamped.iter().zip(batches) {
            parts.push(IoSlice::new(fixed));
            parts.push(IoSlice::new(&batch[HEADER_BYTES..]));
        }
        segment.write(&self.disk, &mut parts)?;
        self.publish(&config, &segment, &headers, staged)?;
        let appended = Appended {
            first_offset: first.base_offset,
            last_offset: last.last_offset(),
            log_append_time_ms: how.log_append_time_ms,
            log_start_offset,
            duplicate: false,
        };
        Ok((appended, stamped))
    }

    fn parse(&self, batches: &[Bytes]) -> Result<Vec<Header>, AppendError> {
        let parsed = batches.iter().map(|batch| match header::parse(batch) {
            Ok(header) if header.size_bytes() == batch.len() => Ok(header),
            Ok(_) => Err(AppendError::Damaged(Damage::Torn)),
            Err(damage) => Err(AppendError::Damaged(damage)),
        });
        parsed.collect()
    }

    fn find_duplicate(&self, headers: &[Header], how: Append) -> Option<Appended> {
        let state = self.state.read();
        let mut idempotent =
            headers.iter().filter(|header| header.has_producer() && !header.is_control());
        let repeated = idempotent.find_map(|header| state.producers.duplicate_of(header))?;
        Some(Appended {
            first_offset: repeated.first_offset(),
            last_offset: repeated.last_offset,
            log_append_time_ms: how.log_append_time_ms.map(|_| repeated.timestamp_ms),
            log_start_offset: state.log_start_offset,
            duplicate: true,
        })
    }

    /// The fixed parts as they will be written; `headers` are brought in line with them.
    fn stamp(
        &self,
        headers: &mut [Header],
        batches: &[Bytes],
        how: Append,
        log_end_offset: Offset,
    ) -> Result<Vec<StampedHeader>, AppendError> {
        let mut next = log_end_offset;
        let mut stamped = Vec::with_capacity(batches.len());
        for (header, batch) in headers.iter_mut().zip(batches) {
            let mut fixed = [0; HEADER_BYTES];
            fixed.copy_from_slice(&batch[..HEADER_BYTES]);
            if how.origin == Origin::Replication {
                if header.base_offset < next {
                    let (found, end) = (header.base_offset, next);
                    return Err(AppendError::UnexpectedOffset { found, end });
                }
            } else {
                let body_bytes = batch.len() - HEADER_BYTES;
                let Append { leader_epoch, log_append_time_ms, .. } = how;
                header.stamp(&mut fixed, body_bytes, next, leader_epoch, log_append_time_ms);
            }
            next = header.next_offset();
            stamped.push(fixed);
        }
        Ok(stamped)
    }

    fn stage(
        &self,
        headers: &[Header],
        batches: &[Bytes],
        how: Append,
    ) -> Result<Staged, AppendError> {
        let mut staged = Staged::default();
        let state = self.state.read();
        for (header, batch) in headers.iter().zip(batches) {
            if !header.has_producer() {
                continue;
            }
            let marker = header
                .is_control()
                .then(|| EndMarker::parse(&batch.slice(HEADER_BYTES..)))
                .flatten();
            state.producers.stage(&mut staged, header, marker, how.origin, how.now_ms)?;
        }
        Ok(staged)
    }

    /// Makes what was written visible.
    fn publish(
        &self,
        config: &LogConfig,
        segment: &Segment,
        headers: &[Header],
        staged: Staged,
    ) -> Result<(), LogError> {
        let limits = Self::limits(config);
        let mut write_indexes = false;
        for header in headers {
            write_indexes |= segment.publish(header, limits);
        }
        let completed = staged.completed.clone();
        let mut aborted = Vec::new();
        {
            let mut state = self.state.write();
            for header in headers {
                state.epochs.assign(header.leader_epoch, header.base_offset);
                if state.epochs.begins_at(header.base_offset) {
                    self.epochs_dirty.store(true, Ordering::Release);
                }
                state.log_end_offset = header.next_offset();
            }
            state.producers.commit(staged);
            for txn in completed.iter().filter(|txn| txn.aborted) {
                aborted.push(AbortedTxn {
                    producer_id: txn.producer_id,
                    first_offset: txn.first_offset,
                    last_offset: txn.last_offset,
                    last_stable_offset: state.producers.last_stable_offset_after(txn),
                });
            }
        }
        for txn in aborted {
            segment.add_aborted(&self.disk, txn)?;
        }
        if write_indexes {
            segment.write_indexes(&self.disk)?;
        }
        Ok(())
    }

    fn roll_if_due(
        &self,
        config: &LogConfig,
        first: &Header,
        last_offset: Offset,
        size: u64,
        now_ms: i64,
    ) -> Result<(), LogError> {
        let (segment, rolled_ms) = {
            let state = self.state.read();
            (Arc::clone(state.active()), state.rolled_ms)
        };
        let held = segment.size_bytes();
        if held == 0 {
            return Ok(());
        }
        let age_ms = match segment.first_timestamp_ms(&self.disk)? {
            Some(first_ms) if first_ms >= 0 => first.max_timestamp_ms - first_ms,
            _ => now_ms - rolled_ms,
        };
        let due = u64::from(held) + size > u64::from(config.segment_bytes)
            || age_ms > config.roll_ms() - config.jitter_ms(&self.name, segment.base)
            || segment.indexes_full(Self::limits(config))
            || last_offset.since(segment.base) > i64::from(i32::MAX);
        if due { self.roll(self.log_end_offset(), now_ms) } else { Ok(()) }
    }

    /// Closes the active segment and begins one at `base`. For the writer.
    pub(super) fn roll(&self, base: Offset, now_ms: i64) -> Result<(), LogError> {
        let (active, producers) = {
            let state = self.state.read();
            (Arc::clone(state.active()), state.producers.encode())
        };
        active.finish(&self.disk)?;
        let snapshot = path(&self.name, base, ".snapshot");
        self.disk.run(Operation::Write, &snapshot, |dir| {
            let file = dir.open(&snapshot, Open::Truncated)?;
            file.write_at(0, &mut [IoSlice::new(&producers)])
        })?;
        let segment = Arc::new(Segment::empty(&self.disk, &self.name, base));
        segment.file(&self.disk, Kind::Log)?;
        self.dir_dirty.store(true, Ordering::Release);
        let mut state = self.state.write();
        state.segments.push(segment);
        state.rolled_ms = now_ms;
        Ok(())
    }

    /// Makes everything that is in the log now survive a power cut; returns up to where.
    ///
    /// Goes on beside appends and reads. A failure takes the directory offline: what a failed sync
    /// left behind is unknown.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn flush(&self) -> Result<Offset, LogError> {
        let _flushing = self.flushing.lock();
        self.check_open()?;
        let (unsynced, end, generation, epochs) = {
            let state = self.state.read();
            if state.recovery_point == state.log_end_offset
                && !self.epochs_dirty.load(Ordering::Acquire)
                && !self.dir_dirty.load(Ordering::Acquire)
            {
                return Ok(state.log_end_offset);
            }
            let epochs =
                self.epochs_dirty.swap(false, Ordering::AcqRel).then(|| state.epochs.encode());
            // The segment that ends at the recovery point was closed after it was flushed.
            let from = state.segment_at(state.recovery_point.plus(-1));
            let unsynced = state.segments[from..].to_vec();
            (unsynced, state.log_end_offset, state.generation, epochs)
        };
        if let Some(epochs) = epochs {
            self.disk.replace(&format!("{}/{LEADER_EPOCHS}", self.name), epochs.as_bytes())?;
        }
        for (at, segment) in unsynced.iter().enumerate() {
            let synced = if at + 1 == unsynced.len() {
                segment.sync(&self.disk, &[Kind::Log])
            } else {
                self.sync_closed(segment, unsynced[at + 1].base)
            };
            if let Err(error) = synced {
                // A segment that was cut off meanwhile is nobody's loss.
                if self.state.read().generation == generation || self.disk.failure().is_some() {
                    return Err(error);
                }
            }
        }
        if self.dir_dirty.swap(false, Ordering::AcqRel) {
            let name = &self.name;
            let metadata = format!("{name}/{PARTITION_METADATA}");
            self.disk.run_optional(Operation::Sync, &metadata, |dir| {
                dir.open(&metadata, Open::Existing)?.sync_data()
            })?;
            self.disk.run(Operation::Sync, name, |dir| {
                dir.sync_dir(name)?;
                dir.sync_dir("")
            })?;
        }
        let mut state = self.state.write();
        if state.generation == generation {
            state.recovery_point = state.recovery_point.max(end);
        }
        // Records that came in place of some that were cut meanwhile are not on disk.
        Ok(state.recovery_point)
    }

    fn sync_closed(&self, segment: &Segment, next_base: Offset) -> Result<(), LogError> {
        segment.sync(&self.disk, &[Kind::Log, Kind::Index, Kind::TimeIndex])?;
        if segment.has_aborted() {
            segment.sync(&self.disk, &[Kind::TxnIndex])?;
        }
        let snapshot = path(&self.name, next_base, ".snapshot");
        let synced = self.disk.run_optional(Operation::Sync, &snapshot, |dir| {
            dir.open(&snapshot, Open::Existing)?.sync_data()
        });
        synced.map(|_| ())
    }

    /// Writes what the next start needs in order to recover nothing, and refuses everything from
    /// then on. The caller makes it durable. Returns whether there was anything to write.
    ///
    /// # Errors
    /// Where the disk fails; the next start recovers then.
    pub(super) fn finish(&self) -> Result<bool, LogError> {
        let _halted = self.halt();
        self.check_open()?;
        let (active, end, untouched) = {
            let state = self.state.read();
            let end = state.log_end_offset;
            let untouched = state.opened_clean_at == Some(end)
                && !self.epochs_dirty.load(Ordering::Acquire)
                && !self.dir_dirty.load(Ordering::Acquire);
            (Arc::clone(state.active()), end, untouched)
        };
        if untouched {
            self.discard();
            return Ok(false);
        }
        active.finish(&self.disk)?;
        let snapshot = path(&self.name, end, ".snapshot");
        let producers = self.state.read().producers.encode();
        self.disk.run(Operation::Write, &snapshot, |dir| {
            dir.open(&snapshot, Open::Truncated)?.write_at(0, &mut [IoSlice::new(&producers)])
        })?;
        if self.epochs_dirty.swap(false, Ordering::AcqRel) {
            let epochs = self.state.read().epochs.encode();
            self.disk.replace(&format!("{}/{LEADER_EPOCHS}", self.name), epochs.as_bytes())?;
        }
        self.discard();
        Ok(true)
    }

    /// What [`Self::finish`] wrote is durable, and all records are.
    pub(super) fn finished(&self) {
        let mut state = self.state.write();
        state.recovery_point = state.log_end_offset;
    }

    /// Keeps out all who change the log or go by the names of its files.
    pub(super) fn halt(&self) -> [MutexGuard<'_, ()>; 3] {
        [self.cutting.lock(), self.writer.lock(), self.flushing.lock()]
    }

    /// Refuses everything from now on and lets go of the files: what is under way finds none by its
    /// name any more, as that may be another log's by then.
    pub(super) fn discard(&self) {
        let segments = {
            let mut state = self.state.write();
            state.closed = true;
            state.segments.clone()
        };
        for segment in &segments {
            segment.retire(&self.disk);
        }
    }
}
