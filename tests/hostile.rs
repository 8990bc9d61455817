//! A whole node on loopback under input that no honest client sends. Whatever comes, the node
//! answers or closes that one connection, and goes on serving the others.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;
#[expect(dead_code, reason = "the guard uses all of it")]
#[path = "../src/protocol/shape/table.rs"]
mod table;
#[expect(dead_code, reason = "the guard's unit tests use all of it")]
#[path = "../src/protocol/shape/writer.rs"]
mod writer;

use bytes::{BufMut, Bytes};
use common::{call, frame, receive, serve};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse,
        DescribeConfigsRequest, DescribeGroupsRequest, GroupId, ProduceRequest, ProduceResponse,
        RequestKind, ResponseHeader, TopicName,
        create_topics_request::CreatableTopic,
        describe_configs_request::DescribeConfigsResource,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, StrBytes},
};
use ottla::protocol::{
    ResponseError,
    api::{APIS, decode_request, decode_response},
    batch::{BatchBuilder, BatchOptions, NewRecord},
};
use tokio::io::AsyncWriteExt;
use writer::{Direction, arrays, write, write_dense};

#[tokio::test]
async fn frames_that_are_no_requests_end_their_connection_only() {
    let served = serve().await;
    let header = |key: i16, version: i16| {
        let mut bytes = vec![];
        bytes.put_i16(key);
        bytes.put_i16(version);
        bytes.put_i32(1);
        bytes.put_i16(-1);
        bytes
    };
    let framed = |body: Vec<u8>| {
        let mut bytes = vec![];
        bytes.put_i32(i32::try_from(body.len()).unwrap());
        bytes.extend(body);
        bytes
    };
    // Eight bytes of body that ask for 2^31 - 1 topics.
    let mut bomb = header(ApiKey::Metadata as i16, 1);
    bomb.put_i32(i32::MAX);
    bomb.put_i32(0);
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("a length of 2 GiB", i32::MAX.to_be_bytes().to_vec()),
        ("a negative length", (-1i32).to_be_bytes().to_vec()),
        ("a length without room for a header", vec![0, 0, 0, 2, 0, 0]),
        ("a TLS hello", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01]),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an unknown API", framed(header(9_999, 0))),
        ("an unknown version", framed(header(ApiKey::Produce as i16, 99))),
        ("a version that Kafka 4 dropped", framed(header(ApiKey::Produce as i16, 0))),
        ("a count of 2^31 - 1", framed(bomb)),
    ];
    for (name, bytes) in hostile {
        let mut stream = served.connect().await;
        stream.write_all(&bytes).await.unwrap();
        assert!(receive(&mut stream).await.is_none(), "{name} was answered");
        served.assert_serves().await;
    }
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_cut_short_leaves_no_trace() {
    let served = serve().await;
    let whole = frame(&ApiVersionsRequest::default(), 0);
    for len in 0..whole.len() {
        let mut stream = served.connect().await;
        stream.write_all(&whole[..len]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(receive(&mut stream).await.is_none(), "{len} bytes were answered");
    }
    served.assert_serves().await;
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_from_the_future_learns_which_versions_there_are() {
    let served = serve().await;
    let mut stream = served.connect().await;
    let mut body = vec![];
    body.put_i16(ApiKey::ApiVersions as i16);
    body.put_i16(99);
    body.put_i32(1);
    let mut framed = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(body);
    stream.write_all(&framed).await.unwrap();
    let mut bytes = receive(&mut stream).await.unwrap();
    ResponseHeader::decode(&mut bytes, 0).unwrap();
    let response = ApiVersionsResponse::decode(&mut bytes, 0).unwrap();
    assert_eq!(response.error_code, ResponseError::UnsupportedVersion.code());
    assert!(response.api_keys.iter().any(|api| api.api_key == ApiKey::ApiVersions as i16));
    // The same connection goes on.
    let response = call(&mut stream, &ApiVersionsRequest::default(), 0).await;
    assert_eq!(response.error_code, 0);
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn damaged_batches_are_refused_and_whole_ones_taken() {
    let served = serve().await;
    let mut stream = served.connect().await;
    let name = TopicName(StrBytes::from_static_str("topic"));
    let topic = CreatableTopic::default()
        .with_name(name.clone())
        .with_num_partitions(1)
        .with_replication_factor(1);
    let create = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let created: CreateTopicsResponse = call(&mut stream, &create, 5).await;
    assert_eq!(created.topics[0].error_code, 0);

    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = NewRecord { timestamp_ms: 1, key: None, value: Some(b"a value"), headers: &[] };
    builder.push(&record);
    let whole = builder.build().unwrap().bytes().clone();
    let request = |records: Bytes| {
        let data = PartitionProduceData::default().with_index(0).with_records(Some(records));
        let topic =
            TopicProduceData::default().with_name(name.clone()).with_partition_data(vec![data]);
        ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![topic])
    };
    // From the format on: what lies before it, the server writes itself.
    for bit in 16 * 8..whole.len() * 8 {
        let mut flipped = whole.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let response: ProduceResponse = call(&mut stream, &request(flipped.into()), 9).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_ne!(partition.error_code, 0, "bit {bit} went unnoticed");
    }
    for len in 0..whole.len() {
        let response: ProduceResponse = call(&mut stream, &request(whole.slice(..len)), 9).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_ne!(partition.error_code, 0, "{len} bytes were taken");
    }
    let response: ProduceResponse = call(&mut stream, &request(whole), 9).await;
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!((partition.error_code, partition.base_offset), (0, 0));
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn many_tiny_elements_take_no_more_than_their_number() {
    // What takes the square of it takes minutes.
    const COUNT: usize = 100_000;
    let served = serve().await;
    for api in APIS {
        for array in arrays(Direction::Request, api.key, api.max) {
            let message = (Direction::Request, api.key, api.max);
            let request = write_dense(message, array, COUNT, false);
            let mut stream = served.connect().await;
            stream.write_i32(i32::try_from(request.len()).unwrap()).await.unwrap();
            stream.write_all(&request).await.unwrap();
            stream.write_all(&frame(&ApiVersionsRequest::default(), 0)).await.unwrap();
            // It may be refused with its connection, or be one that is not answered.
            while let Some(response) = receive(&mut stream).await {
                if response[..4] == 1_i32.to_be_bytes() {
                    break;
                }
            }
        }
    }
    served.assert_serves().await;
    served.node.stop().await.unwrap();
}

#[tokio::test]
async fn whatever_has_the_shape_of_a_version_is_answered_in_that_version() {
    let served = serve().await;
    for api in APIS {
        for (version, seed) in (api.min..=api.max).flat_map(|v| (0..4).map(move |seed| (v, seed))) {
            let request = write(Direction::Request, api.key, version, seed);
            let mut stream = served.connect().await;
            stream.write_i32(i32::try_from(request.len()).unwrap()).await.unwrap();
            stream.write_all(&request).await.unwrap();
            // Produce with acks=0 has no answer, and what it gets wrong ends its connection.
            if api.key == ApiKey::Produce && request_acks(&request, version) == 0 {
                continue;
            }
            let response = receive(&mut stream).await;
            let response = response.unwrap_or_else(|| panic!("{api:?} {version}: {request:02x?}"));
            decode_response(api.key, version, response).unwrap();
        }
    }
    served.assert_serves().await;
    served.node.stop().await.unwrap();
}

fn request_acks(request: &[u8], version: i16) -> i16 {
    let request = decode_request(Bytes::copy_from_slice(request)).unwrap();
    assert_eq!(request.version(), version);
    let RequestKind::Produce(produce) = request.body else { panic!("{request:?}") };
    produce.acks
}

#[tokio::test]
async fn to_ask_for_the_same_over_and_over_does_not_multiply_the_response() {
    let served = serve().await;
    let mut stream = served.connect().await;
    let resource = DescribeConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(StrBytes::from_static_str("1"))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource; 100_000])
        .with_include_documentation(true);
    let response = call(&mut stream, &request, 4).await;
    assert_eq!(response.results.len(), 1);
    assert!(response.results[0].configs.len() > 300);
    let group = GroupId(StrBytes::from_static_str("group"));
    let request = DescribeGroupsRequest::default().with_groups(vec![group; 100_000]);
    assert_eq!(call(&mut stream, &request, 5).await.groups.len(), 1);
    served.node.stop().await.unwrap();
}
