//! One segment: a `.log` file with its `.index`, `.timeindex` and `.txnindex`.
//!
//! Owns what is known of the files in memory. Only the log's single writer changes it; readers
//! take the lock for moments and read files outside of it. Batches that are published (within
//! `size_bytes`) never change, except that a truncation may cut them.

use std::{io, io::IoSlice, sync::Arc};

use parking_lot::{Mutex, RwLock};

use super::{
    dir::{File, Open},
    disk::Disk,
    error::{LogError, Operation},
    index::{OffsetEntry, SparseIndex, TimeEntry},
    scan::{Found, Scan},
};
use crate::{
    base::{LeaderEpoch, Offset, ProducerId},
    protocol::batch::Header,
};

const ABORTED_TXN_BYTES: usize = 34;

/// Which of a segment's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Log = 0,
    Index = 1,
    TimeIndex = 2,
    TxnIndex = 3,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Log, Self::Index, Self::TimeIndex, Self::TxnIndex];

    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Log => ".log",
            Self::Index => ".index",
            Self::TimeIndex => ".timeindex",
            Self::TxnIndex => ".txnindex",
        }
    }
}

/// A transaction whose data readers must skip, as the transaction index has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose it was.
    pub producer_id: ProducerId,
    /// Its first record.
    pub first_offset: Offset,
    /// Its abort marker.
    pub last_offset: Offset,
    /// Up to where everything was decided once it had ended.
    pub last_stable_offset: Offset,
}

impl AbortedTxn {
    fn encode(&self) -> [u8; ABORTED_TXN_BYTES] {
        // The first two bytes are the version, 0.
        let mut bytes = [0; ABORTED_TXN_BYTES];
        let fields = [
            self.producer_id.0,
            self.first_offset.0,
            self.last_offset.0,
            self.last_stable_offset.0,
        ];
        for (i, field) in fields.into_iter().enumerate() {
            bytes[2 + 8 * i..10 + 8 * i].copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }
}

/// Sizes after which indexes get entries and count as full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexLimits {
    pub(crate) interval_bytes: u32,
    pub(crate) max_bytes: u32,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) log: Arc<str>,
    pub(crate) base: Offset,
    state: Mutex<State>,
    access: RwLock<Access>,
}

/// How a segment comes by its files.
#[derive(Debug)]
enum Access {
    ByName,
    /// Its files do not have their names yet.
    Pinned([Arc<dyn File>; 4]),
    /// Its files are gone or belong to a segment that took its place: none may be opened again.
    Retired,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) size_bytes: u32,
    offsets: SparseIndex<OffsetEntry>,
    times: SparseIndex<TimeEntry>,
    since_index_bytes: u32,
    /// The highest timestamp and the last offset of the first batch that has it.
    max_timestamp: Option<(i64, Offset)>,
    /// Timestamp of the first batch: `segment.ms` counts from it.
    first_timestamp_ms: Option<i64>,
    aborted_txns: u32,
}

impl Segment {
    pub(crate) fn empty(disk: &Disk, log: &Arc<str>, base: Offset) -> Self {
        Self::with(disk, log, base, State::default())
    }

    fn with(disk: &Disk, log: &Arc<str>, base: Offset, state: State) -> Self {
        Self {
            id: disk.next_id(),
            log: Arc::clone(log),
            base,
            state: Mutex::new(state),
            access: RwLock::new(Access::ByName),
        }
    }

    /// A segment that was closed in order: its files are taken at their word.
    ///
    /// None where an index cannot be right, so that the segment must be scanned.
    pub(crate) fn open(
        disk: &Disk,
        log: &Arc<str>,
        base: Offset,
        lengths: [Option<u64>; 4],
    ) -> Result<Option<Self>, LogError> {
        let [size, index, times, aborted] = lengths.map(Option::unwrap_or_default);
        let segment = Self::empty(disk, log, base);
        let Ok(size_bytes) = u32::try_from(size) else { return Ok(None) };
        let mut state = State { size_bytes, ..State::default() };
        if index > 0 {
            let file = segment.file(disk, Kind::Index)?;
            match segment.read(disk, Kind::Index, SparseIndex::load(&*file, index))? {
                Ok(loaded) => state.offsets = loaded,
                Err(_) => return Ok(None),
            }
        }
        if times > 0 {
            let file = segment.file(disk, Kind::TimeIndex)?;
            match segment.read(disk, Kind::TimeIndex, SparseIndex::load(&*file, times))? {
                Ok(loaded) => state.times = loaded,
                Err(_) => return Ok(None),
            }
        }
        let misplaced = state.offsets.last().is_some_and(|last| last.position >= size_bytes);
        if misplaced || (size > 0 && state.times.len() == 0) {
            return Ok(None);
        }
        state.max_timestamp =
            state.times.last().map(|last| (last.timestamp_ms, segment.absolute(last.relative)));
        state.aborted_txns = (aborted / ABORTED_TXN_BYTES as u64) as u32;
        *segment.state.lock() = state;
        Ok(Some(segment))
    }

