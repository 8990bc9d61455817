//! What a file holds, and what of it a power cut would leave.
//!
//! The bytes as they are lie in a file of their own, an object. What was there at the last sync is
//! kept beside it, page by page, as far as it was changed since. So an append costs a length, a
//! sync forgets, and a power cut puts back.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rand::{RngExt as _, rngs::StdRng};

/// What survives or is lost as a whole, except where a write was torn.
const PAGE_BYTES: u64 = 4_096;
/// What a disk writes at once.
const SECTOR_BYTES: u64 = 512;

/// The bytes of a file.
#[derive(Debug)]
pub(super) struct Content {
    object: File,
    path: PathBuf,
    len_bytes: u64,
    /// How long it was at the last sync.
    synced_bytes: u64,
    /// What was synced of pages that were changed since, by their number.
    changed: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let object =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self { object, path, len_bytes: 0, synced_bytes: 0, changed: BTreeMap::new() })
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Where the bytes lie.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Up to `size` bytes; fewer at the end.
    pub(super) fn read(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let left = self.len_bytes.saturating_sub(offset);
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(size);
        let mut bytes = vec![0; size];
        self.object.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.keep(offset, offset + bytes.len() as u64)?;
        self.object.write_all_at(bytes, offset)?;
        self.len_bytes = self.len_bytes.max(offset + bytes.len() as u64);
        Ok(())
    }

    pub(super) fn set_len(&mut self, len_bytes: u64) -> io::Result<()> {
        self.keep(len_bytes, self.synced_bytes)?;
        self.object.set_len(len_bytes)?;
        self.len_bytes = len_bytes;
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        self.synced_bytes = self.len_bytes;
        self.changed.clear();
    }

    /// Sets what is synced aside, before the bytes from `from` to `to` are changed.
    fn keep(&mut self, from: u64, to: u64) -> io::Result<()> {
        let to = to.min(self.synced_bytes);
        if from >= to {
            return Ok(());
        }
        for page in from / PAGE_BYTES..to.div_ceil(PAGE_BYTES) {
            if self.changed.contains_key(&page) {
                continue;
            }
            let start = page * PAGE_BYTES;
            // Pages behind the end were cut off since, and set aside by whatever did that.
            let end = self.synced_bytes.min(start + PAGE_BYTES);
            let mut bytes = vec![0; (end - start) as usize];
            self.object.read_exact_at(&mut bytes, start)?;
            self.changed.insert(page, bytes);
        }
        Ok(())
    }

    /// Loses what was not synced; with `torn`, only some of it, by lot.
    pub(super) fn lose(&mut self, torn: Option<&mut StdRng>) -> io::Result<()> {
        let len_bytes = match torn {
            None => self.put_back(|_| false)?,
            Some(rng) => self.tear(rng)?,
        };
        self.object.set_len(len_bytes)?;
        self.len_bytes = len_bytes;
        self.sync();
        Ok(())
    }

    /// Puts back what is not kept of the changed pages. Returns how long the file then is.
    fn put_back(&mut self, mut survives: impl FnMut(u64) -> bool) -> io::Result<u64> {
        // A file that was cut has its former length again, unless what was cut stays away.
        if self.len_bytes < self.synced_bytes {
            self.object.set_len(self.synced_bytes)?;
        }
        for (page, bytes) in &self.changed {
            if !survives(*page) {
                self.object.write_all_at(bytes, page * PAGE_BYTES)?;
            }
        }
        Ok(self.synced_bytes)
    }

    /// Of what was appended, either all up to some sector survives, or some pages do, and those
    /// between them are empty, as where the disk wrote them in another order.
    fn tear(&mut self, rng: &mut StdRng) -> io::Result<u64> {
        let (from, to) = (self.synced_bytes, self.len_bytes);
        let synced = self.put_back(|_| rng.random_bool(0.5))?;
        if to <= from {
            return Ok(synced);
        }
        if rng.random_bool(0.5) {
            let end = from + rng.random_range(0..=to - from);
            let end = if end == to { to } else { end / SECTOR_BYTES * SECTOR_BYTES };
            return Ok(end.max(from));
        }
        let mut end = from;
        for page in from / PAGE_BYTES..to.div_ceil(PAGE_BYTES) {
            let start = (page * PAGE_BYTES).max(from);
            let stop = to.min((page + 1) * PAGE_BYTES);
            if rng.random_bool(0.5) {
                end = stop;
            } else {
                self.object.write_all_at(&vec![0; (stop - start) as usize], start)?;
            }
        }
        Ok(end)
    }

    /// Flips one bit of what is there. Returns where, if there is any.
    pub(super) fn flip_bit(&mut self, rng: &mut StdRng) -> io::Result<Option<u64>> {
        if self.len_bytes == 0 {
            return Ok(None);
        }
        let at = rng.random_range(0..self.len_bytes);
        let mut byte = [0];
        self.object.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << rng.random_range(0..8);
        self.object.write_all_at(&byte, at)?;
        Ok(Some(at))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn with(bytes: &[u8]) -> (tempfile::TempDir, Content) {
        let directory = tempfile::tempdir().unwrap();
        let mut content = Content::create(directory.path().join("1")).unwrap();
        content.write(0, bytes).unwrap();
        (directory, content)
    }

    fn all(content: &Content) -> Vec<u8> {
        content.read(0, usize::MAX).unwrap()
    }

    #[test]
    fn what_was_not_synced_is_lost_and_nothing_else() {
        let (_directory, mut content) = with(&[1; 10_000]);
        content.sync();
        content.write(9_000, &[2; 5_000]).unwrap();
        content.write(0, &[3]).unwrap();
        assert_eq!((all(&content)[0], all(&content).len()), (3, 14_000));
        content.lose(None).unwrap();
        assert_eq!(all(&content), [1; 10_000]);
        content.write(10_000, &[4; 3]).unwrap();
        content.sync();
        content.lose(None).unwrap();
        assert_eq!(all(&content).len(), 10_003);
    }

    #[test]
    fn a_cut_that_was_not_synced_is_undone() {
        let (_directory, mut content) = with(&[1; 10_000]);
        content.sync();
        content.set_len(100).unwrap();
        content.set_len(0).unwrap();
        content.write(0, &[2; 6_000]).unwrap();
        content.lose(None).unwrap();
        assert_eq!(all(&content), [1; 10_000]);
        content.set_len(5_000).unwrap();
        content.sync();
        content.lose(None).unwrap();
        assert_eq!(all(&content), [1; 5_000]);
    }

    #[test]
    fn what_is_torn_keeps_all_that_was_synced() {
        let mut lengths = std::collections::BTreeSet::new();
        let (mut holes, mut whole) = (0, 0);
        for seed in 0..200 {
            let (_directory, mut content) = with(&[1; 5_000]);
            content.sync();
            content.write(5_000, &[2; 20_000]).unwrap();
            content.lose(Some(&mut StdRng::seed_from_u64(seed))).unwrap();
            let left = all(&content);
            assert_eq!(left[..5_000], [1; 5_000]);
            assert!(left.len() <= 25_000);
            lengths.insert(left.len());
            holes += u32::from(left.contains(&0));
            whole += u32::from(!left.contains(&0));
        }
        assert!(lengths.len() > 20 && holes > 20 && whole > 20, "{lengths:?} {holes} {whole}");
    }

    #[test]
    fn one_bit_flips() {
        let (_directory, mut content) = with(&[0; 1_000]);
        let at = content.flip_bit(&mut StdRng::seed_from_u64(1)).unwrap().unwrap();
        let left = all(&content);
        assert_eq!(left.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_ne!(left[at as usize], 0);
    }
}
