"""Reads the signals of alerts from ClickHouse. Each query reads a bounded stretch of recent rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.burn import WINDOWS, Tallies, Tally
from metrics_pipeline.alerting.signals import (
    WINDOW_SECONDS,
    BurnSignal,
    CanarySignal,
    DiskSignal,
    FlowSignal,
    StorageSignal,
)
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ddl.storage_views import DISKS, PARTS
from metrics_pipeline.ledger.entry import DRAIN
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.runtime.timerange import DAY_SECONDS

LOOK_BACK_SECONDS = 3_600
"""How far back a partition's newest batch is looked for."""
_QUERY_SETTINGS: Mapping[str, Any] = {"max_execution_time": 20, "max_threads": 2}

_OF_GROUP = "topic = {topic:String} AND consumer_group = {group:String}"
_AGE = "(toUnixTimestamp64Milli(now64(3)) - toUnixTimestamp64Milli(max(visible_at))) / 1000"

_LANDED = f"""
    SELECT p, {_AGE} FROM batches ARRAY JOIN partitions AS p
    WHERE {_OF_GROUP} AND source = '{DRAIN}' AND visible_at > now64(3) - {{seconds:UInt32}} GROUP BY p
"""
_COUNTS = f"""
    SELECT sum(consumed), sum(dead_letters) FROM batches FINAL
    WHERE {_OF_GROUP} AND visible_at > now64(3) - {{seconds:UInt32}}
"""
_FRESHNESS = f"""
    SELECT sum(weight), quantileExactWeighted(0.99)(age, weight) / 1000 FROM batches FINAL
    ARRAY JOIN freshness_ms AS age, freshness_events AS weight
    WHERE {_OF_GROUP} AND visible_at > now64(3) - {{seconds:UInt32}}
"""
_LOST = f"""
    SELECT p, sum(l) FROM batches FINAL ARRAY JOIN partitions AS p, partition_lost AS l
    WHERE {_OF_GROUP} AND lost > 0 AND l > 0 AND visible_at > now64(3) - {{seconds:UInt32}} GROUP BY p
"""
_REASONS = """
    SELECT reason, count() FROM dead_letters FINAL
    WHERE topic = {topic:String} AND stored_at > now64(3) - {seconds:UInt32} GROUP BY reason
"""
_WINDOW_TALLIES = ", ".join(
    f"sumIf(late, at > now64(3) - {seconds}), sumIf(known, at > now64(3) - {seconds})" for seconds in WINDOWS.values()
)
_LATE_EVENTS = f"""
    SELECT {_WINDOW_TALLIES} FROM (
        SELECT visible_at AS at, arraySum(freshness_events) AS known,
            arraySum((age, n) -> if(age > 1000 * {{objective:Float64}}, n, 0), freshness_ms, freshness_events) AS late
        FROM batches FINAL WHERE {_OF_GROUP} AND visible_at > now64(3) - {{seconds:UInt32}})
"""
_CANARY_AGE = (
    "if(seconds > 0, seconds, (toUnixTimestamp64Milli(now64(3)) - toUnixTimestamp64Milli(produced_at)) / 1000)"
)
"""A canary that was not seen is as old as it is now."""
_CANARIES = f"""
    SELECT shard, argMaxIf(age, at, known AND at > now64(3) - {LOOK_BACK_SECONDS}), {_WINDOW_TALLIES} FROM (
        SELECT shard, produced_at AS at, {_CANARY_AGE} AS age,
            age > objective_seconds AS late, seconds > 0 OR late AS known
        FROM canaries FINAL WHERE {_OF_GROUP} AND produced_at > now64(3) - {{seconds:UInt32}})
    GROUP BY shard ORDER BY shard
"""
_DISKS = f"SELECT disk, unreserved_space, total_space FROM {DISKS.name} ORDER BY disk"
_PARTS = f"""
    SELECT table, max(parts) FROM (
        SELECT table, partition_id, count() AS parts FROM {PARTS.name} GROUP BY table, partition_id)
    GROUP BY table ORDER BY table
"""
_GROWTH = f"""
    SELECT
        (SELECT sum(bytes_on_disk) FROM {PARTS.name}) AS bytes,
        (SELECT sum(rows) FROM {PARTS.name} WHERE table = 'raw_events') AS events,
        (SELECT sum(inserted) FROM batches FINAL WHERE visible_at > now64(3) - 86400) AS of_day
"""
"""All tables grow with the events: a day's events, times the bytes that an event takes now, are a day's growth."""


def read_landed(client: Client, scope: LedgerScope) -> Mapping[int, float]:
    """Partition -> seconds since a drain landed a batch of it, if one did within LOOK_BACK_SECONDS."""
    return {int(p): float(age) for p, age in _rows(client, _LANDED, scope, LOOK_BACK_SECONDS)}


def read_flow(client: Client, scope: LedgerScope, landed: Mapping[int, float]) -> FlowSignal:
    """Counts and freshness of the last WINDOW_SECONDS, losses of the last day."""
    ((consumed, dead_letters),) = _rows(client, _COUNTS, scope, WINDOW_SECONDS)
    ((weight, p99),) = _rows(client, _FRESHNESS, scope, WINDOW_SECONDS)
    reasons = _rows(client, _REASONS, scope, WINDOW_SECONDS) if dead_letters else []
    return FlowSignal(
        landed_ago_seconds=min(landed.values(), default=None),
        consumed=int(consumed),
        dead_letters=int(dead_letters),
        reasons={str(reason): int(count) for reason, count in reasons},
        freshness_p99_seconds=float(p99) if weight else None,
        lost={int(p): int(offsets) for p, offsets in _rows(client, _LOST, scope, DAY_SECONDS)},
    )


def read_burn(client: Client, scope: LedgerScope, objective_seconds: float) -> BurnSignal:
    """Late events by the ledger, late canaries by their own objectives."""
    longest = max(WINDOWS.values())
    (events,) = _rows(client, _LATE_EVENTS, scope, longest, objective=objective_seconds)
    return BurnSignal(
        _tallies(events),
        tuple(
            CanarySignal(int(shard), _tallies(counts), float(age) or None)
            for shard, age, *counts in _rows(client, _CANARIES, scope, longest)
        ),
    )


def _tallies(counts: Sequence[Any]) -> Tallies:
    late, known = counts[::2], counts[1::2]
    return {window: Tally(int(a), int(b)) for window, a, b in zip(WINDOWS, late, known, strict=True)}


def read_storage(client: Client) -> StorageSignal:
    ((size_bytes, events, of_day),) = _rows(client, _GROWTH)
    return StorageSignal(
        disks=tuple(DiskSignal(str(name), int(free), int(total)) for name, free, total in _rows(client, _DISKS)),
        most_parts={str(table): int(parts) for table, parts in _rows(client, _PARTS)},
        bytes_per_day=int(size_bytes or 0) / int(events) * int(of_day or 0) if events else 0.0,
    )


def _rows(
    client: Client, sql: str, scope: LedgerScope | None = None, seconds: int = 0, **more: float
) -> list[tuple[Any, ...]]:
    parameters = {"topic": scope.topic, "group": scope.group, "seconds": seconds, **more} if scope else {}
    return query_rows(client, "reading the signals of alerts", sql, parameters, _QUERY_SETTINGS)