    pub(crate) fn path(&self, kind: Kind) -> String {
        path(&self.log, self.base, kind.suffix())
    }

    pub(crate) fn file(&self, disk: &Disk, kind: Kind) -> Result<Arc<dyn File>, LogError> {
        // Held while the file is opened, so that none is opened under a name that was given away.
        let access = self.access.read();
        match &*access {
            Access::ByName => {
                disk.handle((self.id, kind as u8), || self.path(kind), Open::OrCreate)
            }
            Access::Pinned(files) => Ok(Arc::clone(&files[kind as usize])),
            Access::Retired => Err(LogError::Closed(Arc::clone(&self.log))),
        }
    }

    /// Opens none of its files from now on. Who has one open goes on reading.
    pub(crate) fn retire(&self, disk: &Disk) {
        *self.access.write() = Access::Retired;
        disk.forget(self.id);
    }

    /// Uses these files until [`Self::unpin`], whatever their names.
    pub(crate) fn pin(&self, files: [Arc<dyn File>; 4]) {
        *self.access.write() = Access::Pinned(files);
    }

    pub(crate) fn unpin(&self) {
        *self.access.write() = Access::ByName;
    }

    fn read<T>(&self, disk: &Disk, kind: Kind, result: io::Result<T>) -> Result<T, LogError> {
        result.map_err(|error| disk.failed(Operation::Read, &self.path(kind), error))
    }

    fn absolute(&self, relative: u32) -> Offset {
        self.base.plus(i64::from(relative))
    }

    fn relative(&self, offset: Offset) -> u32 {
        u32::try_from(offset.since(self.base)).unwrap_or(0)
    }

    pub(crate) fn size_bytes(&self) -> u32 {
        self.state.lock().size_bytes
    }

    pub(crate) fn max_timestamp(&self) -> Option<(i64, Offset)> {
        self.state.lock().max_timestamp
    }

    pub(crate) fn first_timestamp_ms(&self, disk: &Disk) -> Result<Option<i64>, LogError> {
        let state = self.state.lock();
        if state.first_timestamp_ms.is_some() || state.size_bytes == 0 {
            return Ok(state.first_timestamp_ms);
        }
        drop(state);
        let first = self.scan(disk, 0)?.next().transpose();
        let first = first.map_err(|failed| failed.into_error(disk, &self.path(Kind::Log)))?;
        let timestamp = first.map(|found| found.header.max_timestamp_ms);
        self.state.lock().first_timestamp_ms = timestamp;
        Ok(timestamp)
    }

    /// Whether another batch would not find room in the indexes.
    pub(crate) fn indexes_full(&self, limits: IndexLimits) -> bool {
        let state = self.state.lock();
        let max = u64::from(limits.max_bytes);
        state.offsets.len_bytes() + 8 > max || state.times.len_bytes() + 12 > max
    }

