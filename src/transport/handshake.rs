//! Who is at the other end: certificates, then the first frame, each against the other.

use std::{any::Any, net::SocketAddr, sync::Arc};

use quinn::{Connection, ConnectionError};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::{
    PeerInfo,
    endpoint::Shared,
    error::{ConnectError, RefuseError},
    hello::{HEAD_BYTES, Hello, HelloError, Lane, VERSIONS},
};
use crate::{
    base::NodeId,
    cert::{Identity, IdentityError},
};

/// A connection whose other end is known.
pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) peer: Arc<PeerInfo>,
}

/// Connects to `remote`, and finds out who is there.
pub(super) async fn dial(
    shared: &Shared,
    remote: SocketAddr,
    name: &str,
    lane: Lane,
    expects: Option<NodeId>,
) -> Result<Session, ConnectError> {
    let address = || format!("{name} ({remote})");
    let config = shared.tls.load().client(remote, lane);
    let connecting = shared
        .endpoint
        .connect_with(config, remote, super::tls::SERVER_NAME)
        .map_err(|source| ConnectError::Endpoint { address: address(), source })?;
    let wait = shared.config.connect_timeout;
    let connection = match timeout(wait, connecting).await {
        Ok(connected) => {
            connected.map_err(|source| ConnectError::Ended { address: address(), source })?
        }
        Err(_) => return Err(ConnectError::TimedOut { address: address() }),
    };
    let introduced = match timeout(wait, introduce(shared, &connection, lane, expects)).await {
        Ok(introduced) => introduced,
        Err(_) => Err(RefuseError::TooSlow),
    };
    match introduced {
        Ok(peer) => Ok(Session { connection, peer: Arc::new(peer) }),
        Err(RefuseError::Ended(source)) => Err(ConnectError::Ended { address: address(), source }),
        Err(error) => {
            refuse(&connection, &error);
            Err(ConnectError::Refused { address: address(), source: Arc::new(error) })
        }
    }
}

/// Tells the other side why, so that its log says so too.
pub(super) fn refuse(connection: &Connection, error: &RefuseError) {
    connection.close(error.close_code().code(), error.to_string().as_bytes());
}

async fn introduce(
    shared: &Shared,
    connection: &Connection,
    lane: Lane,
    expects: Option<NodeId>,
) -> Result<PeerInfo, RefuseError> {
    let certified = certified(shared, connection)?;
    if let Some(expected) = expects.filter(|expected| *expected != certified) {
        return Err(RefuseError::WrongNode { expected, found: certified });
    }
    let (mut send, mut recv) = connection.open_bi().await.map_err(RefuseError::Ended)?;
    let ours = Hello { lane, expects, ..shared.hello() };
    let ended = |_| RefuseError::Ended(reason(connection));
    send.write_all(&ours.encode()).await.map_err(ended)?;
    let theirs = read_hello(connection, &mut recv).await?;
    if theirs.node_id == shared.node_id() && theirs.directory_id == shared.config.directory_id {
        return Err(RefuseError::Oneself(theirs.node_id));
    }
    check(shared, connection, certified, theirs, lane)
}

/// The accepting side: learns who dialed, and answers unless it is refused.
pub(super) async fn welcome(
    shared: &Shared,
    connection: &Connection,
) -> Result<Arc<PeerInfo>, RefuseError> {
    let certified = certified(shared, connection)?;
    let (mut send, mut recv) = connection.accept_bi().await.map_err(RefuseError::Ended)?;
    let theirs = read_hello(connection, &mut recv).await?;
    let found = shared.node_id();
    if let Some(expected) = theirs.expects.filter(|expected| *expected != found) {
        return Err(RefuseError::WrongNode { expected, found });
    }
    let lane = theirs.lane;
    // A node that finds itself among its seeds is told so, and closes the connection.
    let is_oneself = theirs.node_id == found && theirs.directory_id == shared.config.directory_id;
    let peer = check(shared, connection, certified, theirs, lane)?;
    if !is_oneself {
        shared.check_duplicate(&peer)?;
        shared.service.admit(&peer).map_err(RefuseError::NotAdmitted)?;
    }
    let ours = Hello { lane, ..shared.hello() };
    let ended = |_| RefuseError::Ended(reason(connection));
    send.write_all(&ours.encode()).await.map_err(ended)?;
    Ok(Arc::new(peer))
}

/// Whose certificate the other side has shown; its cluster is this one.
fn certified(shared: &Shared, connection: &Connection) -> Result<NodeId, RefuseError> {
    let shown: Option<Box<dyn Any>> = connection.peer_identity();
    let chain = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = chain.ok_or(IdentityError::Missing)?;
    let identity = Identity::of_certificate(chain.first().ok_or(IdentityError::Missing)?)?;
    let expected = shared.cluster_id();
    if identity.cluster_id != expected {
        return Err(RefuseError::WrongCluster { found: identity.cluster_id, expected });
    }
    identity.node_id.ok_or(RefuseError::Certificate(IdentityError::Missing))
}

fn check(
    shared: &Shared,
    connection: &Connection,
    certified: NodeId,
    theirs: Hello,
    lane: Lane,
) -> Result<PeerInfo, RefuseError> {
    if theirs.node_id != certified || theirs.cluster_id != shared.cluster_id() {
        let (claimed, cluster) = (theirs.node_id, theirs.cluster_id);
        return Err(RefuseError::FalseClaim { claimed, cluster, certified });
    }
    if certified == shared.node_id() && theirs.directory_id != shared.config.directory_id {
        let (connected, found) = (shared.config.directory_id, theirs.directory_id);
        return Err(RefuseError::Duplicate { node: certified, connected, found });
    }
    let version = theirs.common_version(&VERSIONS).ok_or(RefuseError::Version {
        min: theirs.version_min,
        max: theirs.version_max,
        our_min: *VERSIONS.start(),
        our_max: *VERSIONS.end(),
    })?;
    Ok(PeerInfo {
        node_id: certified,
        cluster_id: theirs.cluster_id,
        directory_id: theirs.directory_id,
        version,
        features: theirs.features,
        software: theirs.software,
        advertised: theirs.advertised,
        remote: connection.remote_address(),
        lane,
    })
}

async fn read_hello(
    connection: &Connection,
    recv: &mut quinn::RecvStream,
) -> Result<Hello, RefuseError> {
    use quinn::ReadExactError::{FinishedEarly, ReadError};
    let failed = |error| match error {
        FinishedEarly(_) | ReadError(quinn::ReadError::Reset(_)) => HelloError::Truncated.into(),
        ReadError(_) => RefuseError::Ended(reason(connection)),
    };
    let mut head = [0; HEAD_BYTES];
    recv.read_exact(&mut head).await.map_err(failed)?;
    let mut message = vec![0; Hello::length(head)?];
    recv.read_exact(&mut message).await.map_err(failed)?;
    Ok(Hello::decode(&message)?)
}

/// Why a connection ended.
fn reason(connection: &Connection) -> ConnectionError {
    connection.close_reason().unwrap_or(ConnectionError::Reset)
}
