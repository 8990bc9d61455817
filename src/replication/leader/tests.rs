//! What a leader answers, commits and asks for.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{base::PartitionEpoch, replication::tests::Epochs};

const EPOCH: LeaderEpoch = LeaderEpoch(3);
const LAG_MS: u64 = 30_000;

fn nodes(nodes: &[u32]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn registration(partition_epoch: i32, isr: &[u32], min_insync_replicas: usize) -> Registration {
    Registration {
        leader_epoch: EPOCH,
        partition_epoch: PartitionEpoch(partition_epoch),
        replicas: nodes(&[1, 2, 3]),
        isr: nodes(isr),
        recovering: false,
        min_insync_replicas,
        active: [1, 2, 3].map(|id| (NodeId(id), BrokerEpoch(i64::from(id)))).into(),
    }
}

/// Node 1 takes over a log of `end` records, all of epoch 1, of which the first five are committed.
fn leader(isr: &[u32], min_isr: usize, end: i64) -> Leader {
    let end = Offset(end);
    let start = Start { log_end_offset: end, acknowledged: end, high_watermark: Offset(5) };
    Leader::new(LeaderConfig::new(NodeId(1)), registration(0, isr, min_isr), start, 0)
}

fn log(end: i64) -> Epochs {
    Epochs { start: 0, end, starts: vec![(1, 0), (3, end)] }
}

fn subscribe(node: u32, end: i64, last_epoch: i32, session: u64) -> Subscribe {
    Subscribe {
        session: Session(session),
        broker_epoch: BrokerEpoch(i64::from(node)),
        leader_epoch: EPOCH,
        log_end_offset: Offset(end),
        last_epoch: LeaderEpoch(last_epoch),
    }
}

/// A follower whose log is like the leader's up to `end` subscribes and acknowledges all of it.
fn join(leader: &mut Leader, log: &Epochs, node: u32, end: i64, now_ms: u64) -> bool {
    let subscribed =
        leader.handle_subscribe(NodeId(node), &subscribe(node, end, 1, now_ms), log, now_ms);
    assert_eq!(subscribed, Answer::Agreed);
    leader.handle_acknowledged(NodeId(node), Session(now_ms), Offset(end), now_ms)
}

/// What is pushed reaches the follower, and it acknowledges.
fn pass(leader: &mut Leader, log: &Epochs, node: u32, now_ms: u64) -> bool {
    let Some(Push::Batches { session, progress, .. }) = leader.next_push(NodeId(node), log) else {
        panic!("nothing to push");
    };
    leader.handle_pushed(NodeId(node), session, Offset(log.end), progress);
    leader.handle_acknowledged(NodeId(node), session, Offset(log.end), now_ms)
}

fn asked(leader: &mut Leader, now_ms: u64) -> Option<(u64, BTreeSet<NodeId>)> {
    let asked = leader.poll_alter_partition(now_ms)?;
    Some((asked.number, asked.isr.into_iter().map(|(node, _)| node).collect()))
}

#[test]
fn a_lone_replica_commits_what_it_acknowledges() {
    let mut leader = leader(&[1], 1, 7);
    assert_eq!(leader.high_watermark(), Offset(7));
    leader.handle_appended(Offset(9), 1);
    assert!(leader.handle_own_acknowledged(Offset(9), 1));
    assert!(!leader.handle_own_acknowledged(Offset(8), 2));
    assert_eq!(leader.high_watermark(), Offset(9));
}

#[test]
fn the_slowest_replica_of_the_isr_decides_and_silence_is_no_acknowledgement() {
    let (mut leader, log) = (leader(&[1, 2, 3], 1, 9), log(9));
    assert!(!join(&mut leader, &log, 2, 8, 1));
    assert_eq!(leader.high_watermark(), Offset(5));
    assert!(join(&mut leader, &log, 3, 6, 2));
    assert_eq!(leader.high_watermark(), Offset(6));
    assert!(leader.handle_registration(registration(1, &[1, 2], 1), 3));
    assert_eq!(leader.high_watermark(), Offset(8));
    assert_eq!(leader.settled_high_watermark(), None);
    assert!(pass(&mut leader, &log, 2, 4));
    assert_eq!(leader.settled_high_watermark(), Some(Offset(9)));
}

#[test]
fn a_follower_out_of_sync_is_waited_for_while_it_is_at_the_tail() {
    let (mut leader, mut log) = (leader(&[1], 1, 9), log(9));
    let append = |leader: &mut Leader, log: &mut Epochs, end: i64, now_ms: u64| {
        log.end = end;
        leader.handle_appended(Offset(end), now_ms);
        leader.handle_own_acknowledged(Offset(end), now_ms);
        leader.high_watermark()
    };
    // What it has to catch up with first is not waited for.
    assert!(!join(&mut leader, &log, 2, 6, 1));
    assert_eq!(append(&mut leader, &mut log, 10, 2), Offset(10));
    assert!(!pass(&mut leader, &log, 2, 3));
    assert_eq!(append(&mut leader, &mut log, 11, 4), Offset(10));
    // Nor as it starts again, or is gone, though it had everything a moment ago.
    let again = subscribe(2, 10, 3, 5);
    assert_eq!(leader.handle_subscribe(NodeId(2), &again, &log, 5), Answer::Agreed);
    assert_eq!(leader.high_watermark(), Offset(11));
    assert!(!pass(&mut leader, &log, 2, 6));
    assert_eq!(append(&mut leader, &mut log, 12, 7), Offset(11));
    assert!(leader.handle_unsubscribed(NodeId(2), Session(5), 8));
    assert_eq!(leader.high_watermark(), Offset(12));
}

#[test]
fn nothing_commits_below_the_minimum() {
    let mut leader = leader(&[1], 2, 9);
    assert!(!leader.has_min_isr());
    assert!(!leader.handle_own_acknowledged(Offset(9), 1));
    assert_eq!(leader.high_watermark(), Offset(5));
    // A setting takes effect without another partition epoch.
    assert!(leader.handle_registration(registration(0, &[1], 1), 2));
    assert_eq!(leader.high_watermark(), Offset(9));
}

#[test]
fn a_minimum_above_the_number_of_replicas_asks_for_all_of_them() {
    assert!(leader(&[1, 2, 3], 7, 9).has_min_isr());
    assert!(!leader(&[1, 2], 7, 9).has_min_isr());
}

#[test]
fn a_follower_goes_on_only_from_where_the_logs_agree() {
    let mut leader = leader(&[1, 2], 1, 20);
    let log = Epochs { start: 4, end: 20, starts: vec![(1, 4), (4, 12), (5, 20)] };
    let mut answer = |end, last_epoch, session| {
        leader.handle_subscribe(NodeId(2), &subscribe(2, end, last_epoch, session), &log, 1)
    };
    let truncate = |epoch, end| Answer::Truncate { epoch: LeaderEpoch(epoch), end: Offset(end) };
    let start_over = Answer::StartAt(Offset(4));
    assert_eq!(answer(3, 1, 1), start_over);
    assert_eq!(answer(12, 1, 2), Answer::Agreed);
    assert_eq!(answer(13, 1, 3), truncate(1, 12));
    // Of an epoch that this leader never saw: by the one before.
    assert_eq!(answer(12, 2, 4), truncate(1, 12));
    assert_eq!(answer(20, 4, 5), Answer::Agreed);
    assert_eq!(answer(21, 4, 6), truncate(4, 20));
    // Of an epoch before all: that the log begins at 4 does not say that the epoch ends there.
    assert_eq!(answer(4, 0, 6), start_over);
    assert_eq!(answer(20, 0, 6), start_over);
    assert_eq!(answer(4, -1, 7), Answer::Agreed);
    assert_eq!(answer(21, -1, 8), truncate(-1, 20));
    assert_eq!(answer(20, 6, 9), Answer::Refused(Refusal::LaterEpoch));
}

#[test]
fn a_subscription_of_another_epoch_or_node_or_from_before_is_refused() {
    let (mut leader, log) = (leader(&[1, 2], 1, 9), log(9));
    let mut refused =
        |node, subscribe| match leader.handle_subscribe(NodeId(node), &subscribe, &log, 1) {
            Answer::Refused(refusal) => Some(refusal),
            _ => None,
        };
    let now = subscribe(2, 9, 1, 7);
    let older = Subscribe { leader_epoch: LeaderEpoch(2), ..now };
    let newer = Subscribe { leader_epoch: LeaderEpoch(4), ..now };
    assert_eq!(refused(2, older), Some(Refusal::FencedLeaderEpoch));
    assert_eq!(refused(2, newer), Some(Refusal::UnknownLeaderEpoch));
    assert_eq!(refused(4, now), Some(Refusal::NotReplica));
    assert_eq!(refused(2, now), None);
    assert_eq!(refused(2, subscribe(2, 9, 1, 6)), Some(Refusal::Superseded));
}

#[test]
fn what_a_follower_acknowledged_before_it_subscribed_anew_does_not_count() {
    let (mut leader, log) = (leader(&[1, 2], 1, 9), log(9));
    assert!(join(&mut leader, &log, 2, 6, 1));
    let _ = leader.handle_subscribe(NodeId(2), &subscribe(2, 5, 1, 2), &log, 2);
    assert!(!leader.handle_acknowledged(NodeId(2), Session(1), Offset(6), 3));
    // Nor what it cannot have.
    assert!(!leader.handle_acknowledged(NodeId(2), Session(2), Offset(9), 4));
    assert!(pass(&mut leader, &log, 2, 5));
    assert_eq!(leader.high_watermark(), Offset(9));
}

#[test]
fn a_push_tells_of_batches_or_of_progress_or_of_neither() {
    let (mut leader, log) = (leader(&[1, 2], 1, 9), log(9));
    assert_eq!(leader.next_push(NodeId(2), &log), None);
    join(&mut leader, &log, 2, 6, 1);
    let Some(Push::Batches { session, from, progress }) = leader.next_push(NodeId(2), &log) else {
        panic!("nothing to push");
    };
    assert_eq!((from, progress.high_watermark), (Offset(6), Offset(6)));
    leader.handle_pushed(NodeId(2), session, Offset(9), progress);
    assert_eq!(leader.next_push(NodeId(2), &log), None);
    assert!(leader.handle_acknowledged(NodeId(2), session, Offset(9), 2));
    let Some(Push::Batches { from, progress, .. }) = leader.next_push(NodeId(2), &log) else {
        panic!("the high watermark rose");
    };
    assert_eq!((from, progress.high_watermark), (Offset(9), Offset(9)));
    leader.handle_unsubscribed(NodeId(2), session, 3);
    assert_eq!(leader.next_push(NodeId(2), &log), None);
}

#[test]
fn a_follower_that_the_log_start_has_passed_must_subscribe_anew() {
    let (mut leader, mut log) = (leader(&[1, 2], 1, 9), log(9));
    join(&mut leader, &log, 2, 6, 1);
    log.start = 7;
    let refusal = Refusal::OffsetOutOfRange;
    let close = Push::Close { session: Session(1), refusal };
    assert_eq!(leader.next_push(NodeId(2), &log), Some(close));
}

#[test]
fn a_follower_without_everything_for_too_long_leaves_the_isr() {
    let (mut leader, mut log) = (leader(&[1, 2, 3], 1, 9), log(9));
    join(&mut leader, &log, 2, 9, 1);
    join(&mut leader, &log, 3, 9, 2);
    // Nothing to replicate: nobody lags, however long that lasts.
    let later_ms = 10 * LAG_MS;
    assert_eq!(asked(&mut leader, later_ms), None);
    leader.handle_appended(Offset(10), later_ms);
    leader.handle_own_acknowledged(Offset(10), later_ms);
    log.end = 10;
    assert!(!pass(&mut leader, &log, 2, later_ms + 5));
    assert_eq!(asked(&mut leader, later_ms + LAG_MS), None);
    assert_eq!(leader.next_deadline_ms(), Some(later_ms + LAG_MS + 1));
    let (number, isr) = asked(&mut leader, later_ms + LAG_MS + 1).unwrap();
    assert_eq!(isr, nodes(&[1, 2]));
    // Until the controller has agreed, the one that lags counts.
    assert_eq!(leader.high_watermark(), Offset(9));
    // The metadata says so, not the answer alone: it may come with another minimum.
    assert!(!leader.handle_altered(number, Ok(()), later_ms + LAG_MS + 2));
    assert_eq!(asked(&mut leader, later_ms + LAG_MS + 3), None);
    assert!(leader.handle_registration(registration(1, &[1, 2], 1), later_ms + LAG_MS + 4));
    assert_eq!(leader.high_watermark(), Offset(10));
}

#[test]
fn a_busy_follower_that_is_always_a_little_behind_does_not_lag() {
    let (mut leader, mut log) = (leader(&[1, 2], 1, 9), log(9));
    join(&mut leader, &log, 2, 9, 1);
    for step in 0..100 {
        let now_ms = 1_000 + step * 1_000;
        let sent = log.end;
        leader.handle_appended(Offset(sent + 2), now_ms);
        log.end += 2;
        let Some(Push::Batches { session, progress, .. }) = leader.next_push(NodeId(2), &log)
        else {
            panic!("nothing to push");
        };
        leader.handle_pushed(NodeId(2), session, Offset(log.end), progress);
        leader.handle_acknowledged(NodeId(2), session, Offset(sent), now_ms);
        assert_eq!(asked(&mut leader, now_ms), None);
    }
}

#[test]
fn a_follower_joins_at_the_high_watermark_and_the_start_of_the_epoch() {
    let (mut leader, mut log) = (leader(&[1], 1, 9), log(9));
    assert_eq!(leader.high_watermark(), Offset(9));
    join(&mut leader, &log, 2, 6, 1);
    assert_eq!(asked(&mut leader, 1), None);
    assert!(!pass(&mut leader, &log, 2, 2));
    let question = leader.poll_alter_partition(3).unwrap();
    let isr = [(NodeId(1), None), (NodeId(2), Some(BrokerEpoch(2)))];
    assert_eq!((question.partition_epoch, &question.isr[..]), (PartitionEpoch(0), &isr[..]));
    // From here on it may be in sync, so nothing commits without it.
    leader.handle_appended(Offset(10), 4);
    assert!(!leader.handle_own_acknowledged(Offset(10), 4));
    assert!(!leader.handle_altered(question.number, Ok(()), 5));
    assert!(!leader.handle_registration(registration(1, &[1, 2], 1), 5));
    log.end = 10;
    assert!(pass(&mut leader, &log, 2, 6));
    assert_eq!(leader.high_watermark(), Offset(10));
}

#[test]
fn who_is_fenced_or_of_another_registration_does_not_join() {
    let (mut leader, log) = (leader(&[1], 1, 9), log(9));
    let mut fenced = registration(0, &[1], 1);
    fenced.active.remove(&NodeId(2));
    leader.handle_registration(fenced, 1);
    join(&mut leader, &log, 2, 9, 2);
    assert_eq!(asked(&mut leader, 2), None);
    let mut restarted = registration(0, &[1], 1);
    restarted.active.insert(NodeId(2), BrokerEpoch(9));
    leader.handle_registration(restarted, 3);
    assert_eq!(asked(&mut leader, 3), None);
    leader.handle_registration(registration(0, &[1], 1), 4);
    assert_eq!(asked(&mut leader, 4), Some((1, nodes(&[1, 2]))));
}

/// A leader that asks for node 2, the log's end being committed.
fn asking() -> (Leader, Epochs, u64) {
    let (mut leader, log) = (leader(&[1], 1, 9), log(9));
    join(&mut leader, &log, 2, 9, 1);
    let (number, isr) = asked(&mut leader, 1).unwrap();
    assert_eq!(isr, nodes(&[1, 2]));
    leader.handle_appended(Offset(10), 2);
    assert!(!leader.handle_own_acknowledged(Offset(10), 2));
    (leader, log, number)
}

#[test]
fn a_question_without_an_answer_is_asked_again_as_it_was() {
    let (mut leader, _, number) = asking();
    leader.handle_unsubscribed(NodeId(2), Session(1), 3);
    assert!(!leader.handle_altered(number, Err(AlterError::Unanswered), 4));
    assert_eq!(asked(&mut leader, 5), None);
    let again_ms = leader.next_deadline_ms().unwrap();
    assert_eq!(asked(&mut leader, again_ms), Some((number + 1, nodes(&[1, 2]))));
    // The late answer to the first is none to the second.
    assert!(!leader.handle_altered(number, Err(AlterError::IneligibleReplica), again_ms));
    assert_eq!(leader.high_watermark(), Offset(9));
}

#[test]
fn a_question_that_is_repeated_names_the_registration_that_it_was_about() {
    let (mut leader, log, number) = asking();
    leader.handle_altered(number, Err(AlterError::Unanswered), 4);
    // It has started again, and may have lost what it held.
    let again = Subscribe { broker_epoch: BrokerEpoch(9), ..subscribe(2, 5, 1, 5) };
    assert_eq!(leader.handle_subscribe(NodeId(2), &again, &log, 5), Answer::Agreed);
    let asked = leader.poll_alter_partition(1_000).unwrap();
    assert_eq!(asked.isr, [(NodeId(1), None), (NodeId(2), Some(BrokerEpoch(2)))]);
}

#[test]
fn a_refused_growth_is_over_and_tried_again_later() {
    let (mut leader, _, number) = asking();
    // It has gone, so that nothing waits for it either.
    leader.handle_unsubscribed(NodeId(2), Session(1), 3);
    assert!(leader.handle_altered(number, Err(AlterError::IneligibleReplica), 4));
    assert_eq!(leader.high_watermark(), Offset(10));
    assert_eq!(asked(&mut leader, 100), None);
}

#[test]
fn after_a_lost_answer_a_refusal_ends_nothing_before_the_epoch_has_changed() {
    let (mut leader, _, number) = asking();
    leader.handle_unsubscribed(NodeId(2), Session(1), 3);
    leader.handle_altered(number, Err(AlterError::Unanswered), 3);
    let (number, _) = asked(&mut leader, 100).unwrap();
    assert!(!leader.handle_altered(number, Err(AlterError::IneligibleReplica), 101));
    let (number, isr) = asked(&mut leader, 200).unwrap();
    assert_eq!(isr, nodes(&[1]));
    assert_eq!(leader.high_watermark(), Offset(9));
    assert!(!leader.handle_altered(number, Ok(()), 201));
    assert!(leader.handle_registration(registration(1, &[1], 1), 202));
    assert_eq!(leader.high_watermark(), Offset(10));
}

#[test]
fn an_outdated_question_waits_for_the_metadata() {
    let (mut leader, _, number) = asking();
    assert!(!leader.handle_altered(number, Err(AlterError::Outdated), 3));
    assert_eq!(asked(&mut leader, 10 * LAG_MS), None);
    leader.handle_unsubscribed(NodeId(2), Session(1), 3);
    assert!(leader.handle_registration(registration(1, &[1], 1), 4));
    assert_eq!(leader.high_watermark(), Offset(10));
}

#[test]
fn a_recovering_leader_says_that_it_has_taken_over() {
    let start =
        Start { log_end_offset: Offset(9), acknowledged: Offset(9), high_watermark: Offset(5) };
    let recovering = Registration { recovering: true, ..registration(0, &[1], 1) };
    let mut leader = Leader::new(LeaderConfig::new(NodeId(1)), recovering, start, 0);
    let (number, isr) = asked(&mut leader, 0).unwrap();
    assert_eq!(isr, nodes(&[1]));
    leader.handle_altered(number, Ok(()), 1);
    leader.handle_registration(registration(1, &[1], 1), 1);
    assert_eq!(asked(&mut leader, 2), None);
}

proptest! {
    #[test]
    fn the_high_watermark_only_rises_and_stays_within_the_isr(
        steps in prop::collection::vec((2u32..=3, 0i64..100, 0..4), 0..60),
    ) {
        let (mut leader, log) = (leader(&[1, 2, 3], 1, 100), log(100));
        let (mut isr, mut epoch, mut session) = (nodes(&[2, 3]), 0, 0);
        let mut ends = BTreeMap::<u32, i64>::new();
        for (node, end, what) in steps {
            let before = leader.high_watermark();
            session += 1;
            match what {
                0 => {
                    epoch += 1;
                    isr = nodes(&[node]);
                    leader.handle_registration(registration(epoch, &[1, node], 1), session);
                }
                1 => {
                    ends.remove(&node);
                    let subscribe = subscribe(node, end, 1, session);
                    leader.handle_subscribe(NodeId(node), &subscribe, &log, session);
                }
                _ => {
                    let status = leader.followers().find(|f| f.node == NodeId(node));
                    let newest = leader.followers.get(&NodeId(node)).and_then(|f| f.session);
                    let Some((status, session)) = status.zip(newest) else { continue };
                    leader.handle_acknowledged(NodeId(node), session, Offset(end), session.0);
                    if end <= status.log_end_offset.0 {
                        let known = ends.entry(node).or_default();
                        *known = end.max(*known);
                    }
                }
            }
            let after = leader.high_watermark();
            prop_assert!(after >= before);
            if after > before {
                let least = isr.iter().map(|n| ends.get(&n.0).copied().unwrap_or(0)).min();
                prop_assert!(Some(after.0) <= least, "{after} beyond {least:?}");
            }
        }
    }
}
