//! What users and other modules rely on in configuration.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use proptest::prelude::*;

use super::*;

const SCOPES: [Scope; 4] = [Scope::Topic, Scope::Broker, Scope::Group, Scope::ClientMetrics];

fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn topic_config(topic: &[(&str, &str)], file: &[(&str, &str)]) -> TopicConfig {
    let (topic, file) = (set(topic), set(file));
    let broker = BrokerLayers { file: &file, ..BrokerLayers::DEFAULTS };
    TopicConfig::resolve(TopicLayers { topic: &topic, broker })
}

fn problems(toml: &str) -> String {
    NodeConfig::from_toml(toml).expect_err("the file is wrong").to_string()
}

#[test]
fn every_default_satisfies_its_own_key() {
    for key in SCOPES.into_iter().flat_map(definitions) {
        if let Some(text) = key.default {
            let parsed = key.parse(text);
            assert!(parsed.is_ok(), "{}: {text}: {parsed:?}", key.name);
            assert_eq!(parsed.unwrap().to_property(), text, "{} prints as it is written", key.name);
        }
        assert!(!key.documentation.is_empty() && !key.documentation.ends_with('.'), "{}", key.name);
    }
}

#[test]
fn defaults_are_those_of_kafka_but_for_documented_deviations() {
    let config = TopicConfig::default();
    assert_eq!(config.cleanup_policy, CleanupPolicy { compact: false, delete: true });
    assert_eq!(config.retention_ms, 604_800_000);
    assert_eq!(config.segment_bytes, 1 << 30);
    assert_eq!(config.max_message_bytes, 1_048_588);
    assert_eq!(config.compression_type, CompressionType::Producer);
    assert_eq!(config.flush_ms, i64::MAX);
    assert_eq!(config.flush_messages, 1, "flushed before acknowledged");
    assert!(definition(Scope::Topic, "flush.messages").unwrap().deviation.is_some());
    let config = BrokerConfig::default();
    assert_eq!(config.offsets_topic_replication_factor, 3);
    assert_eq!(config.num_partitions, 1);
    assert!(config.log_cleaner_io_max_bytes_per_second > 1e308);
}

#[test]
fn every_key_that_a_typed_struct_reads_exists() {
    for name in BrokerConfig::KEYS.iter().chain(NodeConfig::KEYS) {
        assert!(definition(Scope::Broker, name).is_some_and(Definition::has_effect), "{name}");
    }
    for name in TopicConfig::KEYS {
        assert!(definition(Scope::Topic, name).is_some(), "{name}");
        for (synonym, _) in broker_synonyms(name) {
            assert!(definition(Scope::Broker, synonym).is_some(), "{synonym}");
        }
    }
}

#[test]
fn the_most_specific_layer_wins() {
    let topic = set(&[("segment.bytes", "2000000")]);
    let broker = set(&[("log.segment.bytes", "3000000")]);
    let cluster = set(&[("log.segment.bytes", "4000000"), ("message.max.bytes", "4")]);
    let file = set(&[("log.segment.bytes", "5000000"), ("log.retention.hours", "1")]);
    let brokers = BrokerLayers { broker: &broker, cluster_default: &cluster, file: &file };
    let found = |topic: &dyn Layer, brokers, name| {
        let found = TopicLayers { topic, broker: brokers }.find(name);
        (found.value.unwrap().to_string(), found.source)
    };
    let size = "segment.bytes";
    assert_eq!(found(&topic, brokers, size), ("2000000".into(), Source::Topic));
    assert_eq!(found(&(), brokers, size), ("3000000".into(), Source::Broker));
    let brokers = BrokerLayers { broker: &(), ..brokers };
    assert_eq!(found(&(), brokers, size), ("4000000".into(), Source::ClusterDefault));
    assert_eq!(found(&(), brokers, "max.message.bytes"), ("4".into(), Source::ClusterDefault));
    let brokers = BrokerLayers { cluster_default: &(), ..brokers };
    assert_eq!(found(&(), brokers, size), ("5000000".into(), Source::Static));
    assert_eq!(found(&(), brokers, "retention.ms"), ("3600000".into(), Source::Static));
    assert_eq!(found(&(), BrokerLayers::DEFAULTS, size), ("1073741824".into(), Source::Default));
}

