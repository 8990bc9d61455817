//! What the kernel asks of a disk.
//!
//! Nothing is answered from memory of the kernel's but pages: names and attributes are asked for
//! each time, so that a disk may change between two lives of a node.

use std::{
    ffi::OsStr,
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use ottla::base::{Clock as _, SystemClock};

use super::{
    Access, Shared,
    tree::{Attributes, Tree},
};

/// How long the kernel may remember names and attributes.
const REMEMBERED: Duration = Duration::ZERO;
const BLOCK_BYTES: u32 = 4_096;
/// What the disk says it holds in all.
const BLOCKS: u64 = 1 << 24;

/// A disk, as the kernel sees it.
pub(super) struct Served(pub(super) Arc<Shared>);

impl Served {
    /// Does something to the files, unless it fails as the disk's conditions say.
    fn access<T>(
        &self,
        access: Access,
        then: impl FnOnce(&mut Tree) -> io::Result<T>,
    ) -> Result<T, Errno> {
        let conditions = *self.0.conditions.lock();
        if !conditions.delay.is_zero() && matches!(access, Access::Sync | Access::Read) {
            thread::sleep(conditions.delay);
        }
        conditions.allows(access)?;
        let mut tree = self.0.tree.lock();
        // Also where it went while a sync was under way.
        if self.0.power_off.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        Ok(then(&mut tree)?)
    }

    fn entry(&self, reply: ReplyEntry, found: Result<Attributes, Errno>) {
        match found {
            Ok(found) => reply.entry(&REMEMBERED, &attributes(found), Generation(0)),
            Err(error) => reply.error(error),
        }
    }
}

fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn now() -> SystemTime {
    let since = Duration::from_millis(u64::try_from(SystemClock.wall_ms()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since
}

fn attributes(of: Attributes) -> FileAttr {
    let Attributes { inode, is_directory, len_bytes, modified } = of;
    FileAttr {
        ino: INodeNo(inode),
        size: len_bytes,
        blocks: len_bytes.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: if is_directory { FileType::Directory } else { FileType::RegularFile },
        perm: if is_directory { 0o755 } else { 0o644 },
        nlink: if is_directory { 2 } else { 1 },
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, self.access(Access::Look, |tree| tree.lookup(parent.0, name)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.access(Access::Look, |tree| tree.attributes(inode.0)) {
            Ok(found) => reply.attr(&REMEMBERED, &attributes(found)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = |tree: &mut Tree| {
            if let Some(size) = size {
                tree.set_len(inode.0, size, now())?;
            }
            tree.attributes(inode.0)
        };
        match self.access(if size.is_some() { Access::Change } else { Access::Look }, set) {
            Ok(found) => reply.attr(&REMEMBERED, &attributes(found)),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(reply, self.access(Access::Grow, |tree| tree.make(parent.0, name, true)));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.access(Access::Grow, |tree| {
            let made = tree.make(parent.0, name, false)?;
            tree.open(made.inode)?;
            Ok(made)
        });
        match made {
            Ok(made) => reply.created(
                &REMEMBERED,
                &attributes(made),
                Generation(0),
                FileHandle(made.inode),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.access(Access::Change, |tree| tree.remove(parent.0, name, false)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.access(Access::Change, |tree| tree.remove(parent.0, name, true)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let ends = [(parent.0, name), (new_parent.0, new_name)];
        done(reply, self.access(Access::Change, |tree| tree.rename(ends, replace)));
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.access(Access::Look, |tree| tree.open(inode.0)) {
            Ok(()) => reply.opened(FileHandle(inode.0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        done(reply, self.access(Access::Look, |tree| tree.close(inode.0)));
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.access(Access::Read, |tree| tree.read(inode.0, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.access(Access::Grow, |tree| tree.write(inode.0, offset, data, now())) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _data: bool, reply: ReplyEmpty) {
        done(reply, self.access(Access::Sync, |tree| tree.sync(inode.0)));
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _data: bool, reply: ReplyEmpty) {
        done(reply, self.access(Access::Sync, |tree| tree.sync_directory(inode.0)));
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = match self.access(Access::Look, |tree| tree.names(inode.0)) {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        let here = [(".", inode.0, true), ("..", inode.0, true)];
        let here = here.map(|(name, inode, is_directory)| (name.into(), inode, is_directory));
        let names = names.into_iter().map(|(name, it)| (name, it.inode, it.is_directory));
        let all = here.into_iter().chain(names).enumerate();
        for (index, (name, inode, is_directory)) in all.skip(offset as usize) {
            let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(inode), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    /// What is set aside needs no space here; it must only be taken for set aside.
    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let result = self.access(Access::Grow, |tree| {
            if mode == 0 && tree.attributes(inode.0)?.len_bytes < offset + length {
                tree.set_len(inode.0, offset + length, now())?;
            }
            Ok(())
        });
        done(reply, result);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let full = self.0.conditions.lock().full;
        let free = if full { 0 } else { BLOCKS / 2 };
        reply.statfs(BLOCKS, free, free, BLOCKS, free, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}
