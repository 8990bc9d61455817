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

use super::{
    api::{EncodeError, put_response_header},
    frame::put_uvarint,
};
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

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{
        self, BrokerId, ResponseKind,
        fetch_response::{
            AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch,
        },
    };
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{StrBytes, api::encode_response};

    fn partition(version: i16) -> impl Strategy<Value = PartitionData> {
        let aborted = prop::option::of(prop::collection::vec(any::<(i64, i64)>(), 0..3));
        let records = prop::collection::vec(any::<u8>(), 0..300);
        let tags = any::<(Option<i64>, Option<i32>)>();
        (any::<(i32, i16, i64, i64, i64, i32)>(), aborted, records, tags).prop_map(
            move |(fixed, aborted, records, (diverging, leader))| {
                let (index, error, high_watermark, stable, start, preferred) = fixed;
                let aborted = aborted.map(|aborted| {
                    let transaction = |(producer, first): (i64, i64)| {
                        AbortedTransaction::default()
                            .with_producer_id(producer.into())
                            .with_first_offset(first)
                    };
                    aborted.into_iter().map(transaction).collect()
                });
                let mut data = PartitionData::default()
                    .with_partition_index(index)
                    .with_error_code(error)
                    .with_high_watermark(high_watermark)
                    .with_last_stable_offset(stable)
                    .with_log_start_offset(start)
                    .with_aborted_transactions(aborted)
                    .with_records(Some(records.into()));
                if version >= 11 {
                    data.preferred_read_replica = BrokerId(preferred);
                }
                if version >= 12 {
                    if let Some(end) = diverging {
                        data.diverging_epoch =
                            EpochEndOffset::default().with_epoch(3).with_end_offset(end);
                    }
                    if let Some(leader) = leader {
                        data.current_leader =
                            LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader));
                    }
                }
                data
            },
        )
    }

    fn response(version: i16) -> impl Strategy<Value = messages::FetchResponse> {
        let partitions = prop::collection::vec(partition(version), 0..3);
        let topics = prop::collection::vec(("[a-z]{0,200}", any::<u128>(), partitions), 0..3);
        let endpoints = prop::collection::vec((any::<i32>(), "[a-z.]{0,20}"), 0..3);
        (any::<(i32, i16, i32)>(), topics, endpoints).prop_map(
            move |((throttle, error, session), topics, endpoints)| {
                let topics = topics.into_iter().map(|(name, id, partitions)| {
                    FetchableTopicResponse::default()
                        .with_topic(StrBytes::from(name).into())
                        .with_topic_id(Uuid::from_u128(id))
                        .with_partitions(partitions)
                });
                let mut response = messages::FetchResponse::default()
                    .with_throttle_time_ms(throttle)
                    .with_responses(topics.collect());
                if version >= 7 {
                    response.error_code = error;
                    response.session_id = session;
                }
                if version >= 16 {
                    let endpoint = |(id, host): (i32, String)| {
                        NodeEndpoint::default()
                            .with_node_id(BrokerId(id))
                            .with_host(StrBytes::from(host))
                    };
                    response.node_endpoints = endpoints.into_iter().map(endpoint).collect();
                }
                response
            },
        )
    }

    /// The same response with its records taken out.
    fn in_parts(response: messages::FetchResponse) -> FetchResponse<Bytes> {
        let topic = |topic: FetchableTopicResponse| Topic {
            name: topic.topic,
            topic_id: topic.topic_id,
            partitions: topic
                .partitions
                .into_iter()
                .map(|mut data| Partition { records: data.records.take(), data })
                .collect(),
        };
        FetchResponse {
            throttle_time_ms: response.throttle_time_ms,
            error_code: response.error_code,
            session_id: response.session_id,
            topics: response.responses.into_iter().map(topic).collect(),
            node_endpoints: response.node_endpoints,
        }
    }

    proptest! {
        #[test]
        fn the_parts_are_what_the_codec_encodes(
            (version, response) in (4_i16..=18).prop_flat_map(|v| (Just(v), response(v))),
            id in any::<i32>(),
        ) {
            let body = ResponseKind::Fetch(response.clone());
            let expected = encode_response(ApiKey::Fetch, version, id, &body).unwrap();
            let mut actual = Vec::new();
            for part in encode(version, id, in_parts(response)).unwrap() {
                match part {
                    Part::Bytes(bytes) | Part::Records(bytes) => actual.extend_from_slice(&bytes),
                }
            }
            prop_assert_eq!(&actual[..], &expected[..], "version {}", version);
        }
    }
}
