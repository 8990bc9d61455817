//! `bench consume`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use futures::future::try_join_all;
use tokio::time::{Instant, sleep};

use super::{
    Common,
    report::{Cpu, Report},
};
use crate::{
    cli::{
        failure::Failure,
        output::{Out, progress},
        times,
    },
    client::{Client, ClientError, Consumer, ConsumerConfig, OffsetSpec, Partition},
};

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ConsumeArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// How many consumers, each with partitions and connections of its own
    #[arg(long, default_value_t = 1)]
    consumers: usize,
    /// Stop after so many records; at the present end where not given
    #[arg(short = 'n', long)]
    max_records: Option<u64>,
    /// Stop after so long
    #[arg(long, value_parser = times::duration, default_value = "1h")]
    duration: Duration,
    /// The most that one answer brings of one partition, in bytes
    #[arg(long, default_value_t = 1 << 20)]
    partition_max_bytes: i32,
    /// Check the checksum of each batch, as Java's consumer does
    #[arg(long)]
    check_crcs: bool,
    /// Decompress and read each record
    #[arg(long)]
    decode: bool,
}

pub(super) async fn run(args: ConsumeArgs, client: &Client, out: &mut Out) -> Result<(), Failure> {
    let topic = client.topic(&args.common.topic).await?;
    let all = |spec| {
        let partitions = topic.partitions.iter();
        partitions
            .map(|p| (Partition::new(topic.name.clone(), p.partition), spec))
            .collect::<Vec<_>>()
    };
    let starts = client.list_offsets(&all(OffsetSpec::Earliest)).await?;
    let ends = client.list_offsets(&all(OffsetSpec::Latest)).await?;
    let consumers = args.consumers.clamp(1, topic.partitions.len().max(1));
    let read = Arc::new(Read::default());
    let cpu = Cpu::now(&args.common.broker_pid);
    let started = Instant::now();
    let mut tasks = Vec::new();
    for n in 0..consumers {
        let positions: Vec<_> = starts
            .iter()
            .enumerate()
            .filter(|(i, _)| i % consumers == n)
            .map(|(_, (partition, start))| (partition.clone(), start.unwrap_or(0)))
            .filter(|(p, start)| ends.get(p).copied().flatten().unwrap_or(0) > *start)
            .collect();
        let config = ConsumerConfig {
            partition_max_bytes: args.partition_max_bytes,
            ..ConsumerConfig::default()
        };
        let mut consumer = Consumer::new(client.clone(), config);
        consumer.assign(positions);
        let (ends, args, read) = (ends.clone(), args.clone(), Arc::clone(&read));
        tasks.push(tokio::spawn(async move { consume(consumer, &ends, &args, &read).await }));
    }
    let bar = progress(None, "records read");
    let all = try_join_all(
        tasks.into_iter().map(|task| async { task.await.unwrap_or(Err(ClientError::Closed)) }),
    );
    let mut all = std::pin::pin!(all);
    loop {
        tokio::select! {
            done = &mut all => {
                done.map_err(Failure::Bench)?;
                break;
            }
            () = sleep(Duration::from_millis(250)) => {
                bar.set_position(read.records.load(Ordering::Relaxed));
            }
        }
    }
    bar.finish_and_clear();
    let (records, bytes) =
        (read.records.load(Ordering::Relaxed), read.bytes.load(Ordering::Relaxed));
    let elapsed = started.elapsed();
    Report::new("consume", &args.common.topic, elapsed, records, bytes, cpu.since()).print(out)
}

/// What all consumers have read.
#[derive(Default)]
struct Read {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Reads up to `ends`, or for as long and as much as is wanted.
async fn consume(
    mut consumer: Consumer,
    ends: &BTreeMap<Partition, Option<i64>>,
    args: &ConsumeArgs,
    read: &Read,
) -> Result<(), ClientError> {
    let started = Instant::now();
    let limit = args.max_records.unwrap_or(u64::MAX);
    let left = |consumer: &Consumer| {
        let end = |p| ends.get(p).copied().flatten().unwrap_or(0);
        consumer.positions().iter().any(|(p, at)| *at < end(p)) || consumer.has_ready()
    };
    while left(&consumer)
        && read.records.load(Ordering::Relaxed) < limit
        && started.elapsed() < args.duration
    {
        let Some(fetched) = consumer.poll(Duration::from_secs(1)).await? else { continue };
        let batch_failed = |source| ClientError::Batch { source: Arc::new(source) };
        if args.decode {
            fetched.records().map_err(batch_failed)?;
        }
        for batch in fetched.batches() {
            if args.check_crcs && !args.decode {
                batch.verify().map_err(batch_failed)?;
            }
            let count = u64::try_from(batch.count).unwrap_or(0);
            read.records.fetch_add(count, Ordering::Relaxed);
            read.bytes.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}
