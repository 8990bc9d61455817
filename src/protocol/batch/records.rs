//! Decodes the records of a batch one by one, without ever holding them all.

use std::io::Read;

use bytes::{Bytes, BytesMut};

use super::{Header, TimestampType};
use crate::{
    base::Offset,
    protocol::compression::{Compression, CompressionError, Reader},
};

/// How much is decompressed at least at a time.
const STEP_BYTES: usize = 64 * 1024;

/// What a batch's records may cost.
#[derive(Debug, Clone, Copy)]
pub struct RecordLimits {
    /// How much may come out of the decompressor.
    pub uncompressed_bytes: usize,
}

impl Default for RecordLimits {
    /// Kafka allows batches of 2 GiB; this stops bombs well before, at 256 times the default of
    /// `max.message.bytes`.
    fn default() -> Self {
        Self { uncompressed_bytes: 256 * 1024 * 1024 }
    }
}

/// Records that are not as the batch's header says, or do not decode.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The body does not decompress.
    #[error("a batch's body does not decompress")]
    Compression(#[from] CompressionError),
    /// The body ends within a record, or a length points outside of its record.
    #[error("record {index} of a batch is malformed")]
    Malformed { index: i32 },
    /// There is more in the body than the header's count.
    #[error("{bytes} or more bytes follow the last of {count} records")]
    Surplus { count: i32, bytes: usize },
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset: the batch's base offset plus its own delta.
    pub offset: Offset,
    /// Its delta from the base offset, as written.
    pub offset_delta: i32,
    /// Its own timestamp, or the batch's where the leader set it.
    pub timestamp_ms: i64,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: RecordHeaders,
    /// The record's size in the batch before compression.
    pub size_bytes: usize,
}

/// A record's headers, checked but not copied out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordHeaders {
    count: usize,
    bytes: Bytes,
}

impl RecordHeaders {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> + '_ {
        let mut cursor = Cursor(self.bytes.clone());
        (0..self.count).map_while(move |_| Some((cursor.nullable()??, cursor.nullable()?)))
    }
}

/// Iterates over a batch's records. Ends behind the first error.
///
/// After the last record that the header counts, surplus bytes are an error.
#[derive(Debug)]
pub struct Records {
    header: Header,
    source: Source,
    next: i32,
    done: bool,
}

impl Records {
    /// The records of the batch of this header, whose bytes behind it are `body`.
    ///
    /// # Errors
    /// Where the decompressor does not start.
    pub fn new(header: Header, body: Bytes, limits: RecordLimits) -> Result<Self, RecordError> {
        let source = match header.compression {
            Compression::None => Source { ready: body, reader: None },
            compression => Source {
                ready: Bytes::new(),
                reader: Some(Reader::new(compression, body, limits.uncompressed_bytes)?),
            },
        };
        Ok(Self { header, source, next: 0, done: false })
    }

    fn read(&mut self) -> Result<Option<Record>, RecordError> {
        if self.next >= self.header.count {
            self.done = true;
            let bytes = self.source.fill(1)?;
            return if bytes == 0 {
                Ok(None)
            } else {
                Err(RecordError::Surplus { count: self.header.count, bytes })
            };
        }
        let malformed = RecordError::Malformed { index: self.next };
        let (length, prefix) = {
            // A record of few bytes may be the last: fewer than a whole varint can be had.
            self.source.fill(varint::MAX_I32_BYTES)?;
            let mut cursor = Cursor(self.source.ready.clone());
            let Some(length) = cursor.varint_i32() else { return Err(malformed) };
            (length, self.source.ready.len() - cursor.0.len())
        };
        let Ok(length) = usize::try_from(length) else { return Err(malformed) };
        if self.source.fill(prefix + length)? < prefix + length {
            return Err(malformed);
        }
        let mut record = self.source.ready.split_to(prefix + length);
        let record = record.split_off(prefix);
        self.next += 1;
        let size_bytes = prefix + length;
        decode(&self.header, Cursor(record), size_bytes).map(Some).ok_or(malformed)
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.read().transpose();
        self.done |= !matches!(item, Some(Ok(_)));
        item
    }
}

