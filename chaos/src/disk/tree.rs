//! A disk's files and directories, and what of them a power cut would leave.
//!
//! A name counts as synced once its directory was synced, and bytes once their file was: one is not
//! the other, as POSIX has it. So what a node forgets to sync is lost, also where the file system
//! of the day would have kept it.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use rustix::io::Errno;

use super::content::Content;

/// The root directory.
pub(super) const ROOT: u64 = 1;

type Names = BTreeMap<OsString, u64>;

/// A directory.
#[derive(Debug, Default)]
struct Directory {
    names: Names,
    synced: Names,
    /// Each change since the last sync, in order: names, and what they stand for.
    changes: Vec<Vec<(OsString, Option<u64>)>>,
}

#[derive(Debug)]
enum Kind {
    Directory(Directory),
    File(Content),
}

#[derive(Debug)]
struct Inode {
    kind: Kind,
    /// How many names stand for it, now and as of the last syncs.
    named: [u32; 2],
    opened: u32,
    modified: SystemTime,
}

/// What is known of a file or directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) inode: u64,
    pub(super) is_directory: bool,
    pub(super) len_bytes: u64,
    pub(super) modified: SystemTime,
}

/// All files of a disk.
#[derive(Debug)]
pub(super) struct Tree {
    objects: PathBuf,
    inodes: BTreeMap<u64, Inode>,
    /// Numbers are never given out twice, so that nothing the kernel remembers of a former life
    /// leads to a file of this one.
    next: u64,
}

impl Tree {
    /// An empty disk that keeps its bytes in `objects`.
    pub(super) fn create(objects: &Path) -> io::Result<Self> {
        fs::create_dir_all(objects)?;
        let mut tree = Self { objects: objects.to_owned(), inodes: BTreeMap::new(), next: ROOT };
        tree.insert(Kind::Directory(Directory::default()));
        Ok(tree)
    }

    fn insert(&mut self, kind: Kind) -> u64 {
        let inode = self.next;
        self.next += 1;
        let modified = SystemTime::UNIX_EPOCH;
        self.inodes.insert(inode, Inode { kind, named: [0; 2], opened: 0, modified });
        inode
    }

    fn directory(&mut self, inode: u64) -> io::Result<&mut Directory> {
        match self.inodes.get_mut(&inode).map(|inode| &mut inode.kind) {
            Some(Kind::Directory(directory)) => Ok(directory),
            Some(Kind::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::STALE.into()),
        }
    }

    fn file(&mut self, inode: u64) -> io::Result<&mut Content> {
        match self.inodes.get_mut(&inode).map(|inode| &mut inode.kind) {
            Some(Kind::File(content)) => Ok(content),
            Some(Kind::Directory(_)) => Err(Errno::ISDIR.into()),
            None => Err(Errno::STALE.into()),
        }
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &OsStr) -> io::Result<Attributes> {
        let found = self.directory(parent)?.names.get(name).copied();
        self.attributes(found.ok_or(Errno::NOENT)?)
    }

    pub(super) fn attributes(&self, inode: u64) -> io::Result<Attributes> {
        let Inode { kind, modified, .. } = self.inodes.get(&inode).ok_or(Errno::STALE)?;
        let (is_directory, len_bytes) = match kind {
            Kind::Directory(_) => (true, 0),
            Kind::File(content) => (false, content.len_bytes()),
        };
        Ok(Attributes { inode, is_directory, len_bytes, modified: *modified })
    }

    pub(super) fn make(
        &mut self,
        parent: u64,
        name: &OsStr,
        is_directory: bool,
    ) -> io::Result<Attributes> {
        if self.directory(parent)?.names.contains_key(name) {
            return Err(Errno::EXIST.into());
        }
        let kind = if is_directory {
            Kind::Directory(Directory::default())
        } else {
            Kind::File(Content::create(self.objects.join(self.next.to_string()))?)
        };
        let inode = self.insert(kind);
        self.change(parent, vec![(name.to_owned(), Some(inode))])?;
        self.attributes(inode)
    }

    pub(super) fn remove(
        &mut self,
        parent: u64,
        name: &OsStr,
        is_directory: bool,
    ) -> io::Result<()> {
        let found = self.lookup(parent, name)?;
        match (found.is_directory, is_directory) {
            (true, false) => return Err(Errno::ISDIR.into()),
            (false, true) => return Err(Errno::NOTDIR.into()),
            (true, true) if !self.directory(found.inode)?.names.is_empty() => {
                return Err(Errno::NOTEMPTY.into());
            }
            _ => {}
        }
        self.change(parent, vec![(name.to_owned(), None)])
    }

