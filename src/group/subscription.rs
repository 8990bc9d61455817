//! Topics of a consumer's subscription, as far as the coordinator looks into it.

use std::collections::BTreeSet;

use super::Str;

/// Protocol type of groups of consumers.
pub(super) const CONSUMER: &str = "consumer";

/// The topics of a `ConsumerProtocolSubscription` of any version: they come first in each.
///
/// `None` where the bytes hold no such thing.
pub(super) fn topics(metadata: &[u8]) -> Option<BTreeSet<Str>> {
    let (_version, rest) = metadata.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut topics = BTreeSet::new();
    // Each round takes two bytes or more, so the count cannot make this run on.
    for _ in 0..u32::try_from(i32::from_be_bytes(*count)).ok()? {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, after) = after.split_at_checked(length)?;
        topics.insert(Str::from(std::str::from_utf8(name).ok()?));
        rest = after;
    }
    Some(topics)
}
