//! Connections over real sockets and in-memory streams.

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::*;
use crate::base::Blocking;

/// What the first byte after a request's header asks the test handler to do.
const ECHO: u8 = 0;
const WAIT: u8 = 1;
const SILENT: u8 = 2;
const CLOSE: u8 = 3;
const RECORDS: u8 = 4;
const STALL_START: u8 = 5;
const FILE: u8 = 6;
const GROW: u8 = 7;
/// What a `GROW` takes beyond its own bytes.
const GROWN_BYTES: usize = 10_000;

#[derive(Default)]
struct Echo {
    started: Mutex<Vec<Bytes>>,
    progress: Notify,
    release: Arc<Notify>,
}

/// Records of a recognizable pattern; the first read finds them on disk only.
struct Pattern(u64);

impl RecordSource for Pattern {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (byte, position) in buffer.iter_mut().zip(position..) {
            *byte = pattern(position);
        }
        Ok(())
    }

    fn is_cached(&self, position: u64, _: usize) -> bool {
        position > 0
    }
}

/// The same pattern in a file, from `begin` on.
struct FilePattern {
    file: std::fs::File,
    begin: u64,
    length: u64,
}

impl RecordSource for FilePattern {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, self.begin + position)
    }

    fn is_cached(&self, _: u64, _: usize) -> bool {
        true
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        Some((self.file.as_fd(), self.begin))
    }
}

fn pattern_file() -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..(2 << 20) + 3).map(pattern).collect();
    io::Write::write_all(&mut file, &bytes).unwrap();
    file
}

fn pattern(position: u64) -> u8 {
    (position % 251) as u8
}

impl Handler for Echo {
    type Session = ();

    fn open(&self, _: Connection) {}

    async fn start(&self, (): &(), request: Frame, memory: &mut RequestMemory) -> Started {
        self.started.lock().push(request.payload.clone());
        self.progress.notify_one();
        let response = Response::from(request.payload.clone());
        match request.payload.get(8).copied().unwrap_or(ECHO) {
            WAIT => {
                let release = Arc::clone(&self.release);
                Started::later(async move {
                    release.notified().await;
                    response.into()
                })
            }
            SILENT => Reply::Silent.into(),
            CLOSE => Reply::Close(CloseReason::MalformedRequest).into(),
            RECORDS => {
                let records = Part::Records(Arc::new(Pattern(1 << 20)));
                let tail = Part::Bytes(Bytes::from_static(b"tail"));
                Response::new(vec![Part::Bytes(request.payload), records, tail]).into()
            }
            FILE => {
                let part = |begin, length| {
                    Part::Records(Arc::new(FilePattern { file: pattern_file(), begin, length }))
                };
                // Large and small, with bytes between and without.
                let mut parts = vec![Part::Bytes(request.payload), part(3, 2 << 20)];
                parts.extend([
                    part(0, 1 << 20),
                    part(7, 100),
                    Part::Bytes(Bytes::from_static(b"!")),
                ]);
                parts.extend([part(11, 16 << 10), part(1, 10)]);
                Response::new(parts).into()
            }
            GROW => {
                memory.grow(GROWN_BYTES).await;
                let release = Arc::clone(&self.release);
                Started::later(async move {
                    release.notified().await;
                    response.into()
                })
            }
            STALL_START => {
                self.release.notified().await;
                response.into()
            }
            _ => response.into(),
        }
    }
}

/// A listener whose connections a test makes by hand.
struct Streams(mpsc::Receiver<DuplexStream>);

impl Listener for Streams {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(stream) => Ok((stream, ([127, 0, 0, 1], 9).into())),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 9092).into())
    }
}

struct Fixture {
    handler: Arc<Echo>,
    server: Arc<Server<Echo>>,
    connect: mpsc::Sender<DuplexStream>,
    serving: JoinHandle<io::Result<()>>,
}

