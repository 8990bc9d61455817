//! Who leads, while that changes.
//!
//! Nodes hear of a new leader one after the other. A client that the former one has sent on may
//! reach the new one before that has heard, and one that is turned away there pauses, for a tenth
//! of a second by default. So a replica that is asked as a leader, and is none, first makes sure
//! that it has heard all that was decided: one round trip to the controller, which only those pay
//! who come too early or to the wrong node. And a replica changes its role a moment before clients
//! are served from the image that says why; whoever is turned away in between waits for that
//! image, so that it is not sent back here.

use std::time::Duration;

use tokio::time::timeout;

use super::{Context, topics::TopicRef};
use crate::base::{PartitionIndex, TopicPartition};

/// How long news may take. Where they take longer, such as without a controller, the client asks
/// again anyway.
const NEWS_MAX: Duration = Duration::from_millis(250);

impl Context {
    /// Whether there is a replica here that does not lead, as far as this node has heard.
    pub(super) fn is_follower(&self, topic: &TopicRef, partition: PartitionIndex) -> bool {
        let id = TopicPartition { topic: topic.id, partition };
        self.partitions.lookup(id).is_some_and(|replica| replica.leader_epoch().is_none())
    }

    /// Waits until clients are served from all that was decided before this call.
    pub(super) async fn hear_all(&self) {
        let hear = async {
            if self.quorum.read_index().await.is_ok() {
                self.published.wait_for(self.quorum.image().applied_index()).await;
            }
        };
        let _ = timeout(NEWS_MAX, hear).await;
    }

    /// Waits until clients are not told any more that this node leads partitions that it does not
    /// lead.
    pub(super) async fn hear_of_resignations(&self, partitions: &[(TopicRef, PartitionIndex)]) {
        let own = Some(self.node_id());
        let elsewhere = self.published.wait_until(|image| {
            partitions.iter().all(|(topic, index)| {
                let partition = image.topic(topic.id).and_then(|topic| topic.partition(*index));
                partition.is_none_or(|partition| partition.leader != own)
            })
        });
        let _ = timeout(NEWS_MAX, elsewhere).await;
    }
}
