//! How many bytes of the log lie from where on, so that compaction can bound them.
//!
//! Keeps a mark every [`MARK_BYTES`], not the size of every entry: what it says is larger than what
//! is so by less than that.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

const MARK_BYTES: u64 = 256 << 10;

/// The sizes of the log's parts, from behind the truncation point on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSizes {
    /// (index, position): where the entry of that index begins, ascending in both.
    marks: VecDeque<(u64, u64)>,
    /// The position behind the last entry.
    end: u64,
}

impl LogSizes {
    /// Takes the next entry.
    pub(super) fn push(&mut self, entry: &Entry) {
        if self.marks.back().is_none_or(|(_, position)| self.end - position >= MARK_BYTES) {
            self.marks.push_back((entry.index, self.end));
        }
        self.end += size_bytes(entry);
    }

    /// Takes back the last entry.
    pub(super) fn pop(&mut self, entry: &Entry) {
        self.marks.pop_back_if(|(index, _)| *index >= entry.index);
        self.end -= size_bytes(entry);
    }

    /// Forgets the entries up to `index`.
    pub(super) fn compact(&mut self, index: u64) {
        while self.marks.get(1).is_some_and(|(next, _)| *next <= index + 1) {
            self.marks.pop_front();
        }
    }

    /// What the log holds.
    pub(super) fn total_bytes(&self) -> u64 {
        self.marks.front().map_or(0, |(_, start)| self.end - start)
    }

    /// The first index from which on the log holds at most `max_bytes`, as far as a mark says so.
    pub(super) fn start_within(&self, max_bytes: u64) -> Option<u64> {
        let after = self.marks.partition_point(|(_, position)| self.end - position > max_bytes);
        self.marks.get(after).or(self.marks.back()).map(|(index, _)| *index)
    }
}

/// What an entry weighs in the bounds of the log, its tail and messages.
pub(super) fn size_bytes(entry: &Entry) -> u64 {
    // The constant stands for index, term and framing.
    (entry.data.len() + entry.context.len() + 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Entry {
        Entry { index, data: vec![0; (100 << 10) - 32].into(), ..Entry::default() }
    }

    #[test]
    fn it_says_from_where_on_there_are_so_many_bytes() {
        let mut sizes = LogSizes::default();
        assert_eq!((sizes.total_bytes(), sizes.start_within(0)), (0, None));
        (5..105).for_each(|index| sizes.push(&entry(index)));
        assert_eq!(sizes.total_bytes(), 100 * (100 << 10));
        // Marks are three entries apart.
        let start = sizes.start_within(2 << 20).unwrap();
        assert!((85..88).contains(&start), "{start}");
        assert_eq!(sizes.start_within(u64::MAX), Some(5));

        sizes.compact(start - 1);
        let kept = (105 - start) * (100 << 10);
        assert_eq!(sizes.total_bytes(), kept);
        // An end that is overwritten counts once.
        (95..105).rev().for_each(|index| sizes.pop(&entry(index)));
        (95..105).for_each(|index| sizes.push(&entry(index)));
        assert_eq!(sizes.total_bytes(), kept);
        sizes.compact(104);
        assert!(sizes.total_bytes() < 2 * MARK_BYTES, "{}", sizes.total_bytes());
    }
}
