//! What clients and nodes say to each other: the bytes of connections.
//!
//! They keep their order, as TCP would see to. While a link is cut nothing that was said over it
//! gets through, the end of a connection neither, and what is said waits, as TCP would send it
//! again. A connection is passed on once no direction is cut; its client, though, has one to the
//! proxy at once.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::super::{
    CLIENTS,
    links::{Link, Links},
};

/// Further connections to a node wait until one ends.
const CONNECTIONS: usize = 1_000;
/// The longest pause before connections are taken again where this process has no room for one.
const NO_ROOM: Duration = Duration::from_millis(100);
/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;
/// How much of that is on its way in one direction of a connection; more is not read meanwhile.
const CHUNKS: usize = 128;

/// Passes on the connections that clients make to a node, which is at `to`.
pub(super) async fn serve(
    front: TcpListener,
    node: u32,
    to: SocketAddr,
    links: Arc<Links>,
    mut rng: SmallRng,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let Ok((client, _)) = front.accept().await else {
            sleep(NO_ROOM).await;
            continue;
        };
        let rng = SmallRng::seed_from_u64(rng.random());
        connections.spawn(relay(client, node, to, Arc::clone(&links), rng));
    }
}

async fn relay(
    mut client: TcpStream,
    node: u32,
    to: SocketAddr,
    links: Arc<Links>,
    mut rng: SmallRng,
) {
    let (there, back) = ((CLIENTS, node), (node, CLIENTS));
    links.until_open(&[there, back]).await;
    let Ok(mut server) = TcpStream::connect(to).await else {
        return abort(&client);
    };
    // As both do themselves.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let seed = rng.random();
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    let up = Way { link: there, links: &links, rng }.pass(client_reads, server_writes);
    let rng = SmallRng::seed_from_u64(seed);
    let down = Way { link: back, links: &links, rng }.pass(server_reads, client_writes);
    if tokio::try_join!(up, down).is_err() {
        abort(&client);
        abort(&server);
    }
}

/// Has the other side see that this connection broke off.
fn abort(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// One direction of a connection.
struct Way<'a> {
    link: Link,
    links: &'a Links,
    rng: SmallRng,
}

impl Way<'_> {
    /// Passes on all that is said until the end of it. Fails where the connection breaks off.
    async fn pass(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
        let (said, heard) = mpsc::channel(CHUNKS);
        let (links, (sender, receiver)) = (self.links, self.link);
        let hearing = hear(to, heard, links, (receiver, sender));
        tokio::try_join!(self.listen(from, said), hearing).map(drop)
    }

    /// Takes what is said, and says when it is heard.
    async fn listen(
        mut self,
        mut from: ReadHalf<'_>,
        said: mpsc::Sender<(Instant, io::Result<Vec<u8>>)>,
    ) -> io::Result<()> {
        let mut heard_at = Instant::now();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = from.read_buf(&mut chunk).await;
            self.links.until_open(&[self.link]).await;
            let delays = self.links.of(self.link).delays(&mut self.rng);
            heard_at = heard_at.max(Instant::now() + delays);
            let is_last = !matches!(read, Ok(1..));
            if said.send((heard_at, read.map(|_| chunk))).await.is_err() || is_last {
                return Ok(());
            }
        }
    }
}

/// Hands over what was said, each when its time has come.
async fn hear(
    mut to: WriteHalf<'_>,
    mut heard: mpsc::Receiver<(Instant, io::Result<Vec<u8>>)>,
    links: &Links,
    back: Link,
) -> io::Result<()> {
    while let Some((at, chunk)) = heard.recv().await {
        // A timer would round even a moment that has passed.
        if at > Instant::now() {
            sleep_until(at).await;
        }
        let chunk = chunk?;
        if chunk.is_empty() {
            return to.shutdown().await;
        }
        if let Err(error) = to.write_all(&chunk).await {
            // That nobody hears this any more is said in the other direction.
            links.until_open(&[back]).await;
            return Err(error);
        }
    }
    Ok(())
}
