"""The table dead_letters: read page by page in the order of its key, marked by a new version of a row, counted.

Every read takes the last version of each letter. A mark copies the row on the server, so payloads stay there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.insert import external, insert_once
from metrics_pipeline.clickhouse.query import query_frame, query_rows
from metrics_pipeline.ddl.live import IS_OWN, time_to_live_days
from metrics_pipeline.dead_letters.judge import LETTER_SCHEMA, LETTERS_SCHEMA, LetterFilter
from metrics_pipeline.delivery.tables import DEAD_LETTERS
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.tables import IN_RANGES, ranges_parameters

Place = tuple[str, int, int]
"""Topic id, partition and offset: the order of pages."""

MAX_PAGE_LETTERS = 5_000
MAX_PAGE_BYTES = 32 << 20
"""Of payloads; a single letter may have more."""

REASON = "if(replay_reason != '', replay_reason, reason)"
"""Why a letter is one by the rules that judged it last."""
UNREPLAYED = "outcome NOT IN ('landed', 'duplicate')"
_PLACE = "(topic_id, kafka_partition, kafka_offset)"
_PLACED = "({id:String}, {partition:UInt32}, {offset:UInt64})"
_SETTINGS: Mapping[str, Any] = {
    # Versions of a row have the same message, hence the same partition of the table.
    "do_not_merge_across_partitions_select_final": 1,
}
_TEXT_COLUMNS = ("detail", "service", "replay_detail")

_MARKED = {
    "outcome": "m.outcome",
    "replayed_at": "{replayed_at:DateTime64(3, 'UTC')}",
    "replay_reason": "m.replay_reason",
    "replay_detail": "m.replay_detail",
}
_MARK_SQL = f"""
INSERT INTO {DEAD_LETTERS.name} ({", ".join(c.name for c in DEAD_LETTERS.columns)})
SELECT {", ".join(_MARKED.get(c.name, f"d.{c.name}") for c in DEAD_LETTERS.columns)}
FROM {DEAD_LETTERS.name} AS d FINAL
INNER JOIN marks AS m ON d.kafka_partition = m.kafka_partition AND d.kafka_offset = m.kafka_offset
WHERE d.topic = {{topic:String}} AND d.topic_id = {{id:String}}
    AND (d.kafka_partition, d.kafka_offset) IN (SELECT kafka_partition, kafka_offset FROM marks)
    AND d.outcome NOT IN ('landed', 'duplicate')
