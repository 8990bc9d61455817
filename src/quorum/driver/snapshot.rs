//! Snapshots on their way: what a transport takes from the leader and hands in on the other side.
//!
//! The leader's side is a [`SnapshotSource`]: a header, and an image that is read in chunks of a
//! bounded size from where the receiver stands. The receiver's side is a [`SnapshotSink`], which
//! stages chunk after chunk and at the end hands the header to the quorum. The transport carries
//! bytes:
//!
//! 1. It sends [`SnapshotSource::header`]; the receiver calls [`super::Handle::receive_snapshot`]
//!    with it and answers with [`SnapshotSink::position`].
//! 2. From there on: [`SnapshotSource::chunk`] after the position, to [`SnapshotSink::put`], and
//!    the next one after the position that came with it; until there is no chunk left.
//! 3. The receiver calls [`SnapshotSink::finish`] and says so; then the sender
//!    [`SnapshotSource::arrived`].
//!
//! Where the connection breaks, the transport keeps the source and starts at 1 again: a sink for a
//! snapshot of which a part is staged already begins behind that part. A source that is dropped
//! counts as failed, and Raft makes another when it is time.
//!
//! Only one snapshot is received at a time, and none while one is being installed; what is staged
//! by halves is thrown away by the next or by a restart. The loop never waits for any of this.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::turn::Event;
use crate::{
    base::{Blocking, BlockingStopped},
    quorum::{
        handle::{Command, Status},
        raftpb::{Message, MessageType},
        store::{ImageReader, Pairs, StoreError},
    },
};

/// About how large a chunk is. One pair may be larger.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Why a snapshot does not get on.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Another snapshot is being received or installed; try again later.
    #[error("another snapshot of the metadata is being received or installed")]
    Busy,
    /// It is not, or no longer, what this node needs.
    #[error("the snapshot of the metadata is not needed here any more")]
    NotWanted,
    /// The header or a chunk is none.
    #[error("malformed snapshot of the metadata")]
    Malformed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is stopping.
    #[error("the metadata quorum has stopped")]
    Stopped,
}

impl From<BlockingStopped> for SnapshotError {
    fn from(_: BlockingStopped) -> Self {
        Self::Stopped
    }
}

/// How far a snapshot has been staged: its last key; nothing at the start. Goes over the wire as it
/// is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position(pub Option<Bytes>);

#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(message, repeated, tag = "1")]
    pairs: Vec<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

fn encode(pairs: Pairs) -> Bytes {
    let pairs = pairs.into_iter().map(|(key, value)| Pair { key, value }).collect();
    Chunk { pairs }.encode_to_vec().into()
}

fn decode(chunk: Bytes) -> Result<Pairs, SnapshotError> {
    let chunk = Chunk::decode(chunk).map_err(|_| SnapshotError::Malformed)?;
    let pairs: Pairs = chunk.pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
    let ascends = pairs.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if ascends && !pairs.is_empty() { Ok(pairs) } else { Err(SnapshotError::Malformed) }
}

/// A snapshot that a peer needs. See the module.
pub struct SnapshotSource {
    header: Message,
    reader: Arc<Mutex<Box<dyn ImageReader>>>,
    blocking: Blocking,
    status: watch::Receiver<Arc<Status>>,
    outcome: Outcome,
}

/// Tells the loop in the end, whatever happens.
struct Outcome {
    to: u64,
    arrived: bool,
    events: mpsc::UnboundedSender<Event>,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let _ = self.events.send(Event::SnapshotSent { to: self.to, arrived: self.arrived });
    }
}

impl std::fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSource").field("header", &self.header).finish_non_exhaustive()
    }
}

impl SnapshotSource {
    pub(super) fn new(
        header: Message,
        reader: Box<dyn ImageReader>,
        blocking: Blocking,
        status: watch::Receiver<Arc<Status>>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let outcome = Outcome { to: header.to, arrived: false, events };
        Self { header, reader: Arc::new(Mutex::new(reader)), blocking, status, outcome }
    }

    /// The peer that needs it.
    #[must_use]
    pub const fn to(&self) -> u64 {
        self.header.to
    }

