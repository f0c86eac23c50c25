"""What tests do to a pipeline on real engines: send, drain, count."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from confluent_kafka import Producer

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.drain.drain import DrainReport
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_caught_up

StepT = TypeVar("StepT", bound=StrEnum)


class CrashError(Exception):
    """Stands for a process that ends between two steps."""


class Brisk(SystemClock):
    """For work that nobody else is beside: what it does out of consideration for others takes no time."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.02))


@dataclass(frozen=True)
class Counts:
    raw: int
    distinct: int
    rollup: int
    dead: int


def send(settings: Settings, values: Sequence[bytes | None], *, partition: int | None = None) -> None:
    producer = Producer({"bootstrap.servers": kafka_address(settings), "linger.ms": 5})
    for number, value in enumerate(values):
        at = number % settings.kafka.partitions if partition is None else partition
        producer.produce(settings.kafka.topic, value, partition=at)
    assert producer.flush(30) == 0


def drain_once(settings: Settings, observe: Callable[[str], None] = lambda _step: None) -> DrainReport:
    run = DrainRun(run_id=str(uuid.uuid4()))
    return run_drain(settings, run, until_caught_up, stop=lambda: False, observe=observe)


def crash_at(step: StepT, occurrence: int = 1) -> Callable[[str], None]:
    """An observer that ends the run right before `step` begins for the given time."""
    seen = 0

    def observe(begun: str) -> None:
        nonlocal seen
        # Steps of different protocols have the same names.
        seen += begun == step
        if begun == step and seen == occurrence:
            raise CrashError(step)

    return observe


def counts(settings: Settings) -> Counts:
    with connect(settings) as client:

        def number(sql: str) -> int:
            return int(client.query(sql).result_rows[0][0])

        return Counts(
            raw=number("SELECT count() FROM raw_events"),
            distinct=number("SELECT uniqExact(event_id) FROM raw_events"),
            rollup=number("SELECT sum(requests) FROM rollup_1m"),
            dead=number("SELECT count() FROM dead_letters"),
        )


def assert_exact(settings: Settings, *, events: int, dead: int = 0) -> None:
    found = counts(settings)
    assert found == Counts(raw=events, distinct=events, rollup=events, dead=dead), found
    assert audit(settings).problems == ()
