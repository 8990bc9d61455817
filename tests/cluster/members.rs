//! How a cluster grows, and how its voters change.

use std::time::Duration;

use ottla::{
    client::WireError,
    cluster::VotersChange::{Add, Lead, Remove},
};
use tokio::time::{sleep, timeout};

use crate::{
    machine::{Machine, Served, World, voters},
    wait::LONG,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_to_three_voters_and_its_first_node_leaves_them() {
    let world = World::new(3);
    let first = world.start(1, &Machine::default(), &[1]);
    first.bootstrap(&[1]).await.unwrap();
    let first = first.serves().await;
    first.create_topic("before").await;

    let mut later: Vec<Served> = Vec::new();
    for id in [2, 3] {
        let node = world.start(id, &Machine::default(), &[1]).serves().await;
        assert_eq!(voters(&node.describe().await), (1..id).collect::<Vec<_>>());
        // It is a broker already, and knows what happened before it came.
        node.client().topic("before").await.unwrap();
        node.voters(Add, id).await.unwrap();
        assert_eq!(voters(&node.describe().await), (1..=id).collect::<Vec<_>>());
        later.push(node);
    }
    let unknown = first.voters(Add, 9).await.unwrap_err();
    assert!(unknown.to_string().contains("start it with the cluster's seeds"), "{unknown}");

    later[0].voters(Lead, 3).await.unwrap();
    assert_eq!(first.describe().await.leader, 3);
    // A refusal writes nothing after the new leader's first entry, and waits for nothing.
    for node in [&first, &later[1]] {
        let asking = timeout(LONG / 6, node.try_create_topic("before")).await;
        let refused = asking.expect("it is answered at once").unwrap_err();
        assert_eq!(refused.wire(), Some(WireError::TopicAlreadyExists));
    }
    first.voters(Lead, 1).await.unwrap();

    // The leader cannot remove itself: another takes over first.
    first.voters(Remove, 1).await.unwrap();
    let after = first.describe().await;
    assert_eq!(voters(&after), [2, 3]);
    assert_ne!(after.leader, 1);
    // It is a learner now, and serves on.
    first.create_topic("after").await;
    let learner = later[0].voters(Lead, 1).await.unwrap_err();
    assert!(learner.to_string().contains("only a voter can lead"), "{learner}");

    for node in later.into_iter().chain([first]) {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_promotes_up_to_the_target_but_nobody_who_was_removed() {
    let world = World::new(4);
    let target = [("ottla.quorum.voters.target", "3")];
    let start = |id| world.start_with(id, &Machine::default(), &[1], &target);
    let first = start(1);
    first.bootstrap(&[1]).await.unwrap();
    let first = first.serves().await;
    let (second, third) = (start(2).serves().await, start(3).serves().await);
    let voters_are = async |wanted: &[u32]| {
        while voters(&first.describe().await) != wanted {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, voters_are(&[1, 2, 3])).await.expect("all are promoted");
    first.voters(Remove, 2).await.unwrap();
    // The place is taken by somebody else, though who was removed comes first and has caught up.
    let fourth = start(4).serves().await;
    timeout(LONG, voters_are(&[1, 3, 4])).await.expect("another is promoted");
    first.voters(Add, 2).await.unwrap();
    assert_eq!(voters(&first.describe().await), [1, 2, 3, 4]);
    for node in [first, second, third, fourth] {
        node.stop().await;
    }
}
