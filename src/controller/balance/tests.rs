use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

fn nodes(list: &[(u32, Option<&str>, Stance)]) -> BTreeMap<NodeId, Node> {
    let node = |(id, rack, stance): &(u32, Option<&str>, Stance)| {
        (NodeId(*id), Node { rack: rack.map(str::to_owned), stance: *stance })
    };
    list.iter().map(node).collect()
}

fn partitions(list: &[&[u32]]) -> Vec<Replicas<usize>> {
    let one = |(key, replicas): (usize, &&[u32])| Replicas {
        key,
        topic: 0,
        replicas: replicas.iter().copied().map(NodeId).collect(),
        bytes: None,
        moving: false,
        lost: None,
    };
    list.iter().enumerate().map(one).collect()
}

fn carry_out(partitions: &mut [Replicas<usize>], plan: &Plan<usize>) {
    for one in &plan.moves {
        partitions[one.key].replicas.clone_from(&one.to);
    }
}

fn counts(nodes: &BTreeMap<NodeId, Node>, partitions: &[Replicas<usize>]) -> Vec<usize> {
    let holds = |node: &NodeId| partitions.iter().filter(|p| p.replicas.contains(node)).count();
    nodes.keys().map(holds).collect()
}

const TAKES: Stance = Stance::Takes;

#[test]
fn a_new_broker_gets_its_share_and_leads_its_share() {
    let nodes = nodes(&[(1, None, TAKES), (2, None, TAKES), (3, None, TAKES), (4, None, TAKES)]);
    let mut all = partitions(&[&[1, 2], &[2, 3], &[3, 1], &[1, 2], &[2, 3], &[3, 1]]);
    let first = plan(&nodes, &all, usize::MAX);
    assert_eq!(first.moves.len(), 3, "as few as can be: {first:?}");
    carry_out(&mut all, &first);
    assert_eq!(counts(&nodes, &all), [3, 3, 3, 3]);
    let second = plan(&nodes, &all, usize::MAX);
    assert!(second.moves.iter().all(|one| one.added().next().is_none()), "{second:?}");
    carry_out(&mut all, &second);
    let leads = |id| all.iter().filter(|p| p.replicas[0] == NodeId(id)).count();
    assert_eq!([leads(1), leads(2), leads(3), leads(4)].iter().max(), Some(&2));
    assert!([1, 2, 3, 4].into_iter().all(|id| leads(id) >= 1));
}

#[test]
fn a_limit_is_kept_and_what_is_on_the_move_left_alone() {
    let nodes = nodes(&[(1, None, TAKES), (2, None, TAKES)]);
    let mut all = partitions(&[&[1][..]; 10]);
    assert_eq!(plan(&nodes, &all, 2).moves.len(), 2);
    for one in &mut all[..5] {
        (one.moving, one.replicas) = (true, vec![NodeId(2)]);
    }
    assert_eq!(plan(&nodes, &all, 9).moves, [], "it will be even");
}

#[test]
fn a_drained_broker_is_emptied_within_the_racks() {
    let nodes = nodes(&[
        (1, Some("a"), Stance::Drains),
        (2, Some("b"), TAKES),
        (3, Some("a"), TAKES),
        (4, Some("b"), Stance::Keeps),
    ]);
    let all = partitions(&[&[1, 2], &[2, 1], &[4, 1]]);
    let plan = drain(&nodes, &all, usize::MAX);
    let to: Vec<_> = plan.moves.iter().map(|one| one.to.clone()).collect();
    assert_eq!(to, [[NodeId(3), NodeId(2)], [NodeId(2), NodeId(3)], [NodeId(4), NodeId(3)]]);
    assert_eq!(plan.stuck, []);
}

#[test]
fn what_nobody_can_take_is_said() {
    let nodes = nodes(&[(1, None, Stance::Drains), (2, None, TAKES), (3, None, Stance::Keeps)]);
    let plan = plan(&nodes, &partitions(&[&[1, 2], &[1]]), usize::MAX);
    assert_eq!(plan.stuck, [(0, NodeId(1))]);
    assert_eq!(plan.moves.len(), 1);
}

