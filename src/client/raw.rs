//! The client's parts by themselves, for benchmarks that make their own batches.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, ProduceRequest};
use tokio::time::{Instant, timeout_at};

use super::{
    Client, ClientError, Lane, Target, TopicView,
    cluster::{choose, decode},
    produce,
    wire::Error as WireError,
};
pub(crate) use super::{
    connection::{Connection, Pending},
    produce::{Addressed, encode},
    producer::identify,
    records::{Body, Writer, compress, put_record},
};
use crate::base::TopicId;

/// A connection for producing to `topic` at `node`, and the version to use.
pub(crate) async fn produce_connection(
    client: &Client,
    node: i32,
    lane: Lane,
    topic: &TopicView,
) -> Result<(Arc<Connection>, i16), ClientError> {
    let connection = client.connection(Target::Node(node), lane).await?;
    let versions = produce::versions(topic.id != TopicId::NONE);
    let version = choose(&connection, ApiKey::Produce, versions)?;
    Ok((connection, version))
}

/// The answer, or a timeout after as long as the client waits for one.
pub(crate) async fn answer_within(
    connection: &Connection,
    pending: &mut Pending,
    client: &Client,
) -> Result<Bytes, ClientError> {
    let timeout = client.config().request_timeout + Duration::from_secs(1);
    match timeout_at(Instant::now() + timeout, pending.answer()).await {
        Ok(answer) => answer,
        Err(_) => {
            connection.close();
            Err(ClientError::Timeout {
                address: Arc::clone(connection.address()),
                api: ApiKey::Produce,
                timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            })
        }
    }
}

/// The partitions of a produce response with their base offsets; the first error in it fails.
pub(crate) fn base_offsets(
    connection: &Connection,
    response: Bytes,
    version: i16,
    topic: &str,
) -> Result<Vec<(i32, i64)>, ClientError> {
    let response = decode::<ProduceRequest>(connection, connection.address(), response, version)?;
    let mut offsets = Vec::new();
    for answered in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
        if let Some(error) = WireError::try_from_code(answered.error_code) {
            let subject = format!("{topic}-{}", answered.index);
            let message = super::admin::words(&answered.error_message);
            return Err(ClientError::refused(ApiKey::Produce, subject, error, message));
        }
        offsets.push((answered.index, answered.base_offset));
    }
    Ok(offsets)
}
