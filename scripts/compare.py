"""Prints what scripts/compare measured: medians of the rounds, and Ottla's ratio to Kafka's."""

import collections
import json
import statistics
import sys

FIGURES = {
    "MiB/s": lambda run: run["mib_per_second"],
    "p50 ms": lambda run: run["latency"]["p50_ms"],
    "p99 ms": lambda run: run["latency"]["p99_ms"],
    "CPU s/GiB": lambda run: run["broker_cpu_seconds_per_gib"],
}

runs = collections.defaultdict(list)
for line in open(sys.argv[1], encoding="utf-8"):
    name, size, system, figures = line.rstrip("\n").split("\t")
    run = json.loads(figures)
    run["latency"] = run.get("end_to_end") or run.get("acknowledged")
    runs[name, int(size), system].append(run)

print(f"{'load':32} {'bytes':>5}", *(f"{figure:>29}" for figure in FIGURES))
print(f"{'':38}", *(f"{'Kafka':>10} {'Ottla':>10} {'ratio':>7}" for _ in FIGURES))
for name, size in dict.fromkeys((name, size) for name, size, _ in runs):
    cells = []
    for figure in FIGURES.values():
        try:
            kafka, ottla = (
                statistics.median(figure(run) for run in runs[name, size, system])
                for system in ("kafka", "ottla")
            )
            cells.append(f"{kafka:10.2f} {ottla:10.2f} {ottla / kafka:7.2f}")
        except TypeError:
            # Not every load has every figure.
            cells.append(f"{'':29}")
    print(f"{name:32} {size:5}", *cells)
