"""How many events a core decodes and deduplicates per second: `python benchmarks/decode.py`.

Figures are CPU time of all threads. Where the speed of the machine varies, look at the ratio: the standard library's
parser alone, on typical events, measured in turn with each line.
`POLARS_MAX_THREADS=1` shows what handing small columns from thread to thread costs.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from uuid import UUID

import polars as pl

from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.deduplicate import deduplicate
from metrics_pipeline.event.messages import Messages

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


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(name: str, events: int, work: Callable[[], object], reference: Callable[[], object]) -> None:
    """Best and median rate, and the median ratio to the reference (EVENTS events) of the same round."""
    rates, ratios = [], []
    for _ in range(ROUNDS):
        reference_rate = EVENTS / cpu_seconds(reference)
        rates.append(events / cpu_seconds(work))
        ratios.append(rates[-1] / reference_rate)
    best, middle = max(rates) / 1e3, median(rates) / 1e3
    print(f"{name:42} best {best:6,.0f} k/s   median {middle:6,.0f} k/s   {median(ratios):5.2f} x json.loads")


def measure_decoding(name: str, chunk: int, reference: Callable[[], object]) -> None:
    messages = messages_of(WORKLOADS[name])
    size_bytes = messages.size_bytes / len(messages)
    chunks = [messages[start : start + chunk] for start in range(0, len(messages), chunk)]
    label = f"{name}, {size_bytes:.0f} B, by {chunk:,}"
    measure(label, len(messages), lambda: [decode(part, LIMITS) for part in chunks], reference)


def measure_deduplication(duplicates_in_100: int, reference: Callable[[], object]) -> None:
    unique_events = DEDUPLICATED_EVENTS * (100 - duplicates_in_100) // 100
    unique = decode(messages_of(WORKLOADS["typical"], unique_events), LIMITS).events
    again = unique.head(DEDUPLICATED_EVENTS - unique_events).with_columns(pl.col("kafka_offset") + 10**6)
    events = pl.concat([unique, again]).sample(fraction=1, shuffle=True, seed=7)
    label = f"deduplicate {len(events):,}, {duplicates_in_100}% duplicates"
    measure(label, len(events), lambda: deduplicate(events), reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, help="messages per call of decode")
    chunks: list[int] = parser.parse_args().chunks
    values = messages_of(WORKLOADS["typical"]).values

    def reference() -> object:
        return [json.loads(value or b"") for value in values]

    for chunk in chunks:
        measure_decoding("typical", chunk, reference)
    for name in WORKLOADS:
        if name != "typical":
            measure_decoding(name, 4_000, reference)
    for duplicates_in_100 in (0, 5):
        measure_deduplication(duplicates_in_100, reference)


if __name__ == "__main__":
    main()
