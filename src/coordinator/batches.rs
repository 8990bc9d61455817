//! Between a shard's records and the batches of its log.

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, Record as WireRecord, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType,
};

use super::{ReadError, Record, Shard, Source};
use crate::base::{Offset, ProducerEpoch, ProducerId};

/// Up to and with the number of records.
const HEADER_BYTES: usize = 61;
/// Base offset and batch length, which the length does not count.
const PREFIX_BYTES: usize = 12;
/// Where the header has the last record's offset, counted from the first one's.
const LAST_OFFSET_DELTA_AT: usize = 23;

/// One batch of `records`, with offsets from 0.
pub(super) fn encode(records: &[Record], source: Source, wall_ms: i64) -> Bytes {
    let (producer_id, producer_epoch) =
        source.transaction.unwrap_or((ProducerId::NONE, ProducerEpoch::NONE));
    let wire: Vec<_> = (0..)
        .zip(records)
        .map(|(offset, record)| WireRecord {
            transactional: source.transaction.is_some(),
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: producer_id.0,
            producer_epoch: producer_epoch.0,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(offset),
            // The batch has none: it counts from -1 only so that the codec keeps one batch.
            sequence: offset - 1,
            timestamp: wall_ms,
            key: Some(record.key.clone()),
            value: record.value.clone(),
            headers: Default::default(),
        })
        .collect();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    let mut batch = BytesMut::new();
    RecordBatchEncoder::encode(&mut batch, &wire, &options)
        .expect("a pipeline bounds its batches far below what the format can hold");
    batch.freeze()
}

/// What one read held.
pub(super) struct Replayed {
    pub(super) records: u64,
    /// Records that the shard did not understand.
    pub(super) skipped: u64,
    /// Where the next read begins.
    pub(super) next: Offset,
}

/// Replays whole batches into `shard`, from the record at `from` on.
///
/// # Errors
/// `Storage` where a batch cannot be decoded: the log has checked its CRC, so something is wrong
/// with this node, and a state that leaves it out would lose committed offsets.
pub(super) fn replay<S: Shard>(
    mut batches: Bytes,
    from: Offset,
    shard: &mut S,
) -> Result<Replayed, ReadError> {
    let mut replayed = Replayed { records: 0, skipped: 0, next: from };
    while batches.len() >= HEADER_BYTES {
        let base = i64::from_be_bytes(field(&batches, 0));
        let length = u32::from_be_bytes(field(&batches, 8)) as usize;
        let last_delta = i32::from_be_bytes(field(&batches, LAST_OFFSET_DELTA_AT));
        let size = PREFIX_BYTES.saturating_add(length);
        if size > batches.len() || size < HEADER_BYTES {
            return Err(ReadError::Storage);
        }
        let mut batch = batches.split_to(size);
        let next = Offset(base).plus(i64::from(last_delta) + 1);
        let records = RecordBatchDecoder::decode(&mut batch).map_err(|_| ReadError::Storage)?;
        for record in records.records {
            if Offset(record.offset) < replayed.next {
                continue;
            }
            replayed.records += 1;
            if !replay_one(record, shard) {
                replayed.skipped += 1;
            }
        }
        replayed.next = replayed.next.max(next);
    }
    Ok(replayed)
}

/// Whether the shard understood it.
fn replay_one<S: Shard>(record: WireRecord, shard: &mut S) -> bool {
    let Some(key) = record.key else { return false };
    let producer = ProducerId(record.producer_id);
    if record.control {
        // Version, then type: 0 aborts the producer's transaction, 1 commits it.
        if let [_, _, 0, outcome @ 0..=1] = key[..] {
            shard.replay_end_transaction(producer, outcome == 1);
        }
        return true;
    }
    let epoch = ProducerEpoch(record.producer_epoch);
    let source = Source { transaction: record.transactional.then_some((producer, epoch)) };
    shard.replay(&Record { key, value: record.value }, source).is_ok()
}

fn field<const N: usize>(batch: &[u8], at: usize) -> [u8; N] {
    batch[at..at + N].try_into().expect("the slice has N bytes")
}
