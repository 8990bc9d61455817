//! One connection to one broker, with any number of requests in flight.
//!
//! A single task owns the stream and both directions of it, so both end together. Callers hand it
//! whole requests through a bounded queue; it numbers them in the order in which it writes them and
//! answers them in that order, which is the order in which a broker answers.
//!
//! Invariant: the queue `waiting` holds exactly the requests that were written, expect a response
//! and have not been answered, oldest first.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::{
    connect::Stream,
    error::{ClientError, Malformed},
    versions::Versions,
};

/// How many requests may wait to be written.
const QUEUE: usize = 128;
/// How many buffers go into one vectored write.
const SLICES: usize = 64;
/// The step in which a response's buffer grows while its bytes arrive.
const READ_STEP_BYTES: usize = 256 * 1024;

/// An encoded request.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) api: ApiKey,
    /// The length, the header with a blank correlation id at bytes 8..12, and the body up to
    /// `parts`.
    pub(crate) head: BytesMut,
    /// What follows `head`: records are sent from where they lie.
    pub(crate) parts: Vec<Bytes>,
    /// False for a produce request with `acks=0`.
    pub(crate) answered: bool,
}

struct Outgoing {
    frame: Frame,
    reply: oneshot::Sender<Result<Bytes, ClientError>>,
}

struct Waiting {
    correlation_id: i32,
    api: ApiKey,
    reply: oneshot::Sender<Result<Bytes, ClientError>>,
}

/// A handle to a connection. The connection ends with the last of them.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    address: Arc<str>,
    versions: Versions,
    task: AbortHandle,
}

/// A request that has been handed to the connection.
#[derive(Debug)]
pub(crate) struct Pending {
    reply: oneshot::Receiver<Result<Bytes, ClientError>>,
    address: Arc<str>,
    api: ApiKey,
}

impl Connection {
    /// Takes over `stream`. `max_response_bytes` bounds what one response may take.
    pub(crate) fn start(
        stream: Box<dyn Stream>,
        address: Arc<str>,
        max_response_bytes: usize,
    ) -> Self {
        let (outgoing, requests) = mpsc::channel(QUEUE);
        let task = tokio::spawn(run(stream, Arc::clone(&address), requests, max_response_bytes));
        Self { outgoing, address, versions: Versions::default(), task: task.abort_handle() }
    }

    pub(crate) const fn versions(&self) -> &Versions {
        &self.versions
    }

    pub(crate) fn set_versions(&mut self, versions: Versions) {
        self.versions = versions;
    }

    pub(crate) const fn address(&self) -> &Arc<str> {
        &self.address
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.outgoing.is_closed()
    }

    /// Ends the connection; whatever waits on it fails.
    pub(crate) fn close(&self) {
        self.task.abort();
    }

