//! Decides whether what a producer sent may be appended, and in which form.
//!
//! A batch is checked as a whole (length, CRC, size, count, timestamps as its header states them)
//! and kept as it came. Records are decoded only where something asks for it: a compacted topic
//! (each record needs a key), a topic with its own `compression.type`, a bound on how old records
//! may be, a header that states no maximum timestamp, or [`Rules::strict`].
//!
//! Differs from Kafka, which decodes every record of every batch: without a reason to decode, the
//! header's word is taken for the maximum timestamp and for the records' own deltas. A client that
//! lies there harms what it wrote itself; the count of offsets always adds up.

use bytes::{Bytes, BytesMut};

use super::{
    ResponseError,
    batch::{
        Batch, BatchBuilder, BatchError, BatchOptions, Batches, HEADER_BYTES, NewRecord, Producer,
        Record, RecordError, RecordLimits, TimestampType,
    },
    compression::{Codec, Compression, CompressionError},
};
use crate::base::{LeaderEpoch, Offset, ProducerId};

/// The most records that a rejection names; Kafka names all.
const MAX_NAMED_RECORDS: usize = 100;
/// zstd may be produced from this version of Produce on (KIP-110).
const ZSTD_FROM_VERSION: i16 = 7;

/// What a topic demands of batches.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `max.message.bytes`: of a whole batch as it is stored.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`; `i64::MAX` for no bound.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`; `i64::MAX` for no bound.
    pub timestamp_after_max_ms: i64,
    /// Whether `cleanup.policy` has `compact`, so that each record needs a key.
    pub compacted: bool,
    /// `compression.type` and its level; `None` for `producer`.
    pub codec: Option<Codec>,
    /// Decode every record of every batch, as Kafka does.
    pub strict: bool,
    /// What decoding may cost.
    pub limits: RecordLimits,
}

impl Default for Rules {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compacted: false,
            codec: None,
            strict: false,
            limits: RecordLimits::default(),
        }
    }
}

/// A batch that may be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// The batch, converted where the topic asks for it. Its base offset means nothing yet.
    pub batch: Batch,
    /// The time to stamp it with, where the topic has `LogAppendTime`.
    pub log_append_time_ms: Option<i64>,
}

