//! The store on disk: one RocksDB with a column family each for state, log and image.
//!
//! One write-ahead log serves all three, so that a batch is atomic across them and writes survive a
//! crash in their order. Keys of the log are indices, big endian. Keys of the image carry a
//! generation in front: a snapshot is staged under the next generation while the current one stays
//! readable, and one synced batch switches over.

use std::{path::Path, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction,
    Env, IteratorMode, LogLevel, Options, ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use super::{
    Applied, ImageReader, Loaded, Point, Recovered, Store, StoreError, Write,
    rocks_image::RocksImage,
};
use crate::quorum::identity::{Configuration, Identity, stored};

pub(super) const STATE: &str = "state";
const LOG: &str = "log";
pub(super) const IMAGE: &str = "image";

const IDENTITY: &[u8] = b"identity";
const HARD_STATE: &[u8] = b"hard-state";
const TRUNCATED: &[u8] = b"truncated";
const APPLIED: &[u8] = b"applied";

const WRITE_BUFFER_BYTES: usize = 8 << 20;
const BLOCK_CACHE_BYTES: usize = 8 << 20;
const WAL_BYTES: u64 = 64 << 20;
/// How much is written before the system is to begin to put it on disk. What piles up instead, while
/// a snapshot comes in, holds up every sync on the same disk, those of other processes too.
const WRITEBACK_BYTES: u64 = 512 << 10;

/// What the image stands for, and under which generation it lies.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredPoint {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint32, tag = "3")]
    generation: u32,
    #[prost(message, required, tag = "4")]
    configuration: stored::Configuration,
}

/// What writers must agree on; held while a batch is built and written, so that batches follow it.
#[derive(Debug)]
struct Cursor {
    generation: u32,
    applied_index: u64,
    truncated: (u64, u64),
    last_index: u64,
}

/// The store on disk.
#[derive(Debug)]
pub struct RocksStore {
    db: Arc<DB>,
    cursor: Mutex<Cursor>,
}

impl RocksStore {
    /// Opens the store in `path`, and makes it where there is none.
    ///
    /// # Errors
    /// Where the directory cannot be made, another process holds it, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path)?;
        let (options, family) = options()?;
        let families = [STATE, LOG, IMAGE, "default"]
            .map(|name| ColumnFamilyDescriptor::new(name, family.clone()));
        let db = DB::open_cf_descriptors(&options, path, families)?;
        let cursor = Cursor { generation: 1, applied_index: 0, truncated: (0, 0), last_index: 0 };
        let store = Self { db: Arc::new(db), cursor: Mutex::new(cursor) };
        store.restore_cursor()?;
        Ok(store)
    }

    fn restore_cursor(&self) -> Result<(), StoreError> {
        let point = self.point()?;
        let truncated = self.truncated()?;
        let last = self.db.iterator_cf(self.family(LOG), IteratorMode::End).next().transpose()?;
        let last_index = match last {
            Some((key, _)) => index_of(&key)?,
            None => truncated.0,
        };
        let generation = point.generation.max(1);
        *self.cursor.lock() =
            Cursor { generation, applied_index: point.index, truncated, last_index };
        // A snapshot whose transfer a crash cut short leaves what was staged.
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(IMAGE), &[][..], &generation.to_be_bytes()[..]);
        batch.delete_range_cf(
            self.family(IMAGE),
            &(generation + 1).to_be_bytes()[..],
            &u32::MAX.to_be_bytes()[..],
        );
        self.write(batch, false)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("open() opens every family")
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        Ok(self.db.write_opt(batch, &options)?)
    }

    fn point(&self) -> Result<StoredPoint, StoreError> {
        match self.db.get_pinned_cf(self.family(STATE), APPLIED)? {
            None => Ok(StoredPoint::default()),
            Some(bytes) => StoredPoint::decode(&bytes[..])
                .map_err(|_| StoreError::Corrupt { what: "applied index" }),
        }
    }

    fn truncated(&self) -> Result<(u64, u64), StoreError> {
        match self.db.get_pinned_cf(self.family(STATE), TRUNCATED)? {
            None => Ok((0, 0)),
            Some(bytes) => read_pair(&bytes),
        }
    }

    fn put_point(&self, batch: &mut WriteBatch, point: &Point, generation: u32) {
        let stored = StoredPoint {
            index: point.index,
            term: point.term,
            generation,
            configuration: point.configuration.to_stored(),
        };
        batch.put_cf(self.family(STATE), APPLIED, stored.encode_to_vec());
    }

    fn add_write(
        &self,
        batch: &mut WriteBatch,
        cursor: &mut Cursor,
        write: &Write,
    ) -> Result<(), StoreError> {
        let log = self.family(LOG);
        if let Some(point) = &write.install {
            batch.delete_range_cf(log, key(0), key(u64::MAX));
            let old = cursor.generation;
            cursor.generation += 1;
            batch.delete_range_cf(self.family(IMAGE), old.to_be_bytes(), (old + 1).to_be_bytes());
            batch.put_cf(self.family(STATE), TRUNCATED, pair(point.index, point.term));
            self.put_point(batch, point, cursor.generation);
            cursor.applied_index = point.index;
            cursor.truncated = (point.index, point.term);
            cursor.last_index = point.index;
        }
        for entry in &write.entries {
            let bytes =
                entry.write_to_bytes().map_err(|_| StoreError::Corrupt { what: "new entry" })?;
            batch.put_cf(log, key(entry.index), bytes);
        }
        if let Some(last) = write.entries.last() {
            for stale in last.index + 1..=cursor.last_index {
                batch.delete_cf(log, key(stale));
            }
            cursor.last_index = last.index;
        }
        if let Some(hard_state) = &write.hard_state {
            let bytes = hard_state
                .write_to_bytes()
                .map_err(|_| StoreError::Corrupt { what: "new hard state" })?;
            batch.put_cf(self.family(STATE), HARD_STATE, bytes);
        }
        Ok(())
    }

    fn scan_log(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let mut next = loaded.truncated.0 + 1;
        let from = key(next);
        let mode = IteratorMode::From(&from, Direction::Forward);
        for item in self.db.iterator_cf(self.family(LOG), mode) {
            let (key, value) = item?;
            let entry = read_entry(&value)?;
            if entry.index != next || index_of(&key)? != next {
                return Err(StoreError::MissingEntry { index: next });
            }
            loaded.note(&entry);
            if next > loaded.applied.index {
                loaded.tail.push(entry);
            }
            next += 1;
        }
        if loaded.applied.index >= next {
            return Err(StoreError::MissingEntry { index: next });
        }
        Ok(())
    }
}