#[test]
fn two_replicas_in_one_rack_part_where_another_has_none() {
    let nodes = nodes(&[(1, Some("a"), TAKES), (2, Some("a"), TAKES), (3, Some("b"), TAKES)]);
    let plan = plan(&nodes, &partitions(&[&[1, 2]]), usize::MAX);
    assert_eq!(plan.moves[0].to, [NodeId(1), NodeId(3)]);
}

#[test]
fn large_partitions_count_for_more() {
    let nodes = nodes(&[(1, None, TAKES), (2, None, TAKES)]);
    let mut all = partitions(&[&[1], &[1], &[2], &[2]]);
    for (one, gib) in all.iter_mut().zip([40, 40, 1, 1]) {
        one.bytes = Some(gib << 30);
    }
    let plan = plan(&nodes, &all, usize::MAX);
    carry_out(&mut all, &plan);
    let large = |id| all[..2].iter().filter(|p| p.replicas == [NodeId(id)]).count();
    assert_eq!([large(1), large(2)], [1, 1], "{plan:?}");
}

#[test]
fn brokers_exchange_partitions_of_different_size() {
    let nodes = nodes(&[(1, None, TAKES), (2, None, TAKES)]);
    let mut all = partitions(&[&[1], &[1], &[2], &[2]]);
    for (one, gib) in all.iter_mut().zip([9, 7, 5, 3]) {
        one.bytes = Some(gib << 30);
    }
    let first = plan(&nodes, &all, usize::MAX);
    assert_eq!(first.moves.len(), 2, "{first:?}");
    carry_out(&mut all, &first);
    assert_eq!(counts(&nodes, &all), [2, 2]);
    let bytes = all.iter().filter(|one| one.replicas == [NodeId(1)]).filter_map(|one| one.bytes);
    assert_eq!(bytes.sum::<u64>(), 12 << 30);
    assert_eq!(plan(&nodes, &all, usize::MAX).moves, []);
}

#[test]
fn leaders_are_evened_although_a_move_never_ends() {
    let nodes = nodes(&[(1, None, TAKES), (2, None, TAKES), (3, None, Stance::Keeps)]);
    let mut all = partitions(&[&[1, 3], &[1, 2], &[1, 2], &[1, 2], &[1, 2]]);
    all[0].moving = true;
    let first = plan(&nodes, &all, 5);
    assert_eq!(first.moves.len(), 2, "{first:?}");
    assert!(first.moves.iter().all(|one| one.added().next().is_none() && one.key != 0));
    assert_eq!(plan(&nodes, &all, 0).moves, [], "others are on the move yet");
}

#[test]
fn no_size_is_too_large() {
    let nodes = nodes(&[(1, None, TAKES), (2, None, TAKES)]);
    let mut all = partitions(&[&[1], &[1], &[1], &[2]]);
    for (one, bytes) in all.iter_mut().zip([u64::MAX, u64::MAX, 0, 1]) {
        one.bytes = Some(bytes);
    }
    let first = plan(&nodes, &all, usize::MAX);
    carry_out(&mut all, &first);
    assert_eq!(counts(&nodes, &all), [2, 2]);
}

