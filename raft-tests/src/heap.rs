//! Events to come, in the order of their time, and of their making where the time is the same.

use std::collections::BTreeMap;

/// What is still to happen in a simulation.
#[derive(Debug)]
pub(crate) struct Heap<E> {
    events: BTreeMap<(u64, u64), E>,
    made: u64,
    /// The number of the event that was taken last.
    taken: u64,
}

impl<E> Default for Heap<E> {
    fn default() -> Self {
        Self { events: BTreeMap::new(), made: 0, taken: 0 }
    }
}

impl<E> Heap<E> {
    pub(crate) fn push(&mut self, at_ms: u64, event: E) {
        self.made += 1;
        self.events.insert((at_ms, self.made), event);
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let ((at_ms, number), event) = self.events.pop_first()?;
        self.taken = number;
        Some((at_ms, event))
    }

    /// Puts off the event that was taken last. It does not fall behind one that was made later.
    pub(crate) fn put_off(&mut self, until_ms: u64, event: E) {
        self.events.insert((until_ms, self.taken), event);
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// How many there have been so far.
    pub(crate) const fn made(&self) -> u64 {
        self.made
    }
}
