"""Ends nodes of a cluster under stock clients, and prints what the clients saw of it.

    run.py SYSTEM kill|stop|rolling ROUNDS BOOTSTRAP LOG RESULTS COMMAND…

The lines of the table are appended to RESULTS as well. Each COMMAND runs a node, from node 1 on.
`kill` kills the leader of a partition with SIGKILL, `stop` stops it with SIGTERM, and `rolling`
stops and starts every node, one after the other; ROUNDS times.

A gap is the longest time without an acknowledgement (or a read, where it says so): around a node's
end; the worst in five seconds before one (quiet), which this machine does by itself; and the worst
while a node comes back.
"""

import math
import signal
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field

from cluster import PATIENCE_S, Cluster, client, until

CLIENTS = ("librdkafka", "java")
RATE = 200
ROLLING_PARTITIONS, ROLLING_RATE = 6, 600
# librdkafka tries a node that it lost again after up to ten seconds (reconnect.backoff.max.ms).
RECONNECTED_S = 11
# Before a node's end, for comparison: what this machine does by itself.
QUIET_NS = 5_000_000_000


def tell(line):
    """A line of the table."""
    print(line, flush=True)
    with open(sys.argv[6], "a", encoding="utf-8") as results:
        print(line, file=results)


def longest_gap_ms(events, from_ns=0, to_ns=math.inf):
    """The longest time that a partition was without an event, of all in between."""
    last, longest = {}, 0
    for event in events:
        if from_ns <= event.at_ns <= to_ns:
            longest = max(longest, event.at_ns - last.get(event.partition, event.at_ns))
            last[event.partition] = event.at_ns
    return longest / 1e6


def first_after(load, at_ns):
    """The first acknowledgement of a record that was due after `at_ns`, in ms after that."""
    found = [ack.at_ns for ack in load.acks[-RATE * PATIENCE_S:] if ack.due_ns > at_ns]
    return (min(found) - at_ns) / 1e6 if found else None


def wrong(cluster, topic, loads):
    """What is lost, doubled and out of order of what was acknowledged."""
    found = defaultdict(list)
    for partition, offset, value in cluster.read_all(topic):
        found[partition, value.split(":")[0]].append((int(value.split(":")[1]), offset))
    verdicts = {}
    for load in loads:
        acknowledged = defaultdict(set)
        for ack in load.acks:
            acknowledged[ack.partition].add((int(ack.value.split(":")[1]), ack.offset))
        lost = doubled = disordered = 0
        for partition, name in found.keys() | {(one, load.name) for one in acknowledged}:
            if name == load.name:
                numbers = [number for number, _ in found[partition, name]]
                lost += len(acknowledged[partition] - set(found[partition, name]))
                doubled += len(numbers) - len(set(numbers))
                disordered += sum(later < earlier for earlier, later in zip(numbers, numbers[1:]))
        verdicts[load.name] = (lost, doubled, disordered)
    return verdicts


