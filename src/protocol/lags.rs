//! How far followers are behind, in DescribeLogDirs.
//!
//! Kafka has no message in which a leader says so. A request of DescribeLogDirs with the tagged
//! field [`TAG`] has the leader of a partition add a field of that tag to what it says of it. Who
//! does not know the tag skips it (KIP-482), so that it can be asked of any broker; its number is far
//! from those that Kafka gives out, which begin at 0.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The tag in request and response.
pub const TAG: i32 = 10_482;

/// Four numbers for each follower.
const FOLLOWER_BYTES: usize = 4 + 8 + 8 + 8;

/// How far a follower is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerLag {
    /// The follower.
    pub node: i32,
    /// Records that it has not acknowledged.
    pub records: u64,
    /// About how many bytes they have.
    pub bytes: u64,
    /// For how long it has not had everything.
    pub time_ms: u64,
}

/// The field of a response.
#[must_use]
pub fn encode(lags: impl IntoIterator<Item = FollowerLag>) -> Bytes {
    let mut field = BytesMut::new();
    for FollowerLag { node, records, bytes, time_ms } in lags {
        field.put_i32(node);
        field.put_u64(records);
        field.put_u64(bytes);
        field.put_u64(time_ms);
    }
    field.freeze()
}

/// What a field says. A follower that is cut off at its end is left out.
#[must_use]
pub fn decode(mut field: Bytes) -> Vec<FollowerLag> {
    let mut lags = Vec::with_capacity(field.len() / FOLLOWER_BYTES);
    while field.len() >= FOLLOWER_BYTES {
        lags.push(FollowerLag {
            node: field.get_i32(),
            records: field.get_u64(),
            bytes: field.get_u64(),
            time_ms: field.get_u64(),
        });
    }
    lags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_says_what_it_was_made_of() {
        let lag = |node| FollowerLag { node, records: 1, bytes: u64::MAX, time_ms: 3 };
        let field = encode([lag(2), lag(3)]);
        assert_eq!(decode(field.clone()), [lag(2), lag(3)]);
        assert_eq!(decode(field.slice(..field.len() - 1)), [lag(2)]);
    }
}