    pub(super) fn rename(
        &mut self,
        [from, to]: [(u64, &OsStr); 2],
        replace: bool,
    ) -> io::Result<()> {
        let moved = self.lookup(from.0, from.1)?;
        if let Some(target) = self.directory(to.0)?.names.get(to.1).copied() {
            if target == moved.inode {
                return Ok(());
            }
            if !replace {
                return Err(Errno::EXIST.into());
            }
            if let Kind::Directory(directory) = &self.inodes[&target].kind
                && !directory.names.is_empty()
            {
                return Err(Errno::NOTEMPTY.into());
            }
        }
        let gone = (from.1.to_owned(), None);
        let here = (to.1.to_owned(), Some(moved.inode));
        if from.0 == to.0 {
            return self.change(from.0, vec![gone, here]);
        }
        // It must be in one of them at least, as a journal sees to; none of a node's files moves
        // so, so both are synced at once.
        self.change(to.0, vec![here])?;
        self.change(from.0, vec![gone])?;
        self.sync_directory(to.0)?;
        self.sync_directory(from.0)
    }

    /// Changes what names of a directory stand for.
    fn change(&mut self, directory: u64, changes: Vec<(OsString, Option<u64>)>) -> io::Result<()> {
        let mut counts = Vec::new();
        let names = &mut self.directory(directory)?.names;
        for (name, stands_for) in &changes {
            let before = match stands_for {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
            counts.extend(stands_for.map(|inode| (inode, 1)));
            counts.extend(before.map(|inode| (inode, -1)));
        }
        self.directory(directory)?.changes.push(changes);
        self.count(0, &counts)
    }

    /// Counts names, and forgets what has none and is not open.
    fn count(&mut self, which: usize, changes: &[(u64, i32)]) -> io::Result<()> {
        for (inode, by) in changes {
            if let Some(inode) = self.inodes.get_mut(inode) {
                inode.named[which] = inode.named[which].saturating_add_signed(*by);
            }
        }
        for (inode, _) in changes {
            self.forget_if_unused(*inode)?;
        }
        Ok(())
    }

    fn forget_if_unused(&mut self, inode: u64) -> io::Result<()> {
        let unused = |it: &Inode| it.named == [0; 2] && it.opened == 0;
        if inode != ROOT
            && self.inodes.get(&inode).is_some_and(unused)
            && let Some(Inode { kind: Kind::File(content), .. }) = self.inodes.remove(&inode)
        {
            content.remove()?;
        }
        Ok(())
    }

    /// The names in a directory.
    pub(super) fn names(&mut self, inode: u64) -> io::Result<Vec<(OsString, Attributes)>> {
        let names = self.directory(inode)?.names.clone();
        names.into_iter().map(|(name, inode)| Ok((name, self.attributes(inode)?))).collect()
    }

    pub(super) fn open(&mut self, inode: u64) -> io::Result<()> {
        self.inodes.get_mut(&inode).ok_or(Errno::STALE)?.opened += 1;
        Ok(())
    }

    pub(super) fn close(&mut self, inode: u64) -> io::Result<()> {
        // One that was open at a power cut is not there any more.
        let Some(it) = self.inodes.get_mut(&inode) else { return Ok(()) };
        it.opened = it.opened.saturating_sub(1);
        self.forget_if_unused(inode)
    }

    pub(super) fn read(&mut self, inode: u64, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        self.file(inode)?.read(offset, size)
    }

    pub(super) fn write(
        &mut self,
        inode: u64,
        offset: u64,
        bytes: &[u8],
        now: SystemTime,
    ) -> io::Result<()> {
        self.file(inode)?.write(offset, bytes)?;
        self.touch(inode, now);
        Ok(())
    }

    pub(super) fn set_len(
        &mut self,
        inode: u64,
        len_bytes: u64,
        now: SystemTime,
    ) -> io::Result<()> {
        self.file(inode)?.set_len(len_bytes)?;
        self.touch(inode, now);
        Ok(())
    }

    fn touch(&mut self, inode: u64, now: SystemTime) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.modified = now;
        }
    }

    /// Makes a file's bytes last.
    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        match &mut self.inodes.get_mut(&inode).ok_or(Errno::STALE)?.kind {
            Kind::File(content) => content.sync(),
            Kind::Directory(_) => self.sync_directory(inode)?,
        }
        Ok(())
    }

    /// Makes a directory's names last.
    pub(super) fn sync_directory(&mut self, inode: u64) -> io::Result<()> {
        let directory = self.directory(inode)?;
        if directory.changes.is_empty() {
            return Ok(());
        }
        directory.changes.clear();
        let before = std::mem::replace(&mut directory.synced, directory.names.clone());
        let now: Vec<_> = directory.synced.values().map(|inode| (*inode, 1)).collect();
        let before: Vec<_> = before.into_values().map(|inode| (inode, -1)).collect();
        self.count(1, &[now, before].concat())
    }

    /// Makes all of it last.
    pub(super) fn sync_all(&mut self) -> io::Result<()> {
        for inode in self.inodes.keys().copied().collect::<Vec<_>>() {
            if self.inodes.contains_key(&inode) {
                self.sync(inode)?;
            }
        }
        Ok(())
    }

    /// Loses what was not synced; with `torn`, only some of it, by lot.
    pub(super) fn lose(&mut self, mut torn: Option<&mut StdRng>) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.inodes);
        let root = before.remove(&ROOT).ok_or(Errno::STALE)?;
        let root = self.left_of(root, &mut before, &mut torn)?;
        self.inodes.insert(ROOT, root);
        for (_, inode) in before {
            if let Kind::File(content) = inode.kind {
                content.remove()?;
            }
        }
        Ok(())
    }

    /// What is left of an inode; all below it gets new numbers.
    fn left_of(
        &mut self,
        inode: Inode,
        before: &mut BTreeMap<u64, Inode>,
        torn: &mut Option<&mut StdRng>,
    ) -> io::Result<Inode> {
        let kind = match inode.kind {
            Kind::File(mut content) => {
                content.lose(torn.as_deref_mut())?;
                Kind::File(content)
            }
            Kind::Directory(Directory { mut synced, changes, .. }) => {
                let survive = torn.as_mut().map_or(0, |rng| rng.random_range(0..=changes.len()));
                for (name, stands_for) in changes.into_iter().take(survive).flatten() {
                    match stands_for {
                        Some(inode) => synced.insert(name, inode),
                        None => synced.remove(&name),
                    };
                }
                let mut names = Names::new();
                for (name, number) in synced {
                    // It may have been made and removed since the last sync.
                    let Some(inode) = before.remove(&number) else { continue };
                    let left = self.left_of(inode, before, torn)?;
                    let number = self.next;
                    self.next += 1;
                    self.inodes.insert(number, left);
                    names.insert(name, number);
                }
                Kind::Directory(Directory { synced: names.clone(), names, changes: Vec::new() })
            }
        };
        Ok(Inode { kind, named: [1; 2], opened: 0, modified: inode.modified })
    }

    /// Empties it.
    pub(super) fn wipe(&mut self) -> io::Result<()> {
        for (_, inode) in std::mem::take(&mut self.inodes) {
            if let Kind::File(content) = inode.kind {
                content.remove()?;
            }
        }
        let kind = Kind::Directory(Directory::default());
        let root = Inode { kind, named: [1; 2], opened: 0, modified: SystemTime::UNIX_EPOCH };
        self.inodes.insert(ROOT, root);
        Ok(())
    }

    /// The numbers of all that is there.
    pub(super) fn inodes(&self) -> Vec<u64> {
        self.inodes.keys().copied().collect()
    }

    /// All files, by their paths.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let mut left = vec![(PathBuf::new(), ROOT)];
        while let Some((path, inode)) = left.pop() {
            match self.inodes.get(&inode).map(|it| &it.kind) {
                Some(Kind::File(_)) => files.push((path, inode)),
                Some(Kind::Directory(directory)) => {
                    left.extend(directory.names.iter().map(|(name, it)| (path.join(name), *it)));
                }
                None => {}
            }
        }
        files.sort();
        files
    }

    /// Flips a bit of one of the files that are `of_interest`. Returns where.
    pub(super) fn flip_bit(
        &mut self,
        of_interest: impl Fn(&Path) -> bool,
        rng: &mut StdRng,
    ) -> io::Result<Option<(PathBuf, u64)>> {
        let mut files = self.files();
        files.retain(|(path, inode)| {
            let not_empty = self.attributes(*inode).is_ok_and(|it| it.len_bytes > 0);
            not_empty && of_interest(path)
        });
        let Some((path, inode)) = files.choose(rng).cloned() else { return Ok(None) };
        Ok(self.file(inode)?.flip_bit(rng)?.map(|at| (path, at)))
    }

    /// Puts all files to where others may read them.
    pub(super) fn export(&self, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for (path, inode) in self.files() {
            let Some(Inode { kind: Kind::File(content), .. }) = self.inodes.get(&inode) else {
                continue;
            };
            let path = to.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::hard_link(content.path(), path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
