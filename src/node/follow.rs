//! The data plane follows the metadata: logs, leaderships, coordinators, settings. Only then are
//! clients shown the new image.

use std::{collections::BTreeMap, sync::Arc};

use tracing::warn;

use crate::{
    api::Context,
    base::{LeaderEpoch, PartitionIndex, TopicPartition},
    group::OFFSETS_TOPIC,
    metadata::{ConfigResourceType, MetadataDelta, MetadataImage},
    quorum::{Subscription, Update},
    replication::{InternalLog, OpenError},
};

/// The shards of the offsets topic that this node leads.
#[derive(Debug, Default)]
pub(super) struct Followed {
    shards: BTreeMap<PartitionIndex, LeaderEpoch>,
}

/// Takes up the first image.
pub(super) async fn start(
    updates: &mut Subscription<MetadataImage>,
    context: &Context,
) -> Result<Followed, OpenError> {
    let mut followed = Followed::default();
    if let Some(update) = updates.next().await {
        followed.take(update, context).await?;
    }
    Ok(followed)
}

/// Follows until the quorum stops.
pub(super) async fn run(
    mut updates: Subscription<MetadataImage>,
    mut followed: Followed,
    context: Context,
) {
    while let Some(update) = updates.next().await {
        if let Err(error) = followed.take(update, &context).await {
            warn!(%error, "stop to follow the metadata");
            return;
        }
    }
}

impl Followed {
    async fn take(
        &mut self,
        update: Update<MetadataImage>,
        context: &Context,
    ) -> Result<(), OpenError> {
        let (image, delta) = match &update {
            Update::Image { image, .. } => (image, None),
            Update::Delta { image, delta, .. } => (image, Some(&**delta)),
        };
        match delta {
            Some(delta) => context.partitions.apply(image, delta).await?,
            None => context.partitions.reconcile(image).await?,
        }
        self.follow_groups(image, context);
        let deleted = delta.map(deleted_topics).unwrap_or_default();
        let brokers_changed = delta.is_none_or(|delta| {
            delta.configs().keys().any(|resource| resource.kind == ConfigResourceType::Broker)
        });
        context.note_departures(&context.image(), image);
        context.published.publish(Arc::clone(image));
        if brokers_changed {
            context.configs_changed();
        }
        if !deleted.is_empty() {
            let groups = context.groups.clone();
            tokio::spawn(async move { groups.topics_deleted(deleted).await });
        }
        Ok(())
    }

    fn follow_groups(&mut self, image: &MetadataImage, context: &Context) {
        let groups = &context.groups;
        let Some(topic) = image.topic_by_name(OFFSETS_TOPIC) else {
            for (partition, epoch) in std::mem::take(&mut self.shards) {
                groups.resigned(partition, epoch);
            }
            return groups.topic_changed(0);
        };
        groups.topic_changed(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
        let node = context.node_id();
        let is_registered = context.partitions.is_registered();
        for (index, registered) in &topic.partitions {
            let led = is_registered && registered.leader == Some(node);
            match self.shards.get(index).copied() {
                Some(epoch) if led && epoch == registered.leader_epoch => {}
                Some(epoch) if !led => {
                    self.shards.remove(index);
                    groups.resigned(*index, epoch);
                }
                _ if led => {
                    let id = TopicPartition { topic: topic.id, partition: *index };
                    let Some(partition) = context.partitions.lookup(id) else { continue };
                    let epoch = registered.leader_epoch;
                    self.shards.insert(*index, epoch);
                    groups.elected(*index, epoch, Arc::new(InternalLog::new(partition, epoch)));
                }
                _ => {}
            }
        }
    }
}

fn deleted_topics(delta: &MetadataDelta) -> Vec<kafka_protocol::messages::TopicName> {
    let deleted = delta.topics().values().filter(|topic| topic.deleted);
    deleted
        .map(|topic| crate::protocol::StrBytes::from_string(topic.name.to_string()).into())
        .collect()
}
