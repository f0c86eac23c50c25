"""The tables as a `Warehouse`: idempotent inserts and the look-up of duplicates."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import product
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.insert import external, insert_once
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.delivery.chunk import POSITION
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.event.contract import IDENTITY, LINEAGE
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.ledger.tables import BATCHES

FRESH_SPAN_MS = 5_000
"""Events so near to the batch's median are looked up apart from stragglers: the parts that end before them are skipped
whole, which one late event among them would prevent."""


_LOOK_UP_SQL = """
SELECT service, endpoint, timestamp, toString(event_id) AS event_id
FROM raw_events
PREWHERE timestamp IN (SELECT timestamp FROM candidates)
WHERE (service, endpoint, timestamp, event_id) IN (SELECT service, endpoint, timestamp, event_id FROM candidates)
  AND timestamp BETWEEN {first:DateTime64(3, 'UTC')} AND {last:DateTime64(3, 'UTC')}
  AND NOT (kafka_timestamp BETWEEN {first_message:DateTime64(3, 'UTC')} AND {last_message:DateTime64(3, 'UTC')}
           AND arrayExists((p, s, e) -> kafka_partition = p AND kafka_offset >= s AND kafka_offset < e,
                           {partitions:Array(UInt32)}, {starts:Array(UInt64)}, {ends:Array(UInt64)}))
"""
"""The PREWHERE on the timestamps alone reads one small column and skips nearly all granules: 7 times faster for
stragglers than the tuple alone. See docs/decisions."""

CANDIDATES = ["service String", "endpoint String", "timestamp DateTime64(3, 'UTC')", "event_id UUID"]

_ROW = (*IDENTITY, *(column.name for column in LINEAGE))
"""Names a row: an event, and the message that brought it."""
_ROW_TYPES = ("String", "String", "DateTime64(3, 'UTC')", "UUID", *(column.clickhouse_type for column in LINEAGE))
_OWN_SQL = f"""
SELECT {", ".join(f"toString({name}) AS {name}" if name == "event_id" else name for name in _ROW)}
FROM {RAW_EVENTS.name}
PREWHERE timestamp IN (SELECT timestamp FROM candidates)
WHERE ({", ".join(_ROW)}) IN (SELECT {", ".join(_ROW)} FROM candidates)
  AND timestamp BETWEEN {{first:DateTime64(3, 'UTC')}} AND {{last:DateTime64(3, 'UTC')}}
