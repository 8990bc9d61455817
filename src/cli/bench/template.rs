//! Batches that are encoded before the clock starts.

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    base::HashMap,
    client::{
        ClientError, Compression, Record,
        raw::{Body, compress, put_record},
    },
};

/// Bodies of batches of 1 to [`Template::most`] equal-sized records.
///
/// A body of fewer records is the front of the longest one, so an uncompressed one is a slice; a
/// compressed one is made when it is first needed, and kept.
#[derive(Debug)]
pub(super) struct Template {
    plain: Bytes,
    /// Where each record ends.
    ends: Vec<usize>,
    codec: Compression,
    compressed: HashMap<usize, Bytes>,
}

impl Template {
    /// Records of `record_bytes`, as many as fit into `batch_bytes` but at least one.
    ///
    /// The values are letters drawn from a small alphabet, so that codecs have something to do
    /// and something to gain: about 2 to 1.
    pub(super) fn new(record_bytes: usize, batch_bytes: usize, codec: Compression) -> Self {
        let mut rng = SmallRng::seed_from_u64(42);
        let mut plain = Vec::with_capacity(batch_bytes + record_bytes + 64);
        let mut ends = Vec::new();
        loop {
            let value: Vec<u8> = (0..record_bytes).map(|_| rng.random_range(b'a'..=b'p')).collect();
            let record = Record { value: Some(value.into()), ..Record::default() };
            let delta = i32::try_from(ends.len()).unwrap_or(i32::MAX);
            put_record(&mut plain, &record, 0, delta);
            if plain.len() > batch_bytes && !ends.is_empty() {
                break;
            }
            ends.push(plain.len());
            if plain.len() > batch_bytes {
                break;
            }
        }
        Self { plain: plain.into(), ends, codec, compressed: HashMap::default() }
    }

    /// The most records that a batch holds.
    pub(super) fn most(&self) -> usize {
        self.ends.len()
    }

    /// A body of `count` records, all of this time.
    pub(super) fn body(&mut self, count: usize, timestamp_ms: i64) -> Result<Body, ClientError> {
        let plain = self.plain.slice(..self.ends[count - 1]);
        let bytes = if self.codec == Compression::None {
            plain
        } else if let Some(bytes) = self.compressed.get(&count) {
            bytes.clone()
        } else {
            let bytes = compress(&plain, self.codec, None)?;
            self.compressed.insert(count, bytes.clone());
            bytes
        };
        Ok(Body {
            bytes,
            count: i32::try_from(count).unwrap_or(i32::MAX),
            compression: self.codec,
            base_timestamp_ms: timestamp_ms,
            max_timestamp_ms: timestamp_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_batches_are_the_front_of_the_longest() {
        let mut template = Template::new(100, 1000, Compression::None);
        let most = template.most();
        assert!((8..=9).contains(&most), "{most}");
        let longest = template.body(most, 0).unwrap();
        assert!(longest.bytes.len() <= 1000);
        let shorter = template.body(3, 7).unwrap();
        assert_eq!((shorter.count, shorter.max_timestamp_ms), (3, 7));
        assert!(longest.bytes.starts_with(&shorter.bytes));
        assert_eq!(Template::new(5000, 1000, Compression::None).most(), 1);
    }
}
