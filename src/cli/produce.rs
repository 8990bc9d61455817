//! `produce`: lines to records.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    failure::Failure,
    output::{Out, progress},
    times,
    topic::key_value,
};
use crate::{
    base::{Clock as _, SystemClock},
    client::{Acks, Client, Compression, Header, Producer, ProducerConfig, Receipt, Record},
};

#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    /// Where to
    topic: String,
    /// Which partition; by the key, or else batch by batch, where not given
    #[arg(short, long)]
    partition: Option<i32>,
    /// What separates the key from the value in a line; no keys where not given
    #[arg(short, long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A key for all records
    #[arg(long, conflicts_with = "key_separator")]
    key: Option<String>,
    /// A header for all records; may be given again
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = key_value)]
    header: Vec<(String, String)>,
    /// Take empty values as tombstones
    #[arg(long)]
    empty_is_null: bool,
    /// The codec of batches
    #[arg(short, long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// When a record counts as written
    #[arg(long, value_enum, default_value_t = AcksArg::All)]
    acks: AcksArg,
    /// How long a batch waits for more records
    #[arg(long, default_value = "5ms", value_parser = times::duration)]
    linger: Duration,
    /// When a batch is full, in bytes
    #[arg(long, default_value_t = 64 << 10)]
    batch_bytes: usize,
    /// Read this file instead of standard input
    #[arg(short, long)]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AcksArg {
    /// All in-sync replicas
    All,
    /// The leader
    #[value(name = "1", alias = "leader")]
    Leader,
    /// Nobody
    #[value(name = "0", alias = "none")]
    None,
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Self {
        match acks {
            AcksArg::All => Self::All,
            AcksArg::Leader => Self::Leader,
            AcksArg::None => Self::None,
        }
    }
}

/// How many records may wait for their acknowledgement to be looked at.
const RECEIPTS: usize = 10_000;

pub(super) async fn run(args: ProduceArgs, client: &Client, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Done<'a> {
        topic: &'a str,
        records: u64,
        bytes: u64,
    }
    let config = ProducerConfig {
        acks: args.acks.into(),
        compression: args.compression.into(),
        linger: args.linger,
        batch_bytes: args.batch_bytes,
        delivery_timeout: client.config().operation_timeout,
        ..ProducerConfig::default()
    };
    let producer = Producer::new(client.clone(), config);
    let mut input = lines(args.file.as_deref())?;
    let headers: Vec<_> = args
        .header
        .iter()
        .map(|(name, value)| Header {
            name: Arc::from(name.as_str()),
            value: Some(value.clone().into()),
        })
        .collect();
    let bar = progress(None, "records");
    let mut receipts: VecDeque<Receipt> = VecDeque::new();
    let (mut records, mut bytes) = (0u64, 0u64);
    while let Some(line) = input.recv().await {
        let line = line?;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let record = record(&args, text, headers.clone())?;
        receipts.push_back(producer.send(&args.topic, args.partition, record).await?);
        records += 1;
        bytes += text.len() as u64;
        bar.set_position(records);
        while receipts.len() > RECEIPTS
            && let Some(receipt) = receipts.pop_front()
        {
            receipt.delivered().await?;
        }
    }
    producer.flush().await;
    for receipt in receipts {
        receipt.delivered().await?;
    }
    bar.finish_and_clear();
    if out.is_json() {
        return out.json(&Done { topic: &args.topic, records, bytes });
    }
    out.note(&format!("{records} records ({bytes} bytes) written to {}", args.topic))
}

fn record(args: &ProduceArgs, line: &[u8], headers: Vec<Header>) -> Result<Record, Failure> {
    let line = BytesMut::from(line).freeze();
    let (key, value) = match &args.key_separator {
        None => (args.key.clone().map(Bytes::from), line),
        Some(separator) => {
            let at = line.windows(separator.len().max(1)).position(|w| w == separator.as_bytes());
            let Some(at) = at else {
                return Err(Failure::usage(format!(
                    "a line without the separator '{separator}': {}",
                    String::from_utf8_lossy(&line[..line.len().min(60)])
                )));
            };
            (Some(line.slice(..at)), line.slice(at + separator.len()..))
        }
    };
    let value = if args.empty_is_null && value.is_empty() { None } else { Some(value) };
    Ok(Record { key, value, headers, timestamp_ms: SystemClock.wall_ms() })
}

/// Reads lines on a thread of its own, so that waiting for one holds up nothing else.
fn lines(file: Option<&Path>) -> Result<mpsc::Receiver<io::Result<Vec<u8>>>, Failure> {
    let failed = |source| Failure::File { path: file.unwrap_or(Path::new("-")).into(), source };
    let mut input: Box<dyn BufRead + Send> = match file {
        None => Box::new(BufReader::with_capacity(256 << 10, io::stdin())),
        Some(path) => {
            Box::new(BufReader::with_capacity(256 << 10, File::open(path).map_err(failed)?))
        }
    };
    let (sender, lines) = mpsc::channel(1024);
    let read = move || {
        loop {
            let mut line = Vec::new();
            let read = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => Ok(line),
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new().name("input".to_owned()).spawn(read).map_err(failed)?;
    Ok(lines)
}
