//! `log`: looks into segments on disk, without a node.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Subcommand;
use serde::Serialize;

use super::{
    failure::Failure,
    output::{Out, progress},
    replicas,
};
use crate::client::{RawBatch, batches};

#[derive(Debug, Subcommand)]
pub(super) enum Log {
    /// Print the batches, and with --records the records, of segments
    Dump {
        /// A .log file, or a directory of them
        path: PathBuf,
        /// Print records too
        #[arg(long)]
        records: bool,
    },
    /// Check lengths, checksums, offsets and records of all segments below a directory; with
    /// --cluster, compare the replicas of every partition
    Verify {
        /// A .log file, or a directory
        #[arg(required_unless_present = "cluster", conflicts_with = "cluster")]
        path: Option<PathBuf>,
        /// Compare what is committed, batch by batch, over the log directories of a cluster's nodes
        #[arg(long, requires = "dirs")]
        cluster: bool,
        /// A node's log directory, best once the node has stopped; once for each
        #[arg(long = "dir", value_name = "DIR", requires = "cluster")]
        dirs: Vec<PathBuf>,
    },
}

pub(super) fn run(command: Log, out: &mut Out) -> Result<(), Failure> {
    match command {
        Log::Dump { path, records } => dump(&path, records, out),
        Log::Verify { path: Some(path), .. } => verify(&path, out),
        Log::Verify { path: None, dirs, .. } => replicas::verify(&dirs, out),
    }
}

