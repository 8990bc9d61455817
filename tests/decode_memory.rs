//! What decoding a message may cost, whatever is in it: no more than the guard said it would, and
//! that is in proportion to the bytes that arrived. Bytes are counted as this thread allocates.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[expect(dead_code, reason = "the guard uses all of it")]
#[path = "../src/protocol/shape/table.rs"]
mod table;
#[expect(dead_code, reason = "the guard's unit tests use all of it")]
#[path = "../src/protocol/shape/writer.rs"]
mod writer;

use bytes::Bytes;
use ottla::protocol::{
    api::{check_request, decode_request, decode_response},
    messages::ApiKey,
    shape::{MAX_TAGGED_FIELDS, check_response},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use writer::{
    Direction::{self, Request, Response},
    all_messages, arrays, damage, overwrite, write, write_dense,
};

/// What a decoded message takes at most for each byte of its frame, beside unknown tagged fields:
/// an empty name of two bytes is a struct with all fields of all versions in memory.
const PER_BYTE: usize = 64;
/// What an unknown tagged field takes at most, where it is the only one of its struct.
const PER_TAGGED_FIELD: usize = 608;
/// For the frame's reference count.
const FIXED: usize = 256;
/// For an error, its backtrace included where that is wanted.
const ERROR: usize = 16 << 10;

type Message = (Direction, ApiKey, i16);

/// Only requests in versions that are served reach the codec of a node; responses in any that the
/// codec knows reach that of the client.
fn decoded() -> impl Iterator<Item = Message> {
    all_messages().filter(|&(direction, key, version)| {
        let served = ottla::protocol::api::find(key as i16);
        direction == Response || served.is_some_and(|api| (api.min..=api.max).contains(&version))
    })
}

/// What the guard estimates, or nothing where it refuses: then nothing is decoded.
fn estimate((direction, key, version): Message, bytes: &[u8]) -> usize {
    match direction {
        // By its header, which may have become that of another message.
        Request => check_request(Bytes::copy_from_slice(bytes)).map_or(0, |one| one.memory_bytes()),
        Response => check_response(key, version, bytes).map_or(0, |walked| walked.memory_bytes),
    }
}

/// Decodes as a node or a client does; returns whether that succeeded.
fn decode((direction, key, version): Message, bytes: Bytes) -> bool {
    match direction {
        Request => decode_request(bytes).is_ok(),
        Response => decode_response(key, version, bytes).is_ok(),
    }
}

/// Decodes and counts.
fn assert_bounded(message: Message, bytes: Vec<u8>) -> bool {
    let estimated = estimate(message, &bytes);
    let frame = Bytes::from(bytes.clone());
    let mut is_decoded = false;
    let counted = allocation_counter::measure(|| is_decoded = decode(message, frame));
    let peak = usize::try_from(counted.bytes_max).unwrap();
    assert!(
        peak <= estimated + if is_decoded { FIXED } else { ERROR },
        "{message:?} took {peak} bytes, estimated {estimated}, of {}: {:02x?}",
        bytes.len(),
        &bytes[..bytes.len().min(64)],
    );
    let bound = bytes.len() * PER_BYTE + MAX_TAGGED_FIELDS * PER_TAGGED_FIELD;
    assert!(estimated <= bound, "{message:?}: {estimated} for {} bytes", bytes.len());
    is_decoded
}

#[test]
fn each_array_full_of_the_smallest_elements_takes_what_was_estimated() {
    const COUNT: usize = 1_000;
    let mut worst = 0;
    for message in decoded() {
        let (direction, key, version) = message;
        for array in arrays(direction, key, version) {
            let bytes = write_dense(message, array, COUNT, false);
            let estimated = estimate(message, &bytes);
            assert!(estimated <= bytes.len() * PER_BYTE, "{message:?}: {estimated}");
            worst = worst.max(estimated / bytes.len());
            assert!(assert_bounded(message, bytes), "{message:?} is what the codec decodes");
            assert_bounded(message, write_dense(message, array, COUNT, true));
        }
    }
    assert!(worst > PER_BYTE / 2, "the bound could be {worst} bytes per byte");
}

#[test]
fn extreme_counts_at_every_place_take_what_was_estimated() {
    for message in decoded() {
        let (direction, key, version) = message;
        {
            let whole = write(direction, key, version, 1);
            for at in 0..whole.len() {
                let left = u8::try_from((whole.len() - at) % 128).unwrap();
                let extremes: [&[u8]; 8] = [
                    &i32::MAX.to_be_bytes(),
                    &1_000_000_i32.to_be_bytes(),
                    &[0, 0, 0, left],
                    &i16::MAX.to_be_bytes(),
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0xff, 0xff, 0x7f],
                    &[left],
                    &[0x7f],
                ];
                for extreme in extremes {
                    let mut bytes = whole.clone();
                    overwrite(&mut bytes, at, extreme);
                    assert_bounded(message, bytes);
                }
            }
        }
    }
}

#[test]
fn damaged_messages_take_what_was_estimated() {
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut decoded_all_the_same, mut tried) = (0, 0);
    for message in decoded() {
        let (direction, key, version) = message;
        for _ in 0..100 {
            let mut bytes = write(direction, key, version, rng.random());
            (0..rng.random_range(1..4)).for_each(|_| damage(&mut bytes, &mut rng));
            decoded_all_the_same += usize::from(assert_bounded(message, bytes));
            tried += 1;
        }
    }
    // Damage that the guard always finds would show nothing of what it lets pass.
    assert!(decoded_all_the_same > tried / 20, "{decoded_all_the_same} of {tried}");
}
