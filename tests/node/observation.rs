//! What a node shows of itself.

use std::collections::BTreeMap;

use ottla::client::{Committed, Partition};

use crate::{
    machine::{Machine, record},
    wait::eventually,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_of_a_group_is_what_it_has_not_read() {
    let machine = Machine::default();
    let served = machine.start(&[]).await;
    served.create_topic("t", &[]).await;
    let records = |count| (0..count).map(|n| record("k", Some(vec![n]), 1_000_000));
    served.produce("t", records(10)).await;
    let committed = Committed { offset: 4, leader_epoch: -1, metadata: String::new() };
    let offsets = BTreeMap::from([(Partition::new("t", 0), committed)]);
    served.client.commit("g", &offsets).await.unwrap();

    let lag = "ottla_group_lag_records{group=\"g\",topic=\"t\",partition=\"0\"}";
    eventually("the lag is shown", || (served.figure(lag) == Some(6.0)).then_some(())).await;
    // No commit, no wait: the log's end is looked up when the lag is asked for.
    served.produce("t", records(3)).await;
    assert_eq!(served.figure(lag), Some(9.0));
    assert!(served.figure("ottla_log_flush_duration_seconds_count").unwrap() >= 2.0);
    assert_eq!(served.figure("ottla_log_flushes_failed_total"), Some(0.0));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_is_not_ready() {
    let served = Machine::default().start(&[]).await;
    let readiness = served.readiness.clone();
    eventually("the node is ready", || readiness.is_ready().then_some(())).await;
    served.stop().await;
    let reasons: Vec<_> = readiness.conditions().into_iter().filter_map(|one| one.reason).collect();
    assert!(reasons.contains(&"the node stops".to_owned()), "{reasons:?}");
}