"""
"""What has landed is never marked otherwise, whoever comes late."""
_MARKS = [
    "kafka_partition UInt32",
    "kafka_offset UInt64",
    "outcome String",
    "replay_reason String",
    "replay_detail String",
]


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one reason, service and day (of their messages), by what replays made of them."""

    reason: str
    service: str
    day: str
    letters: int
    never_replayed: int
    kept: int
    landed: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter in full."""

    topic_id: str
    partition: int
    offset: int
    message_time: datetime
    reason: str
    detail: str
    service: str
    payload: bytes
    batch: str
    stored_at: datetime
    outcome: str
    replayed_at: datetime
    replay_reason: str
    replay_detail: str


class ClickHouseDeadLetters:
    """A `LetterStore` of one topic, in all of its lives."""

    def __init__(self, client: Client, topic: str) -> None:
        self._client = client
        self._topic = topic

    def count(self, wanted: LetterFilter) -> int:
        where, parameters = _where(wanted)
        sql = f"SELECT count() FROM {DEAD_LETTERS.name} FINAL WHERE {where} AND {UNREPLAYED}"
        return int(self._rows("counting dead letters", sql, parameters)[0][0])

    def page(self, wanted: LetterFilter, after: Place | None) -> pl.DataFrame:
        where, parameters = _where(wanted)
        if after is not None:
            where += f" AND {_PLACE} > {_PLACED}"
            parameters |= dict(zip(("id", "partition", "offset"), after, strict=True))
        sizes = self._rows(
            "looking for dead letters",
            f"""SELECT topic_id, kafka_partition, kafka_offset, length(payload) FROM {DEAD_LETTERS.name} FINAL
            WHERE {where} AND {UNREPLAYED} ORDER BY topic_id, kafka_partition, kafka_offset LIMIT {{limit:UInt32}}""",
            parameters | {"limit": MAX_PAGE_LETTERS},
        )
        if not sizes:
            return pl.DataFrame(schema=LETTER_SCHEMA)
        last = _last_within(sizes)
        where += f" AND {_PLACE} <= ({{last_id:String}}, {{last_partition:UInt32}}, {{last_offset:UInt64}})"
        parameters |= dict(zip(("last_id", "last_partition", "last_offset"), last, strict=True))
        return self._letters(f"{where} AND {UNREPLAYED}", parameters)

    def at(self, topic_id: str, positions: Sequence[tuple[int, int]]) -> pl.DataFrame:
        parameters = {
            "id": topic_id,
            "partitions": [p for p, _ in positions],
            "offsets": [o for _, o in positions],
        }
        where = """topic = {topic:String} AND topic_id = {id:String} AND (kafka_partition, kafka_offset) IN
            arrayZip({partitions:Array(UInt32)}, {offsets:Array(UInt64)})"""
        return self._letters(where, parameters)

    def within(self, topic_id: str, ranges: Sequence[OffsetRange]) -> pl.DataFrame:
        sql = f"""SELECT kafka_partition, kafka_offset, outcome FROM {DEAD_LETTERS.name} FINAL
            WHERE topic = {{topic:String}} AND topic_id = {{id:String}} AND {IN_RANGES}"""
        answer = self._frame(sql, {"id": topic_id, **ranges_parameters(ranges)})
        return answer.cast(LETTERS_SCHEMA)

    def add(self, topic_id: str, letters: pl.DataFrame, token: str) -> None:
        rows = letters.with_columns(topic=pl.lit(self._topic), topic_id=pl.lit(topic_id))
        insert_once(self._client, DEAD_LETTERS.name, rows, token)

    def mark(self, topic_id: str, marks: pl.DataFrame, now_ms: int) -> None:
        if not len(marks):
            return
        parameters = {"topic": self._topic, "id": topic_id, "replayed_at": now_ms / 1_000}
        calling(
            f"marking {len(marks)} dead letters",
            lambda: self._client.command(
                _MARK_SQL,
                parameters=parameters,
                external_data=external("marks", _MARKS, marks),
                # An equal mark of another letter is no repeat, and a repeated one replaces itself.
                settings={**_SETTINGS, "insert_deduplicate": 0, "max_partitions_per_insert_block": 1_000},
            ),
        )

    def groups(self, wanted: LetterFilter, limit: int) -> list[Group]:
        """Counts by reason, service and day, the largest first."""
        where, parameters = _where(wanted)
        sql = f"""SELECT {REASON} AS present, service, toString(toDate(kafka_timestamp)) AS day, count() AS n,
                countIf(outcome = ''), countIf(outcome = 'kept'), countIf(outcome = 'landed'),
                countIf(outcome = 'duplicate')
            FROM {DEAD_LETTERS.name} FINAL WHERE {where}
            GROUP BY present, service, day ORDER BY n DESC, day DESC, present, service LIMIT {{limit:UInt32}}"""
        rows = self._rows("counting dead letters", sql, parameters | {"limit": limit})
        return [Group(str(r[0]), str(r[1]), str(r[2]), *map(int, r[3:])) for r in rows]

    def show(self, wanted: LetterFilter, limit: int, position: tuple[int, int] | None = None) -> list[Letter]:
        """Letters in full, the newest first; at `position` those of every incarnation of the topic."""
        where, parameters = _where(wanted)
        if position is not None:
            where += " AND kafka_partition = {partition:UInt32} AND kafka_offset = {offset:UInt64}"
            parameters |= {"partition": position[0], "offset": position[1]}
        sql = f"""SELECT topic_id, kafka_partition, kafka_offset, kafka_timestamp, reason, toValidUTF8(detail),
                toValidUTF8(service), hex(payload), batch, stored_at, outcome, replayed_at, replay_reason,
                toValidUTF8(replay_detail)
            FROM {DEAD_LETTERS.name} FINAL WHERE {where}
            ORDER BY kafka_timestamp DESC, kafka_partition, kafka_offset LIMIT {{limit:UInt32}}"""
        rows = self._rows("reading dead letters", sql, parameters | {"limit": limit})
        return [Letter(*(*r[:7], bytes.fromhex(r[7]), *r[8:])) for r in rows]

    def never_replayed(
        self, end_ms: int | None = None, *, topic_id: str | None = None, lows: Mapping[int, int] | None = None
    ) -> tuple[int, int | None]:
        """Letters that no replay ever looked at, of messages before `end_ms`: how many, and the oldest one's time.

        Times are epoch milliseconds. `topic_id` limits them to one incarnation of the topic, `lows` (partition -> first
        offset) to messages that it still holds.
        """
        where, parameters = _where(LetterFilter(end_ms=end_ms))
        if topic_id is not None:
            where += " AND topic_id = {id:String}"
            parameters["id"] = topic_id
        if lows is not None:
            where += """ AND kafka_offset >= transform(
                kafka_partition, {partitions:Array(UInt32)}, {lows:Array(UInt64)}, toUInt64(0))"""
            parameters |= {"partitions": list(lows), "lows": list(lows.values())}
        sql = f"""SELECT count(), toUnixTimestamp64Milli(min(kafka_timestamp)) FROM {DEAD_LETTERS.name} FINAL
            WHERE {where} AND outcome = ''"""
        count, oldest = self._rows("counting dead letters", sql, parameters)[0]
        return int(count), int(oldest) if count else None

    def time_to_live_days(self) -> float | None:
        """How long the table keeps a letter, if a TTL of whole rows says so in a way that can be read."""
        sql = f"SELECT engine_full FROM system.tables WHERE {IS_OWN} AND name = '{DEAD_LETTERS.name}'"
        rows = self._rows("reading the table's retention", sql, {})
        return time_to_live_days(str(rows[0][0])) if rows else None

    def _letters(self, where: str, parameters: Mapping[str, Any]) -> pl.DataFrame:
        columns = [f"toValidUTF8({n}) AS {n}" if n in _TEXT_COLUMNS else n for n in LETTER_SCHEMA.names()]
        # The names of the columns are those of the table: conditions must not mean the converted ones.
        sql = f"""SELECT {", ".join(columns)} FROM (SELECT * FROM {DEAD_LETTERS.name} FINAL WHERE {where})
            ORDER BY topic_id, kafka_partition, kafka_offset"""
        return self._frame(sql, parameters, output_format_arrow_string_as_string=0).cast(LETTER_SCHEMA)

    def _frame(self, sql: str, parameters: Mapping[str, Any], **settings: Any) -> pl.DataFrame:
        named = {"topic": self._topic, **parameters}
        return query_frame(self._client, "reading dead letters", sql, named, {**_SETTINGS, **settings})

    def _rows(self, doing: str, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        named = {"topic": self._topic, **parameters}
        return query_rows(self._client, doing, sql, named, _SETTINGS)


def _where(wanted: LetterFilter) -> tuple[str, dict[str, Any]]:
    conditions, parameters = ["topic = {topic:String}"], dict[str, Any]()
    if wanted.reasons:
        conditions.append(f"{REASON} IN {{reasons:Array(String)}}")
        parameters["reasons"] = list(wanted.reasons)
    if wanted.services:
        conditions.append("service IN {services:Array(String)}")
        parameters["services"] = list(wanted.services)
    if wanted.start_ms is not None:
        conditions.append("kafka_timestamp >= {start:DateTime64(3, 'UTC')}")
        parameters["start"] = wanted.start_ms / 1_000
    if wanted.end_ms is not None:
        conditions.append("kafka_timestamp < {end:DateTime64(3, 'UTC')}")
        parameters["end"] = wanted.end_ms / 1_000
    return " AND ".join(conditions), parameters


def _last_within(sizes: Sequence[Sequence[Any]]) -> Place:
    """The last letter of a page: one incarnation of the topic, and no more bytes than the limit, but at least one
    letter."""
    size_bytes, last = 0, sizes[0]
    for row in sizes:
        size_bytes += int(row[3])
        if row[0] != last[0] or (size_bytes > MAX_PAGE_BYTES and row is not sizes[0]):
            break
        last = row
    return str(last[0]), int(last[1]), int(last[2])
