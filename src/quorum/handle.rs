//! What the rest of the process sees of the quorum.
//!
//! The image is published without locks: [`Handle::image`] is one atomic load. Whoever follows
//! changes subscribes; a subscriber that is too slow loses deltas, never the image.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use super::{
    core::{Change, ChangeError, CoreStatus},
    driver::snapshot::{Receive, SnapshotError, SnapshotSink},
    identity::{Configuration, Identity, Member},
    machine::Machine,
    raftpb::{Message, StateRole},
};
use crate::metadata::MetadataImage;

/// Why a proposal has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads; nothing was proposed.
    #[error("this node does not lead the metadata quorum")]
    NotLeader,
    /// Nothing was proposed; try again later.
    #[error("too many metadata changes under way")]
    Busy,
    /// Nothing was proposed, and never will be.
    #[error("the metadata change is too large")]
    TooLarge,
    /// An earlier proposal of the same speculation was refused; nothing was proposed.
    #[error("an earlier metadata change was refused")]
    Superseded,
    /// The leadership went to another node meanwhile: the change may yet happen, or not.
    #[error("lost the leadership of the metadata quorum")]
    LeadershipLost,
    /// The node is stopping: the change may yet happen, or not.
    #[error("the metadata quorum has stopped")]
    Stopped,
}

/// Why a linearizable read is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The node is stopping.
    #[error("the metadata quorum has stopped")]
    Stopped,
}

/// Why a change of the members has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// Nothing was proposed.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// It was proposed, and may yet happen, or not.
    #[error(transparent)]
    Unknown(#[from] ProposeError),
}

/// The quorum at a glance: what DescribeQuorum and the metrics show.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Term, leader, indices, progress.
    pub raft: CoreStatus,
    /// Voters and learners.
    pub configuration: Configuration,
    /// This node within the cluster.
    pub identity: Identity,
    /// First index of the log that was not compacted.
    pub log_start_index: u64,
    /// Entries folded into the image since this node started.
    pub applied_entries: u64,
}

impl Status {
    /// The leader, where one is known.
    #[must_use]
    pub fn leader(&self) -> Option<Member> {
        self.configuration.members.get(&self.raft.leader?).copied()
    }

    /// Whether this node leads; it may not have applied yet all that earlier leaders committed.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.role == StateRole::Leader
    }
}

/// What a subscriber is told.
#[derive(Debug)]
pub enum Update<M: Machine = MetadataImage> {
    /// The whole image: at the start, after a snapshot, and where deltas were lost.
    Image {
        /// Index of the last entry in it.
        index: u64,
        /// The image.
        image: Arc<M>,
    },
    /// One entry.
    Delta {
        /// Its index.
        index: u64,
        /// The image after it.
        image: Arc<M>,
        /// What it changed.
        delta: Arc<M::Delta>,
    },
}

impl<M: Machine> Clone for Update<M> {
    fn clone(&self) -> Self {
        match self {
            Self::Image { index, image } => Self::Image { index: *index, image: Arc::clone(image) },
            Self::Delta { index, image, delta } => {
                Self::Delta { index: *index, image: Arc::clone(image), delta: Arc::clone(delta) }
            }
        }
    }
}

/// The image and where it stands.
pub(super) struct Published<M> {
    pub(super) index: u64,
    pub(super) image: Arc<M>,
}

pub(super) struct Shared<M: Machine> {
    pub(super) published: ArcSwap<Published<M>>,
    pub(super) updates: broadcast::Sender<Update<M>>,
    pub(super) applied: watch::Sender<u64>,
    pub(super) status: watch::Sender<Arc<Status>>,
    /// Messages of peers that wait for the loop.
    pub(super) inbound_bytes: AtomicU64,
    /// Places for linearizable reads that the loop has not answered.
    pub(super) reads: Semaphore,
}

/// Messages of peers that may wait for the loop.
const INBOUND_MAX_BYTES: u64 = 64 << 20;

