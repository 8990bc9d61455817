//! Which APIs a node serves, in which versions, and how their messages go in and out of frames.
//!
//! Every message is walked by [`shape`] before the codec decodes it.
//! References: KIP-35, KIP-482, KIP-511.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsResponse, RequestHeader, RequestKind, ResponseHeader, ResponseKind,
        api_versions_response::ApiVersion,
    },
    protocol::{Decodable, Encodable, StrBytes},
};

use super::{
    ResponseError, frame,
    shape::{self, ShapeError, Walked},
};

/// An API and the versions of it that a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    /// Which.
    pub key: ApiKey,
    /// The oldest version that is announced; older ones may be refused all the same.
    pub advertised_min: i16,
    /// The oldest version that is served.
    pub min: i16,
    /// The newest version that is served and announced.
    pub max: i16,
}

const fn api(key: ApiKey, min: i16, max: i16) -> Api {
    Api { key, advertised_min: min, min, max }
}

/// What a node serves: the versions of Kafka 4.4 that the codec knows.
pub const APIS: &[Api] = &[
    // Announced from 0: older librdkafka turns features off otherwise (KAFKA-18659).
    Api { key: ApiKey::Produce, advertised_min: 0, min: 3, max: 13 },
    api(ApiKey::Fetch, 4, 18),
    api(ApiKey::ListOffsets, 1, 10),
    api(ApiKey::Metadata, 0, 13),
    // The codec says that it knows version 10 of these two, with topic ids, but refuses it.
    api(ApiKey::OffsetCommit, 2, 9),
    api(ApiKey::OffsetFetch, 1, 9),
    api(ApiKey::FindCoordinator, 0, 6),
    api(ApiKey::JoinGroup, 0, 9),
    api(ApiKey::Heartbeat, 0, 4),
    api(ApiKey::LeaveGroup, 0, 5),
    api(ApiKey::SyncGroup, 0, 5),
    api(ApiKey::DescribeGroups, 0, 6),
    api(ApiKey::ListGroups, 0, 5),
    api(ApiKey::ApiVersions, 0, 4),
    api(ApiKey::CreateTopics, 2, 7),
    api(ApiKey::DeleteTopics, 1, 6),
    api(ApiKey::DeleteRecords, 0, 2),
    // Version 6 is unstable in Kafka 4.4 (KIP-939).
    api(ApiKey::InitProducerId, 0, 5),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4),
    api(ApiKey::DescribeConfigs, 1, 4),
    api(ApiKey::AlterConfigs, 0, 2),
    api(ApiKey::AlterReplicaLogDirs, 1, 2),
    api(ApiKey::DescribeLogDirs, 1, 4),
    api(ApiKey::CreatePartitions, 0, 3),
    api(ApiKey::DeleteGroups, 0, 2),
    api(ApiKey::ElectLeaders, 0, 2),
    api(ApiKey::IncrementalAlterConfigs, 0, 1),
    api(ApiKey::AlterPartitionReassignments, 0, 1),
    api(ApiKey::ListPartitionReassignments, 0, 0),
    api(ApiKey::OffsetDelete, 0, 0),
    api(ApiKey::DescribeQuorum, 0, 2),
    api(ApiKey::UpdateFeatures, 0, 2),
    api(ApiKey::DescribeCluster, 0, 2),
    api(ApiKey::DescribeProducers, 0, 0),
    api(ApiKey::UnregisterBroker, 0, 0),
    api(ApiKey::DescribeTopicPartitions, 0, 0),
    api(ApiKey::AddRaftVoter, 0, 0),
    api(ApiKey::RemoveRaftVoter, 0, 0),
];

/// The API with this key, if the node serves it.
#[must_use]
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key as i16 == key)
}

/// What ApiVersions announces.
#[must_use]
pub fn advertised() -> Vec<ApiVersion> {
    APIS.iter().map(Api::advertise).collect()
}

impl Api {
    fn advertise(&self) -> ApiVersion {
        ApiVersion::default()
            .with_api_key(self.key as i16)
            .with_min_version(self.advertised_min)
            .with_max_version(self.max)
    }
}

/// A request that was decoded.
#[derive(Debug, Clone)]
pub struct Request {
    /// Key, version, correlation and client id.
    pub header: RequestHeader,
    /// The request itself.
    pub body: RequestKind,
    /// What the guard found out about it.
    pub walked: Walked,
}

impl Request {
    /// The API asked for.
    #[must_use]
    pub fn key(&self) -> ApiKey {
        ApiKey::try_from(self.header.request_api_key)
            .expect("check_request takes only keys that the codec knows")
    }

    /// The version it is in.
    #[must_use]
    pub const fn version(&self) -> i16 {
        self.header.request_api_version
    }

    /// The number that its response has to carry.
    #[must_use]
    pub const fn correlation_id(&self) -> i32 {
        self.header.correlation_id
    }
}

/// A response that was decoded, on the client's side.
#[derive(Debug, Clone)]
pub struct Response {
    /// The number of the request it answers.
    pub correlation_id: i32,
    /// The response itself.
    pub body: ResponseKind,
}

