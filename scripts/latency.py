"""One write after the other with librdkafka: how long each takes until it is acknowledged.

    latency.py BOOTSTRAP TOPIC BYTES SECONDS

Prints the figures as `ottla bench produce --output json` has them, as far as there are any.
"""

import json
import sys
import time

from confluent_kafka import Producer

WARM_UP_S = 1


def main():
    bootstrap, topic, size, seconds = sys.argv[1:]
    producer = Producer({
        "bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "socket.nagle.disable": True,
    })
    value, took_ms = b"x" * int(size), []
    begun = time.perf_counter()
    while (started := time.perf_counter()) < begun + WARM_UP_S + float(seconds):
        acknowledged = []

        def delivered(error, _, acknowledged=acknowledged):
            if error:
                raise RuntimeError(error.str())
            acknowledged.append(time.perf_counter())

        producer.produce(topic, value, partition=0, on_delivery=delivered)
        while not acknowledged:
            producer.poll(0.05)
        if started > begun + WARM_UP_S:
            took_ms.append((acknowledged[0] - started) * 1000)
    took_ms.sort()
    figures = {
        "mib_per_second": len(took_ms) * int(size) / float(seconds) / (1 << 20),
        "acknowledged": {
            "p50_ms": took_ms[len(took_ms) // 2],
            "p99_ms": took_ms[len(took_ms) * 99 // 100],
        },
        "broker_cpu_seconds_per_gib": None,
    }
    print(json.dumps(figures))


main()
