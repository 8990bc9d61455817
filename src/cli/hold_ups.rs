//! What keeps partitions from leaving a node, told as it happens: targets that are away, that have
//! lost the log directory or have no room left, partitions that nobody leads.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use indicatif::ProgressBar;
use tokio::time::Instant;

use super::{
    balance::{BalanceError, Cluster},
    failure::Failure,
};
use crate::client::Partition;

/// How long a hold-up is waited for that has a name: a node that is only restarted comes back.
const NAMED: Duration = Duration::from_secs(30);
/// When it is said that nothing is copied, though nothing is known to be wrong.
const UNNAMED: Duration = Duration::from_secs(10);
/// How often it is said how far it is, where no bar shows it.
const EVERY: Duration = Duration::from_secs(10);

impl Cluster {
    /// What keeps partitions from leaving the node, as far as that is known.
    pub(super) fn hold_ups(&self, node: i32) -> Vec<BalanceError> {
        let (mut away, mut failed) = (BTreeMap::<i32, usize>::new(), BTreeMap::new());
        let (mut needed, mut leaderless) = (BTreeMap::<i32, u64>::new(), Vec::new());
        for one in self.reassignments.iter().filter(|one| one.removing.contains(&node)) {
            let at = &one.partition;
            if self.troubles.leaderless.contains(at) {
                leaderless.push(at);
            }
            // A reassignment ends once all are in sync, those too that held it before.
            for target in one.target() {
                if self.is_away(target) {
                    *away.entry(target).or_default() += 1;
                } else if self.troubles.offline.contains(&(at.clone(), target)) {
                    *failed.entry(target).or_default() += 1;
                } else {
                    *needed.entry(target).or_default() += self.missing(at, target);
                }
            }
        }
        let away = away.into_iter().map(|(node, count)| BalanceError::Away { node, count });
        let failed = failed.into_iter().map(|(node, count)| BalanceError::Failed { node, count });
        let full = needed.into_iter().filter_map(|(node, bytes)| self.lacks_room(node, bytes, 0));
        let first = leaderless.first().map(|first| BalanceError::NoLeader {
            first: Partition::clone(first),
            count: leaderless.len(),
        });
        away.chain(failed).chain(full).chain(first).collect()
    }

    /// How much of a partition a node has yet to copy, as far as that is known.
    fn missing(&self, at: &Partition, target: i32) -> u64 {
        let sizes = self.disks.values().flatten().filter_map(|disk| disk.replicas.get(at));
        let copied = self.disks.get(&target).and_then(Option::as_ref);
        let copied = copied.and_then(|disk| disk.replicas.get(at)).copied().unwrap_or(0);
        sizes.max().copied().unwrap_or(0).saturating_sub(copied)
    }

    /// What is on its way from the node, and to whom.
    fn on_the_way(&self, node: i32) -> String {
        let leaving = self.reassignments.iter().filter(|one| one.removing.contains(&node));
        let copies = leaving.flat_map(|one| one.adding.iter().map(|to| (&one.partition, *to)));
        let listed = copies
            .map(|(at, to)| format!("{at} to node {to}, {} bytes missing", self.missing(at, to)));
        let listed: Vec<_> = listed.take(5).collect();
        if listed.is_empty() { "nothing is on the move".to_owned() } else { listed.join("; ") }
    }
}

/// Watches over a node that is emptied, and says on standard error what holds it up.
pub(super) struct Watch {
    node: i32,
    patience: Duration,
    /// How many partitions are left, and how much of what leaves has been copied.
    last: (usize, u64),
    since: Instant,
    told: Vec<BalanceError>,
    told_stalled: bool,
    said: Instant,
}

impl Watch {
    pub(super) fn new(node: i32, total: usize, patience: Duration) -> Self {
        let now = Instant::now();
        let (last, told) = ((total, 0), Vec::new());
        Self { node, patience, last, since: now, told, told_stalled: false, said: now }
    }