/// A frame that does not decode. The connection is to be closed, except where
/// [`answer`](Self::answer) has something to say.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than any message.
    #[error("a message of {0} bytes has no header")]
    Short(usize),
    /// The API does not exist, or is not served.
    #[error("API {key} is not served")]
    UnknownApi { key: i16 },
    /// The API is not served in this version.
    #[error("version {version} of API {key:?} is not served")]
    UnsupportedVersion { key: ApiKey, version: i16, correlation_id: i32 },
    /// Malformed, or it would take more memory than it brought bytes.
    #[error("a message of API {key} version {version} is malformed")]
    Shape { key: i16, version: i16, source: ShapeError },
    /// The codec refused what the guard let pass, such as text that is not UTF-8.
    #[error("a message of API {key} version {version} does not decode: {cause}")]
    Codec { key: i16, version: i16, cause: CodecError },
}

/// A message that has what its version cannot say, or is too large for a frame.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The codec refused it.
    #[error("a message of API {key:?} version {version} does not encode: {cause}")]
    Codec { key: ApiKey, version: i16, cause: CodecError },
    /// Too large for its length field.
    #[error("{bytes} bytes are too many for a frame or a field")]
    TooLarge { bytes: usize },
}

impl EncodeError {
    pub(super) fn codec(key: ApiKey, version: i16) -> impl FnOnce(anyhow::Error) -> Self {
        move |cause| Self::Codec { key, version, cause: CodecError(cause) }
    }
}

/// What the codec said; it has no errors of its own kind.
#[derive(Debug)]
pub struct CodecError(anyhow::Error);

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl DecodeError {
    /// The frame to answer with before reading on, where there is one.
    ///
    /// Only ApiVersions has it: a client that asks in a version from the future learns which
    /// versions there are, in a body of version 0, which every client reads (KIP-511).
    #[must_use]
    pub fn answer(&self) -> Option<Bytes> {
        let Self::UnsupportedVersion { key: ApiKey::ApiVersions, correlation_id, .. } = self else {
            return None;
        };
        let versions = APIS.iter().filter(|api| api.key == ApiKey::ApiVersions);
        let body = ApiVersionsResponse::default()
            .with_error_code(ResponseError::UnsupportedVersion.code())
            .with_api_keys(versions.map(Api::advertise).collect());
        encode_response(ApiKey::ApiVersions, 0, *correlation_id, &ResponseKind::ApiVersions(body))
            .ok()
    }
}

/// A request that the guard let pass and that is not decoded yet.
#[derive(Debug, Clone)]
pub struct Checked {
    key: ApiKey,
    version: i16,
    frame: Bytes,
    walked: Walked,
}

/// Checks a frame that a client sent, length removed.
///
/// # Errors
/// See [`DecodeError`].
pub fn check_request(frame: Bytes) -> Result<Checked, DecodeError> {
    let mut head = &frame[..];
    if head.len() < 8 {
        return Err(DecodeError::Short(head.len()));
    }
    let (key, version, correlation_id) = (head.get_i16(), head.get_i16(), head.get_i32());
    let Some(api) = find(key) else { return Err(DecodeError::UnknownApi { key }) };
    if version < api.min || version > api.max {
        let key = api.key;
        return Err(DecodeError::UnsupportedVersion { key, version, correlation_id });
    }
    let walked = shape::check_request(api.key, version, &frame)
        .map_err(|source| DecodeError::Shape { key, version, source })?;
    Ok(Checked { key: api.key, version, frame, walked })
}

impl Checked {
    /// About how much memory decoding takes, beside the frame.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.walked.memory_bytes
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`DecodeError::Codec`].
    pub fn decode(self) -> Result<Request, DecodeError> {
        let Self { key, version, mut frame, walked } = self;
        let codec = |cause| {
            let key = key as i16;
            DecodeError::Codec { key, version, cause: CodecError(cause) }
        };
        let header = RequestHeader::decode(&mut frame, key.request_header_version(version))
            .map_err(codec)?;
        let body = RequestKind::decode(key, &mut frame, version).map_err(codec)?;
        Ok(Request { header, body, walked })
    }
}

/// Checks and decodes a frame that a client sent, length removed.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_request(frame: Bytes) -> Result<Request, DecodeError> {
    check_request(frame)?.decode()
}

/// A response as a whole frame, length and header included.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_response(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    body: &ResponseKind,
) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::with_capacity(256);
    out.put_i32(0);
    put_response_header(&mut out, key, version, correlation_id);
    body.encode(&mut out, version).map_err(EncodeError::codec(key, version))?;
    finish_frame(out)
}

/// A request as a whole frame, length and header included; for the client.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_request(
    key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<StrBytes>,
    body: &RequestKind,
) -> Result<Bytes, EncodeError> {
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(client_id);
    let mut out = BytesMut::with_capacity(256);
    out.put_i32(0);
    header
        .encode(&mut out, key.request_header_version(version))
        .map_err(EncodeError::codec(key, version))?;
    body.encode(&mut out, version).map_err(EncodeError::codec(key, version))?;
    finish_frame(out)
}