impl Fixture {
    fn start(limits: Limits) -> Self {
        let handler = Arc::new(Echo::default());
        let server = Arc::new(Server::new(Arc::clone(&handler), limits, Blocking::inline()));
        let (connect, streams) = mpsc::channel(64);
        let serving = {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.serve(Streams(streams), "test").await })
        };
        Self { handler, server, connect, serving }
    }

    async fn connect(&self) -> DuplexStream {
        let (client, server) = duplex(16 << 10);
        self.connect.send(server).await.unwrap();
        client
    }

    async fn started(&self, count: usize) {
        while self.handler.started.lock().len() < count {
            self.handler.progress.notified().await;
        }
    }
}

fn request(number: i32, action: u8, extra: usize) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_i32(9 + extra as i32);
    frame.put_i16(3);
    frame.put_i16(0);
    frame.put_i32(number);
    frame.put_u8(action);
    frame.put_bytes(7, extra);
    frame
}

async fn response(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> BytesMut {
    let length = stream.read_i32().await.unwrap();
    let mut body = BytesMut::zeroed(length as usize);
    stream.read_exact(&mut body).await.unwrap();
    body
}

#[tokio::test(start_paused = true)]
async fn responses_keep_the_order_of_their_requests() {
    let fixture = Fixture::start(Limits::default());
    let mut client = fixture.connect().await;
    for (number, action) in [(1, WAIT), (2, ECHO), (3, SILENT), (4, WAIT), (5, ECHO)] {
        client.write_all(&request(number, action, 0)).await.unwrap();
    }
    fixture.started(5).await;
    fixture.handler.release.notify_waiters();
    for number in [1, 2, 4, 5] {
        assert_eq!(response(&mut client).await[4..8], i32::to_be_bytes(number));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_not_read_beyond_its_pipeline() {
    let limits = Limits { max_in_flight_requests: 2, ..Limits::default() };
    let fixture = Fixture::start(limits);
    let mut client = fixture.connect().await;
    for number in 0..5 {
        client.write_all(&request(number, WAIT, 0)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.handler.started.lock().len(), 2);
    for _ in 0..2 {
        fixture.handler.release.notify_waiters();
        response(&mut client).await;
        response(&mut client).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fixture.handler.started.lock().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn records_arrive_whole_and_between_the_bytes_around_them() {
    // Without spare buffers every stall makes the writer give its buffer back and read again.
    for record_buffers in [0, 64] {
        let fixture = Fixture::start(Limits { record_buffers, ..Limits::default() });
        let mut client = fixture.connect().await;
        client.write_all(&request(1, RECORDS, 0)).await.unwrap();
        let body = response(&mut client).await;
        assert_eq!(body.len(), 9 + (1 << 20) + 4);
        assert!(body[9..body.len() - 4].iter().copied().eq((0..1 << 20).map(pattern)));
        assert!(body.ends_with(b"tail"));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_any_size_arrive_whole_however_they_are_cut() {
    let fixture = Fixture::start(Limits::default());
    for (extra, step) in [(0, 1), (100, 3), (9_000, 1_000), (300_000, 4_099), (8_183, 8_191)] {
        let mut client = fixture.connect().await;
        let sent = [request(1, ECHO, extra), request(2, ECHO, extra)].concat();
        let (mut reading, mut writing) = tokio::io::split(&mut client);
        let write = async {
            for piece in sent.chunks(step) {
                writing.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let read = async { [response(&mut reading).await, response(&mut reading).await] };
        let ((), got) = tokio::join!(write, read);
        assert_eq!([&got[0][..], &got[1][..]].concat(), {
            let half = sent.len() / 2;
            [&sent[4..half], &sent[half + 4..]].concat()
        });
    }
    assert_eq!(fixture.server.request_memory_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn foreign_protocols_and_absurd_lengths_are_cut_off_at_once() {
    let fixture = Fixture::start(Limits::default());
    let tls: &[u8] = &[0x16, 3, 1, 2, 0, 1];
    for bytes in [tls, b"GET / HTTP/1.1\r\n\r\n", &[0xff; 8], &[0x7f, 0xff, 0xff, 0xff]] {
        let mut client = fixture.connect().await;
        client.write_all(bytes).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }
    assert!(fixture.handler.started.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_claimed_length_reserves_nothing() {
    let limits = Limits { request_memory_bytes: 1 << 20, ..Limits::default() };
    let fixture = Fixture::start(limits);
    let mut half_open = Vec::new();
    for _ in 0..2_000 {
        let mut client = fixture.connect().await;
        client.write_all(&(90_i32 << 20).to_be_bytes()).await.unwrap();
        half_open.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.server.request_memory_bytes(), 0);
    let began = tokio::time::Instant::now();
    let mut honest = fixture.connect().await;
    honest.write_all(&request(1, ECHO, 900_000)).await.unwrap();
    assert_eq!(response(&mut honest).await.len(), 900_009);
    assert!(began.elapsed() < Duration::from_secs(1), "it waited for the half-open ones");
    for mut client in half_open {
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }
    assert!(began.elapsed() <= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_takes_beyond_its_request_counts_until_it_has_answered() {
    let fixture = Fixture::start(Limits { request_memory_bytes: 25_000, ..Limits::default() });
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = fixture.connect().await;
        client.write_all(&request(number, GROW, 0)).await.unwrap();
        clients.push(client);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Two have room, the third goes beyond, the fourth waits.
    assert_eq!(fixture.handler.started.lock().len(), 4);
    assert!((2 * GROWN_BYTES..=25_000).contains(&fixture.server.request_memory_bytes()));
    fixture.handler.release.notify_waiters();
    for client in &mut clients[..3] {
        response(client).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.server.request_memory_bytes(), GROWN_BYTES + 9);
    fixture.handler.release.notify_waiters();
    response(&mut clients[3]).await;
    assert_eq!(fixture.server.request_memory_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn silent_and_slow_clients_are_closed() {
    let fixture = Fixture::start(Limits::default());
    let began = tokio::time::Instant::now();
    let mut partial = fixture.connect().await;
    partial.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
    assert_eq!(partial.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 30);

    // A request that does not arrive is no reason to stay longer than an idle connection may.
    let max_idle = Duration::from_secs(7);
    let strict = Fixture::start(Limits { max_idle, ..Limits::default() });
    let began = tokio::time::Instant::now();
    let mut partial = strict.connect().await;
    for byte in [0, 0, 0] {
        partial.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(partial.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 10 + 7);

    let mut idle = fixture.connect().await;
    idle.write_all(&request(1, ECHO, 0)).await.unwrap();
    response(&mut idle).await;
    let began = tokio::time::Instant::now();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 600);

    // Takes nothing of a megabyte: the node gives up, though the client never closes.
    let mut deaf = fixture.connect().await;
    deaf.write_all(&request(1, RECORDS, 0)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut got = Vec::new();
    deaf.read_to_end(&mut got).await.unwrap();
    assert!(got.len() < 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_large_request_may_take_as_long_as_it_keeps_the_pace() {
    let fixture = Fixture::start(Limits::default());
    let mut client = fixture.connect().await;
    let request = request(1, ECHO, 1 << 20);
    for chunk in request.chunks(64 << 10) {
        client.write_all(chunk).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(response(&mut client).await.len(), 9 + (1 << 20));
}

#[tokio::test(start_paused = true)]
async fn one_address_gets_its_share_of_connections_and_all_together_theirs() {
    let limits = Limits { max_connections_per_ip: 1, ..Limits::default() };
    let fixture = Fixture::start(limits);
    let mut first = fixture.connect().await;
    first.write_all(&request(1, ECHO, 0)).await.unwrap();
    response(&mut first).await;
    let mut second = fixture.connect().await;
    assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0);

    let one = Acceptance { max_connections: 1, ..Acceptance::default() };
    let fixture = Fixture::start(Limits { acceptance: one, ..Limits::default() });
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    second.write_all(&request(1, ECHO, 0)).await.unwrap();
    first.write_all(&request(2, ECHO, 0)).await.unwrap();
    response(&mut first).await;
    assert_eq!(fixture.handler.started.lock().len(), 1, "the second waits in the backlog");
    drop(first);
    response(&mut second).await;
}

#[tokio::test(start_paused = true)]
async fn connections_come_in_at_the_rate_of_the_node_or_of_their_listener() {
    let ten = Acceptance { creation_rate: 10, ..Acceptance::default() };
    let by_listener = |limit| [("test".to_owned(), limit)].into_iter().collect();
    for limits in [
        Limits { acceptance: ten, ..Limits::default() },
        Limits { by_listener: by_listener(ten), ..Limits::default() },
    ] {
        let fixture = Fixture::start(limits);
        let began = tokio::time::Instant::now();
        // Ten at once, then one each tenth of a second.
        for (number, after_ms) in [(9, 0), (10, 100), (19, 1_000)] {
            while fixture.handler.started.lock().len() <= number {
                let mut client = fixture.connect().await;
                client.write_all(&request(1, ECHO, 0)).await.unwrap();
                response(&mut client).await;
            }
            let elapsed = began.elapsed().as_millis();
            assert!((after_ms..after_ms + 20).contains(&elapsed), "{number}: {elapsed} ms");
        }
        // A limit that is lifted is lifted for those who wait already.
        let mut waits = fixture.connect().await;
        waits.write_all(&request(1, ECHO, 0)).await.unwrap();
        tokio::task::yield_now().await;
        fixture.server.set_limits(Limits::default());
        let lifted = tokio::time::Instant::now();
        response(&mut waits).await;
        assert!(lifted.elapsed().as_millis() < 20);
    }
    let none = Acceptance { max_connections: 0, ..Acceptance::default() };
    let other = [("other".to_owned(), none)].into_iter().collect();
    let fixture = Fixture::start(Limits { by_listener: other, ..Limits::default() });
    let mut client = fixture.connect().await;
    client.write_all(&request(1, ECHO, 0)).await.unwrap();
    response(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_closes_after_what_came_before_was_answered() {
    let fixture = Fixture::start(Limits::default());
    let mut client = fixture.connect().await;
    for (number, action) in [(1, WAIT), (2, CLOSE), (3, ECHO)] {
        client.write_all(&request(number, action, 0)).await.unwrap();
    }
    fixture.started(2).await;
    fixture.handler.release.notify_waiters();
    assert_eq!(response(&mut client).await[4..8], 1_i32.to_be_bytes());
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_what_is_in_flight_and_cuts_what_does_not_end() {
    for (action, answered) in [(WAIT, true), (STALL_START, true), (WAIT, false)] {
        let fixture = Fixture::start(Limits::default());
        let mut client = fixture.connect().await;
        let mut idle = fixture.connect().await;
        client.write_all(&request(1, action, 0)).await.unwrap();
        fixture.started(1).await;
        fixture.server.stop(Duration::from_secs(5));
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "idle connections end at once");
        if answered {
            fixture.handler.release.notify_waiters();
            assert_eq!(response(&mut client).await[4..8], 1_i32.to_be_bytes());
        }
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        fixture.serving.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn real_sockets_are_served() {
    let handler = Arc::new(Echo::default());
    let server = Server::new(Arc::clone(&handler), Limits::default(), Blocking::inline());
    let listener = TcpListener::bind(([127, 0, 0, 1], 0).into(), SocketBuffers::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let client = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&request(1, ECHO, 2_000_000)).await.unwrap();
        assert_eq!(response(&mut client).await.len(), 2_000_009);
        client.write_all(&request(2, RECORDS, 0)).await.unwrap();
        assert_eq!(response(&mut client).await.len(), 9 + (1 << 20) + 4);
        client.write_all(&request(3, FILE, 0)).await.unwrap();
        let ranges = [3..(2 << 20) + 3, 0..1 << 20, 7..107].map(|range| range.map(pattern));
        let more = [11..(16 << 10) + 11, 1..11].map(|range| range.map(pattern));
        let records = ranges.into_iter().flatten().chain([b'!']).chain(more.into_iter().flatten());
        assert!(response(&mut client).await[9..].iter().copied().eq(records));
        server.stop(Duration::from_secs(5));
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    };
    let ((), served) = tokio::join!(client, server.serve(listener, "test"));
    served.unwrap();
}
