//! The loop's part in snapshots: which are under way, in both directions.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    snapshot::{Position, Receive, SnapshotError, SnapshotId, SnapshotSource},
    tasks,
    turn::{Event, Turn},
};
use crate::quorum::{
    core::SnapshotWanted,
    machine::Machine,
    raftpb::Message,
    store::{ImageReader, Pairs, StoreError},
};

/// Snapshots that may be read at once. Each keeps the store from cleaning up.
const READERS_MAX: usize = 4;

/// What the loop knows of snapshots.
#[derive(Default)]
pub(super) struct Transfers {
    /// Images that were opened for a peer and whose header has not come yet.
    prepared: BTreeMap<u64, Box<dyn ImageReader>>,
    preparing: usize,
    sending: usize,
    receiving: Option<Receiving>,
}

struct Receiving {
    id: SnapshotId,
    position: Position,
    is_staging: bool,
}

impl<M: Machine> Turn<M> {
    /// Opens the image for a peer.
    pub(super) fn prepare(&mut self, wanted: SnapshotWanted) {
        let transfers = &mut self.transfers;
        let to = wanted.to;
        transfers.prepared.remove(&to);
        if transfers.prepared.len() + transfers.preparing + transfers.sending >= READERS_MAX {
            return self.core.snapshot_prepared(to, None); // Raft asks again.
        }
        transfers.preparing += 1;
        tasks::job(&self.environment, &self.events, move |store| match store.open_image() {
            Ok(reader) => Ok(Event::Prepared { to, reader: Some(reader) }),
            Err(StoreError::NoThread(error)) => {
                tracing::warn!(%error, "no snapshot of the metadata for peer {to} for now");
                Ok(Event::Prepared { to, reader: None })
            }
            Err(error) => Err(error),
        });
    }

    pub(super) fn prepared(&mut self, to: u64, reader: Option<Box<dyn ImageReader>>) {
        self.transfers.preparing -= 1;
        let point = reader.as_ref().map(|reader| reader.point().clone());
        self.transfers.prepared.extend(reader.map(|reader| (to, reader)));
        self.core.snapshot_prepared(to, point.as_ref());
    }

    /// Raft wants a snapshot sent.
    pub(super) fn send_snapshot(&mut self, header: Message) {
        let (to, index) = (header.to, header.get_snapshot().get_metadata().index);
        let reader = self.transfers.prepared.remove(&to);
        let Some(reader) = reader.filter(|reader| reader.point().index == index) else {
            return self.core.snapshot_sent(to, false);
        };
        self.transfers.sending += 1;
        let status = self.shared.status.subscribe();
        let blocking = self.environment.blocking.clone();
        let source = SnapshotSource::new(header, reader, blocking, status, self.events.clone());
        self.environment.peers.send_snapshot(source);
    }

    pub(super) fn snapshot_sent(&mut self, to: u64, arrived: bool) {
        self.transfers.sending -= 1;
        self.core.snapshot_sent(to, arrived);
    }

    /// This node leads no more: what was opened for others is closed.
    pub(super) fn forget_prepared(&mut self) {
        self.transfers.prepared.clear();
    }

    pub(super) fn receive(&mut self, request: Receive) {
        match request {
            Receive::Begin { header, reply } => {
                let _ = reply.send(self.begin(&header));
            }
            Receive::Put { id, pairs, reply } => self.put(id, pairs, reply),
            Receive::Finish { id, header, reply } => self.finish(id, header, reply),
        }
    }

    fn begin(&mut self, header: &Message) -> Result<Position, SnapshotError> {
        let id = SnapshotId::of(header).ok_or(SnapshotError::Malformed)?;
        let status = self.core.status();
        let is_wanted =
            header.to == status.peer_id && header.term >= status.term && id.index() > status.commit;
        if !is_wanted {
            return Err(SnapshotError::NotWanted);
        }
        let receiving = self.transfers.receiving.as_ref();
        if self.core.is_installing() || receiving.is_some_and(|r| r.is_staging) {
            return Err(SnapshotError::Busy);
        }
        if let Some(receiving) = receiving.filter(|receiving| receiving.id == id) {
            return Ok(receiving.position.clone());
        }
        let position = Position::default();
        self.transfers.receiving = Some(Receiving { id, position, is_staging: false });
        Ok(Position::default())
    }

    fn put(
        &mut self,
        id: SnapshotId,
        pairs: Pairs,
        reply: oneshot::Sender<Result<Position, SnapshotError>>,
    ) {
        let is_installing = self.core.is_installing();
        let receiving = self.transfers.receiving.as_mut();
        let receiving = receiving.filter(|r| r.id == id && !r.is_staging && !is_installing);
        let Some(receiving) = receiving else {
            return drop(reply.send(Err(SnapshotError::NotWanted)));
        };
        let is_first = receiving.position.0.is_none();
        receiving.is_staging = true;
        tasks::job(&self.environment, &self.events, move |store| {
            store.stage(is_first, &pairs)?;
            let last = pairs.last().map(|(key, _)| key.clone());
            Ok(Event::Staged { last, reply })
        });
    }

    pub(super) fn staged(
        &mut self,
        last: Option<Bytes>,
        reply: oneshot::Sender<Result<Position, SnapshotError>>,
    ) {
        if let Some(receiving) = &mut self.transfers.receiving {
            receiving.is_staging = false;
            receiving.position = Position(last);
            let _ = reply.send(Ok(receiving.position.clone()));
        }
    }

    fn finish(
        &mut self,
        id: SnapshotId,
        header: Message,
        reply: oneshot::Sender<Result<(), SnapshotError>>,
    ) {
        let is_whole = |receiving: &&mut Receiving| receiving.id == id && !receiving.is_staging;
        let receiving = self.transfers.receiving.as_mut().filter(is_whole);
        let Some(receiving) = receiving.filter(|_| !self.core.is_installing()) else {
            return drop(reply.send(Err(SnapshotError::NotWanted)));
        };
        if receiving.position.0.is_some() {
            return self.hand_in(header, reply);
        }
        // An empty image: what an earlier snapshot may have left must not take its place.
        receiving.is_staging = true;
        tasks::job(&self.environment, &self.events, move |store| {
            store.stage(true, &[])?;
            Ok(Event::Emptied { header, reply })
        });
    }

    /// Everything is staged: the rest is Raft's.
    pub(super) fn hand_in(
        &mut self,
        header: Message,
        reply: oneshot::Sender<Result<(), SnapshotError>>,
    ) {
        self.transfers.receiving = None;
        let _ = reply.send(self.core.step(header).map_err(|_| SnapshotError::NotWanted));
    }
}
