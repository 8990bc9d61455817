//! Peers that do not keep to the protocol, with and without a certificate.

use proptest::prelude::*;
use quinn::{Connection, ConnectionError, Endpoint, TokioRuntime, VarInt};

use super::{
    hello::{self, Hello},
    tls::{self, Liveness, Tls},
    *,
};
use crate::base::ClusterId;

const OUR_PORT: u16 = 7000;

/// A bare QUIC endpoint with a node's certificate.
struct Raw {
    endpoint: Endpoint,
    tls: Tls,
}

impl Raw {
    async fn new(credentials: &Credentials) -> Self {
        let clock: Arc<dyn Clock> = TokioClock::starting_at(EPOCH_MS);
        let liveness =
            Liveness { keep_alive: Duration::from_millis(500), idle: Duration::from_secs(30) };
        let endpoint = Endpoint::new_with_abstract_socket(
            tls::endpoint(credentials, [7; 32]),
            None,
            SimUdp::bind(OUR_PORT).await.into_quinn(),
            Arc::new(TokioRuntime),
        );
        Self { endpoint: endpoint.unwrap(), tls: Tls::new(credentials, &clock, liveness).unwrap() }
    }

    async fn connect(&self) -> Connection {
        let remote = SocketAddr::new(turmoil::lookup(host(2)), PORT);
        let config = self.tls.client(remote, Lane::Control);
        self.endpoint.connect_with(config, remote, tls::SERVER_NAME).unwrap().await.unwrap()
    }

    /// Connects and sends `frame` as the first.
    async fn say(&self, frame: &[u8]) -> (Connection, quinn::SendStream, quinn::RecvStream) {
        let connection = self.connect().await;
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(frame).await.unwrap();
        (connection, send, recv)
    }

    /// Connects as it should.
    async fn greet(&self, hello: &Hello) -> Connection {
        let (connection, _send, mut recv) = self.say(&hello.encode()).await;
        let mut head = [0; hello::HEAD_BYTES];
        recv.read_exact(&mut head).await.unwrap();
        connection
    }
}

fn hello(credentials: &Credentials) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        cluster_id: credentials.cluster_id(),
        node_id: credentials.node_id(),
        directory_id: DirectoryId(uuid::Uuid::from_u128(77)),
        features: 0,
        lane: Lane::Control,
        expects: Some(NodeId(2)),
        software: String::new(),
        advertised: None,
    }
}

