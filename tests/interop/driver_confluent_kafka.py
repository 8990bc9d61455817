"""confluent-kafka (librdkafka) against the cluster at BOOTSTRAP."""

import time

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from checks import BOOTSTRAP, CODECS, REPLICAS, deadline, expect, expect_true, run, unique

ADMIN = AdminClient({"bootstrap.servers": BOOTSTRAP})
TIMEOUT_S = 30


def done(futures):
    """Waits for the futures of an admin call and returns the results by key."""
    return {key: future.result(TIMEOUT_S) for key, future in futures.items()}


def create(partitions=1, **config):
    """Makes a topic of its own and waits until metadata show it."""
    name = unique("confluent")
    done(ADMIN.create_topics([NewTopic(name, partitions, REPLICAS, config=config)]))
    late = deadline(TIMEOUT_S)
    while len(ADMIN.list_topics(name, TIMEOUT_S).topics[name].partitions) != partitions:
        late("the topic in metadata")
        time.sleep(0.05)
    return name


def produce(topic, values, **config):
    """Produces values with acks=all to partition 0 and fails if one is refused."""
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "linger.ms": 5, **config})
    errors, delivered = [], []

    def on_delivery(error, message):
        if error:
            errors.append(error)
        else:
            delivered.append(message.offset())

    for index, (key, value) in enumerate(values):
        producer.produce(
            topic, value, key, partition=0, timestamp=1_700_000_000_000 + index,
            headers=[("h", b"1"), ("h", None)], on_delivery=on_delivery,
        )
        producer.poll(0)
    expect(producer.flush(TIMEOUT_S), 0, "records left after flush")
    expect(errors, [], "delivery errors")
    return delivered


def consumer(group=None, **config):
    """A consumer that starts at the beginning and commits nothing by itself."""
    return Consumer({
        "bootstrap.servers": BOOTSTRAP,
        "group.id": group or unique("confluent-group"),
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 500,
        **config,
    })


def read(client, count, timeout_s=TIMEOUT_S):
    """Polls until so many messages came."""
    late, messages = deadline(timeout_s), []
    while len(messages) < count:
        late(f"{count} messages, {len(messages)} came")
        message = client.poll(0.2)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        messages.append(message)
    return messages


def every_codec():
    """produces with every codec and reads the same bytes, keys, headers and timestamps back"""
    topic = create()
    wanted = []
    for codec in CODECS:
        values = [(f"{codec}-{n}".encode(), (f"value {n} " * 40).encode()) for n in range(200)]
        produce(topic, values, **{"compression.type": codec, "enable.idempotence": True})
        wanted += values
    client = consumer()
    client.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    found = read(client, len(wanted))
    expect([(one.key(), one.value()) for one in found], wanted, "records")
    expect([one.offset() for one in found], list(range(len(wanted))), "offsets")
    expect(found[5].headers(), [("h", b"1"), ("h", None)], "headers")
    expect(found[5].timestamp()[1], 1_700_000_000_005, "timestamp")
    client.close()


def empty_and_null():
    """keeps empty and null keys and values apart"""
    topic = create()
    wanted = [(None, None), (b"", b""), (b"k", None), (None, b"v")]
    produce(topic, wanted)
    client = consumer()
    client.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    expect([(one.key(), one.value()) for one in read(client, 4)], wanted, "records")
    client.close()


def every_acks():
    """produces with acks 0, 1 and all"""
    topic = create()
    for acks in ["0", "1", "all"]:
        produce(topic, [(None, b"v")] * 10, acks=acks)
    client = consumer()
    client.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    read(client, 30)
    client.close()


def too_large():
    """refuses a batch above max.message.bytes as MSG_SIZE_TOO_LARGE"""
    topic = create(**{"max.message.bytes": "2000"})
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "message.timeout.ms": 10_000})
    errors = []
    producer.produce(topic, b"x" * 5000, on_delivery=lambda error, _: errors.append(error))
    producer.flush(TIMEOUT_S)
    expect([one.code() for one in errors], [KafkaError.MSG_SIZE_TOO_LARGE], "errors")


def keyless_on_compacted():
    """refuses a record without a key on a compacted topic as INVALID_RECORD"""
    topic = create(**{"cleanup.policy": "compact"})
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "message.timeout.ms": 10_000})
    errors = []
    producer.produce(topic, b"v", on_delivery=lambda error, _: errors.append(error))
    producer.flush(TIMEOUT_S)
    expect([one.code() for one in errors], [KafkaError.INVALID_RECORD], "errors")


