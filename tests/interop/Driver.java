// Kafka's own Java clients against the cluster at BOOTSTRAP. Run from its source:
//   java -cp 'LIB/*' Driver.java [NAME]

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.function.BooleanSupplier;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConfigEntry.ConfigSource;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.TransactionalIdAuthorizationException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Driver {
    static final String BOOTSTRAP = System.getenv().getOrDefault("BOOTSTRAP", "127.0.0.1:9092");
    static final short REPLICAS = Short.parseShort(System.getenv().getOrDefault("REPLICATION_FACTOR", "1"));
    static final Admin ADMIN = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP));
    static final long BASE_MS = 1_700_000_000_000L;

    interface Check {
        void run() throws Exception;
    }

    static String unique(String prefix) {
        return prefix + "-" + UUID.randomUUID().toString().substring(0, 12);
    }

    static void expect(Object found, Object wanted, String what) {
        if (!wanted.equals(found)) {
            throw new AssertionError(what + ": expected " + wanted + ", found " + found);
        }
    }

    static void until(BooleanSupplier condition, String what) throws InterruptedException {
        long end = System.nanoTime() + Duration.ofSeconds(45).toNanos();
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("not within 45 s: " + what);
            }
            Thread.sleep(10);
        }
    }

    static void refused(Future<?> future, Class<?> kind) throws Exception {
        try {
            future.get();
        } catch (ExecutionException error) {
            expect(error.getCause().getClass(), kind, "error (" + error.getCause().getMessage() + ")");
            return;
        }
        throw new AssertionError("was not refused with " + kind);
    }

    static String create(int partitions, Map<String, String> config) throws Exception {
        String name = unique("java");
        ADMIN.createTopics(List.of(new NewTopic(name, partitions, REPLICAS).configs(config))).all().get();
        until(() -> {
            try {
                var topic = ADMIN.describeTopics(List.of(name)).allTopicNames().get().get(name);
                return topic.partitions().stream().allMatch(one -> one.leader() != null);
            } catch (Exception notYet) {
                return false;
            }
        }, "leaders of " + name);
        return name;
    }

    static List<RecordMetadata> produce(String topic, List<String> values, Map<String, Object> config)
            throws Exception {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", BOOTSTRAP, "acks", "all",
                "linger.ms", 5, "delivery.timeout.ms", 30_000, "request.timeout.ms", 20_000));
        all.putAll(config);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = new KafkaProducer<>(all, new StringSerializer(), new StringSerializer())) {
            for (int n = 0; n < values.size(); n++) {
                var record = new ProducerRecord<>(topic, 0, BASE_MS + n, "key-" + n, values.get(n));
                record.headers().add("h", new byte[] {1});
                sent.add(producer.send(record));
            }
        }
        List<RecordMetadata> found = new ArrayList<>();
        for (var one : sent) {
            found.add(one.get());
        }
        return found;
    }

    static List<String> numbers(int count) {
        return IntStream.range(0, count).mapToObj(Integer::toString).toList();
    }

    static KafkaConsumer<String, String> consumer(String group, Map<String, Object> config) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", BOOTSTRAP,
                "auto.offset.reset", "earliest", "enable.auto.commit", false, "group.id", group,
                "session.timeout.ms", 10_000, "heartbeat.interval.ms", 500));
        all.putAll(config);
        return new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
    }

    static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> client, int count)
            throws InterruptedException {
        List<ConsumerRecord<String, String>> found = new ArrayList<>();
        until(() -> {
            client.poll(Duration.ofMillis(200)).forEach(found::add);
            return found.size() >= count;
        }, count + " records");
        return found;
    }

    static void everyCodec() throws Exception {
        String topic = create(1, Map.of());
        List<String> wanted = new ArrayList<>();
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            var values = IntStream.range(0, 200).mapToObj(n -> (codec + n + " ").repeat(40)).toList();
            produce(topic, values, Map.of("compression.type", codec));
            wanted.addAll(values);
        }
        try (var client = consumer(unique("java"), Map.of())) {
            client.assign(List.of(new TopicPartition(topic, 0)));
            var found = read(client, wanted.size());
            expect(found.stream().map(ConsumerRecord::value).toList(), wanted, "values");
            expect(found.get(5).timestamp(), BASE_MS + 5, "timestamp");
            expect(found.get(5).headers().lastHeader("h").value().length, 1, "header");
        }
    }

    static void everyAcks() throws Exception {
        String topic = create(1, Map.of());
        for (String acks : List.of("0", "1", "all")) {
            produce(topic, numbers(10), Map.of("acks", acks, "enable.idempotence", acks.equals("all")));
        }
        try (var client = consumer(unique("java"), Map.of())) {
            client.assign(List.of(new TopicPartition(topic, 0)));
            expect(read(client, 30).size(), 30, "records");
        }
    }

    static void idempotent() throws Exception {
        String topic = create(1, Map.of());
        var found = produce(topic, numbers(2000), Map.of("enable.idempotence", true, "batch.size", 200));
        for (int n = 0; n < found.size(); n++) {
            expect(found.get(n).offset(), (long) n, "offset");
        }
    }

    static void noTransactions() {
        Map<String, Object> config = Map.of("bootstrap.servers", BOOTSTRAP, "transactional.id", unique("java"));
        long started = System.nanoTime();
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            producer.initTransactions();
            throw new AssertionError("transactions are not served");
        } catch (TransactionalIdAuthorizationException refused) {
            expect(System.nanoTime() - started < 10_000_000_000L, true, "it fails at once");
        }
    }

    /** A member of a group on a thread of its own, since a consumer must keep polling. */
    static final class Member implements AutoCloseable {
        final Set<Integer> assigned = java.util.concurrent.ConcurrentHashMap.newKeySet();
        private final Thread thread;
        private volatile boolean stopping;
        private volatile Throwable failure;

        Member(String topic, String group, Map<String, Object> config) {
            thread = new Thread(() -> {
                try (var client = consumer(group, config)) {
                    client.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                        @Override
                        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                            partitions.forEach(one -> assigned.add(one.partition()));
                        }

                        @Override
                        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                            partitions.forEach(one -> assigned.remove(one.partition()));
                        }
                    });
                    while (!stopping) {
                        client.poll(Duration.ofMillis(100));
                    }
                } catch (Throwable error) {
                    failure = error;
                }
            });
            thread.start();
        }

        @Override
        public void close() throws Exception {
            stopping = true;
            thread.join();
            if (failure != null) {
                throw new AssertionError("a member failed", failure);
            }
        }
    }

    static void rebalance(String assignor) throws Exception {
        String topic = create(4, Map.of());
        String group = unique("java-rebalance");
        Map<String, Object> config = Map.of("partition.assignment.strategy", assignor);
        try (var first = new Member(topic, group, config)) {
            until(() -> first.assigned.size() == 4, "all partitions for the first member");
            try (var second = new Member(topic, group, config)) {
                until(() -> {
                    var both = new HashSet<>(first.assigned);
                    both.addAll(second.assigned);
                    return both.size() == 4 && first.assigned.size() == 2 && second.assigned.size() == 2;
                }, "two partitions for each");
                var described = ADMIN.describeConsumerGroups(List.of(group)).all().get().get(group);
                expect(described.members().size(), 2, "members");
            }
            until(() -> first.assigned.size() == 4, "all partitions again");
            refused(ADMIN.deleteConsumerGroups(List.of(group)).all(), GroupNotEmptyException.class);
        }
        ADMIN.deleteConsumerGroups(List.of(group)).all().get();
    }

    static void staticMembership() throws Exception {
        String topic = create(2, Map.of());
        String group = unique("java-static");
        Map<String, Object> config = Map.of("group.instance.id", "one");
        for (int round = 0; round < 2; round++) {
            try (var member = new Member(topic, group, config)) {
                until(() -> member.assigned.size() == 2, "an assignment");
            }
            var members = ADMIN.describeConsumerGroups(List.of(group)).all().get().get(group).members();
            expect(members.size(), 1, "members after close");
            expect(members.iterator().next().groupInstanceId().orElse(""), "one", "instance id");
        }
    }

    static void offsetsWithMetadata() throws Exception {
        String topic = create(2, Map.of());
        String group = unique("java-offsets");
        produce(topic, numbers(5), Map.of());
        var zero = new TopicPartition(topic, 0);
        var one = new TopicPartition(topic, 1);
        var offset = new OffsetAndMetadata(3, java.util.Optional.of(0), "what I was doing");
        try (var client = consumer(group, Map.of())) {
            client.assign(List.of(zero, one));
            client.commitSync(Map.of(zero, offset));
            var committed = client.committed(Set.of(zero, one));
            expect(committed.get(zero), offset, "committed offset");
            expect(String.valueOf(committed.get(one)), "null", "offset without a commit");
        }
        try (var client = consumer(group, Map.of())) {
            client.assign(List.of(zero));
            expect(read(client, 2).get(0).value(), "3", "first value after the commit");
        }
        var listed = ADMIN.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        expect(listed, Map.of(zero, offset), "offsets by admin");
        ADMIN.alterConsumerGroupOffsets(group, Map.of(zero, new OffsetAndMetadata(1))).all().get();
        ADMIN.deleteConsumerGroupOffsets(group, Set.of(zero)).all().get();
        listed = ADMIN.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        expect(listed, Map.of(), "offsets after their deletion");
    }

    static void seekByTimestamp() throws Exception {
        String topic = create(1, Map.of());
        produce(topic, numbers(100), Map.of());
        var partition = new TopicPartition(topic, 0);
        try (var client = consumer(unique("java"), Map.of())) {
            client.assign(List.of(partition));
            var at = client.offsetsForTimes(Map.of(partition, BASE_MS + 42)).get(partition);
            expect(at.offset(), 42L, "offset of a timestamp");
            client.seek(partition, at.offset());
            expect(read(client, 1).get(0).value(), "42", "value at the timestamp");
            expect(client.endOffsets(List.of(partition)).get(partition), 100L, "end");
        }
        var wanted = Map.of(OffsetSpec.earliest(), 0L, OffsetSpec.latest(), 100L,
                OffsetSpec.maxTimestamp(), 99L, OffsetSpec.forTimestamp(BASE_MS + 7), 7L);
        for (var one : wanted.entrySet()) {
            var found = ADMIN.listOffsets(Map.of(partition, one.getKey())).all().get().get(partition);
            expect(found.offset(), one.getValue(), one.getKey().toString());
        }
    }

    static Config describe(ConfigResource resource) throws Exception {
        var options = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
        return ADMIN.describeConfigs(List.of(resource), options).all().get().get(resource);
    }

    static Future<Void> alter(ConfigResource resource, OpType type, String name, String value) {
        var operation = new AlterConfigOp(new ConfigEntry(name, value), type);
        return ADMIN.incrementalAlterConfigs(Map.of(resource, List.of(operation))).all();
    }

    /** A change is acknowledged by the controller; another node may show it a moment later. */
    static void settles(ConfigResource resource, String name, String value) throws Exception {
        until(() -> {
            try {
                return describe(resource).get(name).value().equals(value);
            } catch (Exception error) {
                return false;
            }
        }, name + "=" + value);
    }

    static void configs() throws Exception {
        String topic = create(1, Map.of("retention.ms", "123456"));
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        var entry = describe(resource).get("retention.ms");
        expect(entry.value(), "123456", "retention.ms");
        expect(entry.source(), ConfigSource.DYNAMIC_TOPIC_CONFIG, "source");
        expect(entry.type(), ConfigEntry.ConfigType.LONG, "type");
        expect(entry.documentation() != null && !entry.documentation().isEmpty(), true, "documentation");
        var flush = describe(resource).get("flush.messages").synonyms().get(0);
        expect(flush.name(), "log.flush.interval.messages", "synonym of flush.messages");
        alter(resource, OpType.APPEND, "cleanup.policy", "compact").get();
        settles(resource, "cleanup.policy", "delete,compact");
        alter(resource, OpType.SUBTRACT, "cleanup.policy", "delete").get();
        settles(resource, "cleanup.policy", "compact");
        alter(resource, OpType.DELETE, "retention.ms", "").get();
        settles(resource, "retention.ms", "604800000");
        refused(alter(resource, OpType.SET, "retention.ms", "x"), InvalidConfigurationException.class);
        refused(alter(resource, OpType.SET, "no.such", "1"), InvalidConfigurationException.class);
        refused(alter(resource, OpType.APPEND, "retention.ms", "1"), InvalidConfigurationException.class);
        brokerConfigs();
    }

    static void brokerConfigs() throws Exception {
        var all = new ConfigResource(ConfigResource.Type.BROKER, "");
        alter(all, OpType.SET, "log.retention.ms", "7200000").get();
        until(() -> {
            try {
                return describe(all).get("log.retention.ms") != null;
            } catch (Exception error) {
                return false;
            }
        }, "the dynamic default");
        String topic = create(1, Map.of());
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        until(() -> {
            try {
                var entry = describe(resource).get("retention.ms");
                return entry.value().equals("7200000")
                        && entry.source() == ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG;
            } catch (Exception error) {
                return false;
            }
        }, "topics to take the dynamic default");
        alter(all, OpType.DELETE, "log.retention.ms", "").get();
        String id = ADMIN.describeCluster().nodes().get().iterator().next().idString();
        var broker = new ConfigResource(ConfigResource.Type.BROKER, id);
        refused(alter(broker, OpType.SET, "log.retention.hours", "1"),
                org.apache.kafka.common.errors.InvalidRequestException.class);
        expect(describe(broker).get("node.id").isReadOnly(), true, "node.id is read-only");
    }

    static void topics() throws Exception {
        String topic = create(3, Map.of());
        refused(ADMIN.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all(),
                TopicExistsException.class);
        refused(ADMIN.createTopics(List.of(new NewTopic("no good!", 1, (short) 1))).all(),
                InvalidTopicException.class);
        refused(ADMIN.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all(),
                InvalidPartitionsException.class);
        ADMIN.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        until(() -> {
            try {
                var found = ADMIN.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
                return found.partitions().size() == 5;
            } catch (Exception error) {
                return false;
            }
        }, "five partitions");
        ADMIN.deleteTopics(List.of(topic)).all().get();
        until(() -> {
            try {
                return !ADMIN.listTopics().names().get().contains(topic);
            } catch (Exception error) {
                return false;
            }
        }, "the topic gone");
        refused(ADMIN.deleteTopics(List.of(topic)).all(), UnknownTopicOrPartitionException.class);
    }

    static void deleteRecords() throws Exception {
        String topic = create(1, Map.of());
        produce(topic, numbers(10), Map.of());
        var partition = new TopicPartition(topic, 0);
        var deleted = ADMIN.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(6)));
        expect(deleted.lowWatermarks().get(partition).get().lowWatermark(), 6L, "low watermark");
        try (var client = consumer(unique("java"), Map.of())) {
            client.assign(List.of(partition));
            expect(read(client, 1).get(0).offset(), 6L, "first offset left");
        }
    }

    static void cluster() throws Exception {
        var found = ADMIN.describeCluster();
        int nodes = found.nodes().get().size();
        expect(found.clusterId().get() != null && nodes >= 1, true, "cluster id and nodes");
        var quorum = ADMIN.describeMetadataQuorum().quorumInfo().get();
        expect(quorum.voters().isEmpty(), false, "voters");
        var ids = found.nodes().get().stream().map(one -> one.id()).toList();
        String topic = create(1, Map.of());
        produce(topic, numbers(10), Map.of());
        long bytes = ADMIN.describeLogDirs(ids).allDescriptions().get().values().stream()
                .flatMap(dirs -> dirs.values().stream())
                .flatMap(dir -> dir.replicaInfos().entrySet().stream())
                .filter(one -> one.getKey().topic().equals(topic))
                .mapToLong(one -> one.getValue().size()).sum();
        expect(bytes > 0, true, "bytes of the topic in the log directories");
        var producers = ADMIN.describeProducers(List.of(new TopicPartition(topic, 0))).all().get();
        var active = producers.get(new TopicPartition(topic, 0)).activeProducers();
        expect(active.size(), 1, "active producers");
        expect(active.get(0).lastSequence(), 9, "last sequence");
    }

    public static void main(String[] args) {
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("produces with every codec and reads the same back", Driver::everyCodec);
        checks.put("produces with acks 0, 1 and all", Driver::everyAcks);
        checks.put("produces idempotently", Driver::idempotent);
        checks.put("fails at once where transactions are asked for", Driver::noTransactions);
        String assignors = "org.apache.kafka.clients.consumer.";
        for (String one : List.of("RangeAssignor", "CooperativeStickyAssignor")) {
            checks.put("rebalances when a second member joins and leaves (" + one + ")",
                    () -> rebalance(assignors + one));
        }
        checks.put("keeps a static member across a restart", Driver::staticMembership);
        checks.put("commits, fetches and deletes offsets with metadata", Driver::offsetsWithMetadata);
        checks.put("finds offsets by timestamp and by name", Driver::seekByTimestamp);
        checks.put("describes and alters configuration of topics and brokers", Driver::configs);
        checks.put("creates, grows and deletes topics", Driver::topics);
        checks.put("deletes records", Driver::deleteRecords);
        checks.put("describes cluster, quorum, log directories and producers", Driver::cluster);
        int passed = 0;
        int failed = 0;
        for (var check : checks.entrySet()) {
            if (args.length > 0 && !check.getKey().contains(args[0])) {
                continue;
            }
            try {
                check.getValue().run();
                System.out.println("ok   java: " + check.getKey());
                passed++;
            } catch (Throwable error) {
                System.out.println("FAIL java: " + check.getKey() + ": " + error);
                error.printStackTrace(System.out);
                failed++;
            }
        }
        ADMIN.close(Duration.ofSeconds(5));
        System.out.println("java: " + passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }
}
