//! Opening a log: after a clean shutdown at its word, after a crash by its bytes.
//!
//! After a crash every segment that may hold unflushed batches is read and its CRCs are checked,
//! from the one with the recovery point on; its indexes are rebuilt. The log is cut at the first
//! batch that is not whole. Where intact batches follow the cut, which a torn write leaves behind
//! only if the disk reordered it, the bytes are set aside in a file of their own and reported.
//!
//! Invariant: nothing below the recovery point is ever cut: damage there is an error, which takes
//! the directory offline.

use std::{
    collections::BTreeMap,
    io::IoSlice,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    checkpoint::{LEADER_EPOCHS, PARTITION_METADATA, decode_partition_metadata},
    config::LogConfig,
    dir::{Open, read_exact_at},
    disk::Disk,
    epochs::Epochs,
    error::{Damage, LogError, Operation},
    header::{self, EndMarker},
    order,
    partition::{Log, State},
    producers::{Origin, Producers, Staged},
    scan::{Found, Scan, ScanFailure},
    segment::{AbortedTxn, Kind, Segment, path},
};
use crate::{
    base::{Offset, TopicId},
    protocol::batch::{HEADER_BYTES, Header},
};

/// What is known of a log before it is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkpointed {
    /// The directory was closed in order.
    pub(crate) clean: bool,
    pub(crate) recovery_point: Offset,
    pub(crate) log_start_offset: Offset,
}

/// What recovery did to a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes that were checked.
    pub checked_bytes: u64,
    /// Bytes that were cut off.
    pub cut_bytes: u64,
    /// Why, and where the log ends since.
    pub cut: Option<(Offset, Damage)>,
    /// Intact batches lay beyond the cut: the file that keeps what was cut.
    pub set_aside: Option<String>,
}

/// The files of a log directory, by base offset.
struct Files {
    segments: BTreeMap<Offset, [Option<u64>; 4]>,
    snapshots: Vec<Offset>,
}

impl Files {
    /// Lists the directory and completes or undoes what a crash interrupted.
    fn list(disk: &Disk, name: &str) -> Result<Self, LogError> {
        let mut entries = disk.run(Operation::List, name, |dir| dir.list(name))?;
        if super::swap::was_interrupted(&entries) {
            super::swap::complete(disk, name, &entries)?;
            entries = disk.run(Operation::List, name, |dir| dir.list(name))?;
        }
        let mut files = Self { segments: BTreeMap::new(), snapshots: Vec::new() };
        for entry in entries {
            let file = format!("{name}/{}", entry.name);
            if [".tmp", ".deleted"].iter().any(|suffix| entry.name.ends_with(suffix)) {
                disk.run(Operation::Remove, &file, |dir| dir.remove_file(&file))?;
                continue;
            }
            let Some((stem, suffix)) = entry.name.split_once('.') else { continue };
            let Some(base) = parse_base(stem) else { continue };
            if suffix == "snapshot" {
                files.snapshots.push(base);
            }
            let kind = Kind::ALL.iter().position(|kind| kind.suffix()[1..] == *suffix);
            if let Some(kind) = kind {
                files.segments.entry(base).or_default()[kind] = Some(entry.len_bytes);
            }
        }
        // Indexes without their log are left from a deletion that a crash interrupted.
        let orphans = files.segments.extract_if(.., |_, lengths| lengths[0].is_none());
        for (base, _) in orphans.collect::<Vec<_>>() {
            for kind in Kind::ALL {
                let file = path(name, base, kind.suffix());
                disk.run(Operation::Remove, &file, |dir| dir.remove_file(&file))?;
            }
        }
        Ok(files)
    }
}

fn next_of(bases: &[Offset], at: usize) -> Option<Offset> {
    bases.get(at + 1).copied()
}

fn parse_base(stem: &str) -> Option<Offset> {
    if stem.len() == 20 { stem.parse().ok().map(Offset) } else { None }
}

/// Everything that is gathered while a log is opened.
struct Opening<'a> {
    disk: &'a Arc<Disk>,
    name: &'a Arc<str>,
    config: &'a LogConfig,
    checkpointed: Checkpointed,
    /// When producers that are found in the log, and not in a snapshot, are taken to have written.
    now_ms: i64,
    segments: Vec<Arc<Segment>>,
    epochs: Epochs,
    epochs_changed: bool,
    producers: Producers,
    /// The producers' state is that at this offset.
    producers_at: Offset,
    end: Offset,
    /// How many of the newest segments were read and checked.
    checked: usize,
    recovery: Recovery,
}

