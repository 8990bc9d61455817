//! Kafka's formats of the records in `__consumer_offsets`, as of Kafka 4.x.
//!
//! A key begins with its type: 0 and 1 are offsets, 2 is the metadata of a classic group; others
//! belong to the newer group protocols. A value begins with its version. Both are written with the
//! versions that Kafka writes (offsets 3, or 1 where they expire at a set time; groups 3) and read
//! with all it knows, including the flexible ones (4).

use std::str;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    Str,
    state::{Change, CommittedOffset, GroupMetadata, MemberMetadata},
};
use crate::coordinator::{Record, ReplayError};

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const OFFSET_VALUE: i16 = 3;
const OFFSET_VALUE_WITH_EXPIRY: i16 = 1;
const GROUP_VALUE: i16 = 3;
const FIRST_FLEXIBLE_VALUE: i16 = 4;

impl Change {
    /// The record that says this.
    pub(super) fn encode(&self) -> Record {
        let mut key = BytesMut::new();
        match self {
            Self::Offset { group, topic, partition, offset } => {
                key.put_i16(OFFSET_KEY);
                put_string(&mut key, group);
                put_string(&mut key, topic);
                key.put_i32(*partition);
                Record { key: key.freeze(), value: offset.as_ref().map(encode_offset) }
            }
            Self::Group { group, metadata } => {
                key.put_i16(GROUP_KEY);
                put_string(&mut key, group);
                Record { key: key.freeze(), value: metadata.as_ref().map(encode_group) }
            }
        }
    }

    /// What a record says; `None` where it is not about a classic group or an offset.
    pub(super) fn decode(record: &Record) -> Result<Option<Self>, ReplayError> {
        let mut key = Reader { bytes: record.key.clone(), flexible: false };
        match key.i16()? {
            0 | OFFSET_KEY => {
                let (group, topic) = (key.string()?, key.string()?);
                let partition = key.i32()?;
                let offset = record.value.clone().map(decode_offset).transpose()?;
                Ok(Some(Self::Offset { group, topic, partition, offset }))
            }
            GROUP_KEY => {
                let group = key.string()?;
                let metadata = record.value.clone().map(decode_group).transpose()?;
                Ok(Some(Self::Group { group, metadata }))
            }
            _ => Ok(None),
        }
    }
}

fn encode_offset(offset: &CommittedOffset) -> Bytes {
    let mut value = BytesMut::new();
    let expires = offset.expire_timestamp_ms;
    value.put_i16(if expires.is_some() { OFFSET_VALUE_WITH_EXPIRY } else { OFFSET_VALUE });
    value.put_i64(offset.offset);
    if expires.is_none() {
        value.put_i32(offset.leader_epoch);
    }
    put_string(&mut value, &offset.metadata);
    value.put_i64(offset.commit_timestamp_ms);
    if let Some(expires) = expires {
        value.put_i64(expires);
    }
    value.freeze()
}

fn decode_offset(bytes: Bytes) -> Result<CommittedOffset, ReplayError> {
    let (mut value, version) = Reader::of_value(bytes)?;
    let offset = value.i64()?;
    let leader_epoch = if version >= 3 { value.i32()? } else { -1 };
    let metadata = value.string()?;
    let commit_timestamp_ms = value.i64()?;
    let expires = if version == 1 { Some(value.i64()?) } else { None };
    let expire_timestamp_ms = expires.filter(|at| *at != -1);
    value.tagged_fields()?;
    Ok(CommittedOffset { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms })
}

fn encode_group(group: &GroupMetadata) -> Bytes {
    let mut value = BytesMut::new();
    value.put_i16(GROUP_VALUE);
    put_string(&mut value, &group.protocol_type);
    value.put_i32(group.generation);
    put_nullable(&mut value, group.protocol.as_ref());
    put_nullable(&mut value, group.leader.as_ref());
    value.put_i64(group.state_timestamp_ms);
    value.put_i32(i32::try_from(group.members.len()).expect("a batch bounds the members"));
    for member in &group.members {
        put_string(&mut value, &member.id);
        put_nullable(&mut value, member.instance.as_ref());
        put_string(&mut value, &member.client_id);
        put_string(&mut value, &member.client_host);
        value.put_i32(member.rebalance_timeout_ms);
        value.put_i32(member.session_timeout_ms);
        put_bytes(&mut value, &member.subscription);
        put_bytes(&mut value, &member.assignment);
    }
    value.freeze()
}

