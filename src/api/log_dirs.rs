//! DescribeLogDirs: what lies in which directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kafka_protocol::messages::{
    DescribeLogDirsRequest, DescribeLogDirsResponse,
    describe_log_dirs_response::{
        DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
    },
};

use super::Context;
use crate::{
    log::{Log, LogDirectory},
    protocol::{ResponseError, StrBytes},
};

/// DescribeLogDirs 1–4.
pub(super) async fn describe_log_dirs(
    context: &Context,
    request: DescribeLogDirsRequest,
    version: i16,
) -> DescribeLogDirsResponse {
    let asked: Option<BTreeSet<(String, i32)>> = request.topics.map(|topics| {
        let pairs = topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.topic.to_string(), *partition))
        });
        pairs.collect()
    });
    let directories = context.partitions.directories().to_vec();
    let describe = move || {
        directories.iter().map(|one| describe(one, asked.as_ref(), version)).collect::<Vec<_>>()
    };
    match context.partitions.blocking().run(describe).await {
        Ok(results) => DescribeLogDirsResponse::default().with_results(results),
        Err(_) => {
            let response = DescribeLogDirsResponse::default();
            if version < 3 {
                return response;
            }
            response.with_error_code(ResponseError::UnknownServerError.code())
        }
    }
}

fn describe(
    directory: &Arc<LogDirectory>,
    asked: Option<&BTreeSet<(String, i32)>>,
    version: i16,
) -> DescribeLogDirsResult {
    let result =
        DescribeLogDirsResult::default().with_log_dir(StrBytes::from_string(directory.location()));
    if directory.failure().is_some() {
        return result.with_error_code(ResponseError::KafkaStorageError.code());
    }
    let mut topics = BTreeMap::<String, Vec<DescribeLogDirsPartition>>::new();
    for log in directory.logs() {
        let Some((topic, partition)) = split_name(&log) else { continue };
        if asked.is_none_or(|asked| asked.contains(&(topic.clone(), partition))) {
            let size = i64::try_from(log.size_bytes()).unwrap_or(i64::MAX);
            let described = DescribeLogDirsPartition::default()
                .with_partition_index(partition)
                .with_partition_size(size);
            topics.entry(topic).or_default().push(described);
        }
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        DescribeLogDirsTopic::default()
            .with_name(StrBytes::from_string(name).into())
            .with_partitions(partitions)
    });
    let result = result.with_topics(topics.collect());
    match directory.space() {
        Ok(space) if version >= 4 => {
            let bytes = |count| i64::try_from(count).unwrap_or(i64::MAX);
            result
                .with_total_bytes(bytes(space.total_bytes))
                .with_usable_bytes(bytes(space.usable_bytes))
        }
        _ => result,
    }
}

fn split_name(log: &Log) -> Option<(String, i32)> {
    let (topic, partition) = log.name().rsplit_once('-')?;
    Some((topic.to_owned(), partition.parse().ok()?))
}