impl Log {
    /// Opens the log in the directory `name`, or begins it there.
    pub(crate) fn open(
        disk: &Arc<Disk>,
        name: &str,
        config: Arc<LogConfig>,
        checkpointed: Checkpointed,
        now_ms: i64,
    ) -> Result<(Self, Recovery), LogError> {
        let name: Arc<str> = name.into();
        let files = Files::list(disk, &name)?;
        let metadata = format!("{name}/{PARTITION_METADATA}");
        let topic_id = match disk.read_optional(&metadata)? {
            Some(bytes) => match decode_partition_metadata(&bytes) {
                Ok(id) => id,
                // Synced by the first flush: a torn one belongs to a log that never had any.
                Err(_) if checkpointed.recovery_point == Offset::ZERO && !checkpointed.clean => {
                    disk.run(Operation::Remove, &metadata, |dir| dir.remove_file(&metadata))?;
                    TopicId::NONE
                }
                Err(damage) => return Err(disk.corrupt(&metadata, 0, damage)),
            },
            None => TopicId::NONE,
        };
        let mut opening = Opening::new(disk, &name, &config, checkpointed, now_ms)?;
        opening.load_snapshot(&files)?;
        opening.load_segments(&files)?;
        opening.finish(&files)?;
        let Opening { segments, epochs, epochs_changed, producers, end, recovery, .. } = opening;
        let first = segments.first().map_or(Offset::ZERO, |segment| segment.base);
        let log_start_offset = checkpointed.log_start_offset.max(first).min(end);
        let state = State {
            segments,
            log_start_offset,
            log_end_offset: end,
            recovery_point: end,
            epochs,
            producers,
            generation: 0,
            removals: 0,
            rolled_ms: now_ms,
            opened_clean_at: checkpointed.clean.then_some(end),
            closed: false,
        };
        let key = super::moves::key_of(&name).map_or_else(|| Arc::clone(&name), Arc::from);
        let log = Self {
            name,
            key,
            topic_id: RwLock::new(topic_id),
            disk: Arc::clone(disk),
            config: RwLock::new(config),
            cutting: Mutex::new(()),
            writer: Mutex::new(()),
            flushing: Mutex::new(()),
            compacting: AtomicBool::new(false),
            state: RwLock::new(state),
            dir_dirty: AtomicBool::new(!checkpointed.clean),
            epochs_dirty: AtomicBool::new(epochs_changed),
        };
        if checkpointed.log_start_offset > end {
            // What was lost had been deleted before; its offsets are never given out again.
            log.truncate_fully_and_start_at(checkpointed.log_start_offset)?;
        }
        log.expire_producers(now_ms);
        Ok((log, recovery))
    }
}

impl Log {
    /// Makes the producers' state that of the log's end anew, after it was cut. For the writer.
    pub(super) fn rebuild_producers(&self, snapshots: Vec<Offset>) -> Result<(), LogError> {
        let (segments, end, seen_ms) = {
            let state = self.state.read();
            (state.segments.clone(), state.log_end_offset, state.producers.last_seen_ms())
        };
        let checkpointed = Checkpointed { clean: true, recovery_point: end, log_start_offset: end };
        let config = self.config();
        let mut opening = Opening::new(&self.disk, &self.name, &config, checkpointed, seen_ms)?;
        let known = segments.iter().map(|segment| (segment.base, [None; 4])).collect();
        opening.load_snapshot(&Files { segments: known, snapshots })?;
        for segment in &segments {
            opening.replay(segment)?;
        }
        self.state.write().producers = opening.producers;
        Ok(())
    }
}

impl<'a> Opening<'a> {
    fn new(
        disk: &'a Arc<Disk>,
        name: &'a Arc<str>,
        config: &'a LogConfig,
        checkpointed: Checkpointed,
        now_ms: i64,
    ) -> Result<Self, LogError> {
        let checkpoint = format!("{name}/{LEADER_EPOCHS}");
        let epochs = match disk.read_optional(&checkpoint)? {
            Some(bytes) => {
                Epochs::decode(&bytes).map_err(|damage| disk.corrupt(&checkpoint, 0, damage))?
            }
            None => Epochs::default(),
        };
        Ok(Self {
            disk,
            name,
            config,
            checkpointed,
            now_ms,
            segments: Vec::new(),
            epochs,
            epochs_changed: false,
            producers: Producers::default(),
            producers_at: Offset::ZERO,
            end: Offset::ZERO,
            checked: 0,
            recovery: Recovery::default(),
        })
    }

