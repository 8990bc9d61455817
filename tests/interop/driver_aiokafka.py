"""aiokafka (pure Python, older protocol versions) against the cluster at BOOTSTRAP."""

import asyncio
import inspect

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.structs import OffsetAndMetadata

from checks import (
    BOOTSTRAP, CODECS, REPLICAS, chosen, deadline, expect, expect_true, outcome, report, unique,
)

TIMEOUT_S = 30


class Session:
    """An admin client, and everything else that must be closed at the end of a check."""

    async def __aenter__(self):
        self.open = []
        self.admin = await self.start(AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP), "close")
        return self

    async def __aexit__(self, *_):
        for stop in reversed(self.open):
            await stop()

    async def start(self, client, stop="stop"):
        """Starts a client and remembers to stop it."""
        await client.start()
        self.open.append(getattr(client, stop))
        return client

    async def create(self, partitions=1, **config):
        """Makes a topic of its own."""
        name = unique("aiokafka")
        await self.admin.create_topics([NewTopic(name, partitions, REPLICAS, topic_configs=config)])
        return name

    async def produce(self, topic, values, **config):
        """Produces keys and values to partition 0 with acks=all."""
        config = {"acks": "all", **config}
        producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, linger_ms=5, **config)
        await producer.start()
        sent = [
            await producer.send(
                topic, value, key, partition=0, timestamp_ms=1_700_000_000_000 + index,
                headers=[("h", b"1")])
            for index, (key, value) in enumerate(values)
        ]
        found = await asyncio.gather(*sent)
        await producer.stop()
        return [one.offset for one in found if one]

    async def consumer(self, *topics, group=None, listener=None, **config):
        """A consumer that starts at the beginning and commits nothing by itself."""
        client = AIOKafkaConsumer(
            bootstrap_servers=BOOTSTRAP, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, session_timeout_ms=10_000, heartbeat_interval_ms=500,
            metadata_max_age_ms=2_000, **config)
        if topics:
            client.subscribe(topics, listener=listener)
        return await self.start(client)

    async def read(self, client, count):
        """Reads until so many messages came."""
        return [await asyncio.wait_for(client.getone(), TIMEOUT_S) for _ in range(count)]


async def every_codec(session):
    """produces with every codec and reads the same back"""
    topic, wanted = await session.create(), []
    for codec in CODECS:
        values = [(f"{codec}-{n}".encode(), (f"value {n} " * 40).encode()) for n in range(200)]
        kind = None if codec == "none" else codec
        await session.produce(topic, values, compression_type=kind)
        wanted += values
    client = await session.consumer()
    client.assign([TopicPartition(topic, 0)])
    found = await session.read(client, len(wanted))
    expect([(one.key, one.value) for one in found], wanted, "records")
    expect([one.offset for one in found], list(range(len(wanted))), "offsets")
    expect(found[5].headers, (("h", b"1"),), "headers")
    expect(found[5].timestamp, 1_700_000_000_005, "timestamp")


async def idempotent(session):
    """produces idempotently"""
    topic = await session.create()
    values = [(None, str(n).encode()) for n in range(500)]
    offsets = await session.produce(topic, values, enable_idempotence=True)
    expect(offsets, list(range(500)), "offsets")


async def every_acks(session):
    """produces with acks 0, 1 and all"""
    topic = await session.create()
    for acks in [0, 1, "all"]:
        await session.produce(topic, [(None, b"v")] * 10, acks=acks)
    client = await session.consumer()
    client.assign([TopicPartition(topic, 0)])
    await session.read(client, 30)


class Assigned(ConsumerRebalanceListener):
    """Remembers what a member of a group holds."""

    def __init__(self):
        self.partitions = set()

    def on_partitions_assigned(self, assigned):
        self.partitions = {one.partition for one in assigned}

    def on_partitions_revoked(self, revoked):
        self.partitions -= {one.partition for one in revoked}


async def rebalance(session, assignor):
    """Two members of a group share four partitions, and one gets all of them back."""
    topic, group = await session.create(partitions=4), unique("aiokafka-rebalance")
    one, other = Assigned(), Assigned()
    config = {"group": group, "partition_assignment_strategy": (assignor,)}

    async def until(condition, what):
        late = deadline(45)
        while not condition():
            late(f"{what}: {one.partitions} and {other.partitions}")
            await asyncio.sleep(0.05)

    await session.consumer(topic, listener=one, **config)
    await until(lambda: len(one.partitions) == 4, "all partitions for the first member")
    second = await session.consumer(topic, listener=other, **config)
    await until(
        lambda: (len(one.partitions), len(other.partitions)) == (2, 2)
        and not one.partitions & other.partitions, "two partitions for each")
    await second.stop()
    await until(lambda: len(one.partitions) == 4, "all partitions again")


async def range_rebalance(session):
    """rebalances when a second member joins and leaves (range)"""
    await rebalance(session, RangePartitionAssignor)


