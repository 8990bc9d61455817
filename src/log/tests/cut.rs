//! What is relied on when a log is cut or deleted beside other work.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use parking_lot::Mutex;

use super::*;

#[test]
fn an_epoch_without_records_goes_with_a_cut_at_the_end() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, small());
    log.append(&[batch(&[b"a".to_vec()], None)], client()).unwrap();
    log.assign_epoch(LeaderEpoch(5));
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(5)));
    log.truncate_to(Offset(1)).unwrap();
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(1)));
    assert_eq!(log.log_end_offset(), Offset(1));
}

#[test]
fn a_flush_does_not_answer_for_records_that_took_the_place_of_cut_ones() {
    let hooked = Hooked::default();
    let directory = LogDirectory::open(Arc::new(hooked.clone())).unwrap();
    let log = create(&directory, small());
    for _ in 0..4 {
        log.append(&[batch(&[b"a".to_vec()], None)], client()).unwrap();
    }
    let replace = {
        let log = Arc::clone(&log);
        move || {
            log.truncate_to(Offset(1)).unwrap();
            for _ in 0..5 {
                log.append(&[batch(&[b"b".to_vec()], None)], client()).unwrap();
            }
        }
    };
    *hooked.after_sync.lock() = Some(Box::new(replace));
    assert_eq!(log.flush().unwrap(), Offset(0));
    assert_eq!(log.recovery_point(), Offset(0));
    assert_eq!(log.flush().unwrap(), Offset(6));
}

#[test]
fn a_deleted_log_leaves_the_files_of_its_successor_alone() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let former = create(&directory, small());
    for _ in 0..20 {
        former.append(&[batch(&[vec![1; 500]], None)], client()).unwrap();
    }
    assert!(former.segment_count() > 2);
    directory.delete("t", PartitionIndex(0)).unwrap();
    let id = TopicId(uuid::Uuid::from_u128(8));
    let log = directory.create("t", PartitionIndex(0), id, small(), NOW_MS).unwrap();
    for _ in 0..20 {
        log.append(&[batch(&[vec![2; 500]], None)], client()).unwrap();
    }
    log.flush().unwrap();
    let held = read_all(&log);
    let week_later = NOW_MS + 8 * 24 * 3600 * 1000;
    let refusals = [
        former.truncate_to(Offset(3)).unwrap_err(),
        former.truncate_fully_and_start_at(Offset(5)).unwrap_err(),
        former.delete_records(Offset(19), Offset(20)).unwrap_err(),
        former.apply_retention(week_later, Offset(20)).unwrap_err(),
        former.flush().unwrap_err(),
        former.read(Offset(0), Offset(20), 100, true).unwrap_err(),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, LogError::Closed(_)), "{refusal}");
    }
    drop(directory);
    dir.kill();
    let directory = super::directory(&dir);
    let (log, _) = directory.load("t-0", small(), NOW_MS).unwrap();
    assert_eq!((read_all(&log), held.len()), (held, 20));
}

#[test]
fn a_deletion_beside_a_flush_or_a_read_leaves_the_directory_online() {
    for of_read in [false, true] {
        let hooked = Hooked::default();
        let directory = Arc::new(LogDirectory::open(Arc::new(hooked.clone())).unwrap());
        let log = create(&directory, small());
        for _ in 0..20 {
            log.append(&[batch(&[vec![1; 500]], None)], client()).unwrap();
        }
        let delete = {
            let directory = Arc::clone(&directory);
            move || {
                let (done, is_done) = std::sync::mpsc::channel();
                std::thread::spawn(move || {
                    directory.delete("t", PartitionIndex(0)).unwrap();
                    done.send(()).unwrap();
                });
                // It may wait for what it meets.
                is_done.recv_timeout(std::time::Duration::from_millis(200)).ok();
            }
        };
        let hook = if of_read { &hooked.after_read } else { &hooked.after_sync };
        *hook.lock() = Some(Box::new(delete));
        if of_read {
            let refused = log.read(Offset(0), Offset(20), 100, true).unwrap_err();
            assert!(matches!(refused, LogError::Closed(_)), "{refused}");
        } else {
            drop(log.flush());
        }
        assert!(directory.failure().is_none(), "{:?}", directory.failure());
    }
}

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A disk that does something else once it has synced or read a segment.
#[derive(Clone, Default)]
struct Hooked {
    dir: SimDir,
    after_sync: Hook,
    after_read: Hook,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dir.fmt(f)
    }
}

struct HookedFile {
    file: Arc<dyn File>,
    disk: Option<Hooked>,
}

impl HookedFile {
    fn call(&self, hook: impl Fn(&Hooked) -> &Hook) {
        let hook = self.disk.as_ref().and_then(|disk| hook(disk).lock().take());
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl std::fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl Dir for Hooked {
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn File>> {
        let file = self.dir.open(path, open)?;
        let disk = path.ends_with(".log").then(|| self.clone());
        Ok(Arc::new(HookedFile { file, disk }))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.dir.create_dir(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.dir.remove_file(path)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.dir.remove_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.dir.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.dir.sync_dir(path)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.dir.lock()
    }

    fn space(&self) -> io::Result<Space> {
        self.dir.space()
    }

    fn location(&self) -> String {
        self.dir.location()
    }
}

impl File for HookedFile {
    fn write_at(&self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(position, parts)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(position, buffer);
        self.call(|disk| &disk.after_read);
        read
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.call(|disk| &disk.after_sync);
        Ok(())
    }

    fn is_cached(&self, position: u64, length: usize) -> bool {
        self.file.is_cached(position, length)
    }
}
