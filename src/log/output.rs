//! A compacted segment while it is written, in `.cleaned` files beside the log's own.

use std::{collections::BTreeSet, io, io::IoSlice, sync::Arc};

use super::{
    clean::Outcome,
    compaction::header_of,
    config::LogConfig,
    dir::{Dir, File, Open},
    error::{LogError, Operation},
    partition::Log,
    segment::{AbortedTxn, Kind, Segment, path},
};
use crate::{base::Offset, protocol::batch::Batch};

/// Output that is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;

/// The segment that is being written.
pub(super) struct Output {
    log: Arc<Log>,
    config: Arc<LogConfig>,
    segment: Segment,
    files: [Arc<dyn File>; 4],
    buffer: Vec<u8>,
    written_bytes: u64,
    changed: bool,
    /// Where the markers are that were kept.
    markers: BTreeSet<Offset>,
}

impl Output {
    /// None where the log is gone.
    pub(super) fn begin(
        log: &Arc<Log>,
        base: Offset,
        config: &Arc<LogConfig>,
    ) -> Result<Option<Self>, LogError> {
        let mut files = Vec::with_capacity(4);
        for cleaned in cleaned(log, base) {
            let open = |dir: &dyn Dir| dir.open(&cleaned, Open::Truncated);
            files.extend(log.disk.run_optional(Operation::Open, &cleaned, open)?);
        }
        let Ok(files) = <[Arc<dyn File>; 4]>::try_from(files) else { return Ok(None) };
        Ok(Some(Self {
            log: Arc::clone(log),
            config: Arc::clone(config),
            segment: Segment::empty(&log.disk, &log.name, base),
            files,
            buffer: Vec::new(),
            written_bytes: 0,
            changed: false,
            markers: BTreeSet::new(),
        }))
    }

    pub(super) const fn base(&self) -> Offset {
        self.segment.base
    }

    /// What has been written so far.
    pub(super) const fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Whether it differs from what was read.
    pub(super) const fn changed(&self) -> bool {
        self.changed
    }

    pub(super) fn keeps_marker(&self, at: Offset) -> bool {
        self.markers.contains(&at)
    }

    pub(super) fn take(&mut self, batch: &Batch, outcome: Outcome) -> Result<(), LogError> {
        self.changed |= outcome != Outcome::Kept;
        let bytes = match outcome {
            Outcome::Kept => batch.bytes().clone(),
            Outcome::Replaced(bytes) => bytes,
            Outcome::Dropped => return Ok(()),
        };
        let header = header_of(&bytes);
        if header.is_control() {
            self.markers.insert(header.base_offset);
        }
        self.segment.publish(&header, Log::limits(&self.config));
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn failed(&self, operation: Operation, error: io::Error) -> LogError {
        self.log.disk.failed(operation, &self.segment.path(Kind::Log), error)
    }

    fn write(&mut self) -> Result<(), LogError> {
        self.log.disk.check()?;
        self.files[0]
            .write_at(self.written_bytes, &mut [IoSlice::new(&self.buffer)])
            .map_err(|error| self.failed(Operation::Write, error))?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left and makes all of it durable.
    pub(super) fn finish(
        mut self,
        aborted: &[AbortedTxn],
    ) -> Result<(Segment, [Arc<dyn File>; 4]), LogError> {
        self.write()?;
        let [_, index, times, txns] = &self.files;
        self.segment
            .write_indexes_to(&**index, &**times, (&**txns, aborted))
            .map_err(|error| self.failed(Operation::Write, error))?;
        for file in &self.files {
            file.sync_data().map_err(|error| self.failed(Operation::Sync, error))?;
        }
        Ok((self.segment, self.files))
    }
}

fn cleaned(log: &Log, base: Offset) -> impl Iterator<Item = String> {
    Kind::ALL
        .into_iter()
        .map(move |kind| format!("{}.cleaned", path(&log.name, base, kind.suffix())))
}

/// Removes the files of an output that nobody needs.
pub(super) fn remove_cleaned(log: &Log, base: Offset) -> Result<(), LogError> {
    for cleaned in cleaned(log, base) {
        log.disk.run(Operation::Remove, &cleaned, |dir| dir.remove_file(&cleaned))?;
    }
    Ok(())
}
