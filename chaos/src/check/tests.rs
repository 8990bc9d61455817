//! Each rule is held against a history that breaks it, and no other.

use super::*;
use crate::history::{HighWatermark, History, Reading};

const WRITER: u32 = 1;
const READER: u32 = 2;

/// Three records of one producer, acknowledged one after the other.
fn three() -> History {
    let mut history = History::default();
    for offset in 0..3 {
        let (op, _) = history.send(WRITER, 0);
        history.sent(op, Outcome::Acknowledged(offset));
    }
    history
}

fn read(history: &mut History, reading: Reading, records: &[(i64, u64)]) {
    history.polled(READER, reading, 0, records.to_vec(), None);
}

fn assigned(history: &mut History, process: u32) {
    history.did(process, What::Assigned { partitions: vec![0] });
}

/// What follows is later, by the history's clock.
fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(1));
}

/// The kinds that are found once all of `log` is read.
fn found(mut history: History, log: &[(i64, u64)]) -> Vec<Kind> {
    history.polled(9, Reading::AtTheEnd, 0, log.to_vec(), None);
    check(history.ops()).into_iter().map(|anomaly| anomaly.kind).collect()
}

const ALL: [(i64, u64); 3] = [(0, 0), (1, 1), (2, 2)];

#[test]
fn a_run_without_faults_holds() {
    let mut history = three();
    read(&mut history, Reading::Along, &ALL[..2]);
    read(&mut history, Reading::Along, &ALL[2..]);
    assert_eq!(found(history, &ALL), []);
}

#[test]
fn a_lost_record_is_found() {
    assert_eq!(found(three(), &ALL[..2]), [Kind::LostWrite]);
}

#[test]
fn a_lost_record_is_found_though_nobody_was_told_where_it_is() {
    let mut history = three();
    let (op, _) = history.send(WRITER, 0);
    history.sent(op, Outcome::Acknowledged(-1));
    assert_eq!(found(history, &ALL), [Kind::LostWrite]);

    let mut history = three();
    let (op, number) = history.send(WRITER, 0);
    history.sent(op, Outcome::Acknowledged(-1));
    assert_eq!(found(history, &[ALL[0], ALL[1], ALL[2], (3, number)]), []);
}

#[test]
fn a_record_in_place_of_another_is_found() {
    assert_eq!(
        found(three(), &[(0, 0), (1, 2), (2, 1)]),
        [Kind::LostWrite, Kind::LostWrite, Kind::Reordered]
    );
}

#[test]
fn a_doubled_record_is_found() {
    assert_eq!(found(three(), &[(0, 0), (1, 1), (2, 2), (3, 2)]), [Kind::Duplicate]);
}

#[test]
fn a_record_that_nobody_sent_is_found() {
    assert_eq!(found(three(), &[(0, 0), (1, 1), (2, 2), (3, 77)]), [Kind::Invented]);
}

#[test]
fn a_record_that_overtook_another_is_found() {
    let mut history = three();
    let (given_up, _) = history.send(WRITER, 0);
    history.sent(given_up, Outcome::GivenUp("timed out".to_owned()));
    let (last, _) = history.send(WRITER, 0);
    history.sent(last, Outcome::Acknowledged(3));
    let log = [(0, 0), (1, 1), (2, 2), (3, 4), (4, 3)];
    assert_eq!(found(history, &log), [Kind::Reordered, Kind::GivenUp]);
}

#[test]
fn records_of_two_producers_may_come_in_any_order() {
    let mut history = three();
    let (other, _) = history.send(WRITER + 1, 0);
    let (last, _) = history.send(WRITER, 0);
    history.sent(last, Outcome::Acknowledged(3));
    history.sent(other, Outcome::Acknowledged(4));
    assert_eq!(found(history, &[(0, 0), (1, 1), (2, 2), (3, 4), (4, 3)]), []);
}

#[test]
fn a_hole_is_found() {
    let mut history = History::default();
    let (op, _) = history.send(WRITER, 0);
    history.sent(op, Outcome::Acknowledged(1));
    assert_eq!(found(history, &[(1, 0)]), [Kind::Gap]);
}

#[test]
fn a_producer_that_is_told_lower_offsets_is_found() {
    let mut history = History::default();
    for offset in [1, 0] {
        let (op, _) = history.send(WRITER, 0);
        history.sent(op, Outcome::Acknowledged(offset));
    }
    assert_eq!(found(history, &[(0, 1), (1, 0)]), [Kind::SendBackwards, Kind::Reordered]);
}

