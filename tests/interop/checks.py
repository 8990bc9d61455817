"""Runs named checks one after the other, and tells all that failed instead of only the first."""

import os
import sys
import time
import traceback
import uuid

BOOTSTRAP = os.environ.get("BOOTSTRAP", "127.0.0.1:9092")
REPLICAS = int(os.environ.get("REPLICATION_FACTOR", "1"))
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


class Failed(Exception):
    """A check found something else than it should have."""


def expect(found, wanted, what):
    """Fails unless two values are equal."""
    if found != wanted:
        raise Failed(f"{what}: expected {wanted!r}, found {found!r}")


def expect_true(condition, what):
    """Fails unless a condition holds."""
    if not condition:
        raise Failed(what)


def unique(prefix):
    """A name that no other run uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def deadline(seconds):
    """A function that fails once this much time has passed, for loops that wait for something."""
    end = time.monotonic() + seconds

    def check(what):
        if time.monotonic() > end:
            raise Failed(f"not within {seconds} s: {what}")

    return check


def report(driver, results):
    """Prints what a driver found and ends the process: 0 if all passed, 1 if any failed."""
    failed = sum(1 for one in results if one is not None)
    print(f"{driver}: {len(results) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


def outcome(driver, name, error):
    """Prints one check's outcome and returns the error, which is None for a pass."""
    if error is None:
        print(f"ok   {driver}: {name}", flush=True)
        return None
    print(f"FAIL {driver}: {name}: {type(error).__name__}: {error}", flush=True)
    if not isinstance(error, Failed):
        traceback.print_exception(error, file=sys.stdout)
    return error


def chosen(checks):
    """The checks to run: all, or those whose name contains the first argument."""
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    return [one for one in checks if pattern in one.__name__]


def run(driver, checks):
    """Runs functions of no argument as checks, named by their first line of documentation."""
    results = []
    for check in chosen(checks):
        error = None
        try:
            check()
        except Exception as caught:  # A driver tells of every failure, whatever its kind.
            error = caught
        results.append(outcome(driver, check.__doc__, error))
    report(driver, results)
