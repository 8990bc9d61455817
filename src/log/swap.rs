//! Replacing segments by compacted ones so that a crash leaves the old or the new ones whole.
//!
//! The new files are written as `.cleaned`, synced, then renamed to `.swap`, the `.log` last: that
//! rename, made durable, decides. Then the segments that they replace go and `.swap` is dropped
//! from the names. The last batch of a compacted segment is always kept, if need be empty, so that
//! the replaced range can be read from the file.

use std::sync::Arc;

use super::{
    dir::Entry,
    disk::Disk,
    error::{LogError, Operation},
    scan::Scan,
    segment::{Kind, path},
};
use crate::base::Offset;

/// Whether the entries of a log's directory show a swap that a crash interrupted.
pub(super) fn was_interrupted(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.name.ends_with(".cleaned") || entry.name.ends_with(".swap"))
}

/// Completes or undoes what a crash left of a swap.
pub(super) fn complete(disk: &Disk, name: &str, entries: &[Entry]) -> Result<(), LogError> {
    for entry in entries.iter().filter(|entry| entry.name.ends_with(".cleaned")) {
        remove(disk, &format!("{name}/{}", entry.name))?;
    }
    for entry in entries.iter().filter(|entry| entry.name.ends_with(".log.swap")) {
        let Some(base) = entry.name.get(..20).and_then(|stem| stem.parse().ok()) else {
            continue;
        };
        let base = Offset(base);
        let swap = format!("{name}/{}", entry.name);
        let file =
            disk.run(Operation::Open, &swap, |dir| dir.open(&swap, super::dir::Open::Existing))?;
        let mut end = base;
        for found in Scan::new(Arc::clone(&file), 0, entry.len_bytes) {
            end = found.map_err(|e| e.into_error(disk, &swap))?.header.next_offset();
        }
        let bases: Vec<Offset> = entries
            .iter()
            .filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok().map(Offset))
            .filter(|old| *old >= base && *old < end)
            .collect();
        replace(disk, name, base, &bases)?;
    }
    // Indexes whose log was never renamed belong to a swap that was not decided.
    for entry in disk.run(Operation::List, name, |dir| dir.list(name))? {
        if entry.name.ends_with(".swap") {
            remove(disk, &format!("{name}/{}", entry.name))?;
        }
    }
    Ok(())
}

/// Removes the segments at `old` and gives the `.swap` files at `base` their final names.
///
/// May be run again after a crash at any point of it: the new `.log` takes its name last, and only
/// after everything before is durable.
pub(super) fn replace(
    disk: &Disk,
    name: &str,
    base: Offset,
    old: &[Offset],
) -> Result<(), LogError> {
    for old in old.iter().filter(|old| **old != base) {
        for kind in Kind::ALL.into_iter().rev() {
            remove(disk, &path(name, *old, kind.suffix()))?;
        }
        remove(disk, &path(name, *old, ".snapshot"))?;
    }
    for kind in Kind::ALL.into_iter().rev() {
        if kind == Kind::Log {
            disk.run(Operation::Sync, name, |dir| dir.sync_dir(name))?;
        }
        // A compacted segment has files of all kinds, so each takes the place of an old one.
        let to = path(name, base, kind.suffix());
        let from = format!("{to}.swap");
        disk.run_optional(Operation::Rename, &from, |dir| dir.rename(&from, &to))?;
    }
    disk.run(Operation::Sync, name, |dir| dir.sync_dir(name))
}

/// Gives the `.cleaned` files at `base`, which are synced, the names that decide the swap.
pub(super) fn decide(disk: &Disk, name: &str, base: Offset) -> Result<(), LogError> {
    for kind in Kind::ALL.into_iter().rev() {
        if kind == Kind::Log {
            disk.run(Operation::Sync, name, |dir| dir.sync_dir(name))?;
        }
        let to = path(name, base, kind.suffix());
        let (from, to) = (format!("{to}.cleaned"), format!("{to}.swap"));
        disk.run(Operation::Rename, &from, |dir| dir.rename(&from, &to))?;
    }
    disk.run(Operation::Sync, name, |dir| dir.sync_dir(name))
}

fn remove(disk: &Disk, path: &str) -> Result<(), LogError> {
    disk.run(Operation::Remove, path, |dir| dir.remove_file(path))
}