#[test]
fn finer_units_win_over_coarser_ones() {
    let retention = |file: &[(&str, &str)]| topic_config(&[], file).retention_ms;
    assert_eq!(retention(&[("log.retention.hours", "2")]), 7_200_000);
    assert_eq!(retention(&[("log.retention.hours", "2"), ("log.retention.minutes", "3")]), 180_000);
    assert_eq!(retention(&[("log.retention.minutes", "3"), ("log.retention.ms", "4")]), 4);
    assert_eq!(retention(&[("log.retention.hours", "-1")]), -1);
    assert_eq!(topic_config(&[], &[("log.roll.hours", "1")]).segment_ms, 3_600_000);
    let flush = topic_config(&[], &[("log.flush.scheduler.interval.ms", "7")]);
    assert_eq!(flush.flush_ms, 7);
}

#[test]
fn values_are_parsed_as_kafka_parses_them() {
    let parse = |value_type, text| Value::parse(value_type, text).map(|value| value.to_string());
    assert_eq!(parse(ValueType::Boolean, " TRUE "), Ok("true".into()));
    assert_eq!(parse(ValueType::List, " a , b,c "), Ok("a,b,c".into()));
    assert_eq!(parse(ValueType::List, ""), Ok(String::new()));
    assert_eq!(parse(ValueType::Double, "1e20"), Ok("1.0E20".into()));
    assert_eq!(parse(ValueType::Double, "0.50"), Ok("0.5".into()));
    assert_eq!(parse(ValueType::Double, "100"), Ok("100.0".into()));
    assert_eq!(parse(ValueType::Password, "x"), Ok("[hidden]".into()));
    assert!(parse(ValueType::Int, "2147483648").is_err());
    assert!(parse(ValueType::Boolean, "1").is_err());
    assert!(parse(ValueType::Double, "NaN").is_err());
}

#[test]
fn values_outside_of_a_key_are_refused() {
    let parse = |name: &str, text: &str| definition(Scope::Topic, name).unwrap().parse(text);
    assert!(parse("retention.ms", "-1").is_ok() && parse("retention.ms", "-2").is_err());
    assert!(parse("compression.gzip.level", "-1").is_ok());
    assert!(parse("compression.gzip.level", "0").is_err());
    assert!(parse("cleanup.policy", "compact,delete").is_ok());
    assert!(parse("cleanup.policy", "").is_ok());
    assert!(parse("cleanup.policy", "compact,compact").is_err());
    assert!(parse("cleanup.policy", "shrink").is_err());
    assert!(parse("min.cleanable.dirty.ratio", "1.1").is_err());
    assert!(parse("leader.replication.throttled.replicas", "0:1,2:3").is_ok());
    assert!(parse("leader.replication.throttled.replicas", "*").is_ok());
    assert!(parse("leader.replication.throttled.replicas", "0-1").is_err());
    let reset = definition(Scope::Group, "share.auto.offset.reset").unwrap();
    for text in ["earliest", "latest", "by_duration:PT1H30M", "by_duration:P2DT0.5S"] {
        assert!(reset.parse(text).is_ok(), "{text}");
    }
    for text in ["", "by_duration:", "by_duration:P", "by_duration:PT", "by_duration:PT1M1H"] {
        assert!(reset.parse(text).is_err(), "{text}");
    }
}

#[test]
fn keys_of_one_listener_are_known() {
    let of = |name| definition(Scope::Broker, name).map(|key| key.name);
    assert_eq!(of("listener.name.internal.ssl.key.password"), Some("ssl.key.password"));
    assert_eq!(of("listener.name.a.scram-sha-256.sasl.jaas.config"), Some("sasl.jaas.config"));
    assert_eq!(of("listener.name.a.num.partitions"), None);
    assert_eq!(of("listener.name.a"), None);
    assert!(definition(Scope::Topic, "listener.name.a.ssl.key.password").is_none());
}

#[test]
fn the_example_file_loads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ottla.toml");
    let config = NodeConfig::load(path.as_ref()).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.node_id.0, 1);
    assert_eq!(config.listeners[0].to_string(), "PLAINTEXT://127.0.0.1:9092");
    assert_eq!(config.advertised_listeners, config.listeners);
    assert_eq!(config.cluster_listener.to_string(), "127.0.0.1:9192");
    let broker = BrokerConfig::resolve(config.layers(&(), &()));
    assert_eq!(broker.num_partitions, 3);
    assert_eq!(broker.max_connections_per_ip, 1000);
}

#[test]
fn names_may_be_quoted_dotted_or_tables() {
    for file in [
        "\"node.id\" = 1\n\"log.retention.ms\" = 5",
        "node.id = 1\nlog.retention.ms = 5",
        "[log.retention]\nms = 5\n[node]\nid = 1",
        "node = { id = 1 }\nlog = { retention = { ms = \"5\" } }",
    ] {
        let config = NodeConfig::from_toml(file).unwrap();
        assert_eq!(config.settings["log.retention.ms"], "5", "{file}");
    }
}

