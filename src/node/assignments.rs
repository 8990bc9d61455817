//! Tells the controller in which log directories the replicas of this node lie (KIP-858), so that
//! it knows which go with a directory that fails.

use std::{collections::BTreeMap, time::Duration};

use kafka_protocol::messages::{
    AssignReplicasToDirsRequest,
    assign_replicas_to_dirs_request::{DirectoryData, PartitionData, TopicData},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::warn;

use crate::{
    api::Context,
    base::{DirectoryId, TopicId},
    cluster::LeaderError,
    controller::{Request, Response},
    protocol::ResponseError,
    replication::Misplaced,
};

/// Replicas that one request names, as in Kafka.
const REQUEST_MAX: usize = 2_250;
/// How long the controller may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pauses after attempts that failed, doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Why the controller was not told.
#[derive(Debug, thiserror::Error)]
enum AssignError {
    /// It said why.
    #[error("the controller refuses the log directories of this broker's replicas: {0}")]
    Refused(ResponseError),
    /// It does not answer.
    #[error("the controller does not answer")]
    Unanswered(#[from] LeaderError),
}

/// Tells until the node stops.
pub(super) async fn run(context: Context, mut stop: watch::Receiver<bool>) {
    let mut misplaced = context.partitions.misplaced();
    let mut pause = PAUSE_MIN;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            waits = misplaced.wait_for(|misplaced| !misplaced.is_empty()) => {
                if waits.is_err() {
                    return;
                }
            }
        }
        let next: Misplaced = {
            let misplaced = misplaced.borrow();
            misplaced.iter().take(REQUEST_MAX).map(|(id, directory)| (*id, *directory)).collect()
        };
        match tell(&context, &next).await {
            Ok(()) => {
                context.partitions.told(&next);
                pause = PAUSE_MIN;
            }
            Err(error) => {
                warn!(%error, "log directories of replicas are not assigned yet");
                time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

async fn tell(context: &Context, replicas: &Misplaced) -> Result<(), AssignError> {
    let node = context.node_id();
    let epoch = context.quorum.image().broker(node).map_or(-1, |broker| broker.epoch.0);
    let request = AssignReplicasToDirsRequest::default()
        .with_broker_id(node.wire().into())
        .with_broker_epoch(epoch)
        .with_directories(grouped(replicas));
    let request = Request::AssignReplicasToDirs(request);
    let deadline = Instant::now() + PATIENCE;
    let (response, _) = context.controllers.request(request, None, deadline).await?;
    let Response::AssignReplicasToDirs(response) = response else {
        return Err(AssignError::Refused(ResponseError::UnknownServerError));
    };
    if let Some(error) = ResponseError::try_from_code(response.error_code) {
        return Err(AssignError::Refused(error));
    }
    // One that is refused is not this broker's any more, which the image is about to say.
    Ok(())
}

fn grouped(replicas: &Misplaced) -> Vec<DirectoryData> {
    type Topics = BTreeMap<TopicId, Vec<PartitionData>>;
    let mut directories = BTreeMap::<DirectoryId, Topics>::new();
    for (id, directory) in replicas {
        let partition = PartitionData::default().with_partition_index(id.partition.0);
        let topics = directories.entry(*directory).or_default();
        topics.entry(id.topic).or_default().push(partition);
    }
    let topic = |(topic, partitions): (TopicId, _)| {
        TopicData::default().with_topic_id(topic.0).with_partitions(partitions)
    };
    let directory = |(id, topics): (DirectoryId, Topics)| {
        DirectoryData::default().with_id(id.0).with_topics(topics.into_iter().map(topic).collect())
    };
    directories.into_iter().map(directory).collect()
}