    /// What the receiver needs first.
    #[must_use]
    pub const fn header(&self) -> &Message {
        &self.header
    }

    /// The chunk behind `position`, and the position behind it; none at the end. Safe to cancel and
    /// to repeat.
    ///
    /// # Errors
    /// [`SnapshotError::NotWanted`] once this node does not lead in the snapshot's term any more.
    pub async fn chunk(
        &self,
        position: &Position,
    ) -> Result<Option<(Bytes, Position)>, SnapshotError> {
        let is_current = {
            let status = self.status.borrow();
            status.is_leader() && status.raft.term == self.header.term
        };
        if !is_current {
            return Err(SnapshotError::NotWanted);
        }
        let (reader, after) = (Arc::clone(&self.reader), position.0.clone());
        let read = move || reader.lock().read(after.as_deref(), CHUNK_BYTES);
        let pairs = self.blocking.run(read).await??;
        let last = pairs.last().map(|(key, _)| key.clone());
        Ok(last.map(|last| (encode(pairs), Position(Some(last)))))
    }

    /// The receiver has all of it.
    pub fn arrived(mut self) {
        self.outcome.arrived = true;
    }
}

/// Names a snapshot while it is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::quorum) struct SnapshotId {
    from: u64,
    index: u64,
    term: u64,
}

impl SnapshotId {
    pub(super) fn of(header: &Message) -> Option<Self> {
        let metadata = header.get_snapshot().get_metadata();
        let is_one = header.get_msg_type() == MessageType::MsgSnapshot && metadata.index > 0;
        is_one.then_some(Self { from: header.from, index: metadata.index, term: metadata.term })
    }

    pub(super) const fn index(&self) -> u64 {
        self.index
    }
}

/// What a sink asks of the loop.
pub(in crate::quorum) enum Receive {
    Begin { header: Message, reply: oneshot::Sender<Result<Position, SnapshotError>> },
    Put { id: SnapshotId, pairs: Pairs, reply: oneshot::Sender<Result<Position, SnapshotError>> },
    Finish { id: SnapshotId, header: Message, reply: oneshot::Sender<Result<(), SnapshotError>> },
}

/// Takes a snapshot in. See the module.
#[derive(Debug)]
pub struct SnapshotSink {
    id: SnapshotId,
    header: Message,
    position: Position,
    commands: mpsc::Sender<Command>,
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    request: impl FnOnce(oneshot::Sender<Result<T, SnapshotError>>) -> Receive,
) -> Result<T, SnapshotError> {
    let (reply, answer) = oneshot::channel();
    let command = Command::Receive(Box::new(request(reply)));
    commands.send(command).await.map_err(|_| SnapshotError::Stopped)?;
    answer.await.map_err(|_| SnapshotError::Stopped)?
}

impl SnapshotSink {
    pub(in crate::quorum) async fn begin(
        header: Message,
        commands: mpsc::Sender<Command>,
    ) -> Result<Self, SnapshotError> {
        let id = SnapshotId::of(&header).ok_or(SnapshotError::Malformed)?;
        let first = header.clone();
        let position = ask(&commands, |reply| Receive::Begin { header: first, reply }).await?;
        Ok(Self { id, header, position, commands })
    }

    /// Behind what the sender is to go on.
    #[must_use]
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// Stages a chunk, which must be the one behind [`SnapshotSink::position`].
    ///
    /// # Errors
    /// After any the sink is of no use any more.
    pub async fn put(&mut self, chunk: Bytes) -> Result<&Position, SnapshotError> {
        let pairs = decode(chunk)?;
        if pairs.first().map(|(key, _)| Some(key) <= self.position.0.as_ref()) == Some(true) {
            return Err(SnapshotError::Malformed);
        }
        let id = self.id;
        let put = |reply| Receive::Put { id, pairs, reply };
        self.position = ask(&self.commands, put).await?;
        Ok(&self.position)
    }

    /// Everything is there: hands the snapshot to the quorum.
    ///
    /// # Errors
    /// Where it is of no use any more.
    pub async fn finish(self) -> Result<(), SnapshotError> {
        let (id, header) = (self.id, self.header);
        ask(&self.commands, |reply| Receive::Finish { id, header, reply }).await
    }
}