#[test]
fn a_wrong_file_is_refused_with_every_key_its_line_and_the_nearest_name() {
    let text = problems("node.id = 1\nlog.retension.ms = 5\n\nnum.partitions = 0\nlisteners = 4");
    assert_eq!(
        text,
        "line 2: log.retension.ms: unknown key; did you mean log.retention.ms?\n\
         line 4: num.partitions: must be at least 1\n\
         line 5: listeners: \"4\" is not of the form NAME://HOST:PORT"
    );
    assert_eq!(problems(""), "node.id: must be set");
    assert_eq!(problems("node.id = -1"), "line 1: node.id: must be at least 0");
    assert!(problems("node.id = 1\nretention.ms = 5").contains("set log.retention.ms"));
    assert!(problems("node.id = 1\nlog.retention.ms = 0").contains("line 2: log.retention.ms"));
    let twice = problems("\"node.id\" = 1\n[node]\nid = 2");
    assert_eq!(twice, "line 3: node.id: is set twice");
    assert!(
        problems("node.id = 1\nmax.connections = 1\nmax.connections.per.ip = 2").contains("quote")
    );
    assert!(problems("node.id = 1\nlog.dirs = 1979-05-27").contains("must be a text"));
    let small = "node.id = 1\nqueued.max.request.bytes = 5";
    assert!(problems(small).contains("must be at least socket.request.max.bytes (104857600)"));
}

#[test]
fn listeners_are_checked_against_each_other() {
    let with = |rest: &str| NodeConfig::from_toml(&format!("node.id = 1\n{rest}"));
    let config = with(
        "listeners = [\"A://[::1]:1\", \"B://h:2\"]\n\
        advertised.listeners = \"B://public:3\"\n\
        listener.security.protocol.map = \"A:PLAINTEXT,B:SSL\"",
    )
    .unwrap();
    assert_eq!(config.listeners[0].host, "::1");
    assert_eq!(config.listeners[1].protocol, SecurityProtocol::Ssl);
    assert_eq!(config.advertised_listeners[0].to_string(), "B://public:3");
    for wrong in [
        "listeners = \"C://h:1\"",
        "listeners = \"PLAINTEXT://0.0.0.0:1\"",
        "listeners = \"PLAINTEXT://h:1,PLAINTEXT://h:2\"",
        "listeners = \"PLAINTEXT://h:99999\"",
        "advertised.listeners = \"SSL://h:1\"",
        "ottla.http.listener = \"nowhere\"",
        "ottla.seeds = [\"nowhere\"]",
    ] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
    assert!(!with("").unwrap().advertised_listeners[0].host.is_empty());
}

#[test]
fn the_cluster_plane_s_keys_are_checked_together() {
    let with = |rest: &str| NodeConfig::from_toml(&format!("node.id = 1\n{rest}"));
    let config = with(
        "[ottla]\nseeds = [\"a:1\", \"[::1]:2\"]\ncluster.tls.ca = \"ca.crt\"\n\
        cluster.tls.cert = \"node.crt\"\ncluster.tls.key = \"node.key\"",
    )
    .unwrap();
    assert_eq!(config.seeds[1].to_string(), "[::1]:2");
    assert_eq!(config.cluster_tls.unwrap().certificate.to_str(), Some("node.crt"));
    assert_eq!(with("").unwrap().cluster_tls, None);
    assert_eq!(
        problems("node.id = 1\nottla.cluster.tls.cert = \"x\""),
        "ottla.cluster.tls.ca: must be set, as ottla.cluster.tls.cert is\n\
         ottla.cluster.tls.key: must be set, as ottla.cluster.tls.cert is"
    );
    let slow = problems("node.id = 1\nottla.cluster.keep.alive.ms = 5000");
    assert!(slow.contains("must be at least ottla.cluster.keep.alive.ms (5000)"), "{slow}");
}

#[test]
fn keys_without_effect_are_said() {
    let config = NodeConfig::from_toml("node.id = 1\nssl.protocol = \"TLSv1.3\"").unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].to_string().starts_with("line 2: ssl.protocol"));
}

