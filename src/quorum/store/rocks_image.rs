//! The image of the store on disk as of one moment, read piece by piece.
//!
//! A RocksDB snapshot borrows its database, so it lives on the stack of a thread that owns both,
//! and that answers one read after the other. The thread ends when the reader is dropped, which
//! waits for it, so that a database that is closed is closed.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use bytes::Bytes;
use rocksdb::{DB, Direction, IteratorMode, Snapshot};

use super::{
    ImageReader, Pairs, Point, StoreError,
    rocks::{IMAGE, STATE, image_point, image_range},
};

struct Request {
    after: Option<Bytes>,
    max_bytes: usize,
    reply: mpsc::SyncSender<Result<Pairs, StoreError>>,
}

/// See the module.
pub(super) struct RocksImage {
    point: Point,
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for RocksImage {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl RocksImage {
    pub(super) fn open(db: Arc<DB>) -> Result<Self, StoreError> {
        let (requests, inbox) = mpsc::channel();
        let (opened, point) = mpsc::sync_channel(1);
        let serve = move || serve(&db, &opened, &inbox);
        let thread = thread::Builder::new()
            .name("quorum-snapshot".to_owned())
            .spawn(serve)
            .map_err(StoreError::NoThread)?;
        let point = point.recv().map_err(|_| StoreError::ReaderStopped)??;
        Ok(Self { point, requests: Some(requests), thread: Some(thread) })
    }
}

impl ImageReader for RocksImage {
    fn point(&self) -> &Point {
        &self.point
    }

    fn read(&mut self, after: Option<&[u8]>, max_bytes: usize) -> Result<Pairs, StoreError> {
        let (reply, pairs) = mpsc::sync_channel(1);
        let after = after.map(Bytes::copy_from_slice);
        let request = Request { after, max_bytes, reply };
        let requests = self.requests.as_ref().ok_or(StoreError::ReaderStopped)?;
        requests.send(request).map_err(|_| StoreError::ReaderStopped)?;
        pairs.recv().map_err(|_| StoreError::ReaderStopped)?
    }
}

fn serve(
    db: &DB,
    opened: &mpsc::SyncSender<Result<Point, StoreError>>,
    inbox: &mpsc::Receiver<Request>,
) {
    let snapshot = db.snapshot();
    let state = db.cf_handle(STATE).expect("the store opens every family");
    let generation = match image_point(&snapshot, state) {
        Ok((point, generation)) => {
            let _ = opened.send(Ok(point));
            generation
        }
        Err(error) => return drop(opened.send(Err(error))),
    };
    for Request { after, max_bytes, reply } in inbox {
        let _ = reply.send(read(db, &snapshot, generation, after.as_deref(), max_bytes));
    }
}

fn read(
    db: &DB,
    snapshot: &Snapshot<'_>,
    generation: u32,
    after: Option<&[u8]>,
    max_bytes: usize,
) -> Result<Pairs, StoreError> {
    let image = db.cf_handle(IMAGE).expect("the store opens every family");
    let prefix = generation.to_be_bytes();
    let mut from = [&prefix, after.unwrap_or_default()].concat();
    if after.is_some() {
        from.push(0); // The least key behind it.
    }
    let mode = IteratorMode::From(&from, Direction::Forward);
    let mut pairs = Pairs::new();
    let mut size_bytes = 0;
    for item in snapshot.iterator_cf_opt(image, image_range(generation), mode) {
        let (key, value) = item?;
        size_bytes += key.len() + value.len();
        if !pairs.is_empty() && size_bytes > max_bytes {
            break;
        }
        pairs.push((Bytes::copy_from_slice(&key[prefix.len()..]), Bytes::from(value)));
    }
    Ok(pairs)
}
