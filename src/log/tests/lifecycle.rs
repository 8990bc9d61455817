//! Single behaviours, each by example.

use super::*;

#[test]
fn a_fetch_within_a_batch_yields_the_whole_batch() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, small());
    log.append(&[batch(&vec![vec![1]; 10], None)], client()).unwrap();
    log.append(&[batch(&vec![vec![2]; 10], None)], client()).unwrap();
    let slice = log.read(Offset(13), Offset(20), 1, true).unwrap().unwrap();
    let mut bytes = vec![0; slice.len_bytes as usize];
    slice.file.read_at(slice.position, &mut bytes).unwrap();
    let batches = Batches::parse_stored(bytes.into()).unwrap();
    assert_eq!(batches.len(), 1);
    assert_eq!((batches[0].base_offset(), batches[0].last_offset()), (Offset(10), Offset(19)));
    assert!(log.read(Offset(13), Offset(20), 1, false).unwrap().is_none());
    assert!(log.read(Offset(20), Offset(20), 1, true).unwrap().is_none());
    assert!(matches!(
        log.read(Offset(21), Offset(21), 1, true),
        Err(LogError::OffsetOutOfRange { .. })
    ));
}

#[test]
fn a_repeated_batch_is_answered_with_its_first_offset() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, small());
    for sequence in 0..7 {
        log.append(&[batch(&[vec![0]], Some((5, sequence)))], client()).unwrap();
    }
    let again = log.append(&[batch(&[vec![0]], Some((5, 4)))], client()).unwrap();
    assert!(again.duplicate);
    assert_eq!(again.first_offset, Offset(4));
    // Older than the last five, and ahead of what is due.
    for sequence in [1, 9] {
        let refused = log.append(&[batch(&[vec![0]], Some((5, sequence)))], client());
        assert!(matches!(refused, Err(AppendError::OutOfOrderSequence { last: 6, .. })));
    }
    assert_eq!(log.log_end_offset(), Offset(7));
}

#[test]
fn a_batch_is_known_again_though_the_log_was_cut_or_the_node_stopped() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, small());
    let append = |log: &Log, sequence| {
        log.append(&[batch(&[vec![0]], Some((5, sequence)))], client()).unwrap()
    };
    let repeats = |log: &Log, when: &str| {
        // A producer has up to five batches in flight, and repeats all of them.
        for (sequence, offset) in [(3, 3), (4, 4), (5, 5), (6, 6), (7, 8)] {
            let again = append(log, sequence);
            assert_eq!((again.duplicate, again.first_offset), (true, Offset(offset)), "{when}");
        }
    };
    (0..7).map(|sequence| append(&log, sequence)).for_each(|new| assert!(!new.duplicate));
    // Fills the segment: the next one begins with what was known by then.
    log.append(&[batch(&[vec![0; 4000]], None)], client()).unwrap();
    (7..9).map(|sequence| append(&log, sequence)).for_each(|new| assert!(!new.duplicate));
    log.truncate_to(Offset(9)).unwrap();
    repeats(&log, "after the cut");
    directory.close().unwrap();
    drop((log, directory));
    let directory = super::directory(&dir);
    let (log, _) = directory.load("t-0", small(), NOW_MS).unwrap();
    repeats(&log, "after the stop");
    let new = append(&log, 8);
    assert_eq!((new.duplicate, new.first_offset), (false, Offset(9)));
}

#[test]
fn an_older_producer_epoch_is_fenced() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, small());
    let with_epoch = |epoch| {
        let producer =
            Producer { id: ProducerId(1), epoch: ProducerEpoch(epoch), base_sequence: 0 };
        build(BatchOptions { producer, ..BatchOptions::default() }, &[vec![0]], NOW_MS)
    };
    log.append(&[with_epoch(3)], client()).unwrap();
    let fenced = log.append(&[with_epoch(2)], client());
    assert!(matches!(fenced, Err(AppendError::InvalidProducerEpoch { .. })));
}

#[test]
fn an_aborted_transaction_is_listed_and_holds_the_last_stable_offset_until_replicated() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, small());
    let transactional = |id: i64| {
        let producer = Producer { id: ProducerId(id), epoch: ProducerEpoch(0), base_sequence: 0 };
        let attributes = Attributes(0).with_transactional(true);
        build(BatchOptions { producer, attributes, ..BatchOptions::default() }, &[vec![0]], NOW_MS)
    };
    let coordinator = Append { origin: Origin::Coordinator, ..client() };
    log.append(&[transactional(1)], client()).unwrap(); // Offset 0.
    log.append(&[transactional(2)], client()).unwrap(); // Offset 1.
    assert_eq!(log.first_unstable_offset(Offset(2)), Some(Offset(0)));
    log.append(&[marker(1, false)], coordinator).unwrap(); // Offset 2.
    assert_eq!(log.first_unstable_offset(Offset(2)), Some(Offset(0)), "not replicated yet");
    assert_eq!(log.first_unstable_offset(Offset(3)), Some(Offset(1)));
    log.append(&[marker(2, true)], coordinator).unwrap(); // Offset 3.
    assert_eq!(log.first_unstable_offset(Offset(4)), None);
    let expected = AbortedTxn {
        producer_id: ProducerId(1),
        first_offset: Offset(0),
        last_offset: Offset(2),
        last_stable_offset: Offset(1),
    };
    assert_eq!(log.aborted_transactions(Offset(0), Offset(4)).unwrap(), vec![expected]);
    log.flush().unwrap();
    drop(directory);
    dir.kill();
    let directory = super::directory(&dir);
    let (log, _) = directory.load("t-0", small(), NOW_MS).unwrap();
    assert_eq!(log.aborted_transactions(Offset(0), Offset(4)).unwrap(), vec![expected]);
}

