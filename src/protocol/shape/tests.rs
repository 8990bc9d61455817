use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader, RequestKind, ResponseHeader, ResponseKind},
    protocol::Decodable,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    writer::{
        Direction::{self, Request, Response},
        Writer, all_messages, damage, shape, write,
    },
    *,
};

fn check(
    direction: Direction,
    key: ApiKey,
    version: i16,
    bytes: &[u8],
) -> Result<Walked, ShapeError> {
    match direction {
        Request => check_request(key, version, bytes),
        Response => check_response(key, version, bytes),
    }
}

/// Decodes with the codec; returns the message encoded anew and how many bytes were left.
fn codec(
    direction: Direction,
    key: ApiKey,
    version: i16,
    bytes: &[u8],
) -> anyhow::Result<(BytesMut, usize)> {
    let mut bytes = Bytes::copy_from_slice(bytes);
    let mut out = BytesMut::new();
    match direction {
        Request => {
            RequestHeader::decode(&mut bytes, key.request_header_version(version))?;
            let body = RequestKind::decode(key, &mut bytes, version)?;
            body.encode(&mut out, version)?;
        }
        Response => {
            ResponseHeader::decode(&mut bytes, key.response_header_version(version))?;
            let body = ResponseKind::decode(key, &mut bytes, version)?;
            body.encode(&mut out, version)?;
        }
    }
    Ok((out, bytes.len()))
}

#[test]
fn the_table_covers_what_a_node_serves_and_the_codec_announces() {
    for api in crate::protocol::api::APIS {
        for version in api.min..=api.max {
            assert!(shape(Request, api.key).versions.contains(version), "{api:?}");
            assert!(shape(Response, api.key).versions.contains(version), "{api:?}");
        }
    }
    // The codec announces these but does not decode them.
    let undecodable =
        [(ApiKey::OffsetCommit, 10), (ApiKey::OffsetFetch, 10), (ApiKey::InitProducerId, 6)];
    for key in ApiKey::iter() {
        let versions = key.valid_versions();
        for version in versions.min..=versions.max {
            let covered = shape(Request, key).versions.contains(version);
            assert_eq!(covered, !undecodable.contains(&(key, version)), "{key:?} {version}");
            assert!(shape(Response, key).versions.contains(version), "{key:?} {version}");
        }
    }
}

#[test]
fn no_element_of_an_array_is_empty_on_the_wire() {
    fn least(kind: &Kind, version: i16, flexible: bool) -> usize {
        match kind {
            Kind::Struct(fields) => {
                for field in fields {
                    arrays(&field.kind, version, flexible);
                }
                let plain = fields.iter().filter(|field| field.tag.is_none());
                let present = plain.filter(|field| field.versions.contains(version));
                usize::from(flexible) + present.count()
            }
            _ => 1,
        }
    }
    fn arrays(kind: &Kind, version: i16, flexible: bool) {
        if let Kind::Array { element, .. } = kind {
            assert!(least(element, version, flexible) > 0);
        }
    }
    for (direction, key, version) in all_messages() {
        let message = shape(direction, key);
        for field in &message.fields {
            arrays(&field.kind, version, message.flexible.contains(version));
        }
    }
}

#[test]
fn a_million_element_message_is_estimated_near_its_size() {
    use kafka_protocol::messages::{fetch_request, metadata_request, produce_request};
    let element = |direction, key, name| {
        let field = shape(direction, key).fields.iter().find(|field| field.name == name).unwrap();
        let Kind::Array { element_memory_bytes, .. } = field.kind else { panic!("{name}") };
        element_memory_bytes
    };
    for (estimate, actual) in [
        (
            element(Request, ApiKey::Produce, "TopicData"),
            size_of::<produce_request::TopicProduceData>(),
        ),
        (
            element(Request, ApiKey::Metadata, "Topics"),
            size_of::<metadata_request::MetadataRequestTopic>(),
        ),
        (element(Request, ApiKey::Fetch, "Topics"), size_of::<fetch_request::FetchTopic>()),
    ] {
        assert!(estimate >= actual && estimate <= actual * 2, "{estimate} for {actual}");
    }
}

