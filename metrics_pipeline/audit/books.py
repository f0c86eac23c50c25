"""The tables as a `BookReader`: each by itself, by aggregates over sort keys and small columns, one query per table.

Tables are counted whole, so minutes are compared with the ledger rows of every consumer group; accounts and ranges are
those of the present one. Only one group may feed the tables at a time: batches of another are not known to be open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.verdict import (
    LONGEST_LIST,
    BrokenAccount,
    BrokenRow,
    Counts,
    Ledger,
    PartitionKey,
    PartitionTotals,
)
from metrics_pipeline.clickhouse.query import query_frame, query_rows
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.deferred import subtracted
from metrics_pipeline.ledger.entry import BACKFILL, DEFERRED, PartitionAccount
from metrics_pipeline.ledger.minutes import COUNTS_SCHEMA, Scope
from metrics_pipeline.ledger.reading_deferred import ClickHouseDeferred
from metrics_pipeline.ledger.tables import IN_RANGES, REPLAY_PLAN, PlanStep, ranges_parameters
from metrics_pipeline.rollups.tables import CURRENT_ROWS
from metrics_pipeline.runtime.timerange import DAY_SECONDS, MINUTE_SECONDS

_ROWS = "FROM batches FINAL"
_OF_GROUP = "consumer_group = {group:String}"
_COVERS = f"source != '{DEFERRED}'"
UNREPAIRED = f"""{_OF_GROUP} AND step != '{PlanStep.REPAIRED}'
    AND opened_at > (SELECT max(opened_at) FROM {REPLAY_PLAN.name}
        WHERE {_OF_GROUP} AND step = '{PlanStep.REPAIRED}')"""
"""Rows of the plan that the rollups may not count yet: of chunks that are open, or since the last repair."""
_PARTS = """ARRAY JOIN partitions AS p, partition_start AS s, partition_end AS e, partition_consumed AS c,
        partition_inserted AS i, partition_duplicates AS d, partition_dead_letters AS dl, partition_skipped AS sk,
        partition_lost AS l"""

_MAX_RANGES = 200_000
"""Most ranges of a partition, skipped or backfilled, that are read."""

_IN_SCOPE = """(
        inserted > 0 AND first_event < toDateTime({end:UInt32}, 'UTC')
            AND last_event >= toDateTime({start:UInt32}, 'UTC')
            AND arrayExists(
                m -> toUnixTimestamp(m) >= {start:UInt32} AND toUnixTimestamp(m) < {end:UInt32}, minutes)
        OR inserted = 0 AND started_at >= toDateTime({start:UInt32}, 'UTC')
            AND started_at < toDateTime({end:UInt32}, 'UTC'))"""
"""Ledger rows that touch the scope: by their events, or, where they inserted none, by when they landed."""

_ORDERED = """
    SELECT p, s, e, max(e) OVER (
        PARTITION BY p ORDER BY s, e ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
        row_number() OVER (PARTITION BY p ORDER BY s, e) AS position
    FROM batches FINAL ARRAY JOIN partitions AS p, partition_start AS s, partition_end AS e
    WHERE topic = {topic:String} AND topic_id = {topic_id:String} AND consumer_group = {group:String}
        AND p IN {partitions:Array(UInt32)}"""
_GAPS = f"SELECT p, before, s FROM ({_ORDERED}) WHERE position > 1 AND s > before LIMIT {{limit:UInt32}}"
_OVERLAPS = f"""SELECT p, s, least(e, before) FROM ({_ORDERED} AND {_COVERS})
    WHERE position > 1 AND s < before LIMIT {{limit:UInt32}}"""

_OF_DRAINS = f"""batch NOT IN (
    SELECT batch FROM batches WHERE added_dead_letters > 0
    UNION ALL SELECT batch FROM {REPLAY_PLAN.name} WHERE {UNREPAIRED})"""
"""Dead letters that a replay made are in no account of a partition: their messages are, as something else."""

_RAW_MINUTE = f"intDiv(toUnixTimestamp(timestamp), {MINUTE_SECONDS}) * {MINUTE_SECONDS}"
_IN_DEFERRED = IN_RANGES.replace("{", "{deferred_")
_FINAL_SETTINGS = {"do_not_merge_across_partitions_select_final": 1}
"""Rows with the same key are in the same partition: one that is a single merged part needs no merging."""


@dataclass(frozen=True, slots=True)
class ClickHouseBooks:
    """A `BookReader` for the present topic and one consumer group.

    Dead letters of messages before `dead_letters_from` (epoch seconds) may have been dropped: they aren't counted.
    """

    client: Client
    topic: str
    topic_id: str
    group: str
    dead_letters_from: int = 0

    def ledger(self, scope: Scope) -> Ledger:
        touches, bounds = _touches(scope)
        rows = self._rows("the ledger", _totals_sql(f"{touches} AND {_COVERS}"), bounds)
        totals = [_totals(r) for r in rows]
        if any(t.deferred for t in totals):
            totals = [self._without_drained(t) for t in totals]
        torn = [int(r[2]) for r in rows if not r[12] and (r[0], r[1]) == (self.topic, self.topic_id)]
        return Ledger(
            totals=tuple(totals),
            gaps=self._ranges(_GAPS, {"partitions": torn}) if torn else (),
            overlaps=self._ranges(_OVERLAPS, {"partitions": torn}) if torn else (),
            lost=self._ranges(
                f"SELECT p, s, s + l {_ROWS} {_PARTS} WHERE {_OF_GROUP} AND lost > 0 AND l > 0 AND {touches} "
                "ORDER BY p, s LIMIT {limit:UInt32}",
                bounds,
            ),
            broken_accounts=self._broken_accounts(touches, bounds),
            broken_rows=self._broken_rows(touches, bounds),
            replayed=self._replayed(touches, bounds),
            added_dead_letters=self._added_dead_letters(touches, bounds),
        )

    def dead_letters(self, totals: Sequence[PartitionTotals], scope: Scope) -> Mapping[PartitionKey, int]:
        found: dict[PartitionKey, int] = {}
        for (topic, topic_id), of_incarnation in groupby(totals, key=lambda t: (t.key.topic, t.key.topic_id)):
            incarnation = list(of_incarnation)
            parameters = {
                "topic": topic,
                "topic_id": topic_id,
                **ranges_parameters([OffsetRange(t.key.partition, t.start, t.end) for t in incarnation]),
                **ranges_parameters([r for t in incarnation for r in t.deferred], "deferred_"),
            }
            where, bounds = _dead_letters_of(scope)
            sql = f"""SELECT kafka_partition, count() FROM dead_letters FINAL
                WHERE topic = {{topic:String}} AND topic_id = {{topic_id:String}}
                    AND kafka_offset >= transform(
                        kafka_partition, {{partitions:Array(UInt32)}}, {{starts:Array(UInt64)}}, toUInt64(0))
                    AND kafka_offset < transform(
                        kafka_partition, {{partitions:Array(UInt32)}}, {{ends:Array(UInt64)}}, toUInt64(0))
                    AND NOT {_IN_DEFERRED}
                    AND {where} AND {_OF_DRAINS}
                GROUP BY kafka_partition"""
            for partition, count in self._rows("dead_letters", sql, parameters | bounds):
                found[PartitionKey(topic, topic_id, int(partition))] = int(count)
        return found

    def ledger_minutes(self, scope: Scope) -> pl.DataFrame:
        where, bounds = _within(
            scope,
            "last_event >= toDateTime({start:UInt32}, 'UTC') AND minute >= {start:UInt32}",
            "first_event < toDateTime({end:UInt32}, 'UTC') AND minute < {end:UInt32}",
            "minute IN {minutes:Array(UInt32)}",
        )
        sql = f"""SELECT toUnixTimestamp(m) AS minute, sum(n - r) AS events {_ROWS}
            ARRAY JOIN minutes AS m, minute_inserted AS n, arrayResize(minute_removed, length(minutes)) AS r
            WHERE {where} GROUP BY minute"""
        return self._frame("the ledger", sql, bounds).cast(COUNTS_SCHEMA)

    def raw_minutes(self, scope: Scope, *, distinct: bool = False) -> pl.DataFrame:
        where, bounds = _raw_where(scope)
        sql = f"""SELECT {_RAW_MINUTE} AS minute, count() AS events FROM raw_events {"FINAL" if distinct else ""}
            WHERE {where} GROUP BY minute"""
        return self._frame("raw_events", sql, bounds).cast(COUNTS_SCHEMA)

    def rollup_minutes(self, scope: Scope) -> pl.DataFrame:
        where, bounds = _within(
            scope,
            "minute >= toDateTime({start:UInt32}, 'UTC')",
            "minute < toDateTime({end:UInt32}, 'UTC')",
            "toUnixTimestamp(minute) IN {minutes:Array(UInt32)}",
        )
        sql = f"""SELECT toUnixTimestamp(minute) AS minute, events FROM (
            SELECT minute, sum(requests) AS events FROM rollup_1m WHERE {where} AND {CURRENT_ROWS} GROUP BY minute)"""
        return self._frame("rollup_1m", sql, bounds).cast(COUNTS_SCHEMA)

    def landed(self, tokens: Sequence[str]) -> frozenset[str]:
        sql = "SELECT batch FROM batches WHERE batch IN {tokens:Array(String)}"
        return frozenset(str(r[0]) for r in self._rows("the ledger", sql, {"tokens": list(tokens)}))

    def open_minutes(self, scope: Scope, ranges: Sequence[OffsetRange]) -> frozenset[int]:
        where, bounds = _raw_where(scope)
        sql = f"SELECT DISTINCT {_RAW_MINUTE} FROM raw_events WHERE {where} AND {IN_RANGES}"
        return frozenset(int(r[0]) for r in self._rows("raw_events", sql, bounds | ranges_parameters(ranges)))

    def replayed_minutes(self, scope: Scope) -> frozenset[int]:
        where, bounds = _raw_where(scope)
        sql = f"""SELECT DISTINCT {_RAW_MINUTE} FROM {REPLAY_PLAN.name} WHERE {UNREPAIRED}
            AND step IN ('{PlanStep.REMOVE}', '{PlanStep.INSERT}', '{PlanStep.RESTORE}') AND {where}"""
        return frozenset(int(r[0]) for r in self._rows("the plan of replays", sql, bounds))

    def _broken_accounts(self, touches: str, bounds: Mapping[str, Any]) -> tuple[BrokenAccount, ...]:
        sql = f"""SELECT batch, p, s, e, c, i, d, dl, sk, l {_ROWS} {_PARTS}
            WHERE {_OF_GROUP} AND {_COVERS} AND (c != i + d + dl OR e - s != c + sk + l) AND {touches}
            ORDER BY batch, p LIMIT {{limit:UInt32}}"""
        return tuple(
            BrokenAccount(
                batch=str(batch),
                account=PartitionAccount(
                    range=OffsetRange(p, s, e), consumed=c, inserted=i, duplicates=d, dead_letters=dead, lost=lost
                ),
                skipped=skipped,
            )
            for batch, p, s, e, c, i, d, dead, skipped, lost in self._rows("the ledger", sql, bounds)
        )

    def _broken_rows(self, touches: str, bounds: Mapping[str, Any]) -> tuple[BrokenRow, ...]:
        sql = f"""SELECT batch, inserted, arraySum(partition_inserted), arraySum(minute_inserted)
            {_ROWS} WHERE {_OF_GROUP} AND (
                (source = 'drain' OR notEmpty(partitions)) AND inserted != arraySum(partition_inserted)
                OR inserted != arraySum(minute_inserted)) AND {touches}
            ORDER BY batch LIMIT {{limit:UInt32}}"""
        return tuple(
            BrokenRow(str(batch), int(inserted), int(by_partition), int(by_minute))
            for batch, inserted, by_partition, by_minute in self._rows("the ledger", sql, bounds)
        )

    def _without_drained(self, totals: PartitionTotals) -> PartitionTotals:
        """Drains read what is deferred if somebody moved offsets back by hand."""
        if not totals.deferred:
            return totals
        ledger = ClickHouseDeferred(self.client, totals.key.topic, totals.key.topic_id, self.group)
        return replace(totals, deferred=subtracted(totals.deferred, ledger.drained(totals.deferred)))

    def _replayed(self, touches: str, bounds: Mapping[str, Any]) -> int:
        sql = f"SELECT sum(inserted) {_ROWS} WHERE {_OF_GROUP} AND source = 'dead_letters' AND {touches}"
        return int(self._rows("the ledger", sql, bounds)[0][0])

    def _added_dead_letters(self, touches: str, bounds: Mapping[str, Any]) -> tuple[int, int]:
        sql = f"""SELECT sum(added), sum(found) FROM (
                SELECT batch, added_dead_letters AS added {_ROWS}
                WHERE {_OF_GROUP} AND added_dead_letters > 0 AND {touches} AND {_HELD_FOR_REPLAYS}
            ) AS entries LEFT JOIN (
                SELECT batch, count() AS found FROM dead_letters FINAL
                WHERE batch IN (SELECT batch FROM batches WHERE added_dead_letters > 0) GROUP BY batch
            ) AS letters USING batch"""
        added, found = self._rows("the ledger", sql, bounds)[0]
        return int(added), int(found)

    def _ranges(self, sql: str, parameters: Mapping[str, Any]) -> tuple[OffsetRange, ...]:
        return tuple(OffsetRange(int(p), int(s), int(e)) for p, s, e in self._rows("the ledger", sql, parameters))

    def _rows(self, table: str, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return query_rows(self.client, f"auditing {table}", sql, self._parameters(parameters), _FINAL_SETTINGS)

    def _frame(self, table: str, sql: str, parameters: Mapping[str, Any]) -> pl.DataFrame:
        return query_frame(self.client, f"auditing {table}", sql, self._parameters(parameters), _FINAL_SETTINGS)

    def _parameters(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "topic_id": self.topic_id,
            "group": self.group,
            "limit": LONGEST_LIST,
            "held": self.dead_letters_from,
            **more,
        }


def _totals_sql(touches: str) -> str:
    """Ranges with start < end tile exactly if every start but the first is an end, and every end but the last a start,
    as often; sums of 64-bit hashes compare that without sorting. Only where they differ are the ranges put in order:
    also where something is deferred, which leaves no gap, and overlaps nothing."""
    return f"""
        SELECT topic, topic_id, p, min(s), max(e), sumIf(e - s, {touches}), sumIf(c, {touches}), sumIf(i, {touches}),
            sumIf(d, {touches}), sumIf(dl, {touches}), sumIf(sk, {touches}), sumIf(l, {touches}),
            sumIf(sipHash64(s), {_COVERS}) - sumIf(sipHash64(e), {_COVERS}) = sipHash64(min(s)) - sipHash64(max(e)),
            groupArrayIf({_MAX_RANGES})((s, e), source = '{DEFERRED}'),
            groupArrayIf({_MAX_RANGES})((s, e), source = '{BACKFILL}'), sumIf(dl, {touches} AND NOT {_HELD})
        {_ROWS} {_PARTS} WHERE {_OF_GROUP} GROUP BY topic, topic_id, p ORDER BY topic, topic_id, p"""


def _totals(row: Sequence[Any]) -> PartitionTotals:
    """Sums and what is deferred are of one instant: letters of a backfill that lands later are in neither."""
    topic, topic_id, partition, *figures = row
    skipped, backfilled = (
        [OffsetRange(int(partition), int(s), int(e)) for s, e in ranges] for ranges in (figures[10], figures[11])
    )
    key = PartitionKey(str(topic), str(topic_id), int(partition))
    deferred = subtracted(skipped, backfilled)
    start, end, *counts = map(int, figures[:9])
    return PartitionTotals(key, start, end, Counts(*counts), deferred, letters_gone=int(figures[12]))


def _within(scope: Scope, since: str, until: str, named: str) -> tuple[str, dict[str, Any]]:
    """Those of the conditions that the scope asks for, with the parameters start, end and minutes."""
    conditions = {"start": since, "end": until, "minutes": named}
    bounds = {"start": scope.start_seconds, "end": scope.end_seconds, "minutes": list(scope.minutes) or None}
    given = {name: value for name, value in bounds.items() if value is not None}
    return " AND ".join(conditions[name] for name in given) or "1", given


def _touches(scope: Scope) -> tuple[str, dict[str, Any]]:
    if scope.is_everything:
        return "1", {}
    return _IN_SCOPE, {"start": scope.start_seconds or 0, "end": scope.end_seconds or _LAST_SECONDS}


def _dead_letters_of(scope: Scope) -> tuple[str, dict[str, Any]]:
    """The dead letters of batches that touch the scope; their messages bound what has to be read."""
    touches, bounds = _touches(scope)
    if scope.is_everything:
        return _NOT_DROPPED, bounds
    batches = f"FROM batches FINAL WHERE {_OF_GROUP} AND dead_letters > 0 AND {touches} AND {_HELD}"
    where = f"""kafka_timestamp >= (SELECT min(first_message) {batches})
        AND kafka_timestamp <= (SELECT max(last_message) {batches}) AND batch IN (SELECT batch {batches})"""
    return where, bounds


def _raw_where(scope: Scope) -> tuple[str, dict[str, Any]]:
    return _within(
        scope,
        "timestamp >= toDateTime64({start:UInt32}, 3, 'UTC')",
        "timestamp < toDateTime64({end:UInt32}, 3, 'UTC')",
        f"{_RAW_MINUTE} IN {{minutes:Array(UInt32)}}",
    )


_HELD = "first_message >= toDateTime64({held:UInt32}, 3, 'UTC')"
"""Of batches: dead_letters still has all that they refused."""
_NOT_DROPPED = f"""kafka_timestamp >= toDateTime64({{held:UInt32}}, 3, 'UTC') AND batch NOT IN (
    SELECT batch FROM batches WHERE {_OF_GROUP} AND NOT {_HELD}
        AND last_message >= toDateTime64({{held:UInt32}}, 3, 'UTC'))"""
"""Of dead letters: of such batches; of one around the moment that retention has reached some may be left, and count no
more than it does."""
_REPLAYED_DAYS = 31
_HELD_FOR_REPLAYS = f"""first_message >= toDateTime64(
    if({{held:UInt32}} = 0, 0, {{held:UInt32}} + {_REPLAYED_DAYS * DAY_SECONDS}), 3, 'UTC')"""
"""Likewise of chunks of replays, which say when they were opened: their messages are so much older at most."""
_LAST_SECONDS = (1 << 32) - 1