/// As long as a controller may be busy with it, with room for a slow machine.
#[test]
fn a_look_at_a_large_cluster_is_short() {
    let list: Vec<_> = (0..10).map(|id| (id, None, TAKES)).collect();
    // The last two brokers are new, and the first leads all.
    let replicas: Vec<Vec<u32>> =
        (0..40_000_u32).map(|at| vec![0, 1 + at % 7, 1 + (at + 1) % 7]).collect();
    let mut all = partitions(&replicas.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for one in &mut all {
        one.bytes = Some(one.key as u64 % 1_000 * 1_000_000);
    }
    let (nodes, began) = (nodes(&list), Instant::now());
    let first = plan(&nodes, &all, 5);
    let took = began.elapsed();
    assert_eq!(first.moves.len(), 5);
    let even: Vec<Vec<u32>> =
        (0..40_000_u32).map(|at| (0..3).map(|n| (at * at + n) % 10).collect()).collect();
    let even = partitions(&even.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let began = Instant::now();
    drop(plan(&nodes, &even, 5));
    let took = [took, began.elapsed()];
    assert!(took.iter().all(|took| *took < Duration::from_secs(60)), "{took:?}");
}

fn cluster() -> impl Strategy<Value = (BTreeMap<NodeId, Node>, Vec<Replicas<usize>>)> {
    let node =
        (0..3u8, prop::sample::select(vec![TAKES, TAKES, TAKES, Stance::Keeps, Stance::Drains]));
    let partition = (prop::collection::vec(0..100usize, 3), 1..4usize, prop::bool::weighted(0.1));
    let racks = any::<bool>();
    (prop::collection::vec(node, 3..7), prop::collection::vec(partition, 0..60), racks).prop_map(
        |(list, wanted, racks)| {
            let rack = |rack: u8| racks.then(|| format!("r{rack}"));
            let nodes: BTreeMap<_, _> = list
                .iter()
                .enumerate()
                .map(|(id, (r, stance))| {
                    (NodeId(id as u32), Node { rack: rack(*r), stance: *stance })
                })
                .collect();
            let partition = |(key, (picks, count, moving)): (usize, (Vec<usize>, usize, bool))| {
                let mut left: Vec<u32> = (0..list.len() as u32).collect();
                let picks = picks.into_iter().take(count);
                let replicas = picks.map(|pick| NodeId(left.remove(pick % left.len()))).collect();
                Replicas { key, topic: key % 3, replicas, bytes: None, moving, lost: None }
            };
            (nodes, wanted.into_iter().enumerate().map(partition).collect())
        },
    )
}

proptest! {
    #[test]
    fn plans_keep_the_constraints_and_reach_the_goals((nodes, before) in cluster()) {
        let mut after = before.clone();
        let first = plan(&nodes, &before, usize::MAX);
        carry_out(&mut after, &first);
        let rack = |node: &NodeId| nodes[node].rack.clone();
        let racks = |list: &[NodeId]| list.iter().map(rack).collect::<BTreeSet<_>>().len();
        for (was, is) in before.iter().zip(&after) {
            let distinct: BTreeSet<_> = is.replicas.iter().collect();
            prop_assert_eq!(distinct.len(), was.replicas.len());
            prop_assert!(!was.moving || was == is, "what moves is left alone");
            let drained = was.replicas.iter().any(|node| nodes[node].stance == Stance::Drains);
            prop_assert!(drained || racks(&is.replicas) >= racks(&was.replicas));
            for node in is.replicas.iter().filter(|node| !was.replicas.contains(node)) {
                prop_assert_eq!(nodes[node].stance, TAKES);
            }
            for node in was.replicas.iter().filter(|node| !is.replicas.contains(node)) {
                prop_assert_ne!(nodes[node].stance, Stance::Keeps);
            }
            for node in is.replicas.iter().filter(|n| nodes[n].stance == Stance::Drains) {
                let stuck = first.stuck.contains(&(is.key, *node));
                prop_assert!(was.moving || stuck, "a drained broker is empty");
            }
        }
        let free = nodes.values().all(|node| node.rack.is_none() && node.stance == TAKES);
        if free && before.iter().all(|partition| !partition.moving) {
            let (was, is) = (counts(&nodes, &before), counts(&nodes, &after));
            let mean = is.iter().sum::<usize>() / is.len();
            let (least, most) = (is.iter().min().unwrap(), is.iter().max().unwrap());
            prop_assert!(most - least <= (mean / 10).max(1), "{:?} became {:?}", was, is);
            let surplus: usize = was.iter().map(|count| count.saturating_sub(mean)).sum();
            let moved = first.moves.iter().flat_map(Move::added).count();
            prop_assert!(moved <= surplus, "{} moves for {}", moved, surplus);
        }
        for _ in 0..10 {
            let next = plan(&nodes, &after, usize::MAX);
            if next.moves.is_empty() {
                return Ok(());
            }
            carry_out(&mut after, &next);
        }
        prop_assert!(false, "it moves for ever");
    }

    #[test]
    fn a_plan_in_small_steps_ends_as_well((nodes, mut all) in cluster()) {
        for _ in 0..400 {
            let step = plan(&nodes, &all, 2);
            if step.moves.is_empty() {
                return Ok(());
            }
            carry_out(&mut all, &step);
        }
        prop_assert!(false, "it moves for ever");
    }
}

/// Partitions with so many replicas each, of all sizes, on brokers that take all, and one that is
/// new. Where there are racks, they are equally large, or a rack is one broker.
#[derive(Debug, Clone)]
struct Grown {
    nodes: BTreeMap<NodeId, Node>,
    all: Vec<Replicas<usize>>,
    count: usize,
}

fn grown() -> impl Strategy<Value = Grown> {
    // Of equal size, of any, or a few that hold the most.
    let skew = prop::sample::select(vec![0_u32, 1, 3]);
    let partition = (prop::collection::vec(any::<prop::sample::Index>(), 3), 1..1_000_u64);
    (3..9_usize, 1..4_usize, 1..4_usize, skew, prop::collection::vec(partition, 1..250)).prop_map(
        |(brokers, count, racks, skew, partitions)| {
            let rack = |id: usize| match racks {
                1 => None,
                racks if (brokers + 1) % racks > 0 => Some(format!("r{id}")),
                _ => Some(format!("r{}", id * racks / (brokers + 1))),
            };
            let node = |id| (NodeId(id as u32), Node { rack: rack(id), stance: TAKES });
            let nodes = (0..=brokers).map(node).collect();
            let partition = |(key, (picks, size)): (usize, (Vec<prop::sample::Index>, u64))| {
                // The last is new.
                let mut left: Vec<u32> = (0..brokers as u32).collect();
                let picks = picks.iter().take(count);
                let replicas =
                    picks.map(|pick| NodeId(left.remove(pick.index(left.len())))).collect();
                let bytes = Some(size.pow(skew) << (30 - 7 * skew));
                Replicas { key, topic: key % 3, replicas, bytes, moving: false, lost: None }
            };
            let all = partitions.into_iter().enumerate().map(partition).collect();
            Grown { nodes, all, count }
        },
    )
}

/// What each broker has of something, and the mean.
fn shares(grown: &Grown, of: impl Fn(&Replicas<usize>, NodeId) -> u64) -> (Vec<f64>, f64) {
    let share = |node: &NodeId| grown.all.iter().map(|one| of(one, *node)).sum::<u64>() as f64;
    let shares: Vec<f64> = grown.nodes.keys().map(share).collect();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    (shares, mean)
}

fn furthest((shares, mean): &(Vec<f64>, f64)) -> f64 {
    shares.iter().map(|share| (share - mean).abs()).fold(0.0, f64::max)
}

proptest! {
    #[test]
    fn all_is_within_a_tenth_of_even_where_that_can_be(mut grown in grown(), limit in 2..50_usize) {
        let holds = |one: &Replicas<usize>, node| u64::from(one.replicas.contains(&node));
        let bytes = |one: &Replicas<usize>, node| holds(one, node) * one.bytes.unwrap();
        let leads = |one: &Replicas<usize>, node| u64::from(one.replicas[0] == node);
        let before = shares(&grown, bytes);
        let mut copied = 0;
        let mut looks = 0;
        loop {
            let step = plan(&grown.nodes, &grown.all, limit);
            prop_assert_eq!(&step, &plan(&grown.nodes, &grown.all, limit));
            if step.moves.is_empty() {
                break;
            }
            looks += 1;
            prop_assert!(looks < 2_000, "it moves for ever");
            copied += step.moves.iter().map(|one| one.added().count()).sum::<usize>();
            carry_out(&mut grown.all, &step);
        }
        let replicas = shares(&grown, holds);
        prop_assert!(furthest(&replicas) <= (replicas.1 / 10.0).max(0.999), "{:?}", replicas);
        let leaders = shares(&grown, leads);
        // One replica each leaves no choice but that of where it is.
        prop_assert!(furthest(&leaders) <= (leaders.1 / 10.0).max(0.999), "{:?}", leaders);
        let largest = grown.all.iter().filter_map(|one| one.bytes).max().unwrap() as f64;
        let after = shares(&grown, bytes);
        // What cannot be divided, or is too little to be worth it.
        let allowed = (after.1 / 10.0).max(largest).max((16 << 20) as f64);
        prop_assert!(furthest(&after) <= allowed, "{:?} of {:?} were {:?}", after, allowed, before);
        // Nothing is carried around: each replica moves less than twice.
        let all = grown.all.len() * grown.count;
        prop_assert!(copied < 2 * all, "{} copied of {}", copied, all);
    }
}