/// The segments at or below `path`, in order.
pub(super) fn segments(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |source: io::Error| Failure::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        if entry.is_dir() {
            found.extend(segments(&entry)?);
        } else if is_segment(&entry) {
            found.push(entry);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a file is named as a segment: 20 digits. The metadata store has `.log` files too.
fn is_segment(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let is_log = path.extension().is_some_and(|extension| extension == "log");
    is_log && stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit())
}

fn read(path: &Path) -> Result<Bytes, Failure> {
    fs::read(path).map(Bytes::from).map_err(|source| Failure::File { path: path.into(), source })
}

#[derive(Serialize)]
struct BatchRow {
    position: usize,
    base_offset: i64,
    last_offset: i64,
    count: i32,
    leader_epoch: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    codec: &'static str,
    transactional: bool,
    control: bool,
    max_timestamp_ms: i64,
    size_bytes: usize,
    valid: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<RecordRow>,
}

#[derive(Serialize)]
struct RecordRow {
    offset: i64,
    timestamp_ms: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

fn row(batch: &RawBatch, position: usize, with_records: bool) -> Result<BatchRow, Failure> {
    let mut records = Vec::new();
    let header = batch.header().ok();
    if with_records && !header.is_some_and(|header| header.is_control()) {
        batch.read(&mut records)?;
    }
    let text = |bytes: &Option<Bytes>| {
        bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let records = records.iter().map(|record| RecordRow {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: text(&record.key),
        value: text(&record.value),
        headers: record.headers.iter().map(|h| (h.name.to_string(), text(&h.value))).collect(),
    });
    Ok(BatchRow {
        position,
        base_offset: batch.base_offset,
        last_offset: batch.last_offset,
        count: batch.count,
        leader_epoch: header.map_or(-1, |header| header.leader_epoch.0),
        producer_id: header.map_or(-1, |header| header.producer_id.0),
        producer_epoch: header.map_or(-1, |header| header.producer_epoch.0),
        base_sequence: header.map_or(-1, |header| header.base_sequence),
        codec: header.map_or("?", |header| header.compression.name()),
        transactional: header.is_some_and(|header| header.is_transactional()),
        control: header.is_some_and(|header| header.is_control()),
        max_timestamp_ms: header.map_or(-1, |header| header.max_timestamp_ms),
        size_bytes: batch.bytes.len(),
        valid: batch.verify().is_ok(),
        records: records.collect(),
    })
}

fn dump(path: &Path, records: bool, out: &mut Out) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Segment {
        file: PathBuf,
        size_bytes: usize,
        batches: Vec<BatchRow>,
    }
    let mut dumped = Vec::new();
    for file in segments(path)? {
        let bytes = read(&file)?;
        let size_bytes = bytes.len();
        let mut position = 0;
        let mut rows = Vec::new();
        for batch in batches(bytes) {
            rows.push(row(&batch, position, records)?);
            position += batch.bytes.len();
        }
        let segment = Segment { file, size_bytes, batches: rows };
        if out.is_json() {
            dumped.push(segment);
            continue;
        }
        out.note(&format!("{} ({} bytes)", segment.file.display(), segment.size_bytes))?;
        let columns = [
            "position",
            "base",
            "last",
            "count",
            "epoch",
            "producer",
            "p.epoch",
            "sequence",
            "codec",
            "max timestamp",
            "bytes",
            "crc",
        ];
        out.rows(&segment.batches, &columns, |row| {
            vec![
                row.position.to_string(),
                row.base_offset.to_string(),
                row.last_offset.to_string(),
                row.count.to_string(),
                row.leader_epoch.to_string(),
                row.producer_id.to_string(),
                row.producer_epoch.to_string(),
                row.base_sequence.to_string(),
                row.codec.to_owned(),
                row.max_timestamp_ms.to_string(),
                row.size_bytes.to_string(),
                if row.valid { "ok" } else { "WRONG" }.to_owned(),
            ]
        })?;
        for record in segment.batches.iter().flat_map(|batch| &batch.records) {
            let field = |field: &Option<String>| field.clone().unwrap_or_else(|| "null".into());
            out.note(&format!(
                "  offset {} timestamp {} key {} value {}",
                record.offset,
                record.timestamp_ms,
                field(&record.key),
                field(&record.value)
            ))?;
        }
    }
    if out.is_json() { out.json(&dumped) } else { Ok(()) }
}

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    batches: usize,
    records: u64,
    size_bytes: usize,
    problems: Vec<String>,
}

fn verify(path: &Path, out: &mut Out) -> Result<(), Failure> {
    let files = segments(path)?;
    let bar = progress(Some(files.len() as u64), "segments");
    let mut checked = Vec::new();
    for file in files {
        checked.push(check(file)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let problems = checked.iter().map(|segment| segment.problems.len()).sum();
    out.rows(&checked, &["segment", "batches", "records", "bytes", "problems"], |row| {
        vec![
            row.file.display().to_string(),
            row.batches.to_string(),
            row.records.to_string(),
            row.size_bytes.to_string(),
            if row.problems.is_empty() { "-".to_owned() } else { row.problems.join("; ") },
        ]
    })?;
    if problems == 0 { Ok(()) } else { Err(Failure::Problems(problems)) }
}

fn check(file: PathBuf) -> Result<Checked, Failure> {
    let bytes = read(&file)?;
    let size_bytes = bytes.len();
    let mut problems = Vec::new();
    let (mut count, mut records, mut position) = (0, 0u64, 0);
    // A segment's name is the lowest offset that it may hold.
    let named = file.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
    let mut next_offset: i64 = named.unwrap_or(0);
    for batch in batches(bytes) {
        if batch.base_offset < next_offset {
            problems.push(format!(
                "at {position}: offset {} where {next_offset} or more is due",
                batch.base_offset
            ));
        }
        let read = batch.verify().and_then(|header| {
            let mut found = Vec::new();
            if !header.is_control() {
                batch.read(&mut found)?;
            }
            Ok(())
        });
        if let Err(error) = read {
            problems.push(format!("at {position}: {error}"));
        }
        next_offset = batch.last_offset + 1;
        position += batch.bytes.len();
        count += 1;
        records += u64::try_from(batch.count).unwrap_or(0);
    }
    if position < size_bytes {
        problems.push(format!("at {position}: {} bytes that are no batch", size_bytes - position));
    }
    Ok(Checked { file, batches: count, records, size_bytes, problems })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_are_looked_into() {
        let root = tempfile::tempdir().unwrap();
        let segment = root.path().join("t-0").join("00000000000000000007.log");
        for file in ["t-0/00000000000000000007.log", "t-0/00000000000000000007.index"]
            .into_iter()
            .chain(["quorum/000004.log", "t-0/00000000000000000007.log.12.torn"])
        {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        assert_eq!(segments(root.path()).unwrap(), [segment]);
    }
}