def rebalance(strategy):
    """Two members of a group share four partitions, and one gets all of them back."""
    topic = create(partitions=4)
    group = unique("confluent-rebalance")
    assigned = {}

    def member(name):
        client = consumer(group, **{"partition.assignment.strategy": strategy})
        assigned[name] = set()

        def gained(_, partitions):
            now = {one.partition for one in partitions}
            assigned[name] = assigned[name] | now if "cooperative" in strategy else now

        def gone(_, partitions):
            assigned[name] -= {one.partition for one in partitions}

        client.subscribe([topic], on_assign=gained, on_revoke=gone, on_lost=gone)
        return client

    def until(condition, what, *clients):
        late = deadline(45)
        while not condition():
            late(f"{what}: {assigned}")
            for client in clients:
                message = client.poll(0.1)
                if message and message.error():
                    raise KafkaException(message.error())

    first = member("first")
    until(lambda: len(assigned["first"]) == 4, "all partitions for the first member", first)
    second = member("second")
    until(
        lambda: len(assigned["first"]) == 2 and len(assigned["second"]) == 2
        and not assigned["first"] & assigned["second"],
        "two partitions for each", first, second,
    )
    second.close()
    until(lambda: len(assigned["first"]) == 4, "all partitions again", first)
    described = done(ADMIN.describe_consumer_groups([group]))[group]
    expect(described.state.name, "STABLE", "state of the group")
    expect(len(described.members), 1, "members of the group")
    first.close()
    done(ADMIN.delete_consumer_groups([group]))


def eager_rebalance():
    """rebalances when a second member joins and leaves (range)"""
    rebalance("range")


def cooperative_rebalance():
    """rebalances when a second member joins and leaves (cooperative-sticky)"""
    rebalance("cooperative-sticky")


def static_membership():
    """gives a static member its partitions back without a rebalance"""
    topic, group = create(partitions=2), unique("confluent-static")

    def join(instance):
        client = consumer(group, **{"group.instance.id": instance})
        client.subscribe([topic])
        late = deadline(45)
        while not client.assignment():
            late("an assignment")
            client.poll(0.1)
        return client

    def member():
        members = done(ADMIN.describe_consumer_groups([group]))[group].members
        expect([one.group_instance_id for one in members], ["one"], "instance ids")
        return members[0]

    client = join("one")
    before = member()
    client.close()
    # A static member does not leave when it closes; it is back under a new member id at once.
    expect(member().member_id, before.member_id, "member id after close")
    started = time.monotonic()
    client = join("one")
    expect_true(time.monotonic() - started < 8, "back before the session times out")
    expect_true(member().member_id != before.member_id, "a new member id")
    client.close()


def offsets_with_metadata():
    """commits offsets with metadata and fetches them back; unknown ones are unset"""
    topic, group = create(partitions=2), unique("confluent-offsets")
    produce(topic, [(None, b"v")] * 5)
    client = consumer(group)
    client.commit(offsets=[TopicPartition(topic, 0, 3, "what I was doing")], asynchronous=False)
    found = client.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], TIMEOUT_S)
    expect(found[0].offset, 3, "offset")
    expect(found[0].metadata, "what I was doing", "metadata")
    expect(found[1].offset, -1001, "offset of a partition without a commit")
    client.assign([TopicPartition(topic, 0)])
    expect(read(client, 2)[0].offset(), 3, "first offset after the commit")
    client.close()
    by_admin = ADMIN.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    listed = done(by_admin)[group].topic_partitions
    expect([(one.partition, one.offset) for one in listed], [(0, 3)], "offsets by admin")
    change = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 1)])
    done(ADMIN.alter_consumer_group_offsets([change]))
    expect(done(ADMIN.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))[
        group].topic_partitions[0].offset, 1, "offset altered by admin")


def group_resumes():
    """resumes a group where it committed, with a subscription"""
    topic, group = create(), unique("confluent-resume")
    produce(topic, [(None, str(n).encode()) for n in range(20)])
    for expected in (b"0", b"10"):
        client = consumer(group)
        client.subscribe([topic])
        messages = read(client, 10)
        expect(messages[0].value(), expected, "first value")
        client.commit(messages[9], asynchronous=False)
        client.close()


def seek_by_timestamp():
    """finds offsets by timestamp, and the ends"""
    topic = create()
    produce(topic, [(None, str(n).encode()) for n in range(100)])
    client = consumer()
    at = client.offsets_for_times([TopicPartition(topic, 0, 1_700_000_000_042)], TIMEOUT_S)
    expect(at[0].offset, 42, "offset of a timestamp")
    after = client.offsets_for_times([TopicPartition(topic, 0, 1_900_000_000_000)], TIMEOUT_S)
    expect(after[0].offset, -1, "offset of a timestamp after the end")
    client.assign(at)
    expect(read(client, 1)[0].value(), b"42", "value at the timestamp")
    client.seek(TopicPartition(topic, 0, 7))
    expect(read(client, 1)[0].value(), b"7", "value after a seek")
    ends = client.get_watermark_offsets(TopicPartition(topic, 0), TIMEOUT_S)
    expect(ends, (0, 100), "low and high watermark")
    client.close()


