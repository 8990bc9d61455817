//! Disks of the suite's own, which lose what was not synced, fill up, fail, slow down and rot.
//!
//! Each is a FUSE file system that this process serves (`tree`, `content`): a node's log
//! directories and its metadata store lie on them, and nothing of the node is made for that. They
//! are mounted in a mount namespace that one thread of this process holds and the nodes enter. So
//! nobody else sees them, and they are gone with this process, however it ends.
//!
//! The kernel does not tell a FUSE file system of `syncfs`, which a node calls when it stops. So
//! whoever sees a node end in order calls [`Disks::settle`].

mod content;
mod fuse;
mod tree;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use fuser::{BackgroundSession, Config, Errno, MountOption, Session};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use parking_lot::Mutex;
use rand::rngs::StdRng;

use self::{fuse::Served, tree::Tree};

/// How many disks a node has. The first holds its metadata, too.
pub const PER_NODE: u32 = 2;
/// How many accesses of a disk may be under way.
const QUEUE_DEPTH: usize = 8;

/// Why there are no such disks.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No mount namespace, or no mount in it.
    #[error(
        "cannot mount a file system of the suite (FUSE): root's rights and /dev/fuse are needed"
    )]
    Mount(#[source] io::Error),
    /// What backs a disk cannot be read or written.
    #[error("cannot keep a disk's bytes in {}", path.display())]
    Objects {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// Nothing more fits.
    pub full: bool,
    /// What is read is an error.
    pub fails_reads: bool,
    /// What is written or synced is an error.
    pub fails_writes: bool,
    /// How much longer a sync takes, and a read that is not cached.
    pub delay: Duration,
}

impl Conditions {
    /// Both at once.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            full: self.full || other.full,
            fails_reads: self.fails_reads || other.fails_reads,
            fails_writes: self.fails_writes || other.fails_writes,
            delay: self.delay + other.delay,
        }
    }

    fn allows(self, access: Access) -> Result<(), Errno> {
        match access {
            Access::Read if self.fails_reads => Err(Errno::EIO),
            Access::Grow | Access::Change | Access::Sync if self.fails_writes => Err(Errno::EIO),
            Access::Grow if self.full => Err(Errno::ENOSPC),
            _ => Ok(()),
        }
    }
}

/// What is asked of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Look,
    Read,
    /// What may need more room.
    Grow,
    Change,
    Sync,
}

/// A disk, for the kernel and for the suite.
#[derive(Debug)]
struct Shared {
    tree: Mutex<Tree>,
    conditions: Mutex<Conditions>,
    /// Whether it failed, or was full, since its node was last started.
    failed: AtomicBool,
    /// It has no power: it does nothing more.
    power_off: AtomicBool,
}

struct Disk {
    shared: Arc<Shared>,
    session: BackgroundSession,
    place: PathBuf,
    objects: PathBuf,
}

/// Which disk: of which node, and of those the first, second, ….
type Id = (u32, u32);

/// All disks of a cluster; unmounted when this is dropped.
pub struct Disks {
    disks: BTreeMap<Id, Disk>,
    namespace: PathBuf,
    /// Ends the thread that holds the namespace.
    _hold: mpsc::Sender<()>,
}

impl Disks {
    /// For nodes 1 to `count`, at [`Disks::place`] in `directory`.
    ///
    /// # Errors
    /// Where rights are missing.
    pub fn new(count: u32, directory: &Path) -> Result<Self, DiskError> {
        let mut wanted = Vec::new();
        for id in (1..=count).flat_map(|node| (1..=PER_NODE).map(move |number| (node, number))) {
            let place = Self::place(directory, id.0, id.1);
            let objects = directory.join("disks").join(format!("{}-{}", id.0, id.1));
            let failed = |source| DiskError::Objects { path: objects.clone(), source };
            fs::create_dir_all(&place).map_err(failed)?;
            let tree = Mutex::new(Tree::create(&objects).map_err(failed)?);
            let shared = Arc::new(Shared {
                tree,
                conditions: Mutex::default(),
                failed: AtomicBool::default(),
                power_off: AtomicBool::default(),
            });
            wanted.push((id, shared, place, objects));
        }
        let (hold, held) = mpsc::channel::<()>();
        let (ready, mounted) = mpsc::channel();
        let work = move || {
            let _ = ready.send(mount_all(wanted));
            // Until nobody holds it any more.
            let _ = held.recv();
        };
        let spawned = thread::Builder::new().name("disks".to_owned()).spawn(work);
        spawned.map_err(DiskError::Mount)?;
        let gone = |_| DiskError::Mount(io::ErrorKind::BrokenPipe.into());
        let (disks, namespace) = mounted.recv().map_err(gone)?.map_err(DiskError::Mount)?;
        Ok(Self { disks, namespace, _hold: hold })
    }

    /// Where a node finds a disk.
    #[must_use]
    pub fn place(directory: &Path, node: u32, number: u32) -> PathBuf {
        directory.join(format!("node-{node}")).join(format!("disk-{number}"))
    }

    /// What runs a command where the disks are.
    #[must_use]
    pub fn entering(&self) -> Vec<String> {
        let namespace = format!("--mount={}", self.namespace.display());
        ["nsenter".to_owned(), namespace, "--".to_owned()].into()
    }

