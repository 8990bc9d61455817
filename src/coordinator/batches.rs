//! Between a shard's records and the batches of its log.

use bytes::Bytes;

use super::{ReadError, Record, Shard, Source};
use crate::{
    base::Offset,
    protocol::batch::{
        Attributes, Batch, BatchBuilder, BatchOptions, Batches, NewRecord, Producer, RecordLimits,
    },
};

/// One batch of `records`, with offsets from 0.
pub(super) fn encode(records: &[Record], source: Source, wall_ms: i64) -> Bytes {
    let transaction = source.transaction;
    let producer = transaction.map_or_else(Producer::default, |(id, epoch)| {
        // The coordinator writes in the producer's name, outside of its sequence (KIP-98).
        Producer { id, epoch, base_sequence: -1 }
    });
    let attributes = Attributes::default().with_transactional(transaction.is_some());
    let mut batch = BatchBuilder::new(BatchOptions { producer, attributes, ..Default::default() });
    for record in records {
        batch.push(&NewRecord {
            timestamp_ms: wall_ms,
            key: Some(&record.key),
            value: record.value.as_deref(),
            headers: &[],
        });
    }
    let batch = batch.build().expect("without a codec there is nothing that can fail");
    batch.bytes().clone()
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
/// `Storage` where a batch cannot be decoded: a state that leaves it out would lose committed
/// offsets without a word.
pub(super) fn replay<S: Shard>(
    bytes: Bytes,
    from: Offset,
    shard: &mut S,
) -> Result<Replayed, ReadError> {
    let mut replayed = Replayed { records: 0, skipped: 0, next: from };
    for batch in Batches::parse_stored(bytes).map_err(|_| ReadError::Storage)? {
        replay_batch(&batch, shard, &mut replayed)?;
        replayed.next = replayed.next.max(batch.last_offset().plus(1));
    }
    Ok(replayed)
}

fn replay_batch<S: Shard>(
    batch: &Batch,
    shard: &mut S,
    replayed: &mut Replayed,
) -> Result<(), ReadError> {
    let header = batch.header();
    let producer = (header.producer_id, header.producer_epoch);
    let source = Source { transaction: batch.is_transactional().then_some(producer) };
    let records = batch.records(RecordLimits::default()).map_err(|_| ReadError::Storage)?;
    for record in records {
        let record = record.map_err(|_| ReadError::Storage)?;
        if record.offset < replayed.next {
            continue;
        }
        replayed.records += 1;
        let understood = match record.key {
            // Version, then type: 0 aborts the producer's transaction, 1 commits it.
            Some(key) if batch.is_control() => {
                if let [_, _, 0, outcome @ 0..=1] = key[..] {
                    shard.replay_end_transaction(header.producer_id, outcome == 1);
                }
                true
            }
            Some(key) => shard.replay(&Record { key, value: record.value }, source).is_ok(),
            None => false,
        };
        replayed.skipped += u64::from(!understood);
    }
    Ok(())
}
