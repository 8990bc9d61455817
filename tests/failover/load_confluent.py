"""Stock librdkafka as a load: writes at a steady rate, or reads in a group, until its input ends.

    load_confluent.py produce BOOTSTRAP TOPIC PARTITIONS RATE
    load_confluent.py consume BOOTSTRAP TOPIC GROUP

Prints a line for each event; times are nanoseconds of CLOCK_MONOTONIC:
    ack DUE_NS NOW_NS PARTITION OFFSET VALUE
    read NOW_NS PARTITION OFFSET VALUE
    error TEXT                                   one that an application sees
"""

import sys
import threading
import time

from confluent_kafka import Consumer, Producer

NAME = "librdkafka"
ended = threading.Event()


def say(*words):
    print(*words, flush=True)


def until_input_ends():
    sys.stdin.read()
    ended.set()


def fatal(error):
    # Of the others librdkafka recovers by itself; they are news.
    if error.fatal():
        say("error", error.str())


def produce(bootstrap, topic, partitions, rate):
    producer = Producer({
        "bootstrap.servers": bootstrap, "enable.idempotence": True, "error_cb": fatal,
    })

    def delivered(due):
        def report(error, message):
            now = time.monotonic_ns()
            if error:
                say("error", error.str())
            else:
                say("ack", due, now, message.partition(), message.offset(), message.value().decode())

        return report

    # Due times are a schedule that nothing delays.
    start, number = time.monotonic_ns(), 0
    while not ended.is_set():
        due = start + number * 1_000_000_000 // rate
        wait = due - time.monotonic_ns()
        if wait > 0:
            producer.poll(wait / 1e9)
            continue
        try:
            value = f"{NAME}:{number}"
            to = number % partitions
            producer.produce(topic, value, partition=to, on_delivery=delivered(due))
            number += 1
        except BufferError:
            producer.poll(0.01)
    producer.flush(120)


def consume(bootstrap, topic, group):
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
        "error_cb": fatal,
    })
    consumer.subscribe([topic])
    while not ended.is_set():
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error():
            say("error", message.error().str())
        else:
            value = message.value().decode()
            say("read", time.monotonic_ns(), message.partition(), message.offset(), value)
    consumer.close()


threading.Thread(target=until_input_ends, daemon=True).start()
if sys.argv[1] == "produce":
    produce(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
else:
    consume(*sys.argv[2:5])
