//! Two nodes that are only sockets, and clients of one of them.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, sleep, timeout},
};

use crate::network::{CLIENTS, Conditions, Network, NetworkKind, Place};

const CUT: Conditions = Conditions {
    cut: true,
    lose: 0.0,
    duplicate: 0.0,
    reorder: 0.0,
    delay: Duration::ZERO,
    jitter: Duration::ZERO,
};
/// For how long nothing is heard that could have come long since.
const SILENCE: Duration = Duration::from_millis(100);

async fn network() -> Network {
    Network::new(NetworkKind::Proxy, 2, 7).await.unwrap()
}

/// A node's socket, and where others find it.
async fn node(network: &Network, node: u32) -> (UdpSocket, (std::net::IpAddr, u16)) {
    let Place { host, told, cluster, .. } = network.place(node);
    (UdpSocket::bind((host, cluster)).await.unwrap(), (told, cluster))
}

/// What arrives next.
async fn heard(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    (buffer[..length].to_vec(), from)
}

/// Sends `count` datagrams, each of which has fared one way or the other at the end. Returns how
/// many were passed, all of which `receiver` has got, and how many lost.
async fn sent(
    network: &Network,
    count: u64,
    (sender, to): (&UdpSocket, (std::net::IpAddr, u16)),
    receiver: &UdpSocket,
) -> (u64, u64) {
    let before = network.packets();
    for _ in 0..count {
        let (passed, lost) = network.packets();
        sender.send_to(b"datagram", to).await.unwrap();
        while network.packets() == (passed, lost) {
            sleep(Duration::from_millis(1)).await;
        }
        for _ in passed..network.packets().0 {
            heard(receiver).await;
        }
    }
    let after = network.packets();
    (after.0 - before.0, after.1 - before.1)
}

#[tokio::test]
async fn a_node_sees_another_at_one_address_whoever_begins() {
    let network = network().await;
    let (one, told_one) = node(&network, 1).await;
    let (two, told_two) = node(&network, 2).await;
    // Of whom nobody knows anything.
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(b"stranger", told_two).await.unwrap();
    one.send_to(b"question", told_two).await.unwrap();
    let (said, from) = heard(&two).await;
    assert_eq!(said, b"question");
    assert_eq!(from.ip(), told_one.0);
    two.send_to(b"answer", from).await.unwrap();
    assert_eq!(heard(&one).await, (b"answer".to_vec(), told_two.into()));
    two.send_to(b"another", told_one).await.unwrap();
    let (said, from) = heard(&one).await;
    assert_eq!(said, b"another");
    assert_eq!(from.ip(), told_two.0);
    while network.packets().0 < 3 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(network.packets(), (3, 0));
}

#[tokio::test]
async fn as_many_datagrams_are_lost_as_told_and_in_one_direction() {
    let network = network().await;
    let (one, told_one) = node(&network, 1).await;
    let (two, told_two) = node(&network, 2).await;
    let lossy = Conditions { cut: false, lose: 0.2, ..CUT };
    network.set(BTreeMap::from([((1, 2), lossy)]));
    let (passed, lost) = sent(&network, 500, (&one, told_two), &two).await;
    assert_eq!(passed + lost, 500);
    assert!((60..140).contains(&lost), "{lost}");
    assert_eq!(sent(&network, 100, (&two, told_one), &one).await, (100, 0));
}

#[tokio::test]
async fn a_cut_in_one_direction_leaves_the_other() {
    let network = network().await;
    let (one, told_one) = node(&network, 1).await;
    let (two, told_two) = node(&network, 2).await;
    network.set(BTreeMap::from([((1, 2), CUT)]));
    assert_eq!(sent(&network, 10, (&one, told_two), &two).await, (0, 10));
    assert_eq!(sent(&network, 10, (&two, told_one), &one).await, (10, 0));
    network.set(BTreeMap::new());
    assert_eq!(sent(&network, 10, (&one, told_two), &two).await, (10, 0));
}

/// A connection of a client, as its node has it, and the client's.
async fn connected(network: &Network) -> (TcpStream, TcpStream) {
    let Place { host, told, kafka, .. } = network.place(1);
    let listener = TcpListener::bind((host, kafka)).await.unwrap();
    let client = TcpStream::connect((told, kafka)).await.unwrap();
    (listener.accept().await.unwrap().0, client)
}

async fn read(stream: &mut TcpStream) -> [u8; 4] {
    let mut read = [0; 4];
    stream.read_exact(&mut read).await.unwrap();
    read
}

#[tokio::test]
async fn bytes_wait_for_the_end_of_a_cut_and_pass_the_other_way() {
    let network = network().await;
    let (mut server, mut client) = connected(&network).await;
    network.set(BTreeMap::from([((1, CLIENTS), CUT)]));
    client.write_all(b"asks").await.unwrap();
    assert_eq!(&read(&mut server).await, b"asks");
    server.write_all(b"says").await.unwrap();
    // That it is gone is said over the link that is cut.
    drop(server);
    assert!(timeout(SILENCE, client.readable()).await.is_err());
    network.set(BTreeMap::new());
    assert_eq!(&read(&mut client).await, b"says");
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_is_passed_on_when_no_direction_is_cut() {
    let network = network().await;
    let Place { host, told, kafka, .. } = network.place(1);
    let listener = TcpListener::bind((host, kafka)).await.unwrap();
    network.set(BTreeMap::from([((1, CLIENTS), CUT)]));
    let mut client = TcpStream::connect((told, kafka)).await.unwrap();
    client.write_all(b"asks").await.unwrap();
    assert!(timeout(SILENCE, listener.accept()).await.is_err());
    network.set(BTreeMap::new());
    let (mut server, _) = listener.accept().await.unwrap();
    assert_eq!(&read(&mut server).await, b"asks");
}

#[tokio::test]
async fn bytes_that_are_delayed_keep_their_order() {
    let network = network().await;
    let (mut server, mut client) = connected(&network).await;
    let delay = Duration::from_millis(30);
    let slow = Conditions { cut: false, delay, jitter: delay, ..CUT };
    network.set(BTreeMap::from([((CLIENTS, 1), slow)]));
    let began = Instant::now();
    for number in 0..100_u32 {
        client.write_all(&number.to_be_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    for number in 0..100_u32 {
        assert_eq!(u32::from_be_bytes(read(&mut server).await), number);
    }
    assert!(began.elapsed() >= delay);
}

#[tokio::test]
async fn a_connection_to_a_node_that_is_not_there_breaks_off() {
    let network = network().await;
    let Place { told, kafka, .. } = network.place(1);
    let mut client = TcpStream::connect((told, kafka)).await.unwrap();
    assert!(client.read(&mut [0]).await.is_err());
    let (server, mut client) = connected(&network).await;
    // As the system does for a process that is killed with something unread.
    server.set_zero_linger().unwrap();
    drop(server);
    assert!(client.read(&mut [0]).await.is_err());
}

#[tokio::test]
async fn networks_side_by_side_have_addresses_of_their_own() {
    let (one, other) = (network().await, network().await);
    assert_ne!(one.place(1), other.place(1));
}
