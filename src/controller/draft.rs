//! Records on their way to a decision: folded at once, so that later elements see earlier ones, and
//! cut into entries of a bounded size between elements.

use kafka_protocol::{ResponseError, protocol::StrBytes};

use crate::{
    controller::Decision,
    metadata::{Batch, MetadataDelta, MetadataImage, Record},
};

/// The most that an entry holds, encoded.
pub const ENTRY_MAX_BYTES: usize = (1 << 20) - 1024;
/// The most entries that a request of a user may take.
const ENTRIES_MAX: usize = 16;

/// Why an element of a request is refused: Kafka's error code and a message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {message}")]
pub struct Refusal {
    /// The code.
    pub error: ResponseError,
    /// The message.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }
}

impl From<ResponseError> for Refusal {
    fn from(error: ResponseError) -> Self {
        Self { error, message: error.to_string() }
    }
}

/// The code and message that go into a response's element.
pub(super) fn wire<T>(result: &Result<T, Refusal>) -> (i16, Option<StrBytes>) {
    match result {
        Ok(_) => (0, None),
        Err(refusal) => (refusal.error.code(), Some(refusal.message.clone().into())),
    }
}

/// A decision in the making.
#[derive(Debug)]
pub(super) struct Draft {
    delta: MetadataDelta,
    version: i32,
    batches: Vec<Batch>,
    open: Vec<Record>,
    open_bytes: usize,
}

impl Draft {
    pub(super) fn new(image: &MetadataImage) -> Self {
        Self {
            delta: MetadataDelta::new(image),
            version: image.metadata_version(),
            batches: Vec::new(),
            open: Vec::new(),
            open_bytes: 0,
        }
    }

    /// The image with all that was added.
    pub(super) const fn image(&self) -> &MetadataImage {
        self.delta.after()
    }

    /// The index of the next entry after those of this draft, as far as this node knows.
    pub(super) fn next_index(&self) -> u64 {
        let open = u64::from(!self.open.is_empty());
        self.image().applied_index() + self.batches.len() as u64 + open + 1
    }

    /// Adds the records of one element, which stay together.
    ///
    /// # Errors
    /// POLICY_VIOLATION where they fit no entry, or the request takes too many.
    pub(super) fn add(&mut self, records: Vec<Record>) -> Result<(), Refusal> {
        if records.is_empty() {
            return Ok(());
        }
        let batch = Batch { metadata_version: self.version, records };
        let size_bytes = batch.encoded_len();
        let full = self.open_bytes + size_bytes > ENTRY_MAX_BYTES;
        if size_bytes > ENTRY_MAX_BYTES || (full && self.batches.len() + 1 >= ENTRIES_MAX) {
            let message = "Unable to perform excessively large batch operation.";
            return Err(Refusal::new(ResponseError::PolicyViolation, message));
        }
        self.push(batch, size_bytes);
        Ok(())
    }

    /// Adds a record that stands alone, in as many entries as it takes.
    pub(super) fn add_alone(&mut self, record: impl Into<Record>) {
        let batch = Batch { metadata_version: self.version, records: vec![record.into()] };
        let size_bytes = batch.encoded_len();
        self.push(batch, size_bytes);
    }

    fn push(&mut self, batch: Batch, size_bytes: usize) {
        if self.open_bytes + size_bytes > ENTRY_MAX_BYTES {
            self.close();
        }
        self.open_bytes += size_bytes;
        for record in &batch.records {
            self.delta.fold(record);
        }
        self.open.extend(batch.records);
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let records = std::mem::take(&mut self.open);
            self.batches.push(Batch { metadata_version: self.version, records });
        }
        self.open_bytes = 0;
    }

    pub(super) fn decide<R>(mut self, response: R) -> Decision<R> {
        self.close();
        Decision { batches: self.batches, response }
    }
}
