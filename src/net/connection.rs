//! One client connection.
//!
//! One task reads requests, starts them in order, and writes their responses in the same order.
//! Reading, starting, waiting and writing go on side by side, so that a client that does not take
//! its responses never leaves a handler's future unpolled while it holds something.
//!
//! Invariants: at most `max_in_flight_requests` requests are between their first byte handed to
//! the handler and the last byte of their response; an idle connection owns no buffer.

use std::{
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Fuse},
    stream::FuturesOrdered,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Limits,
    budget::{RequestMemory, Reservation},
    frame::{FrameReader, ReadError},
    handler::{CloseReason, Connection, Frame, Handler, Reply, Started},
    server::Shared,
    stream::{Outgoing, SendFile, split},
    write::{Means, WriteError, write_response},
};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("closed by the node: {0}")]
    Handler(CloseReason),
    #[error("idle for longer than connections.max.idle.ms")]
    Idle,
    #[error("a request arrives too slowly")]
    SlowRequest,
    #[error("the node is shutting down")]
    Shutdown,
}

/// What is remembered of a request until its response has been sent.
struct Receipt {
    api_key: Option<i16>,
    received_at: Instant,
    _memory: RequestMemory,
}

/// A request that has been started.
struct Waiting {
    future: Option<BoxFuture<'static, Reply>>,
    done: Option<(Reply, Option<Receipt>)>,
    receipt: Option<Receipt>,
}

impl Waiting {
    fn new(started: Started, receipt: Receipt) -> Self {
        match started {
            Started::Now(reply) => {
                Self { future: None, done: Some((reply, Some(receipt))), receipt: None }
            }
            Started::Later(future) => {
                Self { future: Some(future), done: None, receipt: Some(receipt) }
            }
        }
    }
}

