//! What a user of the log relies on, over the simulated directory.

mod compaction;
mod crash;
mod cut;
mod kafka_tool;
mod lifecycle;
mod moves;
mod rot;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{
    base::{LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId},
    protocol::batch::{Attributes, BatchBuilder, BatchOptions, Batches, NewRecord, Producer},
};

pub(super) const NOW_MS: i64 = 1_700_000_000_000;

pub(super) fn batch(values: &[Vec<u8>], producer: Option<(i64, i32)>) -> Bytes {
    let mut options = BatchOptions::default();
    if let Some((id, base_sequence)) = producer {
        options.producer = Producer { id: ProducerId(id), epoch: ProducerEpoch(0), base_sequence };
    }
    build(options, values, NOW_MS)
}

pub(super) fn build(options: BatchOptions, values: &[Vec<u8>], timestamp_ms: i64) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for value in values {
        let record = NewRecord { timestamp_ms, value: Some(value), ..NewRecord::default() };
        builder.push(&record);
    }
    builder.build().unwrap().bytes().clone()
}

/// The marker that ends a transaction.
pub(super) fn marker(producer_id: i64, committed: bool) -> Bytes {
    let options = BatchOptions {
        producer: Producer {
            id: ProducerId(producer_id),
            epoch: ProducerEpoch(0),
            base_sequence: -1,
        },
        attributes: Attributes(0).with_control(true).with_transactional(true),
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    let key = [0, 0, 0, u8::from(committed)];
    builder.push(&NewRecord {
        timestamp_ms: NOW_MS,
        key: Some(&key),
        value: Some(&[0; 6]),
        ..NewRecord::default()
    });
    builder.build().unwrap().bytes().clone()
}

pub(super) fn client() -> Append {
    Append {
        origin: Origin::Client,
        leader_epoch: LeaderEpoch(1),
        log_append_time_ms: None,
        now_ms: NOW_MS,
    }
}

pub(super) fn small() -> Arc<LogConfig> {
    Arc::new(LogConfig { segment_bytes: 4096, index_interval_bytes: 256, ..LogConfig::default() })
}

pub(super) fn directory(dir: &SimDir) -> LogDirectory {
    LogDirectory::open(Arc::new(dir.clone())).unwrap()
}

pub(super) fn create(directory: &LogDirectory, config: Arc<LogConfig>) -> Arc<Log> {
    let topic = TopicId(uuid::Uuid::from_u128(7));
    directory.create("t", PartitionIndex(0), topic, config, NOW_MS).unwrap()
}

/// Every record from the log start on, as a consumer reads them.
pub(super) fn read_all(log: &Log) -> Vec<(Offset, Vec<u8>)> {
    let (mut next, end) = (log.log_start_offset(), log.log_end_offset());
    let mut records = Vec::new();
    while next < end {
        let Some(slice) = log.read(next, end, 700, true).unwrap() else { break };
        let mut bytes = vec![0; slice.len_bytes as usize];
        assert_eq!(slice.file.read_at(slice.position, &mut bytes).unwrap(), bytes.len());
        for batch in Batches::parse_stored(bytes.into()).unwrap() {
            assert!(batch.last_offset() >= next, "a batch came twice");
            for record in batch.records(Default::default()).unwrap() {
                let record = record.unwrap();
                if record.offset >= next {
                    records.push((record.offset, record.value.unwrap_or_default().to_vec()));
                }
            }
            next = batch.last_offset().plus(1);
        }
    }
    records
}
