//! Requests and responses of the controller as bytes, for nodes that pass them on.
//!
//! A request is one byte that says whether an id follows, the id (16 bytes), and Kafka's own
//! request from its header on, without a length; a response its API key and version (`i16` each,
//! big-endian), and Kafka's own response from its header on. Each API has one version here, which
//! all releases of a rolling upgrade know; it is on the wire, so that it can be raised. Requests
//! that are not Kafka's have negative keys, no header, and a body in protobuf.
//!
//! Nothing reaches the codec before the shape guard has walked it.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader, ResponseHeader, delete_topics_request::DeleteTopicState},
    protocol::{Decodable, Encodable},
};
use uuid::Uuid;

use super::{Request, Response, driver::RequestId};
use crate::protocol::shape::{ShapeError, check_request, check_response};

/// Bytes that are no request or response of the controller, or one that has no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end too early.
    #[error("the request to the controller is cut off")]
    Truncated,
    /// No such request is known here.
    #[error("this node does not know requests of kind {0} to the controller: upgrade it")]
    UnknownApi(i16),
    /// The shape is wrong.
    #[error("the message to or from the controller is malformed")]
    Shape(#[from] ShapeError),
    /// The codec refuses it.
    #[error("the message to or from the controller cannot be expressed or read")]
    Codec,
}

impl From<prost::DecodeError> for WireError {
    fn from(_: prost::DecodeError) -> Self {
        Self::Codec
    }
}

macro_rules! apis {
    ($($name:ident $version:literal),* $(,)?) => {
        fn api_of(request: &Request) -> Option<(ApiKey, i16)> {
            match request {
                $(Request::$name(_) => Some((ApiKey::$name, $version)),)*
                Request::ExcludeVoter(_) => None,
                Request::ReplicaSizes(_) => None,
            }
        }

        fn encode_body(request: &Request, into: &mut BytesMut) -> Result<(), WireError> {
            match request {
                $(Request::$name(body) => body.encode(into, $version),)*
                Request::ExcludeVoter(body) => return encode_own(EXCLUDE_VOTER, body, into),
                Request::ReplicaSizes(body) => return encode_own(REPLICA_SIZES, body, into),
            }
            .map_err(|_| WireError::Codec)
        }

        fn decode_body(api: ApiKey, version: i16, body: &mut Bytes) -> Result<Request, WireError> {
            match api {
                $(ApiKey::$name => Decodable::decode(body, version).map(Request::$name),)*
                other => return Err(WireError::UnknownApi(other as i16)),
            }
            .map_err(|_| WireError::Codec)
        }

        fn api_of_response(response: &Response) -> Option<(ApiKey, i16)> {
            match response {
                $(Response::$name(_) => Some((ApiKey::$name, $version)),)*
                Response::ExcludeVoter(_) => None,
                Response::ReplicaSizes(_) => None,
            }
        }

        fn encode_answer(response: &Response, into: &mut BytesMut) -> Result<(), WireError> {
            match response {
                $(Response::$name(body) => body.encode(into, $version),)*
                Response::ExcludeVoter(body) => return encode_own(EXCLUDE_VOTER, body, into),
                Response::ReplicaSizes(body) => return encode_own(REPLICA_SIZES, body, into),
            }
            .map_err(|_| WireError::Codec)
        }

        fn decode_answer(
            api: ApiKey,
            version: i16,
            body: &mut Bytes,
        ) -> Result<Response, WireError> {
            match api {
                $(ApiKey::$name => Decodable::decode(body, version).map(Response::$name),)*
                other => return Err(WireError::UnknownApi(other as i16)),
            }
            .map_err(|_| WireError::Codec)
        }

        #[cfg(test)]
        const APIS: &[(ApiKey, i16)] = &[$((ApiKey::$name, $version)),*];

        #[cfg(test)]
        fn defaults() -> Vec<(Request, Response)> {
            vec![$((Request::$name(Default::default()), Response::$name(Default::default()))),*]
        }
    };
}

apis! {
    CreateTopics 7,
    DeleteTopics 6,
    CreatePartitions 3,
    AlterConfigs 2,
    IncrementalAlterConfigs 1,
    BrokerRegistration 4,
    BrokerHeartbeat 1,
    UnregisterBroker 0,
    AlterPartition 3,
    AssignReplicasToDirs 0,
    AllocateProducerIds 0,
    UpdateFeatures 2,
    ElectLeaders 2,
    AlterPartitionReassignments 1,
}

