//! From a topic's settings to the rules that a produced batch must keep.

use bytes::Bytes;

use super::{coordinators, error::WireError};
use crate::{
    config::{self, CompressionType, TopicConfig},
    protocol::{
        batch::TimestampType,
        compression::{Codec, Compression},
        validate::{Rejected, Rules, validate},
    },
};

/// Checks what a Produce request brought for one partition; converts it where the topic asks.
pub(super) fn produced(
    records: Option<Bytes>,
    version: i16,
    config: &TopicConfig,
    now_ms: i64,
) -> Result<Bytes, WireError> {
    let batch = validate(records, version, &rules(config), now_ms)?.batch;
    if batch.is_transactional() {
        // Nobody would ever end the transaction, and readers of committed records wait for that.
        return Err(coordinators::no_transactions());
    }
    Ok(batch.bytes().clone())
}

fn rules(config: &TopicConfig) -> Rules {
    Rules {
        max_message_bytes: usize::try_from(config.max_message_bytes).unwrap_or(0),
        timestamp_type: match config.message_timestamp_type {
            config::TimestampType::CreateTime => TimestampType::CreateTime,
            config::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: config.message_timestamp_before_max_ms,
        timestamp_after_max_ms: config.message_timestamp_after_max_ms,
        compacted: config.cleanup_policy.compact,
        codec: codec(config),
        ..Rules::default()
    }
}

/// What stored batches are compressed with; `None` where the producer decides.
fn codec(config: &TopicConfig) -> Option<Codec> {
    let (compression, level) = match config.compression_type {
        CompressionType::Producer => return None,
        CompressionType::Uncompressed => (Compression::None, None),
        CompressionType::Gzip => {
            let level = config.compression_gzip_level;
            (Compression::Gzip, (level >= 0).then_some(level))
        }
        CompressionType::Snappy => (Compression::Snappy, None),
        CompressionType::Lz4 => (Compression::Lz4, Some(config.compression_lz4_level)),
        CompressionType::Zstd => (Compression::Zstd, Some(config.compression_zstd_level)),
    };
    Some(Codec { compression, level })
}

impl From<Rejected> for WireError {
    fn from(rejected: Rejected) -> Self {
        Self::new(rejected.code(), rejected.to_string())
    }
}
