"""A cluster whose nodes are processes to kill, and the clients that load it."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

HERE = Path(__file__).parent
REPLICAS = 3
PATIENCE_S = 180
# Nodes that go are what happens here.
QUIET = {"log_level": 0}


def until(what, holds):
    """Waits until `holds()` says yes. A client's complaint means not yet."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            found = holds()
        except KafkaException:
            found = None
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.1)


class Cluster:
    """Nodes from 1 on, each with the command that runs it."""

    def __init__(self, bootstrap, commands, log):
        self.bootstrap = bootstrap
        self.commands = dict(enumerate(commands, 1))
        self.log = log
        self.processes = {}
        self.admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})

    def start(self, node):
        with open(self.log, "ab") as log:
            self.processes[node] = subprocess.Popen(
                self.commands[node].split(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_all(self):
        for node in self.commands:
            self.start(node)
        brokers = lambda: self.admin.list_topics(timeout=2).brokers
        until("all nodes serve", lambda: len(brokers()) == len(self.commands))

    def end(self, node, signal):
        """Sends `signal`; returns when, and how many seconds until the process had ended."""
        process = self.processes.pop(node)
        at = time.monotonic_ns()
        process.send_signal(signal)
        process.wait(PATIENCE_S)
        return at, (time.monotonic_ns() - at) / 1e9

    def end_all(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def create(self, topic, partitions):
        new = NewTopic(topic, partitions, REPLICAS, config={"min.insync.replicas": "2"})
        until("a topic", lambda: self.admin.create_topics([new])[topic].result(30) is None)
        self.in_sync(topic)

    def partitions(self, topic):
        return self.admin.list_topics(topic, timeout=5).topics[topic].partitions

    def leader(self, topic):
        """Who leads the first partition."""
        return until("a leader", lambda: max(0, self.partitions(topic)[0].leader))

    def in_sync(self, topic):
        def all_are():
            partitions = self.partitions(topic)
            return partitions and all(len(one.isrs) == REPLICAS for one in partitions.values())

        until(f"all replicas of {topic} are in sync", all_are)

    def read_all(self, topic):
        """Every record, as (partition, offset, value), each partition in its order."""
        consumer = Consumer({
            "bootstrap.servers": self.bootstrap,
            "group.id": "reads-all",
            "enable.auto.commit": False,
            **QUIET,
        })
        found = []
        for partition in self.partitions(topic):
            at = TopicPartition(topic, partition, 0)
            end = consumer.get_watermark_offsets(at, timeout=30)[1]
            consumer.assign([at])
            until_s = time.monotonic() + PATIENCE_S
            while end and (not found or found[-1][:2] != (partition, end - 1)):
                for message in consumer.consume(10_000, 0.5):
                    if message.error():
                        raise KafkaException(message.error())
                    found.append((message.partition(), message.offset(), message.value().decode()))
                if time.monotonic() > until_s:
                    raise TimeoutError(f"{topic}-{partition} cannot be read up to {end}")
        consumer.close()
        return found


@dataclass
class Ack:
    due_ns: int
    at_ns: int
    partition: int
    offset: int
    value: str


@dataclass
class Read:
    at_ns: int
    partition: int
    offset: int
    value: str


@dataclass
class Load:
    """A client's process, and what it says."""

    name: str
    command: list
    acks: list = field(default_factory=list)
    reads: list = field(default_factory=list)
    errors: list = field(default_factory=list)

    def start(self):
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()
        return self

    def listen(self):
        for line in self.process.stdout:
            kind, rest = line.rstrip("\n").split(" ", 1)
            if kind == "ack":
                due, at, partition, offset, value = rest.split(" ")
                self.acks.append(Ack(int(due), int(at), int(partition), int(offset), value))
            elif kind == "read":
                at, partition, offset, value = rest.split(" ")
                self.reads.append(Read(int(at), int(partition), int(offset), value))
            else:
                self.errors.append(rest)

    def stop(self):
        self.process.stdin.close()
        status = self.process.wait(PATIENCE_S)
        self.thread.join()
        if status != 0:
            self.errors.append(f"ended with status {status}")


def client(name, *arguments):
    """A load with the client of that name."""
    run = {
        "librdkafka": [sys.executable, str(HERE / "load_confluent.py")],
        "java": ["java", "-cp", f"{os.environ['KAFKA_LIB']}/*", str(HERE / "Load.java")],
    }
    return Load(name, [*run[name], *map(str, arguments)])
