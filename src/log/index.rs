//! Sparse indexes in Kafka's format: entries of fixed size in the order of offsets.
//!
//! An index is not held in memory: a lookup searches the file by positional reads, a block at a
//! time. Only the newest entries wait in memory until enough have gathered to be worth a write.
//! That is safe, as recovery rebuilds the indexes of every segment that may have lost any.

use std::io::IoSlice;

use super::{dir::File, error::Damage};

/// Entries that wait in memory before they are written.
const MAX_PENDING: usize = 128;
/// Entries read at once while searching.
const BLOCK_ENTRIES: u32 = 340;

/// An entry of an index.
pub(crate) trait IndexEntry: Copy {
    const BYTES: usize;
    fn encode(self, into: &mut Vec<u8>);
    fn decode(bytes: &[u8]) -> Self;
}

/// `.index`: a batch's last offset, relative to the segment, and where the batch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    pub(crate) relative: u32,
    pub(crate) position: u32,
}

/// `.timeindex`: the highest timestamp so far and the last offset of the batch that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub(crate) timestamp_ms: i64,
    pub(crate) relative: u32,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

impl IndexEntry for OffsetEntry {
    const BYTES: usize = 8;

    fn encode(self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.relative.to_be_bytes());
        into.extend_from_slice(&self.position.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Self {
            relative: u32::from_be_bytes(number(bytes, 0)),
            position: u32::from_be_bytes(number(bytes, 4)),
        }
    }
}

impl IndexEntry for TimeEntry {
    const BYTES: usize = 12;

    fn encode(self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        into.extend_from_slice(&self.relative.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Self {
            timestamp_ms: i64::from_be_bytes(number(bytes, 0)),
            relative: u32::from_be_bytes(number(bytes, 8)),
        }
    }
}

/// What is known in memory of one index file.
#[derive(Debug, Clone)]
pub(crate) struct SparseIndex<E> {
    /// Entries in the file.
    written: u32,
    /// Entries after those.
    pending: Vec<E>,
    last: Option<E>,
}

impl<E> Default for SparseIndex<E> {
    fn default() -> Self {
        Self { written: 0, pending: Vec::new(), last: None }
    }
}

impl<E: IndexEntry> SparseIndex<E> {
    /// An index whose file holds `len_bytes`; its last entry is read.
    pub(crate) fn load(file: &dyn File, len_bytes: u64) -> std::io::Result<Result<Self, Damage>> {
        let size = E::BYTES as u64;
        if !len_bytes.is_multiple_of(size) || len_bytes / size > u64::from(u32::MAX) {
            return Ok(Err(Damage::Format));
        }
        let written = (len_bytes / size) as u32;
        let mut index = Self { written, pending: Vec::new(), last: None };
        if written > 0 {
            index.last = read_entries(file, written - 1, 1)?.pop();
        }
        Ok(Ok(index))
    }

    pub(crate) fn len(&self) -> u32 {
        self.written + self.pending.len() as u32
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        u64::from(self.len()) * E::BYTES as u64
    }

    pub(crate) fn last(&self) -> Option<E> {
        self.last
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Adds an entry; true where enough wait that they should be written.
    pub(crate) fn push(&mut self, entry: E) -> bool {
        self.pending.push(entry);
        self.last = Some(entry);
        self.pending.len() >= MAX_PENDING
    }

    /// Writes the entries that wait.
    pub(crate) fn write(&mut self, file: &dyn File) -> std::io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.pending.len() * E::BYTES);
        for entry in &self.pending {
            entry.encode(&mut bytes);
        }
        let position = u64::from(self.written) * E::BYTES as u64;
        file.write_at(position, &mut [IoSlice::new(&bytes)])?;
        self.written += self.pending.len() as u32;
        self.pending = Vec::new();
        Ok(())
    }

    /// Keeps the first entries that satisfy `keep`, in memory and in the file.
    pub(crate) fn truncate(
        &mut self,
        file: &dyn File,
        keep: impl Fn(&E) -> bool,
    ) -> std::io::Result<()> {
        let kept = self.pending.iter().take_while(|entry| keep(entry)).count();
        self.pending.truncate(kept);
        if kept == 0 && self.written > 0 {
            self.written = partition_point(file, self.written, &keep)?;
            file.set_len(u64::from(self.written) * E::BYTES as u64)?;
        }
        self.last = match self.pending.last() {
            Some(entry) => Some(*entry),
            None if self.written > 0 => read_entries(file, self.written - 1, 1)?.pop(),
            None => None,
        };
        Ok(())
    }

    /// The last entry that satisfies `below`, which holds for a first part of all entries, and the
    /// number of entries up to it. `file` is only asked for where the answer is not in memory.
    pub(crate) fn last_where<Er>(
        &self,
        below: impl Fn(&E) -> bool,
        file: impl FnOnce() -> Result<std::sync::Arc<dyn File>, Er>,
    ) -> Result<Option<E>, Er>
    where
        Er: From<std::io::Error>,
    {
        let pending = self.pending.partition_point(&below);
        if pending > 0 {
            return Ok(Some(self.pending[pending - 1]));
        }
        if self.written == 0 {
            return Ok(None);
        }
        let file = file()?;
        let count = partition_point(&*file, self.written, &below)?;
        if count == 0 {
            return Ok(None);
        }
        Ok(read_entries(&*file, count - 1, 1)?.pop())
    }
}

/// How many of the first `count` entries satisfy `below`.
fn partition_point<E: IndexEntry>(
    file: &dyn File,
    count: u32,
    below: &impl Fn(&E) -> bool,
) -> std::io::Result<u32> {
    let (mut low, mut high) = (0, count);
    while high - low > BLOCK_ENTRIES {
        let middle = low + (high - low) / 2;
        // A file that was cut meanwhile ends the search early; what is found then is still true.
        match read_entries::<E>(file, middle, 1)?.pop() {
            Some(entry) if below(&entry) => low = middle + 1,
            _ => high = middle,
        }
    }
    let block = read_entries::<E>(file, low, high - low)?;
    Ok(low + block.partition_point(below) as u32)
}

fn read_entries<E: IndexEntry>(file: &dyn File, first: u32, count: u32) -> std::io::Result<Vec<E>> {
    let mut buffer = vec![0; count as usize * E::BYTES];
    let read = file.read_at(u64::from(first) * E::BYTES as u64, &mut buffer)?;
    Ok(buffer[..read].chunks_exact(E::BYTES).map(E::decode).collect())
}
