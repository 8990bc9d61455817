//! The tasks that wait for the store, so that the loop does not have to.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Environment, turn::Event};
use crate::quorum::store::{Applied, Write};

/// Writes that one sync may cover; bounds the size of a batch, not how much may wait.
const WRITES_PER_SYNC: usize = 256;
/// Applied entries that one batch of image writes may cover.
const APPLIED_PER_BATCH: usize = 1024;

/// Makes writes durable, in order; as many per sync as have queued up during the one before.
pub(super) async fn persist(
    environment: Environment,
    mut inbox: mpsc::UnboundedReceiver<Write>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut writes = Vec::new();
    while inbox.recv_many(&mut writes, WRITES_PER_SYNC).await > 0 {
        let batch = std::mem::take(&mut writes);
        let last = batch.last().map_or(0, |write| write.number);
        let store = Arc::clone(&environment.store);
        match environment.blocking.run(move || store.persist(&batch)).await {
            Ok(Ok(())) => drop(events.send(Event::Persisted(last))),
            Ok(Err(error)) => return (environment.fatal)(error.into()),
            Err(_) => return,
        }
    }
}

/// Stores what was applied, in order; as many entries per batch as have queued up.
pub(super) async fn write_image(
    environment: Environment,
    mut inbox: mpsc::Receiver<Applied>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut queued = Vec::new();
    while inbox.recv_many(&mut queued, APPLIED_PER_BATCH).await > 0 {
        let mut merged = Applied::default();
        for applied in queued.drain(..) {
            merged.writes.extend(applied.writes);
            merged.point = applied.point;
        }
        let index = merged.point.index;
        let store = Arc::clone(&environment.store);
        match environment.blocking.run(move || store.apply(&merged)).await {
            Ok(Ok(())) => drop(events.send(Event::Stored(index))),
            Ok(Err(error)) => return (environment.fatal)(error.into()),
            Err(_) => return,
        }
    }
}

/// Runs one job on the store and hands its result to the loop.
pub(super) fn job(
    environment: &Environment,
    events: &mpsc::UnboundedSender<Event>,
    work: impl FnOnce(&dyn crate::quorum::Store) -> Result<Event, crate::quorum::StoreError>
    + Send
    + 'static,
) {
    let (environment, events) = (environment.clone(), events.clone());
    tokio::spawn(async move {
        let store = Arc::clone(&environment.store);
        match environment.blocking.run(move || work(&*store)).await {
            Ok(Ok(event)) => drop(events.send(event)),
            Ok(Err(error)) => (environment.fatal)(error.into()),
            Err(_) => {}
        }
    });
}