fn decode_group(bytes: Bytes) -> Result<GroupMetadata, ReplayError> {
    let (mut value, version) = Reader::of_value(bytes)?;
    let protocol_type = value.string()?;
    let generation = value.i32()?;
    let protocol = value.nullable()?;
    let leader = value.nullable()?;
    let state_timestamp_ms = if version >= 2 { value.i64()? } else { -1 };
    let count = value.count()?;
    // No capacity by the count: it may be wrong.
    let mut members = vec![];
    for _ in 0..count {
        members.push(decode_member(&mut value, version)?);
    }
    value.tagged_fields()?;
    Ok(GroupMetadata { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
}

fn decode_member(value: &mut Reader, version: i16) -> Result<MemberMetadata, ReplayError> {
    let id = value.string()?;
    let instance = if version >= 3 { value.nullable()? } else { None };
    let (client_id, client_host) = (value.string()?, value.string()?);
    let rebalance_timeout_ms = if version >= 1 { value.i32()? } else { -1 };
    let session_timeout_ms = value.i32()?;
    let (subscription, assignment) = (value.bytes()?, value.bytes()?);
    value.tagged_fields()?;
    Ok(MemberMetadata {
        id,
        instance,
        client_id,
        client_host,
        rebalance_timeout_ms: if rebalance_timeout_ms == -1 {
            session_timeout_ms
        } else {
            rebalance_timeout_ms
        },
        session_timeout_ms,
        subscription,
        assignment,
    })
}

/// Strings come from requests, whose own format bounds them to what an `i16` counts; a longer one,
/// from a compact encoding, is cut at a character's end.
fn put_string(buffer: &mut BytesMut, text: &str) {
    let text = &text[..text.floor_char_boundary(i16::MAX as usize)];
    buffer.put_i16(i16::try_from(text.len()).expect("cut to what fits"));
    buffer.put_slice(text.as_bytes());
}

fn put_nullable(buffer: &mut BytesMut, text: Option<&Str>) {
    match text {
        Some(text) => put_string(buffer, text),
        None => buffer.put_i16(-1),
    }
}

fn put_bytes(buffer: &mut BytesMut, bytes: &Bytes) {
    buffer.put_i32(i32::try_from(bytes.len()).expect("a batch bounds its records"));
    buffer.put_slice(bytes);
}

/// Reads what may end too early.
struct Reader {
    bytes: Bytes,
    flexible: bool,
}

impl Reader {
    fn of_value(bytes: Bytes) -> Result<(Self, i16), ReplayError> {
        let mut this = Self { bytes, flexible: false };
        let version = this.i16()?;
        // Versions after 4 only add tagged fields (KIP-915).
        if version < 0 {
            return Err(ReplayError::Malformed);
        }
        this.flexible = version >= FIRST_FLEXIBLE_VALUE;
        Ok((this, version))
    }

    fn i16(&mut self) -> Result<i16, ReplayError> {
        self.bytes.try_get_i16().map_err(|_| ReplayError::Malformed)
    }

    fn i32(&mut self) -> Result<i32, ReplayError> {
        self.bytes.try_get_i32().map_err(|_| ReplayError::Malformed)
    }

    fn i64(&mut self) -> Result<i64, ReplayError> {
        self.bytes.try_get_i64().map_err(|_| ReplayError::Malformed)
    }

    fn varint(&mut self) -> Result<u32, ReplayError> {
        let mut number = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.bytes.try_get_u8().map_err(|_| ReplayError::Malformed)?;
            number |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ReplayError::Malformed)
    }

    /// The length that a compact encoding has as one more, with 0 for null.
    fn compact(&mut self) -> Result<i64, ReplayError> {
        Ok(i64::from(self.varint()?) - 1)
    }

    fn count(&mut self) -> Result<i64, ReplayError> {
        let count = if self.flexible { self.compact()? } else { i64::from(self.i32()?) };
        if count < 0 { Err(ReplayError::Malformed) } else { Ok(count) }
    }

    fn take(&mut self, length: i64) -> Result<Bytes, ReplayError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.bytes.len() => Ok(self.bytes.split_to(length)),
            _ => Err(ReplayError::Malformed),
        }
    }

    fn nullable(&mut self) -> Result<Option<Str>, ReplayError> {
        let length = if self.flexible { self.compact()? } else { i64::from(self.i16()?) };
        if length == -1 {
            return Ok(None);
        }
        let bytes = self.take(length)?;
        str::from_utf8(&bytes).map(|text| Some(Str::from(text))).map_err(|_| ReplayError::Malformed)
    }

    fn string(&mut self) -> Result<Str, ReplayError> {
        self.nullable()?.ok_or(ReplayError::Malformed)
    }

    /// Copied: a slice would keep the whole batch in memory.
    fn bytes(&mut self) -> Result<Bytes, ReplayError> {
        let length = self.count()?;
        self.take(length).map(|bytes| Bytes::copy_from_slice(&bytes))
    }

    /// Skips what a newer version may have added. Differs from Kafka: a topic id, the one tagged
    /// field so far, is not kept.
    fn tagged_fields(&mut self) -> Result<(), ReplayError> {
        if self.flexible {
            for _ in 0..self.varint()? {
                let (_tag, length) = (self.varint()?, self.varint()?);
                self.take(i64::from(length))?;
            }
        }
        Ok(())
    }
}
