//! Walks over the batches of a segment by their headers.

use std::{io, sync::Arc};

use super::{
    dir::File,
    disk::Disk,
    error::{Damage, LogError, Operation},
    header,
};
use crate::protocol::batch::{HEADER_BYTES, Header};

/// Enough for the headers of several small batches, or of one large one.
const HEADERS_BYTES: usize = 4096;
/// Whole batches are read in at least this much.
const BATCHES_BYTES: usize = 128 << 10;

/// A batch and where it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) position: u64,
    pub(crate) header: Header,
}

/// Why a walk ended early.
#[derive(Debug)]
pub(crate) enum ScanFailure {
    Io(io::Error),
    Damaged { position: u64, damage: Damage },
}

impl ScanFailure {
    pub(crate) fn into_error(self, disk: &Disk, path: &str) -> LogError {
        match self {
            Self::Io(error) => disk.failed(Operation::Read, path, error),
            // The caller knows whether a truncation explains it; if not it fails the disk.
            Self::Damaged { position, damage } => {
                LogError::Corrupt { path: disk.absolute(path), position, damage }
            }
        }
    }
}

/// Yields headers until the end or the first failure.
#[derive(Debug)]
pub(crate) struct Scan {
    file: Arc<dyn File>,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    buffered_at: u64,
    failed: bool,
}

impl Scan {
    pub(crate) fn new(file: Arc<dyn File>, position: u64, end: u64) -> Self {
        Self { file, position, end, buffer: Vec::new(), buffered_at: 0, failed: false }
    }

    /// `len` bytes at `position`, read ahead by up to `ahead`.
    fn bytes(&mut self, position: u64, len: usize, ahead: usize) -> Result<&[u8], ScanFailure> {
        let torn = ScanFailure::Damaged { position: self.position, damage: Damage::Torn };
        if position + len as u64 > self.end {
            return Err(torn);
        }
        let buffered = self.buffered_at..self.buffered_at + self.buffer.len() as u64;
        if position < buffered.start || position + len as u64 > buffered.end {
            let wanted = (len.max(ahead) as u64).min(self.end - position) as usize;
            self.buffer.resize(wanted, 0);
            self.buffered_at = position;
            let read = self.file.read_at(position, &mut self.buffer).map_err(ScanFailure::Io)?;
            self.buffer.truncate(read);
            if read < len {
                return Err(torn);
            }
        }
        let start = (position - self.buffered_at) as usize;
        Ok(&self.buffer[start..start + len])
    }

    fn header(&mut self, ahead: usize) -> Result<Found, ScanFailure> {
        let position = self.position;
        let header = header::parse(self.bytes(position, HEADER_BYTES, ahead)?)
            .map_err(|damage| ScanFailure::Damaged { position, damage })?;
        let next = position + header.size_bytes() as u64;
        if next > self.end {
            return Err(ScanFailure::Damaged { position, damage: Damage::Torn });
        }
        Ok(Found { position, header })
    }

    /// The next batch whole, its CRC checked; none at the end.
    pub(crate) fn next_batch(&mut self) -> Result<Option<(Found, &[u8])>, ScanFailure> {
        if self.position >= self.end || self.failed {
            return Ok(None);
        }
        let found = self.header(BATCHES_BYTES)?;
        let (position, len) = (found.position, found.header.size_bytes());
        self.bytes(position, len, BATCHES_BYTES)?;
        let start = (position - self.buffered_at) as usize;
        let checked = found.header.check_crc(&self.buffer[start..start + len]);
        checked.map_err(|error| ScanFailure::Damaged { position, damage: error.into() })?;
        self.position += len as u64;
        Ok(Some((found, &self.buffer[start..start + len])))
    }
}

impl Iterator for Scan {
    type Item = Result<Found, ScanFailure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.end || self.failed {
            return None;
        }
        let found = self.header(HEADERS_BYTES);
        match &found {
            Ok(found) => self.position += found.header.size_bytes() as u64,
            Err(_) => self.failed = true,
        }
        Some(found)
    }
}
