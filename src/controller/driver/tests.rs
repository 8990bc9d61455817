//! The driver over a quorum of one node.

use std::sync::Arc;

use futures::future::join_all;
use rand::SeedableRng as _;
use uuid::Uuid;

use super::*;
use crate::{
    base::{Blocking, ClusterId, DirectoryId, NodeId},
    metadata::{ConfigResource, Record, records::ConfigRecord},
    quorum::{
        Bootstrap, Environment, Machine as _, MemStore, Member, NoPeers, Quorum, QuorumConfig,
    },
};

const KEY: &str = "message.max.bytes";

/// Counts up one setting, by what the image says it is; a request of 0 only reads it, and one of
/// [`TORN`] has a second entry that is refused.
struct Counter;

const TORN: usize = usize::MAX;
const TOO_LARGE: usize = 2 << 20;

fn value(image: &MetadataImage) -> u64 {
    let resource = ConfigResource::broker(NodeId(1));
    image.config_value(&resource, KEY).map_or(0, |text| text.parse().unwrap())
}

impl Decider for Counter {
    type Request = usize;
    type Response = u64;

    fn begin(&mut self, image: &MetadataImage, _: u64) -> Vec<Batch> {
        let exists = image.cluster_id().is_some();
        if exists { Vec::new() } else { vec![features::bootstrap(ClusterId(Uuid::from_u128(1)))] }
    }

    fn decide(
        &mut self,
        image: &MetadataImage,
        size_bytes: usize,
        _: u64,
        _: &mut dyn Rng,
    ) -> (Vec<Batch>, u64) {
        let next = value(image) + 1;
        let batch = |size_bytes: usize| {
            let record = ConfigRecord {
                resource_type: 4,
                resource_name: "1".to_owned(),
                name: KEY.to_owned(),
                value: Some("0".repeat(size_bytes - 1) + &next.to_string()),
            };
            Batch::new(vec![Record::Config(record)])
        };
        match size_bytes {
            0 => (Vec::new(), value(image)),
            TORN => (vec![batch(1), batch(TOO_LARGE)], next),
            _ => (vec![batch(size_bytes)], next),
        }
    }

    fn encode(response: &u64) -> Option<Vec<u8>> {
        Some(response.to_be_bytes().to_vec())
    }

    fn decode(bytes: &[u8]) -> Option<u64> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }

    fn tick(&mut self, _: &MetadataImage, _: u64) -> Vec<Batch> {
        Vec::new()
    }

    fn next_tick_ms(&self) -> Option<u64> {
        None
    }
}

async fn started(voters: u64) -> (Quorum, Client<Counter>) {
    let member = |node: u64| Member {
        node_id: NodeId(node as u32),
        directory_id: DirectoryId(Uuid::from_u128(node.into())),
    };
    let voters = (1..=voters).map(|node| (node, member(node))).collect();
    let bootstrap = Bootstrap { cluster_id: ClusterId(Uuid::from_u128(1)), voters };
    let environment = Environment {
        store: Arc::new(MemStore::new()),
        blocking: Blocking::threads("driver-test", 2, 16).unwrap(),
        peers: Arc::new(NoPeers),
        fatal: Arc::new(|fatal| panic!("{fatal}")),
    };
    let config = QuorumConfig::new(member(1), 3);
    let quorum: Quorum = Quorum::start(config, Some(bootstrap.into()), environment).await.unwrap();
    let (driver, client) = driver(quorum.handle(), |_: &_, _| Counter, SmallRng::seed_from_u64(1));
    tokio::spawn(driver.run());
    (quorum, client)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn requests_in_flight_see_each_other_and_answers_are_applied() {
    let (quorum, client) = leading().await;
    let requests = (0..300).map(|_| {
        let (client, handle) = (client.clone(), quorum.handle());
        async move {
            let answer = client.request(1, None, soon()).await.unwrap();
            assert!(value(&handle.image()) >= answer);
            answer
        }
    });
    let mut answers = join_all(requests).await;
    answers.sort_unstable();
    assert_eq!(answers, (1..=300).collect::<Vec<_>>());
    assert_eq!(client.request(0, None, soon()).await, Ok(300));
    assert_ne!(quorum.handle().image().as_ref(), &MetadataImage::empty());
}

#[tokio::test]
async fn a_refused_change_takes_along_what_was_decided_on_it() {
    let (quorum, client) = leading().await;
    assert_eq!(client.request(1, None, soon()).await, Ok(1));
    // Larger than an entry may be.
    let requests = [TOO_LARGE, 1, 0].map(|size| client.request(size, None, soon()));
    let answers = join_all(requests).await;
    assert_eq!(answers[0], Err(RequestError::NotController));
    for later in &answers[1..] {
        // Decided before or after the refusal was known: never on what was refused.
        assert!(!matches!(later, Ok(3)), "{answers:?}");
    }
    let now = value(&quorum.handle().image());
    assert_eq!(client.request(1, None, soon()).await, Ok(now + 1));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_lead_says_so() {
    let (_quorum, client) = started(3).await;
    assert_eq!(client.request(1, None, soon()).await, Err(RequestError::NotController));
}

async fn leading() -> (Quorum, Client<Counter>) {
    let (quorum, client) = started(1).await;
    while client.request(0, None, soon()).await.is_err() {
        tokio::task::yield_now().await; // Until it leads.
    }
    (quorum, client)
}

#[tokio::test]
async fn a_request_with_an_id_is_decided_once() {
    let (_quorum, client) = leading().await;
    let id = |n| Some(RequestId(Uuid::from_u128(n)));
    let both = [1, 1, 2].map(|n| client.request(1, id(n), soon()));
    let mut answers = join_all(both).await;
    answers.sort_by_key(|answer| answer.unwrap());
    assert_eq!(answers, [Ok(1), Ok(1), Ok(2)]);
    assert_eq!(client.request(1, id(1), soon()).await, Ok(1));
    assert_eq!(client.request(1, None, soon()).await, Ok(3));
    assert_eq!(client.request(0, id(3), soon()).await, Ok(3), "what changes nothing is not kept");
    assert_eq!(client.request(1, id(3), soon()).await, Ok(4));
}

#[tokio::test]
async fn a_change_that_was_made_in_part_is_not_made_again() {
    let (_quorum, client) = leading().await;
    let id = Some(RequestId(Uuid::from_u128(1)));
    assert_eq!(client.request(TORN, id, soon()).await, Err(RequestError::LeadershipLost));
    assert_eq!(client.request(TORN, id, soon()).await, Err(RequestError::Begun));
    assert_eq!(client.request(0, None, soon()).await, Ok(1));
}
