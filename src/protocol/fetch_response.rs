//! Encodes Fetch responses without copying records into them.
//!
//! The result is a list of parts: bytes to send as they are, and records to send from where they
//! lie. Everything but the records is the codec's own types; a property test holds the encoding
//! equal to the codec's.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        TopicName,
        fetch_response::{NodeEndpoint, PartitionData},
    },
    protocol::{Encodable, buf::ByteBufMut},
};
use uuid::Uuid;

use super::api::{EncodeError, put_response_header};
use crate::protocol::messages::ApiKey;

/// Record batches that know how long they are.
pub trait RecordSource {
    /// How many bytes will be sent for it; exactly.
    fn size_bytes(&self) -> usize;
}

impl RecordSource for Bytes {
    fn size_bytes(&self) -> usize {
        self.len()
    }
}

/// A piece of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<R> {
    /// To be sent as it is.
    Bytes(Bytes),
    /// To be sent from where it lies.
    Records(R),
}

/// A Fetch response; fields as in Kafka's message of that name.
#[derive(Debug, Clone)]
pub struct FetchResponse<R> {
    /// How long the client is asked to wait.
    pub throttle_time_ms: i32,
    /// An error of the whole request, such as one about its session.
    pub error_code: i16,
    /// The fetch session, or 0.
    pub session_id: i32,
    /// What was fetched.
    pub topics: Vec<Topic<R>>,
    /// Where the leaders named in `current_leader` are.
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// A topic within a response.
#[derive(Debug, Clone)]
pub struct Topic<R> {
    /// Sent up to version 12.
    pub name: TopicName,
    /// Sent from version 13 on.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<Partition<R>>,
}

/// A partition within a response.
#[derive(Debug, Clone)]
pub struct Partition<R> {
    /// Everything but the records; its `records` are ignored.
    pub data: PartitionData,
    /// The records. `None` is sent as an empty list, which all clients take.
    pub records: Option<R>,
}

impl<R> FetchResponse<R> {
    /// A response that says only that the whole request failed.
    #[must_use]
    pub const fn error(error_code: i16) -> Self {
        Self {
            throttle_time_ms: 0,
            error_code,
            session_id: 0,
            topics: Vec::new(),
            node_endpoints: Vec::new(),
        }
    }
}

/// The response as a whole frame, length and header included.
///
/// # Errors
/// Where the response is larger than a frame can be, or has what `version` cannot say.
pub fn encode<R: RecordSource>(
    version: i16,
    correlation_id: i32,
    response: FetchResponse<R>,
) -> Result<Vec<Part<R>>, EncodeError> {
    let mut encoder = Encoder { version, parts: Vec::new(), buffer: BytesMut::new(), records: 0 };
    encoder.response(correlation_id, response)?;
    encoder.finish()
}

struct Encoder<R> {
    version: i16,
    parts: Vec<Part<R>>,
    buffer: BytesMut,
    /// How many bytes of records there are among `parts`.
    records: usize,
}

impl<R: RecordSource> Encoder<R> {
    const fn is_flexible(&self) -> bool {
        self.version >= 12
    }

    fn response(&mut self, id: i32, response: FetchResponse<R>) -> Result<(), EncodeError> {
        self.buffer.put_i32(0); // The frame's length, known at the end.
        put_response_header(&mut self.buffer, ApiKey::Fetch, self.version, id);
        self.buffer.put_i32(response.throttle_time_ms);
        if self.version >= 7 {
            self.buffer.put_i16(response.error_code);
            self.buffer.put_i32(response.session_id);
        }
        self.length(response.topics.len());
        for topic in response.topics {
            self.topic(topic)?;
        }
        if self.is_flexible() {
            let endpoints = if self.version >= 16 { &response.node_endpoints[..] } else { &[] };
            self.node_endpoints(endpoints)?;
        }
        Ok(())
    }

    fn topic(&mut self, topic: Topic<R>) -> Result<(), EncodeError> {
        if self.version >= 13 {
            self.buffer.put_slice(topic.topic_id.as_bytes());
        } else {
            self.text(&topic.name.0)?;
        }
        self.length(topic.partitions.len());
        for partition in topic.partitions {
            self.partition(partition)?;
        }
        self.no_tags();
        Ok(())
    }

    fn partition(&mut self, partition: Partition<R>) -> Result<(), EncodeError> {
        let Partition { data, records } = partition;
        self.buffer.put_i32(data.partition_index);
        self.buffer.put_i16(data.error_code);
        self.buffer.put_i64(data.high_watermark);
        self.buffer.put_i64(data.last_stable_offset);
        if self.version >= 5 {
            self.buffer.put_i64(data.log_start_offset);
        }
        self.aborted_transactions(&data)?;
        if self.version >= 11 {
            self.buffer.put_i32(data.preferred_read_replica.0);
        }
        self.records(records)?;
        if self.is_flexible() {
            self.partition_tags(&data)?;
        }
        Ok(())
    }

