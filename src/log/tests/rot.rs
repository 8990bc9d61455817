//! A bit that flips while a node is away, as it starts again.

use proptest::prelude::*;

use super::*;
use crate::protocol::batch::HEADER_BYTES;

/// Where a batch has its leader epoch, which its CRC does not cover, as its base offset.
const LEADER_EPOCH: std::ops::Range<usize> = 12..16;
const FILE: &str = "t-0/00000000000000000000.log";

/// The bytes of the only segment.
fn bytes(dir: &SimDir) -> Vec<u8> {
    let file = dir.open(FILE, Open::Existing).unwrap();
    let mut bytes = vec![0; file.len_bytes().unwrap() as usize];
    let read = file.read_at(0, &mut bytes).unwrap();
    bytes.truncate(read);
    bytes
}

fn epoch_of(batch: &[u8]) -> u32 {
    u32::from_be_bytes(batch[LEADER_EPOCH].try_into().unwrap())
}

proptest! {
    /// What the CRC covers and what it does not: the rest of the log is a part of what was there, to
    /// the byte.
    #[test]
    fn a_flipped_bit_is_never_taken_for_what_was_written(
        epochs in prop::collection::vec((0..3u32, 1..4usize), 2..12),
        flipped in any::<prop::sample::Index>(),
        header_only in any::<bool>(),
        bit in 0..8u32,
    ) {
        let dir = SimDir::new();
        let directory = directory(&dir);
        let log = create(&directory, Arc::default());
        let (mut epoch, mut ends) = (1, vec![0]);
        for (step, records) in &epochs {
            epoch += *step as i32;
            let append = Append { leader_epoch: LeaderEpoch(epoch), ..client() };
            let values = vec![b"value".to_vec(); *records];
            log.append(&[batch(&values, None)], append).unwrap();
            ends.push(bytes(&dir).len());
        }
        log.flush().unwrap();
        drop((log, directory));
        dir.kill();
        let written = bytes(&dir);

        // The last batch has none after it that it could contradict.
        let all = ends[ends.len() - 2];
        let (at, of) = if header_only {
            let headers = (ends.len() - 2) * HEADER_BYTES;
            let (of, at) = (flipped.index(headers) / HEADER_BYTES, flipped.index(headers));
            (ends[of] + at % HEADER_BYTES, of)
        } else {
            let at = flipped.index(all);
            (at, ends.partition_point(|end| *end <= at) - 1)
        };
        dir.corrupt(FILE, at, 1 << bit);
        let rotten = bytes(&dir);
        if LEADER_EPOCH.contains(&(at - ends[of])) {
            // One that lies between those around it may be right.
            let before = of.checked_sub(1).map_or(0, |before| epoch_of(&written[ends[before]..]));
            let after = epoch_of(&written[ends[of + 1]..]);
            prop_assume!(!(before..=after).contains(&epoch_of(&rotten[ends[of]..])));
        }

        let directory = super::directory(&dir);
        let (log, recovery) = directory.load("t-0", Arc::default(), NOW_MS).unwrap();
        let kept = bytes(&dir);
        prop_assert!(written.starts_with(&kept), "byte {at} of batch {of} was taken");
        prop_assert!(recovery.cut.is_some());
        prop_assert!(log.log_end_offset() < Offset(epochs.iter().map(|it| it.1 as i64).sum()));
        // Nothing before it goes with it.
        prop_assert_eq!(kept.len(), ends[of]);
    }
}
