//! Changes of topics are linearizable: some order of them, in which none is before one that had
//! ended before it began, explains every answer of the controller. What nodes tell may be older,
//! but not for long; and no node goes back in what it tells.
//!
//! A change of unknown outcome may take effect at any time after it began, or never, which is as
//! well as after everything else.
//!
//! References: Herlihy & Wing, *Linearizability*; Lowe, *Testing for linearizability* (the
//! algorithm, which is `todc-utils`').

use std::collections::BTreeMap;

use todc_utils::{
    linearizability::{
        WGLChecker,
        history::{Action, History as Actions},
    },
    specifications::Specification,
};

use super::{Anomaly, Kind};
use crate::history::{Answer, Change, Op, OpId, Partition, Process, What};

/// How old what a node tells may be. Longer than any fault that keeps a node from hearing of
/// changes while clients reach it.
const STALE_MAX_US: u64 = 30_000_000;

/// What the controller was asked, and said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    change: Change,
    answer: Answer,
}

/// A topic: how many partitions it has, where it exists.
struct Topic;

impl Specification for Topic {
    type State = Option<i32>;
    type Operation = Asked;

    fn init() -> Option<i32> {
        None
    }

    fn apply(asked: &Asked, topic: &Option<i32>) -> (bool, Option<i32>) {
        let (expected, after) = decided(asked.change, *topic);
        (asked.answer == Answer::Unknown || asked.answer == expected, after)
    }
}

/// What the answer is, and what the topic is then.
fn decided(change: Change, topic: Option<i32>) -> (Answer, Option<i32>) {
    match (change, topic) {
        (Change::Create { partitions }, None) => (Answer::Done, Some(partitions)),
        (Change::Create { .. } | Change::Look, Some(_)) => (Answer::Exists, topic),
        (Change::Delete, Some(_)) => (Answer::Done, None),
        (Change::Grow { partitions }, Some(has)) if partitions > has => {
            (Answer::Done, Some(partitions))
        }
        (Change::Grow { .. }, Some(_)) => (Answer::HasAsMany, topic),
        (Change::Delete | Change::Grow { .. } | Change::Look, None) => (Answer::Missing, None),
    }
}

/// One of the changes of a topic.
#[derive(Debug, Clone, Copy)]
struct Call {
    id: OpId,
    began_us: u64,
    /// None where its outcome is not known.
    ended_us: Option<u64>,
    asked: Asked,
}

pub(super) fn check(ops: &[Op]) -> Vec<Anomaly> {
    let mut calls: BTreeMap<&str, Vec<Call>> = BTreeMap::new();
    for (id, op) in ops.iter().enumerate() {
        let What::Admin { topic, change, answer, .. } = &op.what else { continue };
        // What was asked of nobody, or refused, neither changed anything nor tells anything.
        if *answer != Answer::NotDone {
            let known = *answer != Answer::Unknown;
            let ended_us = op.ended_us.filter(|_| known);
            let asked = Asked { change: *change, answer: *answer };
            let call = Call { id, began_us: op.began_us, ended_us, asked };
            calls.entry(topic).or_default().push(call);
        }
    }
    let mut anomalies = Vec::new();
    for (topic, calls) in &calls {
        if !is_linearizable(calls) {
            let says = format!("no order of what was asked of {topic} explains the answers");
            let proof = calls.iter().map(|call| call.id).collect();
            anomalies.push(Anomaly { proof, ..Anomaly::of_cluster(Kind::NotLinearizable, says) });
        }
    }
    anomalies.extend(stale(ops, &calls));
    anomalies.extend(back(ops));
    anomalies
}

fn is_linearizable(calls: &[Call]) -> bool {
    let mut actions = Vec::new();
    for (process, call) in calls.iter().enumerate() {
        actions.push(((call.began_us, 0), (process, Action::Call(call.asked))));
        // Where an end and a beginning share their moment, each may be the earlier one.
        let ended_us = call.ended_us.unwrap_or(u64::MAX);
        actions.push(((ended_us, 1), (process, Action::Response(call.asked))));
    }
    actions.sort_by_key(|(at, _)| *at);
    let actions: Vec<_> = actions.into_iter().map(|(_, action)| action).collect();
    actions.is_empty() || WGLChecker::<Topic>::is_linearizable(Actions::from_actions(actions))
}

/// What a topic was when an answer began that is told of much later, if that is beyond doubt.
fn settled(calls: &[Call], told_from_us: u64, told_until_us: u64) -> Option<(Option<i32>, OpId)> {
    let long_ago = told_from_us.checked_sub(STALE_MAX_US)?;
    let begun = calls.iter().filter(|call| call.began_us < told_until_us);
    let mut changes: Vec<&Call> = Vec::new();
    for call in begun {
        let ended_us = call.ended_us?;
        if ended_us >= long_ago {
            return None;
        }
        if call.asked.answer == Answer::Done {
            changes.push(call);
        }
    }
    changes.sort_by_key(|call| call.began_us);
    let apart = changes.windows(2).all(|pair| pair[0].ended_us < Some(pair[1].began_us));
    let last = changes.last().filter(|_| apart)?;
    let topic = match last.asked.change {
        Change::Create { partitions } | Change::Grow { partitions } => Some(partitions),
        Change::Delete | Change::Look => None,
    };
    Some((topic, last.id))
}

