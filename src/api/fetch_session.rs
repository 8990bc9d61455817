//! Incremental fetch sessions (KIP-227).
//!
//! A consumer that fetches the same partitions again and again names them once: the session
//! remembers them, later requests carry only what changed, and later responses only the partitions
//! with something new. This module owns the sessions of one node. It does no I/O and reads no
//! clock.
//!
//! Invariants:
//! - A session answers the epochs 1, 2, 3, … in this order and no other; a repeated or skipped
//!   epoch is refused, so that both sides always agree on the set of partitions.
//! - The cache never holds more sessions than it has slots.

use std::sync::Arc;

use indexmap::IndexMap;
use kafka_protocol::{
    ResponseError,
    messages::{FetchRequest, fetch_request::FetchPartition},
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::base::{HashMap, PartitionIndex, TopicId};

/// The epoch of a request that asks for a full fetch and a new session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request that asks for a full fetch without a session.
const FINAL_EPOCH: i32 = -1;

/// How a client names a topic: by id from Fetch v13 on, by name before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum TopicKey {
    Id(TopicId),
    Name(Arc<str>),
}

/// What a client last asked of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) fetch_offset: i64,
    pub(crate) current_leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) max_bytes: i32,
}

impl From<&FetchPartition> for Asked {
    fn from(partition: &FetchPartition) -> Self {
        Self {
            fetch_offset: partition.fetch_offset,
            current_leader_epoch: partition.current_leader_epoch,
            last_fetched_epoch: partition.last_fetched_epoch,
            max_bytes: partition.partition_max_bytes,
        }
    }
}

/// What decides whether a partition without records is still worth mentioning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) high_watermark: i64,
    pub(crate) log_start_offset: i64,
    pub(crate) last_stable_offset: i64,
    pub(crate) error_code: i16,
}

pub(crate) type PartitionKey = (TopicKey, PartitionIndex);

#[derive(Debug)]
struct Remembered {
    asked: Asked,
    reported: Option<Reported>,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    next_epoch: i32,
    created_ms: i64,
    used_ms: i64,
    /// In the order in which they are to be served: what was served last goes to the end.
    partitions: IndexMap<PartitionKey, Remembered, rustc_hash::FxBuildHasher>,
}

/// One request's view of its session, or of its absence.
#[derive(Debug)]
pub(crate) struct FetchContext {
    /// Zero where the response must not name a session.
    pub(crate) session_id: i32,
    /// Whether the response leaves out partitions without news.
    pub(crate) incremental: bool,
    /// What to fetch, in the order in which to serve it.
    pub(crate) partitions: Vec<(PartitionKey, Asked)>,
}

/// Limits of the cache, from `max.incremental.fetch.session.cache.slots` and
/// `min.incremental.fetch.session.eviction.ms`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) slots: usize,
    pub(crate) eviction_ms: i64,
}

/// All fetch sessions of a node.
#[derive(Debug)]
pub(crate) struct FetchSessions {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rng: SmallRng,
    sessions: HashMap<i32, Session>,
}

impl FetchSessions {
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        let inner = Inner { rng: SmallRng::seed_from_u64(seed), sessions: HashMap::default() };
        Self { limits, inner: Mutex::new(inner) }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.inner.lock().sessions.len()
    }

    /// Finds or makes the session that `request` belongs to, and brings it up to date.
    pub(crate) fn begin(
        &self,
        request: &FetchRequest,
        version: i16,
        now_ms: i64,
    ) -> Result<FetchContext, ResponseError> {
        let by_id = version >= 13;
        let mut inner = self.inner.lock();
        match request.session_epoch {
            INITIAL_EPOCH | FINAL_EPOCH => {
                inner.sessions.remove(&request.session_id);
                let partitions = requested(request, by_id);
                let session_id = if request.session_epoch == INITIAL_EPOCH && version >= 7 {
                    inner.create(self.limits, by_id, &partitions, now_ms).unwrap_or(0)
                } else {
                    0
                };
                let partitions = partitions.into_iter().collect();
                Ok(FetchContext { session_id, incremental: false, partitions })
            }
            epoch => inner.resume(request, epoch, by_id, now_ms),
        }
    }

    /// Tells which of the served partitions belong into an incremental response, and remembers what
    /// was said. `had_records` are moved to the end, so that every partition gets its turn.
    pub(crate) fn finish(
        &self,
        context: &FetchContext,
        served: &[(PartitionKey, Reported, bool)],
    ) -> Vec<bool> {
        if context.session_id == 0 {
            return vec![true; served.len()];
        }
        let mut inner = self.inner.lock();
        let Some(session) = inner.sessions.get_mut(&context.session_id) else {
            return vec![true; served.len()];
        };
        let mut mention = Vec::with_capacity(served.len());
        for (key, reported, had_records) in served {
            let Some(index) = session.partitions.get_index_of(key) else {
                mention.push(true);
                continue;
            };
            let remembered = &mut session.partitions[index];
            let news = *had_records
                || reported.error_code != 0
                || remembered.reported.as_ref() != Some(reported);
            // An error is said again until it is gone.
            remembered.reported = (reported.error_code == 0).then_some(*reported);
            mention.push(!context.incremental || news);
            if *had_records {
                let last = session.partitions.len() - 1;
                session.partitions.move_index(index, last);
            }
        }
        mention
    }
}

