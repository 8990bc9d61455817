//! What a log knows of idempotent and transactional producers, and its `.snapshot` files.
//!
//! Invariants: per producer the last five batches are known, in order of sequence; `ongoing` holds
//! exactly the entries' open transactions; replaying the log from any snapshot gives the same
//! state. A batch is staged before it is written and committed after, so that a refused or failed
//! append leaves no trace.

use std::collections::{BTreeMap, VecDeque};

use super::{
    error::{AppendError, Damage},
    header::EndMarker,
};
use crate::{
    base::{Offset, ProducerEpoch, ProducerId},
    protocol::batch::{Header, add_sequence},
};

/// Batches remembered of each producer; clients keep at most as many in flight.
const BATCHES: usize = 5;
const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_ENTRY_BYTES: usize = 46;
const SNAPSHOT_HEADER_BYTES: usize = 10;

/// Who appends: decides what is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A producer: sequences and epochs are checked.
    Client,
    /// A producer some of whose batches may just have been refused: one that is not known yet must
    /// begin at the beginning, lest what it sent first comes after what it sent next.
    ClientAfterRefusal,
    /// A coordinator: epochs are checked.
    Coordinator,
    /// The partition's leader, which has checked.
    Replication,
}

impl Origin {
    pub(crate) const fn is_client(self) -> bool {
        matches!(self, Self::Client | Self::ClientAfterRefusal)
    }
}

/// One batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchMeta {
    pub(crate) last_sequence: i32,
    pub(crate) last_offset: Offset,
    pub(crate) offset_delta: i32,
    pub(crate) timestamp_ms: i64,
}

impl BatchMeta {
    pub(crate) fn first_offset(&self) -> Offset {
        self.last_offset.plus(-i64::from(self.offset_delta))
    }

    fn first_sequence(&self) -> i32 {
        add_sequence(self.last_sequence, -self.offset_delta)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    epoch: ProducerEpoch,
    coordinator_epoch: i32,
    /// Of its last record or marker.
    last_timestamp_ms: i64,
    /// When it last wrote, by this node's clock.
    seen_ms: i64,
    txn_first_offset: Option<Offset>,
    batches: VecDeque<BatchMeta>,
}

impl Entry {
    const fn new() -> Self {
        Self {
            epoch: ProducerEpoch::NONE,
            coordinator_epoch: -1,
            last_timestamp_ms: -1,
            seen_ms: -1,
            txn_first_offset: None,
            batches: VecDeque::new(),
        }
    }

    fn set_epoch(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
    }

    fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(-1, |batch| batch.last_sequence)
    }
}

/// A producer that has written to the log, as DescribeProducers shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// Its newest sequence number; -1 for none.
    pub last_sequence: i32,
    /// When it last wrote.
    pub last_timestamp_ms: i64,
    /// Epoch of the coordinator that wrote its last marker; -1 for none.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub txn_first_offset: Option<Offset>,
}

/// A transaction that a marker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompletedTxn {
    pub(crate) producer_id: ProducerId,
    pub(crate) first_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) aborted: bool,
}

/// The producers of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    entries: BTreeMap<ProducerId, Entry>,
    ongoing: BTreeMap<Offset, ProducerId>,
    /// Ended, but the marker may not be replicated yet: first offset to the marker's.
    completed: BTreeMap<Offset, Offset>,
}

/// The effect of batches that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    entries: BTreeMap<ProducerId, Entry>,
    pub(crate) completed: Vec<CompletedTxn>,
}

impl Producers {
    /// The batch that `header` repeats, if it does.
    pub(crate) fn duplicate_of(&self, header: &Header) -> Option<BatchMeta> {
        let entry = self.entries.get(&header.producer_id)?;
        if entry.epoch != header.producer_epoch || header.base_sequence < 0 {
            return None;
        }
        let repeats = |batch: &&BatchMeta| {
            batch.first_sequence() == header.base_sequence
                && batch.last_sequence == header.last_sequence()
        };
        entry.batches.iter().find(repeats).copied()
    }

