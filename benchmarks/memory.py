"""What memory a drain needs while it catches up: `python benchmarks/memory.py [EVENTS] [LARGE_MESSAGES]`.

Starts engines of its own, fills a topic, then drains it with `metrics-pipeline drain --once` and samples the resident
memory of that process: first with usual events (20 M unless told), then with messages of 200 KB (10,000 unless told).
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import psutil
from confluent_kafka import Producer

from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.lab.local import stack
from metrics_pipeline.settings import Settings, kafka_address, load_settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import prepare

SAMPLE_SECONDS = 0.25
LARGE_ATTRIBUTES = 50
LARGE_ATTRIBUTE_CHARACTERS = 4_000
MIB = 1 << 20


@contextmanager
def engines() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as home:
        os.environ["METRICS_LOCAL__HOME"] = home
        stack.up(engines_only=True)
        try:
            yield
        finally:
            stack.down()


def of_its_own_topic(name: str) -> Settings:
    os.environ["METRICS_KAFKA__TOPIC"] = os.environ["METRICS_KAFKA__GROUP"] = name
    settings = load_settings()
    prepare(settings)
    return settings


def send_large(settings: Settings, messages: int) -> None:
    random_ = random.Random(1)
    attributes = {f"a{n}": "x" * LARGE_ATTRIBUTE_CHARACTERS for n in range(LARGE_ATTRIBUTES)}
    producer = Producer({"bootstrap.servers": kafka_address(settings), "compression.type": "lz4"})
    for number in range(messages):
        event = {
            "event_id": f"large-{number}-{random_.random()}",
            "timestamp": time.time_ns() // 1_000_000,
            "service": "large",
            "endpoint": "/large",
            "status": 200,
            "latency_ms": 1.0,
            "attributes": attributes,
        }
        while True:
            try:
                producer.produce(settings.kafka.topic, json.dumps(event).encode())
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def drain_and_sample() -> tuple[dict[str, object], list[int], float]:
    """The drain's report, its resident bytes every quarter of a second, and its seconds."""
    started = time.perf_counter()
    drain = subprocess.Popen(
        [sys.executable, "-m", "metrics_pipeline", "drain", "--once", "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "POLARS_MAX_THREADS": "1"},
        text=True,
    )
    process, samples = psutil.Process(drain.pid), []
    while drain.poll() is None:
        try:
            samples.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(SAMPLE_SECONDS)
    output, _ = drain.communicate()
    return json.loads(output), samples, time.perf_counter() - started


def measure(name: str) -> None:
    report, samples, seconds = drain_and_sample()
    tenths = [len(samples) * n // 10 for n in range(11)]
    peaks = [max(samples[a:b], default=0) // MIB for a, b in pairwise(tenths)]
    print(f"{name}: {report['consumed']:,} messages in {seconds:.0f} s, {report['batches']:,} batches")
    print(f"  peak RSS {max(samples) // MIB} MiB; per tenth of the way {', '.join(map(str, peaks))} MiB", flush=True)


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000
    large = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with engines():
        settings = of_its_own_topic("usual")
        produce(LoadPlan(rate=0, events=events, duplicates=0.02, late=0.002, malformed=0.001), settings)
        measure("usual events")
        print(f"  audit: {audit(settings).problems or 'exact'}", flush=True)
        send_large(of_its_own_topic("large"), large)
        measure("messages of 200 KB")


if __name__ == "__main__":
    main()