/// A message of a peer, and what it weighs.
pub(super) struct Inbound {
    pub(super) message: Box<Message>,
    pub(super) size_bytes: u64,
}

pub(super) type ProposeDone = oneshot::Sender<Result<u64, ProposeError>>;
pub(super) type ReadDone = oneshot::Sender<u64>;

pub(super) enum Command {
    Propose {
        data: Vec<u8>,
        speculation: Option<Speculation>,
        done: ProposeDone,
    },
    Read(ReadDone),
    Change {
        change: Change,
        refused: oneshot::Sender<ChangeError>,
        done: ProposeDone,
    },
    Receive(Box<Receive>),
    Unreachable(u64),
    Transfer(u64),
    /// Answered when this node does not lead any more, or nobody could take over.
    HandOver(oneshot::Sender<()>),
    Stop,
}

/// What a proposal builds upon. Once a proposal of a speculation is refused, all later ones of the
/// same are, so that nothing is committed that was decided on a state that never came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speculation {
    /// The term in which the proposer leads.
    pub term: u64,
    /// Raised by the proposer each time it starts over.
    pub number: u64,
}

/// A handle on the quorum; cheap to clone.
pub struct Handle<M: Machine = MetadataImage> {
    pub(super) shared: Arc<Shared<M>>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) messages: mpsc::Sender<Inbound>,
}

impl<M: Machine> Clone for Handle<M> {
    fn clone(&self) -> Self {
        let (commands, messages) = (self.commands.clone(), self.messages.clone());
        Self { shared: Arc::clone(&self.shared), commands, messages }
    }
}

impl<M: Machine> std::fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("status", &self.status()).finish()
    }
}

impl<M: Machine> Handle<M> {
    /// The newest image.
    #[must_use]
    pub fn image(&self) -> Arc<M> {
        Arc::clone(&self.shared.published.load().image)
    }