fn alter(
    target: Target,
    current: &[(&str, &str)],
    alterations: &[(&str, Operation, Option<&str>)],
) -> Result<Vec<(String, Option<String>)>, AlterError> {
    let alterations: Vec<_> = alterations
        .iter()
        .map(|(name, operation, value)| Alteration { name, operation: *operation, value: *value })
        .collect();
    incremental(target, &set(current), BrokerLayers::DEFAULTS, &alterations)
        .map(|changes| changes.into_iter().map(|one| (one.name, one.value)).collect())
}

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    let key = "cleanup.policy";
    let one = |current: &str, operation, text| {
        let current = if current.is_empty() { vec![] } else { vec![(key, current)] };
        alter(Target::Topic, &current, &[(key, operation, Some(text))])
    };
    let to = |text: &str| Ok(vec![(key.to_owned(), Some(text.to_owned()))]);
    assert_eq!(one("", Operation::Append, "compact"), to("delete,compact"));
    assert_eq!(one("compact", Operation::Append, "delete,compact"), to("compact,delete"));
    assert_eq!(one("compact,delete", Operation::Subtract, "delete"), to("compact"));
    assert_eq!(one("compact", Operation::Append, "compact"), Ok(vec![]));
    assert!(one("", Operation::Append, "shrink").is_err());
    let number = alter(Target::Topic, &[], &[("retention.ms", Operation::Append, Some("1"))]);
    let error = number.unwrap_err();
    assert_eq!(error, AlterError::NotAList { name: "retention.ms".into() });
    assert_eq!(error.response_error(Target::Topic), ResponseError::InvalidConfig);
}

#[test]
fn wrong_alterations_are_refused() {
    use Operation::{Delete, Set};
    let topic = |list: &[(&str, Operation, Option<&str>)]| alter(Target::Topic, &[], list);
    assert!(matches!(
        topic(&[("retention.msx", Set, Some("1"))]),
        Err(AlterError::UnknownKey { nearest: Some("retention.ms"), .. })
    ));
    assert!(matches!(topic(&[("retention.ms", Set, None)]), Err(AlterError::NoValue { .. })));
    assert!(matches!(
        topic(&[("retention.ms", Set, Some("x"))]),
        Err(AlterError::InvalidValue { .. })
    ));
    assert!(matches!(
        topic(&[("retention.ms", Set, Some("1")), ("retention.ms", Delete, None)]),
        Err(AlterError::Duplicate { .. })
    ));
    assert!(matches!(
        topic(&[
            ("min.compaction.lag.ms", Set, Some("5")),
            ("max.compaction.lag.ms", Set, Some("4"))
        ]),
        Err(AlterError::Conflict { .. })
    ));
    assert_eq!(
        topic(&[("remote.storage.enable", Set, Some("true"))]),
        Err(AlterError::NoRemoteStorage)
    );
    assert_eq!(topic(&[("retention.ms", Delete, None)]), Ok(vec![]));
    let gone = alter(Target::Topic, &[("old.key", "1")], &[("old.key", Delete, None)]);
    assert_eq!(gone, Ok(vec![("old.key".into(), None)]), "a key of another release can be removed");
}

#[test]
fn broker_keys_change_only_where_they_may() {
    let set = |target, name| alter(target, &[], &[(name, Operation::Set, Some("1"))]);
    assert!(set(Target::ClusterDefault, "log.retention.ms").is_ok());
    assert!(set(Target::Broker, "log.retention.ms").is_ok());
    let error = set(Target::Broker, "log.retention.hours").unwrap_err();
    assert!(matches!(error, AlterError::ReadOnly { .. }));
    assert_eq!(error.response_error(Target::Broker), ResponseError::InvalidRequest);
    assert!(set(Target::Broker, "ssl.key.password").is_ok());
    assert!(matches!(
        set(Target::ClusterDefault, "ssl.key.password"),
        Err(AlterError::OneBrokerOnly { .. })
    ));
    assert!(matches!(
        set(Target::ClusterDefault, "listener.name.a.max.connections"),
        Err(AlterError::OneBrokerOnly { .. })
    ));
}

#[test]
fn a_replacement_takes_away_what_it_does_not_name() {
    let current = set(&[("retention.ms", "1"), ("segment.ms", "2")]);
    let changes =
        replace(Target::Topic, &current, BrokerLayers::DEFAULTS, &[("segment.ms", Some("3"))]);
    assert_eq!(
        changes.unwrap(),
        [
            Change { name: "segment.ms".into(), value: Some("3".into()) },
            Change { name: "retention.ms".into(), value: None },
        ]
    );
}

