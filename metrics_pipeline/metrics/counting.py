"""Sums of the ledger since the start of the month (UTC), read in bounded steps.

A counter may only grow, or begin again near zero. Sums of all time would fall where retention drops rows: Prometheus
would take the fall for a restart and count everything twice. Sums of a month begin at zero with the month, and every
exporter, restarted or not, has the same sums.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ledger.entry import DEFERRED
from metrics_pipeline.ledger.tables import IS_BATCH, LedgerScope
from metrics_pipeline.metrics.catalogue import BATCH_MESSAGES, BATCH_STEP, FRESHNESS
from metrics_pipeline.runtime.timerange import DAY_SECONDS

STEP_SECONDS = DAY_SECONDS
"""One query reads a day of the ledger at most."""
SETTLE_SECONDS = 600
"""Rows may land out of the order of `visible_at` by some seconds. Rows that are older than this are read once."""

_SPAN = """topic = {topic:String} AND consumer_group = {group:String}
    AND visible_at >= {start:DateTime64(3, 'UTC')} AND visible_at < {end:DateTime64(3, 'UTC')}"""

_LEDGER = f"""
    SELECT countIf({IS_BATCH}), sum(consumed), sum(size_bytes), sum(inserted), sum(duplicates),
        sum(skipped), sum(lost),
        sumForEachIf(arrayMap(b -> consumed <= b, {{messages:Array(Float64)}}), {IS_BATCH}),
        sumForEachIf(arrayMap(b -> commit_duration_ms <= b * 1000, {{steps:Array(Float64)}}), {IS_BATCH}),
        sumForEachIf(arrayMap(b -> look_up_duration_ms <= b * 1000, {{steps:Array(Float64)}}), {IS_BATCH}),
        sumForEachIf(arrayMap(b -> insert_duration_ms <= b * 1000, {{steps:Array(Float64)}}), {IS_BATCH}),
        sum(commit_duration_ms) / 1000, sum(look_up_duration_ms) / 1000, sum(insert_duration_ms) / 1000,
        sumForEach(arrayMap(b -> arraySum((age, n) -> if(age <= b * 1000, n, 0), freshness_ms, freshness_events),
            {{ages:Array(Float64)}})),
        sum(arraySum((age, n) -> age * n, freshness_ms, freshness_events)) / 1000, sum(arraySum(freshness_events))
    FROM batches FINAL WHERE {_SPAN} AND source != '{DEFERRED}'
"""
"""Rows of a skip to head are left out, since they hold nothing. Replayed dead letters were consumed once, when they
arrived, and took no drain's or backfill's time."""
_DEAD_LETTERS = """
    SELECT reason, count() FROM dead_letters FINAL
    WHERE topic = {topic:String} AND stored_at >= {start:DateTime64(3, 'UTC')}
        AND stored_at < {end:DateTime64(3, 'UTC')} GROUP BY reason
"""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram: `below[i]` of `count` values are at most the i-th bound; `sum` is their sum."""

    below: tuple[float, ...] = ()
    count: float = 0
    sum: float = 0

    def __add__(self, other: "Distribution") -> "Distribution":
        return Distribution(_added(self.below, other.below), self.count + other.count, self.sum + other.sum)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the table batches; `sums` are batches, consumed, bytes, inserted, duplicates, skipped, lost."""

    sums: tuple[float, ...] = ()
    messages: Distribution = field(default_factory=Distribution)
    steps: Mapping[str, Distribution] = field(default_factory=dict)
    freshness: Distribution = field(default_factory=Distribution)
    dead_letters: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Totals") -> "Totals":
        names = {*self.steps, *other.steps}
        return Totals(
            _added(self.sums, other.sums),
            self.messages + other.messages,
            {n: self.steps.get(n, Distribution()) + other.steps.get(n, Distribution()) for n in names},
            self.freshness + other.freshness,
            Counter(self.dead_letters) + Counter(other.dead_letters),
        )


class MonthlyCounter:
    """Keeps the sums of settled rows, so that a reading counts some minutes of the ledger. For one thread at a time."""

    def __init__(self, scope: LedgerScope) -> None:
        self._scope = scope
        self._month = 0.0
        self._settled_until = 0.0
        self._settled = Totals()

    def read(self, client: Client, now: float) -> Totals:
        """Sums from the start of the month until `now` (epoch seconds). Raises what `calling` raises."""
        month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
        if month != self._month:
            self._month, self._settled_until, self._settled = month, month, Totals()
        cutoff = max(month, float(int(now - SETTLE_SECONDS)))
        while self._settled_until < cutoff:
            end = min(self._settled_until + STEP_SECONDS, cutoff)
            self._settled += self._count(client, self._settled_until, end)
            self._settled_until = end
        return self._settled + self._count(client, cutoff, now + STEP_SECONDS)

    def _count(self, client: Client, start: float, end: float) -> Totals:
        parameters = {
            "topic": self._scope.topic,
            "group": self._scope.group,
            "start": start,
            "end": end,
            "messages": list(BATCH_MESSAGES.bounds),
            "steps": list(BATCH_STEP.bounds),
            "ages": list(FRESHNESS.bounds),
        }
        (row,) = query_rows(client, "counting the ledger", _LEDGER, parameters)
        reasons = query_rows(client, "counting dead letters", _DEAD_LETTERS, parameters)
        return _totals(row, {str(reason): int(count) for reason, count in reasons})


def _totals(row: Sequence[Any], dead_letters: Mapping[str, int]) -> Totals:
    sums = tuple(map(float, row[:7]))
    batches, consumed, *_ = sums
    messages, *steps = (tuple(map(float, below)) for below in row[7:11])
    names, seconds = ("commit", "look_up", "insert"), map(float, row[11:14])
    return Totals(
        sums,
        Distribution(messages, batches, consumed),
        {name: Distribution(below, batches, spent) for name, below, spent in zip(names, steps, seconds, strict=True)},
        Distribution(tuple(map(float, row[14])), float(row[16]), float(row[15])),
        dead_letters,
    )


def _added(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """Element by element. An empty sequence is zeros: nothing was counted yet."""
    if not one or not other:
        return tuple(one or other)
    return tuple(a + b for a, b in zip(one, other, strict=True))