async def sticky_rebalance(session):
    """rebalances when a second member joins and leaves (sticky)"""
    await rebalance(session, StickyPartitionAssignor)


async def static_membership(session):
    """joins as a static member"""
    topic, group = await session.create(), unique("aiokafka-static")
    await session.produce(topic, [(None, b"v")])
    client = await session.consumer(topic, group=group, group_instance_id="one")
    await session.read(client, 1)


async def offsets_with_metadata(session):
    """commits offsets with metadata and fetches them back; unknown ones are unset"""
    topic, group = await session.create(partitions=2), unique("aiokafka-offsets")
    await session.produce(topic, [(None, str(n).encode()) for n in range(5)])
    partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    client = await session.consumer(group=group)
    client.assign(partitions)
    await client.commit({partitions[0]: OffsetAndMetadata(3, "what I was doing")})
    expect(await client.committed(partitions[0]), 3, "offset")
    expect(await client.committed(partitions[1]), None, "offset without a commit")
    listed = await session.admin.list_consumer_group_offsets(group)
    expect(listed[partitions[0]], OffsetAndMetadata(3, "what I was doing"), "offset by admin")
    again = await session.consumer(group=group)
    again.assign(partitions)
    expect((await session.read(again, 1))[0].value, b"3", "first value after the commit")


async def seek_by_timestamp(session):
    """finds offsets by timestamp and the ends, and seeks"""
    topic = await session.create()
    await session.produce(topic, [(None, str(n).encode()) for n in range(100)])
    partition = TopicPartition(topic, 0)
    client = await session.consumer()
    client.assign([partition])
    found = await client.offsets_for_times({partition: 1_700_000_000_042})
    expect(found[partition].offset, 42, "offset of a timestamp")
    found = await client.offsets_for_times({partition: 1_900_000_000_000})
    expect(found[partition], None, "offset of a timestamp after the end")
    expect(await client.beginning_offsets([partition]), {partition: 0}, "beginning")
    expect(await client.end_offsets([partition]), {partition: 100}, "end")
    client.seek(partition, 7)
    expect((await session.read(client, 1))[0].value, b"7", "value after a seek")


async def admin(session):
    """alters configuration, adds partitions, deletes records, groups and topics"""
    topic = await session.create(**{"retention.ms": "123456"})
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)

    async def described():
        found = await session.admin.describe_configs([resource])
        return {one[0]: one[1] for one in found[0].resources[0][4]}

    expect((await described())["retention.ms"], "123456", "retention.ms")
    change = ConfigResource(ConfigResourceType.TOPIC, topic, {"segment.ms": "60000"})
    await session.admin.alter_configs([change])
    late = deadline(TIMEOUT_S)
    # retention.ms is taken away by the replacement. A change may show a moment after its answer.
    wanted = {"segment.ms": "60000", "retention.ms": "604800000"}
    while not wanted.items() <= (found := await described()).items():
        late(f"{wanted}, but {found['segment.ms']} and {found['retention.ms']}")
        await asyncio.sleep(0.05)
    await session.admin.create_partitions({topic: NewPartitions(3)})
    while len((await session.admin.describe_topics([topic]))[0]["partitions"]) != 3:
        late("three partitions")
        await asyncio.sleep(0.05)
    await session.produce(topic, [(None, b"v")] * 5)
    await session.admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(4)})
    client = await session.consumer()
    client.assign([TopicPartition(topic, 0)])
    expect((await session.read(client, 1))[0].offset, 4, "first offset left")
    expect_true(topic in await session.admin.list_topics(), "the topic is listed")
    await session.admin.delete_topics([topic])
    while topic in await session.admin.list_topics():
        late("the topic gone")
        await asyncio.sleep(0.05)


async def groups(session):
    """lists, describes and finds groups"""
    topic, group = await session.create(), unique("aiokafka-groups")
    await session.produce(topic, [(None, b"v")])
    client = await session.consumer(topic, group=group)
    await session.read(client, 1)
    listed = await session.admin.list_consumer_groups()
    expect_true((group, "consumer") in listed, "the group is listed")
    described = await session.admin.describe_consumer_groups([group])
    expect(described[0].groups[0][2], "Stable", "state of the group")
    await session.admin.find_coordinator(group)


async def main():
    """Runs every check with clients of its own."""
    results = []
    for check in chosen([
        every_codec, idempotent, every_acks, range_rebalance, sticky_rebalance, static_membership,
        offsets_with_metadata, seek_by_timestamp, admin, groups,
    ]):
        error = None
        try:
            async with Session() as session:
                await check(session)
        except Exception as caught:  # A driver tells of every failure, whatever its kind.
            error = caught
        results.append(outcome("aiokafka", inspect.getdoc(check), error))
    report("aiokafka", results)


asyncio.run(main())