/// Why a batch may not be appended.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// There is no batch.
    #[error("a produce request must have a record batch for each partition")]
    Empty,
    /// There is more than one batch.
    #[error("a produce request must have only one record batch for each partition")]
    Many,
    /// The batch is damaged or contradicts itself.
    #[error("{0}")]
    Batch(#[from] BatchError),
    /// The batch is larger than the topic allows.
    #[error("a batch of {bytes} bytes exceeds the maximum of {limit} of this topic")]
    TooLarge { bytes: usize, limit: usize },
    /// Only brokers write control records.
    #[error("clients may not write control records")]
    Control,
    /// An idempotent producer must count.
    #[error("sequence number {sequence} of producer {producer_id} is invalid")]
    Sequence { producer_id: ProducerId, sequence: i32 },
    /// The client speaks a version in which zstd did not exist.
    #[error("produce requests before version 7 may not use zstd")]
    Zstd,
    /// Only brokers set this timestamp type.
    #[error("producers may not set the timestamp type LogAppendTime")]
    LogAppendTime,
    /// The batch says that its newest record is outside of the topic's bounds.
    #[error("timestamp {timestamp_ms} is more than {limit_ms} ms after this node's time")]
    Timestamp { timestamp_ms: i64, limit_ms: i64 },
    /// Records break the topic's rules.
    #[error("{count} or more records of the batch are invalid")]
    Records { records: Vec<InvalidRecord>, count: usize },
    /// The body does not decode.
    #[error("{0}")]
    Decode(#[from] RecordError),
    /// The batch could not be converted.
    #[error("cannot convert the batch")]
    Convert(#[from] CompressionError),
}

/// A record that breaks its topic's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRecord {
    /// Its number within the batch.
    pub index: i32,
    /// What is wrong.
    pub reason: RecordFault,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A compacted topic has no place for it.
    #[error("a compacted topic cannot take a record without a key")]
    NoKey,
    /// Outside of the topic's bounds.
    #[error("timestamp {0} is outside of the topic's bounds")]
    Timestamp(i64),
}

impl Rejected {
    /// The error code for the partition.
    #[must_use]
    pub fn code(&self) -> ResponseError {
        match self {
            Self::Batch(BatchError::Crc { .. } | BatchError::Length(_))
            | Self::Batch(BatchError::Truncated { .. }) => ResponseError::CorruptMessage,
            Self::Batch(BatchError::Compression(_)) | Self::Zstd => {
                ResponseError::UnsupportedCompressionType
            }
            Self::TooLarge { .. }
            | Self::Decode(RecordError::Compression(CompressionError::TooLarge { .. }))
            | Self::Convert(CompressionError::TooLarge { .. }) => ResponseError::MessageTooLarge,
            Self::LogAppendTime | Self::Timestamp { .. } => ResponseError::InvalidTimestamp,
            Self::Records { records, .. } => {
                let timestamp =
                    |record: &InvalidRecord| matches!(record.reason, RecordFault::Timestamp(_));
                if records.iter().any(timestamp) {
                    ResponseError::InvalidTimestamp
                } else {
                    ResponseError::InvalidRecord
                }
            }
            Self::Empty
            | Self::Many
            | Self::Batch(BatchError::Magic(_) | BatchError::Count { .. })
            | Self::Control
            | Self::Sequence { .. }
            | Self::Decode(_)
            | Self::Convert(_) => ResponseError::InvalidRecord,
        }
    }

    /// The records to name in the response.
    #[must_use]
    pub fn records(&self) -> &[InvalidRecord] {
        match self {
            Self::Records { records, .. } => records,
            _ => &[],
        }
    }
}

/// Checks what a Produce request of `version` brought for one partition.
///
/// # Errors
/// See [`Rejected`], which knows its error code.
pub fn validate(
    records: Option<Bytes>,
    version: i16,
    rules: &Rules,
    now_ms: i64,
) -> Result<Validated, Rejected> {
    let mut batches = Batches::parse(records.unwrap_or_default())?;
    let batch = batches.pop().ok_or(Rejected::Empty)?;
    if !batches.is_empty() {
        return Err(Rejected::Many);
    }
    check_header(&batch, version, rules, now_ms)?;
    let convert_to = rules.codec.filter(|codec| codec.compression != batch.compression());
    let header = batch.header();
    let decode = rules.strict
        || rules.compacted
        || convert_to.is_some()
        || rules.timestamp_before_max_ms != i64::MAX
        || header.max_timestamp_ms < header.base_timestamp_ms.max(0);
    let batch = if decode { check_records(batch, convert_to, rules, now_ms)? } else { batch };
    if batch.size_bytes() > rules.max_message_bytes {
        let bytes = batch.size_bytes();
        return Err(Rejected::TooLarge { bytes, limit: rules.max_message_bytes });
    }
    let log_append_time_ms =
        (rules.timestamp_type == TimestampType::LogAppendTime).then_some(now_ms);
    Ok(Validated { batch, log_append_time_ms })
}

fn check_header(batch: &Batch, version: i16, rules: &Rules, now_ms: i64) -> Result<(), Rejected> {
    if batch.size_bytes() > rules.max_message_bytes {
        let bytes = batch.size_bytes();
        return Err(Rejected::TooLarge { bytes, limit: rules.max_message_bytes });
    }
    if batch.is_control() {
        return Err(Rejected::Control);
    }
    if batch.producer_id() > ProducerId::NONE && batch.base_sequence() < 0 {
        let (producer_id, sequence) = (batch.producer_id(), batch.base_sequence());
        return Err(Rejected::Sequence { producer_id, sequence });
    }
    if batch.compression() == Compression::Zstd && version < ZSTD_FROM_VERSION {
        return Err(Rejected::Zstd);
    }
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        return Err(Rejected::LogAppendTime);
    }
    let timestamp_ms = batch.max_timestamp_ms();
    if rules.timestamp_type == TimestampType::CreateTime
        && timestamp_ms.saturating_sub(now_ms) > rules.timestamp_after_max_ms
    {
        return Err(Rejected::Timestamp { timestamp_ms, limit_ms: rules.timestamp_after_max_ms });
    }
    Ok(())
}

/// What a pass over the records found.
struct Pass {
    max_timestamp_ms: i64,
    /// Whether each record's offset delta is its number.
    deltas_rise_by_one: bool,
}