    /// Writes batches at the end; they are visible once [`Self::publish`] took them in.
    pub(crate) fn write(&self, disk: &Disk, parts: &mut [IoSlice<'_>]) -> Result<(), LogError> {
        let position = u64::from(self.size_bytes());
        let file = self.file(disk, Kind::Log)?;
        file.write_at(position, parts)
            .map_err(|error| disk.failed(Operation::Write, &self.path(Kind::Log), error))
    }

    /// Takes in a batch that has been written at the end. True where index entries wait for
    /// [`Self::write_indexes`].
    pub(crate) fn publish(&self, header: &Header, limits: IndexLimits) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut write = false;
        if state.size_bytes == 0 {
            state.first_timestamp_ms = Some(header.max_timestamp_ms);
        }
        if state.max_timestamp.is_none_or(|(max, _)| header.max_timestamp_ms > max) {
            state.max_timestamp = Some((header.max_timestamp_ms, header.last_offset()));
        }
        if state.since_index_bytes > limits.interval_bytes {
            write |= state.offsets.push(OffsetEntry {
                relative: self.relative(header.last_offset()),
                position: state.size_bytes,
            });
            write |= self.push_time(state);
            state.since_index_bytes = 0;
        }
        state.since_index_bytes =
            state.since_index_bytes.saturating_add(header.size_bytes() as u32);
        state.size_bytes += header.size_bytes() as u32;
        write
    }

    fn push_time(&self, state: &mut State) -> bool {
        let Some((timestamp_ms, offset)) = state.max_timestamp else { return false };
        if state.times.last().is_some_and(|last| last.timestamp_ms >= timestamp_ms) {
            return false;
        }
        state.times.push(TimeEntry { timestamp_ms, relative: self.relative(offset) })
    }

    /// Notes the highest timestamp as a last entry, as no more batches follow.
    pub(crate) fn finish(&self, disk: &Disk) -> Result<(), LogError> {
        self.push_time(&mut self.state.lock());
        self.write_indexes(disk)
    }

    /// Writes the index entries that wait. To be called by the writer only.
    pub(crate) fn write_indexes(&self, disk: &Disk) -> Result<(), LogError> {
        let (offsets, times) = {
            let state = self.state.lock();
            (state.offsets.has_pending(), state.times.has_pending())
        };
        if offsets {
            let file = self.file(disk, Kind::Index)?;
            let result = self.state.lock().offsets.write(&*file);
            result.map_err(|e| disk.failed(Operation::Write, &self.path(Kind::Index), e))?;
        }
        if times {
            let file = self.file(disk, Kind::TimeIndex)?;
            let result = self.state.lock().times.write(&*file);
            result.map_err(|e| disk.failed(Operation::Write, &self.path(Kind::TimeIndex), e))?;
        }
        Ok(())
    }

    /// Writes the indexes of a segment that is not in its place yet to the files given.
    pub(crate) fn write_indexes_to(
        &self,
        index: &dyn File,
        times: &dyn File,
        aborted: (&dyn File, &[AbortedTxn]),
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        self.push_time(&mut state);
        state.offsets.write(index)?;
        state.times.write(times)?;
        let entries: Vec<u8> = aborted.1.iter().flat_map(AbortedTxn::encode).collect();
        aborted.0.write_at(0, &mut [IoSlice::new(&entries)])?;
        state.aborted_txns = aborted.1.len() as u32;
        Ok(())
    }