    /// Queues `frame`, waiting for room. Requests are written in the order of these calls.
    pub(crate) async fn send(&self, frame: Frame) -> Result<Pending, ClientError> {
        let (reply, receiver) = oneshot::channel();
        let api = frame.api;
        self.outgoing
            .send(Outgoing { frame, reply })
            .await
            .map_err(|_| ClientError::Disconnected { address: Arc::clone(&self.address) })?;
        Ok(Pending { reply: receiver, address: Arc::clone(&self.address), api })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pending {
    /// The response without its length, header included; empty where none was expected.
    pub(crate) async fn wait(mut self) -> Result<Bytes, ClientError> {
        self.answer().await
    }

    /// As [`Pending::wait`], and may be dropped and called again until it has answered.
    pub(crate) async fn answer(&mut self) -> Result<Bytes, ClientError> {
        match (&mut self.reply).await {
            Ok(reply) => reply,
            Err(_) => Err(ClientError::Disconnected { address: Arc::clone(&self.address) }),
        }
    }

    pub(crate) const fn address(&self) -> &Arc<str> {
        &self.address
    }
}

/// Waits for `pending` until `deadline`; a connection that misses it is closed, since nothing
/// behind the late response can be told from a response that never comes.
pub(crate) async fn wait_until(
    connection: &Connection,
    pending: Pending,
    deadline: Instant,
) -> Result<Bytes, ClientError> {
    let started = Instant::now();
    let (api, address) = (pending.api, Arc::clone(&pending.address));
    match timeout_at(deadline, pending.wait()).await {
        Ok(reply) => reply,
        Err(_) => {
            connection.close();
            let timeout_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            Err(ClientError::Timeout { address, api, timeout_ms })
        }
    }
}

async fn run(
    stream: Box<dyn Stream>,
    address: Arc<str>,
    requests: mpsc::Receiver<Outgoing>,
    max_response_bytes: usize,
) {
    let (reader, writer) = tokio::io::split(stream);
    // Unbounded, but it holds no more than what the broker accepted without answering; the
    // producer and consumer bound that.
    let (waiting, answers) = mpsc::unbounded_channel();
    tokio::select! {
        biased;
        () = write(writer, requests, waiting) => {}
        () = read(reader, answers, &address, max_response_bytes) => {}
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut requests: mpsc::Receiver<Outgoing>,
    waiting: mpsc::UnboundedSender<Waiting>,
) {
    let mut next_correlation_id = 0i32;
    let mut taken = Vec::with_capacity(SLICES);
    let mut buffers: Vec<Bytes> = Vec::with_capacity(2 * SLICES);
    let mut silent = Vec::new();
    while requests.recv_many(&mut taken, SLICES).await > 0 {
        for Outgoing { mut frame, reply } in taken.drain(..) {
            frame.head[8..12].copy_from_slice(&next_correlation_id.to_be_bytes());
            buffers.push(frame.head.freeze());
            buffers.append(&mut frame.parts);
            if frame.answered {
                let correlation_id = next_correlation_id;
                if waiting.send(Waiting { correlation_id, api: frame.api, reply }).is_err() {
                    return;
                }
            } else {
                silent.push(reply);
            }
            next_correlation_id = next_correlation_id.wrapping_add(1);
        }
        if write_all(&mut writer, &mut buffers).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        for reply in silent.drain(..) {
            // The caller may have stopped waiting.
            drop(reply.send(Ok(Bytes::new())));
        }
    }
}

/// Writes all of `buffers`, which it leaves empty.
async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    buffers: &mut Vec<Bytes>,
) -> io::Result<()> {
    let mut first = 0;
    while first < buffers.len() {
        let mut written = {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = slices.len().min(buffers.len() - first);
            for (slice, buffer) in slices.iter_mut().zip(&buffers[first..]) {
                *slice = IoSlice::new(buffer);
            }
            writer.write_vectored(&slices[..count]).await?
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while first < buffers.len() && written >= buffers[first].len() {
            written -= buffers[first].len();
            first += 1;
        }
        if written > 0 {
            buffers[first].advance(written);
        }
    }
    buffers.clear();
    Ok(())
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    mut answers: mpsc::UnboundedReceiver<Waiting>,
    address: &Arc<str>,
    max_response_bytes: usize,
) {
    let mut buffer = BytesMut::new();
    loop {
        if fill(&mut reader, &mut buffer, 4).await.is_err() {
            return;
        }
        let claimed = buffer.get_i32();
        let length = usize::try_from(claimed).unwrap_or(usize::MAX);
        if !(4..=max_response_bytes).contains(&length) {
            refuse(answers.recv().await, address, Malformed::FrameLength(claimed));
            return;
        }
        if fill(&mut reader, &mut buffer, length).await.is_err() {
            return;
        }
        let response = buffer.split_to(length).freeze();
        // A response that nothing waits for ends the connection as a lost one does.
        let Ok(waiting) = answers.try_recv() else { return };
        let found = i32::from_be_bytes([response[0], response[1], response[2], response[3]]);
        if found != waiting.correlation_id {
            let expected = waiting.correlation_id;
            refuse(Some(waiting), address, Malformed::Correlation { found, expected });
            return;
        }
        // The caller may have stopped waiting.
        drop(waiting.reply.send(Ok(response)));
    }
}

/// Reads until `buffer` holds `length` bytes. Memory is taken as bytes arrive, not as promised.
async fn fill(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    length: usize,
) -> io::Result<()> {
    while buffer.len() < length {
        let step = (length - buffer.len()).clamp(4096, READ_STEP_BYTES.max(buffer.len()));
        buffer.reserve(step);
        if reader.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn refuse(waiting: Option<Waiting>, address: &Arc<str>, source: Malformed) {
    if let Some(waiting) = waiting {
        let address = Arc::clone(address);
        let error = ClientError::Malformed { address, api: waiting.api, source };
        drop(waiting.reply.send(Err(error)));
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use tokio::io::DuplexStream;

    use super::*;

    fn frame(body: &[u8]) -> Frame {
        let mut head = BytesMut::new();
        head.put_i32(8 + i32::try_from(body.len()).unwrap());
        head.put_i16(18);
        head.put_i16(0);
        head.put_i32(0);
        let parts = vec![Bytes::copy_from_slice(body)];
        Frame { api: ApiKey::ApiVersions, head, parts, answered: true }
    }

    fn pair() -> (Connection, DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        (Connection::start(Box::new(near), "test:1".into(), 1024), far)
    }

    async fn request(far: &mut DuplexStream) -> (i32, Vec<u8>) {
        let length = far.read_i32().await.unwrap();
        let mut request = vec![0; usize::try_from(length).unwrap()];
        far.read_exact(&mut request).await.unwrap();
        (i32::from_be_bytes(request[4..8].try_into().unwrap()), request.split_off(8))
    }

    async fn answer(far: &mut DuplexStream, correlation_id: i32, body: &[u8]) {
        far.write_i32(4 + i32::try_from(body.len()).unwrap()).await.unwrap();
        far.write_i32(correlation_id).await.unwrap();
        far.write_all(body).await.unwrap();
    }

    #[tokio::test]
    async fn answers_reach_whoever_asked_though_all_are_in_flight() {
        let (connection, mut far) = pair();
        let mut pending = Vec::new();
        for n in 0..20u8 {
            pending.push(connection.send(frame(&[n; 10])).await.unwrap());
        }
        let server = async {
            for n in 0..20 {
                let (correlation_id, body) = request(&mut far).await;
                assert_eq!((correlation_id, body[0]), (i32::from(n), n));
                answer(&mut far, correlation_id, &body).await;
            }
        };
        let client = async {
            for (n, pending) in (0..20u8).zip(pending) {
                assert_eq!(pending.wait().await.unwrap()[4..], [n; 10]);
            }
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn an_answer_to_another_request_ends_the_connection() {
        let (connection, mut far) = pair();
        let first = connection.send(frame(b"a")).await.unwrap();
        let second = connection.send(frame(b"b")).await.unwrap();
        request(&mut far).await;
        request(&mut far).await;
        answer(&mut far, 1, b"").await;
        let wrong = Malformed::Correlation { found: 1, expected: 0 };
        assert!(matches!(first.wait().await,
            Err(ClientError::Malformed { source, .. }) if source == wrong));
        assert!(matches!(second.wait().await, Err(ClientError::Disconnected { .. })));
        assert!(connection.send(frame(b"c")).await.is_err());
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_before_its_bytes_arrive() {
        for length in [-1, 3, 1025, i32::MAX] {
            let (connection, mut far) = pair();
            let pending = connection.send(frame(b"a")).await.unwrap();
            far.write_i32(length).await.unwrap();
            assert!(matches!(pending.wait().await,
                Err(ClientError::Malformed { source: Malformed::FrameLength(claimed), .. })
                    if claimed == length));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missed_deadline_closes_the_connection() {
        let (connection, _far) = pair();
        let pending = connection.send(frame(b"a")).await.unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(3);
        let late = wait_until(&connection, pending, deadline).await;
        assert!(matches!(late, Err(ClientError::Timeout { timeout_ms: 3000, .. })));
        connection.outgoing.closed().await;
        assert!(connection.is_closed());
    }
}