#[test]
fn an_offset_that_is_given_out_twice_is_found() {
    let mut history = three();
    let (op, _) = history.send(WRITER + 1, 0);
    history.sent(op, Outcome::Acknowledged(2));
    assert_eq!(found(history, &ALL), [Kind::LostWrite, Kind::Disagreement]);
}

#[test]
fn a_record_that_was_read_and_vanished_is_found() {
    let mut history = three();
    let (op, _) = history.send(WRITER, 0);
    read(&mut history, Reading::Along, &ALL);
    read(&mut history, Reading::Along, &[(3, 3)]);
    history.sent(op, Outcome::GivenUp("timed out".to_owned()));
    assert_eq!(found(history, &ALL), [Kind::LostRead, Kind::GivenUp]);
}

#[test]
fn an_offset_that_is_read_with_two_records_is_found() {
    let mut history = three();
    read(&mut history, Reading::Along, &[(0, 0), (1, 2)]);
    assert_eq!(found(history, &ALL), [Kind::Disagreement]);
}

#[test]
fn a_consumer_that_is_led_past_a_record_is_found() {
    let mut history = three();
    read(&mut history, Reading::Along, &ALL[..1]);
    read(&mut history, Reading::Along, &ALL[2..]);
    assert_eq!(found(history, &ALL), [Kind::PollSkip]);
}

#[test]
fn a_consumer_that_is_led_back_is_found() {
    let mut history = three();
    read(&mut history, Reading::Along, &ALL[..2]);
    read(&mut history, Reading::Along, &ALL[1..]);
    assert_eq!(found(history, &ALL), [Kind::PollBackwards]);
}

#[test]
fn a_group_may_read_again_but_skip_nothing() {
    let commit = |offset| What::Commit { partition: 0, offset };
    let mut history = three();
    read(&mut history, Reading::InGroup, &ALL[..2]);
    assigned(&mut history, READER);
    read(&mut history, Reading::InGroup, &ALL[1..]);
    history.did(READER, commit(3));
    assert_eq!(found(history, &ALL), []);

    let mut history = three();
    read(&mut history, Reading::InGroup, &ALL[..1]);
    assigned(&mut history, READER);
    read(&mut history, Reading::InGroup, &ALL[2..]);
    history.did(READER, commit(3));
    assert_eq!(found(history, &ALL), [Kind::GroupSkip]);
}

#[test]
fn a_member_is_led_neither_back_nor_past_a_record_while_it_keeps_a_partition() {
    let mut history = three();
    assigned(&mut history, READER);
    read(&mut history, Reading::InGroup, &ALL[..2]);
    read(&mut history, Reading::InGroup, &ALL[1..]);
    assert_eq!(found(history, &ALL), [Kind::PollBackwards]);

    let mut history = three();
    assigned(&mut history, READER);
    read(&mut history, Reading::InGroup, &ALL[..1]);
    read(&mut history, Reading::InGroup, &ALL[2..]);
    assert_eq!(found(history, &ALL), [Kind::PollSkip]);
}

#[test]
fn a_skip_within_one_poll_is_found() {
    let mut history = three();
    assigned(&mut history, READER);
    read(&mut history, Reading::InGroup, &[ALL[0], ALL[2]]);
    assert_eq!(found(history, &ALL), [Kind::PollSkip]);
}

#[test]
fn a_member_that_begins_before_what_is_stored_is_found() {
    let mut history = three();
    read(&mut history, Reading::InGroup, &ALL);
    history.did(READER, What::Commit { partition: 0, offset: 3 });
    tick();
    assigned(&mut history, READER + 1);
    history.polled(READER + 1, Reading::InGroup, 0, ALL[2..].to_vec(), None);
    assert_eq!(found(history, &ALL), [Kind::CommitBack]);
}

#[test]
fn what_is_stored_after_something_higher_is_found_unless_both_were_under_way() {
    let stored = |offset| What::Commit { partition: 0, offset };
    let mut history = three();
    read(&mut history, Reading::InGroup, &ALL);
    let began_us = history.now_us();
    history.did(READER, stored(3));
    history.did_since(READER + 1, began_us, stored(2));
    assert_eq!(found(history, &ALL), []);

    let mut history = three();
    read(&mut history, Reading::InGroup, &ALL);
    history.did(READER, stored(3));
    tick();
    history.did(READER + 1, stored(2));
    assert_eq!(found(history, &ALL), [Kind::CommitBack]);
}

