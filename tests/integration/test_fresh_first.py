"""Live events first, the backlog later, on a real broker and a real server: fresh at once, exact in the end."""

import time

from confluent_kafka import Producer

from metrics_pipeline.assembly import DrainRun, at_once, audit, run_drain
from metrics_pipeline.drain import DrainReport
from metrics_pipeline.owed_assembly import owed_ranges
from metrics_pipeline.settings import Settings, kafka_address
from tests.integration.events import events
from tests.integration.pipeline import counts, drain_once, send

HOUR_MS = 3_600_000


def jump(settings: Settings, **named: object) -> DrainReport:
    run = DrainRun("jump", is_jumping=True)
    return run_drain(settings, run, at_once, stop=lambda: False, **named)  # type: ignore[arg-type]


def send_at(settings: Settings, count: int, time_ms: int, *, seed: int, partition: int = 0) -> list[bytes]:
    """Events of that time, which is their messages' time, too."""
    producer = Producer({"bootstrap.servers": kafka_address(settings), "linger.ms": 5})
    values = events(count, seed=seed, timestamp=time_ms)
    for value in values:
        producer.produce(settings.kafka.topic, value, partition=partition, timestamp=time_ms)
    assert producer.flush(30) == 0
    return values


def test_a_jump_skips_by_hours_and_the_audit_names_it(settings: Settings) -> None:
    now_ms = time.time_ns() // 1_000_000
    hour_ms = now_ms // HOUR_MS * HOUR_MS
    send_at(settings, 10, hour_ms - 3 * HOUR_MS, seed=1)
    drain_once(settings)
    send_at(settings, 20, hour_ms - 3 * HOUR_MS + 90_000, seed=2)
    send_at(settings, 30, hour_ms - HOUR_MS, seed=3, partition=1)
    send_at(settings, 5, hour_ms - 2 * HOUR_MS, seed=4)
    report = jump(settings)
    assert (report.owed, report.consumed, report.batches) == (55, 0, 0)
    send(settings, events(7, seed=5))
    assert drain_once(settings).inserted == 7
    found = [(e.hour_seconds, e.offsets, e.first_ms, e.last_ms) for e in owed_ranges(settings)]
    assert found == [
        ((hour_ms - 3 * HOUR_MS) // 1_000, 20, hour_ms - 3 * HOUR_MS + 60_000, hour_ms - 2 * HOUR_MS - 1),
        ((hour_ms - 2 * HOUR_MS) // 1_000, 5, hour_ms - 2 * HOUR_MS, hour_ms - HOUR_MS - 1),
        ((hour_ms - HOUR_MS) // 1_000, 30, hour_ms - HOUR_MS, hour_ms - HOUR_MS + 59_999),
    ]
    verdict = audit(settings)
    assert verdict.problems == ()
    assert verdict.owed_offsets == 55
    assert counts(settings).raw == 17
