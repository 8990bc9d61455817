//! Kafka's own dump tool reads what we write. Ignored unless asked for: `OTTLA_KAFKA_LIB` must
//! name Kafka's jars.

use std::process::Command;

use super::*;

#[test]
#[ignore = "needs OTTLA_KAFKA_LIB"]
fn kafkas_dump_tool_reads_every_file_without_complaint() {
    let lib = std::env::var("OTTLA_KAFKA_LIB").expect("OTTLA_KAFKA_LIB names Kafka's jars");
    let root = tempfile::tempdir().unwrap();
    let dir = StdDir::create(root.path()).unwrap();
    let directory = LogDirectory::open(Arc::new(dir)).unwrap();
    let log = create(&directory, small());
    for i in 0..50 {
        let batch = batch(&vec![vec![1; 100]; 3], Some((1, 3 * i)));
        log.append(&[batch], client()).unwrap();
        let how = Append { log_append_time_ms: Some(NOW_MS + i64::from(i)), ..client() };
        log.append(&[super::batch(&[vec![1; 10]], None)], how).unwrap();
    }
    let producer = Producer { id: ProducerId(9), epoch: ProducerEpoch(0), base_sequence: 0 };
    let attributes = Attributes(0).with_transactional(true);
    let options = BatchOptions { producer, attributes, ..BatchOptions::default() };
    log.append(&[build(options, &[vec![3]], NOW_MS + 99)], client()).unwrap();
    let coordinator = Append { origin: Origin::Coordinator, ..client() };
    log.append(&[marker(9, false)], coordinator).unwrap();
    directory.close().unwrap();

    let files: Vec<String> = std::fs::read_dir(root.path().join("t-0"))
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| [".log", "index", ".snapshot"].iter().any(|suffix| path.ends_with(suffix)))
        .collect();
    for extra in ["--deep-iteration", "--index-sanity-check", "--print-data-log"] {
        let output = Command::new("java")
            .args(["-cp", &format!("{lib}/*"), "org.apache.kafka.tools.DumpLogSegments", extra])
            .args(["--files", &files.join(",")])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let complaints: Vec<_> = errors.lines().filter(|line| !harmless(line)).collect();
        assert!(output.status.success() && complaints.is_empty(), "{extra}: {errors}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains("isvalid: false"), "{text}");
        assert!(text.contains("producerId: 9"), "{text}");
    }
}

/// The tool's deep iteration compares the first record of a segment with offset -1, so that every
/// segment but the one at 0 "follows" it, whoever wrote it.
fn harmless(line: &str) -> bool {
    ["SLF4J", "WARN", "Non-consecutive offsets in", "-1 is followed by"]
        .iter()
        .any(|text| line.contains(text))
}
