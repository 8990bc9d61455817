//! Several drivers in one process, over links in memory and in paused time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::{
    tests::{Keys, cluster, member},
    *,
};
use crate::quorum::{
    core::Change,
    handle::{MembersError, ProposeError},
    raftpb::{Entry, Message, MessageType},
    recovery,
    store::{MemStore, recorded::RecordedStore},
};

#[derive(Default)]
struct Wires {
    handles: BTreeMap<u64, Handle<Keys>>,
    cuts: BTreeSet<(u64, u64)>,
    /// Chunks after which a transfer of a snapshot breaks, once.
    break_after: Option<usize>,
    chunks: usize,
}

#[derive(Clone, Default)]
struct Net(Arc<Mutex<Wires>>);

struct Link {
    own: u64,
    net: Net,
}

impl Net {
    fn reach(&self, from: u64, to: u64) -> Option<Handle<Keys>> {
        let wires = self.0.lock();
        wires.handles.get(&to).filter(|_| !wires.cuts.contains(&(from, to))).cloned()
    }

    fn isolate(&self, peer: u64) {
        let mut wires = self.0.lock();
        let others: Vec<u64> = wires.handles.keys().copied().filter(|id| *id != peer).collect();
        for other in others {
            wires.cuts.extend([(peer, other), (other, peer)]);
        }
    }

    fn breaks(&self) -> bool {
        let mut wires = self.0.lock();
        let now = wires.break_after == Some(wires.chunks);
        if now {
            wires.break_after = None;
        }
        now
    }

    /// Whether the transfer of the snapshot broke, and how many chunks there were.
    fn transfer(&self) -> (bool, usize) {
        let wires = self.0.lock();
        (wires.break_after.is_none(), wires.chunks)
    }

    async fn carry(self, own: u64, source: SnapshotSource) -> Result<(), SnapshotError> {
        loop {
            sleep(Duration::from_millis(2)).await;
            let Some(handle) = self.reach(own, source.to()) else { return Ok(()) };
            let mut sink = handle.receive_snapshot(source.header().clone()).await?;
            let mut position = sink.position().clone();
            while !self.breaks() {
                let Some((chunk, _)) = source.chunk(&position).await? else {
                    sink.finish().await?;
                    source.arrived();
                    return Ok(());
                };
                assert!(chunk.len() < 2 * snapshot::CHUNK_BYTES, "{}", chunk.len());
                self.0.lock().chunks += 1;
                sleep(Duration::from_millis(2)).await;
                position = sink.put(chunk).await?.clone();
            }
        }
    }
}

impl Peers for Link {
    fn send(&self, messages: Vec<Message>) {
        let (own, net) = (self.own, self.net.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(2)).await;
            for message in messages {
                if let Some(handle) = net.reach(own, message.to) {
                    handle.step(message);
                }
            }
        });
    }

    fn send_snapshot(&self, snapshot: SnapshotSource) {
        tokio::spawn(self.net.clone().carry(self.own, snapshot));
    }
}

async fn start(net: &Net, peer: u64, origin: Origin) -> Quorum<Keys> {
    start_on(Arc::new(MemStore::new()), net, peer, origin).await
}

async fn start_on(store: Arc<dyn Store>, net: &Net, peer: u64, origin: Origin) -> Quorum<Keys> {
    let fatal: FatalHook = Arc::new(|fatal| panic!("{fatal}"));
    let environment = Environment {
        store,
        blocking: Blocking::simulated(peer, Duration::from_millis(3)),
        peers: Arc::new(Link { own: peer, net: net.clone() }),
        fatal,
    };
    let config =
        QuorumConfig { log_margin_entries: 8, ..QuorumConfig::new(member(peer as u32), peer) };
    let quorum = Quorum::start(config, Some(origin), environment).await.unwrap();
    net.0.lock().handles.insert(peer, quorum.handle());
    quorum
}

async fn voters(net: &Net, count: u64) -> BTreeMap<u64, Quorum<Keys>> {
    let voters: BTreeMap<u64, Member> = (1..=count).map(|id| (id, member(id as u32))).collect();
    let mut all = BTreeMap::new();
    for peer in 1..=count {
        let bootstrap = Bootstrap { cluster_id: cluster(), voters: voters.clone() };
        all.insert(peer, start(net, peer, bootstrap.into()).await);
    }
    all
}

