//! A node compacts its logs: what is newest stays, what is deleted goes, through a restart.

use std::collections::BTreeMap;

use ottla::{
    base::Offset,
    client::{Committed, Partition, Record, Resource},
};

use crate::{
    machine::{Machine, Served, record},
    wait::eventually,
};

const SETTINGS: &[(&str, &str)] = &[("log.cleaner.backoff.ms", "10")];
const KEYS: usize = 20;

/// Updates of a few keys, more than three segments of a megabyte, each tenth a tombstone.
fn updates() -> Vec<Record> {
    let update = |n: usize| {
        let value = (n % 10 != 9).then(|| format!("{n:0>1000}").into_bytes());
        // The key moves on against the tombstones, so that some keys end deleted.
        record(&format!("key-{}", (n / 7) % KEYS), value, 1_000_000)
    };
    (0..3_500).map(update).collect()
}

fn newest(records: impl IntoIterator<Item = Record>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut newest = BTreeMap::new();
    for record in records {
        let key = record.key.unwrap().to_vec();
        match record.value {
            Some(value) => newest.insert(key, value.to_vec()),
            None => newest.remove(&key),
        };
    }
    newest
}

async fn held(served: &Served, topic: &str) -> Vec<Record> {
    let records = served.consume(topic).await.into_iter();
    let record = |read: ottla::client::ConsumedRecord| Record {
        key: read.key,
        value: read.value,
        ..Record::default()
    };
    records.map(record).collect()
}

fn clean_to(served: &Served, log: &str) -> i64 {
    let directories = served.node.context().partitions.directories();
    directories[0].cleaner_point(log).unwrap_or(Offset::ZERO).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_compacted_while_the_node_runs_keeps_the_newest_of_each_key() {
    let machine = Machine::default();
    let served = machine.start(SETTINGS).await;
    let segment = ("segment.bytes", "1048576");
    served.create_topic("t", &[segment, ("retention.ms", "-1")]).await;
    let delivered = served.produce("t", updates()).await;
    assert!(delivered.iter().all(Result::is_ok));
    assert_eq!(clean_to(&served, "t-0"), 0);

    let topic = || Resource::Topic("t".to_owned());
    served.set(topic(), "delete.retention.ms", "0").await;
    served.set(topic(), "cleanup.policy", "compact").await;
    eventually("the log is compacted", || (clean_to(&served, "t-0") > 2_000).then_some(())).await;
    let left = held(&served, "t").await;
    assert!(left.len() < 1_500, "{} records are left", left.len());
    assert_eq!(newest(left), newest(updates()));
    assert!(served.figure("ottla_compactions_total").unwrap() >= 1.0);

    // Tombstones go with a later compaction, once `delete.retention.ms` is over.
    let before = clean_to(&served, "t-0");
    served.produce("t", updates()).await;
    eventually("it is compacted again", || (clean_to(&served, "t-0") > before).then_some(())).await;
    served.stop().await;

    let served = machine.start(SETTINGS).await;
    let left = held(&served, "t").await;
    assert_eq!(newest(left.clone()), newest(updates()));
    assert!(left.len() < 2_500, "{} records are left", left.len());
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_outlive_the_compaction_of_their_topic() {
    let machine = Machine::default();
    let served = machine.start(SETTINGS).await;
    served.create_topic("t", &[]).await;
    let partition = Partition::new("t", 0);
    let commit = |offset: i64| {
        let committed = Committed { offset, leader_epoch: -1, metadata: "m".repeat(4_000) };
        BTreeMap::from([(partition.clone(), committed)])
    };
    served.client.commit("other", &commit(77)).await.unwrap();
    served.set(Resource::Topic("__consumer_offsets".into()), "segment.bytes", "1048576").await;
    for offset in 0..700 {
        served.client.commit("busy", &commit(offset)).await.unwrap();
    }
    let log = "__consumer_offsets-0";
    eventually("the offsets are compacted", || (clean_to(&served, log) > 400).then_some(())).await;
    served.stop().await;

    let served = machine.start(SETTINGS).await;
    for (group, offset) in [("other", 77), ("busy", 699)] {
        let committed = served.client.committed(group, None).await.unwrap();
        assert_eq!(committed, commit(offset), "{group}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_compacted_is_left_alone_and_the_others_are_not() {
    let machine = Machine::default();
    let served = machine.start(&[("log.cleaner.enable", "false")]).await;
    let configs = [("segment.bytes", "1048576"), ("cleanup.policy", "compact")];
    for topic in ["broken", "whole"] {
        served.create_topic(topic, &configs).await;
        served.produce(topic, updates()).await;
    }
    served.stop().await;
    machine.dir.corrupt("broken-0/00000000000000000000.log", 5_000, 1);

    let served = machine.start(SETTINGS).await;
    eventually("the damage is found", || {
        (served.figure("ottla_uncleanable_logs") == Some(1.0)).then_some(())
    })
    .await;
    eventually("the other is compacted", || (clean_to(&served, "whole-0") > 0).then_some(())).await;
    // Looked for again and again, it was tried once.
    assert_eq!(served.figure("ottla_compactions_failed_total"), Some(1.0));
    assert_eq!(served.figure("ottla_log_directory_offline{directory=\"/simulated\"}"), Some(0.0));
    let delivered = served.produce("broken", [record("k", Some(vec![1]), 1_000_000)]).await;
    assert!(delivered[0].is_ok());

    // A change of the topic is a reason to try again.
    let topic = Resource::Topic("broken".to_owned());
    served.set(topic, "min.cleanable.dirty.ratio", "0.1").await;
    eventually("it is tried again", || {
        (served.figure("ottla_compactions_failed_total") == Some(2.0)).then_some(())
    })
    .await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_is_held_back_ends_with_the_node_and_is_done_later() {
    let machine = Machine::default();
    let slow = [SETTINGS[0], ("log.cleaner.io.max.bytes.per.second", "1000")];
    let served = machine.start(&slow).await;
    let configs = [("segment.bytes", "1048576"), ("cleanup.policy", "compact")];
    served.create_topic("t", &configs).await;
    served.produce("t", updates()).await;
    eventually("a compaction runs", || {
        (served.figure("ottla_compactions_running") == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(clean_to(&served, "t-0"), 0);
    // At that pace it would take more than an hour.
    served.stop().await;

    let served = machine.start(&slow).await;
    eventually("a compaction runs", || {
        (served.figure("ottla_compactions_running") == Some(1.0)).then_some(())
    })
    .await;
    served.set(Resource::Broker(1), "log.cleaner.io.max.bytes.per.second", "1e12").await;
    eventually("the log is compacted", || (clean_to(&served, "t-0") > 2_000).then_some(())).await;
    assert_eq!(newest(held(&served, "t").await), newest(updates()));
    served.stop().await;
}
