//! The seam between the log and the disk: a directory tree and the files in it.
//!
//! [`StdDir`](super::StdDir) is the machine's file system, [`SimDir`](super::SimDir) one in memory
//! that loses and tears what was not synced. Paths are relative to the directory, parts separated
//! by `/`. Everything blocks; callers decide where it runs.

use std::{fmt, io, io::IoSlice, os::fd::BorrowedFd, sync::Arc};

/// Whether opening a file may bring it into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// The file must exist; it is opened for reading and writing.
    Existing,
    /// The file is created where it does not exist.
    OrCreate,
    /// The file is created, or emptied where it exists.
    Truncated,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The last part of its path.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
    /// A file's length; 0 for a directory.
    pub len_bytes: u64,
}

/// Room on the volume that holds a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The volume's size.
    pub total_bytes: u64,
    /// What may still be written.
    pub usable_bytes: u64,
}

/// A directory tree. A change to it survives a power cut once `sync_dir` returned for the
/// directory that holds the changed entry.
pub trait Dir: fmt::Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing.
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn File>>;
    /// Makes a directory; its parent must exist. No error where it exists.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Moves a file over another, or a directory to a name that is free.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. No error where there is none. Handles that are open stay readable.
    fn remove_file(&self, path: &str) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir(&self, path: &str) -> io::Result<()>;
    /// The entries of a directory (`""` is the root), ordered by name.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;
    /// Makes the entries of a directory survive a power cut.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Makes everything in the directory, as it is now, survive a power cut.
    fn sync_all(&self) -> io::Result<()>;
    /// Claims the directory for this process, until the returned value is dropped.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;
    /// Room on the volume.
    fn space(&self) -> io::Result<Space>;
    /// The absolute path, as an operator knows it.
    fn location(&self) -> String;
}

/// An open file, at positions of the caller's choice.
pub trait File: fmt::Debug + Send + Sync + 'static {
    /// Writes all of `parts` one after the other from `position` on, in one call to the system
    /// where it takes that much.
    fn write_at(&self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Reads until `buffer` is full or the file ends; returns how much was read.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// The file's length.
    fn len_bytes(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;
    /// Makes the file's content, as it is now, survive a power cut.
    fn sync_data(&self) -> io::Result<()>;
    /// Whether a read of `length` bytes from `position` on would probably not wait for a disk.
    fn is_cached(&self, position: u64, length: usize) -> bool;
    /// The descriptor, for `sendfile`; none in the simulation.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Holds a directory for one process; dropping it lets go.
pub trait Lock: fmt::Debug + Send + Sync {}

/// Reads exactly `buffer.len()` bytes.
pub(crate) fn read_exact_at(file: &dyn File, position: u64, buffer: &mut [u8]) -> io::Result<()> {
    if file.read_at(position, buffer)? == buffer.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Reads a whole small file.
pub(crate) fn read_all(dir: &dyn Dir, path: &str) -> io::Result<Vec<u8>> {
    let file = dir.open(path, Open::Existing)?;
    let len = usize::try_from(file.len_bytes()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; len];
    let read = file.read_at(0, &mut content)?;
    content.truncate(read);
    Ok(content)
}

/// Replaces a small file so that after a power cut either the old or the new content is there.
pub(crate) fn replace(dir: &dyn Dir, path: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let file = dir.open(&temporary, Open::Truncated)?;
    file.write_at(0, &mut [IoSlice::new(content)])?;
    file.sync_data()?;
    dir.rename(&temporary, path)?;
    dir.sync_dir(parent(path))
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