impl Store for RocksStore {
    fn load(&self) -> Result<Loaded, StoreError> {
        let state = self.family(STATE);
        let identity = match self.db.get_pinned_cf(state, IDENTITY)? {
            None => None,
            Some(bytes) => Some(
                stored::Identity::decode(&bytes[..])
                    .ok()
                    .and_then(|stored| Identity::from_stored(&stored))
                    .ok_or(StoreError::Corrupt { what: "identity" })?,
            ),
        };
        let hard_state = match self.db.get_pinned_cf(state, HARD_STATE)? {
            None => HardState::default(),
            Some(bytes) => HardState::parse_from_bytes(&bytes)
                .map_err(|_| StoreError::Corrupt { what: "hard state" })?,
        };
        let applied = read_point(self.point()?)?;
        let truncated = self.truncated()?;
        let mut loaded = Loaded { identity, hard_state, truncated, applied, ..Loaded::default() };
        self.scan_log(&mut loaded)?;
        Ok(loaded)
    }

    fn initialize(
        &self,
        identity: Identity,
        first: Option<Configuration>,
    ) -> Result<(), StoreError> {
        if let Some(user) = self.load()?.identity {
            return Err(StoreError::InUse(Box::new(user)));
        }
        let mut cursor = self.cursor.lock();
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(STATE), IDENTITY, identity.to_stored().encode_to_vec());
        if let Some(configuration) = first {
            let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
            let point = Point { index: 1, term: 1, configuration };
            let write =
                Write { hard_state: Some(hard_state), install: Some(point), ..Write::default() };
            self.add_write(&mut batch, &mut cursor, &write)?;
        }
        self.write(batch, true)
    }

    fn recover(&self, recovered: &Recovered) -> Result<(), StoreError> {
        let mut cursor = self.cursor.lock();
        let (state, point) = (self.family(STATE), &recovered.point);
        let mut batch = WriteBatch::default();
        batch.put_cf(state, IDENTITY, recovered.identity.to_stored().encode_to_vec());
        batch.put_cf(state, TRUNCATED, pair(point.index, point.term));
        self.put_point(&mut batch, point, cursor.generation);
        batch.delete_range_cf(self.family(LOG), key(0), key(u64::MAX));
        let write = Write {
            hard_state: Some(recovered.hard_state.clone()),
            entries: recovered.tail.clone(),
            ..Write::default()
        };
        cursor.applied_index = point.index;
        cursor.truncated = (point.index, point.term);
        cursor.last_index = point.index;
        self.add_write(&mut batch, &mut cursor, &write)?;
        self.write(batch, true)
    }

    fn persist(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut cursor = self.cursor.lock();
        let mut batch = WriteBatch::default();
        for write in writes {
            self.add_write(&mut batch, &mut cursor, write)?;
        }
        self.write(batch, true)
    }

    fn apply(&self, applied: &Applied) -> Result<(), StoreError> {
        let mut cursor = self.cursor.lock();
        if applied.point.index <= cursor.applied_index {
            return Ok(());
        }
        cursor.applied_index = applied.point.index;
        let image = self.family(IMAGE);
        let mut batch = WriteBatch::default();
        let mut full = BytesMut::new();
        for (key, value) in &applied.writes {
            full.clear();
            full.put_u32(cursor.generation);
            full.put_slice(key);
            match value {
                Some(value) => batch.put_cf(image, &full, value),
                None => batch.delete_cf(image, &full),
            }
        }
        self.put_point(&mut batch, &applied.point, cursor.generation);
        self.write(batch, false)
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        let from = key(low);
        let mode = IteratorMode::From(&from, Direction::Forward);
        let mut found: Vec<Entry> = Vec::new();
        let mut size_bytes = 0;
        for item in self.db.iterator_cf(self.family(LOG), mode) {
            let (_, value) = item?;
            let entry = read_entry(&value)?;
            size_bytes += entry.data.len() as u64;
            let wanted = entry.index < high && (found.is_empty() || size_bytes <= max_bytes);
            if !wanted || entry.index != low + found.len() as u64 {
                break;
            }
            found.push(entry);
        }
        if found.is_empty() { Err(StoreError::MissingEntry { index: low }) } else { Ok(found) }
    }

    fn compact(&self, index: u64, term: u64) -> Result<(), StoreError> {
        let mut cursor = self.cursor.lock();
        if index <= cursor.truncated.0 {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(LOG), key(0), key(index + 1));
        batch.put_cf(self.family(STATE), TRUNCATED, pair(index, term));
        cursor.truncated = (index, term);
        self.write(batch, false)
    }

    fn open_image(&self) -> Result<Box<dyn ImageReader>, StoreError> {
        Ok(Box::new(RocksImage::open(Arc::clone(&self.db))?))
    }

    fn stage(&self, first: bool, pairs: &[(Bytes, Bytes)]) -> Result<(), StoreError> {
        let cursor = self.cursor.lock();
        let next = cursor.generation + 1;
        let image = self.family(IMAGE);
        let mut batch = WriteBatch::default();
        if first {
            batch.delete_range_cf(image, next.to_be_bytes(), (next + 1).to_be_bytes());
        }
        let mut full = BytesMut::new();
        for (key, value) in pairs {
            full.clear();
            full.put_u32(next);
            full.put_slice(key);
            batch.put_cf(image, &full, value);
        }
        self.write(batch, false)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(self.db.flush_wal(true)?)
    }
}

