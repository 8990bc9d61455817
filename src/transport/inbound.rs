//! Connections that peers dialed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{
    MessageClass, PeerInfo,
    endpoint::Shared,
    error::{CloseCode, RefuseError, StreamCode},
    handshake,
    hello::Lane,
    request,
    stream::{Class, Stream, StreamReceiver, StreamSender},
};

/// Handshakes under way at a time. From half of that on, a sender must first show that it receives
/// at the address it sends from.
const HANDSHAKES_MAX: usize = 64;
/// How long a peer may take until its first frame is there.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream may take to say what it is for.
const CLASS_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut connections = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            incoming = shared.endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let is_busy = handshakes.available_permits() <= HANDSHAKES_MAX / 2;
        if is_busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // Cannot fail, as it may.
            let _ = incoming.retry();
            continue;
        }
        let Ok(place) = Arc::clone(&handshakes).try_acquire_owned() else {
            shared.metrics.overload.increment(1);
            incoming.refuse();
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move { serve(shared, incoming, place).await });
    }
}

async fn serve(shared: Arc<Shared>, incoming: Incoming, place: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let config = Arc::new(shared.tls.load().server(remote));
    let connecting = async { incoming.accept_with(config)?.await };
    let connection = match timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return failed(&shared, remote, &RefuseError::Ended(error)),
        Err(_) => return failed(&shared, remote, &RefuseError::TooSlow),
    };
    let welcomed = timeout(HANDSHAKE_TIMEOUT, handshake::welcome(&shared, &connection)).await;
    let peer = match welcomed.unwrap_or(Err(RefuseError::TooSlow)) {
        Ok(peer) => peer,
        Err(error) => {
            handshake::refuse(&connection, &error);
            return failed(&shared, remote, &error);
        }
    };
    drop(place);
    if peer.lane == Lane::Probe {
        // It was answered, and has nothing more to say.
        if timeout(HANDSHAKE_TIMEOUT, connection.closed()).await.is_err() {
            connection.close(CloseCode::NotNeeded.code(), b"nothing more was expected");
        }
        return;
    }
    let (node, lane) = (peer.node_id, peer.lane.name());
    info!(%node, lane, %remote, software = peer.software, "a peer has connected");
    shared.enter(&peer, &connection);
    streams(&shared, &peer, &connection).await;
    shared.leave(&peer, &connection);
    debug!(%node, lane, %remote, reason = ?connection.close_reason(), "a peer's connection has ended");
}

fn failed(shared: &Shared, remote: SocketAddr, error: &RefuseError) {
    shared.metrics.accepted_failure(error.label());
    let is_ours = match error {
        RefuseError::Ended(ConnectionError::ApplicationClosed(closed)) => {
            // It found itself, has no more use for the connection, or stops.
            if [CloseCode::NotNeeded, CloseCode::Stopped]
                .map(CloseCode::code)
                .contains(&closed.error_code)
            {
                return;
            }
            false
        }
        RefuseError::Ended(ConnectionError::ConnectionClosed(_)) => false,
        RefuseError::Ended(
            ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::LocallyClosed,
        ) => return debug!(%remote, %error, "no connection from a peer"),
        _ => true,
    };
    let Some(more) = shared.refusals.permits() else {
        debug!(%remote, %error, "no connection from a peer");
        return;
    };
    match is_ours {
        true => warn!(%remote, %error, more, "refused a connection from a peer"),
        false => warn!(%remote, %error, more, "a peer that had dialed refused this node"),
    }
}

/// Serves the streams of a connection until it ends.
async fn streams(shared: &Arc<Shared>, peer: &Arc<PeerInfo>, connection: &Connection) {
    // As many at a time as the connection's limits on streams allow.
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            stream = connection.accept_uni() => {
                let Ok(stream) = stream else { return };
                let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
                tasks.spawn(async move { messages(&shared, &peer, stream).await });
            }
            stream = connection.accept_bi() => {
                let Ok((send, recv)) = stream else { return };
                let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
                tasks.spawn(async move { exchange(&shared, peer, send, recv).await });
            }
        }
    }
}

/// What a stream is for; `None` where this node does not know, and has said so.
async fn class(shared: &Shared, peer: &PeerInfo, receiver: &mut StreamReceiver) -> Option<Class> {
    let first = timeout(CLASS_TIMEOUT, receiver.read(1)).await;
    let byte = *first.ok()?.ok()??.first()?;
    let class = Class::of(byte, peer.lane);
    if class.is_none() {
        shared.metrics.streams_refused.increment(1);
        let (node, lane) = (peer.node_id, peer.lane.name());
        debug!(%node, lane, byte, "refused a stream of an unknown class");
        receiver.stop(StreamCode::UnknownClass);
    }
    class
}

async fn messages(shared: &Shared, peer: &Arc<PeerInfo>, stream: quinn::RecvStream) {
    let mut receiver = StreamReceiver::new(stream);
    let Some(class) = class(shared, peer, &mut receiver).await else { return };
    let Class::Messages(MessageClass::Urgent | MessageClass::Log) = class else {
        shared.metrics.streams_refused.increment(1);
        return receiver.stop(StreamCode::UnknownClass);
    };
    loop {
        match receiver.read_frame(shared.config.message_max_bytes).await {
            Ok(Some(message)) => shared.service.message(peer, message),
            Ok(None) => return,
            Err(error) => {
                debug!(node = %peer.node_id, %error, "a stream of messages has ended");
                return receiver.stop(StreamCode::Malformed);
            }
        }
    }
}

async fn exchange(
    shared: &Arc<Shared>,
    peer: Arc<PeerInfo>,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
) {
    let (mut sender, mut receiver) = (StreamSender::new(send), StreamReceiver::new(recv));
    match class(shared, &peer, &mut receiver).await {
        Some(class @ Class::Request) => {
            sender.set_priority(class.priority());
            request::serve(shared, peer, sender, receiver).await;
        }
        Some(Class::Stream(class)) => {
            sender.set_priority(Class::Stream(class).priority());
            let stream = Stream { peer: Arc::clone(&peer), sender, receiver };
            shared.service.stream(peer, class, stream);
        }
        Some(Class::Messages(_)) | None => sender.reset(StreamCode::UnknownClass),
    }
}
