//! Broker keys of metrics, quotas, policies and waiting requests.

use crate::config::definition::definitions;
use crate::config::validator::Validator::{Any, List};
use crate::config::validator::at_least;

definitions! {
    OTHER:
    "alter.config.policy.class.name": Class = None, Any, Low, ReadOnly,
        "Class that may refuse a change of configuration";
    "background.threads": Int = Some("10"), at_least(1), High, ClusterWide,
        "Threads for work in the background";
    "client.quota.callback.class": Class = None, Any, Low, ReadOnly,
        "Class that computes quotas of clients";
    "config.providers": List = Some(""), List { may_be_empty: true }, Low, ClusterWide,
        "Names of providers that fill in values from elsewhere";
    "create.topic.policy.class.name": Class = None, Any, Low, ReadOnly,
        "Class that may refuse the creation of a topic";
    "delete.records.purgatory.purge.interval.requests": Int = Some("1"), Any, Medium, ReadOnly,
        "Waiting DeleteRecords requests after which finished ones are cleared";
    "fetch.purgatory.purge.interval.requests": Int = Some("1000"), Any, Medium, ReadOnly,
        "Waiting fetches after which finished ones are cleared";
    "kafka.metrics.polling.interval.secs": Int = Some("10"), at_least(1), Low, ReadOnly,
        "Time between two polls of the reporters of server metrics";
    "kafka.metrics.reporters": List = Some(""), List { may_be_empty: true }, Low, ReadOnly,
        "Classes that report server metrics";
    "metric.reporters": List = Some("org.apache.kafka.common.metrics.JmxReporter"),
        List { may_be_empty: true }, Low, ClusterWide,
        "Classes that report metrics";
    "metrics.num.samples": Int = Some("2"), at_least(1), Low, ReadOnly,
        "Samples kept to compute a metric";
    "metrics.recording.level": String = Some("INFO"), Any, Low, ReadOnly,
        "Which metrics are recorded";
    "metrics.sample.window.ms": Long = Some("30000"), at_least(1), Low, ReadOnly,
        "Length of a sample of a metric";
    "producer.purgatory.purge.interval.requests": Int = Some("1000"), Any, Medium, ReadOnly,
        "Waiting produce requests after which finished ones are cleared";
    "quota.window.num": Int = Some("11"), at_least(1), Low, ReadOnly,
        "Samples kept for quotas of clients";
    "quota.window.size.seconds": Int = Some("1"), at_least(1), Low, ReadOnly,
        "Length of a sample for quotas of clients";
    "telemetry.max.bytes": Int = Some("1048576"), at_least(1), Low, ReadOnly,
        "Largest metrics push of a client, after decompression";
}
