//! Fetch: sessions, long polls and what fits into a response.
//!
//! A fetch first looks. Where that does not suffice it registers with its partitions, looks again,
//! and sleeps until one of them has what is missing or the client's wait is over.

use std::{io, os::fd::BorrowedFd, sync::Arc, time::Duration};

use kafka_protocol::messages::{
    FetchRequest, TopicName,
    fetch_response::{AbortedTransaction, LeaderIdAndEpoch, NodeEndpoint, PartitionData},
};
use tokio::time::{self, Instant};

use super::{
    Context,
    discovery::{NO_NODE, port},
    error::WireError,
    fetch_session::{Asked, FetchContext, PartitionKey, Reported, TopicKey},
    topics::TopicRef,
};
use crate::{
    base::{LeaderEpoch, NodeId, Offset},
    log::FileSlice,
    net::RecordSource,
    protocol::{
        ResponseError, StrBytes,
        fetch_response::{self, FetchResponse, Partition as PartitionResponse, Topic},
    },
    replication::{FetchWait, Fetched, Isolation, Partition, Source, WaitGuard},
};

/// Records of a response: they go from the file to the socket.
#[derive(Debug)]
pub(super) struct FileRecords(FileSlice);

impl fetch_response::RecordSource for FileRecords {
    fn size_bytes(&self) -> usize {
        self.0.len_bytes as usize
    }
}

impl RecordSource for FileRecords {
    fn len(&self) -> u64 {
        u64::from(self.0.len_bytes)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(position, buffer)
    }

    fn is_cached(&self, position: u64, length: usize) -> bool {
        self.0.file.is_cached(self.0.position + position, length)
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.0.file.descriptor().map(|file| (file, self.0.position))
    }
}

/// One partition of the request, with what the node has for it.
struct Target {
    key: PartitionKey,
    topic: TopicRef,
    asked: Asked,
    partition: Result<Arc<Partition>, WireError>,
    /// The replica that the client had better ask.
    nearer: Option<NodeId>,
}

/// What one look at all partitions found.
struct Look {
    results: Vec<Result<Fetched, WireError>>,
    bytes: usize,
    failed: bool,
}

/// Answers a fetch.
pub(super) async fn handle(
    context: &Context,
    request: FetchRequest,
    version: i16,
    listener: &str,
) -> FetchResponse<FileRecords> {
    let begun = context.fetch_sessions.begin(&request, version, context.clock.wall_ms());
    let session = match begun {
        Ok(session) => session,
        Err(error) => return FetchResponse::error(error.code()),
    };
    // Earlier versions do not know that a follower may answer (KIP-392).
    let source = if version >= 11 { Source::AnyReplica } else { Source::Leader };
    let mut targets = targets(context, &request, &session, version, source);
    if targets.iter().any(|target| is_early(&target.partition)) {
        context.hear_all().await;
        targets = self::targets(context, &request, &session, version, source);
    }
    let plan = Plan {
        max_bytes: usize::try_from(request.max_bytes.min(context.broker_config().fetch_max_bytes))
            .unwrap_or(0),
        isolation: match request.isolation_level {
            1 => Isolation::ReadCommitted,
            _ => Isolation::ReadUncommitted,
        },
        source,
    };
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let look = plan.wait(&targets, min_bytes, Instant::now() + wait).await;
    let moved = targets.iter().zip(&look.results).filter(|(_, result)| {
        result.as_ref().is_err_and(|error| error.code == ResponseError::NotLeaderOrFollower)
    });
    let moved: Vec<_> = moved.map(|(target, _)| (target.topic.clone(), target.key.1)).collect();
    if !moved.is_empty() {
        context.hear_of_resignations(&moved).await;
    }
    respond(context, &session, targets, look.results, listener)
}

/// Whether it may be that this node has not heard yet of what the client knows.
fn is_early(found: &Result<Arc<Partition>, WireError>) -> bool {
    found.as_ref().is_err_and(|error| {
        let code = error.code;
        matches!(code, ResponseError::NotLeaderOrFollower | ResponseError::UnknownLeaderEpoch)
    })
}

fn targets(
    context: &Context,
    request: &FetchRequest,
    session: &FetchContext,
    version: i16,
    source: Source,
) -> Vec<Target> {
    let replica =
        if version >= 15 { request.replica_state.replica_id.0 } else { request.replica_id.0 };
    let target = |(key, asked): &(PartitionKey, Asked)| {
        let topic = match &key.0 {
            TopicKey::Id(id) => context.topic_ref(true, id.0, &StrBytes::default()),
            TopicKey::Name(name) => {
                let name = StrBytes::from_string(name.to_string());
                context.topic_ref(false, uuid::Uuid::nil(), &name)
            }
        };
        let partition = if replica >= 0 {
            // Replicas stream over the cluster plane; on this one nobody can prove to be one.
            Err(ResponseError::TopicAuthorizationFailed.into())
        } else {
            context.readable_partition(&topic, key.1, source)
        };
        let partition = partition.and_then(|partition| {
            let believed = LeaderEpoch(asked.current_leader_epoch);
            let checked = partition.check_leader_epoch(believed, source);
            checked.map_err(|error| WireError::from(&error))?;
            Ok(partition)
        });
        let nearer = match &partition {
            Ok(partition) if version >= 11 => {
                context.nearer_replica(partition, &request.rack_id, Offset(asked.fetch_offset))
            }
            _ => None,
        };
        Target { key: key.clone(), topic, asked: asked.clone(), partition, nearer }
    };
    session.partitions.iter().map(target).collect()
}

/// How much of which records a fetch may take.
struct Plan {
    max_bytes: usize,
    isolation: Isolation,
    source: Source,
}