/// A request as bytes.
///
/// # Errors
/// Where the codec cannot express it.
pub fn encode_request(request: &Request, id: Option<RequestId>) -> Result<Bytes, WireError> {
    let mut bytes = BytesMut::new();
    bytes.put_u8(u8::from(id.is_some()));
    if let Some(RequestId(id)) = id {
        bytes.put_slice(id.as_bytes());
    }
    if let Some((api, version)) = api_of(request) {
        RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .encode(&mut bytes, api.request_header_version(version))
            .map_err(|_| WireError::Codec)?;
    }
    match request {
        // Clients before version 6 name topics in a field of its own, which this version has not.
        Request::DeleteTopics(body) if !body.topic_names.is_empty() => {
            let mut body = body.clone();
            let names = std::mem::take(&mut body.topic_names).into_iter();
            let states = names.map(|name| DeleteTopicState::default().with_name(Some(name)));
            body.topics.extend(states);
            encode_body(&Request::DeleteTopics(body), &mut bytes)?;
        }
        request => encode_body(request, &mut bytes)?,
    }
    Ok(bytes.freeze())
}

/// The request that `bytes` hold.
///
/// # Errors
/// See [`WireError`].
pub fn decode_request(mut bytes: Bytes) -> Result<(Request, Option<RequestId>), WireError> {
    let has_id = bytes.try_get_u8().map_err(|_| WireError::Truncated)? != 0;
    let id = match has_id {
        false => None,
        true if bytes.len() < 16 => return Err(WireError::Truncated),
        true => {
            let id = bytes.split_to(16);
            Some(RequestId(Uuid::from_slice(&id).map_err(|_| WireError::Truncated)?))
        }
    };
    if let Some(body) = own_body(EXCLUDE_VOTER, &bytes) {
        return Ok((Request::ExcludeVoter(prost::Message::decode(body)?), id));
    }
    if let Some(body) = own_body(REPLICA_SIZES, &bytes) {
        return Ok((Request::ReplicaSizes(prost::Message::decode(body)?), id));
    }
    let (api, version) = head(&bytes)?;
    check_request(api, version, &bytes)?;
    RequestHeader::decode(&mut bytes, api.request_header_version(version))
        .map_err(|_| WireError::Codec)?;
    Ok((decode_body(api, version, &mut bytes)?, id))
}

/// A response as bytes.
///
/// # Errors
/// Where the codec cannot express it.
pub fn encode_response(response: &Response) -> Result<Bytes, WireError> {
    let mut bytes = BytesMut::new();
    if let Some((api, version)) = api_of_response(response) {
        bytes.put_i16(api as i16);
        bytes.put_i16(version);
        ResponseHeader::default()
            .encode(&mut bytes, api.response_header_version(version))
            .map_err(|_| WireError::Codec)?;
    }
    encode_answer(response, &mut bytes)?;
    Ok(bytes.freeze())
}

/// The response that `bytes` hold.
///
/// # Errors
/// See [`WireError`].
pub fn decode_response(mut bytes: Bytes) -> Result<Response, WireError> {
    if let Some(body) = own_body(EXCLUDE_VOTER, &bytes) {
        return Ok(Response::ExcludeVoter(prost::Message::decode(body)?));
    }
    if let Some(body) = own_body(REPLICA_SIZES, &bytes) {
        return Ok(Response::ReplicaSizes(prost::Message::decode(body)?));
    }
    let (api, version) = head(&bytes)?;
    bytes.advance(4);
    check_response(api, version, &bytes)?;
    ResponseHeader::decode(&mut bytes, api.response_header_version(version))
        .map_err(|_| WireError::Codec)?;
    decode_answer(api, version, &mut bytes)
}

/// The key of requests that are not Kafka's: an [`super::ExcludeVoterRequest`],
const EXCLUDE_VOTER: i16 = -1;
/// and a [`super::ReplicaSizesRequest`].
const REPLICA_SIZES: i16 = -2;
const OWN_VERSION: i16 = 0;

fn encode_own(key: i16, body: &impl prost::Message, into: &mut BytesMut) -> Result<(), WireError> {
    into.put_i16(key);
    into.put_i16(OWN_VERSION);
    body.encode(into).map_err(|_| WireError::Codec)
}

/// The body of a message of `key` that is not Kafka's.
fn own_body(key: i16, bytes: &[u8]) -> Option<&[u8]> {
    let body = bytes.strip_prefix(&key.to_be_bytes())?;
    body.strip_prefix(&OWN_VERSION.to_be_bytes())
}

