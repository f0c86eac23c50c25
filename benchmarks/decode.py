"""How many events a core decodes and deduplicates per second: `python benchmarks/decode.py`.

Figures are CPU time of all threads, the best of several rounds. The first line is the standard library's
parser alone on the same events: compare the others with it where the machine's speed varies.
`POLARS_MAX_THREADS=1` shows what handing small columns from thread to thread costs.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import polars as pl

from metrics_pipeline.core.decode import EventLimits, decode
from metrics_pipeline.core.deduplicate import deduplicate
from metrics_pipeline.core.messages import Messages

START_MS = 1_793_700_000_000
LIMITS = EventLimits(max_age_ms=396 * 86_400_000, max_future_ms=3_600_000)
CHUNKS = (1_000, 4_000, 20_000)
EVENTS = 20_000
DEDUPLICATED_EVENTS = 200_000
ROUNDS = 15

Event = dict[str, Any]


def typical(i: int, source: random.Random) -> Event:
    moment = time.gmtime((START_MS + i) // 1_000)
    return {
        "event_id": str(UUID(int=source.getrandbits(128), version=4)),
        "timestamp": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{(START_MS + i) % 1_000:03}Z",
        "service": f"checkout-{source.randrange(40)}",
        "endpoint": f"/cart/:id/pay/{source.randrange(25)}",
        "method": source.choice(["GET", "POST"]),
        "status": source.choice([200, 200, 200, 404, 500]),
        "latency_ms": round(source.lognormvariate(3, 1), 3),
        "customer": {"id": f"c{source.randrange(10_000)}", "tier": source.choice(["free", "enterprise"])},
        "region": "eu-west-1",
        "host": f"web-{source.randrange(40)}",
        "attributes": {"version": "1.2.3"},
    }


def as_json(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def malformed(i: int, event: Event) -> bytes:
    """One in a hundred: half of them no JSON, half with a bad value."""
    if i % 200 == 0:
        return as_json(event)[:-20]
    return as_json(event | {"status": 99} if i % 100 == 0 else event)


WORKLOADS: dict[str, Callable[[int, Event], bytes]] = {
    "typical": lambda _, event: as_json(event),
    "1% malformed": malformed,
    "100% malformed (cut)": lambda _, event: as_json(event)[:-20],
    "100% with an unknown field": lambda _, event: as_json(event | {"trace_id": "4bf92f3577b34da6"}),
    "epoch milliseconds": lambda i, event: as_json(event | {"timestamp": START_MS + i}),
    "microseconds, +00:00": lambda _, event: as_json(
        event | {"timestamp": event["timestamp"].replace("Z", "456+00:00")}
    ),
    "offset +02:00": lambda _, event: as_json(event | {"timestamp": event["timestamp"].replace("Z", "+02:00")}),
    "ids that are no UUIDs": lambda i, event: as_json(event | {"event_id": f"request-{i}"}),
    "no optional fields": lambda _, event: as_json(
        {k: event[k] for k in ("event_id", "timestamp", "service", "endpoint", "status", "latency_ms")}
    ),
}


def messages_of(workload: Callable[[int, Event], bytes], events: int = EVENTS) -> Messages:
    source = random.Random(7)
    return Messages(
        partitions=[i % 8 for i in range(events)],
        offsets=[i // 8 for i in range(events)],
        timestamps_ms=[START_MS + i + 500 for i in range(events)],
        values=[workload(i, typical(i, source)) for i in range(events)],
    )


def best_cpu_seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def report_reference(messages: Messages) -> None:
    seconds = best_cpu_seconds(lambda: [json.loads(value or b"") for value in messages.values])
    print(f"{'json.loads alone':28} {'':25} {len(messages) / seconds / 1e3:8,.0f} k events/s per core")


def report(name: str, messages: Messages, chunk: int) -> None:
    chunks = [messages[start : start + chunk] for start in range(0, len(messages), chunk)]
    seconds = best_cpu_seconds(lambda: [decode(part, LIMITS) for part in chunks])
    rate, size_bytes = len(messages) / seconds, messages.size_bytes / len(messages)
    print(f"{name:28} {size_bytes:4.0f} B  chunks of {chunk:6,} {rate / 1e3:8,.0f} k events/s per core")


def report_deduplication(duplicates_in_100: int) -> None:
    messages = messages_of(WORKLOADS["typical"], DEDUPLICATED_EVENTS * (100 - duplicates_in_100) // 100)
    unique = decode(messages, LIMITS).events
    again = unique.head(DEDUPLICATED_EVENTS - len(unique)).with_columns(pl.col("kafka_offset") + 10**6)
    events = pl.concat([unique, again]).sample(fraction=1, shuffle=True, seed=7)
    seconds = best_cpu_seconds(lambda: deduplicate(events))
    rate = len(events) / seconds
    name = f"deduplicate, {duplicates_in_100}% duplicates"
    print(f"{name:28} {'':7} one of {len(events):9,} {rate / 1e3:8,.0f} k events/s per core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, help="messages per call of decode")
    chunks: list[int] = parser.parse_args().chunks
    report_reference(messages_of(WORKLOADS["typical"]))
    for chunk in chunks:
        report("typical", messages_of(WORKLOADS["typical"]), chunk)
    for name, workload in WORKLOADS.items():
        if name != "typical":
            report(name, messages_of(workload), 4_000)
    for duplicates_in_100 in (0, 5):
        report_deduplication(duplicates_in_100)


if __name__ == "__main__":
    main()
