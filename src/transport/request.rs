//! Requests and responses: a stream of its own for each.
//!
//! A request is its class, how many milliseconds are left for it (`u32`, big-endian), and its bytes
//! up to the end of the stream. A response is a status and its bytes up to the end.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{
    PeerInfo,
    endpoint::Shared,
    error::{CallError, NotServed, StreamCode, StreamError},
    handshake::Session,
    stream::{Class, StreamReceiver, StreamSender},
};
use crate::base::NodeId;

/// How long a request may take to arrive, whatever its own deadline.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a request may be under way.
const LONGEST: Duration = Duration::from_secs(600);
const READ_BYTES: usize = 64 << 10;

const SERVED: u8 = 0;

const fn status(reason: NotServed) -> u8 {
    match reason {
        NotServed::Busy => 1,
        NotServed::NotReady => 2,
        NotServed::Unknown => 3,
        NotServed::TooLarge => 4,
    }
}

const fn of_status(status: u8) -> NotServed {
    match status {
        1 => NotServed::Busy,
        2 => NotServed::NotReady,
        4 => NotServed::TooLarge,
        _ => NotServed::Unknown,
    }
}

/// Sends a request over `session` and waits for its response until `deadline`.
pub(super) async fn call(
    session: &Session,
    request: Bytes,
    response_max_bytes: usize,
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let node = session.peer.node_id;
    let lost = |source| CallError::Lost { node, source };
    let opened = timeout_at(deadline, session.connection.open_bi()).await;
    let opened = opened.map_err(|_| CallError::NotSentInTime(node))?;
    let (send, recv) = opened.map_err(|error| lost(error.into()))?;
    let (mut sender, mut receiver) = (StreamSender::new(send), StreamReceiver::new(recv));
    sender.set_priority(Class::Request.priority());
    let exchange = async {
        let left = deadline.saturating_duration_since(Instant::now()).min(LONGEST);
        let mut head = BytesMut::with_capacity(5);
        head.put_u8(Class::Request.byte());
        head.put_u32(u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        let written = sender.write(&mut [head.freeze(), request]).await;
        sender.finish();
        // A peer that does not want all of it still says why.
        let answer = read_to_end(&mut receiver, response_max_bytes + 1, None).await;
        match (answer, written) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    };
    let answer = timeout_at(deadline, exchange).await.map_err(|_| CallError::TimedOut(node))?;
    decode(node, answer.map_err(lost)?)
}

fn decode(node: NodeId, mut answer: Bytes) -> Result<Bytes, CallError> {
    if answer.is_empty() {
        return Err(CallError::Lost { node, source: StreamError::Truncated });
    }
    match answer.split_to(1)[0] {
        SERVED => Ok(answer),
        other => Err(CallError::NotServed { node, reason: of_status(other) }),
    }
}

/// Serves a request whose class was read.
pub(super) async fn serve(
    shared: &Shared,
    peer: Arc<PeerInfo>,
    mut sender: StreamSender,
    mut receiver: StreamReceiver,
) {
    let started = Instant::now();
    let reading = read_request(shared, &mut receiver);
    let (request, left, _held) = match timeout(READ_TIMEOUT, reading).await {
        Ok(Ok(request)) => request,
        Ok(Err(StreamError::TooLarge(_))) => {
            shared.metrics.streams_refused.increment(1);
            receiver.stop(StreamCode::TooLarge);
            return answer(&mut sender, status(NotServed::TooLarge), Bytes::new()).await;
        }
        Ok(Err(_)) => return sender.reset(StreamCode::Malformed),
        Err(_) => return sender.reset(StreamCode::Busy),
    };
    let deadline = started + left;
    let serving = shared.service.call(peer, request, deadline);
    let outcome = tokio::select! {
        outcome = timeout_at(deadline, serving) => outcome,
        // The peer does not wait any more.
        _ = sender.acknowledged() => return,
    };
    let Ok(outcome) = outcome else { return sender.reset(StreamCode::Cancelled) };
    shared.metrics.requests.increment(1);
    shared.metrics.request_seconds.record(started.elapsed());
    match outcome {
        Ok(response) => answer(&mut sender, SERVED, response).await,
        Err(reason) => answer(&mut sender, status(reason), Bytes::new()).await,
    }
}

async fn answer(sender: &mut StreamSender, status: u8, response: Bytes) {
    // Without the peer, or its connection, nobody is left to tell.
    let _ = sender.write(&mut [Bytes::copy_from_slice(&[status]), response]).await;
    sender.finish();
}

/// The share of the budget that a request holds.
type Held = Option<OwnedSemaphorePermit>;

async fn read_request(
    shared: &Shared,
    receiver: &mut StreamReceiver,
) -> Result<(Bytes, Duration, Held), StreamError> {
    let mut head = BytesMut::with_capacity(4);
    while head.len() < 4 {
        let more = receiver.read(4 - head.len()).await?.ok_or(StreamError::Truncated)?;
        head.put(more);
    }
    let left_ms = head.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    let left = Duration::from_millis(left_ms).min(LONGEST);
    let mut held = None;
    let max_bytes = shared.config.request_max_bytes;
    let request = read_to_end(receiver, max_bytes, Some((&shared.request_memory, &mut held)));
    Ok((request.await?, left, held))
}

/// Everything up to the end of the stream, with its share of a budget taken as it arrives.
async fn read_to_end(
    receiver: &mut StreamReceiver,
    max_bytes: usize,
    mut budget: Option<(&Arc<Semaphore>, &mut Held)>,
) -> Result<Bytes, StreamError> {
    let mut all = BytesMut::new();
    while let Some(chunk) = receiver.read(READ_BYTES).await? {
        if all.len() + chunk.len() > max_bytes {
            return Err(StreamError::TooLarge(max_bytes));
        }
        if let Some((memory, held)) = &mut budget {
            let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let permit = Arc::clone(memory).acquire_many_owned(bytes).await;
            let permit = permit.map_err(|_| StreamError::Closed)?;
            match held.as_mut() {
                Some(held) => held.merge(permit),
                None => **held = Some(permit),
            }
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}
