"""Minutes that the ledger knows to be incomplete, so that nobody trusts half a minute.

| reason | what the ledger says |
|---|---|
| unread | a shard has not read that far: the newest minutes, and everything behind a lag |
| lost | offsets were gone before they were read; their events lie between the batch before and the one that noted it |
| dead letters | more than DEAD_LETTER_PERCENT of the minute's messages became dead letters |
"""

from metrics_pipeline.dashboards.panel import Kind, Panel, Unit
from metrics_pipeline.dashboards.steps import MONTH, Reach

DEAD_LETTER_PERCENT = 1
LAG_SECONDS = 60
"""A shard lags if the newest message that it made visible was older than this by then."""
IDLE_SECONDS = 600
"""A shard that made nothing visible for so long, while others did, is idle or gone, and holds nobody back."""
SPAN_SECONDS = MONTH
"""The ledger has rows per batch, not per minute: of longer spans, the last part is judged."""

_NEAR = "last_message >= @start - INTERVAL 1 DAY AND last_message < @end + INTERVAL 1 HOUR"
_START, _END = "toUnixTimestamp(@start)", "toUnixTimestamp(@end)"


def _minutes(since: str, until: str) -> str:
    """Each minute from that of `since` to that of `until`, epoch seconds, cut to the span."""
    first = f"intDiv(greatest({since}, {_START}), 60) * 60"
    behind = f"least(toInt64({until}), toInt64({_END}) - 1) + 1"
    return f"arrayJoin(range(toUInt32({first}), toUInt32(greatest({behind}, 0)), 60))"


_UNREAD = f"""SELECT {_minutes("reached", _END)} AS minute, 'unread' AS reason FROM (
    SELECT toUnixTimestamp(least(max(newest), if(countIf(lags) = 0, max(newest), minIf(newest, lags)))) AS reached
    FROM (
        SELECT newest, seen, dateDiff('second', newest, seen) > {LAG_SECONDS} AS lags, max(seen) OVER () AS latest
        FROM (
            SELECT max(last_message) AS newest, argMax(visible_at, last_message) AS seen
            FROM batches WHERE {_NEAR} GROUP BY topic, topic_id, shard
        )
    ) WHERE seen >= latest - {IDLE_SECONDS}
)"""

_LOST = f"""SELECT DISTINCT {_minutes("toUnixTimestamp(before)", "toUnixTimestamp(last_message)")} AS minute,
    'lost' AS reason
FROM (
    SELECT lost, last_message, lagInFrame(last_message, 1, first_message) OVER (
        PARTITION BY topic, topic_id, shard ORDER BY last_message, batch
        ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before
    FROM batches WHERE {_NEAR} AND shard IN (SELECT shard FROM batches WHERE {_NEAR} AND lost > 0)
) WHERE lost > 0"""

_DEAD = f"""SELECT toUnixTimestamp(toStartOfMinute(last_message)) AS minute, 'dead letters' AS reason
FROM batches WHERE last_message >= @start AND last_message < @end
GROUP BY minute HAVING 100 * sum(dead_letters) > {DEAD_LETTER_PERCENT} * sum(consumed)"""

INCOMPLETE_MINUTES = f"{_UNREAD}\nUNION ALL {_LOST}\nUNION ALL {_DEAD}"
"""Rows of (minute in epoch seconds, reason) for the span [@start, @end): a minute once per reason."""

INCOMPLETE_SPANS = Panel(
    "incomplete_spans",
    "Incomplete minutes",
    "Neighbouring minutes as one row, to be drawn over charts.",
    Kind.TABLE,
    Unit.NONE,
    Reach.NARROW,
    f"""SELECT toDateTime(min(minute), 'UTC') AS time, toDateTime(max(minute) + 60, 'UTC') AS timeEnd,
    concat('incomplete: ', reason) AS text, 'incomplete' AS tags
FROM (
    SELECT minute, reason, minute - 60 * row_number() OVER (PARTITION BY reason ORDER BY minute) AS island
    FROM ({INCOMPLETE_MINUTES})
) GROUP BY reason, island ORDER BY time LIMIT 1000""",
    SPAN_SECONDS,
)

_REASONS = ("unread", "lost", "dead letters")
_COUNTS = ", ".join(f"countIf(reason = '{reason}') AS `{reason}`" for reason in _REASONS)

INCOMPLETE = Panel(
    "incomplete",
    "Incomplete minutes",
    "Not to be trusted: minutes of each point that the ledger knows to be incomplete, since they are not yet read, "
    f"offsets were lost, or more than {DEAD_LETTER_PERCENT}% became dead letters. Of the last "
    f"{SPAN_SECONDS // 86_400} days of a longer span.",
    Kind.TIMESERIES,
    Unit.COUNT,
    Reach.NARROW,
    f"""SELECT @t, {_COUNTS} FROM (
    SELECT minute - minute % @bucket AS t, reason FROM ({INCOMPLETE_MINUTES})
    UNION ALL
    SELECT arrayJoin(range({_START}, {_END}, @bucket)) AS t, '' AS reason
) GROUP BY t ORDER BY t""",
    SPAN_SECONDS,
)
