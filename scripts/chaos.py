"""Sums up the reports of scripts/chaos, fault by fault: DIR/runs.json and DIR/table.md."""

import json
import sys
from pathlib import Path


def main(directory):
    runs, faults = [], {}
    for path in sorted(directory.glob("*/report.json")):
        report = json.loads(path.read_text())
        summary = report["summary"]
        run = {
            "scenario": report["scenario"]["name"],
            "nodes": report["nodes"],
            "seed": report["seed"],
            "flush": report["flush"],
            "faults": [event["what"] for event in report["events"]],
            "left_out": report["left_out"],
            "operations": summary["sent"] + summary["consumed"] + summary["read"],
            "acknowledged": summary["acknowledged"],
            "anomalies": len(report["anomalies"]),
            "longest_gap_ms": report["longest_gap_ms"],
            "written_after_ms": report["written_after_ms"],
            "report": f"{path.parent.name}/report.html",
        }
        runs.append(run)
        steps = report["scenario"]["step"]
        done = {name_of(steps[event["step"]]["fault"]) for event in report["events"]}
        for name in done:
            row = faults.setdefault(
                name,
                {"runs": 0, "times": 0, "operations": 0, "anomalies": 0, "longest_gap_ms": 0},
            )
            row["runs"] += 1
            row["times"] += sum(
                name_of(steps[event["step"]]["fault"]) == name for event in report["events"]
            )
            row["operations"] += run["operations"]
            row["anomalies"] += run["anomalies"]
            row["longest_gap_ms"] = max(row["longest_gap_ms"], run["longest_gap_ms"])
    (directory / "runs.json").write_text(json.dumps({"faults": faults, "runs": runs}, indent=1))
    lines = [
        "| fault | runs | times | operations | anomalies | longest unavailability |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in sorted(faults.items()):
        lines.append(
            f"| {name} | {row['runs']} | {row['times']} | {row['operations']:,} "
            f"| {row['anomalies']} | {row['longest_gap_ms'] / 1000:.1f} s |"
        )
    (directory / "table.md").write_text("\n".join(lines) + "\n")


def name_of(fault):
    """The name of a fault, which may come with figures."""
    return fault if isinstance(fault, str) else next(iter(fault))


main(Path(sys.argv[1]))
