"""Months of events, sent and drained, with rollups built; and what every answer about them must be."""

import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.questions.latency import ask
from metrics_pipeline.questions.question import Names, Question
from metrics_pipeline.retention.policy import Policy
from metrics_pipeline.retention.report import Report
from metrics_pipeline.retention.run import Retention, RetentionStep
from metrics_pipeline.rollups import building
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.timerange import TimeRange
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.worlds.events import encode
from tests.worlds.pipeline import drain_once, send

DAY = 86_400
TODAY = int(datetime.now(UTC).timestamp()) // DAY * DAY
SERVICES, TIERS = ("checkout", "search", "reports"), ("free", "enterprise")
UNITS = (0, 600, 1_200, 3_600, 86_400 - 600)
"""Of each day, in seconds: several in an hour, several hours, both ends."""


class Impatient(SystemClock):
    """Does not wait between the two looks of a check: nothing lands meanwhile."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.02))


@dataclass(frozen=True)
class Event:
    day: int
    """How many days ago, by midnights."""
    seconds: int
    service: str
    tier: str
    latency_ms: float
    event_id: str

    @property
    def timestamp_ms(self) -> int:
        return (TODAY - self.day * DAY + self.seconds) * 1_000 + 7

    @property
    def message(self) -> bytes:
        return encode(
            {
                "event_id": self.event_id,
                "timestamp": self.timestamp_ms,
                "service": self.service,
                "endpoint": "/",
                "status": 500 if self.latency_ms > 900 else 200,
                "latency_ms": self.latency_ms,
                "customer": {"id": "c", "tier": self.tier},
                "region": "eu",
            }
        )


def events_of(days: Sequence[int], random_: random.Random) -> list[Event]:
    """In each unit of each of these days one event per service and tier."""
    return [
        Event(
            day,
            unit + random_.randrange(600),
            service,
            tier,
            round(random_.lognormvariate(5, 1), 3),
            str(uuid.UUID(int=random_.getrandbits(128), version=4)),
        )
        for day in days
        for unit in UNITS
        for service in SERVICES
        for tier in TIERS
    ]


def land(settings: Settings, events: Sequence[Event], *, max_age_days: int = 5_000) -> None:
    """Messages of now, of events that are older than any drain would take by default."""
    limits = settings.events.model_copy(update={"max_age_days": max_age_days})
    send(settings, [event.message for event in events])
    drain_once(settings.model_copy(update={"events": limits}))


def build(settings: Settings, days: Sequence[int], patch: pytest.MonkeyPatch) -> None:
    """All buckets of a grain by one statement, though they lie apart: a statement takes as long as a day."""
    with patch.context() as patched, open_rollups(settings, Impatient()) as rollups:
        patched.setattr(building, "_chunks", lambda buckets, _grain: [buckets] if buckets else [])
        rollups.rebuild(Span(TODAY - max(days) * DAY, TODAY))


def retain(
    settings: Settings,
    client: Client,
    policy: Policy,
    *,
    reach: int = 1,
    dry_run: bool = False,
    observe: Callable[[RetentionStep], None] = lambda _step: None,
) -> Report:
    with open_rollups(settings, Impatient()) as rollups:
        return Retention(client, rollups, policy, reach, Impatient(), observe).run(dry_run=dry_run)


def assert_answers(client: Client, events: Sequence[Event], days: Sequence[int]) -> None:
    """Of each day and of all of them, of each service and of all: counts exactly, quantiles within their error."""
    spans = [(day, day - 1) for day in days] + [(max(days), 0)]
    for first, last in spans:
        span = TimeRange(midnight(first), midnight(last))
        for service in ("", *SERVICES) if first == max(days) else ("", SERVICES[first % 3]):
            wanted = [e for e in events if last < e.day <= first and service in ("", e.service)]
            answer = ask(client, Question(span, Names(service=service)))
            assert answer.requests == len(wanted), (first, last, service)
            assert answer.errors == sum(e.latency_ms > 900 for e in wanted)
            # Asked for minutes, it takes the shortest buckets that are left.
            assert ask(client, Question(span, Names(service=service), 60)).requests == len(wanted), (
                first,
                last,
                service,
            )
            if wanted:
                latencies = sorted(e.latency_ms for e in wanted)
                middle = latencies[(len(latencies) - 1) // 2 : len(latencies) // 2 + 1]
                assert answer.p50_ms is not None
                assert middle[0] * 0.98 <= answer.p50_ms <= middle[-1] * 1.02, (first, last, service)
                assert answer.max_ms == latencies[-1]


def held_days(client: Client, table: str, where: str = "1") -> Counter[int]:
    """Days ago -> rows (requests of a rollup), by midnights."""
    time, count = ("timestamp", "count()") if table == "raw_events" else ("minute", "sum(requests)")
    sql = f"""SELECT intDiv({TODAY} - toUnixTimestamp(toStartOfDay({time})), {DAY}), {count} FROM {table}
        WHERE {where} GROUP BY 1"""
    return Counter({int(day): int(n) for day, n in client.query(sql).result_rows})


def partition_end(day: int, partition_days: int) -> int:
    """Days ago at which the partition ends that holds the day, as ClickHouse cuts them: from 1970 on."""
    length = partition_days * DAY
    return (TODAY - ((TODAY - day * DAY) // length + 1) * length) // DAY


def midnight(days_ago: int) -> datetime:
    return datetime.fromtimestamp(TODAY, UTC) - timedelta(days=days_ago)
