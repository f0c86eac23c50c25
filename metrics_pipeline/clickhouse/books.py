"""Reads the books for an audit: the ledger and the tables, each by itself, by aggregates over sort keys."""

from collections.abc import Mapping
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.core.audit import Books, MinuteDrift
from metrics_pipeline.core.offsets import OffsetRange

LONGEST_LIST = 1_000
"""An audit lists so many gaps, overlaps or minutes at most."""

_RANGES = """
    SELECT p, s, e, lost, max(e) OVER (
        PARTITION BY p ORDER BY s, e ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
        row_number() OVER (PARTITION BY p ORDER BY s, e) AS position
    FROM batches FINAL ARRAY JOIN partitions AS p, partition_start AS s, partition_end AS e, partition_lost AS lost
    WHERE topic = {topic:String} AND topic_id = {topic_id:String} AND consumer_group = {group:String}
"""

_SUMS = """
    SELECT sum(arraySum(arrayMap((s, e) -> e - s, partition_start, partition_end))),
        sum(consumed), sum(inserted), sum(duplicates), sum(dead_letters), sum(skipped)
    FROM batches FINAL
    WHERE consumer_group = {group:String}
"""

_DRIFT = """
    SELECT toString(minute), sum(raw) AS raw_requests, sum(rollup) AS rollup_requests FROM (
        SELECT toStartOfMinute(timestamp) AS minute, count() AS raw, 0 AS rollup FROM raw_events GROUP BY minute
        UNION ALL
        SELECT minute, 0 AS raw, sum(requests) AS rollup FROM rollup_1m GROUP BY minute
    ) GROUP BY minute HAVING raw_requests != rollup_requests ORDER BY minute LIMIT {limit:UInt32}
"""


def read_books(client: Client, *, topic: str, topic_id: str, group: str, committed: Mapping[int, int]) -> Books:
    """All figures of an audit; `committed` (partition -> next offset) is what the brokers say.

    The tables are counted whole, so they must be fed by this group alone; ranges are checked for the present topic.
    """
    parameters = {"topic": topic, "topic_id": topic_id, "group": group, "limit": LONGEST_LIST}

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return calling("auditing", lambda: [tuple(row) for row in client.query(sql, parameters=parameters).result_rows])

    offsets, consumed, inserted, duplicates, dead_letters, skipped = map(int, rows(_SUMS)[0])
    raw_rows = int(rows("SELECT count() FROM raw_events")[0][0])
    distinct = int(
        rows("SELECT count() FROM raw_events FINAL SETTINGS do_not_merge_across_partitions_select_final = 1")[0][0]
    )
    between = f"SELECT p, before, s FROM ({_RANGES}) WHERE position > 1 AND s > before LIMIT {{limit:UInt32}}"
    doubled = f"SELECT p, s, least(e, before) FROM ({_RANGES}) WHERE position > 1 AND s < before LIMIT {{limit:UInt32}}"
    ends = {int(p): int(e) for p, e in rows(f"SELECT p, max(e) FROM ({_RANGES}) GROUP BY p")}
    lost = f"SELECT p, s, s + lost FROM ({_RANGES}) WHERE lost > 0 LIMIT {{limit:UInt32}}"
    return Books(
        offsets=offsets,
        consumed=consumed,
        inserted=inserted,
        duplicates=duplicates,
        dead_letters=dead_letters,
        skipped=skipped,
        lost=_ranges(rows(lost)),
        gaps=_ranges(rows(between)) + _unaccounted_tail(ends, committed),
        overlaps=_ranges(rows(doubled)),
        raw_rows=raw_rows,
        raw_doubles=raw_rows - distinct,
        rollup_requests=int(rows("SELECT sum(requests) FROM rollup_1m")[0][0]),
        dead_letter_rows=int(rows("SELECT count() FROM dead_letters FINAL")[0][0]),
        drifting_minutes=tuple(MinuteDrift(m, int(raw), int(rollup)) for m, raw, rollup in rows(_DRIFT)),
    )


def _ranges(rows: list[tuple[Any, ...]]) -> tuple[OffsetRange, ...]:
    return tuple(OffsetRange(int(p), int(s), int(e)) for p, s, e in rows)


def _unaccounted_tail(ends: Mapping[int, int], committed: Mapping[int, int]) -> tuple[OffsetRange, ...]:
    """Offsets that are committed as done, but stand in no entry of the ledger."""
    return tuple(
        OffsetRange(p, ends[p], offset) for p, offset in sorted(committed.items()) if p in ends and offset > ends[p]
    )
