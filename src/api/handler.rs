//! From a frame to its answer: which function answers which API, and what may wait.

use bytes::Bytes;
use kafka_protocol::messages::{RequestKind, ResponseKind};
use tracing::{debug, error};

use super::{
    Context, admin, cluster, configs, coordinators, describe, discovery, fetch, groups, log_dirs,
    offsets, produce, producers, quorum,
};
use crate::{
    base::PartitionIndex,
    group::Client,
    metadata::MetadataImage,
    net::{CloseReason, Connection, Frame, Handler, Part, Reply, RequestMemory, Response, Started},
    protocol::{
        api::{self, EncodeError, Request},
        fetch_response, frame,
        messages::ApiKey,
    },
};

/// Answers the requests of client connections.
#[derive(Debug, Clone)]
pub struct Api {
    context: Context,
}

impl Api {
    /// Answers from `context`.
    #[must_use]
    pub const fn new(context: Context) -> Self {
        Self { context }
    }
}

impl Handler for Api {
    type Session = Connection;

    fn open(&self, connection: Connection) -> Connection {
        connection
    }

    async fn start(
        &self,
        connection: &Connection,
        frame: Frame,
        memory: &mut RequestMemory,
    ) -> Started {
        let request = match decode(frame, memory).await {
            Ok(request) => request,
            Err(error) => {
                debug!(peer = %connection.peer, %error, "a request cannot be answered");
                return refusal(&error).into();
            }
        };
        let envelope = Envelope {
            key: request.key(),
            version: request.version(),
            correlation_id: request.correlation_id(),
        };
        self.start_decoded(connection, envelope, request).await
    }
}

/// Decodes a request once there is memory for what it becomes: tiny elements take many times the
/// bytes that they came in.
async fn decode(frame: Frame, memory: &mut RequestMemory) -> Result<Request, api::DecodeError> {
    let checked = api::check_request(frame.payload)?;
    memory.grow(checked.memory_bytes()).await;
    checked.decode()
}

fn refusal(error: &api::DecodeError) -> Reply {
    match error.answer() {
        Some(answer) => Reply::Send(without_length(answer).into()),
        None => Reply::Close(match error {
            api::DecodeError::UnknownApi { .. } | api::DecodeError::UnsupportedVersion { .. } => {
                CloseReason::UnsupportedRequest
            }
            _ => CloseReason::MalformedRequest,
        }),
    }
}

/// What a response repeats of its request.
#[derive(Debug, Clone, Copy)]
struct Envelope {
    key: ApiKey,
    version: i16,
    correlation_id: i32,
}

impl Envelope {
    fn reply(self, response: &ResponseKind) -> Reply {
        let encoded = api::encode_response(self.key, self.version, self.correlation_id, response);
        self.send(encoded.map(|bytes| without_length(bytes).into()))
    }

    fn reply_fetch(self, response: fetch_response::FetchResponse<fetch::FileRecords>) -> Reply {
        let parts = fetch_response::encode(self.version, self.correlation_id, response);
        self.send(parts.map(|parts| {
            let mut first = true;
            let part = |part| match part {
                fetch_response::Part::Bytes(bytes) if std::mem::take(&mut first) => {
                    Part::Bytes(without_length(bytes))
                }
                fetch_response::Part::Bytes(bytes) => Part::Bytes(bytes),
                fetch_response::Part::Records(records) => {
                    Part::Records(std::sync::Arc::new(records))
                }
            };
            Response::new(parts.into_iter().map(part).collect())
        }))
    }

    fn send(self, encoded: Result<Response, EncodeError>) -> Reply {
        match encoded {
            Ok(response) => Reply::Send(response),
            Err(error) => {
                error!(api = ?self.key, version = self.version, %error, "cannot encode a response");
                Reply::Close(CloseReason::UnencodableResponse)
            }
        }
    }
}

/// The connection puts the length before each frame itself.
fn without_length(frame: Bytes) -> Bytes {
    frame.slice(frame::LENGTH_BYTES..)
}

/// Which partitions there are, for the group coordinator.
struct ImageTopics<'a>(&'a MetadataImage);

impl groups::Topics for ImageTopics<'_> {
    fn has_partition(&self, topic: &str, partition: i32) -> bool {
        let topic = self.0.topic_by_name(topic);
        topic.is_some_and(|topic| topic.partition(PartitionIndex(partition)).is_some())
    }
}

impl Api {
    async fn start_decoded(
        &self,
        connection: &Connection,
        envelope: Envelope,
        request: Request,
    ) -> Started {
        let context = &self.context;
        let Envelope { version, .. } = envelope;
        let client = || Client {
            id: request.header.client_id.as_deref().unwrap_or_default().to_owned(),
            host: format!("/{}", connection.peer.ip()),
        };
        match request.body {
            RequestKind::Produce(body) => {
                // What comes after it on its connection waits as well, so that the order is kept.
                if produce::is_early(context, &body, version) {
                    context.hear_all().await;
                }
                let outcome = produce::start(context, body, version, &connection.listener);
                Started::later(async move {
                    match outcome.await {
                        Ok(Some(response)) => envelope.reply(&ResponseKind::Produce(response)),
                        Ok(None) => Reply::Silent,
                        Err(produce::AppendFailed) => {
                            Reply::Close(CloseReason::UnacknowledgedFailure)
                        }
                    }
                })
            }
            RequestKind::Fetch(body) => {
                let (context, listener) = (context.clone(), connection.listener.clone());
                Started::later(async move {
                    let response = fetch::handle(&context, body, version, &listener).await;
                    envelope.reply_fetch(response)
                })
            }
            // It may wait for a broker to be fenced, and nothing of its connection waits with it.
            RequestKind::Metadata(body) => {
                let (context, listener) = (context.clone(), connection.listener.clone());
                Started::later(async move {
                    let response = discovery::metadata(&context, body, version, &listener).await;
                    envelope.reply(&ResponseKind::Metadata(response))
                })
            }
            RequestKind::JoinGroup(body) => {
                let (groups, client) = (context.groups.clone(), client());
                Started::later(async move {
                    let response = groups::join_group(&groups, body, version, client).await;
                    envelope.reply(&ResponseKind::JoinGroup(response))
                })
            }
            RequestKind::SyncGroup(body) => {
                let groups = context.groups.clone();
                Started::later(async move {
                    let response = groups::sync_group(&groups, body).await;
                    envelope.reply(&ResponseKind::SyncGroup(response))
                })
            }
            body => match answer(context, connection, body, version).await {
                Some(response) => envelope.reply(&response).into(),
                None => Reply::Close(CloseReason::UnsupportedRequest).into(),
            },
        }
    }
}