#[test]
fn eight_bytes_cannot_ask_for_gigabytes() {
    let mut metadata = Vec::new();
    metadata.put_i16(3);
    metadata.put_i16(1);
    metadata.put_i32(0);
    metadata.put_i16(-1);
    for count in [i32::MAX, 50_000_000, 1, -2] {
        let mut request = metadata.clone();
        request.put_i32(count);
        assert!(check_request(ApiKey::Metadata, 1, &request).is_err(), "{count}");
    }
}

#[test]
fn more_than_a_million_elements_are_refused() {
    let mut request = Vec::new();
    request.put_i16(ApiKey::Metadata as i16);
    request.put_i16(1);
    request.put_i32(0);
    request.put_i16(-1);
    request.put_i32(MAX_ELEMENTS as i32 + 1);
    request.extend(std::iter::repeat_n(0, 2 * (MAX_ELEMENTS + 1)));
    let refused = check_request(ApiKey::Metadata, 1, &request);
    assert_eq!(refused, Err(ShapeError::Elements { field: "Topics" }));
}

#[test]
fn more_than_ten_thousand_tagged_fields_are_refused() {
    for (count, refused) in [(MAX_TAGGED_FIELDS, false), (MAX_TAGGED_FIELDS + 1, true)] {
        let mut writer = Writer::of_header(Request, ApiKey::ListPartitionReassignments, 0);
        writer.out.pop();
        writer.uvarint(count);
        for tag in 0..count {
            writer.uvarint(tag);
            writer.uvarint(0);
        }
        writer.out.put_i32(0);
        writer.out.put_slice(&[0, 0]);
        let result = check_request(ApiKey::ListPartitionReassignments, 0, &writer.out);
        assert_eq!(result.is_err(), refused, "{result:?}");
    }
}

#[test]
fn what_follows_the_shape_is_what_the_codec_decodes_in_every_version() {
    for (direction, key, version) in all_messages() {
        for seed in 0..20 {
            let bytes = write(direction, key, version, seed);
            let context = format!("{direction:?} {key:?} {version} seed {seed}: {bytes:02x?}");
            let walked = check(direction, key, version, &bytes);
            assert_eq!(walked.map(|walked| walked.size_bytes), Ok(bytes.len()), "{context}");
            match codec(direction, key, version, &bytes) {
                Ok((encoded, left)) => {
                    assert_eq!(left, 0, "{context}");
                    let mut again = Writer::of_header(direction, key, version);
                    again.out.extend(encoded);
                    let walked = check(direction, key, version, &again.out);
                    let walked = walked.map(|walked| walked.size_bytes);
                    assert_eq!(walked, Ok(again.out.len()), "{context}");
                }
                Err(error) => panic!("{context}: {error:#}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Bits are flipped, bytes cut, inserted and replaced by extreme numbers. Whatever still passes
    /// must not make the codec reserve more than was estimated; it would abort the test here.
    #[test]
    fn damaged_messages_never_hurt_the_codec(which in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let messages: Vec<_> = all_messages().collect();
        let (direction, key, version) = *which.get(&messages);
        let mut bytes = write(direction, key, version, seed);
        let mut rng = SmallRng::seed_from_u64(!seed);
        for _ in 0..rng.random_range(1..4) {
            damage(&mut bytes, &mut rng);
        }
        if let Ok(walked) = check(direction, key, version, &bytes) {
            prop_assert!(walked.size_bytes <= bytes.len());
            let _ = codec(direction, key, version, &bytes);
        }
    }

    #[test]
    fn random_bytes_never_hurt_the_codec(
        which in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let messages: Vec<_> = all_messages().collect();
        let (direction, key, version) = *which.get(&messages);
        if check(direction, key, version, &bytes).is_ok() {
            let _ = codec(direction, key, version, &bytes);
        }
    }
}