fn decode(header: &Header, mut cursor: Cursor, size_bytes: usize) -> Option<Record> {
    cursor.take(1)?;
    let timestamp_delta = cursor.varint_i64()?;
    let offset_delta = cursor.varint_i32()?;
    let key = cursor.nullable()?;
    let value = cursor.nullable()?;
    let count = usize::try_from(cursor.varint_i32()?).ok()?;
    let headers = cursor.0.clone();
    // Each header takes two bytes or more, so this loop is bounded by the record's size.
    for _ in 0..count {
        cursor.nullable()??;
        cursor.nullable()?;
    }
    if !cursor.0.is_empty() {
        return None;
    }
    let timestamp_ms = match header.attributes.timestamp_type() {
        TimestampType::LogAppendTime => header.max_timestamp_ms,
        TimestampType::CreateTime => header.base_timestamp_ms.checked_add(timestamp_delta)?,
    };
    Some(Record {
        offset: Offset(header.base_offset.0.checked_add(i64::from(offset_delta))?),
        offset_delta,
        timestamp_ms,
        key,
        value,
        headers: RecordHeaders { count, bytes: headers },
        size_bytes,
    })
}

/// Bytes that are ready, and where more come from.
#[derive(Debug)]
struct Source {
    ready: Bytes,
    reader: Option<Reader>,
}

impl Source {
    /// Makes at least `wanted` bytes ready, or all there are. Returns how many are ready.
    ///
    /// Memory grows with what comes out of the decompressor, not with `wanted`.
    fn fill(&mut self, wanted: usize) -> Result<usize, CompressionError> {
        if self.ready.len() >= wanted {
            return Ok(self.ready.len());
        }
        let Some(reader) = &mut self.reader else { return Ok(self.ready.len()) };
        let mut buffer = BytesMut::with_capacity(self.ready.len() + STEP_BYTES);
        buffer.extend_from_slice(&self.ready);
        let mut ended = false;
        while !ended && buffer.len() < wanted {
            let start = buffer.len();
            buffer.resize(start + STEP_BYTES.max(start), 0);
            let read = reader.read(&mut buffer[start..]);
            let read = read.map_err(CompressionError::from_io)?;
            buffer.truncate(start + read);
            ended = read == 0;
        }
        if ended {
            self.reader = None;
        }
        self.ready = buffer.freeze();
        Ok(self.ready.len())
    }
}

/// Reads from the front of some bytes; `None` where they end.
struct Cursor(Bytes);

impl Cursor {
    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn varint_i64(&mut self) -> Option<i64> {
        let (value, length) = varint::read_i64(&self.0)?;
        let _ = self.0.split_to(length);
        Some(value)
    }

    fn varint_i32(&mut self) -> Option<i32> {
        i32::try_from(self.varint_i64()?).ok()
    }

    /// `None` where the bytes end or the length is below -1; `Some(None)` for null.
    fn nullable(&mut self) -> Option<Option<Bytes>> {
        match self.varint_i32()? {
            -1 => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }
}

/// Zigzag variable-length integers.
pub(crate) mod varint {
    /// The longest encoding of an `i32`.
    pub(crate) const MAX_I32_BYTES: usize = 5;

    /// The value at the start of `bytes` and how many bytes it took.
    pub(crate) fn read_i64(bytes: &[u8]) -> Option<(i64, usize)> {
        let mut raw = 0_u64;
        for (i, byte) in bytes.iter().take(10).enumerate() {
            raw |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Some(((raw >> 1) as i64 ^ -((raw & 1) as i64), i + 1));
            }
        }
        None
    }

    const fn zigzag(value: i64) -> u64 {
        ((value << 1) ^ (value >> 63)) as u64
    }

    /// How many bytes `value` takes.
    pub(crate) const fn size(value: i64) -> usize {
        let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
        bits.div_ceil(7)
    }

    /// Appends `value`.
    pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
        let mut raw = zigzag(value);
        while raw >= 0x80 {
            out.push(raw as u8 | 0x80);
            raw >>= 7;
        }
        out.push(raw as u8);
    }
}