def list_offsets():
    """lists earliest, latest, max-timestamp and by-timestamp offsets by admin"""
    topic = create()
    produce(topic, [(None, b"v")] * 10)
    partition = TopicPartition(topic, 0)
    for spec, wanted in [
        (OffsetSpec.earliest(), 0), (OffsetSpec.latest(), 10),
        (OffsetSpec.max_timestamp(), 9), (OffsetSpec.for_timestamp(1_700_000_000_004), 4),
    ]:
        found = done(ADMIN.list_offsets(
            {partition: spec}, isolation_level=IsolationLevel.READ_UNCOMMITTED))
        expect(found[partition].offset, wanted, f"{spec}")


def out_of_range():
    """answers an offset out of range with a reset, or an error where that is asked for"""
    topic = create()
    produce(topic, [(None, b"v")] * 3)
    client = consumer(**{"auto.offset.reset": "error"})
    client.assign([TopicPartition(topic, 0, 99)])
    late, message = deadline(TIMEOUT_S), None
    while message is None:
        late("an error")
        message = client.poll(0.2)
    expect(message.error().code(), KafkaError._AUTO_OFFSET_RESET, "error")
    client.close()


def topics():
    """creates, describes and deletes topics, and refuses what is wrong with each"""
    topic = create(partitions=3)
    described = done(ADMIN.describe_topics(TopicCollection([topic])))[topic]
    expect(len(described.partitions), 3, "partitions described")
    for new, code in [
        (NewTopic(topic, 1, 1), KafkaError.TOPIC_ALREADY_EXISTS),
        (NewTopic("no good name!", 1, 1), KafkaError.TOPIC_EXCEPTION),
        (NewTopic(unique("t"), 0, 1), KafkaError.INVALID_PARTITIONS),
        (NewTopic(unique("t"), 1, 1, config={"no.such": "1"}), KafkaError.INVALID_CONFIG),
    ]:
        try:
            done(ADMIN.create_topics([new]))
            expect(None, code, "error")
        except KafkaException as error:
            expect(error.args[0].code(), code, f"creation of {new}")
    done(ADMIN.delete_topics([topic]))
    late = deadline(TIMEOUT_S)
    while topic in ADMIN.list_topics(timeout=TIMEOUT_S).topics:
        late("the topic gone from metadata")
        time.sleep(0.05)
    try:
        done(ADMIN.delete_topics([topic]))
        expect(None, KafkaError.UNKNOWN_TOPIC_OR_PART, "error")
    except KafkaException as error:
        expect(error.args[0].code(), KafkaError.UNKNOWN_TOPIC_OR_PART, "second deletion")


def partitions():
    """adds partitions, and refuses fewer"""
    topic = create(partitions=1)
    done(ADMIN.create_partitions([NewPartitions(topic, 4)]))
    late = deadline(TIMEOUT_S)
    while len(ADMIN.list_topics(topic, TIMEOUT_S).topics[topic].partitions) != 4:
        late("four partitions in metadata")
        time.sleep(0.05)
    try:
        done(ADMIN.create_partitions([NewPartitions(topic, 2)]))
        expect(None, KafkaError.INVALID_PARTITIONS, "error")
    except KafkaException as error:
        expect(error.args[0].code(), KafkaError.INVALID_PARTITIONS, "fewer partitions")


