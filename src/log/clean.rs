//! What compaction keeps: the newest record of each key, found and filtered batch by batch.
//!
//! [`NewestOffsets`] holds whole keys, so no two keys are ever taken for one. [`Filter`] goes over
//! the batches of all segments that are cleaned, in order, and says what becomes of each.
//!
//! Invariants: a record keeps its offset, a batch its base and last offset, its producer and its
//! sequence numbers; a marker stays as long as any data of its transaction, and the last data
//! batch and the last marker of every producer that the log knows stay, if need be empty, so that
//! a replay gives the same producers. References: KIP-534, KIP-354.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{error::Damage, segment::AbortedTxn};
use crate::{
    base::{Offset, ProducerId},
    protocol::batch::{
        Batch, BatchBuilder, BatchOptions, HEADER_BYTES, Header, LENGTH_PREFIX_BYTES, NewRecord,
        Producer, Record, RecordLimits,
    },
};

/// What an entry takes beside its key: node, pointers and offset.
const ENTRY_BYTES: usize = 64;

/// The newest offset of every key in a stretch of the log, within a bound of memory.
#[derive(Debug)]
pub(super) struct NewestOffsets {
    newest: BTreeMap<Box<[u8]>, Offset>,
    used_bytes: usize,
    max_bytes: usize,
}

impl NewestOffsets {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { newest: BTreeMap::new(), used_bytes: 0, max_bytes }
    }

    /// Takes in the batch's records from `from` on; the first offset that found no room, if any.
    /// There is always room for one key.
    pub(super) fn add(&mut self, batch: &Batch, from: Offset) -> Result<Option<Offset>, Damage> {
        for record in records(batch)? {
            let record = record?;
            let Some(key) = record.key.as_deref().filter(|_| record.offset >= from) else {
                continue;
            };
            if let Some(newest) = self.newest.get_mut(key) {
                *newest = record.offset;
                continue;
            }
            let used_bytes = self.used_bytes + key.len() + ENTRY_BYTES;
            if used_bytes > self.max_bytes && !self.newest.is_empty() {
                return Ok(Some(record.offset));
            }
            self.used_bytes = used_bytes;
            self.newest.insert(key.into(), record.offset);
        }
        Ok(None)
    }

    fn is_newest(&self, key: &[u8], offset: Offset) -> bool {
        self.newest.get(key).is_none_or(|newest| *newest <= offset)
    }
}

fn records(batch: &Batch) -> Result<impl Iterator<Item = Result<Record, Damage>> + use<>, Damage> {
    let records = batch.records(RecordLimits::default()).map_err(|_| Damage::Records)?;
    Ok(records.map(|record| record.map_err(|_| Damage::Records)))
}

/// The last data batch and the last marker that each producer has in a stretch of the log.
#[derive(Debug, Default)]
pub(super) struct LastOfProducers {
    data: BTreeMap<ProducerId, Offset>,
    markers: BTreeMap<ProducerId, Offset>,
}

impl LastOfProducers {
    pub(super) fn add(&mut self, header: &Header) {
        if header.has_producer() {
            let of = if header.is_control() { &mut self.markers } else { &mut self.data };
            of.insert(header.producer_id, header.base_offset);
        }
    }
}

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It stays as it is.
    Kept,
    /// It goes.
    Dropped,
    /// Other bytes take its place.
    Replaced(Bytes),
}

/// Decides over batches in the order of the log.
pub(super) struct Filter {
    /// Batches from here on are beyond what is cleaned and stay.
    pub(super) end: Offset,
    pub(super) newest: NewestOffsets,
    pub(super) last: LastOfProducers,
    /// Producers that the log still knows.
    pub(super) active: BTreeSet<ProducerId>,
    pub(super) aborted: Vec<AbortedTxn>,
    pub(super) now_ms: i64,
    pub(super) delete_retention_ms: i64,
    /// Producers with transactional data kept that no marker has followed yet.
    pub(super) with_data: BTreeSet<ProducerId>,
}

impl Filter {
    /// What becomes of `batch`; the `last` one of a segment stays at least empty.
    pub(super) fn decide(&mut self, batch: &Batch, last: bool) -> Result<Outcome, Damage> {
        if batch.base_offset() >= self.end {
            return Ok(Outcome::Kept);
        }
        let outcome = if batch.is_control() {
            self.decide_marker(batch, last)?
        } else {
            self.decide_data(batch, last)?
        };
        let producer = batch.producer_id();
        let anonymous = match &outcome {
            Outcome::Replaced(bytes) => bytes.get(43..51) == Some(&(-1_i64).to_be_bytes()[..]),
            Outcome::Dropped => true,
            Outcome::Kept => false,
        };
        if !batch.is_control() && batch.is_transactional() && !anonymous {
            self.with_data.insert(producer);
        }
        Ok(outcome)
    }