"""
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
  AND ({", ".join(_ROW)}) IN arrayZip(
      {", ".join(f"{{c{number}:Array({name})}}" for number, name in enumerate(_ROW_TYPES))})
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
        self._insert(RAW_EVENTS.name, events, token)

    def own(self, events: pl.DataFrame) -> pl.DataFrame:
        return events.join(self._stored(_OWN_SQL, events, _ROW), on=list(_ROW), how="semi", maintain_order="left")

    def remove_events(self, events: pl.DataFrame) -> None:
        with self._shards() as shards:
            for shard, chunk in product(shards, events.iter_slices(_REMOVED_AT_ONCE)):
                values = {f"c{number}": chunk[name].to_list() for number, name in enumerate(_ROW)}
                span = {"first": chunk["timestamp"].min(), "last": chunk["timestamp"].max()}
                calling(
                    f"taking {len(chunk)} events back",
                    partial(
                        shard.command,
                        _REMOVE_SQL,
                        parameters=values | span,
                        settings={"lightweight_deletes_sync": 2},
                    ),
                )

    def insert_dead_letters(self, dead_letters: pl.DataFrame, token: str) -> None:
        rows = dead_letters.with_columns(
            topic=pl.lit(self._topic), topic_id=pl.lit(self._topic_id), batch=pl.lit(token)
        )
        self._insert(DEAD_LETTERS.name, rows, token)

    def missing_dead_letters(self, dead_letters: pl.DataFrame) -> pl.DataFrame:
        places = dead_letters.select(POSITION)
        answer = calling(
            f"looking for {len(places)} dead letters",
            lambda: self._client.raw_query(
                _LETTERS_SQL,
                parameters={"topic": self._topic, "id": self._topic_id},
                fmt="ArrowStream",
                external_data=external("candidates", ["kafka_partition UInt32", "kafka_offset UInt64"], places),
            ),
        )
        stored = pl.read_ipc_stream(io.BytesIO(answer)).cast(places.schema)
        return dead_letters.join(stored, on=list(POSITION), how="anti", maintain_order="left")

    def insert_ledger_entry(self, entry: LedgerEntry, token: str) -> None:
        row = _ledger_row(entry) | {
            "topic": self._topic,
            "topic_id": self._topic_id,
            "consumer_group": self._group,
        }
        self._insert(BATCHES.name, pl.DataFrame([row], schema_overrides=_LEDGER_OVERRIDES), token)

    def has_ledger_entry(self, token: str) -> bool:
        sql = f"SELECT 1 FROM {BATCHES.name} WHERE batch = {{batch:String}} LIMIT 1"
        rows = calling(
            f"looking for batch {token} in the ledger",
            lambda: self._client.query(sql, parameters={"batch": token}).result_rows,
        )
        return bool(rows)

    def remembers(self, since_ms: int) -> bool:
        # A batch leaves a token per day of its events. Half of the window is left for the parts of refused batches.
        sql = f"""SELECT sum(dateDiff('day', first_event, last_event) + 1),
                dateDiff('second', {{since:DateTime64(3, 'UTC')}}, now64(3)) FROM {BATCHES.name}
            WHERE inserted + restored > 0 AND visible_at >= {{since:DateTime64(3, 'UTC')}}"""
        rows = calling(
            "counting the blocks since a batch was opened",
            lambda: self._client.query(sql, parameters={"since": since_ms / 1000}).result_rows,
        )
        blocks, seconds = map(int, rows[0])
        return blocks < self._storage.window_blocks / 2 and seconds < self._storage.window_seconds / 2

    def ledger_ends(self, partitions: Sequence[int]) -> Mapping[str, Mapping[int, int]]:
        sql = f"""SELECT topic_id, p, max(e) FROM {BATCHES.name} ARRAY JOIN partitions AS p, partition_end AS e
            WHERE topic = {{topic:String}} AND consumer_group = {{group:String}} AND p IN {{partitions:Array(UInt32)}}
            GROUP BY topic_id, p"""
        parameters = {"topic": self._topic, "group": self._group, "partitions": list(partitions)}
        rows = calling(
            "reading the ends of the ledger",
            lambda: self._client.query(sql, parameters=parameters).result_rows,
        )
        ends: dict[str, dict[int, int]] = {}
        for topic_id, partition, end in rows:
            ends.setdefault(topic_id, {})[int(partition)] = int(end)
        return ends

    def _look_up(self, events: pl.DataFrame, batch: Sequence[OffsetRange]) -> pl.DataFrame:
        parameters = {
            "first_message": events["kafka_timestamp"].min(),
            "last_message": events["kafka_timestamp"].max(),
            "partitions": [r.partition for r in batch],
            "starts": [r.start for r in batch],
            "ends": [r.end for r in batch],
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
        answer = calling(
            f"looking up {len(events)} events",
            lambda: self._client.raw_query(
                sql,
                parameters=span | dict(parameters or {}),
                fmt="ArrowStream",
                external_data=external(
                    "candidates",
                    [f"{name} {kind}" for name, kind in zip(columns, _ROW_TYPES, strict=False)],
                    candidates,
                ),
                settings={"output_format_arrow_string_as_string": 1},
            ),
        )
        return pl.read_ipc_stream(io.BytesIO(answer)).cast(candidates.schema)

    def _insert(self, table: str, rows: pl.DataFrame, token: str) -> None:
        insert_once(self._client, table, rows, token)


_MILLISECONDS = pl.Datetime("ms", "UTC")
_LEDGER_OVERRIDES: Mapping[str, Any] = (
    dict.fromkeys(
        ("first_event", "last_event", "first_message", "last_message", "started_at", "visible_at"), _MILLISECONDS
    )
    | {
        name: pl.List(pl.UInt32)
        for name in ("minutes", "minute_inserted", "minute_removed", "partitions", "freshness_events")
    }
    | {
        name: pl.List(pl.UInt64)
        for name in (
            "partition_start",
            "partition_end",
            "partition_consumed",
            "partition_inserted",
            "partition_duplicates",
            "partition_dead_letters",
            "partition_skipped",
            "partition_lost",
            "freshness_ms",
        )
    }
)


def _ledger_row(entry: LedgerEntry) -> dict[str, Any]:
    accounts = entry.accounts
    return {
        "batch": entry.token,
        "source": entry.source,
        "shard": entry.shard,
        "run_id": entry.run_id,
        "partitions": [a.range.partition for a in accounts],
        "partition_start": [a.range.start for a in accounts],
        "partition_end": [a.range.end for a in accounts],
        "partition_consumed": [a.consumed for a in accounts],
        "partition_inserted": [a.inserted for a in accounts],
        "partition_duplicates": [a.duplicates for a in accounts],
        "partition_dead_letters": [a.dead_letters for a in accounts],
        "partition_skipped": [a.skipped for a in accounts],
        "partition_lost": [a.lost for a in accounts],
        "consumed": entry.consumed,
        "inserted": entry.inserted,
        "duplicates": entry.duplicates,
        "dead_letters": entry.dead_letters,
        "skipped": sum(a.skipped for a in accounts),
        "lost": entry.lost,
        "size_bytes": entry.size_bytes,
        "first_event": entry.first_event_ms,
        "last_event": entry.last_event_ms,
        "first_message": entry.first_message_ms,
        "last_message": entry.last_message_ms,
        "started_at": entry.started_ms,
        "visible_at": entry.visible_ms,
        "commit_duration_ms": entry.commit_duration_ms,
        "look_up_duration_ms": entry.look_up_duration_ms,
        "insert_duration_ms": entry.insert_duration_ms,
        "freshness_ms": list(entry.freshness.upper_ms),
        "freshness_events": list(entry.freshness.events),
        "minutes": list(entry.minutes.starts_seconds),
        "minute_inserted": list(entry.minutes.inserted),
        "minute_removed": list(entry.minutes.removed),
        "restored": entry.restored,
        "added_dead_letters": entry.added_dead_letters,
    }


def fresh_and_late(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Parts to be looked up apart: what is near in time, and stragglers."""
    times_ms = events["timestamp"].cast(pl.Int64)
    is_fresh = (times_ms - times_ms.median()).abs() <= FRESH_SPAN_MS
    return events.filter(is_fresh), events.filter(~is_fresh)
