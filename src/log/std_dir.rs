//! The machine's file system behind the [`Dir`] seam.

use std::{
    fs, io,
    io::IoSlice,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FlockOperation;

use super::dir::{Dir, Entry, File, Lock, Open, Space};

/// The most parts that one vectored write takes on Linux.
const MAX_PARTS: usize = 1024;
/// The distance of pages that are looked up in the page cache for a larger range.
const PROBE_STEP_BYTES: usize = 128 << 10;

/// A directory of the machine's file system.
#[derive(Debug)]
pub struct StdDir {
    root: PathBuf,
}

impl StdDir {
    /// The directory at `root`, made with its parents where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made or resolved.
    pub fn create(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self { root: root.canonicalize()? })
    }

    /// The directory at `root`, whether it is there or not.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Dir for StdDir {
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(open != Open::Existing)
            .truncate(open == Open::Truncated)
            .open(self.path(path))?;
        Ok(Arc::new(StdFile(file)))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        match fs::create_dir(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir_all(self.path(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(path))? {
            let entry = entry?;
            // Nothing of ours has a name that is not UTF-8.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_dir = entry.file_type()?.is_dir();
            let len_bytes = if is_dir { 0 } else { entry.metadata()?.len() };
            entries.push(Entry { name, is_dir, len_bytes });
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        fs::File::open(self.path(path))?.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        // One commit of the file system's journal instead of one for each file.
        Ok(rustix::fs::syncfs(fs::File::open(&self.root)?)?)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        let path = self.root.join(".lock");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(StdLock { _file: file }))
    }

    fn space(&self) -> io::Result<Space> {
        let volume = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            total_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
            usable_bytes: volume.f_bavail.saturating_mul(volume.f_frsize),
        })
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }
}

#[derive(Debug)]
struct StdLock {
    _file: fs::File,
}

impl Lock for StdLock {}

#[derive(Debug)]
struct StdFile(fs::File);

impl File for StdFile {
    fn write_at(&self, mut position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut rest = parts;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(MAX_PARTS)];
            match rustix::io::pwritev(&self.0, some, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_at(&self, mut position: u64, mut buffer: &mut [u8]) -> io::Result<usize> {
        let mut total = 0;
        while !buffer.is_empty() {
            match self.0.read_at(buffer, position) {
                Ok(0) => break,
                Ok(read) => {
                    total += read;
                    position += read as u64;
                    buffer = &mut buffer[read..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn is_cached(&self, position: u64, length: usize) -> bool {
        let end = position + length as u64;
        let probes = (position..end).step_by(PROBE_STEP_BYTES).chain(end.checked_sub(1));
        probes.into_iter().all(|position| is_cached(&self.0, position))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// Whether the page at `position` is in the page cache. Yes where the system cannot tell.
#[cfg(target_os = "linux")]
fn is_cached(file: &fs::File, position: u64) -> bool {
    let mut byte = [0];
    let buffers = &mut [io::IoSliceMut::new(&mut byte)];
    let read = rustix::io::preadv2(file, buffers, position, rustix::io::ReadWriteFlags::NOWAIT);
    read != Err(rustix::io::Errno::AGAIN)
}

#[cfg(not(target_os = "linux"))]
fn is_cached(_: &fs::File, _: u64) -> bool {
    true
}