    /// Looks at where the cluster is by now; `stuck` is why not all can leave, if it cannot.
    ///
    /// # Errors
    /// Where it is of no use to wait any longer.
    pub(super) fn look(
        &mut self,
        cluster: &Cluster,
        stuck: Option<BalanceError>,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let (node, now) = (self.node, Instant::now());
        let left = cluster.holds(node);
        let progress = (left, cluster.copied_from(node));
        if progress != self.last {
            (self.last, self.since, self.told_stalled) = (progress, now, false);
        }
        let mut hold_ups = cluster.hold_ups(node);
        hold_ups.extend(stuck);
        let is_new = |one: &&BalanceError| !self.told.iter().any(|told| told.is_like(one));
        for one in hold_ups.iter().filter(is_new) {
            tell(bar, &format!("held up: {one}"))?;
        }
        self.told = hold_ups;
        let waited = now.saturating_duration_since(self.since);
        let patience = match self.told.first() {
            Some(_) => self.patience.min(NAMED),
            None => self.patience,
        };
        if waited > patience {
            let stalled = BalanceError::Stalled { node, left, waited: self.patience };
            return Err(self.told.first().cloned().unwrap_or(stalled).into());
        }
        if waited >= UNNAMED && self.told.is_empty() && !self.told_stalled {
            self.told_stalled = true;
            let way = cluster.on_the_way(node);
            tell(bar, &format!("nothing was copied for {} s: {way}", waited.as_secs()))?;
        }
        if bar.is_hidden() && now.saturating_duration_since(self.said) >= EVERY {
            self.said = now;
            tell(
                bar,
                &format!(
                    "{left} partitions are on node {node} still: {}",
                    cluster.on_the_way(node)
                ),
            )?;
        }
        Ok(())
    }
}

fn tell(bar: &ProgressBar, line: &str) -> Result<(), Failure> {
    Ok(bar.suspend(|| writeln!(std::io::stderr(), "{line}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{BrokerDescription, DiskUse, Reassignment};

    fn at(partition: i32) -> Partition {
        Partition::new("t", partition)
    }

    fn leaving(partition: i32, to: i32) -> Reassignment {
        let (adding, removing) = (vec![to], vec![1]);
        Reassignment { partition: at(partition), replicas: vec![to, 1], adding, removing }
    }

    fn disk(replicas: &[(i32, u64)], usable_bytes: u64) -> Option<DiskUse> {
        let replicas = replicas.iter().map(|(partition, bytes)| (at(*partition), *bytes)).collect();
        Some(DiskUse { replicas, usable_bytes: Some(usable_bytes) })
    }

    fn cluster() -> Cluster {
        let broker = |node: i32| BrokerDescription {
            node,
            address: String::new(),
            rack: None,
            fenced: node == 3,
        };
        let mut cluster = Cluster { brokers: (1..=4).map(broker).collect(), ..Cluster::default() };
        cluster.disks.insert(1, disk(&[(0, 100), (1, 100), (2, 100)], 0));
        cluster
    }

    #[test]
    fn whatever_keeps_a_partition_from_leaving_is_named() {
        let mut cluster = cluster();
        cluster.disks.insert(2, disk(&[(0, 60)], 50));
        cluster.reassignments = vec![leaving(0, 2)];
        assert_eq!(cluster.hold_ups(1), [], "there is room for the rest");
        cluster.reassignments.push(leaving(1, 2));
        let full = BalanceError::Full { node: 2, needed_bytes: 140, usable_bytes: 50 };
        assert_eq!(cluster.hold_ups(1), [full]);

        cluster.reassignments = vec![leaving(0, 3), leaving(1, 4), leaving(2, 4)];
        cluster.troubles.offline.insert((at(1), 4));
        cluster.troubles.leaderless.insert(at(2));
        let expected = [
            BalanceError::Away { node: 3, count: 1 },
            BalanceError::Failed { node: 4, count: 1 },
            BalanceError::NoLeader { first: at(2), count: 1 },
        ];
        assert_eq!(cluster.hold_ups(1), expected);
        assert_eq!(cluster.hold_ups(2), [], "that is another node's matter");

        let (adding, removing) = (vec![2], vec![1]);
        let stays = Reassignment { partition: at(0), replicas: vec![2, 3, 1], adding, removing };
        cluster.reassignments = vec![stays];
        assert_eq!(cluster.hold_ups(1), [BalanceError::Away { node: 3, count: 1 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_up_with_a_name_ends_the_wait_sooner_than_one_without() {
        let mut cluster = cluster();
        cluster.reassignments = vec![leaving(0, 4)];
        let bar = ProgressBar::hidden();
        let mut watch = Watch::new(1, 1, Duration::from_secs(600));
        watch.look(&cluster, None, &bar).unwrap();
        tokio::time::advance(Duration::from_secs(40)).await;
        watch.look(&cluster, None, &bar).unwrap();
        cluster.reassignments = vec![leaving(0, 3)];
        let error = watch.look(&cluster, None, &bar).unwrap_err();
        assert_eq!(error.to_string(), "1 partitions wait for node 3, which is away");
    }
}