    fn aborted_transactions(&mut self, data: &PartitionData) -> Result<(), EncodeError> {
        match &data.aborted_transactions {
            None if self.is_flexible() => self.buffer.put_u8(0),
            None => self.buffer.put_i32(-1),
            Some(aborted) => {
                self.length(aborted.len());
                for transaction in aborted {
                    transaction
                        .encode(&mut self.buffer, self.version)
                        .map_err(EncodeError::codec(ApiKey::Fetch, self.version))?;
                }
            }
        }
        Ok(())
    }

    fn records(&mut self, records: Option<R>) -> Result<(), EncodeError> {
        let size = records.as_ref().map_or(0, RecordSource::size_bytes);
        if self.is_flexible() {
            self.length(size);
        } else {
            let size = i32::try_from(size).map_err(|_| EncodeError::TooLarge { bytes: size })?;
            self.buffer.put_i32(size);
        }
        if let Some(records) = records.filter(|_| size > 0) {
            self.records += size;
            self.parts.push(Part::Bytes(self.buffer.split().freeze()));
            self.parts.push(Part::Records(records));
        }
        Ok(())
    }

    /// The tagged fields `diverging_epoch`, `current_leader` and `snapshot_id`, where they are set.
    fn partition_tags(&mut self, data: &PartitionData) -> Result<(), EncodeError> {
        let set = [
            data.diverging_epoch != Default::default(),
            data.current_leader != Default::default(),
            data.snapshot_id != Default::default(),
        ];
        put_uvarint(&mut self.buffer, set.iter().filter(|set| **set).count() as u32);
        if set[0] {
            self.tagged(0, &data.diverging_epoch)?;
        }
        if set[1] {
            self.tagged(1, &data.current_leader)?;
        }
        if set[2] {
            self.tagged(2, &data.snapshot_id)?;
        }
        Ok(())
    }

    fn tagged<T: Encodable>(&mut self, tag: u32, value: &T) -> Result<(), EncodeError> {
        let codec = EncodeError::codec(ApiKey::Fetch, self.version);
        let mut encoded = BytesMut::new();
        value.encode(&mut encoded, self.version).map_err(codec)?;
        put_uvarint(&mut self.buffer, tag);
        put_uvarint(&mut self.buffer, encoded.len() as u32);
        self.buffer.put_slice(&encoded);
        Ok(())
    }

    fn node_endpoints(&mut self, endpoints: &[NodeEndpoint]) -> Result<(), EncodeError> {
        if endpoints.is_empty() {
            self.no_tags();
            return Ok(());
        }
        let mut encoded = BytesMut::new();
        put_uvarint(&mut encoded, endpoints.len() as u32 + 1);
        for endpoint in endpoints {
            endpoint
                .encode(&mut encoded, self.version)
                .map_err(EncodeError::codec(ApiKey::Fetch, self.version))?;
        }
        put_uvarint(&mut self.buffer, 1);
        put_uvarint(&mut self.buffer, 0);
        put_uvarint(&mut self.buffer, encoded.len() as u32);
        self.buffer.put_slice(&encoded);
        Ok(())
    }

    /// An array's or byte string's length.
    fn length(&mut self, length: usize) {
        if self.is_flexible() {
            put_uvarint(&mut self.buffer, length as u32 + 1);
        } else {
            self.buffer.put_i32(length as i32);
        }
    }

    fn text(&mut self, text: &str) -> Result<(), EncodeError> {
        if self.is_flexible() {
            self.length(text.len());
        } else {
            let length = i16::try_from(text.len());
            self.buffer.put_i16(length.map_err(|_| EncodeError::TooLarge { bytes: text.len() })?);
        }
        self.buffer.put_slice(text.as_bytes());
        Ok(())
    }

    fn no_tags(&mut self) {
        if self.is_flexible() {
            self.buffer.put_u8(0);
        }
    }

    fn finish(mut self) -> Result<Vec<Part<R>>, EncodeError> {
        if !self.buffer.is_empty() {
            self.parts.push(Part::Bytes(self.buffer.split().freeze()));
        }
        let bytes: usize = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Bytes(bytes) => bytes.len(),
                Part::Records(_) => 0,
            })
            .sum();
        let bytes = bytes + self.records - super::frame::LENGTH_BYTES;
        let length = i32::try_from(bytes).map_err(|_| EncodeError::TooLarge { bytes })?;
        if let Some(Part::Bytes(first)) = self.parts.first_mut() {
            let mut head = BytesMut::from(std::mem::take(first));
            head.range(0..super::frame::LENGTH_BYTES).copy_from_slice(&length.to_be_bytes());
            *first = head.freeze();
        }
        Ok(self.parts)
    }
}

fn put_uvarint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
