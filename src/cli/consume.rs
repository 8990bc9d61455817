//! `consume`: records to lines.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use super::{failure::Failure, output::Out, times};
use crate::client::{
    Assignor, Client, ConsumedRecord, Consumer, ConsumerConfig, GroupConfig, OffsetSpec, Partition,
    retrying,
};

#[derive(Debug, Args)]
pub(super) struct ConsumeArgs {
    /// Where from
    topic: String,
    /// Which partitions; all where not given
    #[arg(short, long, value_delimiter = ',', conflicts_with = "group")]
    partition: Vec<i32>,
    #[command(flatten)]
    start: Start,
    /// Read as a member of this group, and commit
    #[arg(short, long)]
    group: Option<String>,
    /// How the group shares out partitions: range or roundrobin
    #[arg(long, default_value = "range", requires = "group", value_parser = assignor)]
    assignor: Assignor,
    /// Stop after so many records
    #[arg(short = 'n', long, value_name = "COUNT")]
    max_records: Option<u64>,
    /// Stop at the offsets that were the ends when it started
    #[arg(long, conflicts_with = "group")]
    until_end: bool,
    /// Stop when nothing came for so long
    #[arg(long, value_parser = times::duration, value_name = "DURATION")]
    idle: Option<Duration>,
    /// How to print a record: %t topic, %p partition, %o offset, %T timestamp, %k key, %v value,
    /// %h headers, \n, \t, \0 and \\
    #[arg(short, long, default_value = "%v\\n")]
    format: String,
    /// Only records of committed transactions
    #[arg(long)]
    read_committed: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Start {
    /// Start with the oldest records; with a group, where it has committed nothing
    #[arg(long)]
    from_beginning: bool,
    /// Start at this offset
    #[arg(long, conflicts_with = "group", value_name = "OFFSET")]
    offset: Option<i64>,
    /// Start at the first records at or after this time, in ms or as 2026-01-31T12:00:00Z
    #[arg(long, conflicts_with = "group", value_name = "TIME", value_parser = times::timestamp_ms)]
    from_timestamp: Option<i64>,
}

fn assignor(text: &str) -> Result<Assignor, String> {
    match text {
        "range" => Ok(Assignor::Range),
        "roundrobin" => Ok(Assignor::RoundRobin),
        _ => Err("expected range or roundrobin".to_owned()),
    }
}

pub(super) async fn run(args: ConsumeArgs, client: &Client, out: &mut Out) -> Result<(), Failure> {
    let reset = if args.start.from_beginning { OffsetSpec::Earliest } else { OffsetSpec::Latest };
    let read_committed = args.read_committed;
    let explicit = args.start.offset.is_some();
    let reset = if explicit { None } else { Some(reset) };
    let config = ConsumerConfig { read_committed, reset, ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(client.clone(), config);
    let mut ends = BTreeMap::new();
    match &args.group {
        Some(group) => {
            let group = GroupConfig { assignor: args.assignor, ..GroupConfig::new(group) };
            consumer.subscribe(&[&args.topic], group);
        }
        None => {
            let starts = starts(&args, client).await?;
            if args.until_end {
                let specs: Vec<_> =
                    starts.keys().map(|p| (p.clone(), OffsetSpec::Latest)).collect();
                let found = client.list_offsets(&specs).await?;
                ends = found.into_iter().map(|(p, end)| (p, end.unwrap_or(0))).collect();
            }
            consumer.assign(starts);
        }
    }
    let printed = print_all(&args, &mut consumer, &ends, out).await;
    // A group learns how far it got even where printing failed.
    let closed = consumer.close().await;
    printed?;
    Ok(closed?)
}

async fn starts(args: &ConsumeArgs, client: &Client) -> Result<BTreeMap<Partition, i64>, Failure> {
    let topic = retrying!(client, client.deadline(), async { client.topic(&args.topic).await })?;
    let numbers = if args.partition.is_empty() {
        topic.partitions.iter().map(|p| p.partition).collect()
    } else {
        args.partition.clone()
    };
    let partitions = numbers.into_iter().map(|p| Partition::new(topic.name.clone(), p));
    if let Some(offset) = args.start.offset {
        return Ok(partitions.map(|partition| (partition, offset)).collect());
    }
    let spec = match args.start.from_timestamp {
        Some(timestamp_ms) => OffsetSpec::Timestamp(timestamp_ms),
        None if args.start.from_beginning => OffsetSpec::Earliest,
        None => OffsetSpec::Latest,
    };
    let specs: Vec<_> = partitions.map(|partition| (partition, spec)).collect();
    let mut starts = client.list_offsets(&specs).await?;
    // A time beyond the newest record means the end.
    let beyond: Vec<_> = starts
        .iter()
        .filter(|(_, offset)| offset.is_none())
        .map(|(partition, _)| (partition.clone(), OffsetSpec::Latest))
        .collect();
    starts.extend(client.list_offsets(&beyond).await?);
    Ok(starts.into_iter().map(|(partition, offset)| (partition, offset.unwrap_or(0))).collect())
}

async fn print_all(
    args: &ConsumeArgs,
    consumer: &mut Consumer,
    ends: &BTreeMap<Partition, i64>,
    out: &mut Out,
) -> Result<(), Failure> {
    let format = Piece::parse(&args.format).map_err(Failure::usage)?;
    let wait = args.idle.unwrap_or(Duration::from_millis(500));
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut printed = 0u64;
    let done = |consumer: &Consumer| {
        let positions = consumer.positions();
        args.until_end && ends.iter().all(|(p, end)| positions.get(p).is_none_or(|at| at >= end))
    };
    loop {
        let finished = done(consumer);
        // What was fetched before the end was reached has yet to be printed.
        let wait = if finished { Duration::ZERO } else { wait };
        let polled = tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(()),
            polled = consumer.poll(wait) => polled?,
        };
        let Some(fetched) = polled else {
            out.writer().flush()?;
            if args.idle.is_some() || finished {
                return Ok(());
            }
            continue;
        };
        let end = ends.get(&fetched.partition).copied().unwrap_or(i64::MAX);
        for record in fetched.records()? {
            if record.offset >= end {
                break;
            }
            if out.is_json() {
                serde_json::to_writer(out.writer(), &Json::new(&fetched.partition, &record))?;
                writeln!(out.writer())?;
            } else {
                print(&format, &fetched.partition, &record, out)?;
            }
            printed += 1;
            if Some(printed) == args.max_records {
                out.writer().flush()?;
                return Ok(());
            }
        }
        out.writer().flush()?;
    }
}

#[derive(Serialize)]
struct Json<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    key: Option<std::borrow::Cow<'a, str>>,
    value: Option<std::borrow::Cow<'a, str>>,
    headers: Vec<(&'a str, Option<std::borrow::Cow<'a, str>>)>,
}

