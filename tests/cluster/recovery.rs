//! What is left when the majority of the voters is lost.

use ottla::{
    cluster::VotersChange::Add,
    quorum::{self, RecoverError},
};

use crate::machine::{Machine, World, voters};

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_of_a_lost_majority_goes_on_alone_and_takes_nodes_in() {
    let world = World::new(4);
    let machines: Vec<Machine> = (1..=3).map(|_| Machine::default()).collect();
    let start = |id: u32| world.start(id, &machines[id as usize - 1], &[1, 2, 3]);
    let started: Vec<_> = (1..=3).map(start).collect();
    started[0].bootstrap(&[1, 2, 3]).await.unwrap();
    let mut nodes = Vec::new();
    for node in started {
        nodes.push(node.serves().await);
    }
    nodes[0].create_topic("before").await;
    for node in nodes.into_iter().rev() {
        node.stop().await;
    }

    let survivor = &machines[0];
    let survey = quorum::survey(survivor.store()).unwrap();
    assert_eq!(survey.voters().len(), 3);
    let refused = quorum::recover(survivor.store(), "yes").unwrap_err();
    assert!(matches!(refused, RecoverError::NotConfirmed { .. }), "{refused}");
    quorum::recover(survivor.store(), &survey.confirmation()).unwrap();

    let first = world.start(1, survivor, &[1, 2, 3]).serves().await;
    assert_eq!(voters(&first.describe().await), [1]);
    first.client().topic("before").await.unwrap();
    first.create_topic("after").await;

    // A former voter that comes back with its disk, alone, is told that it is none any more.
    let former = world.start(3, &machines[2], &[1, 2, 3]);
    former.waits_for("is not part of the cluster any more").await;
    assert_eq!(voters(&first.describe().await), [1]);

    // With a new disk a former voter is a node like any other; and so is one that never was there.
    let mut later = Vec::new();
    for (id, all) in [(2, &[1, 2][..]), (4, &[1, 2, 4])] {
        let node = world.start(id, &Machine::default(), &[1]).serves().await;
        node.client().topic("before").await.unwrap();
        first.voters(Add, id).await.unwrap();
        assert_eq!(voters(&node.describe().await), all);
        later.push(node);
    }
    // The new quorum is one: it does without its first member.
    first.stop().await;
    later[0].create_topic("later").await;
    later[1].hears_of("later").await;
    for node in later {
        node.stop().await;
    }
}
