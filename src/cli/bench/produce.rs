//! `bench produce` and the writing half of `bench end-to-end`.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use futures::future::{join_all, try_join, try_join_all};
use tokio::time::{Instant, sleep};

use super::{
    Common, LoadArgs,
    join::{Join, histogram},
    load::{Measured, Window, Worker},
    report::{Cpu, Latencies, Report},
};
use crate::{
    cli::{
        failure::Failure,
        output::{Out, progress},
        produce::AcksArg,
    },
    client::{Client, ClientError, Consumer, ConsumerConfig, OffsetSpec, Partition, raw, retrying},
};

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ProduceArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    load: LoadArgs,
    /// A fixed rate for all producers together, in records per second; as fast as possible where
    /// not given
    #[arg(long, value_name = "RECORDS")]
    rate: Option<f64>,
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct EndToEndArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    load: LoadArgs,
    /// The rate for all producers together, in records per second
    #[arg(long, value_name = "RECORDS", default_value_t = 1000.0)]
    rate: f64,
    /// How long a fetch waits at the broker for records
    #[arg(long, value_parser = crate::cli::times::duration, default_value = "500ms")]
    fetch_wait: Duration,
}

struct Finished {
    measured: Measured,
    cpu: (f64, Option<f64>),
}

pub(super) async fn run(args: ProduceArgs, client: &Client, out: &mut Out) -> Result<(), Failure> {
    args.common.prepare(client).await?;
    let finished = load(&args.common, &args.load, args.rate, client, None).await?;
    let Finished { measured, cpu } = finished;
    let bytes = measured.records * args.load.record_size as u64;
    let (topic, elapsed) = (&args.common.topic, args.load.duration);
    let mut report = Report::new("produce", topic, elapsed, measured.records, bytes, cpu);
    report.target_records_per_second = args.rate;
    report.acknowledged = Some(Latencies::from(&measured.latencies));
    report.print(out)
}

/// Runs all workers for warm-up and measurement.
async fn load(
    common: &Common,
    args: &LoadArgs,
    rate: Option<f64>,
    client: &Client,
    join: Option<Arc<Join>>,
) -> Result<Finished, Failure> {
    let topic = client.topic(&common.topic).await?;
    let nodes: BTreeSet<i32> = topic.partitions.iter().map(|p| p.leader).collect();
    let idempotent = !args.no_idempotence && args.acks == AcksArg::All;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let producers = args.producers.max(1);
    // Connections are made before the schedule begins.
    let start = Instant::now() + Duration::from_millis(200);
    let from = start + args.warm_up;
    let window = Window { from, until: from + args.duration };
    let mut workers = Vec::new();
    for _ in 0..producers {
        let identity = match idempotent {
            true => {
                let deadline = client.deadline();
                Some(retrying!(client, deadline, async { raw::identify(client).await })?)
            }
            false => None,
        };
        let lane = client.lane();
        for node in &nodes {
            let topic = Arc::clone(&topic);
            let (join, acknowledged) = (join.clone(), Arc::clone(&acknowledged));
            let worker =
                Worker::new(client, args, lane, *node, topic, identity, window, join, acknowledged);
            workers.push(worker.await?);
        }
    }
    let step = rate.map(|rate| Duration::from_secs_f64(workers.len() as f64 / rate.max(0.001)));
    let tasks = workers.into_iter().map(|worker| {
        let linger = args.linger;
        tokio::spawn(async move {
            match step {
                Some(step) => worker.at_rate(start, step, linger).await,
                None => worker.flat_out().await,
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let bar = progress(None, "records acknowledged");
    let watch = async {
        tokio::time::sleep_until(from).await;
        let cpu = Cpu::now(&common.broker_pid);
        while Instant::now() < window.until {
            let rest = window.until - Instant::now();
            sleep(rest.min(Duration::from_millis(250))).await;
            bar.set_position(acknowledged.load(Ordering::Relaxed));
        }
        cpu.since()
    };
    let all = try_join_all(
        tasks.into_iter().map(|task| async { task.await.unwrap_or(Err(ClientError::Closed)) }),
    );
    // Whichever ends first, the other is waited for: at the end of the window it may be either.
    let watch = async { Ok(watch.await) };
    let (cpu, all) = try_join(watch, all).await.map_err(Failure::Bench)?;
    let mut total = Measured { records: 0, latencies: histogram() };
    for measured in all {
        total.records += measured.records;
        // Both have the same bounds.
        total.latencies += measured.latencies;
    }
    bar.finish_and_clear();
    Ok(Finished { measured: total, cpu })
}

pub(super) async fn end_to_end(
    args: EndToEndArgs,
    client: &Client,
    out: &mut Out,
) -> Result<(), Failure> {
    if args.load.acks == AcksArg::None {
        return Err(Failure::usage("end-to-end needs offsets, so --acks cannot be 0"));
    }
    args.common.prepare(client).await?;
    let topic = client.topic(&args.common.topic).await?;
    let specs: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| (Partition::new(topic.name.clone(), p.partition), OffsetSpec::Latest))
        .collect();
    let ends = client.list_offsets(&specs).await?;
    let config = ConsumerConfig { max_wait: args.fetch_wait, ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(client.clone(), config);
    consumer.assign(ends.into_iter().map(|(p, end)| (p, end.unwrap_or(0))));
    let join = Arc::new(Join::default());
    let reader = tokio::spawn({
        let join = Arc::clone(&join);
        async move {
            loop {
                if let Some(fetched) = consumer.poll(Duration::from_secs(1)).await? {
                    let at = Instant::now();
                    for batch in fetched.batches() {
                        join.read(fetched.partition.partition, batch.base_offset, at);
                    }
                }
            }
            #[expect(unreachable_code, reason = "names the error's type")]
            Ok::<(), ClientError>(())
        }
    });
    let start = Instant::now();
    let written = load(&args.common, &args.load, Some(args.rate), client, Some(join.clone())).await;
    let Finished { measured, cpu } = written?;
    let waited = Instant::now();
    while join.missing() > 0 && waited.elapsed() < Duration::from_secs(10) && !reader.is_finished()
    {
        sleep(Duration::from_millis(10)).await;
    }
    if reader.is_finished()
        && let Some(Ok(Err(error))) = join_all([reader]).await.pop()
    {
        return Err(Failure::Bench(error));
    }
    let since = start + Duration::from_millis(200) + args.load.warm_up;
    let bytes = measured.records * args.load.record_size as u64;
    let (topic, elapsed) = (&args.common.topic, args.load.duration);
    let mut report = Report::new("end-to-end", topic, elapsed, measured.records, bytes, cpu);
    report.target_records_per_second = Some(args.rate);
    report.acknowledged = Some(Latencies::from(&measured.latencies));
    report.end_to_end = Some(Latencies::from(&join.histogram(since)));
    report.print(out)?;
    match join.missing() {
        0 => Ok(()),
        missing => Err(Failure::Problems(missing)),
    }
}
