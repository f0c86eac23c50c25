"""What readers read: a parameterized view per cube that takes each span of time from the coarsest rows that are right.

    SELECT … FROM rollup(start = '2026-11-03 00:00:00', end = '2026-11-04 00:00:00', step = 3600)

gives rows of the events in [start, end), whole minutes of UTC, in buckets of at most `step` seconds. A bucket is read
as built if it lies within the span and its build counts every event that raw_events was given; else finer rows are
read, down to those that each insert writes. So an answer never depends on what was built when, only its cost does.
"""

from metrics_pipeline.clickhouse.ddl import View
from metrics_pipeline.clickhouse.rollups.cubes import CUBES, METRICS, Cube
from metrics_pipeline.clickhouse.rollups.tables import BOOKS, INSTANT
from metrics_pipeline.core.grains import BUILT, GRAINS, LIVE, UNIT


def _bound(name: str) -> str:
    return f"{{{name}:{INSTANT}}}"


_START, _END, _STEP = _bound("start"), _bound("end"), "{step:UInt32}"

_DAY = 86_400
_LONG = [grain.seconds for grain in BUILT if grain.seconds % _DAY == 0]
_COVERED_DAYS = f"""SELECT arrayJoin(range(
        intDiv(toUnixTimestamp(minute), {_DAY}), intDiv(toUnixTimestamp(minute) + grain, {_DAY})))
    FROM {BOOKS.name}
    WHERE grain IN {_LONG} AND grain <= {_STEP} AND minute >= {_START} AND minute + grain <= {_END}
    GROUP BY grain, minute
    HAVING max(built).1 > 0 AND max(built).2 = sum(events)"""
"""Days since the epoch that are read from buckets of a day and more. Their finer rows in the books are passed over: in
13 months there are 67,000, and sorting them would take longer than everything else. Read twice in one query, the books
are the same: the server shares a snapshot (`enable_shared_storage_snapshot_in_query`: our client sets it, for others it
is the default; a view can't set it)."""

COVER = f"""SELECT taken, toDateTime(bucket, 'UTC'), build FROM (
    SELECT
        bucket,
        if(is_right, length, {LIVE.seconds})::UInt32 AS taken,
        if(is_right, newest.1, repair.1) AS build,
        max(bucket + length) OVER (
            ORDER BY bucket, length DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered_until
    FROM (
        SELECT
            toUnixTimestamp(minute) AS bucket,
            grain AS length,
            max(built) AS newest,
            max(repaired) AS repair,
            newest.1 > 0 AND newest.2 = sum(events) AND length <= {_STEP}
                AND bucket >= toUnixTimestamp({_START}) AND bucket + length <= toUnixTimestamp({_END}) AS is_right
        FROM {BOOKS.name}
        WHERE minute > {_START} - {UNIT.seconds} AND minute < {_END} AND grain <= greatest({_STEP}, {UNIT.seconds})
            AND (grain IN {_LONG} OR intDiv(toUnixTimestamp(minute), {_DAY}) NOT IN (
                {_COVERED_DAYS}))
        GROUP BY bucket, length
        HAVING is_right OR length = {UNIT.seconds}
    )
) WHERE covered_until <= bucket"""
"""The buckets to read: each moment of the span in exactly one of them. Buckets nest, so in the order of their starts,
longest first, one lies within a longer one if anything before it reaches beyond its start."""


def _view(cube: Cube) -> View:
    columns = ", ".join((*cube.dimensions, *(m.name for m in METRICS)))
    # Of a longer bucket it is the start itself. Monotonic in the key's `minute`, so that granules without a bucket of
    # the cover aren't read.
    bucket = f"toStartOfInterval(minute, toIntervalSecond({UNIT.seconds}))"
    tables, lengths = [cube.table(grain) for grain in GRAINS], [grain.seconds for grain in GRAINS]
    # A table of buckets that are too long for the question isn't even planned: that takes longer than reading.
    span = f"toUInt32(toUnixTimestamp({_END}) - toUnixTimestamp({_START}))"
    longest = f"greatest(least({_STEP}, {span}), {LIVE.seconds})"
    return View(
        name=cube.name,
        select=f"""SELECT minute, {columns}
FROM {cube.all_grains}
WHERE minute >= {_START} AND minute < {_END} AND transform(_table, {tables}, {lengths}, 0) <= {longest}
AND (grain, {bucket}, build) IN ({COVER})""",
        comment=f"{cube.comment}; arguments: start, end, step (the longest bucket, seconds).",
    )


ROLLUP_VIEWS = tuple(_view(cube) for cube in CUBES)


def source_of(cube: Cube, *, prefix: str = "") -> str:
    """The cube in a FROM clause; the query's parameters are `start`, `end` (DateTime, UTC) and `step` (seconds).

    A query over two spans reads the second one with a `prefix` before the names of its bounds.
    """
    return f"{cube.name}(start={_bound(f'{prefix}start')}, end={_bound(f'{prefix}end')}, step={_STEP})"
