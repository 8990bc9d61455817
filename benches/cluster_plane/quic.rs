//! Over our transport, as replicas go: the follower dials and opens streams, the leader pushes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use ottla::{
    base::{Clock as _, DirectoryId, NodeId, SystemClock},
    cert::{Credentials, Files, NewNode, new_ca, new_node},
    config::{Address, NodeConfig},
    transport::{
        NotServed, PeerInfo, Seams, Service, Socket, Stream, StreamClass, SystemResolver,
        Transport, TransportConfig,
    },
};
use tempfile::TempDir;
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::copies::{ACKNOWLEDGEMENT_BYTES, Copied, HEADER_BYTES, Load, Side, Watch, joined, side};

const HOST: &str = "127.0.0.1";
const LEADER: NodeId = NodeId(1);
const FOLLOWER: NodeId = NodeId(2);
const SETUP_MAX: Duration = Duration::from_secs(30);
const FRAME_MAX_BYTES: usize = 104 << 20;

pub(crate) fn copy(load: Load) -> Result<Copied> {
    let pki = TempDir::new()?;
    new_ca(pki.path(), None, SystemClock.wall_ms(), None)?;
    let (leader, follower) = (credentials(&pki, LEADER)?, credentials(&pki, FOLLOWER)?);
    let (found, port) = std::sync::mpsc::channel();
    let sender = side("sender", move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(push(load, &leader, found))
    })?;
    let receiver = side("receiver", move || {
        let port = port.recv().context("the leader did not start")?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(follow(load, &follower, port))
    })?;
    let receiver = joined(receiver)?;
    Ok(Copied::new(load, &joined(sender)?, &receiver))
}

async fn push(
    load: Load,
    credentials: &Credentials,
    found: std::sync::mpsc::Sender<u16>,
) -> Result<Side> {
    let (opened, mut streams) = mpsc::unbounded_channel();
    let transport = start(credentials, Leader(opened))?;
    found.send(transport.local_addr()?.port())?;
    let mut all = Vec::new();
    while all.len() < load.streams {
        all.push(streams.recv().await.context("the follower did not come")?);
    }
    let watch = Watch::start()?;
    let payload = load.payload();
    let pushes = all.into_iter().map(|stream| {
        let payload = payload.clone();
        async move { tokio::spawn(push_one(load, stream, payload)).await? }
    });
    try_join_all(pushes).await?;
    let side = watch.stop()?;
    transport.stop().await;
    Ok(side)
}

async fn push_one(load: Load, stream: Stream, payload: Bytes) -> Result<()> {
    let Stream { mut sender, mut receiver, .. } = stream;
    let header = Bytes::from_static(&[0; HEADER_BYTES]);
    let (done, acknowledged) = oneshot::channel();
    tokio::spawn(async move {
        for _ in 0..load.frames() {
            if !matches!(receiver.read_frame(FRAME_MAX_BYTES).await, Ok(Some(_))) {
                return;
            }
        }
        let _ = done.send(());
    });
    for _ in 0..load.frames() {
        sender.write_frame(&mut [header.clone(), payload.clone()]).await?;
    }
    acknowledged.await.context("the follower left")?;
    sender.finish();
    Ok(())
}

async fn follow(load: Load, credentials: &Credentials, port: u16) -> Result<Side> {
    let transport = start(credentials, Follower)?;
    let leader = Address { host: HOST.to_owned(), port };
    transport.set_peers(BTreeMap::from([(LEADER, vec![leader])]));
    let until = Instant::now() + SETUP_MAX;
    let mut streams = Vec::new();
    while streams.len() < load.streams {
        match transport.open(LEADER, StreamClass::Replica, until).await {
            Ok(stream) => streams.push(stream),
            Err(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    let watch = Watch::start()?;
    let follows = streams
        .into_iter()
        .map(|stream| async move { tokio::spawn(follow_one(load, stream)).await? });
    try_join_all(follows).await?;
    let side = watch.stop()?;
    transport.stop().await;
    Ok(side)
}

async fn follow_one(load: Load, stream: Stream) -> Result<()> {
    let Stream { mut sender, mut receiver, .. } = stream;
    let acknowledgement = Bytes::from_static(&[0; ACKNOWLEDGEMENT_BYTES]);
    for _ in 0..load.frames() {
        let frame = receiver.read_frame(FRAME_MAX_BYTES).await?.context("the leader left")?;
        if frame.len() != HEADER_BYTES + load.frame_bytes {
            bail!("a frame of {} bytes", frame.len());
        }
        drop(frame);
        sender.write_frame(&mut [acknowledgement.clone()]).await?;
    }
    sender.finish();
    // The leader ends its side once it has them all.
    if receiver.read_frame(FRAME_MAX_BYTES).await?.is_some() {
        bail!("a frame too many");
    }
    Ok(())
}

fn credentials(pki: &TempDir, node_id: NodeId) -> Result<Credentials> {
    let directory = pki.path().join(format!("node-{node_id}"));
    let ca = pki.path().to_owned();
    let now_ms = SystemClock.wall_ms();
    let new = NewNode { ca, directory, node_id, hosts: Vec::new(), days: 1, renew: false };
    let files: Files = new_node(&new, now_ms)?;
    Ok(files.load(node_id, now_ms)?)
}

fn start(credentials: &Credentials, service: impl Service) -> Result<Transport> {
    let node_id = credentials.node_id();
    let settings = BTreeMap::from([("node.id".to_owned(), node_id.to_string())]);
    let config = NodeConfig::from_settings(settings)?;
    let directory = DirectoryId(uuid::Uuid::from_u128(u128::from(node_id.0)));
    let seams = Seams {
        socket: Socket::bind(format!("{HOST}:0").parse()?)?,
        clock: Arc::new(SystemClock),
        resolver: Arc::new(SystemResolver),
        seed: u64::from(node_id.0),
    };
    let config = TransportConfig::new(&config, directory);
    Ok(Transport::start(config, credentials, seams, Arc::new(service))?)
}

/// Takes the streams that the follower opens.
struct Leader(mpsc::UnboundedSender<Stream>);

/// Serves nothing: nobody dials it.
struct Follower;

impl Service for Leader {
    fn message(&self, _: &Arc<PeerInfo>, _: Bytes) {}

    fn call(
        &self,
        _: Arc<PeerInfo>,
        _: Bytes,
        _: Instant,
    ) -> BoxFuture<'static, Result<Bytes, NotServed>> {
        Box::pin(async { Err(NotServed::NotReady) })
    }

    fn stream(&self, _: Arc<PeerInfo>, _: StreamClass, stream: Stream) {
        // Nobody waits any more where the measurement has failed.
        let _ = self.0.send(stream);
    }
}

impl Service for Follower {
    fn message(&self, _: &Arc<PeerInfo>, _: Bytes) {}

    fn call(
        &self,
        _: Arc<PeerInfo>,
        _: Bytes,
        _: Instant,
    ) -> BoxFuture<'static, Result<Bytes, NotServed>> {
        Box::pin(async { Err(NotServed::NotReady) })
    }

    fn stream(&self, _: Arc<PeerInfo>, _: StreamClass, _: Stream) {}
}
