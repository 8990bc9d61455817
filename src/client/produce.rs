//! Produce requests whose records are sent from where they lie.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, ProduceRequest},
    protocol::{HeaderVersion, Message, StrBytes, VersionRange},
};

use super::{
    codec,
    connection::Frame,
    error::ClientError,
    records::{Body, HEADER_BYTES, Writer},
};
use crate::{base::TopicId, protocol::frame::put_uvarint};

/// How many replicas have to have a batch before it counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// No answer at all.
    None,
    /// The leader.
    Leader,
    /// All that are in sync.
    All,
}

impl Acks {
    pub(crate) const fn wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// A batch on its way to one partition.
#[derive(Debug, Clone)]
pub(crate) struct Addressed {
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: i32,
    pub(crate) header: [u8; HEADER_BYTES],
    pub(crate) body: Bytes,
}

impl Addressed {
    pub(crate) fn new(
        topic: Arc<str>,
        topic_id: TopicId,
        partition: i32,
        body: &Body,
        writer: Writer,
    ) -> Self {
        let header = body.header(writer);
        Self { topic, topic_id, partition, header, body: body.bytes.clone() }
    }
}

/// The versions that can be used: topics are named by identity from 13 on, and version 12 stands
/// for transactions that add partitions by themselves, which changes nothing here.
pub(crate) fn versions(all_ids_known: bool) -> VersionRange {
    let ours = ProduceRequest::VERSIONS;
    VersionRange { max: if all_ids_known { ours.max } else { ours.max.min(12) }, ..ours }
}

/// A produce request of `batches`, each for another partition, those of one topic in a row.
pub(crate) fn encode(
    batches: &[Addressed],
    acks: Acks,
    timeout_ms: i32,
    version: i16,
    client_id: &StrBytes,
) -> Result<Frame, ClientError> {
    let api = ApiKey::Produce;
    let flexible = version >= 9;
    let header_version = ProduceRequest::header_version(version);
    let capacity = batches.iter().map(|b| 96 + b.topic.len()).sum::<usize>() + 32;
    let mut head = codec::head(api, version, header_version, client_id, capacity)?;
    // No transactional id.
    if flexible {
        head.put_u8(0);
    } else {
        head.put_i16(-1);
    }
    head.put_i16(acks.wire());
    head.put_i32(timeout_ms);
    let same_topic = |a: &Addressed, b: &Addressed| a.topic == b.topic && a.topic_id == b.topic_id;
    put_count(&mut head, batches.chunk_by(same_topic).count(), flexible);
    let mut parts: Vec<Bytes> = Vec::with_capacity(2 * batches.len());
    // What stands between two bodies; the first piece is the frame's head.
    let mut first: Option<BytesMut> = None;
    let mut piece = head;
    for topic in batches.chunk_by(same_topic) {
        if version >= 13 {
            piece.put_slice(topic[0].topic_id.0.as_bytes());
        } else {
            put_name(&mut piece, &topic[0].topic, flexible);
        }
        put_count(&mut piece, topic.len(), flexible);
        for batch in topic {
            piece.put_i32(batch.partition);
            let size = HEADER_BYTES + batch.body.len();
            if flexible {
                put_uvarint(&mut piece, u32::try_from(size + 1).unwrap_or(u32::MAX));
            } else {
                piece.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
            }
            piece.put_slice(&batch.header);
            let rest = piece.split_off(piece.len());
            let done = std::mem::replace(&mut piece, rest);
            if first.is_none() {
                first = Some(done);
            } else {
                parts.push(done.freeze());
            }
            parts.push(batch.body.clone());
            if flexible {
                // No tagged fields of the partition.
                piece.put_u8(0);
            }
        }
        if flexible {
            piece.put_u8(0);
        }
    }
    if flexible {
        piece.put_u8(0);
    }
    let mut head = match first {
        Some(first) => {
            if !piece.is_empty() {
                parts.push(piece.freeze());
            }
            first
        }
        None => piece,
    };
    codec::finish(&mut head, parts.iter().map(Bytes::len).sum());
    Ok(Frame { api, head, parts, answered: acks != Acks::None })
}

fn put_count(out: &mut BytesMut, count: usize, flexible: bool) {
    if flexible {
        put_uvarint(out, u32::try_from(count + 1).unwrap_or(u32::MAX));
    } else {
        out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

fn put_name(out: &mut BytesMut, name: &str, flexible: bool) {
    if flexible {
        put_uvarint(out, u32::try_from(name.len() + 1).unwrap_or(u32::MAX));
    } else {
        out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
    }
    out.put_slice(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use kafka_protocol::{
        messages::{RequestHeader, TopicName},
        protocol::Decodable,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn addressed() -> impl Strategy<Value = Addressed> {
        let body = prop::collection::vec(any::<u8>(), 0..300);
        (".{0,20}", any::<u128>(), any::<i32>(), body).prop_map(|(topic, id, partition, body)| {
            Addressed {
                topic: topic.into(),
                topic_id: TopicId(Uuid::from_u128(id)),
                partition,
                header: [7; HEADER_BYTES],
                body: body.into(),
            }
        })
    }

    proptest! {
        #[test]
        fn the_codec_reads_what_is_written(
            batches in prop::collection::vec(addressed(), 0..4),
            version in 3i16..=13,
        ) {
            let id = StrBytes::from_static_str("me");
            let frame = encode(&batches, Acks::All, 1234, version, &id).unwrap();
            let mut bytes = frame.head;
            frame.parts.iter().for_each(|part| bytes.put_slice(part));
            let mut bytes = bytes.freeze();
            prop_assert_eq!(bytes.get_i32() as usize, bytes.len());
            let header_version = ProduceRequest::header_version(version);
            let header = RequestHeader::decode(&mut bytes, header_version).unwrap();
            prop_assert_eq!(header.request_api_version, version);
            let request = ProduceRequest::decode(&mut bytes, version).unwrap();
            prop_assert!(bytes.is_empty());
            prop_assert_eq!((request.acks, request.timeout_ms), (-1, 1234));
            let read = request.topic_data.iter();
            let read = read.flat_map(|topic| topic.partition_data.iter().map(move |p| (topic, p)));
            prop_assert_eq!(read.clone().count(), batches.len());
            for ((topic, data), batch) in read.zip(&batches) {
                if version >= 13 {
                    prop_assert_eq!(topic.topic_id, batch.topic_id.0);
                } else {
                    prop_assert_eq!(topic.name.clone(), TopicName(codec::text(&batch.topic)));
                }
                prop_assert_eq!(data.index, batch.partition);
                let records = data.records.as_ref().unwrap();
                prop_assert_eq!(&records[..HEADER_BYTES], &batch.header[..]);
                prop_assert_eq!(&records[HEADER_BYTES..], &batch.body[..]);
            }
        }
    }
}
