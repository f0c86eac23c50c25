"""Which minutes the ledger knows to be incomplete, so that nobody trusts half a minute.

What was lost or refused is judged here for all; how far the ledger has read is judged here for an answer, and by
dashboards/incomplete.py for charts, which must also tell of a drain that stands still.

A message that could not be read, or was not read, has no event time: it counts for the minutes of its Kafka time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ledger import entry as ledger
from metrics_pipeline.ledger.entry import DRAIN
from metrics_pipeline.ledger.tables import IS_BATCH
from metrics_pipeline.questions.question import bounds
from metrics_pipeline.rollups.grains import BUILT, Grain
from metrics_pipeline.rollups.retained_from import RAW, RetainedFrom, _part, _standing
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.runtime.timerange import TimeRange

DEAD_LETTER_SHARE = 0.01
"""Above this share of a minute's messages being no valid events, the minute is incomplete."""
LAG_SECONDS = 30
"""A shard lags if the last message of its newest batch was older than this when it became visible."""

DEAD_LETTERS, LOST, DEFERRED, LAG, NOT_OVER = "dead letters", "lost", "deferred", "lag", "not over"
"""Reasons: too many dead letters; offsets that the topic dropped before they were read; offsets that a drain skipped to
be at the head, and no backfill has landed yet; a drain that is behind right now; the minute that is now."""

DROPPED = "dropped by retention"
COARSE = {grain: f"kept in buckets of {grain.name}" for grain in BUILT}
"""Minutes of a bucket that reaches beyond the span, while retention left no finer rows: see
rollups/retained_from.py."""

LONGEST_BATCH_DAYS = 7
"""Batches are read up to this long after the span: after an outage one batch may hold messages of days."""
LONGEST_OUTAGE_DAYS = 31
"""Losses are read up to this long after the span: a drain records them when it is back."""
_LAG_WITHIN_DAYS = 7
_RUNNING_SECONDS = 600
"""What a shard landed longer ago says nothing about its lag right now."""

_START, _END = "{start:DateTime('UTC')}", "{end:DateTime('UTC')}"
_NOTHING = "toDateTime64(0, 3, 'UTC')"
"""Time of the messages of a batch that has none, like one that accounts for lost offsets alone."""


def _minutes(first: str, last: str, reason: str, source: str) -> str:
    """Rows (minute, reason) for each minute of the span from that of `first` to that of `last`."""
    return f"""SELECT toDateTime(arrayJoin(range(
        greatest(toUnixTimestamp(toStartOfMinute({first})), toUnixTimestamp({_START})),
        least(toUnixTimestamp({last}) + 1, toUnixTimestamp({_END})), 60)), 'UTC') AS minute,
    {reason} AS reason
    FROM ({source})"""


_MAY_HOLD = f"last_message >= {_START} AND last_message < {_END} + INTERVAL {LONGEST_BATCH_DAYS} DAY"
_MANY_DEAD = f"""SELECT min(first_message) AS first, max(last_message) AS last
    FROM batches
    WHERE {IS_BATCH} AND {_MAY_HOLD} AND first_message < {_END} AND toStartOfMinute(last_message) IN (
        SELECT toStartOfMinute(last_message) FROM batches
        WHERE {_MAY_HOLD} AND first_message < {_END} AND dead_letters > {DEAD_LETTER_SHARE} * consumed)
    GROUP BY toStartOfMinute(last_message)
    HAVING sum(dead_letters) > {DEAD_LETTER_SHARE} * sum(consumed)"""
"""Batches put together by the minute of their last message; only minutes with a batch above the share can be."""

_LOSSES = f"""SELECT topic_id, shard, started_at, first_message FROM batches
    WHERE lost > 0 AND source = '{DRAIN}' AND (last_message = {_NOTHING} OR last_message >= {_START})
        AND started_at >= {_START} AND started_at < {_END} + INTERVAL {LONGEST_OUTAGE_DAYS} DAY"""
_AROUND_LOSSES = f"""source = '{DRAIN}' AND last_message >= {_START} AND last_message < if(
        (SELECT count() FROM ({_LOSSES})) > 0, {_END} + INTERVAL {LONGEST_BATCH_DAYS} DAY, {_START})"""
