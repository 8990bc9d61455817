//! The quorum of one, with its tasks, over both stores.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use super::*;
use crate::{
    base::{DirectoryId, NodeId},
    quorum::{
        handle::{ProposeError, ReadError, Speculation, Subscription, Update},
        machine::ImageWrite,
        store::{MemStore, RocksStore},
    },
};

/// A payload is one key, its value is the index of the entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Keys(imbl::OrdMap<Bytes, u64>);

impl Keys {
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.0.contains_key(key)
    }
}

impl Machine for Keys {
    type Delta = Bytes;

    fn empty() -> Self {
        Self::default()
    }

    fn load(_: u64, pairs: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<Self, ApplyError> {
        let value = |v: Bytes| u64::from_be_bytes(v[..].try_into().unwrap());
        Ok(Self(pairs.map(|(k, v)| (k, value(v))).collect()))
    }

    fn apply(&self, index: u64, payload: &[u8]) -> Result<(Self, Bytes), ApplyError> {
        let key = Bytes::copy_from_slice(payload);
        if payload == b"poison" {
            return Err(ApplyError { index, source: "poison".into() });
        }
        Ok((Self(self.0.update(key.clone(), index)), key))
    }

    fn writes(&self, delta: &Bytes) -> Vec<ImageWrite> {
        let value = self.0[delta].to_be_bytes();
        vec![(delta.clone(), Some(Bytes::copy_from_slice(&value)))]
    }
}

pub(super) fn member(node: u32) -> Member {
    Member { node_id: NodeId(node), directory_id: DirectoryId(Uuid::from_u128(node.into())) }
}

pub(super) fn cluster() -> ClusterId {
    ClusterId(Uuid::from_u128(42))
}

struct Failures(Arc<Mutex<Vec<Fatal>>>);

fn environment(store: Arc<dyn Store>) -> (Environment, Failures) {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&failures);
    let fatal: FatalHook = Arc::new(move |fatal| seen.lock().push(fatal));
    let blocking = Blocking::threads("quorum-test", 2, 16).unwrap();
    (Environment { store, blocking, peers: Arc::new(NoPeers), fatal }, Failures(failures))
}

async fn start(store: Arc<dyn Store>) -> Quorum<Keys> {
    let bootstrap = Some(Bootstrap::single(member(1), cluster()).into());
    let config = QuorumConfig::new(member(1), 7);
    Quorum::start(config, bootstrap, environment(store).0).await.unwrap()
}

fn disk(path: &Path) -> Arc<dyn Store> {
    Arc::new(RocksStore::open(path).unwrap())
}

async fn next(updates: &mut Subscription<Keys>) -> (u64, bool, Arc<Keys>) {
    match updates.next().await.unwrap() {
        Update::Image { index, image } => (index, true, image),
        Update::Delta { index, image, .. } => (index, false, image),
    }
}

#[tokio::test]
async fn a_sole_voter_leads_at_once_and_keeps_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let quorum = start(disk(directory.path())).await;
    let handle = quorum.handle();
    let index = handle.propose(b"a".to_vec(), None).await.unwrap();
    assert_eq!(handle.image().0[&b"a"[..]], index);
    assert_eq!(handle.read_index().await.unwrap(), index);
    let status = handle.status();
    assert!(status.is_leader());
    assert_eq!(status.leader(), Some(member(1)));
    assert_eq!(status.identity.cluster_id, cluster());
    quorum.stop().await.unwrap();
    drop(handle);

    let quorum = start(disk(directory.path())).await;
    assert_eq!(quorum.handle().image().0[&b"a"[..]], index);
    let later = quorum.handle().propose(b"b".to_vec(), None).await.unwrap();
    assert!(later > index);
    assert!(quorum.handle().status().raft.term > status.raft.term);
}

#[tokio::test]
async fn reads_beyond_what_the_loop_takes_wait_for_their_turn() {
    let quorum = start(Arc::new(MemStore::new())).await;
    let handle = quorum.handle();
    let index = handle.propose(b"a".to_vec(), None).await.unwrap();
    let reads = futures::future::join_all((0..2 * READS_MAX).map(|_| handle.read_index())).await;
    assert!(reads.iter().all(|read| *read == Ok(index)));
    quorum.stop().await.unwrap();
    assert_eq!(handle.read_index().await, Err(ReadError::Stopped));
}

