//! What a follower asks for, takes and acknowledges.

use super::*;
use crate::{
    protocol::batch::{BatchBuilder, BatchError, BatchOptions, NewRecord},
    replication::tests::Epochs,
};

const EPOCH: LeaderEpoch = LeaderEpoch(3);

/// A log of `end` records in epochs 0 and 1, and the follower over it that has flushed five.
fn follower(end: i64, flush_messages: i64) -> (Follower, Epochs) {
    let log = Epochs { start: 0, end, starts: vec![(0, 0), (1, 4)] };
    let start = Start {
        flushed: Offset(5),
        high_watermark: Offset(4),
        broker_epoch: BrokerEpoch(8),
        leader_epoch: EPOCH,
    };
    (Follower::new(FollowerConfig::new(flush_messages), &log, start, 0), log)
}

fn poll(follower: &mut Follower, now_ms: u64) -> Option<Action> {
    follower.poll_action(now_ms, || Session(now_ms))
}

fn actions(follower: &mut Follower, now_ms: u64) -> Vec<Action> {
    std::iter::from_fn(|| poll(follower, now_ms)).collect()
}

/// A follower that the leader let go on.
fn following(end: i64, flush_messages: i64) -> (Follower, Epochs, Session) {
    let (mut follower, log) = follower(end, flush_messages);
    let asked = poll(&mut follower, 1);
    assert!(matches!(asked, Some(Action::Subscribe(Subscribe { session: Session(1), .. }))));
    follower.handle_answer(Session(1), Answer::Agreed, &log, 1);
    (follower, log, Session(1))
}

fn batch(base_offset: i64, count: usize, epoch: i32) -> Vec<u8> {
    batch_of(base_offset, &vec![&b"v"[..]; count], epoch)
}

fn batch_of(base_offset: i64, values: &[&[u8]], epoch: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for value in values {
        builder.push(&NewRecord { value: Some(value), ..NewRecord::default() });
    }
    let mut bytes = builder.build().unwrap().bytes().to_vec();
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
    bytes
}

fn progress(high_watermark: i64, log_start_offset: i64) -> Progress {
    Progress {
        high_watermark: Offset(high_watermark),
        last_stable_offset: Offset(high_watermark),
        log_start_offset: Offset(log_start_offset),
    }
}

fn push(follower: &mut Follower, from: i64, records: Vec<u8>) -> Result<(), PushError> {
    follower.handle_push(Session(1), Offset(from), progress(6, 0), records.into(), 2)
}

#[test]
fn it_cuts_its_log_until_the_leader_agrees() {
    let (mut follower, mut log) = follower(9, 1);
    let subscribe = |session, end, last_epoch| {
        Action::Subscribe(Subscribe {
            session: Session(session),
            broker_epoch: BrokerEpoch(8),
            leader_epoch: EPOCH,
            log_end_offset: Offset(end),
            last_epoch: LeaderEpoch(last_epoch),
        })
    };
    assert_eq!(actions(&mut follower, 1), [subscribe(1, 9, 1)]);
    // The leader has nothing of epoch 1, and more of epoch 0: the log is shorter there.
    let answer = Answer::Truncate { epoch: LeaderEpoch(0), end: Offset(6) };
    follower.handle_answer(Session(1), answer, &log, 2);
    assert_eq!(actions(&mut follower, 2), [Action::Truncate(Offset(4))]);
    (log.end, log.starts) = (4, vec![(0, 0)]);
    follower.handle_cut(&log, 3);
    assert_eq!(actions(&mut follower, 3), [subscribe(3, 4, 0)]);
    let answer = Answer::Truncate { epoch: LeaderEpoch(0), end: Offset(2) };
    follower.handle_answer(Session(3), answer, &log, 4);
    assert_eq!(actions(&mut follower, 4), [Action::Truncate(Offset(2))]);
    log.end = 2;
    follower.handle_cut(&log, 5);
    assert_eq!((follower.flushed(), follower.high_watermark()), (Offset(2), Offset(2)));
    assert_eq!(actions(&mut follower, 5), [subscribe(5, 2, 0)]);
    follower.handle_answer(Session(5), Answer::StartAt(Offset(30)), &log, 6);
    assert_eq!(actions(&mut follower, 6), [Action::StartAt(Offset(30))]);
    log = Epochs { start: 30, end: 30, starts: Vec::new() };
    follower.handle_cut(&log, 7);
    assert_eq!(actions(&mut follower, 7), [subscribe(7, 30, -1)]);
    follower.handle_answer(Session(7), Answer::Agreed, &log, 8);
    assert!(follower.is_following());
}

#[test]
fn an_epoch_that_no_leader_has_had_is_cut_off() {
    let mut log = Epochs { start: 0, end: 9, starts: vec![(0, 0), (1, 4), (3 + 16, 8)] };
    let start = Start {
        flushed: Offset(9),
        high_watermark: Offset(9),
        broker_epoch: BrokerEpoch(8),
        leader_epoch: EPOCH,
    };
    let mut follower = Follower::new(FollowerConfig::new(1), &log, start, 0);
    assert_eq!(actions(&mut follower, 1), [Action::Truncate(Offset(8))]);
    log.end = 8;
    log.starts.pop();
    follower.handle_cut(&log, 2);
    let asked = actions(&mut follower, 2);
    assert!(matches!(asked[..], [Action::Subscribe(Subscribe { last_epoch: LeaderEpoch(1), .. })]));
}

