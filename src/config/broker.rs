//! The configuration of a broker, typed: what a node reads besides the defaults of topics.

use super::fields::config_struct;
use super::layers::BrokerLayers;

config_struct! {
    /// What a node needs to know beyond its identity and its listeners.
    BrokerConfig from BrokerLayers<'_> {
        /// Create topics on a client's metadata request.
        auto_create_topics_enable: bool = "auto.create.topics.enable",
        /// Hand leadership back to preferred replicas.
        auto_leader_rebalance_enable: bool = "auto.leader.rebalance.enable",
        /// Time between two heartbeats to the controller.
        broker_heartbeat_interval_ms: i32 = "broker.heartbeat.interval.ms",
        /// Time without a heartbeat until a broker is fenced.
        broker_session_timeout_ms: i32 = "broker.session.timeout.ms",
        /// Idle time after which a client connection is closed.
        connections_max_idle_ms: i64 = "connections.max.idle.ms",
        /// Replicas of a topic created without saying how many.
        default_replication_factor: i32 = "default.replication.factor",
        /// Allow topics to be deleted.
        delete_topic_enable: bool = "delete.topic.enable",
        /// Most bytes of one fetch response.
        fetch_max_bytes: i32 = "fetch.max.bytes",
        /// Bytes a second that replicas take in that are throttled as followers.
        follower_replication_throttled_rate: i64 = "follower.replication.throttled.rate",
        /// Time an empty classic group waits for members.
        group_initial_rebalance_delay_ms: i32 = "group.initial.rebalance.delay.ms",
        /// Largest session timeout of a classic group.
        group_max_session_timeout_ms: i32 = "group.max.session.timeout.ms",
        /// Most members of a classic group.
        group_max_size: i32 = "group.max.size",
        /// Smallest session timeout of a classic group.
        group_min_session_timeout_ms: i32 = "group.min.session.timeout.ms",
        /// Bytes a second that are sent for replicas that are throttled as leaders.
        leader_replication_throttled_rate: i64 = "leader.replication.throttled.rate",
        /// Time between two looks for leaders that are not preferred.
        leader_imbalance_check_interval_seconds: i64 =
            "leader.imbalance.check.interval.seconds",
        /// Pause of an idle compaction.
        log_cleaner_backoff_ms: i64 = "log.cleaner.backoff.ms",
        /// Memory for keys in compaction.
        log_cleaner_dedupe_buffer_size_bytes: i64 = "log.cleaner.dedupe.buffer.size",
        /// Run compaction.
        log_cleaner_enable: bool = "log.cleaner.enable",
        /// Bytes a second that compaction reads and writes.
        log_cleaner_io_max_bytes_per_second: f64 = "log.cleaner.io.max.bytes.per.second",
        /// Threads of compaction.
        log_cleaner_threads: i32 = "log.cleaner.threads",
        /// Time between two writes of the recovery points.
        log_dir_failure_timeout_ms: i64 = "log.dir.failure.timeout.ms",
        log_flush_offset_checkpoint_interval_ms: i32 = "log.flush.offset.checkpoint.interval.ms",
        /// Time between two looks for expired segments.
        log_retention_check_interval_ms: i64 = "log.retention.check.interval.ms",
        /// New connections a second.
        max_connection_creation_rate: i32 = "max.connection.creation.rate",
        /// Connections at once.
        max_connections: i32 = "max.connections",
        /// Connections of one address at once.
        max_connections_per_ip: i32 = "max.connections.per.ip",
        /// Other limits for single addresses; see [`BrokerConfig::connections_per_ip`].
        max_connections_per_ip_overrides: String = "max.connections.per.ip.overrides",
        /// Fetch sessions at once.
        max_incremental_fetch_session_cache_slots: i32 =
            "max.incremental.fetch.session.cache.slots",
        /// Partitions of one DescribeTopicPartitions response.
        max_request_partition_size_limit: i32 = "max.request.partition.size.limit",
        /// Largest batch, unless a topic says otherwise.
        message_max_bytes: i32 = "message.max.bytes",
        /// Replicas that are copied to another log directory at a time; as many as there are
        /// directories where unset.
        num_replica_alter_log_dirs_threads: Option<i32> = "num.replica.alter.log.dirs.threads",
        /// Partitions of a topic created without saying how many.
        num_partitions: i32 = "num.partitions",
        /// Threads that load the logs of a directory.
        num_recovery_threads_per_data_dir: i32 = "num.recovery.threads.per.data.dir",
        /// Largest metadata of a committed offset.
        offset_metadata_max_bytes: i32 = "offset.metadata.max.bytes",
        /// Longest wait of an offset commit.
        offsets_commit_timeout_ms: i32 = "offsets.commit.timeout.ms",
        /// Bytes read at a time when offsets are loaded.
        offsets_load_buffer_size_bytes: i32 = "offsets.load.buffer.size",
        /// Time between two looks for expired offsets.
        offsets_retention_check_interval_ms: i64 = "offsets.retention.check.interval.ms",
        /// Minutes that offsets outlive their group.
        offsets_retention_minutes: i32 = "offsets.retention.minutes",
        /// Partitions of the offsets topic.
        offsets_topic_num_partitions: i32 = "offsets.topic.num.partitions",
        /// Replicas of the offsets topic.
        offsets_topic_replication_factor: i16 = "offsets.topic.replication.factor",
        /// Segment size of the offsets topic.
        offsets_topic_segment_bytes: i32 = "offsets.topic.segment.bytes",
        /// Spread replicas and leaders evenly.
        ottla_balancer_enable: bool = "ottla.balancer.enable",
        /// Time between two looks for what is uneven.
        ottla_balancer_check_interval_seconds: i32 = "ottla.balancer.check.interval.seconds",
        /// Partitions that the balancer moves at a time.
        ottla_balancer_concurrent_moves: i32 = "ottla.balancer.concurrent.moves",
        /// Bytes a second of what the balancer moves; 0 without limit.
        ottla_balancer_throttle_bytes_per_second: i64 =
            "ottla.balancer.throttle.bytes.per.second",
        /// The broker shall be empty.
        ottla_broker_drain: bool = "ottla.broker.drain",
        /// Time after which the replicas of a failed log directory begin anew in another one.
        ottla_log_dir_replacement_grace_ms: i64 = "ottla.log.dir.replacement.grace.ms",
        /// Time that a producer's state is kept.
        producer_id_expiration_ms: i32 = "producer.id.expiration.ms",
        /// Memory of requests in flight; -1 without limit.
        queued_max_request_bytes: i64 = "queued.max.request.bytes",
        /// Bytes a second that are copied between the log directories of the node.
        replica_alter_log_dirs_io_max_bytes_per_second: i64 =
            "replica.alter.log.dirs.io.max.bytes.per.second",
        /// Time without having everything after which a replica is out of sync.
        replica_lag_time_max_ms: i64 = "replica.lag.time.max.ms",
        /// How a consumer finds the replica to fetch from; the leader where unset.
        replica_selector_class: Option<String> = "replica.selector.class",
        /// Longest wait for another node.
        request_timeout_ms: i32 = "request.timeout.ms",
        /// Connections waiting to be accepted.
        socket_listen_backlog_size: i32 = "socket.listen.backlog.size",
        /// Receive buffer of connections; -1 leaves it to the system.
        socket_receive_buffer_bytes: i32 = "socket.receive.buffer.bytes",
        /// Largest request.
        socket_request_max_bytes: i32 = "socket.request.max.bytes",
        /// Send buffer of connections; -1 leaves it to the system.
        socket_send_buffer_bytes: i32 = "socket.send.buffer.bytes",
    }
}

impl BrokerConfig {
    /// The most connections that single addresses may have at once.
    pub fn connections_per_ip(&self) -> impl Iterator<Item = (std::net::IpAddr, i32)> {
        self.max_connections_per_ip_overrides.split(',').filter_map(|entry| {
            let (address, limit) = entry.trim().rsplit_once(':')?;
            Some((address.parse().ok()?, limit.parse().ok()?))
        })
    }
}

impl Default for BrokerConfig {
    /// The configuration of a broker for which nothing is set.
    fn default() -> Self {
        Self::resolve(BrokerLayers::DEFAULTS)
    }
}
