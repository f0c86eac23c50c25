"""What replays of hours read of the ledger, and their plans: a `ReplayBooks`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.books import UNREPAIRED
from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.insert import insert_once
from metrics_pipeline.clickhouse.query import query_frame, query_rows
from metrics_pipeline.delivery.tables import DEAD_LETTERS
from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.ledger.deferred import around
from metrics_pipeline.ledger.entry import DEFERRED
from metrics_pipeline.ledger.reading_deferred import merged
from metrics_pipeline.ledger.tables import BATCHES, IN_RANGES, OF_INCARNATION, REPLAY_PLAN, PlanStep, ranges_parameters
from metrics_pipeline.replay.plan import PLAN_SCHEMA, LostLetters
from metrics_pipeline.runtime.timerange import MINUTE_SECONDS

_OVERLAPS = """arrayExists((p_, s_, e_) -> p = p_ AND s < e_ AND e > s_,
    {partitions:Array(UInt32)}, {starts:Array(UInt64)}, {ends:Array(UInt64)})"""
_RANGES = "partitions AS p, partition_start AS s, partition_end AS e"

_ACCOUNTED = f"""
    SELECT p, s, e FROM {BATCHES.name}
    ARRAY JOIN {_RANGES}, partition_consumed AS c, partition_skipped AS sk, partition_lost AS l
    WHERE {OF_INCARNATION} AND c + sk + l > 0 AND {_OVERLAPS}
"""
_MERGED = merged(_ACCOUNTED)
"""Neighbours put together: an hour has thousands of batches."""
_DROPPED = f"""
    SELECT p, min(s), max(least(e, low)) FROM (
        SELECT p, s, e, transform(p, {{partitions:Array(UInt32)}}, {{lows:Array(UInt64)}}, toUInt64(0)) AS low
        FROM {BATCHES.name} ARRAY JOIN {_RANGES}
        WHERE {OF_INCARNATION} AND source != '{DEFERRED}' AND last_message >= toDateTime64({{start:UInt32}}, 3, 'UTC')
            AND first_message >= toDateTime64({{start:UInt32}}, 3, 'UTC')
            AND first_message < toDateTime64({{end:UInt32}}, 3, 'UTC'))
    WHERE s < low GROUP BY p ORDER BY p
"""
_WITH_LETTERS = f"""
    SELECT batch, p, s, e, dl FROM {BATCHES.name} FINAL
    ARRAY JOIN {_RANGES}, partition_dead_letters AS dl
    WHERE {OF_INCARNATION} AND last_message >= {{first:DateTime64(3, 'UTC')}}
        AND first_message <= {{last:DateTime64(3, 'UTC')}} AND dl > 0 AND {_OVERLAPS}
    ORDER BY p, s
"""
_LETTERS = f"""
    SELECT batch, kafka_partition, count() FROM {DEAD_LETTERS.name} FINAL
    WHERE topic = {{topic:String}} AND topic_id = {{topic_id:String}} AND {IN_RANGES} GROUP BY batch, kafka_partition
"""


class ClickHouseReplayBooks:
    """A `ReplayBooks` of one incarnation of the topic and one consumer group."""

    def __init__(self, client: Client, topic: str, topic_id: str, group: str) -> None:
        self._client = client
        self._named = {"topic": topic, "topic_id": topic_id, "group": group}

    def accounted(self, ranges: Sequence[OffsetRange]) -> Sequence[OffsetRange]:
        rows = self._rows("looking for ranges in the ledger", _MERGED, ranges_parameters(ranges))
        return [OffsetRange(int(p), int(s), int(e)) for p, s, e in rows]

    def dropped(self, lows: Mapping[int, int], start_seconds: int, end_seconds: int) -> Sequence[OffsetRange]:
        parameters = {
            "partitions": list(lows),
            "lows": list(lows.values()),
            "start": start_seconds,
            "end": end_seconds,
        }
        rows = self._rows("looking for what the topic dropped", _DROPPED, parameters)
        return [OffsetRange(int(p), int(s), int(e)) for p, s, e in rows]

    def lost_letters(self, ranges: Sequence[OffsetRange], first: datetime, last: datetime) -> Sequence[LostLetters]:
        doing, span = "looking for lost dead letters", {"first": first, "last": last}
        batches = [
            LostLetters(str(batch), OffsetRange(int(p), int(s), int(e)), int(noted))
            for batch, p, s, e, noted in self._rows(doing, _WITH_LETTERS, span | ranges_parameters(ranges))
        ]
        if not batches:
            return []
        counted = self._rows(doing, _LETTERS, ranges_parameters(around(b.range for b in batches)))
        found = {(str(batch), int(p)): int(count) for batch, p, count in counted}
        lost = [replace(b, count=b.count - found.get((b.batch, b.range.partition), 0)) for b in batches]
        return [b for b in lost if b.count > 0]

    def write_plan(self, chunk: OpenBatch, plan: pl.DataFrame, token: str) -> None:
        rows = plan.with_columns(
            consumer_group=pl.lit(self._named["group"]),
            batch=pl.lit(chunk.token),
            opened_at=pl.lit(chunk.opened_ms).cast(pl.Datetime("ms", "UTC")),
        )
        insert_once(self._client, REPLAY_PLAN.name, rows, token)

    def plan(self, chunk: OpenBatch) -> pl.DataFrame:
        sql = f"""SELECT {", ".join(PLAN_SCHEMA.names())} FROM {REPLAY_PLAN.name} FINAL
            WHERE consumer_group = {{group:String}} AND step != '{PlanStep.REPAIRED}'
                AND opened_at = {{opened:DateTime64(3, 'UTC')}} AND batch = {{batch:String}}
            ORDER BY kafka_partition, kafka_offset, step"""
        named = {**self._named, "batch": chunk.token, "opened": chunk.opened_ms / 1_000}
        return query_frame(self._client, "reading the plan of a replay", sql, named).cast(PLAN_SCHEMA)

    def unrepaired(self) -> tuple[frozenset[int], int]:
        minute = f"intDiv(toUnixTimestamp(timestamp), {MINUTE_SECONDS}) * {MINUTE_SECONDS}"
        is_event = f"step IN ('{PlanStep.REMOVE}', '{PlanStep.INSERT}', '{PlanStep.RESTORE}')"
        sql = f"""SELECT groupUniqArrayIf({minute}, {is_event}), toUnixTimestamp64Milli(max(opened_at))
            FROM {REPLAY_PLAN.name} WHERE {UNREPAIRED}"""
        ((minutes, newest_ms),) = self._rows("looking for replays that are not settled", sql, {})
        return frozenset(map(int, minutes)), max(0, int(newest_ms))

    def note_repaired(self, opened_ms: int) -> None:
        columns = ["consumer_group", "step", "opened_at"]
        moment = pl.Series([opened_ms]).cast(pl.Datetime("ms", "UTC"))[0]
        row = [self._named["group"], PlanStep.REPAIRED.value, moment]
        calling("settling a replay", lambda: self._client.insert(REPLAY_PLAN.name, [row], column_names=columns))

    def newest_ms(self) -> int:
        sql = f"""SELECT toUnixTimestamp64Milli(max(opened_at)) FROM {REPLAY_PLAN.name}
            WHERE consumer_group = {{group:String}}"""
        return max(0, int(self._rows("looking for the newest replay", sql, {})[0][0]))

    def _rows(self, doing: str, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        named = {**self._named, **parameters}
        return query_rows(self._client, doing, sql, named)
