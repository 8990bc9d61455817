//! The newest batches of a partition that is led here, in the buffers that they came in, so that
//! followers at the tail are sent them without a read.
//!
//! Invariant: what is held is contiguous and ends where the log ends. It is bounded per partition and
//! per node; a follower that is further behind is served from the log.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    base::Offset,
    log::StampedHeader,
    protocol::batch::{HEADER_BYTES, Header},
};

/// What the tail of one partition may hold.
const PARTITION_MAX_BYTES: usize = 4 << 20;
/// What the tails of all partitions of a node may hold.
const NODE_MAX_BYTES: usize = 64 << 20;
/// Up to this size a batch is copied, so that it does not hold the buffer of its request.
const COPY_MAX_BYTES: usize = 4 << 10;
/// Beyond that, it is copied where it is less than this part of its request.
const COPY_MAX_PART: usize = 16;

/// What the tails of a node hold together.
#[derive(Debug, Clone, Default)]
pub(super) struct TailMemory(Arc<AtomicUsize>);

#[derive(Debug)]
struct Kept {
    base: Offset,
    end: Offset,
    header: Bytes,
    body: Bytes,
}

impl Kept {
    fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    batches: VecDeque<Kept>,
    bytes: usize,
    memory: TailMemory,
}

impl Tail {
    pub(super) const fn new(memory: TailMemory) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, memory }
    }

    /// Takes batches that were appended, with their headers as the log has them. They came in a
    /// request of `request_bytes`.
    pub(super) fn push(
        &mut self,
        headers: &[StampedHeader],
        batches: &[Bytes],
        request_bytes: usize,
    ) {
        let fixed = Bytes::from(headers.concat());
        for (at, (header, batch)) in headers.iter().zip(batches).enumerate() {
            let Ok(parsed) = Header::parse(header) else { return self.clear() };
            let body = batch.slice(HEADER_BYTES..);
            let is_small =
                body.len() <= COPY_MAX_BYTES || body.len() * COPY_MAX_PART < request_bytes;
            let body = if is_small { Bytes::copy_from_slice(&body) } else { body };
            let header = fixed.slice(at * HEADER_BYTES..(at + 1) * HEADER_BYTES);
            let (base, end) = (parsed.base_offset, parsed.next_offset());
            let kept = Kept { base, end, header, body };
            self.add(kept.size_bytes());
            self.batches.push_back(kept);
        }
        while self.bytes > PARTITION_MAX_BYTES
            || self.bytes > 0 && self.memory.0.load(Ordering::Relaxed) > NODE_MAX_BYTES
        {
            self.drop_first();
        }
    }

    /// Batches from `from` on in parts, at most `max_bytes` or one, and where they end; none where
    /// the tail does not begin so early.
    pub(super) fn read(&self, from: Offset, max_bytes: usize) -> Option<(Vec<Bytes>, Offset)> {
        let at = self.batches.partition_point(|kept| kept.base < from);
        let (mut parts, mut end, mut bytes) = (Vec::new(), from, 0);
        for kept in self.batches.range(at..) {
            if bytes > 0 && bytes + kept.size_bytes() > max_bytes {
                break;
            }
            // The first must continue what the follower holds.
            if bytes == 0 && kept.base != from {
                return None;
            }
            bytes += kept.size_bytes();
            end = kept.end;
            parts.extend([kept.header.clone(), kept.body.clone()]);
        }
        (bytes > 0).then_some((parts, end))
    }

    /// Lets go of what nobody misses any more.
    pub(super) fn release(&mut self, below: Offset) {
        while self.batches.front().is_some_and(|kept| kept.end <= below) {
            self.drop_first();
        }
    }

    pub(super) fn clear(&mut self) {
        while !self.batches.is_empty() {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(kept) = self.batches.pop_front() {
            self.bytes -= kept.size_bytes();
            self.memory.0.fetch_sub(kept.size_bytes(), Ordering::Relaxed);
        }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.memory.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::LeaderEpoch,
        protocol::batch::{BatchBuilder, BatchOptions, NewRecord},
    };

    fn batch(base: i64, value: &[u8]) -> (StampedHeader, Bytes) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(&NewRecord { value: Some(value), ..NewRecord::default() });
        let bytes = builder.build().unwrap().bytes().clone();
        let mut header = Header::parse(&bytes).unwrap();
        let mut fixed = *bytes.first_chunk().unwrap();
        let body_bytes = bytes.len() - HEADER_BYTES;
        header.stamp(&mut fixed, body_bytes, Offset(base), LeaderEpoch(3), None);
        (fixed, bytes)
    }

    fn push(tail: &mut Tail, base: i64, value: &[u8]) -> usize {
        let (header, bytes) = batch(base, value);
        tail.push(&[header], std::slice::from_ref(&bytes), bytes.len());
        bytes.len()
    }

    #[test]
    fn a_small_part_of_a_large_request_does_not_hold_all_of_it() {
        let (header, bytes) = batch(0, &[0; 2 * COPY_MAX_BYTES]);
        let mut tail = Tail::new(TailMemory::default());
        let mut push = |request_bytes| {
            tail.push(&[header], std::slice::from_ref(&bytes), request_bytes);
            let (kept, came) = (&tail.batches.back().unwrap().body, &bytes[HEADER_BYTES..]);
            assert_eq!(kept, came);
            kept.as_ptr() == came.as_ptr()
        };
        assert!(push(2 * bytes.len()));
        assert!(!push(2 * COPY_MAX_PART * bytes.len()));
    }

    #[test]
    fn reads_go_on_where_the_last_one_ended() {
        let mut tail = Tail::new(TailMemory::default());
        let size = push(&mut tail, 5, b"a");
        push(&mut tail, 6, b"b");
        push(&mut tail, 7, b"c");
        let (parts, end) = tail.read(Offset(5), 2 * size).unwrap();
        assert_eq!((parts.len(), end), (4, Offset(7)));
        let first = Header::parse(&parts[0]).unwrap();
        assert_eq!((first.base_offset, first.leader_epoch), (Offset(5), LeaderEpoch(3)));
        // One batch at least, whatever there is room for.
        assert_eq!(tail.read(Offset(7), 1).unwrap().1, Offset(8));
        assert!(tail.read(Offset(8), 100).is_none(), "there is no more");
        assert!(tail.read(Offset(4), 100).is_none(), "that is before it");
        tail.release(Offset(6));
        assert!(tail.read(Offset(5), 100).is_none());
        assert_eq!(tail.read(Offset(6), 100).unwrap().1, Offset(7));
    }

    #[test]
    fn a_partition_and_a_node_hold_no_more_than_their_bounds() {
        let memory = TailMemory::default();
        let large = vec![0; 1 << 20];
        let mut tails: Vec<_> = (0..20).map(|_| Tail::new(memory.clone())).collect();
        for base in 0..6 {
            for tail in &mut tails {
                push(tail, base, &large);
            }
        }
        assert!(memory.0.load(Ordering::Relaxed) <= NODE_MAX_BYTES);
        for tail in &tails {
            assert!(tail.bytes <= PARTITION_MAX_BYTES);
        }
        // What is held ends where the log ends.
        let held = tails.iter().filter(|tail| tail.read(Offset(5), 1).is_some()).count();
        assert!(held > 10);
        drop(tails);
        assert_eq!(memory.0.load(Ordering::Relaxed), 0);
    }
}
