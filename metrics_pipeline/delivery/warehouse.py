"""The tables as a `Warehouse`: idempotent inserts and the look-up of duplicates."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.external import ExternalData

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.insert import external, insert_once
from metrics_pipeline.clickhouse.query import run_command
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.delivery.chunk import ORIGIN, POSITION
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.event.contract import IDENTITY, LINEAGE
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.ledger.tables import BATCHES, IN_RANGES, PROCESSED, ranges_parameters
from metrics_pipeline.runtime.picked import picked

FRESH_SPAN_MS = 5_000
"""Events so near to the batch's median are looked up apart from stragglers: the parts that end before them are skipped
whole, which one late event among them would prevent."""


ROW = (*IDENTITY, *ORIGIN)
"""Names a row: an event, and the message that brought it."""
_ROW_TYPES = dict(zip(IDENTITY, ("String", "String", "DateTime64(3, 'UTC')", "UUID"), strict=True)) | {
    column.name: column.clickhouse_type for column in LINEAGE
}


def selected(columns: Sequence[str]) -> str:
    """Columns of raw_events as those of events: ids as text."""
    return ", ".join(f"toString({name}) AS {name}" if name == "event_id" else name for name in columns)


def among_candidates(found: Sequence[str], known: Sequence[str]) -> str:
    """A query of columns `found` of the rows whose columns `known` equal those of a candidate.

    The PREWHERE on the timestamps alone reads one small column and skips nearly all granules: 7 times faster for
    stragglers than the tuple alone. See docs/decisions.
    """
    return f"""
SELECT {selected(found)}
FROM {RAW_EVENTS.name}
PREWHERE timestamp IN (SELECT timestamp FROM candidates)
WHERE ({", ".join(known)}) IN (SELECT {", ".join(known)} FROM candidates)
  AND timestamp BETWEEN {{first:DateTime64(3, 'UTC')}} AND {{last:DateTime64(3, 'UTC')}}
"""


def candidates_of(rows: pl.DataFrame) -> ExternalData:
    """Rows with columns of ROW, for a query to look for."""
    return external("candidates", [f"{name} {_ROW_TYPES[name]}" for name in rows.columns], rows)


def rows_of(client: Client, doing: str, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of an answer; a connection that breaks while they are read is an error of ours, too."""
    return calling(doing, lambda: [tuple(r) for r in client.query(sql, parameters=dict(parameters)).result_rows])


def query_beside(
    client: Client, doing: str, sql: str, parameters: Mapping[str, Any], rows: ExternalData
) -> pl.DataFrame:
    """The answer to a query that also reads `rows`."""
    settings = {"output_format_arrow_string_as_string": 1}
    answer = calling(
        doing,
        lambda: client.raw_query(
            sql, parameters=dict(parameters), fmt="ArrowStream", external_data=rows, settings=settings
        ),
    )
    return pl.read_ipc_stream(io.BytesIO(answer))


CLOCKS_DIFFER_SECONDS = 60
"""Servers of a cluster by less: far less than the shortest window of tokens."""

_LOOK_UP_SQL = f"""{among_candidates(IDENTITY, IDENTITY)}
  AND NOT (kafka_timestamp BETWEEN {{first_message:DateTime64(3, 'UTC')}} AND {{last_message:DateTime64(3, 'UTC')}}
           AND {IN_RANGES})
"""
_OWN_SQL = among_candidates(ROW, ROW)
_LETTERS_SQL = f"""
SELECT DISTINCT kafka_partition, kafka_offset FROM {DEAD_LETTERS.name}
WHERE topic = {{topic:String}} AND topic_id = {{id:String}}
  AND (kafka_partition, kafka_offset) IN (SELECT kafka_partition, kafka_offset FROM candidates)
"""
_REMOVED_AT_ONCE = 500
"""A query may only be so long."""
_REMOVE_SQL = f"""
DELETE FROM {RAW_EVENTS.name}
WHERE timestamp BETWEEN {{first:DateTime64(3, 'UTC')}} AND {{last:DateTime64(3, 'UTC')}}
  AND ({", ".join(ROW)}) IN arrayZip(
      {", ".join(f"{{c{number}:Array({kind})}}" for number, kind in enumerate(_ROW_TYPES.values()))})
"""


