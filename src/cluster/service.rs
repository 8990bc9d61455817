//! What peers send: to whom it goes.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use protobuf::Message as _;
use tokio::time::{Instant, timeout_at};

use super::{
    Cluster, Shared, snapshots,
    wire::{Answer, Ask, Done, Found},
};
use crate::{
    base::NodeId,
    quorum::raftpb::{Message, MessageType},
    transport::{NotServed, PeerInfo, Service, Stream, StreamClass},
};

/// Serves the transport. Holds the cluster weakly, as the cluster holds the transport.
#[derive(Clone)]
pub struct Plane(Weak<Shared>);

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plane")
    }
}

impl Plane {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self(Arc::downgrade(&cluster.0))
    }

    fn cluster(&self) -> Option<Cluster> {
        self.0.upgrade().map(Cluster)
    }
}

impl Service for Plane {
    fn message(&self, from: &Arc<PeerInfo>, message: Bytes) {
        let Some(cluster) = self.cluster() else { return };
        let Ok(message) = Message::parse_from_bytes(&message) else {
            return tracing::warn!(node = %from.node_id, "a Raft message cannot be read");
        };
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        if let (false, Some(quorum)) = (is_snapshot, cluster.quorum())
            && cluster.hear(from, &message)
        {
            cluster.0.alive.note(from.node_id);
            quorum.step(message);
        }
    }

    fn call(
        &self,
        from: Arc<PeerInfo>,
        request: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Bytes, NotServed>> {
        let cluster = self.cluster();
        async move {
            let cluster = cluster.ok_or(NotServed::NotReady)?;
            let ask = Ask::of_bytes(request).ok_or(NotServed::Unknown)?;
            Ok(cluster.answer(&from, ask, deadline).await.into_bytes())
        }
        .boxed()
    }

    fn stream(&self, _from: Arc<PeerInfo>, class: StreamClass, stream: Stream) {
        let Some(cluster) = self.cluster() else { return };
        match class {
            StreamClass::Snapshot => drop(tokio::spawn(snapshots::receive(cluster, stream))),
            StreamClass::Replica | StreamClass::CatchUp => {
                // While this node opens its logs it is dropped, and the peer sees it cancelled.
                if let Some(serve) = cluster.0.replicas.get() {
                    serve(class, stream);
                }
            }
        }
    }

    fn unreachable(&self, node: NodeId) {
        let Some(cluster) = self.cluster() else { return };
        let Some(quorum) = cluster.quorum() else { return };
        for (peer_id, member) in &quorum.status().configuration.members {
            if member.node_id == node {
                quorum.unreachable(*peer_id);
            }
        }
    }
}

impl Cluster {
    async fn answer(&self, from: &PeerInfo, ask: Ask, deadline: Instant) -> Answer {
        match ask {
            Ask::Inquire(_) => Answer::Standing(self.standing()),
            Ask::Promise(promise) => match self.0.formation.promise(promise) {
                Ok(()) => Answer::Done(Done {}),
                Err(why) => Answer::refused(why),
            },
            Ask::Found(found) => self.become_voter(&found, deadline).await,
            Ask::Join(join) => self.take_in(from, &join, deadline).await,
            Ask::Figures(_) => match self.figures_here() {
                Some(figures) => Answer::Figures(figures),
                None => Answer::refused("it is starting"),
            },
            Ask::Controller(_) | Ask::Voters(_) | Ask::Describe(_) => {
                self.serve_as_leader(ask, deadline).await
            }
        }
    }

    /// Serves what only the leader can.
    pub(super) async fn serve_as_leader(&self, ask: Ask, deadline: Instant) -> Answer {
        match ask {
            Ask::Controller(request) => self.decide_for(request, deadline).await,
            Ask::Voters(voters) => self.change_voters_here(voters, deadline).await,
            Ask::Describe(_) => self.describe_here(deadline).await,
            _ => Answer::refused("this is not for the leader"),
        }
    }

    /// This node is to be a first voter. Answered once it is one, durably.
    pub(super) async fn become_voter(&self, found: &Found, deadline: Instant) -> Answer {
        let Some(bootstrap) = found.bootstrap() else {
            return Answer::refused("the list of first voters cannot be read");
        };
        if !bootstrap.voters.values().any(|voter| *voter == self.member()) {
            return Answer::refused(
                "it is not among the first voters, or its disk is another by now",
            );
        }
        let own = self.0.config.cluster_id;
        if own.is_some_and(|cluster| cluster != bootstrap.cluster_id) {
            return Answer::refused("its certificate names another cluster");
        }
        if let Err(why) = self.0.formation.name(&found.founding, bootstrap) {
            return Answer::refused(why);
        }
        match timeout_at(deadline, self.0.formation.wait_member()).await {
            Ok(()) => Answer::Done(Done {}),
            Err(_) => Answer::Unknown(Done {}),
        }
    }
}