fn text(bytes: &Option<Bytes>) -> Option<std::borrow::Cow<'_, str>> {
    bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes))
}

impl<'a> Json<'a> {
    fn new(partition: &'a Partition, record: &'a ConsumedRecord) -> Self {
        Self {
            topic: &partition.topic,
            partition: partition.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: text(&record.key),
            value: text(&record.value),
            headers: record.headers.iter().map(|h| (&*h.name, text(&h.value))).collect(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
}

impl Piece {
    fn parse(format: &str) -> Result<Vec<Self>, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            let piece = match c {
                '\\' => {
                    literal.push(match rest.next() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some('0') => '\0',
                        Some('\\') => '\\',
                        other => return Err(format!("--format: '\\{}'", other.unwrap_or(' '))),
                    });
                    continue;
                }
                '%' => match rest.next() {
                    Some('t') => Self::Topic,
                    Some('p') => Self::Partition,
                    Some('o') => Self::Offset,
                    Some('T') => Self::Timestamp,
                    Some('k') => Self::Key,
                    Some('v') => Self::Value,
                    Some('h') => Self::Headers,
                    Some('%') => {
                        literal.push('%');
                        continue;
                    }
                    other => return Err(format!("--format: '%{}'", other.unwrap_or(' '))),
                },
                other => {
                    literal.push(other);
                    continue;
                }
            };
            if !literal.is_empty() {
                pieces.push(Self::Text(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(Self::Text(literal));
        }
        Ok(pieces)
    }
}

fn print(
    format: &[Piece],
    partition: &Partition,
    record: &ConsumedRecord,
    out: &mut Out,
) -> Result<(), Failure> {
    let writer = out.writer();
    for piece in format {
        match piece {
            Piece::Text(text) => writer.write_all(text.as_bytes())?,
            Piece::Topic => write!(writer, "{}", partition.topic)?,
            Piece::Partition => write!(writer, "{}", partition.partition)?,
            Piece::Offset => write!(writer, "{}", record.offset)?,
            Piece::Timestamp => write!(writer, "{}", record.timestamp_ms)?,
            Piece::Key => writer.write_all(record.key.as_deref().unwrap_or_default())?,
            Piece::Value => writer.write_all(record.value.as_deref().unwrap_or_default())?,
            Piece::Headers => {
                for (n, header) in record.headers.iter().enumerate() {
                    let comma = if n > 0 { "," } else { "" };
                    write!(writer, "{comma}{}=", header.name)?;
                    writer.write_all(header.value.as_deref().unwrap_or_default())?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_pieces_and_text() {
        let pieces = Piece::parse("%p@%o\\t%k=%v 100%%\\n").unwrap();
        let text = |text: &str| Piece::Text(text.to_owned());
        let expected = [
            Piece::Partition,
            text("@"),
            Piece::Offset,
            text("\t"),
            Piece::Key,
            text("="),
            Piece::Value,
            text(" 100%\n"),
        ];
        assert_eq!(pieces, expected);
        assert!(Piece::parse("%x").is_err() && Piece::parse("\\").is_err());
    }
}
