//! How far consumer groups are behind.
//!
//! A task takes a copy of what the groups of this node have committed every few seconds, which
//! costs a message per shard; the lag is reckoned from it when it is asked for. Nothing is done
//! per record or per commit.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time};

use crate::{
    api::Context,
    base::{PartitionIndex, TopicPartition},
    group::CommittedOffsets,
    observability::Render,
};

/// How old the copy gets.
const REFRESH: Duration = Duration::from_secs(5);
/// The most partitions of groups that are shown.
const MOST: usize = 10_000;

/// The newest copy. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Lag(Arc<Mutex<Arc<Vec<CommittedOffsets>>>>);

impl Lag {
    /// Keeps the copy fresh until the node stops.
    pub(super) async fn follow(self, context: Context, mut stop: watch::Receiver<bool>) {
        loop {
            let committed = context.groups.committed_offsets().await;
            *self.0.lock() = Arc::new(committed);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = time::sleep(REFRESH) => {}
            }
        }
    }

    /// Adds the lag of every group on every partition that is led here.
    pub(super) fn render(&self, context: &Context, render: &mut Render) {
        let committed = Arc::clone(&self.0.lock());
        let image = context.image();
        let mut left_out = 0_u64;
        let mut shown = 0;
        for one in committed.iter().flat_map(CommittedOffsets::iter) {
            let Some(topic) = image.topic_by_name(one.topic) else { continue };
            let id = TopicPartition { topic: topic.id, partition: PartitionIndex(one.partition) };
            let Some(partition) = context.partitions.lookup(id) else { continue };
            // As far as this replica knows, whether it leads or not.
            let high_watermark = partition.known_high_watermark();
            if shown == MOST {
                left_out += 1;
                continue;
            }
            shown += 1;
            let number = one.partition.to_string();
            let labels = [("group", one.group), ("topic", one.topic), ("partition", &*number)];
            render.gauge(
                "ottla_group_lag_records",
                "Committed records that the group has not committed to have read.",
                &labels,
                high_watermark.0.saturating_sub(one.offset).max(0) as f64,
            );
        }
        render.gauge(
            "ottla_group_lag_partitions_left_out",
            "Partitions whose lag is not shown, as there are too many.",
            &[],
            left_out as f64,
        );
    }
}