#[test]
fn it_acknowledges_what_it_has_flushed() {
    let (mut follower, _, session) = following(5, 1);
    let acknowledge = |end| Action::Acknowledge { session, end: Offset(end) };
    assert_eq!(actions(&mut follower, 1), [acknowledge(5)]);
    let (first, second) = (batch(5, 2, 1), batch(7, 1, 3));
    let records = [&first[..], &second].concat();
    push(&mut follower, 5, records).unwrap();
    let parts = vec![first.into(), second.into()];
    assert_eq!(actions(&mut follower, 2), [Action::Append(parts), Action::Flush(1)]);
    assert_eq!((follower.log_end_offset(), follower.high_watermark()), (Offset(8), Offset(6)));
    // One flush at a time; the next takes all that came meanwhile.
    push(&mut follower, 8, batch(8, 1, 3)).unwrap();
    assert!(matches!(actions(&mut follower, 3)[..], [Action::Append(_)]));
    follower.handle_flushed(1, Offset(8));
    assert_eq!(actions(&mut follower, 4), [Action::Flush(2), acknowledge(8)]);
    follower.handle_flushed(2, Offset(9));
    assert_eq!(actions(&mut follower, 5), [acknowledge(9)]);
}

#[test]
fn with_a_relaxed_flush_it_acknowledges_what_it_has_appended() {
    let (mut follower, _, session) = following(5, 3);
    assert_eq!(actions(&mut follower, 1), [Action::Acknowledge { session, end: Offset(5) }]);
    push(&mut follower, 5, batch(5, 2, 3)).unwrap();
    let expected = Action::Acknowledge { session, end: Offset(7) };
    assert_eq!(actions(&mut follower, 2)[1..], [expected]);
    push(&mut follower, 7, batch(7, 1, 3)).unwrap();
    assert_eq!(actions(&mut follower, 2)[1], Action::Flush(1));
}

#[test]
fn a_flush_from_before_a_cut_says_nothing() {
    let (mut follower, mut log, session) = following(5, 1);
    push(&mut follower, 5, batch(5, 4, 3)).unwrap();
    actions(&mut follower, 2);
    follower.handle_closed(session, None, 2);
    log.end = 9;
    let asked = poll(&mut follower, 60);
    assert!(matches!(asked, Some(Action::Subscribe(_))));
    let answer = Answer::Truncate { epoch: LeaderEpoch(1), end: Offset(6) };
    follower.handle_answer(Session(60), answer, &log, 61);
    actions(&mut follower, 61);
    log.end = 6;
    follower.handle_cut(&log, 62);
    follower.handle_flushed(1, Offset(9));
    assert_eq!(follower.flushed(), Offset(5));
}