impl Inner {
    fn create(
        &mut self,
        limits: Limits,
        by_id: bool,
        partitions: &IndexMap<PartitionKey, Asked, rustc_hash::FxBuildHasher>,
        now_ms: i64,
    ) -> Option<i32> {
        if partitions.is_empty() || !self.make_room(limits, partitions.len(), now_ms) {
            return None;
        }
        let session_id = loop {
            let id = self.rng.random_range(1..=i32::MAX);
            if !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let partitions = partitions
            .iter()
            .map(|(key, asked)| (key.clone(), Remembered { asked: asked.clone(), reported: None }))
            .collect();
        let session =
            Session { by_id, next_epoch: 1, created_ms: now_ms, used_ms: now_ms, partitions };
        self.sessions.insert(session_id, session);
        Some(session_id)
    }

    /// Evicts a stale session, or else a smaller one that has had its time.
    fn make_room(&mut self, limits: Limits, size: usize, now_ms: i64) -> bool {
        if self.sessions.len() < limits.slots {
            return true;
        }
        let oldest = |session: &Session| session.used_ms;
        let victim = self
            .sessions
            .iter()
            .filter(|(_, s)| {
                let stale = now_ms - s.used_ms > limits.eviction_ms;
                let had_its_time = now_ms - s.created_ms > limits.eviction_ms;
                stale || (had_its_time && s.partitions.len() < size)
            })
            .min_by_key(|(id, session)| (oldest(session), **id))
            .map(|(id, _)| *id);
        victim.is_some_and(|id| self.sessions.remove(&id).is_some())
    }

    fn resume(
        &mut self,
        request: &FetchRequest,
        epoch: i32,
        by_id: bool,
        now_ms: i64,
    ) -> Result<FetchContext, ResponseError> {
        let session = self
            .sessions
            .get_mut(&request.session_id)
            .ok_or(ResponseError::FetchSessionIdNotFound)?;
        if session.next_epoch != epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        session.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.used_ms = now_ms;
        for (key, asked) in requested(request, by_id) {
            session
                .partitions
                .entry(key)
                .and_modify(|remembered| remembered.asked = asked.clone())
                .or_insert(Remembered { asked, reported: None });
        }
        for topic in &request.forgotten_topics_data {
            let topic_key = topic_key(by_id, topic.topic_id, &topic.topic);
            for partition in &topic.partitions {
                let key = (topic_key.clone(), PartitionIndex(*partition));
                session.partitions.shift_remove(&key);
            }
        }
        let partitions =
            session.partitions.iter().map(|(key, r)| (key.clone(), r.asked.clone())).collect();
        let session_id = request.session_id;
        if session.partitions.is_empty() {
            // Kafka ends a session that fetches nothing any more; the client starts a new one.
            self.sessions.remove(&session_id);
            return Ok(FetchContext { session_id: 0, incremental: true, partitions });
        }
        Ok(FetchContext { session_id, incremental: true, partitions })
    }
}

fn topic_key(by_id: bool, id: uuid::Uuid, name: &str) -> TopicKey {
    if by_id { TopicKey::Id(TopicId(id)) } else { TopicKey::Name(name.into()) }
}

fn requested(
    request: &FetchRequest,
    by_id: bool,
) -> IndexMap<PartitionKey, Asked, rustc_hash::FxBuildHasher> {
    let mut partitions = IndexMap::default();
    for topic in &request.topics {
        let topic_key = topic_key(by_id, topic.topic_id, &topic.topic);
        for partition in &topic.partitions {
            let key = (topic_key.clone(), PartitionIndex(partition.partition));
            partitions.insert(key, Asked::from(partition));
        }
    }
    partitions
}

#[cfg(test)]
mod tests {
    use kafka_protocol::{
        messages::fetch_request::{FetchTopic, ForgottenTopic},
        protocol::StrBytes,
    };

    use super::*;

    const LIMITS: Limits = Limits { slots: 2, eviction_ms: 1_000 };

