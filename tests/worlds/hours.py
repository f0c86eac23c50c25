"""What tests of the replay of hours do: events of the past, tables as hashes, exactness."""

import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import polars as pl
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.delivery.steps import HourStep
from metrics_pipeline.event.decode import Decoded
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.replay.hours import hours_around
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.replay.report import HourReport
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.replay import preview_hours, replay_hours
from tests.worlds.events import encode, event
from tests.worlds.pipeline import Brisk, crash_at, drain_once

HOUR_MS = 3_600_000
TABLES = ("raw_events", "rollup_1m", "rollup_builds")


def past_events(count: int, seed: int = 0, *, hours: tuple[float, float] = (3, 5), **changes: Any) -> list[bytes]:
    """Events that happened so many hours ago and arrive now: their rollups are closed."""
    random_ = random.Random(seed)
    now_ms = time.time_ns() // 1_000_000
    first, last = (int(ago * HOUR_MS) for ago in hours)
    return [encode(event(random_, timestamp=now_ms - random_.randrange(first, last), **changes)) for _ in range(count)]


def with_rules(change: Callable[[pl.DataFrame], pl.DataFrame], action: Callable[[], object]) -> None:
    """Drains make other events of messages than they should."""

    right = Rules.decode

    def decode_otherwise(rules: Rules, messages: Messages) -> Decoded:
        decoded = right(rules, messages)
        return replace(decoded, events=change(decoded.events))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rules, "decode", decode_otherwise)
        action()


def with_wrong_rules(settings: Settings) -> int:
    """Drain, taking the latencies of one service for seconds and the clock of another for an hour late.

    Returns how many rows are wrong.
    """

    def change(events: pl.DataFrame) -> pl.DataFrame:
        return events.with_columns(
            latency_ms=pl.col("latency_ms") * pl.when(pl.col("service") == "service-2").then(1_000).otherwise(1),
            timestamp=pl.col("timestamp")
            + pl.when(pl.col("service") == "service-3").then(timedelta(hours=1)).otherwise(timedelta()),
        ).cast(events.schema)

    with_rules(change, lambda: drain_once(settings))
    ((wrong,),) = query(settings, "SELECT countIf(service IN ('service-2', 'service-3')) FROM raw_events")
    return int(wrong)


def delete_records(settings: Settings, before: int) -> None:
    """Partition 0 begins there."""
    admin = AdminClient({"bootstrap.servers": kafka_address(settings)})
    for future in admin.delete_records([TopicPartition(settings.kafka.topic, 0, before)]).values():
        future.result()


def crash(step: HourStep, occurrence: int = 1) -> Callable[[HourStep], None]:
    return crash_at(step, occurrence)


def these_hours() -> Sequence[int]:
    """The hours in which a test's messages are: a test may run across the end of one."""
    now = int(time.time())
    return hours_around(now - 600, now + 1)


def replay(
    settings: Settings,
    mode: Mode = Mode.FILL,
    observe: Callable[[HourStep], None] = lambda _step: None,
    hours: Sequence[int] | None = None,
    clock: Clock | None = None,
) -> HourReport:
    run_id = str(uuid.uuid4())
    return replay_hours(settings, hours or these_hours(), mode, run_id, observe=observe, clock=clock or Brisk())


def shown(settings: Settings, mode: Mode = Mode.FILL) -> HourReport:
    return preview_hours(settings, these_hours(), mode)


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with connect(settings) as client:
        return [tuple(row) for row in client.query(sql).result_rows]


def command(settings: Settings, *statements: str) -> None:
    with connect_shards(settings, mutations_sync=1, lightweight_deletes_sync=1) as shards:
        for shard, statement in product(shards, statements):
            shard.command(statement)


def fingerprint(settings: Settings) -> list[tuple[Any, ...]]:
    """raw_events, what readers get of rollups, dead letters and ledger, as hashes and sums."""
    now = int(time.time())
    span = f"start = toDateTime({now - 200_000}), end = toDateTime({now + 600}), step = 60"
    return [
        *query(settings, "SELECT count(), sum(sipHash64(*)) FROM (SELECT * FROM raw_events)"),
        *query(
            settings,
            f"""SELECT sum(n), sum(sipHash64(service, endpoint, minute, n, e)) FROM (
                SELECT service, endpoint, minute, sum(requests) AS n, sum(errors) AS e FROM rollup({span}) GROUP BY ALL)
            """,
        ),
        *query(settings, "SELECT count(), sum(sipHash64(* EXCEPT stored_at)) FROM dead_letters FINAL"),
        *query(settings, "SELECT sum(inserted), sum(arraySum(minute_removed)), sum(restored) FROM batches FINAL"),
    ]


def assert_exact(settings: Settings, *, events: int, dead: int = 0, added: int = 0) -> None:
    """So many events and dead letters, of which a replay made `added`; all books agree, nothing is in flight."""
    ((raw, distinct),) = query(settings, "SELECT count(), uniqExact(event_id) FROM raw_events")
    ((letters,),) = query(settings, "SELECT count() FROM dead_letters FINAL")
    assert (raw, distinct, letters) == (events, events, dead)
    verdict = audit(settings, deep=True)
    assert verdict.problems == (), verdict.problems
    assert verdict.books.minutes_in_flight == ()
    assert verdict.books.ledger.added_dead_letters == (added, added)
    assert verdict.books.ledger_events == verdict.books.raw_rows == verdict.books.rollup_requests == events


def assert_values(settings: Settings, sent: Sequence[bytes]) -> None:
    """raw_events has what was sent."""
    wanted = sorted((e["event_id"], e["timestamp"], e["latency_ms"]) for e in map(json.loads, sent))
    rows = query(settings, "SELECT toString(event_id), toUnixTimestamp64Milli(timestamp), latency_ms FROM raw_events")
    assert sorted(rows) == wanted