#[test]
fn what_does_not_continue_the_log_is_refused_and_leads_to_a_new_subscription() {
    let damaged = || {
        let mut bytes = batch(5, 1, 3);
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    let torn = || batch(5, 1, 3)[..60].to_vec();
    let shrinking = || {
        let mut bytes = batch(5, 1, 3);
        bytes[23..27].copy_from_slice(&(-1i32).to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    type Expected = fn(&PushError) -> bool;
    let cases: [(i64, Vec<u8>, Expected); 9] = [
        (6, batch(6, 1, 3), |e| matches!(e, PushError::Gap { from: Offset(6), end: Offset(5) })),
        (4, batch(4, 1, 3), |e| matches!(e, PushError::Gap { .. })),
        (5, batch(4, 2, 3), |e| matches!(e, PushError::Overlap { .. })),
        (5, [batch(5, 2, 3), batch(6, 1, 3)].concat(), |e| matches!(e, PushError::Overlap { .. })),
        (5, batch(5, 1, 4), |e| matches!(e, PushError::Epoch { .. })),
        (5, [batch(5, 1, 3), batch(6, 1, 2)].concat(), |e| matches!(e, PushError::Epoch { .. })),
        (5, damaged(), |e| matches!(e, PushError::Damaged(BatchError::Crc { .. }))),
        (5, torn(), |e| matches!(e, PushError::Damaged(BatchError::Truncated { .. }))),
        (5, shrinking(), |e| matches!(e, PushError::Damaged(BatchError::Count { .. }))),
    ];
    for (from, records, expected) in cases {
        let (mut follower, _, session) = following(5, 1);
        actions(&mut follower, 1);
        let error = push(&mut follower, from, records).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert_eq!(actions(&mut follower, 2), [Action::Unsubscribe(session)]);
        assert_eq!(follower.log_end_offset(), Offset(5));
        let again_ms = follower.next_deadline_ms().unwrap();
        assert!(matches!(actions(&mut follower, again_ms)[..], [Action::Subscribe(_)]));
    }
}

#[test]
fn gaps_that_compaction_left_are_taken() {
    let (mut follower, _, _) = following(5, 1);
    push(&mut follower, 5, [batch(7, 1, 1), batch(20, 2, 3)].concat()).unwrap();
    assert_eq!(follower.log_end_offset(), Offset(22));
}

#[test]
fn an_empty_log_begins_with_the_batch_that_holds_its_offset() {
    let (mut follower, _) = follower(5, 1);
    poll(&mut follower, 1);
    let empty = Epochs { start: 5, end: 5, starts: Vec::new() };
    follower.handle_answer(Session(1), Answer::StartAt(Offset(5)), &empty, 1);
    follower.handle_cut(&empty, 1);
    actions(&mut follower, 1);
    follower.handle_answer(Session(1), Answer::Agreed, &empty, 1);
    actions(&mut follower, 1);
    let records = batch(3, 4, 2);
    let reply = follower.handle_push(Session(1), Offset(5), progress(7, 5), records.into(), 2);
    reply.unwrap();
    let taken = actions(&mut follower, 2);
    assert_eq!(taken[0], Action::StartAt(Offset(3)));
    assert!(matches!(taken[1], Action::Append(_)));
    assert_eq!(taken[2], Action::RaiseLogStart(Offset(5)));
    assert_eq!((follower.log_end_offset(), follower.flushed()), (Offset(7), Offset(3)));
}

#[test]
fn the_log_start_follows_the_leaders_up_to_the_high_watermark() {
    let (mut follower, _, _) = following(5, 1);
    actions(&mut follower, 1);
    let mut tell = |high_watermark, log_start| {
        let told = progress(high_watermark, log_start);
        follower.handle_push(Session(1), Offset(5), told, Bytes::new(), 2).unwrap();
        actions(&mut follower, 2)
    };
    assert_eq!(tell(4, 3), [Action::RaiseLogStart(Offset(3))]);
    assert_eq!(tell(4, 3), []);
    assert_eq!(tell(20, 10), [Action::RaiseLogStart(Offset(5))]);
    assert_eq!((follower.high_watermark(), follower.last_stable_offset()), (Offset(5), Offset(5)));
}

#[test]
fn what_waits_for_the_log_is_bounded_and_the_rest_is_asked_for_again() {
    let (mut follower, _, _) = following(9, 1);
    let value = vec![7; WAITING_MAX_BYTES / 4];
    for offset in 9..20 {
        push(&mut follower, offset, batch_of(offset, &[&value], 3)).unwrap();
    }
    assert!(!follower.is_following());
    let end = follower.log_end_offset();
    let actions = actions(&mut follower, 1_000);
    let is_append = |action: &&Action| matches!(action, Action::Append(_));
    assert_eq!(actions.iter().filter(is_append).count(), 4);
    assert!(actions.contains(&Action::Unsubscribe(Session(1))));
    let Some(Action::Subscribe(again)) = actions.last() else { panic!("{actions:?}") };
    assert_eq!((again.log_end_offset, end), (Offset(13), Offset(13)));
}

#[test]
fn a_new_epoch_ends_what_was_agreed_in_the_old_one() {
    let (mut follower, _, session) = following(5, 1);
    actions(&mut follower, 1);
    follower.handle_leader(LeaderEpoch(2), 2);
    assert!(follower.is_following());
    follower.handle_leader(LeaderEpoch(4), 2);
    assert_eq!(push(&mut follower, 5, batch(5, 1, 3)), Ok(()));
    assert_eq!(follower.log_end_offset(), Offset(5));
    let then = actions(&mut follower, 3);
    assert_eq!(then[0], Action::Unsubscribe(session));
    let subscribed = |epoch| {
        Action::Subscribe(Subscribe {
            session: Session(3),
            broker_epoch: BrokerEpoch(8),
            leader_epoch: LeaderEpoch(epoch),
            log_end_offset: Offset(5),
            last_epoch: LeaderEpoch(1),
        })
    };
    assert_eq!(then[1..], [subscribed(4)]);
}

#[test]
fn a_leader_that_refuses_or_does_not_answer_is_asked_again() {
    let (mut follower, log) = follower(5, 1);
    assert_eq!(actions(&mut follower, 1).len(), 1);
    let refused = Answer::Refused(Refusal::UnknownLeaderEpoch);
    follower.handle_answer(Session(1), refused, &log, 2);
    assert_eq!(actions(&mut follower, 3), []);
    let again_ms = follower.next_deadline_ms().unwrap();
    assert!(matches!(actions(&mut follower, again_ms)[..], [Action::Subscribe(_)]));
    let timeout_ms = follower.next_deadline_ms().unwrap();
    assert_eq!(actions(&mut follower, timeout_ms - 1), []);
    let then = actions(&mut follower, timeout_ms);
    let session = Session(again_ms);
    assert!(matches!(then[..], [Action::Unsubscribe(s), Action::Subscribe(_)] if s == session));
    // What comes late for the old subscription is not taken.
    follower.handle_answer(session, Answer::Agreed, &log, timeout_ms);
    assert!(!follower.is_following());
}