fn check_records(
    batch: Batch,
    convert_to: Option<Codec>,
    rules: &Rules,
    now_ms: i64,
) -> Result<Batch, Rejected> {
    if let Some(codec) = convert_to {
        return rebuild(&batch, codec, rules, now_ms);
    }
    let pass = pass_over(&batch, None, rules, now_ms)?;
    if !pass.deltas_rise_by_one {
        // Some old clients get them wrong in compressed batches; Kafka mends those as well.
        return rebuild(&batch, Codec::from(batch.compression()), rules, now_ms);
    }
    if pass.max_timestamp_ms == batch.max_timestamp_ms() {
        return Ok(batch);
    }
    Ok(with_max_timestamp(&batch, pass.max_timestamp_ms))
}

fn rebuild(batch: &Batch, codec: Codec, rules: &Rules, now_ms: i64) -> Result<Batch, Rejected> {
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: Offset::ZERO,
        codec,
        producer: Producer {
            id: batch.producer_id(),
            epoch: batch.producer_epoch(),
            base_sequence: batch.base_sequence(),
        },
        attributes: batch.header().attributes,
        leader_epoch: LeaderEpoch::NONE,
    });
    pass_over(batch, Some(&mut builder), rules, now_ms)?;
    Ok(builder.build()?)
}

fn pass_over(
    batch: &Batch,
    mut builder: Option<&mut BatchBuilder>,
    rules: &Rules,
    now_ms: i64,
) -> Result<Pass, Rejected> {
    let mut pass = Pass { max_timestamp_ms: -1, deltas_rise_by_one: true };
    let mut invalid = Vec::new();
    let mut count = 0;
    for (index, record) in (0..).zip(batch.records(rules.limits)?) {
        let record = record?;
        if let Some(reason) = fault(&record, rules, now_ms) {
            count += 1;
            if invalid.len() < MAX_NAMED_RECORDS {
                invalid.push(InvalidRecord { index, reason });
            }
            continue;
        }
        pass.max_timestamp_ms = pass.max_timestamp_ms.max(record.timestamp_ms);
        pass.deltas_rise_by_one &= record.offset_delta == index;
        // A batch with an invalid record is not going to be used.
        if let Some(builder) = builder.as_deref_mut().filter(|_| count == 0) {
            push(builder, &record);
        }
    }
    if count > 0 {
        return Err(Rejected::Records { records: invalid, count });
    }
    Ok(pass)
}

fn push(builder: &mut BatchBuilder, record: &Record) {
    let headers: Vec<_> = record.headers.iter().collect();
    let headers: Vec<_> =
        headers.iter().map(|(key, value)| (key.as_ref(), value.as_deref())).collect();
    builder.push(&NewRecord {
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    });
}

fn fault(record: &Record, rules: &Rules, now_ms: i64) -> Option<RecordFault> {
    if rules.compacted && record.key.is_none() {
        return Some(RecordFault::NoKey);
    }
    let timestamp_ms = record.timestamp_ms;
    if rules.timestamp_type == TimestampType::LogAppendTime || timestamp_ms == -1 {
        return None;
    }
    let late = now_ms.saturating_sub(timestamp_ms) > rules.timestamp_before_max_ms;
    let early = timestamp_ms.saturating_sub(now_ms) > rules.timestamp_after_max_ms;
    (late || early).then_some(RecordFault::Timestamp(timestamp_ms))
}

