//! The cluster's metadata as the state machine that the quorum replicates.

use bytes::Bytes;

use super::machine::{ApplyError, ImageWrite, Machine};
use crate::metadata::{Batch, MetadataDelta, MetadataImage};

impl Machine for MetadataImage {
    type Delta = MetadataDelta;

    fn empty() -> Self {
        Self::default()
    }

    fn load(
        applied_index: u64,
        pairs: &mut dyn Iterator<Item = (Bytes, Bytes)>,
    ) -> Result<Self, ApplyError> {
        let mut pairs = pairs.peekable();
        if pairs.peek().is_none() {
            return Ok(Self::default());
        }
        Self::load(pairs)
            .map_err(|error| ApplyError { index: applied_index, source: Box::new(error) })
    }

    fn apply(&self, index: u64, payload: &[u8]) -> Result<(Self, MetadataDelta), ApplyError> {
        let batch = Batch::decode(payload)
            .map_err(|error| ApplyError { index, source: Box::new(error) })?;
        Ok(self.apply(index, &batch))
    }

    fn writes(&self, delta: &MetadataDelta) -> Vec<ImageWrite> {
        let writes = delta.writes().into_iter();
        writes.map(|(key, value)| (key.into(), value.map(Bytes::from))).collect()
    }
}