/// The API key and version that `bytes` begin with.
fn head(mut bytes: &[u8]) -> Result<(ApiKey, i16), WireError> {
    let api = bytes.try_get_i16().map_err(|_| WireError::Truncated)?;
    let version = bytes.try_get_i16().map_err(|_| WireError::Truncated)?;
    Ok((ApiKey::try_from(api).map_err(|()| WireError::UnknownApi(api))?, version))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, ElectLeadersRequest,
        create_topics_request::CreatableTopic, create_topics_response::CreatableTopicResult,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::TopicId,
        controller::{ExcludeVoterRequest, ExcludeVoterResponse, ReplicaSizesRequest, TopicSizes},
        protocol::StrBytes,
    };

    fn request() -> Request {
        let name = StrBytes::from_static_str("numbers").into();
        let topic = CreatableTopic::default().with_name(name).with_num_partitions(3);
        Request::CreateTopics(CreateTopicsRequest::default().with_topics(vec![topic]))
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let named = Some(RequestId(Uuid::from_u128(7)));
        for id in [None, named] {
            let bytes = encode_request(&request(), id).unwrap();
            assert_eq!(decode_request(bytes).unwrap(), (request(), id));
        }
        let own = Request::ExcludeVoter(ExcludeVoterRequest { node_id: 7, excluded: true });
        let bytes = encode_request(&own, named).unwrap();
        assert_eq!(decode_request(bytes).unwrap(), (own, named));
        let own = Response::ExcludeVoter(ExcludeVoterResponse { error_code: 35 });
        assert_eq!(decode_response(encode_response(&own).unwrap()).unwrap(), own);
        let sizes = TopicSizes {
            topic_id: TopicId(Uuid::from_u128(9)).into(),
            partitions: vec![0, 4],
            bytes: vec![7, 1 << 40],
        };
        let sizes = ReplicaSizesRequest { broker_id: 1, broker_epoch: 2, topics: vec![sizes] };
        let sizes = Request::ReplicaSizes(sizes);
        let bytes = encode_request(&sizes, None).unwrap();
        assert_eq!(decode_request(bytes).unwrap(), (sizes, None));
        let name = StrBytes::from_static_str("numbers").into();
        let topic = CreatableTopicResult::default().with_name(name).with_num_partitions(3);
        let response = CreateTopicsResponse::default().with_topics(vec![topic]);
        let response = Response::CreateTopics(response);
        assert_eq!(decode_response(encode_response(&response).unwrap()).unwrap(), response);
    }

    #[test]
    fn every_kind_of_message_arrives() {
        let all_partitions = ElectLeadersRequest::default().with_topic_partitions(None);
        let null = Request::ElectLeaders(all_partitions);
        assert_eq!(decode_request(encode_request(&null, None).unwrap()).unwrap(), (null, None));
        for (request, response) in defaults() {
            let bytes = encode_request(&request, None).unwrap();
            assert_eq!(decode_request(bytes).unwrap(), (request, None));
            assert_eq!(decode_response(encode_response(&response).unwrap()).unwrap(), response);
        }
    }

    #[test]
    fn topics_to_delete_arrive_however_the_client_named_them() {
        let names = vec![StrBytes::from_static_str("a").into()];
        let request = DeleteTopicsRequest::default().with_topic_names(names);
        let bytes = encode_request(&Request::DeleteTopics(request), None).unwrap();
        let Ok((Request::DeleteTopics(arrived), _)) = decode_request(bytes) else {
            panic!("another request");
        };
        assert_eq!(arrived.topics[0].name.as_ref().unwrap().as_str(), "a");
    }

    #[test]
    fn every_version_has_a_shape() {
        for (api, version) in APIS {
            let mut bytes = BytesMut::new();
            bytes.put_i16(*api as i16);
            bytes.put_i16(*version);
            for outcome in
                [check_request(*api, *version, &bytes), check_response(*api, *version, &bytes)]
            {
                assert_ne!(outcome, Err(ShapeError::Unknown), "{api:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let kafka = APIS.iter().map(|(api, version)| (*api as i16, *version));
            for (api, version) in kafka.chain([(EXCLUDE_VOTER, OWN_VERSION), (REPLICA_SIZES, OWN_VERSION)]) {
                let mut bytes = BytesMut::new();
                bytes.put_u8(0);
                bytes.put_i16(api);
                bytes.put_i16(version);
                bytes.put_slice(&tail);
                let bytes = bytes.freeze();
                let _ = decode_request(bytes.clone());
                let _ = decode_response(bytes.slice(1..));
            }
        }
    }
}
