//! Requests that were decided, with their answers, so that one that is sent again after a change of
//! the controller is answered and not decided anew.
//!
//! Bounded by [`REQUESTS_MAX`] and [`ANSWERS_MAX_BYTES`]; the oldest are forgotten first. A request
//! is remembered for far longer than any client repeats it: it would take as many other changes.

use std::sync::Arc;

use imbl::OrdMap;

use crate::metadata::records::RequestRecord;

/// The most requests that are remembered.
pub(super) const REQUESTS_MAX: usize = 4096;
/// The most that their answers take together.
pub(super) const ANSWERS_MAX_BYTES: usize = 8 << 20;
/// The longest answer that is remembered; of a longer one only that there was one.
pub const ANSWER_MAX_BYTES: usize = 256 << 10;

/// Names a request, so that it is decided once however often it is asked. Made by the node that
/// took the request from its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub uuid::Uuid);

/// What is known of a request that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedRequest {
    /// Its name.
    pub id: RequestId,
    /// The answer, in the encoding of who decided it. `None` where the change was not made whole,
    /// or the answer was too long to be remembered.
    pub answer: Option<Arc<[u8]>>,
}

impl DecidedRequest {
    fn answer_bytes(&self) -> usize {
        self.answer.as_ref().map_or(0, |answer| answer.len())
    }

    pub(super) fn from_record(record: &RequestRecord) -> Self {
        Self { id: RequestId(record.id.into()), answer: record.answer.as_deref().map(Arc::from) }
    }

    pub(super) fn to_record(&self) -> RequestRecord {
        RequestRecord {
            id: self.id.0.into(),
            answer: self.answer.as_ref().map(|answer| answer.to_vec()),
        }
    }
}

/// The requests that are remembered, in the order in which they were decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Requests {
    by_number: OrdMap<u64, DecidedRequest>,
    /// Derived.
    numbers: OrdMap<RequestId, u64>,
    /// Derived.
    answers_bytes: usize,
}

impl Requests {
    pub(super) fn find(&self, id: RequestId) -> Option<&DecidedRequest> {
        self.by_number.get(self.numbers.get(&id)?)
    }

    pub(super) fn numbered(&self, number: u64) -> Option<&DecidedRequest> {
        self.by_number.get(&number)
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.by_number.keys().copied()
    }

    /// Takes in what a record says, and tells `changed` the numbers that came and went.
    pub(super) fn decided(&mut self, record: &RequestRecord, mut changed: impl FnMut(u64)) {
        let request = DecidedRequest::from_record(record);
        let number = self.by_number.get_max().map_or(0, |(number, _)| number + 1);
        if let Some(earlier) = self.numbers.get(&request.id).copied() {
            self.forget(earlier);
            changed(earlier);
        }
        self.put(number, request);
        changed(number);
        while self.by_number.len() > REQUESTS_MAX || self.answers_bytes > ANSWERS_MAX_BYTES {
            let Some(oldest) = self.by_number.get_min().map(|(number, _)| *number) else { break };
            self.forget(oldest);
            changed(oldest);
        }
    }

    pub(super) fn put(&mut self, number: u64, request: DecidedRequest) {
        self.answers_bytes += request.answer_bytes();
        self.numbers.insert(request.id, number);
        self.by_number.insert(number, request);
    }

    fn forget(&mut self, number: u64) {
        if let Some(request) = self.by_number.remove(&number) {
            self.answers_bytes -= request.answer_bytes();
            self.numbers.remove(&request.id);
        }
    }

    /// Whether the bounds hold and what is derived is right.
    pub(super) fn is_consistent(&self) -> bool {
        let bytes: usize = self.by_number.values().map(DecidedRequest::answer_bytes).sum();
        self.by_number.len() <= REQUESTS_MAX
            && bytes <= ANSWERS_MAX_BYTES
            && bytes == self.answers_bytes
            && self.numbers.len() == self.by_number.len()
            && self.by_number.iter().all(|(n, r)| self.numbers.get(&r.id) == Some(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Batch, MetadataDelta, MetadataImage, Record};

    fn record(id: u128, answer_bytes: usize) -> Record {
        RequestRecord {
            id: uuid::Uuid::from_u128(id).into(),
            answer: Some(vec![id as u8; answer_bytes]),
        }
        .into()
    }

    fn id(id: u128) -> RequestId {
        RequestId(uuid::Uuid::from_u128(id))
    }

    #[test]
    fn the_oldest_requests_are_forgotten_and_the_store_follows() {
        let mut image = MetadataImage::default();
        let mut store = std::collections::BTreeMap::new();
        let all = REQUESTS_MAX as u128 + 100;
        let mut pending: Option<MetadataDelta> = None;
        for n in 0..all {
            let (next, delta) =
                image.apply(n as u64 + 1, &Batch::new(vec![record(n, (n % 7) as usize)]));
            image = next;
            // Stored several at a time, as the quorum does.
            let delta = match pending.take() {
                Some(earlier) => earlier.then(delta),
                None => delta,
            };
            if n % 3 != 0 && n + 1 != all {
                pending = Some(delta);
                continue;
            }
            for (key, value) in delta.writes() {
                match value {
                    Some(value) => drop(store.insert(key, value)),
                    None => drop(store.remove(&key)),
                }
            }
        }
        image.check().unwrap();
        assert!(image.decided_request(id(99)).is_none());
        assert_eq!(image.decided_request(id(100)).unwrap().answer.as_deref(), Some(&[100; 2][..]));
        assert_eq!(MetadataImage::load(&store).unwrap(), image);
        let whole = image.writes().map(|(key, value)| (key, value.unwrap()));
        assert_eq!(MetadataImage::load(whole).unwrap(), image);
    }

    #[test]
    fn answers_are_bounded_by_their_size() {
        let mut image = MetadataImage::default();
        for n in 1..=40 {
            image = image.apply(n, &Batch::new(vec![record(n.into(), ANSWER_MAX_BYTES)])).0;
            image.check().unwrap();
        }
        assert!(image.decided_request(id(8)).is_none() && image.decided_request(id(9)).is_some());
    }

    #[test]
    fn a_request_whose_answer_comes_later_is_remembered_once() {
        let begun = RequestRecord { id: uuid::Uuid::from_u128(1).into(), answer: None };
        let image = MetadataImage::default();
        let image = image.apply(1, &Batch::new(vec![begun.into()])).0;
        assert_eq!(image.decided_request(id(1)).unwrap().answer, None);
        let image = image.apply(2, &Batch::new(vec![record(1, 3)])).0;
        image.check().unwrap();
        assert_eq!(image.decided_request(id(1)).unwrap().answer.as_deref(), Some(&[1; 3][..]));
    }
}