    /// Whether a segment that is followed by the one at `next` must be checked. Where the recovery
    /// point is that very base, its batches were flushed, but its indexes may not have been.
    fn must_check(&self, next: Option<Offset>) -> bool {
        !self.checkpointed.clean && next.is_none_or(|next| next >= self.checkpointed.recovery_point)
    }

    /// Takes the newest snapshot from which everything that follows will be replayed. Snapshots
    /// past the first segment that must be checked are newer than what is certain.
    fn load_snapshot(&mut self, files: &Files) -> Result<(), LogError> {
        let bases: Vec<Offset> = files.segments.keys().copied().collect();
        let checked = (0..bases.len()).find(|at| self.must_check(bases.get(at + 1).copied()));
        let newest = checked.map_or(Offset(i64::MAX), |at| bases[at]);
        self.producers_at = bases.first().copied().unwrap_or_default();
        for at in files.snapshots.iter().rev().filter(|at| **at <= newest) {
            let file = path(self.name, *at, ".snapshot");
            let Some(bytes) = self.disk.read_optional(&file)? else { continue };
            match Producers::decode(&bytes) {
                Ok(producers) => {
                    self.producers = producers;
                    self.producers_at = *at;
                    return Ok(());
                }
                Err(damage) => {
                    // Written without a sync, so a power cut may tear it; an older one will do.
                    tracing::warn!(file, %damage, "a producer snapshot is set aside");
                    self.disk.run(Operation::Remove, &file, |dir| dir.remove_file(&file))?;
                }
            }
        }
        Ok(())
    }

    fn load_segments(&mut self, files: &Files) -> Result<(), LogError> {
        let bases: Vec<Offset> = files.segments.keys().copied().collect();
        for (at, (base, lengths)) in files.segments.iter().enumerate() {
            // Segments follow each other without a gap: the roll takes the log end offset as base.
            if !self.segments.is_empty()
                && *base != self.end
                && self.must_check(next_of(&bases, at))
            {
                let damage = Damage::Offset { found: *base, expected: self.end };
                self.recovery.cut.get_or_insert((self.end, damage));
            }
            if self.recovery.cut.is_some() {
                self.drop_beyond_cut(*base, *lengths)?;
                continue;
            }
            let next = next_of(&bases, at);
            let known = if self.must_check(next) {
                None
            } else {
                Segment::open(self.disk, self.name, *base, *lengths)?
            };
            match known {
                Some(segment) => {
                    self.replay(&segment)?;
                    self.end = match next {
                        Some(next) => next,
                        None => segment.rescan_tail(self.disk)?.unwrap_or(*base),
                    };
                    self.segments.push(Arc::new(segment));
                }
                None => self.check_segment(*base, lengths[0].unwrap_or_default())?,
            }
        }
        Ok(())
    }

    /// Segments that follow a cut were not flushed either; they are set aside.
    fn drop_beyond_cut(&mut self, base: Offset, lengths: [Option<u64>; 4]) -> Result<(), LogError> {
        let len = lengths[0].unwrap_or_default();
        self.recovery.cut_bytes += len;
        let segment = Segment::empty(self.disk, self.name, base);
        if len > 0 {
            let from = segment.path(Kind::Log);
            let to = format!("{from}.torn");
            self.disk.run(Operation::Rename, &from, |dir| dir.rename(&from, &to))?;
            self.recovery.set_aside = Some(self.disk.absolute(&to));
        }
        segment.remove(self.disk)
    }

    /// Brings the producers up to the end of a segment that is taken at its word.
    fn replay(&mut self, segment: &Segment) -> Result<(), LogError> {
        let from = self.producers_at.max(segment.base);
        let Some(start) = segment.locate(self.disk, from)? else { return Ok(()) };
        let log = segment.path(Kind::Log);
        for found in segment.scan(self.disk, start.position as u32)? {
            let found = found.map_err(|e| e.into_error(self.disk, &log))?;
            if found.header.last_offset() < from || !found.header.has_producer() {
                continue;
            }
            let marker =
                if found.header.is_control() { self.read_marker(segment, &found)? } else { None };
            self.take_in(&found.header, marker);
        }
        Ok(())
    }

