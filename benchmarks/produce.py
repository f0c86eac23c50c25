"""What the load generator costs: `python benchmarks/produce.py [RATE] [SECONDS]`, against the Kafka of the settings.

Prints processor time per message and per second (as cores) of this process, all of its threads: making the
messages alone, without a file, and with a file of each kind; then how fast it goes without a limit.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from metrics_pipeline.lab.loadgen.block import BLOCK_MESSAGES
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.lab.loadgen.stream import EventStream
from metrics_pipeline.settings import Settings, kafka_address, load_settings

MIXED = LoadPlan(rate=40_000, duplicates=0.02, late=0.002, malformed=0.001)


def measured(name: str, action: Callable[[], int]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    messages = action()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{name:24} {messages:>10,} messages  {messages / wall:>9,.0f}/s  "
        f"{cpu / messages * 1e6:5.2f} µs a message  {cpu / wall:4.2f} cores"
    )


def made(messages: int) -> int:
    stream = EventStream(MIXED, time.time_ns() // 1_000_000, 8)
    now_ms = time.time_ns() // 1_000_000
    for _ in range(messages // 2_000):
        stream.take(2_000, now_ms, now_ms + 50)
        now_ms += 50
        list(stream.settle())
    return messages // 2_000 * 2_000


def _sent(plan: LoadPlan, settings: Settings, path: Path | None) -> int:
    return produce(plan, settings, path).messages


def main() -> None:
    rate = float(sys.argv[1]) if len(sys.argv) > 1 else 40_000.0
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    settings = load_settings()
    kafka_address(settings)
    made(BLOCK_MESSAGES)
    measured("made, not sent", lambda: made(500_000))
    plan = replace(MIXED, rate=rate, duration_seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        for name, path in {
            "sent": None,
            "sent, NDJSON file": Path(folder, "sent.ndjson"),
            "sent, Parquet file": Path(folder, "sent.parquet"),
        }.items():
            measured(name, partial(_sent, plan, settings, path))
    measured("sent, no limit", lambda: produce(replace(MIXED, rate=0, events=2_000_000), settings).messages)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