#[tokio::test]
async fn a_subscriber_sees_every_change_once_and_a_slow_one_the_image() {
    let quorum = start(Arc::new(MemStore::new())).await;
    let handle = quorum.handle();
    handle.propose(b"a".to_vec(), None).await.unwrap();
    let mut updates = handle.subscribe();
    let (first, is_image, image) = next(&mut updates).await;
    assert!(is_image && image.0.contains_key(&b"a"[..]));
    let index = handle.propose(b"b".to_vec(), None).await.unwrap();
    let (second, is_image, image) = next(&mut updates).await;
    assert!(!is_image && second > first && second == index && image.0.len() == 2);

    for n in 0..2 * UPDATES_MAX {
        handle.propose(n.to_string().into_bytes(), None).await.unwrap();
    }
    let (last, is_image, image) = next(&mut updates).await;
    assert!(is_image && image.0.len() == 2 * UPDATES_MAX + 2);
    assert_eq!(last, handle.applied_index());
}

#[tokio::test]
async fn the_store_of_another_node_or_cluster_is_refused() {
    let store: Arc<dyn Store> = Arc::new(MemStore::new());
    let refused = |config: QuorumConfig, bootstrap| {
        let store = Arc::clone(&store);
        async move { Quorum::<Keys>::start(config, bootstrap, environment(store).0).await.unwrap_err() }
    };
    let config = QuorumConfig::new(member(1), 7);
    assert!(matches!(refused(config.clone(), None).await, StartError::NotBootstrapped));
    let of_others = Bootstrap::single(member(2), cluster());
    let error = refused(config.clone(), Some(of_others.into())).await;
    assert!(matches!(error, StartError::NotAVoter(_)));

    start(Arc::clone(&store)).await.stop().await.unwrap();
    let error = refused(QuorumConfig::new(member(2), 7), None).await;
    assert!(error.to_string().contains("belongs to node 1 "), "{error}");
    let other = QuorumConfig { cluster_id: Some(ClusterId(Uuid::from_u128(43))), ..config.clone() };
    assert!(matches!(refused(other, None).await, StartError::Foreign { .. }));
    let wiped = Member { directory_id: DirectoryId(Uuid::from_u128(99)), ..member(1) };
    let error = refused(QuorumConfig { member: wiped, ..config }, None).await;
    assert!(matches!(error, StartError::Foreign { .. }));
}

#[tokio::test]
async fn a_failed_sync_is_fatal_and_acknowledges_nothing() {
    let store = Arc::new(MemStore::new());
    let (environment, failures) = environment(Arc::clone(&store) as Arc<dyn Store>);
    let bootstrap = Some(Bootstrap::single(member(1), cluster()).into());
    let config = QuorumConfig::new(member(1), 7);
    let quorum = Quorum::<Keys>::start(config, bootstrap, environment).await.unwrap();
    let handle = quorum.handle();
    handle.propose(b"a".to_vec(), None).await.unwrap();
    store.fail_next_persist();
    let mut lost = Box::pin(handle.propose(b"b".to_vec(), None));
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut lost).await;
    assert!(waited.is_err(), "{waited:?}");
    assert!(matches!(failures.0.lock()[..], [Fatal::Store(StoreError::Injected)]));
    assert!(!handle.image().0.contains_key(&b"b"[..]));
}

#[tokio::test]
async fn an_entry_that_cannot_be_applied_is_fatal() {
    let (environment, failures) = environment(Arc::new(MemStore::new()));
    let bootstrap = Some(Bootstrap::single(member(1), cluster()).into());
    let config = QuorumConfig::new(member(1), 7);
    let quorum = Quorum::<Keys>::start(config, bootstrap, environment).await.unwrap();
    let result = quorum.handle().propose(b"poison".to_vec(), None).await;
    assert_eq!(result, Err(ProposeError::Stopped));
    assert!(matches!(failures.0.lock()[..], [Fatal::Apply(_)]));
}

