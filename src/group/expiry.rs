//! Offsets that go by themselves: with time (KIP-211) and with their topics.

use kafka_protocol::messages::TopicName;

use super::{
    Response, Str,
    classic::{Group, GroupState},
    offsets::tombstone,
    own,
    shard::GroupShard,
    state::{Change, CommittedOffset},
};
use crate::{
    base::HashSet,
    coordinator::{Effects, Now, Token},
};

impl GroupShard {
    /// Deletes the offsets whose time is up, and empty groups that have none left.
    pub(super) fn expire_offsets(&mut self, now: Now, out: &mut Effects<Self>) {
        let ids: Vec<_> = self.groups.keys().cloned().collect();
        for id in ids {
            let (expired, all) = self.expired(&id, now);
            let is_empty =
                self.groups.get(&id).is_some_and(|group| group.state == GroupState::Empty);
            let idle = is_empty && self.groups.get(&id).is_some_and(|g| g.pending_joins.is_empty());
            if all && idle && !self.decided.has_pending(&id) {
                self.remove_group(&id, now, out);
            } else {
                let (_, mut cx) = self.split(now, out);
                cx.write_split(expired);
            }
        }
    }

    /// Tombstones for the group's expired offsets, and whether no other is left.
    fn expired(&self, id: &Str, now: Now) -> (Vec<Change>, bool) {
        let Some(topics) = self.decided.offsets.get(id) else { return (vec![], true) };
        let Some(group) = self.groups.get(id) else { return (vec![], false) };
        let Some(expiry) = group.expiry() else { return (vec![], false) };
        let retention_ms =
            i64::try_from(self.config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let (mut expired, mut all) = (vec![], true);
        for (topic, partitions) in topics {
            let is_subscribed = group.is_subscribed_to(topic);
            for (partition, offset) in partitions {
                if !is_subscribed
                    && expiry.is_due(offset, now.wall_ms, retention_ms)
                    && !self.decided.is_pending(id, topic, *partition)
                {
                    expired.push(tombstone(id, topic, *partition));
                } else {
                    all = false;
                }
            }
        }
        (expired, all)
    }

    pub(super) fn topics_deleted(
        &mut self,
        token: Token,
        topics: &[TopicName],
        now: Now,
        out: &mut Effects<Self>,
    ) {
        let deleted: HashSet<Str> = topics.iter().map(|topic| own(topic)).collect();
        let mut changes = vec![];
        let mut touched = vec![];
        for (group, topics) in &self.decided.offsets {
            let before = changes.len();
            for (topic, partitions) in topics {
                if deleted.contains(topic) {
                    let indexes = partitions.keys();
                    changes.extend(indexes.map(|index| tombstone(group, topic, *index)));
                }
            }
            if changes.len() > before {
                touched.push(group.clone());
            }
        }
        let (_, mut cx) = self.split(now, out);
        cx.write_split(changes);
        cx.out.reply(token, Response::TopicsDeleted);
        for group in touched {
            self.drop_if_unnamed(&group, now, out);
        }
    }
}

/// From when on an offset's retention counts.
enum Expiry {
    /// Since the group lost its last member.
    SinceEmpty(i64),
    /// Since the offset was committed.
    SinceCommit,
}

impl Expiry {
    fn is_due(&self, offset: &CommittedOffset, now_ms: i64, retention_ms: i64) -> bool {
        if let Some(at) = offset.expire_timestamp_ms {
            return now_ms >= at;
        }
        let since = match self {
            Self::SinceEmpty(at) => *at,
            Self::SinceCommit => offset.commit_timestamp_ms,
        };
        now_ms.saturating_sub(since) >= retention_ms
    }
}

impl Group {
    /// `None` where no offset of the group expires now.
    fn expiry(&self) -> Option<Expiry> {
        match (&self.protocol_type, self.state) {
            (None, _) => Some(Expiry::SinceCommit),
            (Some(_), GroupState::Empty) if self.state_timestamp_ms >= 0 => {
                Some(Expiry::SinceEmpty(self.state_timestamp_ms))
            }
            (Some(_), GroupState::Empty) => Some(Expiry::SinceCommit),
            (Some(_), GroupState::Stable)
                if self.is_consumer_group() && self.subscribed_topics.is_some() =>
            {
                Some(Expiry::SinceCommit)
            }
            _ => None,
        }
    }
}