#[test]
fn a_description_tells_every_source() {
    let topic = set(&[("retention.ms", "1000")]);
    let file = set(&[("log.retention.hours", "1"), ("ssl.key.password", "secret")]);
    let brokers = BrokerLayers { file: &file, ..BrokerLayers::DEFAULTS };
    let entries = describe_topic(TopicLayers { topic: &topic, broker: brokers });
    let one = entries.iter().find(|one| one.name == "retention.ms").unwrap();
    assert_eq!((one.value.as_deref(), one.source), (Some("1000"), Source::Topic));
    let synonyms: Vec<_> = one
        .synonyms
        .iter()
        .map(|one| (one.name.as_str(), one.value.as_deref().unwrap(), one.source))
        .collect();
    assert_eq!(
        synonyms,
        [
            ("retention.ms", "1000", Source::Topic),
            ("log.retention.hours", "3600000", Source::Static),
            ("log.retention.hours", "604800000", Source::Default),
        ]
    );
    assert!(entries.iter().all(|one| !one.name.starts_with("internal.")));
    let broker = describe_broker(brokers);
    let one = broker.iter().find(|one| one.name == "ssl.key.password").unwrap();
    assert!(one.is_sensitive && one.value.is_none() && one.source == Source::Static);
    assert!(one.synonyms.iter().all(|one| one.value.is_none()), "a password is never shown");
    let retention = broker.iter().find(|one| one.name == "log.retention.ms").unwrap();
    assert_eq!(retention.value, None, "unset, though hours stand in for it");
    assert!(broker.len() > 330);
    let throttle = "leader.replication.throttled.rate";
    assert!(broker.iter().all(|one| one.name != throttle), "it is internal");
    let dynamic = set(&[(throttle, "5000")]);
    let broker = describe_broker(BrokerLayers { broker: &dynamic, ..brokers });
    let one = broker.iter().find(|one| one.name == throttle).expect("it is in force");
    assert_eq!((one.value.as_deref(), one.source), (Some("5000"), Source::Broker));
}

#[test]
fn only_what_is_set_is_described_for_all_brokers() {
    let cluster = set(&[("log.retention.ms", "5")]);
    let entries = describe_cluster_default(&cluster);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].source, Source::ClusterDefault);
    let file = set(&[("listener.name.a.ssl.client.auth", "required")]);
    let entries = describe_broker(BrokerLayers { file: &file, ..BrokerLayers::DEFAULTS });
    assert!(entries.iter().any(|one| one.name == "listener.name.a.ssl.client.auth"
        && one.value.as_deref() == Some("required")));
}

#[test]
fn a_group_takes_what_it_does_not_set_from_its_broker() {
    let file = set(&[("group.consumer.session.timeout.ms", "50000")]);
    let brokers = BrokerLayers { file: &file, ..BrokerLayers::DEFAULTS };
    let entries = describe_group(&set(&[("consumer.heartbeat.interval.ms", "6000")]), brokers);
    let value = |name: &str| {
        let one = entries.iter().find(|one| one.name == name).unwrap();
        (one.value.clone().unwrap(), one.source)
    };
    assert_eq!(value("consumer.session.timeout.ms"), ("50000".into(), Source::Static));
    assert_eq!(value("consumer.heartbeat.interval.ms"), ("6000".into(), Source::Group));
    assert_eq!(value("share.auto.offset.reset"), ("latest".into(), Source::Default));
}

#[test]
fn limits_for_single_addresses_are_read() {
    let file = set(&[("max.connections.per.ip.overrides", "127.0.0.1:5, ::1:6")]);
    let config = BrokerConfig::resolve(BrokerLayers { file: &file, ..BrokerLayers::DEFAULTS });
    let limits: Vec<_> = config.connections_per_ip().map(|(ip, n)| (ip.to_string(), n)).collect();
    assert_eq!(limits, [("127.0.0.1".to_owned(), 5), ("::1".to_owned(), 6)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_a_key_accepts_its_typed_struct_reads(text in "[ -~]{0,12}", number: i64) {
        for text in [text, number.to_string(), (number % 1000).to_string()] {
            for scope in [Scope::Topic, Scope::Broker] {
                for key in definitions(scope).filter(|key| key.parse(&text).is_ok()) {
                    let layer = set(&[(key.name, text.as_str())]);
                    let broker = BrokerLayers { file: &layer, ..BrokerLayers::DEFAULTS };
                    TopicConfig::resolve(TopicLayers { topic: &layer, broker });
                    BrokerConfig::resolve(broker);
                }
            }
        }
    }

    #[test]
    fn no_file_makes_the_loader_panic(text in "([a-z.\"]{1,12} = [0-9a-z\\[\\]\",:/]{1,12}\n){0,4}") {
        let _ = NodeConfig::from_toml(&text);
    }
}