fn stale(ops: &[Op], calls: &BTreeMap<&str, Vec<Call>>) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for (id, op) in ops.iter().enumerate() {
        let What::Told { node, topics, .. } = &op.what else { continue };
        for (topic, calls) in calls {
            let until_us = op.ended_us.unwrap_or(op.began_us);
            let Some((due, by)) = settled(calls, op.began_us, until_us) else { continue };
            let told = topics.get(*topic).copied();
            if told != due {
                let says = format!(
                    "node {node} told that {topic} has {}, long after it had {}",
                    partitions(told),
                    partitions(due)
                );
                let anomaly = Anomaly::of_cluster(Kind::StaleMetadata, says);
                anomalies.push(Anomaly { proof: vec![by, id], ..anomaly });
            }
        }
    }
    anomalies
}

fn partitions(count: Option<i32>) -> String {
    count.map_or_else(|| "none, as it is not there".to_owned(), |it| format!("{it} partitions"))
}

/// Who asks a node asks it one time after the other.
fn back(ops: &[Op]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut newest: BTreeMap<(Process, u32, Partition), (i32, OpId)> = BTreeMap::new();
    for (id, op) in ops.iter().enumerate() {
        let What::Told { node, leaders, .. } = &op.what else { continue };
        for (partition, _, epoch) in leaders {
            let newest = newest.entry((op.process, *node, *partition)).or_insert((*epoch, id));
            if *epoch < newest.0 {
                let says = format!("node {node} told leader epoch {epoch} after {}", newest.0);
                let proof = [newest.1, id];
                anomalies.push(Anomaly::at(Kind::MetadataBack, *partition, says, &proof));
            }
            *newest = (*epoch, id);
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: Change = Change::Create { partitions: 2 };

    fn asked(from_us: u64, to_us: u64, change: Change, answer: Answer) -> Op {
        let what = What::Admin { node: 1, topic: "t".to_owned(), change, answer };
        Op { process: 1, began_us: from_us, ended_us: Some(to_us), what }
    }

    fn told(at_us: u64, partitions: Option<i32>, epoch: i32) -> Op {
        let topics = partitions.map(|count| ("t".to_owned(), count)).into_iter().collect();
        let what = What::Told { node: 1, topics, leaders: vec![(0, 1, epoch)] };
        Op { process: 2, began_us: at_us, ended_us: Some(at_us), what }
    }

    fn kinds(ops: &[Op]) -> Vec<Kind> {
        check(ops).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    #[test]
    fn answers_that_an_order_explains_pass() {
        let one_after_the_other = [
            asked(1, 2, Change::Look, Answer::Missing),
            asked(3, 4, CREATE, Answer::Done),
            asked(5, 6, CREATE, Answer::Exists),
            asked(7, 8, Change::Grow { partitions: 2 }, Answer::HasAsMany),
            asked(9, 10, Change::Grow { partitions: 3 }, Answer::Done),
            asked(11, 12, Change::Delete, Answer::Done),
            asked(13, 14, Change::Delete, Answer::Missing),
        ];
        assert_eq!(kinds(&one_after_the_other), []);
        let at_once = [
            asked(1, 9, CREATE, Answer::Done),
            asked(2, 8, Change::Delete, Answer::Done),
            asked(3, 7, Change::Look, Answer::Exists),
        ];
        assert_eq!(kinds(&at_once), []);
    }

    #[test]
    fn a_change_of_unknown_outcome_may_come_about_later_or_never() {
        let unknown = asked(1, 2, CREATE, Answer::Unknown);
        let later = asked(3, 4, Change::Look, Answer::Missing);
        let then = asked(5, 6, Change::Look, Answer::Exists);
        assert_eq!(kinds(&[unknown.clone(), later.clone(), then.clone()]), []);
        assert_eq!(kinds(&[unknown.clone(), later]), []);
        let gone_again = [unknown, then, asked(7, 8, Change::Look, Answer::Missing)];
        assert_eq!(kinds(&gone_again), [Kind::NotLinearizable]);
    }

    #[test]
    fn an_answer_from_before_a_change_is_found() {
        let forgotten =
            [asked(1, 2, CREATE, Answer::Done), asked(3, 4, Change::Look, Answer::Missing)];
        assert_eq!(kinds(&forgotten), [Kind::NotLinearizable]);
        let twice = [asked(1, 2, CREATE, Answer::Done), asked(3, 4, CREATE, Answer::Done)];
        assert_eq!(kinds(&twice), [Kind::NotLinearizable]);
        let undead = [
            asked(1, 2, CREATE, Answer::Done),
            asked(3, 4, Change::Delete, Answer::Done),
            asked(5, 6, Change::Delete, Answer::Done),
        ];
        assert_eq!(kinds(&undead), [Kind::NotLinearizable]);
    }

    #[test]
    fn a_node_may_be_late_but_not_for_long() {
        let made = || asked(1, 2, CREATE, Answer::Done);
        let soon = STALE_MAX_US;
        assert_eq!(kinds(&[made(), told(soon, None, 1)]), []);
        assert_eq!(kinds(&[made(), told(2 * soon, Some(2), 1)]), []);
        assert_eq!(kinds(&[made(), told(2 * soon, None, 1)]), [Kind::StaleMetadata]);
        assert_eq!(kinds(&[made(), told(2 * soon, Some(3), 1)]), [Kind::StaleMetadata]);
        // Whoever changes it may be the reason.
        let unknown = asked(3, 4, Change::Delete, Answer::Unknown);
        assert_eq!(kinds(&[made(), unknown, told(2 * soon, None, 1)]), []);
    }

    #[test]
    fn a_node_that_goes_back_is_found() {
        assert_eq!(kinds(&[told(1, None, 4), told(2, None, 5), told(3, None, 5)]), []);
        assert_eq!(kinds(&[told(1, None, 5), told(2, None, 4)]), [Kind::MetadataBack]);
    }
}