Shards = Callable[[], AbstractContextManager[Sequence[Client]]]
"""Connects to each shard's own tables, where deletes are done."""


class ClickHouseWarehouse:
    """A `Warehouse` for one topic and consumer group."""

    def __init__(self, client: Client, shards: Shards, topic: str, topic_id: str, group: str, storage: Storage) -> None:
        self._client = client
        self._shards = shards
        self._topic = topic
        self._topic_id = topic_id
        self._group = group
        self._storage = storage

    def existing(self, events: pl.DataFrame, batch: Sequence[OffsetRange]) -> pl.DataFrame:
        return pl.concat([self._look_up(part, batch) for part in fresh_and_late(events)])

    def insert_events(self, events: pl.DataFrame, token: str) -> None:
        insert_once(self._client, RAW_EVENTS.name, events, token)

    def own(self, events: pl.DataFrame) -> pl.DataFrame:
        return events.join(self._stored(_OWN_SQL, events, ROW), on=list(ROW), how="semi", maintain_order="left")

    def remove_events(self, events: pl.DataFrame) -> None:
        with self._shards() as shards:
            for shard, chunk in product(shards, events.iter_slices(_REMOVED_AT_ONCE)):
                values = {f"c{number}": chunk[name].to_list() for number, name in enumerate(ROW)}
                span = {"first": chunk["timestamp"].min(), "last": chunk["timestamp"].max()}
                settings = {"lightweight_deletes_sync": 2}
                run_command(shard, f"taking {len(chunk)} events back", _REMOVE_SQL, values | span, settings)

    def insert_dead_letters(self, dead_letters: pl.DataFrame, token: str) -> None:
        rows = dead_letters.with_columns(
            topic=pl.lit(self._topic), topic_id=pl.lit(self._topic_id), batch=pl.lit(token)
        )
        insert_once(self._client, DEAD_LETTERS.name, rows, token)

    def missing_dead_letters(self, dead_letters: pl.DataFrame) -> pl.DataFrame:
        places = dead_letters.select(POSITION)
        parameters, doing = {"topic": self._topic, "id": self._topic_id}, f"looking for {len(places)} dead letters"
        stored = query_beside(self._client, doing, _LETTERS_SQL, parameters, candidates_of(places))
        return dead_letters.join(stored.cast(places.schema), on=list(POSITION), how="anti", maintain_order="left")

    def insert_ledger_entry(self, entry: LedgerEntry, token: str) -> None:
        row = _ledger_row(entry) | {
            "topic": self._topic,
            "topic_id": self._topic_id,
            "consumer_group": self._group,
        }
        insert_once(self._client, BATCHES.name, pl.DataFrame([row], schema_overrides=_LEDGER_OVERRIDES), token)

    def has_ledger_entry(self, token: str) -> bool:
        sql = f"SELECT 1 FROM {BATCHES.name} WHERE batch = {{batch:String}} LIMIT 1"
        return bool(rows_of(self._client, f"looking for batch {token} in the ledger", sql, {"batch": token}))

    def remembers(self, since_ms: int) -> bool:
        # A batch leaves a token per day of its events. Half of the window is left for the parts of refused batches.
        sql = f"""SELECT sum(dateDiff('day', first_event, last_event) + 1),
                dateDiff('second', {{since:DateTime64(3, 'UTC')}}, now64(3)) FROM {BATCHES.name}
            WHERE inserted + restored > 0 AND visible_at >= {{since:DateTime64(3, 'UTC')}}"""
        doing = "counting the blocks since a batch was opened"
        blocks, seconds = map(int, rows_of(self._client, doing, sql, {"since": since_ms / 1000})[0])
        # What is ahead of the server was dated by another clock: nobody knows how long ago that was.
        is_within = -CLOCKS_DIFFER_SECONDS <= seconds < self._storage.window_seconds / 2
        return is_within and blocks < self._storage.window_blocks / 2

    def ledger_ends(self, partitions: Sequence[int]) -> Mapping[str, Mapping[int, int]]:
        sql = f"""SELECT topic_id, p, max(e) FROM {BATCHES.name} ARRAY JOIN partitions AS p, partition_end AS e
            WHERE topic = {{topic:String}} AND consumer_group = {{group:String}} AND p IN {{partitions:Array(UInt32)}}
            GROUP BY topic_id, p"""
        parameters = {"topic": self._topic, "group": self._group, "partitions": list(partitions)}
        ends: dict[str, dict[int, int]] = {}
        for topic_id, partition, end in rows_of(self._client, "reading the ends of the ledger", sql, parameters):
            ends.setdefault(topic_id, {})[int(partition)] = int(end)
        return ends

    def _look_up(self, events: pl.DataFrame, batch: Sequence[OffsetRange]) -> pl.DataFrame:
        parameters = {
            "first_message": events["kafka_timestamp"].min(),
            "last_message": events["kafka_timestamp"].max(),
            **ranges_parameters(batch),
        }
        return self._stored(_LOOK_UP_SQL, events, IDENTITY, parameters)

    def _stored(
        self, sql: str, events: pl.DataFrame, columns: Sequence[str], parameters: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """What `sql` finds of `candidates`, which are these columns of `events`."""
        candidates = events.select(columns)
        if not len(events):
            return candidates
        span = {"first": events["timestamp"].min(), "last": events["timestamp"].max()}
        beside, doing = candidates_of(candidates), f"looking up {len(events)} events"
        return query_beside(self._client, doing, sql, span | dict(parameters or {}), beside).cast(candidates.schema)


_LEDGER_TYPES = {
    "DateTime64(3, 'UTC')": pl.Datetime("ms", "UTC"),
    "Array(DateTime('UTC'))": pl.List(pl.UInt32),
    "Array(UInt32)": pl.List(pl.UInt32),
    "Array(UInt64)": pl.List(pl.UInt64),
}
_LEDGER_OVERRIDES = {c.name: _LEDGER_TYPES[c.type] for c in BATCHES.columns if c.type in _LEDGER_TYPES}
_DURATIONS = ("commit_duration_ms", "look_up_duration_ms", "insert_duration_ms")


def _ledger_row(entry: LedgerEntry) -> dict[str, Any]:
    accounts = entry.accounts
    return {
        "batch": entry.token,
        **picked(entry, "source", "shard", "run_id", *PROCESSED, "lost", "size_bytes", *_DURATIONS),
        **picked(entry, "restored", "added_dead_letters"),
        "partitions": [a.range.partition for a in accounts],
        "partition_start": [a.range.start for a in accounts],
        "partition_end": [a.range.end for a in accounts],
        **{f"partition_{name}": [getattr(a, name) for a in accounts] for name in (*PROCESSED, "skipped", "lost")},
        "skipped": sum(a.skipped for a in accounts),
        "first_event": entry.first_event_ms,
        "last_event": entry.last_event_ms,
        "first_message": entry.first_message_ms,
        "last_message": entry.last_message_ms,
        "started_at": entry.started_ms,
        "visible_at": entry.visible_ms,
        "freshness_ms": list(entry.freshness.upper_ms),
        "freshness_events": list(entry.freshness.events),
        "minutes": list(entry.minutes.starts_seconds),
        "minute_inserted": list(entry.minutes.inserted),
        "minute_removed": list(entry.minutes.removed),
    }


def fresh_and_late(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Parts to be looked up apart: what is near in time, and stragglers."""
    times_ms = events["timestamp"].cast(pl.Int64)
    is_fresh = (times_ms - times_ms.median()).abs() <= FRESH_SPAN_MS
    return events.filter(is_fresh), events.filter(~is_fresh)