    fn decide_marker(&mut self, batch: &Batch, last: bool) -> Result<Outcome, Damage> {
        let producer = batch.producer_id();
        if batch.count() == 0 {
            return Ok(if last { Outcome::Kept } else { Outcome::Dropped });
        }
        let has_data = self.with_data.remove(&producer);
        let is_last = self.active.contains(&producer)
            && self.last.markers.get(&producer) == Some(&batch.base_offset());
        if has_data || is_last {
            return Ok(Outcome::Kept);
        }
        match horizon_ms(batch) {
            None => {
                let kept: Vec<Record> = records(batch)?.collect::<Result<_, _>>()?;
                rebuild(batch, &kept, Some(self.new_horizon_ms())).map(Outcome::Replaced)
            }
            Some(horizon_ms) if horizon_ms > self.now_ms => Ok(Outcome::Kept),
            Some(_) if last => Ok(Outcome::Replaced(empty(batch, false))),
            Some(_) => Ok(Outcome::Dropped),
        }
    }

    fn decide_data(&self, batch: &Batch, last: bool) -> Result<Outcome, Damage> {
        let producer = batch.producer_id();
        let is_last = producer != ProducerId::NONE
            && self.active.contains(&producer)
            && self.last.data.get(&producer) == Some(&batch.base_offset());
        let horizon = horizon_ms(batch);
        let mut kept = Vec::new();
        let mut tombstones = false;
        if !self.is_aborted(batch) {
            for record in records(batch)? {
                let record = record?;
                if self.keeps(&record, horizon) {
                    tombstones |= record.value.is_none() && record.offset < self.end;
                    kept.push(record);
                }
            }
        }
        let new_horizon = (tombstones && horizon.is_none()).then(|| self.new_horizon_ms());
        if kept.is_empty() {
            return Ok(match (is_last || last, batch.count()) {
                (false, _) => Outcome::Dropped,
                // An empty batch whose producer is forgotten loses its producer as well.
                (true, 0) if is_last || producer == ProducerId::NONE => Outcome::Kept,
                (true, _) => Outcome::Replaced(empty(batch, is_last)),
            });
        }
        if kept.len() == batch.count() as usize && new_horizon.is_none() {
            return Ok(Outcome::Kept);
        }
        rebuild(batch, &kept, new_horizon.or(horizon)).map(Outcome::Replaced)
    }

    fn keeps(&self, record: &Record, horizon_ms: Option<i64>) -> bool {
        if record.offset >= self.end {
            return true;
        }
        let Some(key) = &record.key else { return false };
        let expired = record.value.is_none() && horizon_ms.is_some_and(|ms| ms <= self.now_ms);
        !expired && self.newest.is_newest(key, record.offset)
    }

    pub(super) fn is_aborted(&self, batch: &Batch) -> bool {
        let of_batch = |txn: &AbortedTxn| {
            txn.producer_id == batch.producer_id()
                && (txn.first_offset..txn.last_offset).contains(&batch.base_offset())
        };
        batch.is_transactional() && self.aborted.iter().any(of_batch)
    }

    fn new_horizon_ms(&self) -> i64 {
        self.now_ms.saturating_add(self.delete_retention_ms)
    }
}

/// From when on the batch's tombstones, or the marker that it is, may go.
fn horizon_ms(batch: &Batch) -> Option<i64> {
    let header = batch.header();
    header.attributes.has_delete_horizon().then_some(header.base_timestamp_ms)
}

/// The batch with some of its records only.
fn rebuild(batch: &Batch, records: &[Record], horizon_ms: Option<i64>) -> Result<Bytes, Damage> {
    let header = batch.header();
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: header.base_offset,
        codec: header.compression.into(),
        producer: Producer {
            id: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
        },
        attributes: header.attributes.with_delete_horizon(horizon_ms.is_some()),
        leader_epoch: header.leader_epoch,
    });
    if let Some(horizon_ms) = horizon_ms {
        builder.base_timestamp(horizon_ms);
    }
    for record in records {
        let headers: Vec<(Bytes, Option<Bytes>)> = record.headers.iter().collect();
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
        builder.push_at(
            record.offset,
            &NewRecord {
                timestamp_ms: record.timestamp_ms,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
            },
        );
    }
    builder.reach_to(header.last_offset());
    let built = builder.build().map_err(|_| Damage::Records)?;
    Ok(built.bytes().clone())
}

/// The batch without its records; without its producer and transaction too where nobody needs it.
fn empty(batch: &Batch, keep_producer: bool) -> Bytes {
    let mut header = *batch.header();
    header.count = 0;
    header.batch_length = (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32;
    header.compression = crate::protocol::compression::Compression::None;
    header.attributes = header.attributes.with_compression(header.compression);
    header.attributes = header.attributes.with_delete_horizon(false);
    if !keep_producer {
        let none = Producer::default();
        header.producer_id = none.id;
        header.producer_epoch = none.epoch;
        header.base_sequence = none.base_sequence;
        header.attributes = header.attributes.with_transactional(false).with_control(false);
    }
    header.crc = header.crc_with(&[]);
    Bytes::copy_from_slice(&header.encode())
}