/// Answers what is done before the next request of its connection starts.
async fn answer(
    context: &Context,
    connection: &Connection,
    request: RequestKind,
    version: i16,
) -> Option<ResponseKind> {
    use RequestKind as Q;
    use ResponseKind as A;
    let groups = &context.groups;
    Some(match request {
        Q::ApiVersions(r) => A::ApiVersions(discovery::api_versions(context, &r, version)),
        Q::FindCoordinator(r) => A::FindCoordinator(
            coordinators::find_coordinator(context, r, version, &connection.listener).await,
        ),
        Q::DescribeCluster(r) => A::DescribeCluster(describe::describe_cluster(
            context,
            &r,
            version,
            &connection.listener,
        )),
        Q::DescribeTopicPartitions(r) => {
            A::DescribeTopicPartitions(describe::describe_topic_partitions(context, r, version))
        }
        Q::DescribeQuorum(r) => {
            A::DescribeQuorum(quorum::describe_quorum(context, r, version).await)
        }
        Q::AddRaftVoter(r) => A::AddRaftVoter(quorum::add_raft_voter(context, &r).await),
        Q::RemoveRaftVoter(r) => A::RemoveRaftVoter(quorum::remove_raft_voter(context, &r).await),
        Q::CreateTopics(r) => A::CreateTopics(admin::create_topics(context, r, version).await),
        Q::DeleteTopics(r) => A::DeleteTopics(admin::delete_topics(context, r, version).await),
        Q::CreatePartitions(r) => {
            A::CreatePartitions(admin::create_partitions(context, r, version).await)
        }
        Q::DescribeConfigs(r) => A::DescribeConfigs(configs::describe_configs(context, r, version)),
        Q::AlterConfigs(r) => A::AlterConfigs(configs::alter_configs(context, r, version).await),
        Q::IncrementalAlterConfigs(r) => A::IncrementalAlterConfigs(
            configs::incremental_alter_configs(context, r, version).await,
        ),
        Q::UnregisterBroker(r) => {
            A::UnregisterBroker(cluster::unregister_broker(context, r, version).await)
        }
        Q::UpdateFeatures(r) => {
            A::UpdateFeatures(cluster::update_features(context, r, version).await)
        }
        Q::ElectLeaders(r) => A::ElectLeaders(cluster::elect_leaders(context, r, version).await),
        Q::AlterPartitionReassignments(r) => {
            A::AlterPartitionReassignments(cluster::alter_partition_reassignments(context, r).await)
        }
        Q::ListPartitionReassignments(r) => A::ListPartitionReassignments(
            cluster::list_partition_reassignments(&context.image(), &r),
        ),
        Q::ListOffsets(r) => A::ListOffsets(offsets::list_offsets(context, r, version).await),
        Q::OffsetForLeaderEpoch(r) => {
            A::OffsetForLeaderEpoch(offsets::offset_for_leader_epoch(context, &r))
        }
        Q::DeleteRecords(r) => A::DeleteRecords(offsets::delete_records(context, r).await),
        Q::InitProducerId(r) => A::InitProducerId(producers::init_producer_id(context, &r).await),
        Q::DescribeProducers(r) => A::DescribeProducers(producers::describe_producers(context, r)),
        Q::AlterReplicaLogDirs(r) => {
            A::AlterReplicaLogDirs(log_dirs::alter_replica_log_dirs(context, r).await)
        }
        Q::DescribeLogDirs(r) => {
            A::DescribeLogDirs(log_dirs::describe_log_dirs(context, r, version).await)
        }
        Q::Heartbeat(r) => A::Heartbeat(groups::heartbeat(groups, r).await),
        Q::LeaveGroup(r) => A::LeaveGroup(groups::leave_group(groups, r, version).await),
        Q::OffsetCommit(r) => {
            let image = context.image();
            A::OffsetCommit(groups::offset_commit(groups, r, version, &ImageTopics(&image)).await)
        }
        Q::OffsetFetch(r) => A::OffsetFetch(groups::offset_fetch(groups, r, version).await),
        Q::DescribeGroups(r) => {
            A::DescribeGroups(groups::describe_groups(groups, r, version).await)
        }
        Q::ListGroups(r) => A::ListGroups(groups::list_groups(groups, r).await),
        Q::DeleteGroups(r) => A::DeleteGroups(groups::delete_groups(groups, r).await),
        Q::OffsetDelete(r) => {
            let image = context.image();
            A::OffsetDelete(groups::offset_delete(groups, r, &ImageTopics(&image)).await)
        }
        _ => return None,
    })
}