    pub(crate) fn index_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.offsets.len_bytes().max(state.times.len_bytes())
    }

    /// Makes the given files survive a power cut.
    pub(crate) fn sync(&self, disk: &Disk, kinds: &[Kind]) -> Result<(), LogError> {
        for kind in kinds {
            let file = self.file(disk, *kind)?;
            file.sync_data()
                .map_err(|error| disk.failed(Operation::Sync, &self.path(*kind), error))?;
        }
        Ok(())
    }

    /// Headers from `position` on, up to what is published.
    pub(crate) fn scan(&self, disk: &Disk, position: u32) -> Result<Scan, LogError> {
        let end = u64::from(self.size_bytes());
        Ok(Scan::new(self.file(disk, Kind::Log)?, u64::from(position), end))
    }

    /// The first batch whose last offset is `offset` or more.
    pub(crate) fn locate(&self, disk: &Disk, offset: Offset) -> Result<Option<Found>, LogError> {
        let position = self.lookup(disk, |entry| self.absolute(entry.relative) <= offset)?;
        for found in self.scan(disk, position)? {
            let found = found.map_err(|e| e.into_error(disk, &self.path(Kind::Log)))?;
            if found.header.last_offset() >= offset {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The end of the last whole batch within `start..limit`; `start` where there is none.
    pub(crate) fn batch_end(&self, disk: &Disk, start: u32, limit: u32) -> Result<u32, LogError> {
        let position = self.lookup(disk, |entry| entry.position <= limit)?;
        let mut end = start.max(position);
        for found in self.scan(disk, end)? {
            let found = found.map_err(|e| e.into_error(disk, &self.path(Kind::Log)))?;
            let next = found.position + found.header.size_bytes() as u64;
            if next > u64::from(limit) {
                break;
            }
            end = next as u32;
        }
        Ok(end)
    }

    /// The position of the last indexed batch for which `below` holds.
    fn lookup(&self, disk: &Disk, below: impl Fn(&OffsetEntry) -> bool) -> Result<u32, LogError> {
        let offsets = self.state.lock().offsets.clone();
        let found = offsets.last_where(below, || self.index_file(disk, Kind::Index));
        let found = found.map_err(|e| e.into_error(disk, &self.path(Kind::Index)))?;
        Ok(found.map_or(0, |entry| entry.position))
    }

    /// The first batch that holds a timestamp of `timestamp_ms` or later.
    pub(crate) fn locate_timestamp(
        &self,
        disk: &Disk,
        timestamp_ms: i64,
    ) -> Result<Option<Found>, LogError> {
        let times = self.state.lock().times.clone();
        let earlier = times.last_where(
            |entry| entry.timestamp_ms < timestamp_ms,
            || self.index_file(disk, Kind::TimeIndex),
        );
        let earlier = earlier.map_err(|e| e.into_error(disk, &self.path(Kind::TimeIndex)))?;
        let offset = earlier.map_or(self.base, |entry| self.absolute(entry.relative));
        let position = self.lookup(disk, |entry| self.absolute(entry.relative) <= offset)?;
        for found in self.scan(disk, position)? {
            let found = found.map_err(|e| e.into_error(disk, &self.path(Kind::Log)))?;
            if found.header.max_timestamp_ms >= timestamp_ms {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn index_file(&self, disk: &Disk, kind: Kind) -> Result<Arc<dyn File>, IndexFailure> {
        self.file(disk, kind).map_err(IndexFailure::Log)
    }

    /// Cuts everything from `position` on; `offset` is the first that goes.
    pub(crate) fn truncate(
        &self,
        disk: &Disk,
        position: u32,
        offset: Offset,
    ) -> Result<(), LogError> {
        let failed = |kind: Kind| move |e| disk.failed(Operation::Truncate, &self.path(kind), e);
        let log = self.file(disk, Kind::Log)?;
        let index = self.file(disk, Kind::Index)?;
        let times = self.file(disk, Kind::TimeIndex)?;
        let mut state = self.state.lock();
        let keep = self.relative(offset);
        state.offsets.truncate(&*index, |e| e.position < position).map_err(failed(Kind::Index))?;
        let truncated = state.times.truncate(&*times, |e| e.relative < keep);
        truncated.map_err(failed(Kind::TimeIndex))?;
        log.set_len(u64::from(position)).map_err(failed(Kind::Log))?;
        state.size_bytes = position;
        state.first_timestamp_ms = state.first_timestamp_ms.filter(|_| position > 0);
        state.max_timestamp =
            state.times.last().map(|last| (last.timestamp_ms, self.absolute(last.relative)));
        drop(state);
        self.truncate_txns(disk, offset)?;
        self.rescan_tail(disk).map(drop)
    }

    /// Brings timestamp and index distance up to date from the last indexed batch on.
    pub(crate) fn rescan_tail(&self, disk: &Disk) -> Result<Option<Offset>, LogError> {
        let last = self.state.lock().offsets.last();
        let start = last.map_or(0, |entry| entry.position);
        let mut next_offset = None;
        let mut since = 0u32;
        for found in self.scan(disk, start)? {
            let found = found.map_err(|e| e.into_error(disk, &self.path(Kind::Log)))?;
            let header = found.header;
            let mut state = self.state.lock();
            if state.max_timestamp.is_none_or(|(max, _)| header.max_timestamp_ms > max) {
                state.max_timestamp = Some((header.max_timestamp_ms, header.last_offset()));
            }
            since = since.saturating_add(header.size_bytes() as u32);
            next_offset = Some(header.next_offset());
        }
        self.state.lock().since_index_bytes = since;
        Ok(next_offset)
    }

    /// Appends to the transaction index.
    pub(crate) fn add_aborted(&self, disk: &Disk, txn: AbortedTxn) -> Result<(), LogError> {
        let file = self.file(disk, Kind::TxnIndex)?;
        let mut state = self.state.lock();
        let bytes = txn.encode();
        let position = u64::from(state.aborted_txns) * ABORTED_TXN_BYTES as u64;
        file.write_at(position, &mut [IoSlice::new(&bytes)])
            .map_err(|e| disk.failed(Operation::Write, &self.path(Kind::TxnIndex), e))?;
        state.aborted_txns += 1;
        Ok(())
    }

    /// The segment's aborted transactions, in the order they ended.
    pub(crate) fn aborted(&self, disk: &Disk) -> Result<Vec<AbortedTxn>, LogError> {
        let count = self.state.lock().aborted_txns as usize;
        if count == 0 {
            return Ok(Vec::new());
        }
        let file = self.file(disk, Kind::TxnIndex)?;
        let mut bytes = vec![0; count * ABORTED_TXN_BYTES];
        let read = self.read(disk, Kind::TxnIndex, file.read_at(0, &mut bytes))?;
        let field = |entry: &[u8], i: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&entry[2 + 8 * i..10 + 8 * i]);
            i64::from_be_bytes(part)
        };
        let entries = bytes[..read].chunks_exact(ABORTED_TXN_BYTES).map(|entry| AbortedTxn {
            producer_id: ProducerId(field(entry, 0)),
            first_offset: Offset(field(entry, 1)),
            last_offset: Offset(field(entry, 2)),
            last_stable_offset: Offset(field(entry, 3)),
        });
        Ok(entries.collect())
    }

    fn truncate_txns(&self, disk: &Disk, offset: Offset) -> Result<(), LogError> {
        let all = self.aborted(disk)?;
        let kept = all.iter().take_while(|txn| txn.last_offset < offset).count();
        if kept < all.len() {
            let file = self.file(disk, Kind::TxnIndex)?;
            file.set_len((kept * ABORTED_TXN_BYTES) as u64)
                .map_err(|e| disk.failed(Operation::Truncate, &self.path(Kind::TxnIndex), e))?;
            self.state.lock().aborted_txns = kept as u32;
        }
        Ok(())
    }

    /// Empties the in-memory view and the index files, to be filled again by a scan.
    pub(crate) fn reset(&self, disk: &Disk) -> Result<(), LogError> {
        *self.state.lock() = State::default();
        for kind in [Kind::Index, Kind::TimeIndex, Kind::TxnIndex] {
            let path = self.path(kind);
            disk.run(Operation::Remove, &path, |dir| dir.remove_file(&path))?;
        }
        disk.forget(self.id);
        Ok(())
    }

    pub(crate) fn has_aborted(&self) -> bool {
        self.state.lock().aborted_txns > 0
    }

    /// Removes the files. Who still reads them goes on reading.
    pub(crate) fn remove(&self, disk: &Disk) -> Result<(), LogError> {
        self.retire(disk);
        for kind in Kind::ALL.into_iter().rev() {
            let path = self.path(kind);
            disk.run(Operation::Remove, &path, |dir| dir.remove_file(&path))?;
        }
        let snapshot = path(&self.log, self.base, ".snapshot");
        disk.run(Operation::Remove, &snapshot, |dir| dir.remove_file(&snapshot))
    }
}

/// A file of a segment, relative to the log directory.
pub(crate) fn path(log: &str, base: Offset, suffix: &str) -> String {
    format!("{log}/{:020}{suffix}", base.0)
}

/// Reading an index failed, at the file or before.
#[derive(Debug)]
enum IndexFailure {
    Log(LogError),
    Io(io::Error),
}

impl From<io::Error> for IndexFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl IndexFailure {
    fn into_error(self, disk: &Disk, path: &str) -> LogError {
        match self {
            Self::Log(error) => error,
            Self::Io(error) => disk.failed(Operation::Read, path, error),
        }
    }
}

/// Where a record is, with its batch's leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's timestamp.
    pub timestamp_ms: i64,
    /// The record's offset.
    pub offset: Offset,
    /// The epoch it was written in.
    pub leader_epoch: LeaderEpoch,
}