"""Nothing is read where nothing was lost. A batch before a loss that is older than the span leaves all of it lost."""
_LOST = f"""SELECT before.last AS first, multiIf(
        loss.first_message > {_NOTHING}, loss.first_message,
        after.first > {_NOTHING}, least(after.first, loss.started_at), loss.started_at) AS last
    FROM ({_LOSSES}) AS loss
    ASOF LEFT JOIN (
        SELECT topic_id, shard, max(visible_at) AS at, max(last_message) AS last
        FROM batches WHERE {_AROUND_LOSSES} GROUP BY topic_id, shard, toStartOfMinute(visible_at)
    ) AS before ON loss.topic_id = before.topic_id AND loss.shard = before.shard AND loss.started_at >= before.at
    ASOF LEFT JOIN (
        SELECT topic_id, shard, min(started_at) AS at, min(first_message) AS first
        FROM batches WHERE {_AROUND_LOSSES} GROUP BY topic_id, shard, toStartOfMinute(started_at)
    ) AS after ON loss.topic_id = after.topic_id AND loss.shard = after.shard AND loss.started_at < after.at"""
"""What was lost lies between the last message that landed before and the first one that landed after."""

_PARTS = "ARRAY JOIN partitions AS p, partition_start AS s, partition_end AS e"
_SKIPPED = f"""SELECT DISTINCT topic_id, p, s, e, first_message, last_message FROM batches {_PARTS}
    WHERE source = '{ledger.DEFERRED}' AND last_message >= {_START} AND first_message < {_END}"""
_BACKFILLED = f"""SELECT DISTINCT topic_id, p, s, e, l FROM batches {_PARTS}, partition_lost AS l
    WHERE source = '{ledger.BACKFILL}' AND (SELECT count() FROM ({_SKIPPED})) > 0"""
_BACKFILLS = f"""SELECT topic_id, p, skipped.s AS s, sum(landed.e - landed.s) AS offsets, sum(landed.l) AS lost
    FROM ({_BACKFILLED}) AS landed
    ASOF INNER JOIN ({_SKIPPED}) AS skipped
        ON landed.topic_id = skipped.topic_id AND landed.p = skipped.p AND landed.s >= skipped.s
    WHERE landed.s < skipped.e
    GROUP BY topic_id, p, s"""
"""What backfills landed of each range that was skipped: a batch of theirs never holds parts of two."""
_DEFERRED_OR_LOST = f"""SELECT DISTINCT first_message AS first, last_message AS last,
    arrayJoin(arrayFilter(r -> r != '', [
        if(backfills.offsets < skipped.e - skipped.s, '{DEFERRED}', ''),
        if(backfills.lost > 0, '{LOST}', '')])) AS reason
    FROM ({_SKIPPED}) AS skipped
    LEFT JOIN ({_BACKFILLS}) AS backfills
        ON skipped.topic_id = backfills.topic_id AND skipped.p = backfills.p AND skipped.s = backfills.s"""

_LAGGING = f"""SELECT min(newest) AS first, now64(3, 'UTC') AS last FROM (
        SELECT argMax(last_message, visible_at) AS newest, max(visible_at) AS at
        FROM batches
        WHERE source = '{DRAIN}' AND visible_at >= now64(3, 'UTC') - INTERVAL {_RUNNING_SECONDS} SECOND
            AND last_message >= now64(3, 'UTC') - INTERVAL {_LAG_WITHIN_DAYS} DAY
            AND {_END} >= now64(3, 'UTC') - INTERVAL {_LAG_WITHIN_DAYS} DAY
        GROUP BY topic_id, shard
    ) WHERE at > newest + INTERVAL {LAG_SECONDS} SECOND
    HAVING count() > 0"""

DAMAGED_MINUTES = f"""{_minutes("first", "last", f"'{DEAD_LETTERS}'", _MANY_DEAD)}
    UNION ALL
    {_minutes("first", "last", f"'{LOST}'", _LOST)}
    UNION ALL
    {_minutes("first", "last", "reason", _DEFERRED_OR_LOST)}"""
"""What stays incomplete, whatever drains do; rows as INCOMPLETE_MINUTES has them, perhaps more than once."""