    fn read_marker(&self, segment: &Segment, found: &Found) -> Result<Option<EndMarker>, LogError> {
        let file = segment.file(self.disk, Kind::Log)?;
        let mut body = vec![0; found.header.size_bytes() - HEADER_BYTES];
        read_exact_at(&*file, found.position + HEADER_BYTES as u64, &mut body)
            .map_err(|e| self.disk.failed(Operation::Read, &segment.path(Kind::Log), e))?;
        Ok(EndMarker::parse(&Bytes::from(body)))
    }

    /// Applies one batch to the producers; returns the transactions that it aborted.
    fn take_in(&mut self, header: &Header, marker: Option<EndMarker>) -> Vec<AbortedTxn> {
        let mut staged = Staged::default();
        // As a replica: what is in the log has been checked, and is never refused.
        let (producers, now_ms) = (&self.producers, self.now_ms);
        let staging = producers.stage(&mut staged, header, marker, Origin::Replication, now_ms);
        debug_assert!(staging.is_ok());
        let completed = staged.completed.clone();
        self.producers.commit(staged);
        let aborted = completed.iter().filter(|txn| txn.aborted).map(|txn| AbortedTxn {
            producer_id: txn.producer_id,
            first_offset: txn.first_offset,
            last_offset: txn.last_offset,
            last_stable_offset: self.producers.last_stable_offset_after(txn),
        });
        aborted.collect()
    }

    /// Reads a whole segment, rebuilds its indexes and cuts it where it stops being whole.
    fn check_segment(&mut self, base: Offset, len: u64) -> Result<(), LogError> {
        let segment = Segment::empty(self.disk, self.name, base);
        segment.reset(self.disk)?;
        let file = segment.file(self.disk, Kind::Log)?;
        let wrong = order::first_wrong(base, Scan::new(Arc::clone(&file), 0, len), &self.epochs);
        let mut scan = Scan::new(Arc::clone(&file), 0, len);
        let limits = Log::limits(self.config);
        self.end = self.end.max(base);
        let failure = loop {
            if wrong.as_ref().is_some_and(|(at, _)| u64::from(segment.size_bytes()) == *at) {
                break wrong;
            }
            let (header, body) = match scan.next_batch() {
                Ok(Some((found, bytes))) => {
                    let marker = found.header.is_control();
                    let body = marker.then(|| Bytes::copy_from_slice(&bytes[HEADER_BYTES..]));
                    (found.header, body)
                }
                Ok(None) => break None,
                Err(ScanFailure::Damaged { position, damage }) => break Some((position, damage)),
                Err(failure) => {
                    return Err(failure.into_error(self.disk, &segment.path(Kind::Log)));
                }
            };
            if header.base_offset < self.end {
                let damage = Damage::Offset { found: header.base_offset, expected: self.end };
                break Some((u64::from(segment.size_bytes()), damage));
            }
            self.epochs_changed |= self.epochs.assign(header.leader_epoch, header.base_offset);
            if segment.publish(&header, limits) {
                segment.write_indexes(self.disk)?;
            }
            if header.has_producer() && header.last_offset() >= self.producers_at {
                let marker = body.as_ref().and_then(EndMarker::parse);
                for txn in self.take_in(&header, marker) {
                    segment.add_aborted(self.disk, txn)?;
                }
            }
            self.end = header.next_offset();
        };
        self.recovery.checked_bytes += u64::from(segment.size_bytes());
        if let Some((position, damage)) = failure {
            self.cut(&segment, position, len, damage)?;
        }
        segment.finish(self.disk)?;
        self.segments.push(Arc::new(segment));
        self.checked += 1;
        Ok(())
    }

    fn cut(
        &mut self,
        segment: &Segment,
        position: u64,
        len: u64,
        damage: Damage,
    ) -> Result<(), LogError> {
        let log = segment.path(Kind::Log);
        if self.checkpointed.clean || self.end < self.checkpointed.recovery_point {
            return Err(self.disk.corrupt(&log, position, damage));
        }
        let file = segment.file(self.disk, Kind::Log)?;
        if self.intact_beyond(segment, position, len)? {
            let aside = format!("{log}.{position}.torn");
            let mut rest = vec![0; (len - position) as usize];
            read_exact_at(&*file, position, &mut rest)
                .map_err(|e| self.disk.failed(Operation::Read, &log, e))?;
            self.disk.run(Operation::Write, &aside, |dir| {
                let aside = dir.open(&aside, Open::Truncated)?;
                aside.write_at(0, &mut [IoSlice::new(&rest)])?;
                aside.sync_data()
            })?;
            self.recovery.set_aside = Some(self.disk.absolute(&aside));
        }
        file.set_len(position).map_err(|e| self.disk.failed(Operation::Truncate, &log, e))?;
        self.recovery.cut_bytes += len - position;
        self.recovery.cut = Some((self.end, damage));
        Ok(())
    }

