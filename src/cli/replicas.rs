//! `log verify --cluster`: compares the replicas of partitions, as they lie on disk.
//!
//! What is committed is the same on every replica, to the byte: compared is from the highest log
//! start to the lowest log end. A difference below the highest known high watermark is a problem;
//! from there on it only ends the comparison, since a tail that is not committed may yet be cut.
//! Below where a replica was compacted each cleans by itself, and nothing is compared. A replica
//! that ends before the high watermark is behind, which is no difference: it catches up before it
//! may lead.
//!
//! A segment is read as a stream, one batch of each replica at a time.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Serialize;

use super::{
    failure::Failure,
    log::segments,
    output::{Out, progress},
};
use crate::{
    base::TopicId,
    client::{RawBatch, batches},
    log::{
        MetaProperties,
        checkpoint::{
            CLEANER, HIGH_WATERMARKS, LOG_STARTS, META_PROPERTIES, Offsets, PARTITION_METADATA,
            decode_offsets, decode_partition_metadata,
        },
        is_log_name,
    },
};

/// The bytes before and of a batch's length.
const PREFIX_BYTES: usize = 12;
/// A batch that is longer is none: Kafka's largest request.
const BATCH_MAX_BYTES: usize = 1 << 30;

/// A partition, and what came of comparing its replicas.
#[derive(Debug, Serialize)]
struct Compared {
    /// `topic-partition`.
    partition: String,
    /// The topic's id, where the directories say so.
    topic_id: Option<String>,
    replicas: Vec<Replica>,
    /// The first offset that was compared.
    from: i64,
    /// All that lies before this offset is equal, where there are no problems.
    to: i64,
    /// The highest known high watermark.
    committed: i64,
    batches: u64,
    records: u64,
    /// Nodes whose logs end before the highest known high watermark.
    behind: Vec<String>,
    /// The first difference, and any batch that is damaged.
    problems: Vec<String>,
}

/// A replica of a partition, as it lies on disk.
#[derive(Debug, Serialize)]
struct Replica {
    /// The node's id, or the directory where it has none.
    node: String,
    path: PathBuf,
    log_start_offset: i64,
    log_end_offset: i64,
    /// As last checkpointed: the true one may be higher.
    high_watermark: Option<i64>,
    /// Up to where it was compacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    compacted_to: Option<i64>,
}