    /// Takes in a batch with its final offsets; `marker` is given for a control batch.
    pub(crate) fn stage(
        &self,
        staged: &mut Staged,
        header: &Header,
        marker: Option<EndMarker>,
        origin: Origin,
        now_ms: i64,
    ) -> Result<(), AppendError> {
        let current = self.entries.get(&header.producer_id);
        let entry = staged
            .entries
            .entry(header.producer_id)
            .or_insert_with(|| current.cloned().unwrap_or(Entry::new()));
        let producer_id = header.producer_id;
        if origin != Origin::Replication && header.producer_epoch < entry.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id,
                found: header.producer_epoch,
                current: entry.epoch,
            });
        }
        if header.is_control() {
            let Some(marker) = marker else { return Ok(()) };
            if origin != Origin::Replication && marker.coordinator_epoch < entry.coordinator_epoch {
                return Err(AppendError::TransactionCoordinatorFenced {
                    producer_id,
                    found: marker.coordinator_epoch,
                    current: entry.coordinator_epoch,
                });
            }
            entry.set_epoch(header.producer_epoch);
            entry.coordinator_epoch = marker.coordinator_epoch;
            entry.last_timestamp_ms = header.max_timestamp_ms;
            entry.seen_ms = now_ms;
            if let Some(first_offset) = entry.txn_first_offset.take() {
                staged.completed.push(CompletedTxn {
                    producer_id,
                    first_offset,
                    last_offset: header.base_offset,
                    aborted: !marker.committed,
                });
            }
            return Ok(());
        }
        if origin.is_client() {
            check_sequence(entry, header, origin)?;
        }
        if origin != Origin::Replication
            && entry.txn_first_offset.is_some()
            && !header.is_transactional()
        {
            return Err(AppendError::InvalidTxnState { producer_id });
        }
        add_batch(entry, header);
        entry.seen_ms = now_ms;
        Ok(())
    }

    /// Makes staged batches part of the state, now that they are written.
    pub(crate) fn commit(&mut self, staged: Staged) {
        for txn in &staged.completed {
            self.completed.insert(txn.first_offset, txn.last_offset);
        }
        for (producer_id, entry) in staged.entries {
            if let Some(first) =
                self.entries.get(&producer_id).and_then(|entry| entry.txn_first_offset)
            {
                self.ongoing.remove(&first);
            }
            if let Some(first) = entry.txn_first_offset {
                self.ongoing.insert(first, producer_id);
            }
            self.entries.insert(producer_id, entry);
        }
    }

    /// The first offset whose transaction's outcome is not certain below `high_watermark`.
    pub(crate) fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        let ongoing = self.ongoing.keys().next();
        let completed = self.completed.iter().find(|(_, last)| **last >= high_watermark);
        ongoing.into_iter().chain(completed.map(|(first, _)| first)).min().copied()
    }

    /// Forgets ended transactions whose marker lies below the high watermark.
    pub(crate) fn high_watermark_moved(&mut self, high_watermark: Offset) {
        self.completed.retain(|_, last| *last >= high_watermark);
    }

    pub(crate) fn has_completed(&self) -> bool {
        !self.completed.is_empty()
    }

    /// Up to where everything was decided once `txn` had ended.
    pub(crate) fn last_stable_offset_after(&self, txn: &CompletedTxn) -> Offset {
        let others = self.ongoing.keys().find(|first| **first != txn.first_offset);
        others.copied().unwrap_or(txn.last_offset.plus(1)).min(txn.last_offset.plus(1))
    }

    /// Forgets producers that have been silent; never one with a transaction open.
    // Differs from Kafka: there the timestamp of the producer's last record counts, so that one
    // that writes old records is forgotten while it writes, and what it repeats is written twice.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.entries.retain(|_, entry| {
            entry.txn_first_offset.is_some() || now_ms.saturating_sub(entry.seen_ms) < expiration_ms
        });
    }

    /// When any of them last wrote.
    pub(crate) fn last_seen_ms(&self) -> i64 {
        self.entries.values().map(|entry| entry.seen_ms).max().unwrap_or(-1)
    }

    pub(crate) fn active(&self) -> Vec<ActiveProducer> {
        let active = self.entries.iter().map(|(producer_id, entry)| ActiveProducer {
            producer_id: *producer_id,
            epoch: entry.epoch,
            last_sequence: entry.last_sequence(),
            last_timestamp_ms: entry.last_timestamp_ms,
            coordinator_epoch: entry.coordinator_epoch,
            txn_first_offset: entry.txn_first_offset,
        });
        active.collect()
    }

    /// In Kafka's format. The one time in it, by which Kafka expires producers, is when the producer
    /// last wrote.
    // Differs from Kafka: there a producer's last batch is all that a snapshot holds, so that a
    // producer with several in flight is told that it skipped something when it repeats an older
    // one after the log was cut or the node stopped. Here it has an entry for each known batch, of
    // which Kafka keeps the last.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut entries = Vec::with_capacity(self.entries.len() * SNAPSHOT_ENTRY_BYTES);
        for (producer_id, entry) in &self.entries {
            let earlier = entry.batches.len().saturating_sub(1);
            for batch in entry.batches.iter().take(earlier) {
                encode_entry(&mut entries, *producer_id, entry, Some(batch), None);
            }
            let (last, open) = (entry.batches.back(), entry.txn_first_offset);
            encode_entry(&mut entries, *producer_id, entry, last, open);
        }
        let count = (entries.len() / SNAPSHOT_ENTRY_BYTES) as i32;
        let checked = crc32c::crc32c_append(crc32c::crc32c(&count.to_be_bytes()), &entries);
        let mut bytes = Vec::with_capacity(SNAPSHOT_HEADER_BYTES + entries.len());
        bytes.extend_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
        bytes.extend_from_slice(&checked.to_be_bytes());
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(&entries);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let header = bytes.get(..SNAPSHOT_HEADER_BYTES).ok_or(Damage::Format)?;
        let count = u32::from_be_bytes(array(header, 6)) as usize;
        let entries = &bytes[SNAPSHOT_HEADER_BYTES..];
        let stored = u32::from_be_bytes(array(header, 2));
        if i16::from_be_bytes(array(header, 0)) != SNAPSHOT_VERSION
            || entries.len() / SNAPSHOT_ENTRY_BYTES != count
            || !entries.len().is_multiple_of(SNAPSHOT_ENTRY_BYTES)
        {
            return Err(Damage::Format);
        }
        let computed = crc32c::crc32c(&bytes[6..]);
        if computed != stored {
            return Err(Damage::Crc { stored, computed });
        }
        let mut producers = Self::default();
        for bytes in entries.chunks_exact(SNAPSHOT_ENTRY_BYTES) {
            let producer_id = ProducerId(i64::from_be_bytes(array(bytes, 0)));
            let mut entry = decode_entry(bytes);
            let former = producers.entries.remove(&producer_id);
            if let Some(former) = former.filter(|former| former.epoch == entry.epoch) {
                let known = former.batches.into_iter().rev().take(BATCHES - 1);
                known.for_each(|batch| entry.batches.push_front(batch));
            }
            if let Some(first) = entry.txn_first_offset {
                producers.ongoing.insert(first, producer_id);
            }
            producers.entries.insert(producer_id, entry);
        }
        Ok(producers)
    }
}