    fn request(session_id: i32, epoch: i32, partitions: &[i32]) -> FetchRequest {
        let partitions = partitions
            .iter()
            .map(|p| FetchPartition::default().with_partition(*p).with_fetch_offset(7))
            .collect::<Vec<_>>();
        let name = StrBytes::from_static_str("topic").into();
        let topic = FetchTopic::default().with_topic(name).with_partitions(partitions);
        FetchRequest::default()
            .with_session_id(session_id)
            .with_session_epoch(epoch)
            .with_topics(vec![topic])
    }

    fn reported(high_watermark: i64) -> Reported {
        Reported {
            high_watermark,
            log_start_offset: 0,
            last_stable_offset: high_watermark,
            error_code: 0,
        }
    }

    fn numbers(context: &FetchContext) -> Vec<i32> {
        context.partitions.iter().map(|((_, partition), _)| partition.0).collect()
    }

    #[test]
    fn a_session_remembers_its_partitions_and_takes_changes() {
        let sessions = FetchSessions::new(LIMITS, 1);
        let first = sessions.begin(&request(0, 0, &[0, 1]), 12, 0).unwrap();
        assert!(!first.incremental);
        let id = first.session_id;
        assert_ne!(id, 0);

        let mut next = request(id, 1, &[2]);
        let forgotten = ForgottenTopic::default()
            .with_topic(StrBytes::from_static_str("topic").into())
            .with_partitions(vec![0]);
        next.forgotten_topics_data = vec![forgotten];
        let second = sessions.begin(&next, 12, 0).unwrap();
        assert!(second.incremental);
        assert_eq!(numbers(&second), [1, 2]);
    }

    #[test]
    fn epochs_are_answered_once_and_in_order() {
        let sessions = FetchSessions::new(LIMITS, 1);
        let id = sessions.begin(&request(0, 0, &[0]), 12, 0).unwrap().session_id;
        let again = |epoch| sessions.begin(&request(id, epoch, &[]), 12, 0).map(|c| c.session_id);
        assert_eq!(again(2), Err(ResponseError::InvalidFetchSessionEpoch));
        assert_eq!(again(1), Ok(id));
        assert_eq!(again(1), Err(ResponseError::InvalidFetchSessionEpoch));
        assert_eq!(again(2), Ok(id));
        let unknown = sessions.begin(&request(id ^ 1, 3, &[]), 12, 0).map(|c| c.session_id);
        assert_eq!(unknown, Err(ResponseError::FetchSessionIdNotFound));
        let other_keys = sessions.begin(&request(id, 3, &[]), 13, 0).map(|c| c.session_id);
        assert_eq!(other_keys, Err(ResponseError::FetchSessionTopicIdError));
    }

    #[test]
    fn partitions_without_news_are_left_out_and_served_ones_go_last() {
        let sessions = FetchSessions::new(LIMITS, 1);
        let context = sessions.begin(&request(0, 0, &[0, 1, 2]), 12, 0).unwrap();
        let served = |context: &FetchContext, with_records: i32, high_watermark| {
            let served = context
                .partitions
                .iter()
                .map(|(key, _)| (key.clone(), reported(high_watermark), key.1.0 == with_records))
                .collect::<Vec<_>>();
            sessions.finish(context, &served)
        };
        assert_eq!(served(&context, 0, 5), [true, true, true]);
        let context = sessions.begin(&request(context.session_id, 1, &[]), 12, 0).unwrap();
        assert_eq!(numbers(&context), [1, 2, 0]);
        assert_eq!(served(&context, 2, 5), [false, true, false]);
        let context = sessions.begin(&request(context.session_id, 2, &[]), 12, 0).unwrap();
        assert_eq!(numbers(&context), [1, 0, 2]);
        assert_eq!(served(&context, -1, 6), [true, true, true]);
    }

    #[test]
    fn a_full_cache_evicts_only_what_is_stale_or_smaller_and_old() {
        let sessions = FetchSessions::new(LIMITS, 1);
        let open = |partitions: &[i32], now_ms| {
            sessions.begin(&request(0, 0, partitions), 12, now_ms).unwrap().session_id
        };
        let (first, second) = (open(&[0], 0), open(&[0, 1], 500));
        assert_eq!(open(&[0, 1, 2], 900), 0, "no room yet");
        assert_ne!(open(&[0], 1_001), 0, "the first one is stale");
        assert_eq!(sessions.len(), LIMITS.slots);
        let resume = |id| sessions.begin(&request(id, 1, &[]), 12, 1_001).is_ok();
        assert!(!resume(first) && resume(second));
    }

    #[test]
    fn a_final_epoch_closes_the_session() {
        let sessions = FetchSessions::new(LIMITS, 1);
        let id = sessions.begin(&request(0, 0, &[0]), 12, 0).unwrap().session_id;
        let last = sessions.begin(&request(id, -1, &[0]), 12, 0).unwrap();
        assert_eq!((last.session_id, last.incremental, sessions.len()), (0, false, 0));
    }
}
