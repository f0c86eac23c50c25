"""Rows of raw_events by what they are and where they come from, and their removal."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.insert import external
from metrics_pipeline.delivery.chunk import ORIGIN, POSITION
from metrics_pipeline.delivery.tables import RAW_EVENTS
from metrics_pipeline.delivery.warehouse import CANDIDATES, fresh_and_late
from metrics_pipeline.errors import StopError
from metrics_pipeline.event.contract import EVENT_SCHEMA, FIELDS, IDENTITY, RAW_COLUMNS
from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch
from metrics_pipeline.ledger.tables import REPLAY_PLAN, PlanStep

CONTENT = "content"


ROW_SCHEMA = pl.Schema({name: EVENT_SCHEMA[name] for name in (*IDENTITY, *ORIGIN)} | {CONTENT: pl.UInt64()})
"""Rows of raw_events, each with a hash of its content."""


IN_RANGES = """arrayExists((p, s, e) -> kafka_partition = p AND kafka_offset >= s AND kafka_offset < e,
    {partitions:Array(UInt32)}, {starts:Array(UInt64)}, {ends:Array(UInt64)})"""
"""A condition on rows with the columns of a position; see `ranges_parameters`."""

_SELECTED = f"service, endpoint, timestamp, toString(event_id) AS event_id, {', '.join(ORIGIN)}"
_OF_SQL = f"""
SELECT {_SELECTED}
FROM {RAW_EVENTS.name}
PREWHERE timestamp IN (SELECT timestamp FROM candidates)
WHERE (service, endpoint, timestamp, event_id) IN (SELECT service, endpoint, timestamp, event_id FROM candidates)
  AND timestamp BETWEEN {{first:DateTime64(3, 'UTC')}} AND {{last:DateTime64(3, 'UTC')}}
"""

_CONTENT = f"sipHash64({', '.join(f.column.name for f in FIELDS)})"
"""The event without its lineage. The server hashes both what it has and what it should have."""
_AT_SQL = f"""
SELECT {_SELECTED}, content
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
        columns = [*IDENTITY, *ORIGIN]
        schema = pl.Schema({name: EVENT_SCHEMA[name] for name in columns})
        parts = [part for part in fresh_and_late(events.select(columns)) if len(part)]
        return pl.concat([pl.DataFrame(schema=schema), *(self._of(part).cast(schema) for part in parts)])

    def _of(self, events: pl.DataFrame) -> pl.DataFrame:
        found = self._frame(
            f"looking up {len(events)} events of a replay",
            _OF_SQL,
            {"first": events["timestamp"].min(), "last": events["timestamp"].max()},
            external_data=external("candidates", CANDIDATES, events.select(IDENTITY)),
        )
        return found.select(events.columns)

    def at(self, ranges: Sequence[OffsetRange], first: datetime, last: datetime, *, with_content: bool) -> pl.DataFrame:
        sql = _AT_SQL.format(content=_CONTENT if with_content else "0")
        parameters = {"first": first, "last": last, **ranges_parameters(ranges)}
        found = self._frame("looking for the rows of messages", sql, parameters)
        return found.select(ROW_SCHEMA.names()).cast(ROW_SCHEMA)

    def contents(self, events: pl.DataFrame) -> pl.DataFrame:
        columns = [*POSITION, CONTENT]
        schema = pl.Schema({name: ROW_SCHEMA[name] for name in columns})
        if not len(events):
            return pl.DataFrame(schema=schema)
        sql = f"SELECT {', '.join(POSITION)}, {_CONTENT} AS content FROM events"
        found = self._frame("hashing events", sql, {}, external_data=external("events", _EVENTS, events))
        return found.select(columns).cast(schema)

    def remove(self, chunk: OpenBatch) -> bool:
        # All of them are asked, not up to the first one that is at it: they delete side by side.
        under_way = [self._remove(shard, chunk) for shard in self._shards]
        return any(under_way)

    def _remove(self, shard: Client, chunk: OpenBatch) -> bool:
        to_be_removed = _IS_TO_BE_REMOVED.format(plan=self._plan)
        parameters = {"batch": chunk.token, "opened": chunk.opened_ms / 1_000}
        under_way = self._rows("looking for deletes", _UNDER_WAY_SQL, parameters, shard)
        for partition, problem in under_way:
            if problem:
                raise StopError(
                    f"ClickHouse can't delete rows from partition {partition} of {RAW_EVENTS.name}: {problem}; mend "
                    "that, or KILL MUTATION it, then replay again"
                )
        if under_way:
            return True
        sql = _LEFT_SQL.format(plan=self._plan)
        left = [str(row[0]) for row in self._rows("looking for rows to delete", sql, parameters, shard)]
        for partition in left:
            sql = f"DELETE FROM {RAW_EVENTS.name} IN PARTITION ID {{id:String}} WHERE {to_be_removed}"
            calling(
                f"deleting rows from {RAW_EVENTS.name}",
                # Not to wait for it on the connection: it may take longer than an answer.
                partial(
                    shard.command,
                    sql,
                    parameters={**parameters, "id": partition},
                    settings={"lightweight_deletes_sync": 0},
                ),
            )
        return bool(left)

    def _rows(self, doing: str, sql: str, parameters: Mapping[str, Any], shard: Client) -> list[tuple[Any, ...]]:
        return calling(doing, lambda: [tuple(r) for r in shard.query(sql, parameters=dict(parameters)).result_rows])

    def _frame(self, doing: str, sql: str, parameters: Mapping[str, Any], **more: Any) -> pl.DataFrame:
        answer = calling(
            doing,
            lambda: self._client.raw_query(
                sql,
                parameters=dict(parameters),
                fmt="ArrowStream",
                settings={"output_format_arrow_string_as_string": 1},
                **more,
            ),
        )
        return pl.read_ipc_stream(io.BytesIO(answer))


def ranges_parameters(ranges: Sequence[OffsetRange]) -> dict[str, Any]:
    """What `IN_RANGES` asks for."""
    return {
        "partitions": [r.partition for r in ranges],
        "starts": [r.start for r in ranges],
        "ends": [r.end for r in ranges],
    }
