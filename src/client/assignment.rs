//! The consumer protocol of classic groups: what members tell each other through the coordinator,
//! and who gets which partition.
//!
//! The bytes come from other clients, so every count in them is checked against what is there.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::offsets::Partition;

/// How partitions are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Assignor {
    /// Each topic's partitions in ranges, member by member.
    #[default]
    Range,
    /// All partitions of all topics in turn.
    RoundRobin,
}

impl Assignor {
    /// Its name in the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }

    /// Shares out the partitions of topics (name and count) among members (id and topics).
    pub(crate) fn assign(
        self,
        members: &BTreeMap<String, Vec<Arc<str>>>,
        topics: &BTreeMap<Arc<str>, i32>,
    ) -> BTreeMap<String, Vec<Partition>> {
        let mut shares: BTreeMap<String, Vec<Partition>> =
            members.keys().map(|member| (member.clone(), Vec::new())).collect();
        match self {
            Self::Range => {
                for (topic, count) in topics {
                    let takers: Vec<_> = members
                        .iter()
                        .filter(|(_, wanted)| wanted.contains(topic))
                        .map(|(member, _)| member)
                        .collect();
                    let takers_count = i32::try_from(takers.len()).unwrap_or(i32::MAX);
                    let mut next = 0;
                    for (n, member) in (0i32..).zip(takers) {
                        let share = count / takers_count + i32::from(n < count % takers_count);
                        let taken = (next..next + share).map(|p| Partition::new(topic.clone(), p));
                        shares.entry(member.clone()).or_default().extend(taken);
                        next += share;
                    }
                }
            }
            Self::RoundRobin => {
                let mut turn = members.keys().cycle();
                for (topic, count) in topics {
                    if !members.values().any(|wanted| wanted.contains(topic)) {
                        continue;
                    }
                    for partition in 0..*count {
                        let taker = turn.find(|member| members[*member].contains(topic));
                        let Some(member) = taker else { break };
                        let taken = Partition::new(topic.clone(), partition);
                        shares.entry(member.clone()).or_default().push(taken);
                    }
                }
            }
        }
        shares
    }
}

/// A subscription, in version 0 of its format, which every client reads.
pub(crate) fn encode_subscription(topics: &[Arc<str>]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_u32(u32::try_from(topics.len()).unwrap_or(0));
    topics.iter().for_each(|topic| put_text(&mut out, topic));
    out.put_i32(-1);
    out.freeze()
}

/// The topics of a subscription of any version; none where the bytes make no sense.
pub(crate) fn decode_subscription(mut bytes: &[u8]) -> Option<Vec<Arc<str>>> {
    bytes.try_get_i16().ok()?;
    let count = bytes.try_get_i32().ok()?;
    (0..count).map(|_| take_text(&mut bytes)).collect()
}

/// An assignment, in version 0 of its format.
pub(crate) fn encode_assignment(partitions: &[Partition]) -> Bytes {
    let mut topics = BTreeMap::<_, Vec<i32>>::new();
    for Partition { topic, partition } in partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_u32(u32::try_from(topics.len()).unwrap_or(0));
    for (topic, partitions) in topics {
        put_text(&mut out, topic);
        out.put_u32(u32::try_from(partitions.len()).unwrap_or(0));
        partitions.iter().for_each(|partition| out.put_i32(*partition));
    }
    out.put_i32(-1);
    out.freeze()
}

/// The partitions of an assignment of any version; none where the bytes make no sense.
pub(crate) fn decode_assignment(mut bytes: &[u8]) -> Option<Vec<Partition>> {
    // A member that got nothing may have got no bytes at all.
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    bytes.try_get_i16().ok()?;
    let mut partitions = Vec::new();
    for _ in 0..bytes.try_get_i32().ok()? {
        let topic = take_text(&mut bytes)?;
        for _ in 0..bytes.try_get_i32().ok()? {
            partitions.push(Partition::new(Arc::clone(&topic), bytes.try_get_i32().ok()?));
        }
    }
    Some(partitions)
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(0));
    out.put_slice(text.as_bytes());
}

fn take_text(bytes: &mut &[u8]) -> Option<Arc<str>> {
    let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(wanted: &[(&str, &[&str])]) -> BTreeMap<String, Vec<Arc<str>>> {
        let topics = |topics: &[&str]| topics.iter().map(|topic| Arc::from(*topic)).collect();
        wanted.iter().map(|(member, wanted)| ((*member).to_owned(), topics(wanted))).collect()
    }

    fn shares(assigned: &BTreeMap<String, Vec<Partition>>, member: &str) -> Vec<String> {
        assigned[member].iter().map(Partition::to_string).collect()
    }

    #[test]
    fn ranges_give_the_first_members_one_more() {
        let members = members(&[("a", &["t", "u"]), ("b", &["t"])]);
        let topics = BTreeMap::from([("t".into(), 3), ("u".into(), 2)]);
        let assigned = Assignor::Range.assign(&members, &topics);
        assert_eq!(shares(&assigned, "a"), ["t-0", "t-1", "u-0", "u-1"]);
        assert_eq!(shares(&assigned, "b"), ["t-2"]);
    }

    #[test]
    fn turns_pass_over_members_that_do_not_want_a_topic() {
        let members = members(&[("a", &["t", "u"]), ("b", &["t"])]);
        let topics = BTreeMap::from([("t".into(), 3), ("u".into(), 2), ("x".into(), 9)]);
        let assigned = Assignor::RoundRobin.assign(&members, &topics);
        assert_eq!(shares(&assigned, "a"), ["t-0", "t-2", "u-0", "u-1"]);
        assert_eq!(shares(&assigned, "b"), ["t-1"]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            partitions in prop::collection::btree_set(("[a-z]{1,9}", 0i32..99), 0..20),
        ) {
            let partitions: Vec<_> =
                partitions.into_iter().map(|(topic, p)| Partition::new(topic, p)).collect();
            let read = decode_assignment(&encode_assignment(&partitions));
            prop_assert_eq!(read, Some(partitions));
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let fits = |read: Option<usize>| read.unwrap_or(0) <= bytes.len();
            prop_assert!(fits(decode_assignment(&bytes).map(|read| read.len())));
            prop_assert!(fits(decode_subscription(&bytes).map(|read| read.len())));
        }
    }
}