/// Compares what lies in `directories`, each of which is one of a node's `log.dirs`.
pub(super) fn verify(directories: &[PathBuf], out: &mut Out) -> Result<(), Failure> {
    let mut partitions: BTreeMap<(String, Option<TopicId>), Vec<Replica>> = BTreeMap::new();
    for directory in directories {
        find_replicas(directory, &mut partitions)?;
    }
    let bar = progress(Some(partitions.len() as u64), "partitions");
    let mut compared = Vec::new();
    for ((partition, topic_id), replicas) in partitions {
        compared.push(compare(partition, topic_id, replicas)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let problems = compared.iter().map(|partition| partition.problems.len()).sum();
    let columns = [
        "partition",
        "nodes",
        "from",
        "to",
        "committed",
        "batches",
        "records",
        "behind",
        "problems",
    ];
    out.rows(&compared, &columns, |row| {
        let nodes: Vec<&str> = row.replicas.iter().map(|replica| &*replica.node).collect();
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        vec![
            row.partition.clone(),
            nodes.join(","),
            row.from.to_string(),
            row.to.to_string(),
            row.committed.to_string(),
            row.batches.to_string(),
            row.records.to_string(),
            or_dash(row.behind.join(",")),
            or_dash(row.problems.join("; ")),
        ]
    })?;
    if problems == 0 { Ok(()) } else { Err(Failure::Differences(problems)) }
}

fn find_replicas(
    directory: &Path,
    partitions: &mut BTreeMap<(String, Option<TopicId>), Vec<Replica>>,
) -> Result<(), Failure> {
    let failed = |source| Failure::File { path: directory.to_owned(), source };
    let properties = read_file(&directory.join(META_PROPERTIES))?;
    let properties = properties.and_then(|bytes| MetaProperties::decode(&bytes).ok());
    let node = properties
        .map_or_else(|| directory.display().to_string(), |found| found.node_id.0.to_string());
    let starts = offsets(&directory.join(LOG_STARTS))?;
    let high_watermarks = offsets(&directory.join(HIGH_WATERMARKS))?;
    let compacted = offsets(&directory.join(CLEANER))?;
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !path.is_dir() || !is_log_name(name) {
            continue;
        }
        let name = name.to_owned();
        let topic_id = read_file(&path.join(PARTITION_METADATA))?
            .and_then(|bytes| decode_partition_metadata(&bytes).ok());
        let files = segments(&path)?;
        let Some(first) = files.first() else { continue };
        let log_start_offset = base_offset(first).max(starts.get(&name).map_or(0, |o| o.0));
        let log_end_offset = files.last().map_or(Ok(0), |last| end(last))?.max(log_start_offset);
        let replica = Replica {
            node: node.clone(),
            path,
            log_start_offset,
            log_end_offset,
            high_watermark: high_watermarks.get(&name).map(|offset| offset.0),
            compacted_to: compacted.get(&name).map(|offset| offset.0),
        };
        partitions.entry((name, topic_id)).or_default().push(replica);
    }
    Ok(())
}

fn compare(
    partition: String,
    topic_id: Option<TopicId>,
    replicas: Vec<Replica>,
) -> Result<Compared, Failure> {
    let starts = replicas.iter().map(|r| r.log_start_offset.max(r.compacted_to.unwrap_or(0)));
    let from = starts.max().unwrap_or(0);
    let committed = replicas.iter().filter_map(|replica| replica.high_watermark).max().unwrap_or(0);
    let ends = replicas.iter().map(|replica| replica.log_end_offset);
    let mut to = ends.min().unwrap_or(0).max(from);
    let behind = replicas.iter().filter(|replica| replica.log_end_offset < committed);
    let behind = behind.map(|replica| replica.node.clone()).collect();
    let mut readers = Vec::new();
    for replica in &replicas {
        readers.push(Reader::open(&replica.path, from)?);
    }
    let (mut batches, mut records, mut problems) = (0, 0, Vec::new());
    loop {
        let mut next = Vec::new();
        for reader in &mut readers {
            next.push(reader.next(from)?.filter(|batch| batch.last_offset < to));
        }
        let Some((first, others)) = next.split_first() else { break };
        if others.iter().any(|other| bytes(other.as_ref()) != bytes(first.as_ref())) {
            let at = next.iter().flatten().map(|batch| batch.base_offset).min();
            to = at.unwrap_or(to);
            if to >= committed {
                break;
            }
            let shown = replicas.iter().zip(&next);
            let shown = shown.map(|(replica, batch)| describe(replica, batch.as_ref()));
            problems.push(shown.collect::<Vec<_>>().join(", "));
            break;
        }
        let Some(batch) = first else { break };
        if let Err(error) = batch.verify() {
            problems.push(error.to_string());
        }
        batches += 1;
        records += u64::try_from(batch.count).unwrap_or(0);
    }
    let topic_id = topic_id.map(|id| id.to_string());
    Ok(Compared {
        partition,
        topic_id,
        replicas,
        from,
        to,
        committed,
        batches,
        records,
        behind,
        problems,
    })
}

fn bytes(batch: Option<&RawBatch>) -> Option<&Bytes> {
    batch.map(|batch| &batch.bytes)
}

fn describe(replica: &Replica, batch: Option<&RawBatch>) -> String {
    let node = &replica.node;
    let Some(batch) = batch else { return format!("node {node} has no further batch") };
    let (epoch, crc) = batch.header().map_or((-1, 0), |header| (header.leader_epoch.0, header.crc));
    format!(
        "node {node} has {}..={} of epoch {epoch}, {} bytes, CRC {crc:08x}",
        batch.base_offset,
        batch.last_offset,
        batch.bytes.len(),
    )
}

/// The batches of a log from an offset on.
struct Reader {
    /// Those that follow, the next one last.
    files: Vec<PathBuf>,
    current: Option<(BufReader<File>, PathBuf)>,
}

impl Reader {
    fn open(path: &Path, from: i64) -> Result<Self, Failure> {
        let mut files = segments(path)?;
        let before = files.iter().filter(|file| base_offset(file) <= from).count();
        files.drain(..before.saturating_sub(1));
        files.reverse();
        Ok(Self { files, current: None })
    }

    /// The next batch that begins at `from` or later. A torn one ends the log.
    fn next(&mut self, from: i64) -> Result<Option<RawBatch>, Failure> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.files.pop() else { return Ok(None) };
                let failed = |source| Failure::File { path: path.clone(), source };
                let file = File::open(&path).map_err(failed)?;
                self.current = Some((BufReader::with_capacity(256 << 10, file), path));
            }
            let Some((reader, path)) = &mut self.current else { return Ok(None) };
            let read = read_batch(reader);
            match read.map_err(|source| Failure::File { path: path.clone(), source })? {
                Some(batch) if batch.base_offset < from => {}
                Some(batch) => return Ok(Some(batch)),
                None => self.current = None,
            }
        }
    }
}