/// The batch with another maximum timestamp. Copies it.
fn with_max_timestamp(batch: &Batch, max_timestamp_ms: i64) -> Batch {
    let mut bytes = BytesMut::from(&batch.bytes()[..]);
    bytes[35..43].copy_from_slice(&max_timestamp_ms.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    debug_assert!(bytes.len() >= HEADER_BYTES);
    Batch::split_from(&mut bytes.freeze())
        .expect("only the maximum timestamp changed, and the CRC with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn batch(compression: Compression, key: Option<&[u8]>, timestamp_ms: i64) -> Batch {
        let options = BatchOptions { codec: compression.into(), ..Default::default() };
        let mut builder = BatchBuilder::new(options);
        for _ in 0..3 {
            let value = Some(&[b'v'; 100][..]);
            builder.push(&NewRecord { timestamp_ms, key, value, headers: &[] });
        }
        builder.build().unwrap()
    }

    fn run(batch: &Batch, rules: &Rules) -> Result<Validated, ResponseError> {
        validate(Some(batch.bytes().clone()), 13, rules, NOW_MS).map_err(|error| error.code())
    }

    #[test]
    fn a_batch_without_a_reason_to_decode_is_kept_as_it_came() {
        for compression in Compression::ALL {
            let batch = batch(compression, None, NOW_MS);
            assert_eq!(run(&batch, &Rules::default()).unwrap().batch, batch);
            assert_eq!(
                run(&batch, &Rules { strict: true, ..Rules::default() }).unwrap().batch,
                batch
            );
        }
    }

    #[test]
    fn there_is_exactly_one_batch() {
        let one = batch(Compression::None, None, NOW_MS);
        let two = [&one.bytes()[..], one.bytes()].concat();
        for records in [None, Some(Bytes::new()), Some(two.into())] {
            let error = validate(records, 13, &Rules::default(), NOW_MS).unwrap_err();
            assert_eq!(error.code(), ResponseError::InvalidRecord);
        }
    }

    #[test]
    fn a_record_without_a_key_is_refused_on_a_compacted_topic_only() {
        let rules = Rules { compacted: true, ..Rules::default() };
        for compression in Compression::ALL {
            let keyless = batch(compression, None, NOW_MS);
            let error = validate(Some(keyless.bytes().clone()), 13, &rules, NOW_MS).unwrap_err();
            assert_eq!(error.code(), ResponseError::InvalidRecord);
            let indexes: Vec<_> = error.records().iter().map(|record| record.index).collect();
            assert_eq!(indexes, [0, 1, 2]);
            assert!(run(&batch(compression, Some(b"k"), NOW_MS), &rules).is_ok());
        }
    }

    #[test]
    fn a_topic_with_its_own_compression_type_gets_batches_in_it() {
        for from in Compression::ALL {
            for to in Compression::ALL {
                let rules = Rules { codec: Some(to.into()), ..Rules::default() };
                let before = batch(from, Some(b"k"), NOW_MS);
                let after = run(&before, &rules).unwrap().batch;
                assert_eq!(after.compression(), to);
                let records = |batch: &Batch| -> Vec<_> {
                    let records = batch.records(RecordLimits::default()).unwrap();
                    records.map(|record| record.unwrap().value).collect()
                };
                assert_eq!(records(&after), records(&before));
            }
        }
    }

    #[test]
    fn timestamps_outside_of_the_bounds_are_refused() {
        let rules = Rules { timestamp_before_max_ms: 1000, ..Rules::default() };
        for (timestamp_ms, accepted) in [
            (NOW_MS + 3_600_000, true),
            (NOW_MS + 3_600_001, false),
            (NOW_MS - 1000, true),
            (NOW_MS - 1001, false),
            (-1, true),
        ] {
            let result = run(&batch(Compression::None, None, timestamp_ms), &rules);
            let expected = if accepted { Ok(()) } else { Err(ResponseError::InvalidTimestamp) };
            assert_eq!(result.map(drop), expected, "{timestamp_ms}");
        }
        let rules = Rules { timestamp_type: TimestampType::LogAppendTime, ..rules };
        let validated = run(&batch(Compression::None, None, 5), &rules).unwrap();
        assert_eq!(validated.log_append_time_ms, Some(NOW_MS));
    }

    #[test]
    fn a_missing_maximum_timestamp_is_found_in_the_records() {
        let batch = batch(Compression::Zstd, None, NOW_MS);
        let without = with_max_timestamp(&batch, -1);
        assert_eq!(run(&without, &Rules::default()).unwrap().batch, batch);
    }

    #[test]
    fn the_size_limit_is_of_the_stored_batch() {
        let compressed = batch(Compression::Zstd, None, NOW_MS);
        let limit = compressed.size_bytes();
        let rules = |limit, codec| Rules { max_message_bytes: limit, codec, ..Rules::default() };
        assert!(run(&compressed, &rules(limit, None)).is_ok());
        let refused = Err(ResponseError::MessageTooLarge);
        assert_eq!(run(&compressed, &rules(limit - 1, None)), refused);
        let plain = Some(Codec::from(Compression::None));
        assert_eq!(run(&compressed, &rules(limit, plain)), refused);
    }
}
