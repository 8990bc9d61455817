//! When a node is of no use any more because of its log directories.
//!
//! While one of several has failed the others are served. The controller has to know, or nobody
//! else leads what this node cannot: where it is not told in time, the node had better end, so that
//! its lease does (KIP-858).

use std::{sync::Arc, time::Duration};

use tokio::time;

use crate::{api::Context, base::DirectoryId, log::LogError, metadata::MetadataImage};

/// How long a node without log directories stays for the controller to hear of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a node ends.
#[derive(Debug, thiserror::Error)]
pub enum NodeFailure {
    /// None works any more.
    #[error("the last log directory has failed: {0}: {remedy}", remedy = .0.remedy())]
    Directories(Arc<LogError>),
    /// Others go on asking this node for what it has lost.
    #[error(
        "the controller could not be told within log.dir.failure.timeout.ms ({timeout:?}) that a \
         log directory failed: {cause}: {remedy}",
        remedy = cause.remedy()
    )]
    Untold {
        /// Why the directory failed.
        cause: Arc<LogError>,
        /// How long it was tried.
        timeout: Duration,
    },
}

/// Waits for that.
pub(super) async fn watch(context: &Context) -> NodeFailure {
    let partitions = &context.partitions;
    let mut failures = partitions.failures();
    let mut seen = 0;
    loop {
        // The sender lives in `partitions`, so this cannot fail.
        seen = failures.wait_for(|count| *count > seen).await.map_or(seen, |count| *count);
        if let Some(cause) = partitions.failure() {
            let _ = time::timeout(FAREWELL, told(context)).await;
            return NodeFailure::Directories(cause);
        }
        let timeout = context.broker_config().log_dir_failure_timeout_ms;
        let timeout = Duration::from_millis(u64::try_from(timeout).unwrap_or(0));
        tokio::select! {
            () = told(context) => {}
            // What is told from now on names this one too.
            _ = failures.wait_for(|count| *count > seen) => {}
            () = time::sleep(timeout) => {
                let cause = partitions.directories().iter().find_map(|one| one.failure());
                if let Some(cause) = cause {
                    return NodeFailure::Untold { cause, timeout };
                }
            }
        }
    }
}

/// Waits until the image says what has failed here.
async fn told(context: &Context) {
    loop {
        let image = context.image();
        let mut failed =
            context.partitions.directories().iter().filter(|one| one.failure().is_some());
        let is_told = failed
            .all(|one| one.meta().is_none_or(|meta| knows(&image, context, meta.directory_id)));
        if is_told {
            return;
        }
        context.published.wait_for(image.applied_index() + 1).await;
    }
}

fn knows(image: &MetadataImage, context: &Context, failed: DirectoryId) -> bool {
    let broker = image.broker(context.node_id());
    broker.is_none_or(|broker| broker.fenced || !broker.directories.contains(&failed))
}