/// All of it, with the leader epochs of its records.
fn read_all(history: &mut History, epochs: &[(i64, i32)]) {
    let what = What::Poll {
        reading: Reading::AtTheEnd,
        partition: 0,
        records: ALL.to_vec(),
        epochs: epochs.to_vec(),
        high_watermark: None,
    };
    history.did(9, what);
}

/// Three records, acknowledged by these brokers.
fn taken_by(brokers: [Option<i32>; 3]) -> History {
    let mut history = History::default();
    for (offset, broker) in (0..).zip(brokers) {
        let (op, _) = history.send(WRITER, 0);
        history.sent_by(op, Outcome::Acknowledged(offset), broker);
    }
    history
}

fn kinds(history: &History) -> Vec<Kind> {
    check(history.ops()).into_iter().map(|anomaly| anomaly.kind).collect()
}

#[test]
fn two_leaders_in_one_epoch_are_found() {
    let mut history = taken_by([Some(1), Some(1), Some(2)]);
    read_all(&mut history, &[(0, 4), (2, 5)]);
    assert_eq!(kinds(&history), []);

    let mut history = taken_by([Some(1), None, Some(2)]);
    read_all(&mut history, &[(0, 4)]);
    assert_eq!(kinds(&history), [Kind::TwoLeaders]);
}

#[test]
fn who_took_a_record_that_is_lost_is_no_second_leader() {
    let mut history = taken_by([Some(1), Some(1), Some(1)]);
    let (op, number) = history.send(WRITER, 0);
    history.sent_by(op, Outcome::Acknowledged(2), Some(2));
    let what = What::Poll {
        reading: Reading::AtTheEnd,
        partition: 0,
        records: vec![ALL[0], ALL[1], (2, number)],
        epochs: vec![(0, 4), (2, 5)],
        high_watermark: None,
    };
    history.did(9, what);
    let kinds: Vec<_> = kinds(&history);
    assert!(kinds.contains(&Kind::LostWrite) && !kinds.contains(&Kind::TwoLeaders), "{kinds:?}");
}

#[test]
fn an_epoch_that_goes_back_is_found() {
    let mut history = three();
    read_all(&mut history, &[(0, 4), (1, 6), (2, 5)]);
    assert_eq!(kinds(&history), [Kind::EpochBack]);
}

#[test]
fn a_record_that_was_read_as_of_another_epoch_is_found() {
    let mut history = three();
    let what = What::Poll {
        reading: Reading::Along,
        partition: 0,
        records: ALL[..2].to_vec(),
        epochs: vec![(0, 4)],
        high_watermark: None,
    };
    history.did(READER, what);
    read_all(&mut history, &[(0, 5)]);
    assert_eq!(kinds(&history), [Kind::Disagreement]);
}

#[test]
fn a_consumer_or_a_group_that_stays_behind_is_found() {
    let late = |history: &History| -> Vec<Kind> {
        unread(history.ops()).into_iter().map(|anomaly| anomaly.kind).collect()
    };
    let mut history = three();
    read(&mut history, Reading::Along, &ALL[..2]);
    assert_eq!(late(&history), [Kind::Unread]);
    read(&mut history, Reading::Along, &ALL[2..]);
    assert_eq!(late(&history), []);
    assigned(&mut history, READER + 1);
    assert_eq!(late(&history), [Kind::Unread]);
    history.did(READER + 1, What::Commit { partition: 0, offset: 3 });
    assert_eq!(late(&history), []);
}

#[test]
fn a_stored_offset_that_goes_back_is_found() {
    let mut history = three();
    read(&mut history, Reading::InGroup, &ALL);
    history.did(READER, What::Commit { partition: 0, offset: 3 });
    tick();
    history.did(READER, What::Committed { partition: 0, offset: 3 });
    history.did(READER, What::Committed { partition: 0, offset: 2 });
    assert_eq!(found(history, &ALL), [Kind::CommitBack]);
}

#[test]
fn a_high_watermark_that_goes_back_is_found() {
    let mut history = three();
    // A new leader may not know yet.
    for (offset, by) in [(1, 1), (3, 1), (2, 2), (3, 2), (2, 2)] {
        let told = Some(HighWatermark { offset, by });
        history.polled(READER, Reading::Along, 0, Vec::new(), told);
    }
    assert_eq!(found(history, &ALL), [Kind::HighWatermarkBack]);
}

#[test]
fn whoever_gives_up_is_found() {
    let mut history = three();
    history.failed(READER, &"timed out");
    assert_eq!(found(history, &ALL), [Kind::GivenUp]);
}
