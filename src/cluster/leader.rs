//! Requests to other nodes, and to whichever leads.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{
    Cluster,
    wire::{Answer, Ask, Leader, NotLeader},
};
use crate::{base::NodeId, quorum::Status, transport::CallError};

/// How long a node that is not the leader any more is spared, unless another is heard of.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the leader gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaderError {
    /// This node takes part in nothing yet.
    #[error("this node belongs to no cluster yet")]
    NoCluster,
    /// Nobody was found who leads; nothing was done.
    #[error("the metadata quorum has no leader that can be reached")]
    NoLeader,
    /// It may have happened, or not.
    #[error("the leader of the metadata quorum did not answer in time; it may have done it or not")]
    Unknown,
}

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("this node has no certificate for the cluster plane")]
    Alone,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("its answer cannot be read")]
    Malformed,
}

impl Cluster {
    /// Asks another node.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        ask: Ask,
        deadline: Instant,
    ) -> Result<Answer, AskError> {
        let transport = self.transport().ok_or(AskError::Alone)?;
        let answer = transport.call(node, ask.into_bytes(), deadline).await?;
        Answer::of_bytes(answer).ok_or(AskError::Malformed)
    }

    /// Asks whichever node leads, this one included, over changes of the leader. `again` says
    /// whether to ask again where it is unknown what became of it.
    pub(super) async fn ask_leader(
        &self,
        ask: &Ask,
        again: bool,
        deadline: Instant,
    ) -> Result<Answer, LeaderError> {
        let quorum = self.quorum().ok_or(LeaderError::NoCluster)?;
        let mut status = quorum.watch_status();
        let mut unknown = false;
        loop {
            let known = status.wait_for(|status| status.leader().is_some());
            let leader = match timeout_at(deadline, known).await {
                Ok(Ok(status)) => status.leader().map(|member| member.node_id),
                _ => None,
            };
            let Some(leader) = leader else {
                return Err(if unknown { LeaderError::Unknown } else { LeaderError::NoLeader });
            };
            let is_other = |status: &std::sync::Arc<Status>| {
                status.leader().is_some_and(|m| m.node_id != leader)
            };
            let answer = if leader == self.node_id() {
                Ok(Box::pin(self.serve_as_leader(ask.clone(), deadline)).await)
            } else {
                tokio::select! {
                    biased;
                    answer = self.ask(leader, ask.clone(), deadline) => answer,
                    // One that hangs is not waited for once it is not the leader any more.
                    Ok(_) = status.wait_for(is_other) => {
                        if !again {
                            return Err(LeaderError::Unknown);
                        }
                        unknown = true;
                        continue;
                    }
                }
            };
            match answer {
                Ok(Answer::NotLeader(_)) => {}
                Ok(Answer::Unknown(_)) => unknown = true,
                Ok(answer) => return Ok(answer),
                Err(AskError::Call(error)) if !error.may_have_been_served() => {}
                Err(_) => unknown = true,
            }
            if unknown && !again || Instant::now() >= deadline {
                return Err(if unknown { LeaderError::Unknown } else { LeaderError::NoLeader });
            }
            let pause = deadline.min(Instant::now() + PAUSE);
            // Too late is as good: the same node is asked again.
            let _ = timeout_at(pause, status.wait_for(is_other)).await;
        }
    }

    /// Where the leader is, as far as this node knows.
    pub(super) fn leader_hint(&self) -> Option<Leader> {
        let leader = self.quorum()?.status().leader()?.node_id;
        let address = match self.transport() {
            Some(transport) => transport.addresses(leader).into_iter().next(),
            None => None,
        };
        Some(Leader { node_id: leader.0, address: address.map(Into::into) })
    }

    pub(super) fn not_leader(&self) -> Answer {
        Answer::NotLeader(NotLeader { leader: self.leader_hint() })
    }
}