/// Who leads among `peers`, once one does.
async fn leader(net: &Net, peers: &[u64]) -> (u64, Handle<Keys>) {
    let find = async {
        loop {
            let handles = net.0.lock().handles.clone();
            let mut candidates = handles.into_iter().filter(|(id, _)| peers.contains(id));
            if let Some(found) = candidates.find(|(_, handle)| handle.status().is_leader()) {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), find).await.expect("somebody leads")
}

fn others(of: u64) -> Vec<u64> {
    (1..=3).filter(|id| *id != of).collect()
}

async fn applied(handle: &Handle<Keys>, index: u64) {
    timeout(Duration::from_secs(10), handle.wait_applied(index)).await.expect("it catches up");
}

#[tokio::test(start_paused = true)]
async fn what_one_voter_acknowledges_all_have() {
    let net = Net::default();
    let all = voters(&net, 3).await;
    let (_, leader) = leader(&net, &[1, 2, 3]).await;
    let proposals = (0..300).map(|n| leader.propose(format!("key-{n}").into_bytes(), None));
    let indices = futures::future::join_all(proposals).await;
    let last = indices.into_iter().map(Result::unwrap).max().unwrap();
    for quorum in all.values() {
        applied(&quorum.handle(), last).await;
        assert_eq!(quorum.handle().image(), leader.image());
        assert!(quorum.handle().read_index().await.unwrap() >= last);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over() {
    let net = Net::default();
    let mut all = voters(&net, 3).await;
    let (first, handle) = leader(&net, &[1, 2, 3]).await;
    let index = handle.propose(b"a".to_vec(), None).await.unwrap();
    let began = tokio::time::Instant::now();
    all.remove(&first).unwrap().stop().await.unwrap();
    let (_, next) = leader(&net, &others(first)).await;
    // An election would only begin when the least timeout is over.
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
    assert!(next.propose(b"b".to_vec(), None).await.unwrap() > index);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_acknowledges_and_reads_nothing() {
    let net = Net::default();
    let _all = voters(&net, 3).await;
    let (first, deposed) = leader(&net, &[1, 2, 3]).await;
    deposed.propose(b"a".to_vec(), None).await.unwrap();
    net.isolate(first);
    let lost = deposed.start_propose(b"lost".to_vec(), None).await.unwrap();
    assert!(timeout(Duration::from_secs(3), deposed.read_index()).await.is_err());
    assert!(!deposed.status().is_leader());
    assert_eq!(lost.await.unwrap(), Err(ProposeError::LeadershipLost));

    let (_, next) = leader(&net, &others(first)).await;
    let index = next.propose(b"b".to_vec(), None).await.unwrap();
    net.0.lock().cuts.clear();
    assert!(deposed.read_index().await.unwrap() >= index);
    assert_eq!(deposed.image(), next.image());
    assert!(!deposed.image().has(b"lost"));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_breaks_goes_on_where_it_was_and_delays_nobody() {
    let net = Net::default();
    let _all = voters(&net, 3).await;
    let (_, leader) = leader(&net, &[1, 2, 3]).await;
    for n in 0..60 {
        let key = format!("{n:02}{}", "x".repeat(50_000)).into_bytes();
        leader.propose(key, None).await.unwrap();
    }
    let joined = leader.change(Change::Join(member(4))).await.unwrap();
    let peer_id = *leader.status().configuration.members.last_key_value().unwrap().0;
    assert_eq!(peer_id, 4);
    net.0.lock().break_after = Some(5);
    let origin = Origin::Join { cluster_id: cluster(), peer_id };
    let learner = start(&net, peer_id, origin).await.handle();

    let busy = async {
        let mut worst = Duration::ZERO;
        while learner.applied_index() < joined {
            let began = tokio::time::Instant::now();
            leader.propose(b"meanwhile".to_vec(), None).await.unwrap();
            worst = worst.max(began.elapsed());
        }
        worst
    };
    let worst = timeout(Duration::from_secs(20), busy).await.expect("the learner catches up");
    assert!(worst < Duration::from_millis(200), "{worst:?}");
    // 60 keys, five to a chunk; none was carried twice.
    let (is_broken, chunks) = net.transfer();
    assert!(is_broken && (12..=14).contains(&chunks), "{is_broken} {chunks}");
    let last = leader.propose(b"last".to_vec(), None).await.unwrap();
    applied(&learner, last).await;
    assert_eq!(learner.image(), leader.image());
}

#[tokio::test(start_paused = true)]
async fn members_change_one_at_a_time_and_only_when_they_have_caught_up() {
    let net = Net::default();
    let _all = voters(&net, 3).await;
    let (_, leader) = leader(&net, &[1, 2, 3]).await;
    for n in 0..200 {
        leader.propose(format!("key-{n}").into_bytes(), None).await.unwrap();
    }
    leader.change(Change::Join(member(4))).await.unwrap();
    let early = leader.change(Change::Promote(4)).await;
    assert!(
        matches!(early, Err(MembersError::Refused(crate::quorum::ChangeError::NotCaughtUp { .. }))),
        "{early:?}"
    );
    let origin = Origin::Join { cluster_id: cluster(), peer_id: 4 };
    let learner = start(&net, 4, origin).await.handle();
    applied(&learner, leader.applied_index()).await;
    let promote = async {
        while leader.change(Change::Promote(4)).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), promote).await.expect("it is promoted");
    let mut voters = leader.status().configuration.conf_state.voters.clone();
    voters.sort_unstable();
    assert_eq!(voters, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_messages_stays_within_its_bound() {
    let net = Net::default();
    let all = voters(&net, 3).await;
    let handle = all[&1].handle();
    let entry = Entry { data: vec![0; 1 << 20].into(), ..Entry::default() };
    let mut message = Message { from: 2, to: 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.entries.push(entry);
    for _ in 0..200 {
        handle.step(message.clone());
    }
    let waiting = handle.shared.inbound_bytes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(waiting <= 66 << 20, "{waiting}");
    // The loop takes them, and the node goes on.
    let (_, leader) = leader(&net, &[1, 2, 3]).await;
    leader.propose(b"a".to_vec(), None).await.unwrap();
    assert_eq!(handle.shared.inbound_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// The store of a node that leads, is deposed, joins in again, and in the end recovers alone; and
/// that of one that joins by a snapshot.
#[tokio::test(start_paused = true)]
async fn what_drivers_write_reopens_at_every_prefix() {
    let net = Net::default();
    let voters: BTreeMap<u64, Member> = (1..=3).map(|id| (id, member(id as u32))).collect();
    let stores: Vec<_> = (1..=4).map(|_| Arc::new(RecordedStore::default())).collect();
    let on = |peer: u64| Arc::clone(&stores[peer as usize - 1]) as Arc<dyn Store>;
    let mut all = BTreeMap::new();
    for peer in 1..=3 {
        let origin = Bootstrap { cluster_id: cluster(), voters: voters.clone() }.into();
        all.insert(peer, start_on(on(peer), &net, peer, origin).await);
    }
    let (first, deposed) = leader(&net, &[1, 2, 3]).await;
    for n in 0..40 {
        deposed.propose(format!("{n}{}", "x".repeat(9_000)).into_bytes(), None).await.unwrap();
    }
    net.isolate(first);
    let lost = deposed.start_propose(b"lost".to_vec(), None).await.unwrap();
    assert_eq!(lost.await.unwrap(), Err(ProposeError::LeadershipLost));
    let (_, next) = leader(&net, &others(first)).await;
    let index = next.propose(b"kept".to_vec(), None).await.unwrap();
    net.0.lock().cuts.clear();
    applied(&deposed, index).await;

    let joined = next.change(Change::Join(member(4))).await.unwrap();
    let origin = Origin::Join { cluster_id: cluster(), peer_id: 4 };
    let learner = start_on(on(4), &net, 4, origin).await.handle();
    applied(&learner, joined).await;
    let last = next.propose(b"last".to_vec(), None).await.unwrap();
    for handle in [&deposed, &learner] {
        applied(handle, last).await;
    }
    net.isolate(first);
    all.remove(&first).unwrap().stop().await.unwrap();
    let survivor = &stores[first as usize - 1];
    let wanted = recovery::survey(&**survivor).unwrap().confirmation();
    recovery::recover(&**survivor, &wanted).unwrap();

    let (deposed, joined) = (survivor.recorded(), stores[3].recorded());
    assert!(deposed.overwrites > 0 && deposed.compactions > 0, "{deposed:?}");
    assert!(deposed.recoveries == 1 && deposed.applies > 10, "{deposed:?}");
    assert!(joined.installs == 1 && joined.chunks > 1 && joined.applies > 0, "{joined:?}");
    survivor.assert_every_prefix_reopens();
    stores[3].assert_every_prefix_reopens();
}