    fn of(&self, node: u32) -> impl Iterator<Item = &Disk> {
        self.disks.range((node, 0)..(node + 1, 0)).map(|(_, disk)| disk)
    }

    /// How a disk fares from now on.
    pub fn set(&self, node: u32, number: u32, conditions: Conditions) {
        let Some(disk) = self.disks.get(&(node, number)) else { return };
        *disk.shared.conditions.lock() = conditions;
        if conditions.full || conditions.fails_reads || conditions.fails_writes {
            disk.shared.failed.store(true, Ordering::Relaxed);
        }
        if conditions.fails_reads || !conditions.delay.is_zero() {
            // Else all that matters would be answered from memory.
            let notifier = disk.session.notifier();
            // The kernel may wait for accesses that are under way.
            let inodes = disk.shared.tree.lock().inodes();
            for inode in inodes {
                let _ = notifier.inval_inode(fuser::INodeNo(inode), 0, 0);
            }
        }
    }

    /// What a node that ended in order left is on the disk, unless the disk failed meanwhile.
    ///
    /// # Errors
    /// Where the disk's bytes cannot be kept.
    pub fn settle(&self, node: u32) -> Result<(), DiskError> {
        for disk in self.of(node) {
            if !disk.shared.failed.swap(false, Ordering::Relaxed) {
                disk.shared.tree.lock().sync_all().map_err(|source| disk.failed(source))?;
            }
        }
        Ok(())
    }

    /// Takes the power from the disks of a node that runs. A killed process only ends once a sync is
    /// done that it waits for: that must not count.
    pub fn switch_off(&self, node: u32) {
        for disk in self.of(node) {
            let _tree = disk.shared.tree.lock();
            disk.shared.power_off.store(true, Ordering::Relaxed);
        }
    }

    /// Loses what a node, which does not run, had not synced; some of it by lot, where torn. Its
    /// disks have power again.
    ///
    /// # Errors
    /// Where the disk's bytes cannot be kept.
    pub fn cut_power(&self, node: u32, mut torn: Option<&mut StdRng>) -> Result<(), DiskError> {
        self.change(node, |tree| tree.lose(torn.as_deref_mut()))?;
        for disk in self.of(node) {
            disk.shared.power_off.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Empties the disks of a node, which does not run.
    ///
    /// # Errors
    /// Where the disk's bytes cannot be kept.
    pub fn wipe(&self, node: u32) -> Result<(), DiskError> {
        self.change(node, Tree::wipe)
    }

    /// Flips a bit in one of the files of interest of a node, which does not run. Returns where.
    ///
    /// # Errors
    /// Where the disk's bytes cannot be kept.
    pub fn flip_bit(
        &self,
        node: u32,
        of_interest: impl Fn(&Path) -> bool,
        rng: &mut StdRng,
    ) -> Result<Option<(PathBuf, u64)>, DiskError> {
        let mut flipped = None;
        for disk in self.of(node) {
            if flipped.is_none() {
                let found = disk.shared.tree.lock().flip_bit(&of_interest, rng);
                let found = found.map_err(|source| disk.failed(source))?;
                flipped = found.map(|(path, at)| (disk.place.join(path), at));
            }
        }
        Ok(flipped)
    }

    fn change(
        &self,
        node: u32,
        mut change: impl FnMut(&mut Tree) -> io::Result<()>,
    ) -> Result<(), DiskError> {
        for disk in self.of(node) {
            change(&mut disk.shared.tree.lock()).map_err(|source| disk.failed(source))?;
        }
        Ok(())
    }

    /// Unmounts them, and leaves their files where they were mounted.
    ///
    /// # Errors
    /// Where they cannot be put there.
    pub fn finish(self) -> Result<(), DiskError> {
        for (_, disk) in self.disks {
            let Disk { shared, session, place, objects } = disk;
            drop(session);
            let failed = |source| DiskError::Objects { path: place.clone(), source };
            shared.tree.lock().export(&place).map_err(failed)?;
            fs::remove_dir_all(objects).map_err(failed)?;
        }
        Ok(())
    }
}

impl Disk {
    fn failed(&self, source: io::Error) -> DiskError {
        DiskError::Objects { path: self.objects.clone(), source }
    }
}

type Wanted = (Id, Arc<Shared>, PathBuf, PathBuf);

/// Mounts disks in a namespace of this thread's own, and says where that is.
fn mount_all(wanted: Vec<Wanted>) -> io::Result<(BTreeMap<Id, Disk>, PathBuf)> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    // So that nothing of it is seen from outside.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let mut disks = BTreeMap::new();
    for (id, shared, place, objects) in wanted {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("ottla-chaos".to_owned()),
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
        ];
        config.n_threads = Some(QUEUE_DEPTH);
        let session = Session::new(Served(Arc::clone(&shared)), &place, &config)?.spawn()?;
        disks.insert(id, Disk { shared, session, place, objects });
    }
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let process = std::process::id();
    Ok((disks, format!("/proc/{process}/task/{thread}/ns/mnt").into()))
}

#[cfg(test)]
mod tests;
