//! How a cluster begins, and how nodes come into it.

use ottla::{base::NodeId, cluster::BootstrapError};

use crate::{
    machine::{Machine, World, voters},
    wait::eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_wait_and_are_a_cluster_once_the_voters_are_named() {
    let world = World::new(3);
    let nodes: Vec<_> =
        (1..=3).map(|id| world.start(id, &Machine::default(), &[1, 2, 3])).collect();
    for node in &nodes {
        let why = node.waits_for("1, 2, 3 wait as well").await;
        assert!(why.contains("ottla cluster bootstrap --voters 1,2,3"), "{why}");
    }
    let founded = nodes[1].bootstrap(&[1, 2, 3]).await.unwrap();
    assert_eq!(founded.voters, [1, 2, 3].map(NodeId));
    assert_eq!(founded.unconfirmed, []);
    assert!(founded.leader.is_some());

    let again = nodes[0].bootstrap(&[1, 2, 3]).await;
    assert_eq!(again, Err(BootstrapError::Exists { node: NodeId(1) }));

    let mut served = Vec::new();
    for node in nodes {
        served.push(node.serves().await);
    }
    // Asked of any node, the change is made by whichever leads, and seen on all.
    for (index, node) in served.iter().enumerate() {
        node.create_topic(&format!("topic-{index}")).await;
    }
    for node in &served {
        for index in 0..3 {
            node.hears_of(&format!("topic-{index}")).await;
        }
        assert_eq!(voters(&node.describe().await), [1, 2, 3]);
    }
    for node in served {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_that_could_make_a_second_cluster_is_refused() {
    let world = World::new(3);
    let first = world.start(1, &Machine::default(), &[1, 2, 3]);
    let _second = world.start(2, &Machine::default(), &[1, 2, 3]);
    let silent = first.bootstrap(&[1, 2, 3]).await.unwrap_err();
    assert!(matches!(silent, BootstrapError::SilentVoter { node: NodeId(3), .. }), "{silent}");
    // Whoever belongs there may have a cluster.
    let silent = first.bootstrap(&[1, 2]).await.unwrap_err();
    assert!(matches!(silent, BootstrapError::SilentSeed { .. }), "{silent}");
    assert_eq!(first.bootstrap(&[]).await, Err(BootstrapError::NoVoters));

    let another = world.port(3);
    let _twin = world.start_at(2, another, &Machine::default(), &[1, 2, 3]);
    let twins = first.bootstrap(&[1, 2]).await.unwrap_err();
    assert_eq!(twins, BootstrapError::Duplicate { node: NodeId(2) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_certificate_of_another_cluster_is_named_and_left_out() {
    let (world, mut other) = (World::new(2), World::new(2));
    let node = world.start(1, &Machine::default(), &[1, 2]);
    other.move_to(2, world.port(2));
    let _stranger = other.start(2, &Machine::default(), &[]);
    let refused = node.bootstrap(&[1, 2]).await.unwrap_err();
    assert!(matches!(refused, BootstrapError::SilentVoter { node: NodeId(2), .. }), "{refused}");
    // Which of the two sees it first depends on TLS.
    assert!(refused.to_string().contains(&world.port(2).to_string()), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_was_replaced_neither_starts_anew_nor_counts_as_what_it_was() {
    let world = World::new(3);
    let machines = [1, 2, 3].map(|_| Machine::default());
    let mut served = Vec::new();
    let nodes: Vec<_> =
        (1..).zip(&machines).map(|(id, machine)| world.start(id, machine, &[1, 2, 3])).collect();
    nodes[0].waits_for("1, 2, 3 wait as well").await;
    nodes[0].bootstrap(&[1, 2, 3]).await.unwrap();
    for node in nodes {
        served.push(node.serves().await);
    }
    let before = served[0].describe().await;
    let former = before.replicas.iter().find(|one| one.node == 3).unwrap().clone();
    served.pop().unwrap().stop().await;
    // It said that it goes, so nobody waits for its lease.
    let context = served[0].node.context();
    let fenced = || context.image().broker(NodeId(3)).filter(|broker| broker.fenced).cloned();
    eventually("it is fenced", fenced).await;

    let wiped = world.start(3, &Machine::default(), &[1, 2, 3]);
    let anew = wiped.bootstrap(&[3]).await.unwrap_err();
    assert!(matches!(anew, BootstrapError::Exists { .. }), "{anew}");
    let wiped = wiped.serves().await;
    let after = wiped.describe().await;
    assert_eq!(voters(&after), [1, 2]);
    let now = after.replicas.iter().find(|one| one.node == 3).unwrap();
    assert!(now.peer_id > former.peer_id);
    assert_ne!(now.directory_id(), former.directory_id());
    wiped.stop().await;

    // The old disk turns up again: it is not let in beside its successor.
    let old = world.start(3, &machines[2], &[1, 2, 3]);
    let why = old.waits_for("not part of the cluster any more").await;
    assert!(why.contains("empty its data directories"), "{why}");
    for node in served {
        node.stop().await;
    }
}
