//! `bench`: throughput and latency, measured the same way against any broker.
//!
//! Throughput: each producer keeps a number of requests in flight and counts what is acknowledged.
//! Latency at a fixed rate: records fall due by a schedule that no answer delays, and a record's
//! latency counts from when it was due, so a stall shows in all records that it held up
//! (no coordinated omission). Batches are encoded once and sent again and again: only their
//! headers are made anew, so the client costs little beside the broker.

mod consume;
mod join;
mod load;
mod produce;
mod report;
mod template;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    Shared,
    failure::Failure,
    output::Out,
    produce::{AcksArg, Codec},
    times,
};
use crate::client::{
    Client, ConfigChange, NewTopic, OffsetSpec, Partition, Resource, WireError, retrying,
};

#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Write as fast as possible, or at a fixed rate
    Produce(produce::ProduceArgs),
    /// Read as fast as possible
    Consume(consume::ConsumeArgs),
    /// Write at a fixed rate and read along: the time from due to read
    EndToEnd(produce::EndToEndArgs),
}

/// What is common to all measurements.
#[derive(Debug, Clone, Args)]
struct Common {
    /// Which topic; made where it does not exist
    #[arg(short, long, default_value = "bench")]
    topic: String,
    /// How many partitions the topic gets where it is made
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    /// How many replicas the topic gets where it is made
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    replication_factor: i16,
    /// A setting for the topic, such as flush.messages=1; may be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::topic::key_value)]
    topic_config: Vec<(String, String)>,
    /// How many threads the client may use
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A broker's process id on this machine: reports its CPU time as well; may be given again
    #[arg(long, value_name = "PID")]
    broker_pid: Vec<u32>,
}

/// What is written.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// How large a record's value is, in bytes
    #[arg(long, default_value_t = 100)]
    record_size: usize,
    /// How large a batch may get before compression, in bytes
    #[arg(long, default_value_t = 16 << 10)]
    batch_bytes: usize,
    /// How large a request may get, in bytes
    #[arg(long, default_value_t = 1 << 20)]
    request_bytes: usize,
    /// When a batch counts as written
    #[arg(long, value_enum, default_value_t = AcksArg::All)]
    acks: AcksArg,
    /// The codec of batches
    #[arg(long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// How many producers, each with an identity and connections of its own
    #[arg(long, default_value_t = 1)]
    producers: usize,
    /// How many requests each producer keeps in flight at each broker
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    /// Turn idempotence off
    #[arg(long)]
    no_idempotence: bool,
    /// How long to measure
    #[arg(long, value_parser = times::duration, default_value = "10s")]
    duration: Duration,
    /// How long to write before anything counts
    #[arg(long, value_parser = times::duration, default_value = "2s")]
    warm_up: Duration,
    /// At a fixed rate: how long records are gathered into batches
    #[arg(long, value_parser = times::duration, default_value = "1ms")]
    linger: Duration,
}

impl Bench {
    /// The runtime to measure on: one thread wakes nobody.
    pub(super) fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        let threads = match self {
            Self::Produce(args) => args.common.threads,
            Self::Consume(args) => args.common.threads,
            Self::EndToEnd(args) => args.common.threads,
        };
        if threads <= 1 {
            return tokio::runtime::Builder::new_current_thread().enable_all().build();
        }
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
    }
}

pub(super) async fn run(command: Bench, shared: &Shared, out: &mut Out) -> Result<(), Failure> {
    let client = shared.client()?;
    match command {
        Bench::Produce(args) => produce::run(args, &client, out).await,
        Bench::Consume(args) => consume::run(args, &client, out).await,
        Bench::EndToEnd(args) => produce::end_to_end(args, &client, out).await,
    }
}

impl Common {
    /// Sees to it that the topic is there, with the settings that were asked for.
    async fn prepare(&self, client: &Client) -> Result<(), Failure> {
        let topic = NewTopic {
            name: self.topic.clone(),
            partitions: Some(self.partitions),
            replication_factor: Some(self.replication_factor),
            configs: self.topic_config.clone(),
        };
        match client.create_topic(&topic, false).await {
            Ok(_) => {}
            Err(error) if error.wire() == Some(WireError::TopicAlreadyExists) => {
                let set = self.topic_config.iter().cloned();
                let changes: Vec<_> = set.map(|(key, v)| ConfigChange::Set(key, v)).collect();
                if !changes.is_empty() {
                    let resource = Resource::Topic(self.topic.clone());
                    client.alter_configs(&resource, &changes, false).await?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        // A new topic takes a moment to get its leaders, and they to know that they lead.
        let specs = retrying!(client, client.deadline(), async {
            client.invalidate();
            let topic = client.topic(&self.topic).await?;
            for partition in &topic.partitions {
                client.partition(&self.topic, partition.partition).await?;
            }
            let partitions = topic.partitions.iter().map(|led| led.partition);
            let partitions = partitions.map(|index| Partition::new(self.topic.clone(), index));
            Ok(partitions.map(|partition| (partition, OffsetSpec::Latest)).collect::<Vec<_>>())
        })?;
        client.list_offsets(&specs).await?;
        Ok(())
    }
}