def rounds_of_ends(cluster, topic, loads, kind, rounds):
    """Ends the leader again and again; for each load what each round brought it, in ms."""
    found = {load.name: Rounds() for load in loads}
    for number in range(1, rounds + 1):
        leader = cluster.leader(topic)
        at_ns, took_s = cluster.end(leader, kind)
        until("writes go on", lambda: all(first_after(load, at_ns) for load in loads))
        time.sleep(1)
        started_ns = time.monotonic_ns()
        cluster.start(leader)
        cluster.in_sync(topic)
        back_ns = time.monotonic_ns()
        time.sleep(RECONNECTED_S)
        said = []
        for load in loads:
            one = found[load.name]
            one.resumed.append(first_after(load, at_ns))
            one.gaps.append(longest_gap_ms(load.acks, at_ns - QUIET_NS // 10, started_ns))
            one.back.append(longest_gap_ms(load.acks, started_ns, back_ns))
            one.quiet.append(longest_gap_ms(load.acks, at_ns - QUIET_NS, at_ns))
            said.append(f"{load.name} {one.resumed[-1]:.0f} (gap {one.gaps[-1]:.0f})")
        ended = f"node {leader}, ended in {took_s:.2f} s"
        print(f"  round {number}: {ended}; ms:", ", ".join(said), flush=True)
    return found


def ends(system, cluster, mode, rounds):
    topic = f"failover-{mode}"
    cluster.create(topic, 1)
    loads = [client(name, "produce", cluster.bootstrap, topic, 1, RATE).start() for name in CLIENTS]
    try:
        until("both clients write", lambda: all(load.acks for load in loads))
        time.sleep(RECONNECTED_S)
        kind = signal.SIGKILL if mode == "kill" else signal.SIGTERM
        found = rounds_of_ends(cluster, topic, loads, kind, rounds)
    finally:
        for load in loads:
            load.stop()
    verdicts = wrong(cluster, topic, loads)
    three = f"{'median':>8}{'p90':>8}{'worst':>8}"
    tell(f"{'':19} {'next acknowledged write, ms':>28}  {'longest gap, ms':>24}"
         f"{'worst gap, ms':>16}")
    tell(f"{mode:7} {'client':11}     {three}  {three}{'quiet':>8}{'back':>8}"
         f"{'records':>9}{'errors':>8}{'lost':>6}{'doubled':>8}{'disorder':>9}")
    good = True
    for load in loads:
        lost, doubled, disordered = verdicts[load.name]
        one = found[load.name]
        figures = [*spread(one.resumed), *spread(one.gaps), max(one.quiet), max(one.back)]
        cells = [f"{figure:8.0f}" for figure in figures]
        tell(f"{system:7} {load.name:11}     {''.join(cells[:3])}  {''.join(cells[3:])}"
             f"{len(load.acks):9}{len(load.errors):8}{lost:6}{doubled:8}{disordered:9}")
        good = good and not (lost or doubled or disordered)
        show_errors(load)
    return good


@dataclass
class Rounds:
    """What each round brought a load, in ms."""

    # From the node's end to the first acknowledgement of a record that was due after it.
    resumed: list = field(default_factory=list)
    # The longest gap until the node is started again, while it comes back, and before its end.
    gaps: list = field(default_factory=list)
    back: list = field(default_factory=list)
    quiet: list = field(default_factory=list)


def spread(figures):
    """Median, p90 and worst."""
    ordered = sorted(figures)
    return statistics.median(ordered), ordered[math.ceil(len(ordered) * 0.9) - 1], ordered[-1]


def show_errors(load):
    for error in list(dict.fromkeys(load.errors))[:5]:
        print(f"  {load.name}: {error}")


def rolling(system, cluster, rounds):
    topics = {name: f"rolling-{name}" for name in CLIENTS}
    for topic in topics.values():
        cluster.create(topic, ROLLING_PARTITIONS)
    at = cluster.bootstrap
    writers = [
        client(name, "produce", at, topic, ROLLING_PARTITIONS, ROLLING_RATE).start()
        for name, topic in topics.items()
    ]
    readers = [
        client(name, "consume", at, topic, f"group-{name}").start()
        for name, topic in topics.items()
    ]
    loads = writers + readers
    try:
        until("all clients are at work", lambda: all(load.acks or load.reads for load in loads))
        time.sleep(RECONNECTED_S)
        began_ns = time.monotonic_ns()
        for _ in range(rounds):
            for node in cluster.commands:
                _, took_s = cluster.end(node, signal.SIGTERM)
                cluster.start(node)
                for topic in (*topics.values(), "__consumer_offsets"):
                    cluster.in_sync(topic)
                print(f"  node {node} was stopped in {took_s:.2f} s, and is back", flush=True)
                time.sleep(RECONNECTED_S)
        for load in writers:
            load.stop()
        end = time.monotonic() + 60
        while any(len(reader.reads) < len(writer.acks) for writer, reader in zip(writers, readers)):
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        # For what would come twice.
        time.sleep(2)
    finally:
        for load in loads:
            if load.process.poll() is None:
                load.stop()
    tell(f"{'rolling':7} {'client':11} {'written':>9}{'errors':>8}{'read':>9}{'errors':>8}"
         f"{'lost':>6}{'doubled':>8}{'disorder':>9}"
         f"{'longest gap of a partition, ms: writing':>41}{'reading':>9}")
    good = True
    for writer, reader in zip(writers, readers):
        lost, doubled, disordered = unread(writer, reader)
        tell(f"{system:7} {writer.name:11} {len(writer.acks):9}{len(writer.errors):8}"
             f"{len(reader.reads):9}{len(reader.errors):8}{lost:6}{doubled:8}{disordered:9}"
             f"{longest_gap_ms(writer.acks, began_ns):41.0f}"
             f"{longest_gap_ms(reader.reads, began_ns):9.0f}")
        good = good and not (lost or doubled or disordered or writer.errors or reader.errors)
        show_errors(writer)
        show_errors(reader)
    return good


def unread(writer, reader):
    """What a group did not get, got twice, or out of order."""
    places = [(read.partition, read.offset) for read in reader.reads]
    lost = {(ack.partition, ack.offset) for ack in writer.acks} - set(places)
    by_partition = defaultdict(list)
    for read in reader.reads:
        by_partition[read.partition].append(int(read.value.split(":")[1]))
    doubled = sum(len(numbers) - len(set(numbers)) for numbers in by_partition.values())
    pairs = (pair for numbers in by_partition.values() for pair in zip(numbers, numbers[1:]))
    return len(lost), doubled, sum(later < earlier for earlier, later in pairs)


def main():
    system, mode, rounds, bootstrap, log, _, *commands = sys.argv[1:]
    # So that what was started ends with this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cluster = Cluster(bootstrap, commands, log)
    try:
        cluster.start_all()
        if mode == "rolling":
            good = rolling(system, cluster, int(rounds))
        else:
            good = ends(system, cluster, mode, int(rounds))
    finally:
        cluster.end_all()
    sys.exit(0 if good else 1)


main()