INCOMPLETE_MINUTES = f"""SELECT DISTINCT minute, reason FROM (
    {DAMAGED_MINUTES}
    UNION ALL
    {_minutes("first", "last", f"'{LAG}'", _LAGGING)}
    UNION ALL
    {_minutes("first", "last", f"'{NOT_OVER}'", "SELECT now64(3, 'UTC') AS first, first AS last")}
)"""
"""A query, to be put in parentheses: rows (minute DateTime('UTC'), reason String) of whole minutes [start, end).

Its parameters are `start` and `end` (DateTime, UTC). A minute may have several reasons."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """How many minutes of a span are incomplete for one reason; `first` and `last` of them by their starts, UTC."""

    reason: str
    minutes: int
    first: datetime
    last: datetime


def incomplete_minutes(client: Client, minutes: TimeRange, *, of_raw: bool = False) -> tuple[Incomplete, ...]:
    """What is known to be incomplete in the span of whole minutes: by the ledger, one entry per reason, and what
    retention left out of an answer that is read from rollups or, with `of_raw`, from raw_events."""
    sql = f"""SELECT reason, count(), toUnixTimestamp(min(minute)), toUnixTimestamp(max(minute))
        FROM ({INCOMPLETE_MINUTES}) GROUP BY reason ORDER BY reason"""
    rows = query_rows(client, "asking the ledger what is incomplete", sql, bounds(minutes))
    found = tuple(
        Incomplete(
            str(reason), int(count), datetime.fromtimestamp(int(first), UTC), datetime.fromtimestamp(int(last), UTC)
        )
        for reason, count, first, last in rows
    )
    retained_from = read_retained_from(client)
    return (*found, *(_dropped_events if of_raw else _left_out)(retained_from, minutes))


def _left_out(retained_from: RetainedFrom, minutes: TimeRange) -> tuple[Incomplete, ...]:
    return tuple(
        _incomplete(DROPPED if part.grain is None else COARSE[part.grain], part.span)
        for part in left_out(retained_from, minutes)
    )


def _dropped_events(retained_from: RetainedFrom, minutes: TimeRange) -> tuple[Incomplete, ...]:
    end = min(minutes.end, datetime.fromtimestamp(retained_from.of(RAW), UTC))
    return (_incomplete(DROPPED, TimeRange(minutes.start, end)),) if minutes.start < end else ()


def _incomplete(reason: str, span: TimeRange) -> Incomplete:
    return Incomplete(reason, int(span.seconds) // 60, span.start, span.end - timedelta(minutes=1))


def newest_landing(client: Client) -> datetime | None:
    """When a batch became visible last; None if none did lately."""
    sql = f"""SELECT toUnixTimestamp64Milli(max(visible_at)) FROM batches
        WHERE last_message >= now64(3, 'UTC') - INTERVAL {_LAG_WITHIN_DAYS} DAY AND source = '{DRAIN}'"""
    rows = query_rows(client, "asking the ledger what landed last", sql)
    newest_ms = int(rows[0][0])
    return datetime.fromtimestamp(newest_ms / 1_000, UTC) if newest_ms > 0 else None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of a span that its answer lacks: `grain` is that of the bucket it lies in, None where nothing is left."""

    span: TimeRange
    grain: Grain | None


def left_out(retained_from: RetainedFrom, asked: TimeRange) -> Iterator[LeftOut]:
    """Parts of the span in buckets that reach beyond it and have no finer rows, and what is gone altogether.

    Such a bucket is in no answer about the span, since nobody knows how many of its requests are.
    """
    start, end = int(asked.start.timestamp()), int(asked.end.timestamp())
    gone = retained_from.of(BUILT[-1].name)
    if start < gone:
        yield LeftOut(_part(asked, start, min(end, gone)), None)
        start = min(end, gone)
    if start >= end:
        return
    first = _standing(retained_from, start)
    if first is not None and first.floor(start) != start:
        cutoff = min(end, first.ceil(start))
        yield LeftOut(_part(asked, start, cutoff), first)
        start = cutoff
    last = _standing(retained_from, end - 1)
    if start < end and last is not None and last.floor(end) != end:
        yield LeftOut(_part(asked, max(start, last.floor(end)), end), last)
