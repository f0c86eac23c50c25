"""Minutes that the ledger knows to be incomplete, so that nobody trusts half a minute.

| reason | what the ledger says |
|---|---|
| unread | a shard has not read that far: the newest minutes, and everything behind a lag |
| lost, deferred, dead letters | as questions/completeness.py judges |
"""

from metrics_pipeline.dashboards.panel import Kind, Panel, Unit
from metrics_pipeline.dashboards.steps import DAY, MONTH, Reach
from metrics_pipeline.ledger.entry import DRAIN
from metrics_pipeline.questions.completeness import (
    DAMAGED_MINUTES,
    DEAD_LETTER_SHARE,
    DEAD_LETTERS,
    DEFERRED,
    LAG_SECONDS,
    LOST,
)

IDLE_SECONDS = 600
"""A shard that made nothing visible for longer, while others did, is idle or gone: it makes no minute incomplete."""
SPAN_SECONDS = MONTH
"""The ledger has rows per batch, not per minute: of longer spans, the last part is judged."""
UNREAD = "unread"

_START, _END = "toUnixTimestamp(@start)", "toUnixTimestamp(@end)"
_NEWEST = f"(SELECT max(last_message) FROM batches WHERE source = '{DRAIN}')"

_UNREAD = f"""SELECT arrayJoin(range(
    toUInt32(intDiv(greatest(reached, {_START}), 60) * 60), toUInt32(least(toUnixTimestamp(now()), {_END})), 60)
) AS minute, '{UNREAD}' AS reason
FROM (
    SELECT toUnixTimestamp(if(countIf(lags) = 0, max(newest), minIf(newest, lags))) AS reached
    FROM (
        SELECT newest, seen, dateDiff('second', newest, seen) > {LAG_SECONDS} AS lags, max(seen) OVER () AS latest
        FROM (
            SELECT max(last_message) AS newest, argMax(visible_at, last_message) AS seen
            FROM batches WHERE last_message > {_NEWEST} - INTERVAL 1 DAY AND source = '{DRAIN}'
            GROUP BY topic, topic_id, shard
        )
    ) WHERE seen >= latest - {IDLE_SECONDS}
)"""
"""The ledger can't tell a quiet topic from a drain that stands still: both are marked since the newest message."""

_DAMAGED = DAMAGED_MINUTES.replace("{start:DateTime('UTC')}", "@start").replace("{end:DateTime('UTC')}", "@end")

INCOMPLETE_MINUTES = f"""{_UNREAD}
UNION ALL SELECT DISTINCT toUnixTimestamp(minute) AS minute, reason FROM ({_DAMAGED})"""
"""Rows of (minute in epoch seconds, reason) for the span [@start, @end): a minute once per reason."""

INCOMPLETE_SPANS = Panel(
    "incomplete_spans",
    "Incomplete minutes",
    "Neighbouring minutes as one row, to be drawn over charts.",
    f"""SELECT toDateTime(min(minute), 'UTC') AS time, toDateTime(max(minute) + 60, 'UTC') AS timeEnd,
    concat('incomplete: ', reason) AS text, 'incomplete' AS tags
FROM (
    SELECT minute, reason, minute - 60 * row_number() OVER (PARTITION BY reason ORDER BY minute) AS island
    FROM ({INCOMPLETE_MINUTES})
) GROUP BY reason, island ORDER BY time LIMIT 1000""",
    kind=Kind.TABLE,
    reach=Reach.NARROW,
    span_seconds=SPAN_SECONDS,
)

_REASONS = (UNREAD, LOST, DEFERRED, DEAD_LETTERS)
_COUNTS = ", ".join(f"countIf(reason = '{reason}') AS `{reason}`" for reason in _REASONS)

INCOMPLETE = Panel(
    "incomplete",
    "Incomplete minutes",
    "Not to be trusted: minutes of each point that the ledger knows to be incomplete, since they are not yet read, "
    f"offsets were lost or are deferred (skipped for now), or more than {DEAD_LETTER_SHARE:.0%} became dead letters. "
    f"Of the last {SPAN_SECONDS // DAY} days of a longer span.",
    f"""SELECT @t, {_COUNTS} FROM (
    SELECT minute - minute % @bucket AS t, reason FROM ({INCOMPLETE_MINUTES})
    UNION ALL
    SELECT arrayJoin(range({_START}, {_END}, @bucket)) AS t, '' AS reason
) GROUP BY t ORDER BY t""",
    Unit.COUNT,
    reach=Reach.NARROW,
    span_seconds=SPAN_SECONDS,
)
