//! The promises, held against the run after every event.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use ottla::{
    base::{LeaderEpoch, Offset},
    metadata::{MetadataImage, Partition},
};

use super::host::{At, Host, Stored};
use crate::check::{Checked, Violation, promise};

/// What has been seen so far, of all replicas together.
#[derive(Debug, Default)]
pub(super) struct Checker {
    leaders: BTreeMap<LeaderEpoch, At>,
    /// The end of what the leader of each epoch has shown to be committed.
    shown: BTreeMap<LeaderEpoch, Offset>,
    /// What was committed, by the offset of each batch, and in which epoch that was first seen.
    committed: BTreeMap<Offset, (Stored, LeaderEpoch)>,
    acknowledged: BTreeMap<Offset, u64>,
    served: BTreeMap<Offset, u64>,
    /// Somebody asked to delete what is before.
    deleted: Offset,
}

impl Checker {
    pub(super) fn acknowledged_count(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    pub(super) fn leaders_count(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(super) fn served_count(&self) -> u64 {
        self.served.len() as u64
    }

    /// The end of what was ever committed.
    pub(super) fn committed_end(&self) -> Offset {
        self.committed.last_key_value().map_or(Offset::ZERO, |(_, (last, _))| last.end)
    }

    pub(super) fn deleted(&mut self, to: Offset) {
        self.deleted = self.deleted.max(to);
    }

    /// A node begins to lead; `log` is all that it holds.
    pub(super) fn leads(&mut self, at: At, epoch: LeaderEpoch, log: &[Stored]) -> Checked {
        let known = self.leaders.insert(epoch, at);
        promise!(
            known.is_none_or(|known| known == at),
            "at most one leader per epoch",
            "epoch {epoch}: {known:?} and {at:?}"
        );
        let start = log.first().map_or(self.deleted, |first| first.base);
        let held: BTreeMap<Offset, &Stored> = log.iter().map(|s| (s.base, s)).collect();
        let earlier = self.committed.range(start.max(self.deleted)..);
        // One that hears late of its election does not count for what came after.
        for (base, (stored, _)) in earlier.filter(|(_, (_, by))| *by < epoch) {
            promise!(
                held.get(base).is_some_and(|held| *held == stored),
                "a leader has everything that is committed",
                "node {} in epoch {epoch}: {stored:?}, not {:?}",
                at.host + 1,
                held.get(base)
            );
        }
        Ok(())
    }

    /// A leader shows that all before `end` is committed; `news` is what it had not shown before.
    pub(super) fn commits(
        &mut self,
        epoch: LeaderEpoch,
        end: Offset,
        is_settled: bool,
        news: &[Stored],
    ) -> Checked {
        let shown = self.shown.insert(epoch, end).unwrap_or(end);
        promise!(
            end >= shown,
            "a leader's high watermark never goes back",
            "epoch {epoch}: from {shown} to {end}"
        );
        for stored in news {
            self.commit(stored, epoch)?;
        }
        // An earlier leader that nobody has told may show less, but no more.
        let earlier = self.shown.range(..epoch).map(|(_, end)| *end).max();
        promise!(
            !is_settled || earlier.is_none_or(|earlier| end >= earlier),
            "clients see the high watermark rise over all leaders",
            "epoch {epoch}: {end} after {earlier:?}"
        );
        Ok(())
    }

    fn commit(&mut self, stored: &Stored, by: LeaderEpoch) -> Checked {
        let end = self.committed_end();
        let known = self.committed.get(&stored.base).map(|(known, _)| known);
        promise!(
            known.map_or(stored.base >= end || self.is_gap(stored), |known| known == stored),
            "committed records never change",
            "{known:?} became {stored:?}"
        );
        self.committed.entry(stored.base).or_insert_with(|| (stored.clone(), by));
        Ok(())
    }

    /// Whether nothing that is known overlaps: records that were deleted elsewhere before anybody
    /// looked.
    fn is_gap(&self, stored: &Stored) -> bool {
        let before = self.committed.range(..stored.base).next_back();
        let after = self.committed.range(stored.base..).next();
        before.is_none_or(|(_, (before, _))| before.end <= stored.base)
            && after.is_none_or(|(base, _)| stored.end <= *base)
    }

    /// A follower takes what it holds for committed.
    pub(super) fn follows(&self, host: usize, news: &[Stored]) -> Checked {
        for stored in news {
            let known = self.committed.get(&stored.base).map(|(known, _)| known);
            promise!(
                known == Some(stored),
                "replicas are equal below the high watermark",
                "node {} has {stored:?}, and {known:?} was committed",
                host + 1
            );
        }
        Ok(())
    }

    /// A log is about to be cut.
    pub(super) fn cut(&self, host: usize, to: Offset, high_watermark: Offset) -> Checked {
        promise!(
            to >= high_watermark,
            "nothing is cut below the high watermark",
            "node {} cuts to {to} and knows {high_watermark}",
            host + 1
        );
        Ok(())
    }

    /// A producer hears that its batch is there to stay.
    pub(super) fn acknowledges(&mut self, base: Offset, body: u64) -> Checked {
        self.acknowledged.insert(base, body);
        let known = self.committed.get(&base).map(|(stored, _)| stored.body);
        promise!(
            known == Some(body),
            "what is acknowledged is committed",
            "{base}: {known:?}, not {body}"
        );
        Ok(())
    }

    /// A consumer reads.
    pub(super) fn serves(&mut self, host: usize, batches: &[Stored]) -> Checked {
        for stored in batches {
            let known = self.served.insert(stored.base, stored.body);
            promise!(
                known.is_none_or(|known| known == stored.body),
                "what a consumer has seen never changes",
                "node {} at {}",
                host + 1,
                stored.base
            );
            let committed = self.committed.get(&stored.base).map(|(stored, _)| stored.body);
            promise!(
                committed == Some(stored.body),
                "consumers see only what is committed",
                "node {} at {}",
                host + 1,
                stored.base
            );
        }
        Ok(())
    }

    /// Whoever may be elected holds what is committed.
    pub(super) fn in_sync(
        &self,
        image: &MetadataImage,
        partition: &Partition,
        hosts: &[Host],
    ) -> Checked {
        let end = self.committed_end();
        // That a disk is another one is not known before its node says so.
        for host in hosts.iter().filter(|host| host.has_its_disk(image)) {
            let is_in_sync = partition.isr.contains(&host.node);
            let is_eligible = partition.eligible_leader_replicas.contains(&host.node);
            promise!(
                host.holds >= end || !(is_in_sync || is_eligible),
                "whoever is in sync holds what is committed",
                "node {} holds {} of {end}; in sync {is_in_sync}, eligible {is_eligible}",
                host.node,
                host.holds
            );
        }
        Ok(())
    }

    /// At the end: somebody knows everything that was ever committed to be so.
    pub(super) fn reaches(&self, end: Offset) -> Checked {
        promise!(
            end >= self.committed_end(),
            "what was committed stays so",
            "{end} of {}",
            self.committed_end()
        );
        Ok(())
    }

    /// At the end: what was acknowledged or seen is there, in `log`, which is what one replica
    /// holds for committed.
    pub(super) fn kept(&self, between: Range<Offset>, log: &[Stored]) -> Checked {
        let held: BTreeMap<Offset, u64> = log.iter().map(|s| (s.base, s.body)).collect();
        let from = between.start.max(self.deleted).min(between.end);
        for (promised, by) in [(&self.acknowledged, "acknowledged"), (&self.served, "seen")] {
            for (base, body) in promised.range(from..between.end) {
                promise!(
                    held.get(base) == Some(body),
                    "what was acknowledged or seen is kept",
                    "{by}: {base}"
                );
            }
        }
        let bodies: BTreeSet<u64> = held.values().copied().collect();
        promise!(
            bodies.len() == held.len(),
            "a batch is stored once",
            "{} of {}",
            bodies.len(),
            held.len()
        );
        Ok(())
    }
}
