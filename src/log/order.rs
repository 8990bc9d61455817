//! Whether the batches of a segment follow each other.
//!
//! A batch's CRC covers neither its base offset nor its leader epoch, which a broker stamps without
//! reading the rest. Damage to these shows only beside other batches: offsets and epochs both rise.
//! What falls behind shows that it or what came before is wrong; which of the two is seen from what
//! came before that.

use super::{
    epochs::Epochs,
    error::Damage,
    scan::{Found, Scan},
};
use crate::base::{LeaderEpoch, Offset};

/// The first batch of the segment at `base` that cannot be right, and why. Ends in silence where a header does not parse:
/// who reads the batches meets that too.
pub(super) fn first_wrong(base: Offset, batches: Scan, epochs: &Epochs) -> Option<(u64, Damage)> {
    let mut before: Option<Seen> = None;
    for found in batches.map_while(Result::ok) {
        // No leader stamps a negative one, and as the first one it has none before it to fall behind.
        if found.header.leader_epoch < LeaderEpoch(0) {
            let epoch = found.header.leader_epoch;
            let damage = Damage::Epoch { found: epoch, expected: LeaderEpoch(0) };
            return Some((found.position, damage));
        }
        let Some(last) = before else {
            let beyond_gap = (found.header.base_offset > base).then_some(found.position);
            before = Some(Seen { found, beyond_gap, begins_epoch: true });
            continue;
        };
        let (header, end) = (found.header, last.found.header.next_offset());
        if header.base_offset < end {
            let damage = Damage::Offset { found: header.base_offset, expected: end };
            // Compaction leaves gaps, but what lies before one ends before what lies behind it.
            return Some((last.beyond_gap.unwrap_or(found.position), damage));
        }
        let epoch = last.found.header.leader_epoch;
        if header.leader_epoch < epoch {
            let damage = Damage::Epoch { found: header.leader_epoch, expected: epoch };
            let is_known =
                |one: Found| epochs.of(one.header.base_offset) == Some(one.header.leader_epoch);
            if last.begins_epoch && !is_known(last.found) {
                return Some((last.found.position, damage));
            }
            if !is_known(found) {
                return Some((found.position, damage));
            }
        }
        before = Some(Seen {
            found,
            beyond_gap: (header.base_offset > end).then_some(found.position),
            begins_epoch: header.leader_epoch > epoch,
        });
    }
    None
}

/// The batch before, and what is to be known of it.
struct Seen {
    found: Found,
    /// Where it begins, if there is a gap before it.
    beyond_gap: Option<u64>,
    /// Whether the one before it is of an earlier epoch.
    begins_epoch: bool,
}
