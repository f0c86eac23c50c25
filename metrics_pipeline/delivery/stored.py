"""Rows of raw_events by what they are and where they come from, and their removal."""

from collections.abc import Sequence
from datetime import datetime

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.insert import external
from metrics_pipeline.clickhouse.query import query_frame, run_command
from metrics_pipeline.delivery.chunk import ORIGIN, POSITION
from metrics_pipeline.delivery.tables import RAW_EVENTS
from metrics_pipeline.delivery.warehouse import (
    ROW,
    among_candidates,
    candidates_of,
    fresh_and_late,
    query_beside,
    rows_of,
    selected,
)
from metrics_pipeline.errors import StopError
from metrics_pipeline.event.contract import EVENT_SCHEMA, FIELDS, IDENTITY, RAW_COLUMNS
from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.ledger.tables import IN_RANGES, REPLAY_PLAN, PlanStep, ranges_parameters

CONTENT = "content"


ROW_SCHEMA = pl.Schema({name: EVENT_SCHEMA[name] for name in (*IDENTITY, *ORIGIN)} | {CONTENT: pl.UInt64()})
"""Rows of raw_events, each with a hash of its content."""


_OF_SQL = among_candidates(ROW, IDENTITY)

_CONTENT = f"sipHash64({', '.join(f.column.name for f in FIELDS)})"
"""The event without its lineage. The server hashes both what it has and what it should have."""
_AT_SQL = f"""
SELECT {selected(ROW)}, content
FROM (
    SELECT *, {{content}} AS content FROM {RAW_EVENTS.name}
    PREWHERE kafka_timestamp BETWEEN {{{{first:DateTime64(3, 'UTC')}}}} AND {{{{last:DateTime64(3, 'UTC')}}}}
    WHERE {IN_RANGES.replace("{", "{{").replace("}", "}}")}
)
"""
"""The hash is made within: outside, event_id is text."""
_EVENTS = [f"{c.name} {c.clickhouse_type}" for c in RAW_COLUMNS]

_TO_REMOVE = f"""
    FROM {{plan}} WHERE step = '{PlanStep.REMOVE}' AND batch = {{{{batch:String}}}}
        AND opened_at = {{{{opened:DateTime64(3, 'UTC')}}}}"""
_IS_TO_BE_REMOVED = f"""
    timestamp IN (SELECT timestamp {_TO_REMOVE})
    AND ({", ".join(ORIGIN)}) IN (SELECT {", ".join(ORIGIN)} {_TO_REMOVE})
    AND ({", ".join(ORIGIN)}, {_CONTENT}) IN (SELECT {", ".join(ORIGIN)}, content {_TO_REMOVE})"""
"""By the content of the row that was found, so that no late delete hits the row that took its place. The conditions
before it, on smaller columns, spare most rows their hash."""
_LEFT_SQL = f"""SELECT DISTINCT _partition_id FROM {RAW_EVENTS.name}
    WHERE timestamp BETWEEN (SELECT min(timestamp) {_TO_REMOVE}) AND (SELECT max(timestamp) {_TO_REMOVE})
    AND {_IS_TO_BE_REMOVED}"""
_UNDER_WAY_SQL = f"""SELECT partition, latest_fail_reason FROM (
        SELECT extract(command, 'IN PARTITION ID \\'(\\w+)\\'') AS partition, latest_fail_reason FROM system.mutations
        WHERE database = currentDatabase() AND table = '{RAW_EVENTS.name}' AND NOT is_done
            AND position(command, {{batch:String}}) > 0)"""


class ClickHouseEvents:
    """A `StoredEvents`."""

    def __init__(self, client: Client, shards: Sequence[Client] = (), database: str = "") -> None:
        """`shards` are asked to remove rows, each its own; all of them read the plan of that from `database`, which has
        all tables. Without any, the client's database has all rows."""
        self._client = client
        self._shards = shards or (client,)
        self._plan = f"{database}.{REPLAY_PLAN.name}" if database else REPLAY_PLAN.name

    def of(self, events: pl.DataFrame) -> pl.DataFrame:
        schema = pl.Schema({name: EVENT_SCHEMA[name] for name in ROW})
        parts = [part for part in fresh_and_late(events.select(ROW)) if len(part)]
        return pl.concat([pl.DataFrame(schema=schema), *(self._of(part).cast(schema) for part in parts)])

    def _of(self, events: pl.DataFrame) -> pl.DataFrame:
        doing, candidates = f"looking up {len(events)} events of a replay", candidates_of(events.select(IDENTITY))
        span = {"first": events["timestamp"].min(), "last": events["timestamp"].max()}
        return query_beside(self._client, doing, _OF_SQL, span, candidates).select(ROW)

    def at(self, ranges: Sequence[OffsetRange], first: datetime, last: datetime, *, with_content: bool) -> pl.DataFrame:
        sql = _AT_SQL.format(content=_CONTENT if with_content else "0")
        parameters = {"first": first, "last": last, **ranges_parameters(ranges)}
        found = query_frame(self._client, "looking for the rows of messages", sql, parameters)
        return found.select(ROW_SCHEMA.names()).cast(ROW_SCHEMA)

    def contents(self, events: pl.DataFrame) -> pl.DataFrame:
        columns = [*POSITION, CONTENT]
        schema = pl.Schema({name: ROW_SCHEMA[name] for name in columns})
        if not len(events):
            return pl.DataFrame(schema=schema)
        sql = f"SELECT {', '.join(POSITION)}, {_CONTENT} AS content FROM events"
        found = query_beside(self._client, "hashing events", sql, {}, external("events", _EVENTS, events))
        return found.select(columns).cast(schema)

    def remove(self, chunk: OpenBatch) -> bool:
        # All of them are asked, not up to the first one that is at it: they delete side by side.
        under_way = [self._remove(shard, chunk) for shard in self._shards]
        return any(under_way)

    def _remove(self, shard: Client, chunk: OpenBatch) -> bool:
        to_be_removed = _IS_TO_BE_REMOVED.format(plan=self._plan)
        parameters = {"batch": chunk.token, "opened": chunk.opened_ms / 1_000}
        under_way = rows_of(shard, "looking for deletes", _UNDER_WAY_SQL, parameters)
        for partition, problem in under_way:
            if problem:
                raise StopError(
                    f"ClickHouse can't delete rows from partition {partition} of {RAW_EVENTS.name}: {problem}; mend "
                    "that, or KILL MUTATION it, then replay again"
                )
        if under_way:
            return True
        sql = _LEFT_SQL.format(plan=self._plan)
        left = [str(row[0]) for row in rows_of(shard, "looking for rows to delete", sql, parameters)]
        for partition in left:
            sql = f"DELETE FROM {RAW_EVENTS.name} IN PARTITION ID {{id:String}} WHERE {to_be_removed}"
            # Not to wait for it on the connection: it may take longer than an answer.
            settings = {"lightweight_deletes_sync": 0}
            run_command(shard, f"deleting rows from {RAW_EVENTS.name}", sql, {**parameters, "id": partition}, settings)
        return bool(left)