/// Runs `attack` beside node 2, then checks that node 2 still serves node 3.
fn attacked<F>(attack: impl FnOnce(Raw, Credentials, Arc<Seen>) -> F + 'static) -> Arc<Seen>
where
    F: Future<Output = ()> + 'static,
{
    let pki = Pki::new();
    let seen = Arc::<Seen>::default();
    let mut sim = sim(71);
    node(&mut sim, &pki, 2, &[], &seen);
    let (attacker, honest) = (pki.credentials(1), pki.credentials(3));
    let theirs = Arc::clone(&seen);
    sim.client(host(1), async move {
        let raw = Raw::new(&attacker).await;
        attack(raw, attacker, theirs).await;
        let transport = start(&honest, &Arc::default(), 3).await;
        transport.set_peers(book(&[2]));
        let answer = transport.call(NodeId(2), Bytes::from_static(b"who"), soon()).await;
        assert_eq!(answer.unwrap(), "3");
        Ok(())
    });
    sim.run().unwrap();
    seen
}

/// What node 2 closed the connection with.
async fn closed(connection: &Connection) -> (VarInt, String) {
    match connection.closed().await {
        ConnectionError::ApplicationClosed(close) => {
            (close.error_code, String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn first_frames_that_make_no_sense_are_refused_with_a_reason() {
    attacked(|raw, credentials, _| async move {
        let good = hello(&credentials);
        let mut too_long = good.encode().to_vec();
        too_long[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut garbled = good.encode().to_vec();
        garbled[8..].fill(0xff);
        let none_common = Hello { version_min: 7, version_max: 9, ..good.clone() };
        let foreign = Hello { cluster_id: ClusterId(uuid::Uuid::from_u128(5)), ..good.clone() };
        let other_node = Hello { node_id: NodeId(3), ..good.clone() };
        let elsewhere = Hello { expects: Some(NodeId(9)), ..good.clone() };
        for (frame, why) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not start as"),
            (too_long, "claims 4294967295 bytes"),
            (garbled, "cannot be decoded"),
            (none_common.encode().to_vec(), "speaks versions 7 to 9"),
            (foreign.encode().to_vec(), "its certificate is node 1's"),
            (other_node.encode().to_vec(), "claims to be node 3"),
            (elsewhere.encode().to_vec(), "node 9 was dialed, but node 2 answers"),
        ] {
            let (connection, _send, _recv) = raw.say(&frame).await;
            let (_, reason) = closed(&connection).await;
            assert!(reason.contains(why), "{why}: {reason}");
        }
        let (connection, mut send, _recv) = raw.say(&good.encode()[..12]).await;
        send.finish().unwrap();
        assert!(closed(&connection).await.1.contains("cut off"));
    });
}

#[test]
fn who_says_nothing_is_let_go() {
    attacked(|raw, credentials, _| async move {
        // More than may be in their handshake at a time.
        let before = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..40 {
            silent.push(raw.connect().await);
        }
        let (half, _send, _recv) = raw.say(&hello(&credentials).encode()[..9]).await;
        for connection in silent.iter().chain([&half]) {
            assert!(closed(connection).await.1.contains("in time"));
        }
        assert!(before.elapsed() < Duration::from_secs(7));
    });
}

#[test]
fn streams_that_make_no_sense_end_alone() {
    let seen = attacked(|raw, credentials, seen| async move {
        let connection = raw.greet(&hello(&credentials)).await;
        let say = |bytes: Vec<u8>| {
            let connection = connection.clone();
            async move {
                let mut send = connection.open_uni().await.unwrap();
                send.write_all(&bytes).await.unwrap();
                send.stopped().await.unwrap().map(VarInt::into_inner)
            }
        };
        assert_eq!(say(vec![99]).await, Some(1), "an unknown class");
        assert_eq!(say(vec![5]).await, Some(1), "a class of the other lane");
        assert_eq!(say(vec![3]).await, Some(1), "a request without a way back");
        // Its length claims 4 GiB: nothing is reserved, the stream ends.
        assert_eq!(say(vec![1, 0xff, 0xff, 0xff, 0xff, 1]).await, Some(3));
        let ask = |bytes: Vec<u8>| {
            let connection = connection.clone();
            async move {
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                let _ = send.write_all(&bytes).await;
                let _ = send.finish();
                recv.read_to_end(100).await.ok()
            }
        };
        assert_eq!(ask(vec![42, 1, 2, 3]).await, None, "an unknown class");
        assert_eq!(ask(vec![1]).await, None, "messages want no way back");
        assert_eq!(ask(vec![3, 0]).await, None, "a request that is cut off");
        let mut large = vec![3, 0, 0, 0xff, 0xff];
        large.resize(17 << 20, 0);
        assert_eq!(ask(large).await, Some(vec![4]), "a request that is too large");
        assert_eq!(ask(vec![3, 0, 0, 0xff, 0xff, b'o', b'k']).await, Some(b"\0ok".to_vec()));
        let message = Bytes::from_static(&[2, 0, 0, 0, 2, b'h', b'i']);
        let mut send = connection.open_uni().await.unwrap();
        send.write_chunk(message).await.unwrap();
        eventually("what makes sense is taken", || seen.has(b"hi")).await;
    });
    assert_eq!(seen.messages.lock().len(), 1);
}

#[test]
fn requests_that_never_end_hold_no_more_than_their_budget() {
    attacked(|raw, credentials, _| async move {
        let connection = raw.greet(&hello(&credentials)).await;
        let mut open = Vec::new();
        for _ in 0..30 {
            let (mut send, recv) = connection.open_bi().await.unwrap();
            send.write_all(&[3, 0, 0, 0xff, 0xff]).await.unwrap();
            open.push((send, recv));
        }
        // 30 x 4 MiB against a budget of 64 MiB: the rest is not taken from the wire.
        let mut written = 0;
        let block = vec![0; 64 << 10];
        'all: for _ in 0..64 {
            for (send, _) in &mut open {
                let writing = tokio::time::timeout(Duration::from_secs(1), send.write_all(&block));
                match writing.await {
                    Ok(Ok(())) => written += block.len(),
                    _ => break 'all,
                }
            }
        }
        assert!(written < (64 + 36 + 2) << 20, "{written} bytes were taken");
        // After a while they are given up, and everybody is served again.
        sleep(Duration::from_secs(11)).await;
        drop(open);
        connection.close(VarInt::from_u32(0), b"");
    });
}

#[test]
fn garbage_on_the_socket_changes_nothing() {
    attacked(|raw, credentials, _| async move {
        let connection = raw.greet(&hello(&credentials)).await;
        let socket = turmoil::net::UdpSocket::bind(("0.0.0.0", 7001)).await.unwrap();
        let mut rng = SmallRng::seed_from_u64(5);
        for n in 0..3_000 {
            let mut datagram = vec![0u8; rng.random_range(0..1500)];
            rng.fill(&mut datagram[..]);
            if n % 2 == 0 && datagram.len() > 8 {
                // As the long header of a first packet has it.
                datagram[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
            }
            socket.send_to(&datagram, (host(2).as_str(), PORT)).await.unwrap();
            if n % 100 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(connection.close_reason().is_none());
    });
}

proptest! {
    #[test]
    fn no_first_frame_makes_the_decoder_panic(
        head in any::<[u8; hello::HEAD_BYTES]>(),
        message in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(length) = Hello::length(head) {
            prop_assert!(length <= 4096);
        }
        let _ = Hello::decode(&message);
    }

    #[test]
    fn changed_first_frames_are_refused_or_read_as_they_are(at in 0..60usize, to: u8) {
        let hello = Hello {
            version_min: 1,
            version_max: 3,
            cluster_id: ClusterId(uuid::Uuid::from_u128(1)),
            node_id: NodeId(4_000_000_000),
            directory_id: DirectoryId(uuid::Uuid::from_u128(2)),
            features: u64::MAX,
            lane: Lane::Bulk,
            expects: None,
            software: "0.1.0".to_owned(),
            advertised: Some(address(1)),
        };
        let frame = hello.encode();
        prop_assert_eq!(Hello::decode(&frame[hello::HEAD_BYTES..]), Ok(hello));
        let mut changed = frame[hello::HEAD_BYTES..].to_vec();
        let at = at % changed.len();
        changed[at] = to;
        if let Ok(read) = Hello::decode(&changed) {
            let again = read.encode();
            prop_assert_eq!(Hello::decode(&again[hello::HEAD_BYTES..]), Ok(read));
        }
    }
}

#[test]
fn versions_meet_at_the_highest_that_both_know() {
    let with = |min, max, ours: std::ops::RangeInclusive<u32>| {
        let pki = Pki::new();
        let hello = Hello { version_min: min, version_max: max, ..hello(&pki.credentials(1)) };
        hello.common_version(&ours)
    };
    assert_eq!(with(1, 3, 2..=5), Some(3));
    assert_eq!(with(2, 9, 1..=4), Some(4));
    assert_eq!(with(5, 9, 1..=4), None);
    assert_eq!(with(1, 1, 2..=4), None);
}