/// None at the end, and where what is there is no whole batch.
fn read_batch(reader: &mut impl io::Read) -> io::Result<Option<RawBatch>> {
    let mut batch = Vec::new();
    reader.take(PREFIX_BYTES as u64).read_to_end(&mut batch)?;
    let Some(length) = batch.get(8..PREFIX_BYTES).and_then(|length| length.first_chunk()) else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
    if length > BATCH_MAX_BYTES {
        return Ok(None);
    }
    reader.take(length as u64).read_to_end(&mut batch)?;
    Ok(batches(Bytes::from(batch)).next())
}

/// The offset that a segment is named for.
fn base_offset(segment: &Path) -> i64 {
    let stem = segment.file_stem().and_then(|stem| stem.to_str());
    stem.and_then(|stem| stem.parse().ok()).unwrap_or(0)
}

/// Where a log ends whose last segment this is.
fn end(segment: &Path) -> Result<i64, Failure> {
    let mut reader = Reader { files: vec![segment.to_owned()], current: None };
    let mut end = base_offset(segment);
    while let Some(batch) = reader.next(0)? {
        end = batch.last_offset + 1;
    }
    Ok(end)
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Failure::File { path: path.to_owned(), source }),
    }
}

fn offsets(path: &Path) -> Result<Offsets, Failure> {
    let Some(bytes) = read_file(path)? else { return Ok(Offsets::new()) };
    decode_offsets(&bytes).map_err(|_| Failure::Checkpoint { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        base::{LeaderEpoch, Offset},
        protocol::batch::{BatchBuilder, BatchOptions, NewRecord},
    };

    fn batch(base_offset: i64, epoch: i32, value: &str) -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: Offset(base_offset),
            leader_epoch: LeaderEpoch(epoch),
            ..BatchOptions::default()
        });
        builder.push(&NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() });
        builder.build().unwrap().bytes().to_vec()
    }

    /// A log directory with one log in two segments.
    fn node(batches: &[Vec<u8>], high_watermark: i64) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("t-0");
        fs::create_dir(&log).unwrap();
        let (first, rest) = batches.split_first().unwrap();
        fs::write(log.join("00000000000000000000.log"), first).unwrap();
        fs::write(log.join("00000000000000000001.log"), rest.concat()).unwrap();
        let checkpoint = format!("0\n1\nt 0 {high_watermark}\n");
        fs::write(root.path().join(HIGH_WATERMARKS), checkpoint).unwrap();
        root
    }

    fn compared(nodes: &[&TempDir]) -> Compared {
        let mut partitions = BTreeMap::new();
        for node in nodes {
            find_replicas(node.path(), &mut partitions).unwrap();
        }
        let ((partition, topic_id), replicas) = partitions.pop_first().unwrap();
        compare(partition, topic_id, replicas).unwrap()
    }

    #[test]
    fn a_committed_difference_is_found_and_a_tail_is_none() {
        let right = [batch(0, 0, "a"), batch(1, 0, "b"), batch(2, 0, "c")];
        let other = [batch(0, 0, "a"), batch(1, 0, "b"), batch(2, 1, "c")];
        let leader = node(&right, 3);
        let found = compared(&[&leader, &node(&right, 2)]);
        assert_eq!((found.from, found.to, found.batches, found.problems.len()), (0, 3, 3, 0));
        let found = compared(&[&leader, &node(&other, 2)]);
        assert_eq!((found.to, found.problems.len()), (2, 1));
        assert!(found.problems[0].contains("has 2..=2 of epoch 1"), "{}", found.problems[0]);
        // Not committed as far as anybody knows.
        let found = compared(&[&node(&right, 2), &node(&other, 2)]);
        assert_eq!((found.to, found.problems.len()), (2, 0));
    }

    #[test]
    fn a_replica_that_is_behind_is_compared_as_far_as_it_reaches() {
        let all = [batch(0, 0, "a"), batch(1, 0, "b"), batch(2, 0, "c")];
        let found = compared(&[&node(&all, 3), &node(&all[..2], 2)]);
        assert_eq!((found.to, found.behind.len(), found.problems.len()), (2, 1, 0));
    }

    #[test]
    fn a_damage_that_all_replicas_share_is_found() {
        let mut damaged = batch(1, 0, "b");
        *damaged.last_mut().unwrap() ^= 1;
        let all = [batch(0, 0, "a"), damaged];
        assert_eq!(compared(&[&node(&all, 2), &node(&all, 2)]).problems.len(), 1);
    }
}
