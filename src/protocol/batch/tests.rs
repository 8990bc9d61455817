use proptest::prelude::*;

use super::*;
use crate::protocol::compression::CompressionError;

type Row = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let header = (bytes(), prop::option::of(bytes()));
    let headers = prop::collection::vec(header, 0..3);
    let row = (0..i64::MAX / 2, prop::option::of(bytes()), prop::option::of(bytes()), headers);
    prop::collection::vec(row, 1..40)
}

fn build(rows: &[Row], compression: Compression) -> Batch {
    let mut builder =
        BatchBuilder::new(BatchOptions { codec: compression.into(), ..Default::default() });
    for (timestamp_ms, key, value, headers) in rows {
        let headers: Vec<_> =
            headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        builder.push(&NewRecord {
            timestamp_ms: *timestamp_ms,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: &headers,
        });
    }
    builder.build().unwrap()
}

fn read(batch: &Batch) -> Vec<Row> {
    let own = |bytes: Option<Bytes>| bytes.map(|bytes| bytes.to_vec());
    batch
        .records(RecordLimits::default())
        .unwrap()
        .map(|record| {
            let record = record.unwrap();
            let headers = record.headers.iter().map(|(key, value)| (key.to_vec(), own(value)));
            (record.timestamp_ms, own(record.key), own(record.value), headers.collect())
        })
        .collect()
}

fn compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(&Compression::ALL[..])
}

#[test]
fn a_varint_takes_the_bytes_it_says() {
    for value in [0, -1, 63, 64, -64, -65, 8191, 8192, i64::MAX, i64::MIN] {
        let mut out = Vec::new();
        varint::put_i64(&mut out, value);
        assert_eq!(varint::size(value), out.len(), "{value}");
        assert_eq!(varint::read_i64(&out), Some((value, out.len())));
    }
}

proptest! {
    #[test]
    fn records_come_out_of_a_batch_as_they_went_in(rows in rows(), compression in compression()) {
        let batch = build(&rows, compression);
        let parsed = Batches::parse(batch.bytes().clone()).unwrap();
        prop_assert_eq!(&parsed, &[batch]);
        prop_assert_eq!(parsed[0].max_timestamp_ms(), rows.iter().map(|row| row.0).max().unwrap());
        prop_assert_eq!(read(&parsed[0]), rows);
    }

    #[test]
    fn a_stamped_batch_is_intact_and_in_its_place(
        rows in rows(),
        compression in compression(),
        now in prop::option::of(0..i64::MAX),
    ) {
        let batch = build(&rows, compression);
        let (mut header, mut fixed) = (*batch.header(), batch.header().encode());
        header.stamp(&mut fixed, batch.body().len(), Offset(77), LeaderEpoch(5), now);
        let parsed = Batches::parse([&fixed[..], &batch.body()].concat().into()).unwrap();
        prop_assert_eq!(parsed[0].header(), &header);
        prop_assert_eq!(parsed[0].base_offset(), Offset(77));
        prop_assert_eq!(parsed[0].last_offset(), Offset(76 + rows.len() as i64));
        prop_assert_eq!(parsed[0].leader_epoch(), LeaderEpoch(5));
        if let Some(now) = now {
            prop_assert_eq!(parsed[0].max_timestamp_ms(), now);
            prop_assert!(read(&parsed[0]).iter().all(|row| row.0 == now));
        } else {
            prop_assert_eq!(read(&parsed[0]), rows);
        }
    }

    /// Everything that the CRC covers, and the length, is noticed; offset and epoch are not
    /// covered.
    #[test]
    fn a_flipped_bit_is_noticed(rows in rows(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = build(&rows, Compression::None).bytes().to_vec();
        let covered: Vec<_> = (8..12).chain(16..bytes.len()).collect();
        bytes[*at.get(&covered)] ^= 1_u8 << bit;
        prop_assert!(Batches::parse(bytes.into()).is_err());
    }

    #[test]
    fn arbitrary_bodies_are_refused_or_read_within_their_limit(
        body in prop::collection::vec(any::<u8>(), 0..300),
        compression in compression(),
        count in 1..1000_i32,
    ) {
        let mut header = *build(&[(0, None, None, vec![])], compression).header();
        header.count = count;
        let limits = RecordLimits { uncompressed_bytes: 10_000 };
        if let Ok(records) = Records::new(header, body.into(), limits) {
            let read: usize = records.flatten().map(|record| record.size_bytes).sum();
            prop_assert!(read <= 10_000);
        }
    }
}

#[test]
fn a_count_that_contradicts_the_offsets_is_refused() {
    for (count, last_offset_delta) in [(0, -1), (0, 0), (2, 0), (1, 1), (-1, -2), (i32::MAX, 0)] {
        let batch = build(&[(0, None, None, vec![])], Compression::None);
        let mut header = *batch.header();
        (header.count, header.last_offset_delta) = (count, last_offset_delta);
        header.crc = header.crc_with(&batch.body());
        let bytes = [&header.encode()[..], &batch.body()].concat();
        let refused = Batches::parse(bytes.into());
        assert_eq!(refused, Err(BatchError::Count { count, last_offset_delta }));
    }
}

#[test]
fn a_decompression_bomb_stops_at_the_limit() {
    let value = vec![0; 64 << 20];
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let batch = build(&[(0, None, Some(value.clone()), vec![])], compression);
        let limits = RecordLimits { uncompressed_bytes: 1 << 20 };
        let record = batch.records(limits).unwrap().next().unwrap();
        assert!(
            matches!(record, Err(RecordError::Compression(CompressionError::TooLarge { .. }))),
            "{compression}"
        );
    }
}

#[test]
fn a_cut_batch_at_the_end_is_left_out_of_what_was_stored() {
    let batch = build(&[(0, None, None, vec![])], Compression::None);
    let mut bytes = batch.bytes().to_vec();
    bytes.extend_from_slice(&batch.bytes()[..40]);
    assert_eq!(Batches::parse_stored(bytes.clone().into()).unwrap(), [batch]);
    assert!(matches!(Batches::parse(bytes.into()), Err(BatchError::Truncated { .. })));
}