impl Future for Waiting {
    type Output = (Reply, Option<Receipt>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(done) = self.done.take() {
            return Poll::Ready(done);
        }
        let future = self.future.as_mut().expect("not polled after it was ready");
        let reply = std::task::ready!(future.poll_unpin(cx));
        self.future = None;
        Poll::Ready((reply, self.receipt.take()))
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve<H: Handler, S: AsyncRead + AsyncWrite + Send + Unpin>(
    shared: &Shared<H>,
    connection: Connection,
    stream: S,
    send_file: Option<SendFile<S>>,
    mut shutdown: watch::Receiver<Option<Instant>>,
) -> End {
    let session = shared.handler.open(connection);
    let limits = shared.limits.load_full();
    let (mut incoming, outgoing) = split(stream, send_file);
    let mut outgoing = Some(outgoing);
    let mut reader = FrameReader::default();
    let mut waiting = FuturesOrdered::<Waiting>::new();
    let mut outbox = VecDeque::new();
    let mut starting: Option<BoxFuture<'_, Waiting>> = None;
    let mut writing = pin!(Fuse::terminated());
    let mut closing: Option<End> = None;
    let mut active_at = Instant::now();
    let mut timer = pin!(sleep_until(active_at + limits.max_idle));

    loop {
        // Sends what is next in order.
        while closing.is_none() || !outbox.is_empty() {
            if outgoing.is_none() {
                break;
            }
            match outbox.pop_front() {
                Some((Reply::Send(response), receipt)) => {
                    let half = outgoing.take().expect("checked above");
                    writing.set(send(half, response, receipt, &shared.means).fuse());
                }
                Some((Reply::Silent, receipt)) => shared.finished(receipt, 0),
                Some((Reply::Close(reason), _)) => {
                    outbox.clear();
                    waiting.clear();
                    starting = None;
                    closing = Some(End::Handler(reason));
                }
                None => break,
            }
        }
        let quiet = outgoing.is_some() && starting.is_none() && waiting.is_empty();
        if quiet && let Some(end) = closing.take() {
            return end;
        }
        let in_flight = waiting.len() + outbox.len() + usize::from(outgoing.is_none());
        let reads = closing.is_none()
            && starting.is_none()
            && in_flight < limits.max_in_flight_requests.max(1);
        let due = deadline(&reader, quiet, reads, active_at, &limits, &shared.means);
        if due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        tokio::select! {
            biased;
            _ = shutdown.wait_for(Option::is_some), if closing.is_none() => {
                closing = Some(End::Shutdown);
            }
            (half, receipt, sent) = &mut writing => match sent {
                Ok(bytes) => {
                    outgoing = Some(half);
                    active_at = Instant::now();
                    shared.finished(receipt, bytes);
                }
                Err(error) => return error.into(),
            },
            Some(done) = waiting.next(), if !waiting.is_empty() => outbox.push_back(done),
            started = next_started(&mut starting), if starting.is_some() => {
                starting = None;
                waiting.push_back(started);
            }
            read = reader.next(&mut incoming, limits.request_max_bytes, &shared.budget), if reads => {
                let (frame, memory) = match read {
                    Ok(Some(read)) => read,
                    Ok(None) => continue,
                    Err(error) => return error.into(),
                };
                active_at = frame.received_at;
                starting = Some(start(shared, &session, frame, memory));
            }
            () = &mut timer => {
                let now = Instant::now();
                // Bytes that arrived meanwhile have put it off.
                let due = deadline(&reader, quiet, reads, active_at, &limits, &shared.means);
                if reader.waits_for_memory() {
                    timer.as_mut().reset(now + shared.means.pace.grace);
                } else if now >= due {
                    return if reader.partial().is_some() { End::SlowRequest } else { End::Idle };
                } else {
                    timer.as_mut().reset(due);
                }
            }
        }
    }
}

/// The request that is being started, once it is. Never, where there is none.
async fn next_started(starting: &mut Option<BoxFuture<'_, Waiting>>) -> Waiting {
    match starting {
        Some(starting) => starting.await,
        None => std::future::pending().await,
    }
}

fn start<'a, H: Handler>(
    shared: &'a Shared<H>,
    session: &'a H::Session,
    frame: Frame,
    memory: Reservation,
) -> BoxFuture<'a, Waiting> {
    let api_key = frame.api_key();
    let api = shared.metrics.api(api_key);
    api.requests.increment(1);
    api.request_bytes.record(frame.payload.len() as f64);
    let received_at = frame.received_at;
    let mut memory = RequestMemory::new(shared.budget.clone(), memory, frame.payload.len());
    // What is awaited here is the start; the rest waits beside the requests that follow.
    #[expect(clippy::async_yields_async)]
    Box::pin(async move {
        let started = shared.handler.start(session, frame, &mut memory).await;
        Waiting::new(started, Receipt { api_key, received_at, _memory: memory })
    })
}

/// When the connection is closed unless something happens.
fn deadline(
    reader: &FrameReader,
    quiet: bool,
    reads: bool,
    active_at: Instant,
    limits: &Limits,
    means: &Means,
) -> Instant {
    match reader.partial() {
        // Bytes that wait because the node does not read are not the client's fault.
        Some(partial) if reads => {
            let pace = means.pace.deadline(partial.started, partial.bytes);
            let idle = partial.last_read.max(active_at) + limits.max_idle;
            pace.max(active_at + means.pace.grace).min(idle)
        }
        _ if quiet => active_at + limits.max_idle,
        _ => Instant::now() + limits.max_idle,
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    mut half: Outgoing<S>,
    response: super::Response,
    receipt: Option<Receipt>,
    means: &Means,
) -> (Outgoing<S>, Option<Receipt>, Result<u64, WriteError>) {
    let sent = write_response(&mut half, response, means).await;
    (half, receipt, sent)
}

impl<H> Shared<H> {
    fn finished(&self, receipt: Option<Receipt>, sent_bytes: u64) {
        let Some(receipt) = receipt else { return };
        let api = self.metrics.api(receipt.api_key);
        api.response_bytes.record(sent_bytes as f64);
        api.seconds.record(receipt.received_at.elapsed().as_secs_f64());
        drop(receipt);
        self.metrics.request_memory.set(self.budget.used_bytes() as f64);
    }
}