/// What the image stands for in a snapshot, and its generation.
pub(super) fn image_point(
    snapshot: &Snapshot<'_>,
    state: &ColumnFamily,
) -> Result<(Point, u32), StoreError> {
    let point = match snapshot.get_pinned_cf(state, APPLIED)? {
        None => StoredPoint::default(),
        Some(bytes) => StoredPoint::decode(&bytes[..])
            .map_err(|_| StoreError::Corrupt { what: "applied index" })?,
    };
    let generation = point.generation.max(1);
    Ok((read_point(point)?, generation))
}

/// Reads of one generation of the image, which pass once.
pub(super) fn image_range(generation: u32) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound((generation + 1).to_be_bytes());
    options.fill_cache(false);
    options
}

fn options() -> Result<(Options, Options), StoreError> {
    let mut options = Options::default();
    // What is flushed and compacted is safe already: changes that wait for a sync come first.
    let mut env = Env::new()?;
    env.lower_thread_pool_cpu_priority();
    options.set_env(&env);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn batch at the end of the log was never acknowledged; a batch after it never written.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_total_wal_size(WAL_BYTES);
    options.set_wal_bytes_per_sync(WRITEBACK_BYTES);
    options.set_bytes_per_sync(WRITEBACK_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);

    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    let mut family = Options::default();
    family.set_block_based_table_factory(&blocks);
    family.set_write_buffer_size(WRITE_BUFFER_BYTES);
    Ok((options, family))
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn index_of(key: &[u8]) -> Result<u64, StoreError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Corrupt { what: "log key" })
}

fn pair(index: u64, term: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    bytes[8..].copy_from_slice(&term.to_be_bytes());
    bytes
}

fn read_pair(bytes: &[u8]) -> Result<(u64, u64), StoreError> {
    let bits: [u8; 16] =
        bytes.try_into().map_err(|_| StoreError::Corrupt { what: "truncation point" })?;
    let bits = u128::from_be_bytes(bits);
    Ok(((bits >> 64) as u64, bits as u64))
}

fn read_entry(bytes: &[u8]) -> Result<Entry, StoreError> {
    Entry::parse_from_bytes(bytes).map_err(|_| StoreError::Corrupt { what: "log entry" })
}

fn read_point(stored: StoredPoint) -> Result<Point, StoreError> {
    let configuration = Configuration::from_stored(stored.configuration)
        .ok_or(StoreError::Corrupt { what: "configuration" })?;
    Ok(Point { index: stored.index, term: stored.term, configuration })
}