    /// Index of the last entry in the newest image.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.shared.published.load().index
    }

    /// The quorum at a glance.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.shared.status.borrow())
    }

    /// Follows [`Handle::status`].
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<Arc<Status>> {
        self.shared.status.subscribe()
    }

    /// Follows the image: first as it is, then change by change.
    #[must_use]
    pub fn subscribe(&self) -> Subscription<M> {
        // In this order, so that no change falls between the two.
        let updates = self.shared.updates.subscribe();
        Subscription { shared: Arc::clone(&self.shared), updates, seen: None }
    }

    /// Waits until the image holds the entry at `index`. The caller sets the deadline.
    pub async fn wait_applied(&self, index: u64) {
        // The sender lives in `shared`, so this cannot fail.
        let _ = self.shared.applied.subscribe().wait_for(|applied| *applied >= index).await;
    }

    /// Proposes an entry, and returns its index once this node has applied it.
    ///
    /// Only the active controller may call this: it alone knows what is in flight.
    ///
    /// # Errors
    /// See [`ProposeError`]. Dropping the future does not take the proposal back.
    pub async fn propose(
        &self,
        data: Vec<u8>,
        speculation: Option<Speculation>,
    ) -> Result<u64, ProposeError> {
        self.start_propose(data, speculation).await?.await.map_err(|_| ProposeError::Stopped)?
    }

    /// As [`Handle::propose`], but returns as soon as the proposal has its place in the queue.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`]; the others come through the receiver.
    pub async fn start_propose(
        &self,
        data: Vec<u8>,
        speculation: Option<Speculation>,
    ) -> Result<oneshot::Receiver<Result<u64, ProposeError>>, ProposeError> {
        let (done, result) = oneshot::channel();
        let command = Command::Propose { data, speculation, done };
        self.commands.send(command).await.map_err(|_| ProposeError::Stopped)?;
        Ok(result)
    }

    /// Waits until the image holds everything that was acknowledged anywhere before this call, and
    /// returns the index that proves it; where many read, for its turn first. The caller sets the
    /// deadline.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let (done, index) = oneshot::channel();
        // Nobody closes the semaphore.
        let place = self.shared.reads.acquire().await;
        self.commands.send(Command::Read(done)).await.map_err(|_| ReadError::Stopped)?;
        let index = index.await.map_err(|_| ReadError::Stopped)?;
        drop(place);
        self.wait_applied(index).await;
        Ok(index)
    }

    /// Changes who takes part. Returns, with the index of the change, once it is complete and a
    /// majority of the voters has it on disk that it is: a peer that was removed may then be
    /// switched off and wiped. [`Status::configuration`] says how things are. Only the leader may
    /// be asked. The caller sets the deadline.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn change(&self, change: Change) -> Result<u64, MembersError> {
        let (done, result) = oneshot::channel();
        let (refused, mut refusal) = oneshot::channel();
        let command = Command::Change { change, refused, done };
        self.commands.send(command).await.map_err(|_| ProposeError::Stopped)?;
        let index = match (result.await, refusal.try_recv()) {
            (Ok(result), _) => result?,
            (Err(_), Ok(refusal)) => return Err(refusal.into()),
            (Err(_), Err(_)) => return Err(ProposeError::Stopped.into()),
        };
        let mut status = self.watch_status();
        // The sender lives in `shared`, so this cannot fail.
        let _ = status.wait_for(|s| !s.is_leader() || s.raft.settled >= Some(index)).await;
        let is_settled = status.borrow().raft.settled >= Some(index);
        if is_settled { Ok(index) } else { Err(ProposeError::LeadershipLost.into()) }
    }

    /// Asks this node, if it leads, to hand the leadership to a peer. [`Handle::watch_status`]
    /// shows what came of it.
    pub async fn transfer_leader(&self, to: u64) {
        let _ = self.commands.send(Command::Transfer(to)).await;
    }

    /// Hands in a message of another peer, but no snapshot. Drops it where the quorum is busy: Raft
    /// sends again.
    pub fn step(&self, message: Message) {
        let entries = message.entries.iter().map(|entry| entry.data.len() + entry.context.len());
        let size_bytes = 256 + entries.sum::<usize>() as u64;
        let waiting = &self.shared.inbound_bytes;
        if waiting.fetch_add(size_bytes, Ordering::Relaxed) > INBOUND_MAX_BYTES {
            waiting.fetch_sub(size_bytes, Ordering::Relaxed);
            return;
        }
        let inbound = Inbound { message: Box::new(message), size_bytes };
        if self.messages.try_send(inbound).is_err() {
            waiting.fetch_sub(size_bytes, Ordering::Relaxed);
        }
    }

    /// A message to the peer could not be delivered.
    pub fn unreachable(&self, peer_id: u64) {
        let _ = self.commands.try_send(Command::Unreachable(peer_id));
    }

    /// Begins to take in the snapshot of which a peer sent the header, or goes on where it broke
    /// off.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn receive_snapshot(&self, header: Message) -> Result<SnapshotSink, SnapshotError> {
        SnapshotSink::begin(header, self.commands.clone()).await
    }
}

/// Follows the image. Holds a bounded number of deltas back for a slow reader.
#[derive(Debug)]
pub struct Subscription<M: Machine = MetadataImage> {
    shared: Arc<Shared<M>>,
    updates: broadcast::Receiver<Update<M>>,
    seen: Option<u64>,
}

impl<M: Machine> std::fmt::Debug for Shared<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("index", &self.published.load().index).finish()
    }
}

impl<M: Machine> Subscription<M> {
    /// The next update; each is newer than the one before. None once the quorum has stopped.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Option<Update<M>> {
        loop {
            let Some(seen) = self.seen else { return Some(self.whole()) };
            match self.updates.recv().await {
                Ok(update) => {
                    let (Update::Image { index, .. } | Update::Delta { index, .. }) = &update;
                    if *index > seen {
                        self.seen = Some(*index);
                        return Some(update);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(self.whole()),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn whole(&mut self) -> Update<M> {
        let published = self.shared.published.load();
        self.seen = Some(published.index);
        Update::Image { index: published.index, image: Arc::clone(&published.image) }
    }
}