def configs():
    """describes configuration and alters it, with append and subtract"""
    topic = create(**{"retention.ms": "123456"})

    def resource(*entries):
        return ConfigResource(ResourceType.TOPIC, topic, incremental_configs=list(entries))

    def described():
        return done(ADMIN.describe_configs([resource()])).popitem()[1]

    def settles(name, value, what):
        # A change is acknowledged by the controller; another node may show it a moment later.
        late = deadline(TIMEOUT_S)
        while (found := described()[name].value) != value:
            late(f"{what}: expected {value}, found {found}")
            time.sleep(0.05)

    def alter(name, operation, value=None):
        entry = ConfigEntry(name, value, incremental_operation=operation)
        done(ADMIN.incremental_alter_configs([resource(entry)]))

    found = described()
    expect(found["retention.ms"].value, "123456", "retention.ms")
    expect(found["retention.ms"].source, 1, "source of retention.ms")
    expect(found["segment.bytes"].source, 5, "source of segment.bytes")
    expect_true(len(found) >= 30, f"every key is described, not {len(found)}")
    alter("cleanup.policy", AlterConfigOpType.APPEND, "compact")
    settles("cleanup.policy", "delete,compact", "after append")
    alter("cleanup.policy", AlterConfigOpType.SUBTRACT, "delete")
    settles("cleanup.policy", "compact", "after subtract")
    alter("retention.ms", AlterConfigOpType.DELETE)
    settles("retention.ms", "604800000", "after delete")
    for name, value in [("retention.ms", "soon"), ("no.such.key", "1")]:
        try:
            alter(name, AlterConfigOpType.SET, value)
            expect(None, KafkaError.INVALID_CONFIG, "error")
        except KafkaException as error:
            expect(error.args[0].code(), KafkaError.INVALID_CONFIG, f"{name}={value}")
    brokers = ADMIN.list_topics(timeout=TIMEOUT_S).brokers
    broker = ConfigResource(ResourceType.BROKER, str(next(iter(brokers))))
    found = done(ADMIN.describe_configs([broker])).popitem()[1]
    expect_true(len(found) >= 300, f"every broker key is described, not {len(found)}")
    expect_true(found["log.dirs"].is_read_only, "log.dirs is read-only")


def records():
    """deletes records before an offset"""
    topic = create()
    produce(topic, [(None, str(n).encode()) for n in range(10)])
    found = done(ADMIN.delete_records([TopicPartition(topic, 0, 6)]))
    expect(found.popitem()[1].low_watermark, 6, "low watermark")
    client = consumer()
    client.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    expect(read(client, 1)[0].offset(), 6, "first offset left")
    client.close()


def groups():
    """lists and deletes groups, and refuses one with members"""
    topic, group = create(), unique("confluent-groups")
    client = consumer(group)
    client.subscribe([topic])
    late = deadline(45)
    while not client.assignment():
        late("an assignment")
        client.poll(0.1)
    listed = ADMIN.list_consumer_groups().result(TIMEOUT_S).valid
    expect_true(group in [one.group_id for one in listed], "the group is listed")
    try:
        done(ADMIN.delete_consumer_groups([group]))
        expect(None, KafkaError.NON_EMPTY_GROUP, "error")
    except KafkaException as error:
        expect(error.args[0].code(), KafkaError.NON_EMPTY_GROUP, "deletion with a member")
    client.close()
    done(ADMIN.delete_consumer_groups([group]))
    listed = ADMIN.list_consumer_groups().result(TIMEOUT_S).valid
    expect_true(group not in [one.group_id for one in listed], "the group is gone")


def cluster():
    """describes the cluster"""
    found = ADMIN.describe_cluster().result(TIMEOUT_S)
    expect_true(found.cluster_id, "a cluster id")
    expect_true(len(found.nodes) >= 1 and found.controller is not None, "nodes and a controller")


def auto_creation():
    """creates a topic that is produced to"""
    topic = unique("confluent-auto")
    produce(topic, [(None, b"v")])
    expect_true(topic in ADMIN.list_topics(timeout=TIMEOUT_S).topics, "the topic exists")


def no_transactions():
    """fails at once, and for good, where transactions are asked for"""
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "transactional.id": unique("confluent")})
    started = time.monotonic()
    try:
        producer.init_transactions(TIMEOUT_S)
        expect(None, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "error")
    except KafkaException as error:
        code = error.args[0].code()
        expect(code, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "error")
        expect_true(error.args[0].fatal(), "the error is final")
        expect_true("Transactions are not served" in str(error), f"the reason is in {error}")
    expect_true(time.monotonic() - started < 5, "it fails at once")


def long_poll():
    """wakes a waiting fetch when a record comes"""
    topic = create()
    client = consumer(**{"fetch.wait.max.ms": 20_000, "fetch.min.bytes": 1,
                         "socket.timeout.ms": 60_000})
    client.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    client.poll(1)
    started = time.monotonic()
    produce(topic, [(None, b"v")])
    read(client, 1)
    expect_true(time.monotonic() - started < 5, "the fetch was woken")
    client.close()


run("confluent-kafka", [
    every_codec, empty_and_null, every_acks, too_large, keyless_on_compacted, group_resumes,
    eager_rebalance, cooperative_rebalance, static_membership, offsets_with_metadata,
    seek_by_timestamp, list_offsets, out_of_range, topics, partitions, configs, records, groups,
    cluster, auto_creation, no_transactions, long_poll,
])
