//! Connects this node's replicas with those of other nodes: streams, questions about the ISR, deadlines.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    api::Context,
    controller::{Request, Response},
};

/// How long the controller may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts what goes on until the node stops.
pub(super) fn start(context: &Context, tasks: &mut JoinSet<()>) {
    // Weakly, as the partitions hold the cluster to open streams.
    let partitions = Arc::downgrade(&context.partitions);
    context.cluster.serve_replicas(Box::new(move |class, stream| {
        if let Some(partitions) = partitions.upgrade() {
            tokio::spawn(partitions.serve(class, stream));
        }
    }));
    let partitions = Arc::clone(&context.partitions);
    tasks.spawn(async move { partitions.keep_deadlines().await });
    let context = context.clone();
    tasks.spawn(async move {
        let ask = |request| ask(context.clone(), request).boxed();
        context.partitions.ask_controller(&ask).await;
    });
}

async fn ask(context: Context, request: AlterPartitionRequest) -> Option<AlterPartitionResponse> {
    let deadline = Instant::now() + PATIENCE;
    let request = Request::AlterPartition(request);
    // A copy that the leader's core does not know of could be acted on after a refusal.
    match context.controllers.request_once(request, deadline).await {
        Ok((Response::AlterPartition(response), _)) => Some(response),
        _ => None,
    }
}
