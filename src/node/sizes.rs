//! Tells the controller how large the partitions are that this node leads, while the balancer is on,
//! so that it spreads bytes as well.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::debug;

use crate::{
    api::Context,
    base::TopicId,
    controller::{ReplicaSizesRequest, Request, TopicSizes},
};

/// Partitions that one request names: about 60 KiB.
const REQUEST_MAX: usize = 5_000;
/// How long the controller may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A report is at most so old when the balancer looks.
const REPORTS_PER_LOOK: u32 = 2;

/// Tells until the node stops.
pub(super) async fn run(context: Context, mut stop: watch::Receiver<bool>) {
    let mut changes = context.config_changes();
    loop {
        let config = context.broker_config();
        let seconds = config.ottla_balancer_check_interval_seconds;
        let every = Duration::from_secs(u64::try_from(seconds).unwrap_or(1).max(1));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            Ok(()) = changes.changed() => continue,
            () = time::sleep(every / REPORTS_PER_LOOK) => {}
        }
        if config.ottla_balancer_enable {
            tell(&context).await;
        }
    }
}

async fn tell(context: &Context) {
    let node = context.node_id();
    let Some(broker_epoch) = context.image().broker(node).map(|broker| broker.epoch.0) else {
        return;
    };
    let led = context.partitions.all().into_iter().filter(|one| one.leader_epoch().is_some());
    let led: Vec<_> = led.map(|one| (one.id(), one.log().size_bytes())).collect();
    for chunk in led.chunks(REQUEST_MAX) {
        let mut topics = BTreeMap::<TopicId, TopicSizes>::new();
        for (at, bytes) in chunk {
            let topic = topics.entry(at.topic).or_insert_with(|| TopicSizes {
                topic_id: at.topic.into(),
                ..TopicSizes::default()
            });
            topic.partitions.push(at.partition.0);
            topic.bytes.push(*bytes);
        }
        let topics = topics.into_values().collect();
        let request = ReplicaSizesRequest { broker_id: node.wire(), broker_epoch, topics };
        let request = Request::ReplicaSizes(request);
        let deadline = Instant::now() + PATIENCE;
        if let Err(error) = context.controllers.request(request, None, deadline).await {
            // It is told anew soon; until then it goes by what it knows.
            debug!(%error, "the controller was not told how large partitions are");
            return;
        }
    }
}