/// Decodes a frame that a node sent in answer to a request of `key` and `version`, length removed.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_response(
    api_key: ApiKey,
    version: i16,
    mut frame: Bytes,
) -> Result<Response, DecodeError> {
    let key = api_key as i16;
    shape::check_response(api_key, version, &frame).map_err(|source| DecodeError::Shape {
        key,
        version,
        source,
    })?;
    let codec = |cause| DecodeError::Codec { key, version, cause: CodecError(cause) };
    let header = ResponseHeader::decode(&mut frame, api_key.response_header_version(version))
        .map_err(codec)?;
    let body = ResponseKind::decode(api_key, &mut frame, version).map_err(codec)?;
    Ok(Response { correlation_id: header.correlation_id, body })
}

/// The header of responses: version 0 for ApiVersions, whatever its body is (KIP-511), so that a
/// client can read it before it knows what the node speaks.
pub(super) fn put_response_header(out: &mut BytesMut, key: ApiKey, version: i16, id: i32) {
    out.put_i32(id);
    if key.response_header_version(version) >= 1 {
        out.put_u8(0); // No tagged fields.
    }
}

fn finish_frame(mut out: BytesMut) -> Result<Bytes, EncodeError> {
    let bytes = out.len() - frame::LENGTH_BYTES;
    let length = i32::try_from(bytes).map_err(|_| EncodeError::TooLarge { bytes })?;
    out[..frame::LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiVersionsRequest;

    use super::*;

    fn request(key: i16, version: i16) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(key);
        out.put_i16(version);
        out.put_i32(42);
        out.put_slice(&[0xff; 20]);
        out.freeze()
    }

    #[test]
    fn api_versions_from_the_future_is_answered_in_version_0() {
        let error = decode_request(request(18, 99)).unwrap_err();
        let frame = error.answer().unwrap().slice(frame::LENGTH_BYTES..);
        let response = decode_response(ApiKey::ApiVersions, 0, frame).unwrap();
        assert_eq!(response.correlation_id, 42);
        let ResponseKind::ApiVersions(body) = response.body else { panic!("{response:?}") };
        assert_eq!(body.error_code, 35);
        assert_eq!((body.api_keys[0].api_key, body.api_keys[0].max_version), (18, 4));
    }

    #[test]
    fn other_unknown_apis_and_versions_close_the_connection() {
        for (key, version) in [(-1, 0), (9999, 0), (4, 0), (0, 2), (0, 14), (1, 3), (3, -1)] {
            let error = decode_request(request(key, version)).unwrap_err();
            assert!(error.answer().is_none(), "{error}");
        }
        assert!(decode_request(Bytes::from_static(&[0, 18, 0])).is_err());
    }

    #[test]
    fn produce_is_announced_from_version_0() {
        let produce = advertised().into_iter().find(|api| api.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
    }

    #[test]
    fn librdkafka_finds_what_its_features_need() {
        use ApiKey::*;
        // Record batches, zstd, balanced consumers, the consumer protocol of KIP-848.
        let needed = [(Produce, 3), (Fetch, 4), (Produce, 7), (Fetch, 10), (FindCoordinator, 0)];
        let groups = [JoinGroup, SyncGroup, Heartbeat, LeaveGroup].map(|key| (key, 0));
        let offsets = [(OffsetCommit, 2), (OffsetFetch, 1), (OffsetCommit, 9), (OffsetFetch, 9)];
        let versions = advertised();
        for (key, version) in needed.into_iter().chain(groups).chain(offsets) {
            let found = versions.iter().find(|one| one.api_key == key as i16).unwrap();
            let announced = found.min_version..=found.max_version;
            assert!(announced.contains(&version), "{key:?} {version} in {announced:?}");
        }
    }

    #[test]
    fn api_versions_responses_have_the_old_header_in_every_version() {
        let body =
            ResponseKind::ApiVersions(ApiVersionsResponse::default().with_api_keys(advertised()));
        for version in 0..=4 {
            let frame = encode_response(ApiKey::ApiVersions, version, 7, &body).unwrap();
            // The error code follows the correlation id at once.
            assert_eq!(frame[4..10], [0, 0, 0, 7, 0, 0]);
            let frame = frame.slice(frame::LENGTH_BYTES..);
            let response = decode_response(ApiKey::ApiVersions, version, frame).unwrap();
            assert_eq!(response.correlation_id, 7);
        }
    }

    #[test]
    fn a_request_survives_the_way_to_the_node() {
        for version in 0..=4 {
            let body = RequestKind::ApiVersions(ApiVersionsRequest::default());
            let client = Some(StrBytes::from_static_str("me"));
            let frame =
                encode_request(ApiKey::ApiVersions, version, 7, client.clone(), &body).unwrap();
            let request = decode_request(frame.slice(frame::LENGTH_BYTES..)).unwrap();
            assert_eq!((request.key(), request.version()), (ApiKey::ApiVersions, version));
            assert_eq!((request.correlation_id(), &request.header.client_id), (7, &client));
            assert_eq!(request.body, body);
            assert_eq!(request.walked.size_bytes, frame.len() - frame::LENGTH_BYTES);
        }
    }
}
