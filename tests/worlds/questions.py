"""A pipeline whose rollups are built here and there, and the events that went in: what answers are compared with."""

import math
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.questions.question import Question
from metrics_pipeline.rollups.building import RollupBuilder
from metrics_pipeline.rollups.grains import BUILT, GRAINS
from metrics_pipeline.settings import Settings
from tests.worlds.events import encode
from tests.worlds.pipeline import drain_once, send

BERLIN = ZoneInfo("Europe/Berlin")
CHANGES = (datetime(2024, 3, 31, tzinfo=BERLIN), datetime(2024, 10, 27, tzinfo=BERLIN))
"""Days of 23 and of 25 hours."""
DAYS_AROUND = 5
SERVICES = ("checkout", "search", "reports")
ENDPOINTS = ("/a", "/b", "/c/:id", "/d")
METHODS = ("GET", "POST", "")
TIERS = ("free", "pro", "enterprise")
REGIONS = ("eu", "us")

_EVENTS_PER_CHANGE = 6_000
_STATUSES = (100, 200, 204, 301, 404, 499, 500, 503)


@dataclass(frozen=True)
class World:
    client: Client
    settings: Settings
    events: pl.DataFrame
    """One row per event: start of its minute (epoch seconds), names, status, latency_ms."""

    def of(self, question: Question) -> pl.DataFrame:
        """The events that the question is about."""
        minutes = question.minutes
        asked = [pl.col(dimension) == name for dimension, name in question.names.asked.items()]
        return self.events.filter(
            pl.col("minute") >= int(minutes.start.timestamp()), pl.col("minute") < int(minutes.end.timestamp()), *asked
        )


def build_world(settings: Settings, seed: int) -> Iterator[World]:
    """Three waves of events with duplicates, and builds after each, so that buckets are built, stale or not built."""
    random_ = random.Random(seed)
    documents = [_document(random_, moment) for moment in _moments(random_)]
    random_.shuffle(documents)
    waves = _waves(random_, documents)
    with connect(settings) as client:
        builder = RollupBuilder(client, time.time_ns)
        for number, fresh in enumerate(waves):
            sent = [d for wave in waves[: number + 1] for d in wave]
            send(settings, [encode(d) for d in (*fresh, *random_.sample(sent, len(fresh) // 20))])
            drain_once(settings)
            for change in CHANGES:
                _build_here_and_there(builder, random_, int(change.timestamp()))
        yield World(client, settings, _frame(documents))


def _waves(random_: random.Random, documents: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Late events come in some hours of some days: elsewhere buckets stay as they were built."""
    late_days = {day for day in range(100_000) if random_.random() < 0.5}
    late_hours = {hour for hour in range(1_000_000) if random_.random() < 0.15}
    waves: list[list[dict[str, Any]]] = [[], [], []]
    for document in documents:
        hour = document["timestamp"] // 3_600_000
        is_late = hour // 24 in late_days and hour in late_hours
        waves[random_.randrange(3) if is_late else 0].append(document)
    return waves


def _moments(random_: random.Random) -> Iterator[int]:
    """Epoch milliseconds: ends of buckets and days from both sides, and at random."""
    for change in CHANGES:
        start = int(change.timestamp()) - DAYS_AROUND * 86_400
        end = int(change.timestamp()) + DAYS_AROUND * 86_400
        for grain in GRAINS[1:]:
            cutoffs = range(grain.ceil(start), end, grain.seconds)
            for cutoff in random_.sample(cutoffs, min(40, len(cutoffs))):
                yield from (cutoff * 1_000 - 1, cutoff * 1_000, cutoff * 1_000 + 59_999, cutoff * 1_000 + 60_000)
        for day in range(-DAYS_AROUND, DAYS_AROUND):
            midnight = datetime(change.year, change.month, change.day, tzinfo=BERLIN).timestamp() + day * 86_400
            yield from (int(midnight) * 1_000 - 1, int(midnight) * 1_000)
        for _ in range(_EVENTS_PER_CHANGE):
            yield random_.randrange(start * 1_000, end * 1_000)


def _document(random_: random.Random, moment_ms: int) -> dict[str, Any]:
    return {
        "event_id": str(uuid.UUID(int=random_.getrandbits(128), version=4)),
        "timestamp": moment_ms,
        "service": random_.choices(SERVICES, (6, 3, 1))[0],
        "endpoint": random_.choice(ENDPOINTS),
        "method": random_.choice(METHODS),
        "status": random_.choices(_STATUSES, (1, 60, 10, 5, 10, 2, 8, 4))[0],
        "latency_ms": _latency_ms(random_),
        "customer": {"id": "c1", "tier": random_.choices(TIERS, (7, 2, 1))[0]},
        "region": random_.choice(REGIONS),
    }


def _latency_ms(random_: random.Random) -> float:
    """Mostly a skewed bell; now and then nothing, the thresholds of apdex, or very long."""
    kind = random_.random()
    if kind < 0.02:
        return random_.choice((0, 500, 500.001, 2_000, 2_000.001, 86_400_000))
    return round(random_.lognormvariate(4.5, 1.4), 3)


def _build_here_and_there(builder: RollupBuilder, random_: random.Random, middle: int) -> None:
    for grain, most_days in zip(BUILT, (1, 3, 2 * DAYS_AROUND, 4 * DAYS_AROUND), strict=True):
        start = grain.floor(middle + random_.randrange(-DAYS_AROUND, DAYS_AROUND // 2) * 86_400)
        end = grain.ceil(start + random_.randrange(most_days // 2, most_days) * 86_400 + 43_200)
        buckets = builder.buckets(grain, start, end, only_stale=random_.random() < 0.5)
        for _built in builder.build(grain, buckets):
            pass


def _frame(documents: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "minute": d["timestamp"] // 60_000 * 60,
                "tier": d["customer"]["tier"],
                **{name: d[name] for name in ("service", "endpoint", "method", "region", "status")},
                "latency_ms": float(d["latency_ms"]),
            }
            for d in documents
        ]
    )


def assert_quantile(found: float | None, level: float, latencies: list[float], relative_error: float) -> None:
    """`latencies` are in order. The rank of a quantile lies between those of two common definitions."""
    assert found is not None
    least = latencies[math.floor(level * (len(latencies) - 1))]
    most = latencies[min(math.floor(level * len(latencies)), len(latencies) - 1)]
    assert least * (1 - relative_error) - 1e-9 <= found <= most * (1 + relative_error) + 1e-9, (found, least, most)