    /// Whether a whole batch that would continue the log follows the damaged one.
    fn intact_beyond(&self, segment: &Segment, from: u64, len: u64) -> Result<bool, LogError> {
        let log = segment.path(Kind::Log);
        let file = segment.file(self.disk, Kind::Log)?;
        let mut fixed = [0; HEADER_BYTES];
        if from + HEADER_BYTES as u64 > len {
            return Ok(false);
        }
        read_exact_at(&*file, from, &mut fixed)
            .map_err(|e| self.disk.failed(Operation::Read, &log, e))?;
        // Only a damaged batch whose length still holds leads to the next one.
        let Ok(header) = header::parse(&fixed) else { return Ok(false) };
        let next = from + header.size_bytes() as u64;
        match Scan::new(file, next, len).next_batch() {
            Ok(Some((found, _))) => Ok(found.header.base_offset > self.end),
            Ok(None) | Err(ScanFailure::Damaged { .. }) => Ok(false),
            Err(failure) => Err(failure.into_error(self.disk, &log)),
        }
    }

    fn finish(&mut self, files: &Files) -> Result<(), LogError> {
        let flushed = self.checkpointed.recovery_point;
        if self.end < flushed && !self.segments.is_empty() {
            let damage = Damage::Short { end: self.end, flushed };
            return Err(self.disk.corrupt(self.name, 0, damage));
        }
        if self.segments.is_empty() {
            if flushed > Offset::ZERO.max(self.checkpointed.log_start_offset) {
                let damage = Damage::Short { end: Offset::ZERO, flushed };
                return Err(self.disk.corrupt(self.name, 0, damage));
            }
            self.end = self.checkpointed.log_start_offset;
            let segment = Segment::empty(self.disk, self.name, self.end);
            segment.file(self.disk, Kind::Log)?;
            self.segments.push(Arc::new(segment));
        }
        for at in files.snapshots.iter().filter(|at| **at > self.end) {
            let file = path(self.name, *at, ".snapshot");
            self.disk.run(Operation::Remove, &file, |dir| dir.remove_file(&file))?;
        }
        // An epoch without records is not worth a write: were it kept on disk, it would be dropped
        // again at the next start.
        let dropped = self.epochs.truncate_from_end(self.end);
        self.epochs_changed |= dropped && self.checked > 0;
        self.sync()?;
        self.report();
        Ok(())
    }

    /// Makes what recovery found and did durable: were a cut undone by the next crash, the bytes
    /// would be found before what was written after it.
    fn sync(&mut self) -> Result<(), LogError> {
        for (at, segment) in self.segments[self.segments.len() - self.checked..].iter().enumerate()
        {
            segment.sync(self.disk, &[Kind::Log])?;
            if at + 1 < self.checked {
                segment.sync(self.disk, &[Kind::Index, Kind::TimeIndex])?;
                if segment.has_aborted() {
                    segment.sync(self.disk, &[Kind::TxnIndex])?;
                }
            }
        }
        if self.epochs_changed {
            let checkpoint = format!("{}/{LEADER_EPOCHS}", self.name);
            self.disk.replace(&checkpoint, self.epochs.encode().as_bytes())?;
            self.epochs_changed = false;
        }
        if self.checked > 0 {
            let metadata = format!("{}/{PARTITION_METADATA}", self.name);
            self.disk.run_optional(Operation::Sync, &metadata, |dir| {
                dir.open(&metadata, Open::Existing)?.sync_data()
            })?;
            self.disk.run(Operation::Sync, self.name, |dir| {
                dir.sync_dir(self.name)?;
                dir.sync_dir("")
            })?;
        }
        Ok(())
    }

    fn report(&self) {
        let Some((end, damage)) = &self.recovery.cut else { return };
        let (log, cut_bytes) = (&**self.name, self.recovery.cut_bytes);
        match &self.recovery.set_aside {
            Some(file) => tracing::error!(
                log, %end, %damage, cut_bytes, file,
                "the log was cut though intact batches follow; what was cut is kept in a file"
            ),
            None => tracing::warn!(log, %end, %damage, cut_bytes, "a torn tail was cut"),
        }
    }
}