impl Plan {
    async fn wait(&self, targets: &[Target], min_bytes: usize, deadline: Instant) -> Look {
        let mut look = self.look(targets);
        let is_sent_on = targets.iter().any(|target| target.nearer.is_some());
        let done = |look: &Look| {
            look.failed || is_sent_on || look.bytes >= min_bytes || targets.is_empty()
        };
        if done(&look) || deadline <= Instant::now() {
            return look;
        }
        let missing = |look: &Look| i64::try_from(min_bytes - look.bytes).unwrap_or(i64::MAX);
        let wait = FetchWait::missing(missing(&look));
        let _guards: Vec<WaitGuard> = targets
            .iter()
            .filter_map(|target| target.partition.as_ref().ok())
            .map(|partition| partition.wait(Arc::clone(&wait)))
            .collect();
        // Once more, for what came before the partitions knew of the wait.
        look = self.look(targets);
        while !done(&look) {
            wait.reset(missing(&look));
            if time::timeout_at(deadline, wait.ready()).await.is_err() {
                return self.look(targets);
            }
            look = self.look(targets);
        }
        look
    }

    /// Reads as much as fits, in the order of the targets. The first batch of all is taken
    /// whatever its size, so that every fetch makes progress (KIP-74).
    fn look(&self, targets: &[Target]) -> Look {
        let mut look = Look { results: Vec::with_capacity(targets.len()), bytes: 0, failed: false };
        for target in targets {
            let result = match &target.partition {
                Err(error) => Err(error.clone()),
                Ok(partition) => {
                    let left = self.max_bytes.saturating_sub(look.bytes);
                    let left = u32::try_from(left).unwrap_or(u32::MAX);
                    let asked = u32::try_from(target.asked.max_bytes).unwrap_or(0);
                    // Who is sent elsewhere gets its records there.
                    let left = if target.nearer.is_some() { 0 } else { left.min(asked) };
                    let at_least_one = look.bytes == 0 && target.nearer.is_none();
                    let from = Offset(target.asked.fetch_offset);
                    partition
                        .fetch(from, left, at_least_one, self.isolation, self.source)
                        .map_err(|error| WireError::from(&error))
                }
            };
            match &result {
                Ok(fetched) => {
                    look.bytes += fetched.records.as_ref().map_or(0, |r| r.len_bytes as usize);
                }
                Err(_) => look.failed = true,
            }
            look.results.push(result);
        }
        look
    }
}

fn respond(
    context: &Context,
    session: &FetchContext,
    targets: Vec<Target>,
    results: Vec<Result<Fetched, WireError>>,
    listener: &str,
) -> FetchResponse<FileRecords> {
    let mut served = Vec::with_capacity(targets.len());
    let mut answers = Vec::with_capacity(targets.len());
    for (target, result) in targets.into_iter().zip(results) {
        let answer = partition_response(context, &target, result);
        let reported = Reported {
            high_watermark: answer.data.high_watermark,
            log_start_offset: answer.data.log_start_offset,
            last_stable_offset: answer.data.last_stable_offset,
            error_code: answer.data.error_code,
        };
        served.push((target.key, reported, answer.records.is_some()));
        answers.push((target.topic, answer));
    }
    let mention = context.fetch_sessions.finish(session, &served);
    let leaders = answers.iter().map(|(_, answer)| answer.data.current_leader.leader_id);
    let node_endpoints = context.endpoints(leaders, listener, |node, endpoint| {
        NodeEndpoint::default()
            .with_node_id(node.wire().into())
            .with_host(endpoint.host.clone().into())
            .with_port(port(endpoint))
    });
    let mut topics: Vec<Topic<FileRecords>> = Vec::new();
    for ((topic, answer), mention) in answers.into_iter().zip(mention) {
        if !mention {
            continue;
        }
        match topics.last_mut() {
            Some(last) if topic.names(&last.name, last.topic_id) => last.partitions.push(answer),
            _ => topics.push(Topic {
                name: TopicName(topic.name.clone()),
                topic_id: topic.id.0,
                partitions: vec![answer],
            }),
        }
    }
    FetchResponse {
        throttle_time_ms: 0,
        error_code: 0,
        session_id: session.session_id,
        topics,
        node_endpoints,
    }
}

fn partition_response(
    context: &Context,
    target: &Target,
    result: Result<Fetched, WireError>,
) -> PartitionResponse<FileRecords> {
    let data = PartitionData::default().with_partition_index(target.key.1.0);
    match result {
        Ok(fetched) => {
            let aborted = fetched.aborted.iter().map(|transaction| {
                AbortedTransaction::default()
                    .with_producer_id(transaction.producer_id.0.into())
                    .with_first_offset(transaction.first_offset.0)
            });
            let data = data
                .with_high_watermark(fetched.high_watermark.0)
                .with_last_stable_offset(fetched.last_stable_offset.0)
                .with_log_start_offset(fetched.log_start_offset.0)
                .with_aborted_transactions(Some(aborted.collect()))
                .with_preferred_read_replica(
                    target.nearer.map_or(NO_NODE, |node| node.wire().into()),
                );
            PartitionResponse { data, records: fetched.records.map(FileRecords) }
        }
        Err(error) => {
            let moved = matches!(
                error.code,
                ResponseError::NotLeaderOrFollower | ResponseError::FencedLeaderEpoch
            );
            let mut data = data
                .with_error_code(error.code.code())
                .with_high_watermark(-1)
                .with_last_stable_offset(-1)
                .with_log_start_offset(-1);
            if let Some((leader, epoch)) =
                context.current_leader(&target.topic, target.key.1).filter(|_| moved)
            {
                data.current_leader = LeaderIdAndEpoch::default()
                    .with_leader_id(leader.wire().into())
                    .with_leader_epoch(epoch.0);
            }
            PartitionResponse { data, records: None }
        }
    }
}
