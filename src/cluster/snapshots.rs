//! Snapshots of the metadata over a stream of their own.
//!
//! The sender writes the header and learns from where to go on; then it writes chunk after chunk,
//! as fast as the receiver takes them but no faster than [`BYTES_PER_SECOND`], and ends its side;
//! then the receiver says that it has all.
//! Where the stream breaks, both begin again behind what is staged.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use protobuf::Message as _;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::Cluster;
use crate::{
    base::NodeId,
    quorum::{
        Position, SnapshotError, SnapshotSource,
        raftpb::{Message, MessageType},
    },
    transport::{OpenError, Stream, StreamClass, StreamError, Transport},
};

/// How often a transfer is taken up again before Raft is to start over.
const ATTEMPTS: u32 = 10;
/// The pause before the first further attempt; each is longer by as much.
const PAUSE: Duration = Duration::from_millis(200);
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long either side may take for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// What a snapshot may take of the processors and disks of both sides, which have changes to make
/// meanwhile that others wait for.
const BYTES_PER_SECOND: u32 = 20 << 20;
/// Chunks are far below this, single pairs too.
const FRAME_MAX_BYTES: usize = 8 << 20;

/// Receiver to sender, first byte of a frame.
const GO_ON: u8 = 0;
const BUSY: u8 = 1;
const NOT_WANTED: u8 = 2;

/// Why a transfer broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the receiver is busy with another")]
    Busy,
    #[error("the receiver does not need it any more")]
    NotWanted,
    #[error("the peer takes too long")]
    TooSlow,
    #[error("the peer does not follow the protocol")]
    Malformed,
}

impl Broken {
    /// Whether it may work the next time.
    const fn may_go_on(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Stream(_) | Self::Busy | Self::TooSlow)
    }
}

/// Carries a snapshot to `node`.
pub(super) async fn carry(transport: Transport, node: NodeId, source: SnapshotSource) {
    let started = Instant::now();
    for attempt in 1..=ATTEMPTS {
        match send(&transport, node, &source).await {
            Ok(bytes) => {
                let took = started.elapsed();
                info!(%node, bytes, ?took, "sent a snapshot of the metadata");
                return source.arrived();
            }
            Err(error) if error.may_go_on() => {
                debug!(%node, attempt, %error, "the snapshot of the metadata broke off");
                sleep(PAUSE * attempt).await;
            }
            Err(error) => return debug!(%node, %error, "no snapshot of the metadata is sent"),
        }
    }
    warn!(%node, "a snapshot of the metadata could not be sent; another follows");
}

async fn in_time<T, E>(step: impl Future<Output = Result<T, E>>) -> Result<T, Broken>
where
    Broken: From<E>,
{
    Ok(timeout(STEP_TIMEOUT, step).await.map_err(|_| Broken::TooSlow)??)
}

async fn send(transport: &Transport, node: NodeId, source: &SnapshotSource) -> Result<u64, Broken> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    let Stream { mut sender, mut receiver, .. } =
        transport.open(node, StreamClass::Snapshot, deadline).await?;
    let header = source.header().write_to_bytes().map_err(|_| Broken::Malformed)?;
    in_time(sender.write_frame(&mut [header.into()])).await?;
    let reply = in_time(receiver.read_frame(FRAME_MAX_BYTES)).await?;
    let mut position = position(reply.ok_or(Broken::Malformed)?)?;
    let mut sent_bytes = 0;
    let mut due = Instant::now();
    while let Some((chunk, next)) = source.chunk(&position).await? {
        let length = chunk.len();
        sent_bytes += length as u64;
        in_time(sender.write_frame(&mut [chunk])).await?;
        position = next;
        due +=
            Duration::from_secs(1) * u32::try_from(length).unwrap_or(u32::MAX) / BYTES_PER_SECOND;
        sleep_until(due).await;
    }
    sender.finish();
    match in_time(receiver.read_frame(FRAME_MAX_BYTES)).await? {
        Some(reply) if reply[..] == [GO_ON] => Ok(sent_bytes),
        Some(_) => Err(Broken::NotWanted),
        None => Err(Broken::Malformed),
    }
}

fn position(mut reply: Bytes) -> Result<Position, Broken> {
    if reply.is_empty() {
        return Err(Broken::Malformed);
    }
    match reply.split_to(1)[0] {
        GO_ON => Ok(Position((!reply.is_empty()).then_some(reply))),
        BUSY => Err(Broken::Busy),
        NOT_WANTED => Err(Broken::NotWanted),
        _ => Err(Broken::Malformed),
    }
}

/// Takes in what a peer carries here.
pub(super) async fn receive(cluster: Cluster, mut stream: Stream) {
    let from = stream.peer.node_id;
    match take(&cluster, &mut stream).await {
        Ok(()) => info!(%from, "received a snapshot of the metadata"),
        Err(error) => {
            debug!(%from, %error, "a snapshot of the metadata was not received");
            let code = match error {
                Broken::Snapshot(SnapshotError::Busy) => BUSY,
                _ => NOT_WANTED,
            };
            let farewell = Bytes::copy_from_slice(&[code]);
            // Where the stream itself broke, nobody listens.
            let _ = timeout(OPEN_TIMEOUT, stream.sender.write_frame(&mut [farewell])).await;
            stream.sender.finish();
        }
    }
}

async fn take(cluster: &Cluster, stream: &mut Stream) -> Result<(), Broken> {
    let quorum = cluster.quorum().ok_or(Broken::NotWanted)?;
    let header = in_time(stream.receiver.read_frame(FRAME_MAX_BYTES)).await?;
    let header = Message::parse_from_bytes(&header.ok_or(Broken::Malformed)?);
    let header = header.map_err(|_| Broken::Malformed)?;
    let is_snapshot = header.get_msg_type() == MessageType::MsgSnapshot;
    if !is_snapshot || !cluster.hear(&stream.peer, &header) {
        return Err(Broken::NotWanted);
    }
    let mut sink = quorum.receive_snapshot(header).await?;
    let mut reply = BytesMut::new();
    reply.put_u8(GO_ON);
    reply.put_slice(sink.position().0.as_deref().unwrap_or_default());
    in_time(stream.sender.write_frame(&mut [reply.freeze()])).await?;
    while let Some(chunk) = in_time(stream.receiver.read_frame(FRAME_MAX_BYTES)).await? {
        sink.put(chunk).await?;
    }
    sink.finish().await?;
    in_time(stream.sender.write_frame(&mut [Bytes::from_static(&[GO_ON])])).await?;
    stream.sender.finish();
    Ok(())
}