#[test]
fn damage_below_the_recovery_point_takes_the_directory_offline() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, small());
    log.append(&[batch(&[vec![1; 100]], None)], client()).unwrap();
    log.append(&[batch(&[vec![2; 100]], None)], client()).unwrap();
    log.flush().unwrap();
    directory.checkpoint().unwrap();
    drop(directory);
    dir.kill();
    dir.corrupt("t-0/00000000000000000000.log", 90, 1);
    let directory = super::directory(&dir);
    let failed = directory.load("t-0", small(), NOW_MS);
    assert!(matches!(failed, Err(LogError::Corrupt { position: 0, .. })), "{failed:?}");
    assert!(directory.failure().is_some());
}

#[test]
fn a_full_disk_takes_the_directory_offline_and_loses_nothing() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, small());
    log.append(&[batch(&[vec![1; 100]], None)], client()).unwrap();
    log.flush().unwrap();
    dir.set_capacity(Some(400));
    let refused = log.append(&[batch(&[vec![2; 1000]], None)], client());
    assert!(matches!(refused, Err(AppendError::Log(LogError::Storage(_)))));
    let offline = log.append(&[batch(&[vec![2; 1]], None)], client());
    assert!(matches!(offline, Err(AppendError::Log(LogError::Offline { .. }))));
    drop(directory);
    dir.kill();
    dir.set_capacity(None);
    let directory = super::directory(&dir);
    let (log, recovery) = directory.load("t-0", small(), NOW_MS).unwrap();
    assert!(recovery.cut.is_some());
    assert_eq!(read_all(&log), vec![(Offset(0), vec![1; 100])]);
}

#[test]
fn retention_and_deleted_records_move_the_start_for_good() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, small());
    for _ in 0..40 {
        log.append(&[batch(&[vec![1; 500]], None)], client()).unwrap();
    }
    let end = log.log_end_offset();
    assert_eq!(log.delete_records(Offset(10), end).unwrap(), Offset(10));
    let beyond = log.delete_records(Offset(41), end);
    assert!(matches!(beyond, Err(LogError::OffsetOutOfRange { .. })));
    let mut config = (*small()).clone();
    config.retention_bytes = 9000;
    log.set_config(Arc::new(config.clone()));
    assert!(log.apply_retention(NOW_MS, end).unwrap() > 0);
    assert!(log.size_bytes() >= 9000);
    let start = log.log_start_offset();
    assert!(start > Offset(10));
    directory.close().unwrap();
    drop(directory);
    let directory = super::directory(&dir);
    let (log, _) = directory.load("t-0", Arc::new(config), NOW_MS).unwrap();
    assert_eq!(log.log_start_offset(), start);
    assert_eq!(log.log_end_offset(), end);
    // All of it has expired in the end; the offsets go on.
    let week_later = NOW_MS + 8 * 24 * 3600 * 1000;
    log.apply_retention(week_later, end).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (end, end));
}

#[test]
fn a_timestamp_leads_to_the_first_batch_that_reaches_it() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, small());
    for i in 0..60 {
        let batch = build(BatchOptions::default(), &[vec![0; 300]], NOW_MS + 10 * i);
        log.append(&[batch], client()).unwrap();
    }
    for i in 0..60 {
        let found = log.batch_for_timestamp(NOW_MS + 10 * i - 3).unwrap().unwrap();
        assert_eq!(found.last_offset, Offset(i));
    }
    assert!(log.batch_for_timestamp(NOW_MS + 591).unwrap().is_none());
    assert_eq!(log.max_timestamp().unwrap().offset, Offset(59));
}

#[test]
fn leader_epochs_tell_where_each_ended() {
    let directory = directory(&SimDir::new());
    let log = create(&directory, small());
    for epoch in [1, 1, 4, 7] {
        let how = Append { leader_epoch: LeaderEpoch(epoch), ..client() };
        log.append(&[batch(&[vec![0]], None)], how).unwrap();
    }
    let end = |epoch| log.offset_for_leader_epoch(LeaderEpoch(epoch));
    assert_eq!(end(1), Some((LeaderEpoch(1), Offset(2))));
    assert_eq!(end(3), Some((LeaderEpoch(1), Offset(2))));
    assert_eq!(end(4), Some((LeaderEpoch(4), Offset(3))));
    assert_eq!(end(7), Some((LeaderEpoch(7), Offset(4))));
    assert_eq!(end(8), None);
}

