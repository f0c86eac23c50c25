"""Live events first, the backlog later, on a real broker and a real server: fresh at once, exact in the end."""

import time
from contextlib import suppress

import pytest
from confluent_kafka import Producer

from metrics_pipeline.assembly import DrainRun, at_once, audit, run_drain
from metrics_pipeline.drain import DrainReport
from metrics_pipeline.owed_assembly import fill_owed, owed_ranges
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.steps import Step
from tests.integration.events import events
from tests.integration.pipeline import CrashError, assert_exact, counts, crash_at, drain_once, send

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


def test_a_crash_before_any_step_of_a_jump_is_finished_by_the_next_run(settings: Settings) -> None:
    hour_ms = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS
    for hour in (3, 2, 1):
        send_at(settings, 20, hour_ms - hour * HOUR_MS, seed=hour)
    crashes = ((Step.INTENT, 1), (Step.LEDGER, 1), (Step.INTENT, 2), (Step.LEDGER, 2), (Step.CLOSE, 1))
    for number, (step, occurrence) in enumerate(crashes):
        with pytest.raises(CrashError):
            jump(settings, observe=crash_at(step, occurrence))
        verdict = audit(settings)
        assert verdict.problems == ()
        send_at(settings, 20, hour_ms, seed=10 + number)
    jump(settings)
    assert sum(entry.offsets for entry in owed_ranges(settings)) == 160
    assert counts(settings).raw == 0
    fill_owed(settings, None, "fill")
    assert_exact(settings, events=160)
    assert owed_ranges(settings) == ()


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("occurrence", [1, 2])
def test_a_fill_that_crashes_before_any_step_loses_and_doubles_nothing(
    settings: Settings, step: Step, occurrence: int
) -> None:
    small = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_events": 100})})
    sent = events(300)
    send(settings, [*sent, b"{", *sent[:20], None], partition=0)
    jump(settings)
    send(settings, [*sent[:10], *events(50, seed=1)], partition=0)
    assert drain_once(settings).inserted == 60
    if step is Step.RECOVER:
        with pytest.raises(CrashError):
            fill_owed(small, None, "first", observe=crash_at(Step.EVENTS))
    with suppress(CrashError):
        fill_owed(small, None, "second", observe=crash_at(step, occurrence))
    verdict = audit(settings)
    assert verdict.problems == ()
    fill_owed(small, None, "third")
    assert_exact(settings, events=350, dead=2)
    assert owed_ranges(settings) == ()
