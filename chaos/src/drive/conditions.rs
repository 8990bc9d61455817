//! What is wrong with a cluster's network and disks at a moment.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    disk::{self, PER_NODE},
    network::{CLIENTS, Conditions},
    scenario::{Failing, Fault, Which},
};

/// Faults of the network that have begun and not ended, and whom each hits.
#[derive(Debug, Default)]
pub(crate) struct NetworkFaults(BTreeMap<usize, (Fault, Vec<u32>)>);

impl NetworkFaults {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn begin(&mut self, step: usize, fault: Fault, hits: Vec<u32>) {
        self.0.insert(step, (fault, hits));
    }

    pub(crate) fn end(&mut self, step: usize) {
        self.0.remove(&step);
    }

    /// What each link between `nodes`, and between them and the clients, does.
    pub(crate) fn conditions(&self, nodes: &[u32]) -> BTreeMap<(u32, u32), Conditions> {
        let mut links: BTreeMap<(u32, u32), Conditions> = BTreeMap::new();
        let mut add = |from, to, conditions: Conditions| {
            let link = links.entry((from, to)).or_default();
            *link = link.and(conditions);
        };
        for (fault, hits) in self.0.values() {
            for hit in hits {
                for other in [CLIENTS].iter().chain(nodes).filter(|other| *other != hit) {
                    if *other == CLIENTS && *fault == Fault::CutFromNodes {
                        continue;
                    }
                    let conditions = of(*fault);
                    if *fault != Fault::CutIn {
                        add(*hit, *other, conditions);
                    }
                    // Between two that are hit, each direction is hit once.
                    if *fault != Fault::CutOut && !hits.contains(other) {
                        add(*other, *hit, conditions);
                    }
                }
            }
        }
        links
    }
}

fn of(fault: Fault) -> Conditions {
    let none = Conditions::default();
    match fault {
        Fault::Cut | Fault::CutIn | Fault::CutOut | Fault::CutFromNodes => {
            Conditions { cut: true, ..none }
        }
        Fault::Slow { delay_ms, jitter_ms } => Conditions {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::from_millis(jitter_ms),
            ..none
        },
        Fault::Lose { percent } => Conditions { lose: percent / 100.0, ..none },
        Fault::Duplicate { percent } => Conditions { duplicate: percent / 100.0, ..none },
        Fault::Reorder { percent } => Conditions { reorder: percent / 100.0, ..none },
        _ => none,
    }
}

/// Faults of disks that have begun and not ended, and whose disks each hits.
#[derive(Debug, Default)]
pub(crate) struct DiskFaults(BTreeMap<usize, (Fault, Vec<u32>)>);

impl DiskFaults {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn begin(&mut self, step: usize, fault: Fault, hits: Vec<u32>) {
        self.0.insert(step, (fault, hits));
    }

    pub(crate) fn end(&mut self, step: usize) {
        self.0.remove(&step);
    }

    /// How each disk of nodes 1 to `nodes` fares.
    pub(crate) fn conditions(&self, nodes: u32) -> BTreeMap<(u32, u32), disk::Conditions> {
        let mut all = BTreeMap::new();
        for node in 1..=nodes {
            for number in 1..=PER_NODE {
                let hits = |(fault, hits): &&(Fault, Vec<u32>)| {
                    hits.contains(&node) && is_on(*fault, number)
                };
                let hits = self.0.values().filter(hits).map(|(fault, _)| of_disk(*fault));
                let none = disk::Conditions::default();
                all.insert((node, number), hits.fold(none, disk::Conditions::and));
            }
        }
        all
    }
}

/// Whether a fault is one of the disk with that number.
const fn is_on(fault: Fault, number: u32) -> bool {
    let (Fault::DiskFull { disk } | Fault::DiskFails { disk, .. } | Fault::SlowDisk { disk, .. }) =
        fault
    else {
        return false;
    };
    match disk {
        Which::First => number == 1,
        Which::Second => number == 2,
        Which::All => true,
    }
}

fn of_disk(fault: Fault) -> disk::Conditions {
    let none = disk::Conditions::default();
    match fault {
        Fault::DiskFull { .. } => disk::Conditions { full: true, ..none },
        Fault::DiskFails { on: Failing::Reads, .. } => {
            disk::Conditions { fails_reads: true, ..none }
        }
        Fault::DiskFails { on: Failing::Writes, .. } => {
            disk::Conditions { fails_writes: true, ..none }
        }
        Fault::SlowDisk { delay_ms, .. } => {
            disk::Conditions { delay: Duration::from_millis(delay_ms), ..none }
        }
        _ => none,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_links(fault: Fault, hits: &[u32]) -> Vec<(u32, u32)> {
        let mut faults = NetworkFaults::default();
        faults.begin(0, fault, hits.to_vec());
        let conditions = faults.conditions(&[1, 2, 3]);
        faults.end(0);
        assert!(faults.conditions(&[1, 2, 3]).is_empty());
        conditions.into_iter().filter(|(_, it)| it.cut).map(|(link, _)| link).collect()
    }

    #[test]
    fn a_cut_is_made_in_the_directions_and_towards_those_that_it_names() {
        let out = [(1, 0), (1, 2), (1, 3)];
        let into = [(0, 1), (2, 1), (3, 1)];
        assert_eq!(cut_links(Fault::CutOut, &[1]), out);
        assert_eq!(cut_links(Fault::CutIn, &[1]), into);
        assert_eq!(cut_links(Fault::Cut, &[1]), [&into[..1], &out, &into[1..]].concat());
        assert_eq!(cut_links(Fault::CutFromNodes, &[1]), [(1, 2), (1, 3), (2, 1), (3, 1)]);
    }

    #[test]
    fn two_that_are_cut_off_do_not_reach_each_other_either() {
        let links = cut_links(Fault::Cut, &[1, 2]);
        assert!(links.contains(&(1, 2)) && links.contains(&(2, 1)));
        assert!(!links.contains(&(3, 0)) && !links.contains(&(0, 3)));
    }

    #[test]
    fn a_fault_is_of_the_disks_that_it_names() {
        let mut faults = DiskFaults::default();
        faults.begin(0, Fault::DiskFull { disk: Which::Second }, vec![2]);
        faults.begin(1, Fault::SlowDisk { disk: Which::All, delay_ms: 20 }, vec![2, 3]);
        let conditions = faults.conditions(3);
        let full: Vec<_> = conditions.iter().filter(|(_, it)| it.full).map(|(at, _)| *at).collect();
        let is_slow = |it: &disk::Conditions| it.delay == Duration::from_millis(20);
        let slow: Vec<_> =
            conditions.iter().filter(|(_, it)| is_slow(it)).map(|(at, _)| *at).collect();
        assert_eq!(full, [(2, 2)]);
        assert_eq!(slow, [(2, 1), (2, 2), (3, 1), (3, 2)]);
        faults.end(0);
        faults.end(1);
        assert!(faults.conditions(3).values().all(|it| *it == disk::Conditions::default()));
    }

    #[test]
    fn a_link_between_two_slow_nodes_is_slow_once() {
        let mut faults = NetworkFaults::default();
        faults.begin(0, Fault::Slow { delay_ms: 50, jitter_ms: 0 }, vec![1, 2]);
        let conditions = faults.conditions(&[1, 2, 3]);
        assert!(conditions.values().all(|it| it.delay == Duration::from_millis(50)));
    }
}