#[test]
fn a_producer_of_old_records_is_known_as_long_as_it_writes() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let week_old = |sequence| {
        let producer =
            Producer { id: ProducerId(5), epoch: ProducerEpoch(0), base_sequence: sequence };
        let options = BatchOptions { producer, ..BatchOptions::default() };
        build(options, &[vec![0]], NOW_MS - 7 * DAY_MS)
    };
    let dir = SimDir::new();
    let mut directory = directory(&dir);
    let log = create(&directory, small());
    log.append(&[week_old(0)], client()).unwrap();
    log.expire_producers(NOW_MS + DAY_MS - 1);
    assert!(log.append(&[week_old(0)], client()).unwrap().duplicate);
    log.flush().unwrap();
    // Found in a snapshot, or in the log itself; and not again by mistake after a second time.
    for closes in [true, false, true] {
        if closes {
            directory.close().unwrap();
        }
        drop(directory);
        dir.kill();
        directory = super::directory(&dir);
        let (log, _) = directory.load("t-0", small(), NOW_MS + DAY_MS - 1).unwrap();
        assert!(log.append(&[week_old(0)], client()).unwrap().duplicate, "closed: {closes}");
        assert_eq!(log.log_end_offset(), Offset(1));
    }
    // The crash made the node see the producer anew: a day counts from then.
    directory.close().unwrap();
    drop(directory);
    let directory = super::directory(&dir);
    let (log, _) = directory.load("t-0", small(), NOW_MS + 2 * DAY_MS).unwrap();
    assert_eq!(log.active_producers(), []);
}

#[test]
fn a_log_takes_nothing_over_from_a_former_one_of_its_name() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let former = create(&directory, small());
    for _ in 0..40 {
        former.append(&[batch(&[vec![1; 100]], None)], client()).unwrap();
    }
    former.delete_records(Offset(30), Offset(40)).unwrap();
    directory.checkpoint().unwrap();
    let known = || [("t-0".to_owned(), Offset(40))].into();
    directory.checkpoint_high_watermarks(known).unwrap();
    directory.delete("t", PartitionIndex(0)).unwrap();
    let id = TopicId(uuid::Uuid::from_u128(8));
    let log = directory.create("t", PartitionIndex(0), id, small(), NOW_MS).unwrap();
    for _ in 0..5 {
        log.append(&[batch(&[vec![2]], None)], client()).unwrap();
    }
    log.flush().unwrap();
    drop(directory);
    dir.kill();
    let directory = super::directory(&dir);
    let (log, _) = directory.load("t-0", small(), NOW_MS).unwrap();
    assert_eq!(read_all(&log).len(), 5);
    assert_eq!(directory.high_watermark("t-0"), None);
}

#[test]
fn a_log_that_starts_over_earlier_begins_there_after_a_crash() {
    let dir = SimDir::new();
    let directory = directory(&dir);
    let log = create(&directory, small());
    for _ in 0..40 {
        log.append(&[batch(&[vec![1; 100]], None)], client()).unwrap();
    }
    log.delete_records(Offset(30), Offset(40)).unwrap();
    directory.checkpoint().unwrap();
    log.truncate_fully_and_start_at(Offset(10)).unwrap();
    for _ in 0..5 {
        log.append(&[batch(&[vec![2]], None)], client()).unwrap();
    }
    log.flush().unwrap();
    drop(directory);
    dir.kill();
    let directory = super::directory(&dir);
    let (log, _) = directory.load("t-0", small(), NOW_MS).unwrap();
    assert_eq!(log.log_start_offset(), Offset(10));
    assert_eq!(read_all(&log).len(), 5);
}

#[test]
fn offsets_that_were_deleted_and_then_lost_are_not_given_out_again() {
    for seed in 0..20 {
        let dir = SimDir::new();
        let directory = directory(&dir);
        let log = create(&directory, small());
        log.append(&[batch(&vec![vec![1]; 10], None)], client()).unwrap();
        log.flush().unwrap();
        log.append(&[batch(&vec![vec![1]; 10], None)], client()).unwrap();
        log.delete_records(Offset(20), Offset(20)).unwrap();
        directory.checkpoint().unwrap();
        drop(directory);
        dir.crash(seed);
        let directory = super::directory(&dir);
        let (log, _) = directory.load("t-0", small(), NOW_MS).unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(20), Offset(20)));
        log.append(&[batch(&[vec![2]], None)], client()).unwrap();
        log.flush().unwrap();
        drop(directory);
        dir.crash(seed);
        let directory = super::directory(&dir);
        let (log, _) = directory.load("t-0", small(), NOW_MS).unwrap();
        assert_eq!(read_all(&log), vec![(Offset(20), vec![2])]);
    }
}
