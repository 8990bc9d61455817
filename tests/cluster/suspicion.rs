//! What becomes of a broker that falls silent.

use ottla::{
    base::NodeId,
    client::{NewTopic, TopicView},
};

use crate::machine::{Machine, Served, World};

/// So long that nobody is fenced because its session has ended.
const ENDLESS: [(&str, &str); 1] = [("broker.session.timeout.ms", "3600000")];

fn leader(topic: &TopicView) -> Option<u32> {
    topic.partition(0).and_then(|partition| u32::try_from(partition.leader).ok())
}

async fn replicated(nodes: &[Served]) -> u32 {
    let topic = NewTopic {
        name: "t".to_owned(),
        partitions: Some(1),
        replication_factor: Some(3),
        configs: Vec::new(),
    };
    nodes[0].client().create_topic(&topic, false).await.unwrap();
    for node in nodes {
        node.hears_of("t").await;
    }
    leader(&nodes[0].client().topic("t").await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_after_a_leader_has_fallen_silent_names_another() {
    let world = World::new(3);
    let start = |id: u32| world.start_with(id, &Machine::default(), &[1, 2, 3], &ENDLESS);
    let started: Vec<_> = (1..=3).map(start).collect();
    started[0].bootstrap(&[1, 2, 3]).await.unwrap();
    let mut nodes = Vec::new();
    for node in started {
        nodes.push(node.serves().await);
    }
    let silent = replicated(&nodes).await;
    let others: Vec<_> = (1..=3).filter(|id| *id != silent).collect();
    let clients: Vec<_> = others.iter().map(|id| nodes[*id as usize - 1].client()).collect();

    // As if its process were stopped: it is there, and nobody hears of it.
    let transport = nodes[silent as usize - 1].cluster().transport().cloned();
    transport.expect("it has one").stop().await;

    for client in &clients {
        let found = leader(&client.topic("t").await.unwrap());
        assert!(found.is_some_and(|leader| others.contains(&leader)), "{found:?}");
    }
    let image = nodes[others[0] as usize - 1].node.context().image();
    assert!(image.broker(NodeId(silent)).unwrap().fenced);
}
