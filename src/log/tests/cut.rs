//! What a follower relies on when it cuts its log.

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

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A disk that does something else once it has synced a segment.
#[derive(Clone, Default)]
struct Hooked {
    dir: SimDir,
    after_sync: Hook,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dir.fmt(f)
    }
}

struct HookedFile {
    file: Arc<dyn File>,
    after_sync: Option<Hook>,
}

impl std::fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl Dir for Hooked {
    fn open(&self, path: &str, open: Open) -> io::Result<Arc<dyn File>> {
        let file = self.dir.open(path, open)?;
        let after_sync = path.ends_with(".log").then(|| Arc::clone(&self.after_sync));
        Ok(Arc::new(HookedFile { file, after_sync }))
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
        self.file.read_at(position, buffer)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        let hook = self.after_sync.as_ref().and_then(|hook| hook.lock().take());
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }

    fn is_cached(&self, position: u64, length: usize) -> bool {
        self.file.is_cached(position, length)
    }
}
