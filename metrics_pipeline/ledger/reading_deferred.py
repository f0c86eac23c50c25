"""What drains skipped and no backfill has landed yet, by the ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.errors import StopError
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.deferred import DeferredEntry, around, still_deferred
from metrics_pipeline.ledger.entry import BACKFILL, DEFERRED
from metrics_pipeline.ledger.tables import OF_INCARNATION, LedgerScope, ranges_parameters

MAX_ENTRIES = 20_000
"""Most entries that are read, the oldest first: more than two years of hours."""
MAX_ISLANDS = 200_000
"""Most covered stretches between what is deferred. If some were not read, offsets would land twice: more are
refused."""

_NEWEST_INCARNATION = """
    SELECT topic_id FROM batches WHERE topic = {topic:String} AND consumer_group = {group:String}
    ORDER BY visible_at DESC LIMIT 1
"""
_ENTRIES = f"""
    SELECT toUnixTimestamp64Milli(first_message), toUnixTimestamp64Milli(last_message),
        partitions, partition_start, partition_end
    FROM batches WHERE {OF_INCARNATION} AND source = '{DEFERRED}' ORDER BY first_message, batch LIMIT {{limit:UInt32}}
"""
_AROUND = f"""
    SELECT p, s, e FROM batches ARRAY JOIN partitions AS p, partition_start AS s, partition_end AS e
    WHERE {OF_INCARNATION} AND s < transform(p, {{partitions:Array(UInt32)}}, {{ends:Array(UInt64)}}, toUInt64(0))
        AND e > transform(p, {{partitions:Array(UInt32)}}, {{starts:Array(UInt64)}}, toUInt64(0))"""


class ClickHouseDeferred:
    """What is deferred of one incarnation of the topic, for one consumer group."""

    def __init__(self, client: Client, topic: str, topic_id: str, group: str) -> None:
        self._client = client
        self._incarnation = {"topic": topic, "topic_id": topic_id, "group": group}

    def read(self) -> tuple[DeferredEntry, ...]:
        """What is deferred now, the oldest hour first."""
        rows = self._rows(_ENTRIES, {"limit": MAX_ENTRIES})
        deferred: tuple[DeferredEntry, ...] = tuple(
            DeferredEntry(tuple(OffsetRange(*map(int, r)) for r in zip(*ranges, strict=True)), int(first), int(last))
            for first, last, *ranges in rows
        )
        # The rows of backfills are few, and nearly always tell; those of drains are read only where they don't.
        for covered in (self._backfilled, self.drained):
            if deferred:
                deferred = still_deferred(deferred, covered([r for entry in deferred for r in entry.ranges]))
        return deferred

    def drained(self, ranges: Sequence[OffsetRange]) -> tuple[OffsetRange, ...]:
        """What drains read around `ranges`, which they do if somebody moved offsets back by hand."""
        return self._covered(ranges, f"source NOT IN ('{DEFERRED}', '{BACKFILL}')")

    def _backfilled(self, ranges: Sequence[OffsetRange]) -> tuple[OffsetRange, ...]:
        return self._covered(ranges, f"source = '{BACKFILL}'")

    def _covered(self, ranges: Sequence[OffsetRange], source: str) -> tuple[OffsetRange, ...]:
        """Where rows of that source lie around `ranges`, as few ranges as there can be."""
        sql = f"{merged(f'{_AROUND} AND {source}')} LIMIT {{limit:UInt32}}"
        rows = self._rows(sql, ranges_parameters(around(ranges)) | {"limit": MAX_ISLANDS})
        if len(rows) == MAX_ISLANDS:
            raise StopError(
                f"the ledger has more than {MAX_ISLANDS:,} stretches between what is deferred: run `metrics-pipeline "
                "audit`, and mend the gaps that it names first"
            )
        return tuple(OffsetRange(int(p), int(s), int(e)) for p, s, e in rows)

    def _rows(self, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return query_rows(self._client, "reading what is deferred", sql, self._incarnation | dict(parameters))


def read_deferred(client: Client, scope: LedgerScope) -> tuple[DeferredEntry, ...]:
    """What is deferred of the topic as the ledger knows it last."""
    lives = query_rows(
        client, "reading what is deferred", _NEWEST_INCARNATION, {"topic": scope.topic, "group": scope.group}
    )
    return ClickHouseDeferred(client, scope.topic, str(lives[0][0]), scope.group).read() if lives else ()


def merged(rows: str) -> str:
    """Of a query of ranges (p, s, e): those that touch or overlap put together, as (p, s, e), in order."""
    return f"""SELECT p, min(s), max(e) FROM (
        SELECT p, s, e, sum(is_first) OVER (PARTITION BY p ORDER BY s, e ROWS UNBOUNDED PRECEDING) AS island FROM (
            SELECT p, s, e, s > max(e) OVER (
                PARTITION BY p ORDER BY s, e ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS is_first
            FROM ({rows})
        )
    ) GROUP BY p, island ORDER BY p, min(s)"""
