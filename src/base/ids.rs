//! Newtypes for the numbers and identifiers that must not be mixed up.

use std::{fmt, str::FromStr};

use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// A position in a partition's log: the number of one record.
    Offset(i64)
}
number! {
    /// Counts the leaders a partition has had (KIP-101). Raised by the controller at each election.
    LeaderEpoch(i32)
}
number! {
    /// Counts the changes to a partition's registration; guards ISR changes (KIP-497).
    PartitionEpoch(i32)
}
number! {
    /// Identifies one registration of a broker, so that its former self is fenced.
    BrokerEpoch(i64)
}
number! {
    /// The id that a user gave to a node. Kafka's `broker.id` and `node.id`.
    NodeId(u32)
}
number! {
    /// A partition's number within its topic, from 0.
    PartitionIndex(i32)
}
number! {
    /// Identifies an idempotent or transactional producer (KIP-98).
    ProducerId(i64)
}
number! {
    /// Fences earlier instances of the same producer (KIP-98).
    ProducerEpoch(i16)
}

impl Offset {
    /// The first offset of an empty log that never held a record.
    pub const ZERO: Self = Self(0);

    /// The offset `count` records further on.
    #[must_use]
    pub const fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }

    /// How many records lie in `earlier..self`; negative where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

impl LeaderEpoch {
    /// Stands for "unknown" on Kafka's wire.
    pub const NONE: Self = Self(-1);
}

impl ProducerId {
    /// A batch that no idempotent producer wrote.
    pub const NONE: Self = Self(-1);
}

impl ProducerEpoch {
    /// A batch that no idempotent producer wrote.
    pub const NONE: Self = Self(-1);
}

impl NodeId {
    /// The id as Kafka's wire has it.
    #[must_use]
    pub const fn wire(self) -> i32 {
        self.0 as i32
    }
}

/// A 128-bit identifier, printed as Kafka prints it: 22 characters of URL-safe base 64.
pub trait Id: Copy {
    /// The identifier's bits.
    fn uuid(self) -> Uuid;
}

/// A text that is not an identifier in Kafka's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an id: expected 22 characters of URL-safe base 64, as Kafka prints it")]
pub struct ParseIdError(String);

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub Uuid);

        impl Id for $name {
            fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode_base64(self.0.as_bytes()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                decode_base64(text)
                    .map(|bytes| Self(Uuid::from_bytes(bytes)))
                    .ok_or_else(|| ParseIdError(text.to_owned()))
            }
        }
    };
}

identifier! {
    /// Made when a cluster is bootstrapped.
    ClusterId
}
identifier! {
    /// Made when a data directory is first used, so that a wiped disk is another one.
    DirectoryId
}
identifier! {
    /// Made when a topic is created (KIP-516): a topic made again under the same name is another
    /// one.
    TopicId
}

impl TopicId {
    /// Stands for "unknown" on Kafka's wire.
    pub const NONE: Self = Self(Uuid::nil());
}

/// A partition, by the identity of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's identity.
    pub topic: TopicId,
    /// The partition's number within it.
    pub partition: PartitionIndex,
}

/// An epoch of any kind: only ever compared with its own kind.
pub trait Epoch: Copy + Ord {
    /// The next epoch.
    #[must_use]
    fn next(self) -> Self;
}

impl Epoch for LeaderEpoch {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch for PartitionEpoch {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode_base64(bytes: &[u8; 16]) -> String {
    let bits = u128::from_be_bytes(*bytes);
    // 21 groups of six bits and a last one of two, padded with zeros.
    (0..22)
        .map(|i| if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 })
        .map(|group| char::from(BASE64[(group & 0x3f) as usize]))
        .collect()
}

fn decode_base64(text: &str) -> Option<[u8; 16]> {
    if text.len() != 22 {
        return None;
    }
    let mut bits = 0u128;
    for (i, byte) in text.bytes().enumerate() {
        let group = BASE64.iter().position(|b| *b == byte)? as u128;
        bits = if i < 21 {
            bits << 6 | group
        } else if group & 0xf == 0 {
            bits << 2 | group >> 4
        } else {
            return None;
        };
    }
    Some(bits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_they_were_printed() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = TopicId(Uuid::from_u128(bits));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        // As Kafka's own Uuid.toString prints it.
        assert_eq!(TopicId(Uuid::from_u128(1)).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAAAAB"] {
            assert!(text.parse::<TopicId>().is_err(), "{text}");
        }
    }
}