fn encode_entry(
    bytes: &mut Vec<u8>,
    producer_id: ProducerId,
    entry: &Entry,
    batch: Option<&BatchMeta>,
    txn_first_offset: Option<Offset>,
) {
    bytes.extend_from_slice(&producer_id.0.to_be_bytes());
    bytes.extend_from_slice(&entry.epoch.0.to_be_bytes());
    bytes.extend_from_slice(&batch.map_or(-1, |batch| batch.last_sequence).to_be_bytes());
    bytes.extend_from_slice(&batch.map_or(-1, |batch| batch.last_offset.0).to_be_bytes());
    bytes.extend_from_slice(&batch.map_or(0, |batch| batch.offset_delta).to_be_bytes());
    bytes.extend_from_slice(&entry.seen_ms.to_be_bytes());
    bytes.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
    bytes.extend_from_slice(&txn_first_offset.map_or(-1, |first| first.0).to_be_bytes());
}

fn decode_entry(bytes: &[u8]) -> Entry {
    let batch = BatchMeta {
        last_sequence: i32::from_be_bytes(array(bytes, 10)),
        last_offset: Offset(i64::from_be_bytes(array(bytes, 14))),
        offset_delta: i32::from_be_bytes(array(bytes, 22)),
        timestamp_ms: i64::from_be_bytes(array(bytes, 26)),
    };
    let first = i64::from_be_bytes(array(bytes, 38));
    Entry {
        epoch: ProducerEpoch(i16::from_be_bytes(array(bytes, 8))),
        coordinator_epoch: i32::from_be_bytes(array(bytes, 34)),
        last_timestamp_ms: batch.timestamp_ms,
        seen_ms: batch.timestamp_ms,
        txn_first_offset: (first >= 0).then_some(Offset(first)),
        batches: (batch.last_offset.0 >= 0).then_some(batch).into_iter().collect(),
    }
}

fn check_sequence(entry: &Entry, header: &Header, origin: Origin) -> Result<(), AppendError> {
    // A producer that is not known, or no longer, may go on anywhere.
    let in_sequence = if entry.epoch == ProducerEpoch::NONE {
        origin == Origin::Client || header.base_sequence == 0
    } else if entry.epoch != header.producer_epoch {
        header.base_sequence == 0
    } else {
        header.base_sequence == add_sequence(entry.last_sequence(), 1)
    };
    if in_sequence {
        return Ok(());
    }
    Err(AppendError::OutOfOrderSequence {
        producer_id: header.producer_id,
        found: header.base_sequence,
        last: entry.last_sequence(),
    })
}

fn add_batch(entry: &mut Entry, header: &Header) {
    entry.set_epoch(header.producer_epoch);
    if entry.batches.len() == BATCHES {
        entry.batches.pop_front();
    }
    entry.batches.push_back(BatchMeta {
        last_sequence: header.last_sequence(),
        last_offset: header.last_offset(),
        offset_delta: header.last_offset_delta,
        timestamp_ms: header.max_timestamp_ms,
    });
    entry.last_timestamp_ms = header.max_timestamp_ms;
    if header.is_transactional() && entry.txn_first_offset.is_none() {
        entry.txn_first_offset = Some(header.base_offset);
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}