#[tokio::test]
async fn what_builds_on_a_refused_change_is_refused() {
    let quorum = start(Arc::new(MemStore::new())).await;
    let handle = quorum.handle();
    let index = handle.propose(b"a".to_vec(), None).await.unwrap();
    let term = handle.status().raft.term;
    let at = |number| Some(Speculation { term, number });
    let large = vec![0; 2 << 20];
    assert_eq!(handle.propose(large, at(1)).await, Err(ProposeError::TooLarge));
    assert_eq!(handle.propose(b"b".to_vec(), at(1)).await, Err(ProposeError::Superseded));
    assert_eq!(handle.propose(b"c".to_vec(), at(2)).await, Ok(index + 1));
    let earlier = Some(Speculation { term: term - 1, number: 9 });
    assert_eq!(handle.propose(b"d".to_vec(), earlier).await, Err(ProposeError::NotLeader));
}

/// 100,000 changes, then a restart: what it reads does not grow with the history.
#[tokio::test]
async fn a_restart_reads_the_image_and_not_the_history() {
    let directory = tempfile::tempdir().unwrap();
    let quorum = start(disk(directory.path())).await;
    let handle = quorum.handle();
    changes(&handle, 100_000).await;
    let status = handle.status();
    assert!(status.raft.last_index - status.log_start_index < 30_000, "{status:?}");
    quorum.stop().await.unwrap();
    drop(handle);

    let quorum = start(disk(directory.path())).await;
    let handle = quorum.handle();
    handle.propose(b"one more".to_vec(), None).await.unwrap();
    let replayed = handle.status().applied_entries;
    // The new leader's first entry, and the one more.
    assert!(replayed <= 2, "{replayed} entries replayed");
    assert_eq!(handle.image().0.len(), 1001);
}

#[tokio::test]
async fn a_log_of_large_entries_is_bounded_by_its_bytes_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let bootstrap = Some(Bootstrap::single(member(1), cluster()).into());
        let config = QuorumConfig { log_margin_bytes: 2 << 20, ..QuorumConfig::new(member(1), 7) };
        Quorum::<Keys>::start(config, bootstrap, environment(disk(directory.path())).0).await
    };
    for life in 0..2 {
        let quorum = start().await.unwrap();
        let handle = quorum.handle();
        for n in 0..30 {
            let key = format!("{n:02}{}", "x".repeat(100 << 10)).into_bytes();
            handle.propose(key, None).await.unwrap();
        }
        quorum.stop().await.unwrap();
        drop(handle);
        let loaded = RocksStore::open(directory.path()).unwrap().load().unwrap();
        let kept =
            loaded.tail.last().map_or(loaded.applied.index, |e| e.index) - loaded.truncated.0;
        // Of 100 KiB each, so 2 to 4 MiB.
        let is_bounded = if life == 0 { kept <= 31 } else { (20..=44).contains(&kept) };
        assert!(is_bounded && loaded.truncated.0 >= life * 20, "{kept}, {:?}", loaded.truncated);
    }
}

async fn changes(handle: &Handle<Keys>, count: usize) {
    let mut waiting = std::collections::VecDeque::new();
    for n in 0..count {
        let key = format!("key-{}", n % 1000).into_bytes();
        waiting.push_back(handle.start_propose(key, None).await.unwrap());
        if waiting.len() > 500 {
            waiting.pop_front().unwrap().await.unwrap().unwrap();
        }
    }
    for done in waiting {
        done.await.unwrap().unwrap();
    }
}

/// Run with `cargo test --release --lib restart_time -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measures the machine's time")]
async fn restart_time() {
    let directory = tempfile::tempdir().unwrap();
    let quorum = start(disk(directory.path())).await;
    let began = std::time::Instant::now();
    changes(&quorum.handle(), 100_000).await;
    println!("100,000 changes in {:?}", began.elapsed());
    quorum.stop().await.unwrap();
    let began = std::time::Instant::now();
    let quorum = start(disk(directory.path())).await;
    println!("image published after {:?}", began.elapsed());
    quorum.handle().propose(b"one more".to_vec(), None).await.unwrap();
    println!("first new change applied after {:?}", began.elapsed());
}

#[test]
fn bootstrap_of_one_names_the_node() {
    let bootstrap = Bootstrap::single(member(5), cluster());
    assert_eq!(bootstrap.voters, BTreeMap::from([(1, member(5))]));
}
