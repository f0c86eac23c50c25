"""What readers read: a parameterized view per cube that takes each span of time from the coarsest rows that are right.

    SELECT … FROM rollup(start = '2026-11-03 00:00:00', end = '2026-11-04 00:00:00', step = 3600)

gives rows of the events in [start, end), whole minutes of UTC, in buckets of at most `step` seconds. A bucket is read
as built if it lies within the span and its build counts every event that raw_events was given; else finer rows are
read, down to those that each insert writes. So an answer never depends on what was built when, only its cost does.

Before a grain's retained_from its rows may be gone, and no event comes any more: the shortest bucket that is left is
read there, whatever `step` says. A bucket that reaches beyond the span is not read: questions/completeness.py says what
that leaves out. The moments are figures in the views' queries, which cutoffs.py keeps up to date: a subquery would be
planned at each use.
"""

from collections.abc import Mapping

from metrics_pipeline.ddl.objects import View
from metrics_pipeline.rollups.cubes import CUBES, METRICS, Cube
from metrics_pipeline.rollups.grains import BUILT, GRAINS, LIVE, UNIT
from metrics_pipeline.rollups.tables import BUILDS, INSTANT
from metrics_pipeline.runtime.timerange import DAY_SECONDS

ARGUMENTS = {"start": INSTANT, "end": INSTANT, "step": "UInt32"}
"""Of each view, with their types."""


def _bound(name: str) -> str:
    return f"{{{name}:{INSTANT}}}"


_START, _END, _STEP = (f"{{{name}:{kind}}}" for name, kind in ARGUMENTS.items())

_LONG = [grain.seconds for grain in BUILT if grain.seconds % DAY_SECONDS == 0]

Cutoffs = Mapping[int, int]
"""Length of buckets -> epoch seconds: buckets that start before have no finer rows any more."""


def _is_replaced(length: str, moment: str, cutoffs: Cutoffs) -> str:
    """Is nothing finer left of a bucket?"""
    if not cutoffs:
        return "0"
    return f"{moment} < transform({length}, {[*cutoffs]}, {[*cutoffs.values()]}, 0)"


def _or_replaced(condition: str, length: str, moment: str, cutoffs: Cutoffs) -> str:
    return f"({condition} OR {_is_replaced(length, moment, cutoffs)})" if cutoffs else condition


def _longest_asked(cutoffs: Cutoffs) -> str:
    """The longest buckets that a question may take: of its step, or of what is left at its start, seconds."""
    if not cutoffs:
        return _STEP
    left = (f"if(toUnixTimestamp({_START}) < {until}, {length}, 0)" for length, until in cutoffs.items())
    return f"greatest({_STEP}, {', '.join(left)})"


def _covered_days(cutoffs: Cutoffs) -> str:
    """Days since the epoch that are read from buckets of a day and more.

    Their finer rows in rollup_builds are passed over: in 13 months there are 67,000, and sorting them would take longer
    than everything else. One query reads rollup_builds twice and sees the same rows: the server shares a snapshot
    (`enable_shared_storage_snapshot_in_query`: our client sets it, for others it is the default; a view can't set it).
    """
    moment = "toUnixTimestamp(minute)"
    return f"""SELECT arrayJoin(range(
        intDiv(toUnixTimestamp(minute), {DAY_SECONDS}), intDiv(toUnixTimestamp(minute) + grain, {DAY_SECONDS})))
    FROM {BUILDS.name}
    WHERE grain IN {_LONG} AND {_or_replaced(f"grain <= {_STEP}", "grain", moment, cutoffs)}
        AND minute >= {_START} AND minute + grain <= {_END}
    GROUP BY grain, minute
    HAVING max(built).1 > 0 AND {_or_replaced("max(built).2 = sum(events)", "grain", moment, cutoffs)}"""


def bucket_selection(cutoffs: Cutoffs) -> str:
    """A query: the buckets to read, each moment of the span in exactly one of them.

    Buckets nest, so in the order of their starts, longest first, one lies within a longer one if anything before it
    reaches beyond its start.
    """
    return f"""SELECT taken, toDateTime(bucket, 'UTC'), build FROM (
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
            newest.1 > 0
            AND {_or_replaced(f"newest.2 = sum(events) AND length <= {_STEP}", "length", "bucket", cutoffs)}
                AND bucket >= toUnixTimestamp({_START}) AND bucket + length <= toUnixTimestamp({_END}) AS is_right
        FROM {BUILDS.name}
        WHERE minute > {_START} - {UNIT.seconds} AND minute < {_END}
            AND grain <= greatest({_longest_asked(cutoffs)}, {UNIT.seconds})
            AND (grain IN {_LONG} OR intDiv(toUnixTimestamp(minute), {DAY_SECONDS}) NOT IN (
                {_covered_days(cutoffs)}))
        GROUP BY bucket, length
        HAVING is_right OR length = {UNIT.seconds} AND NOT {_is_replaced("length", "bucket", cutoffs)}
    )
) WHERE covered_until <= bucket"""


def _select(cube: Cube, cutoffs: Cutoffs) -> str:
    columns = ", ".join((*cube.dimensions, *(m.name for m in METRICS)))
    # Of a longer bucket it is the start itself. Monotonic in the key's `minute`, so that granules without a selected
    # bucket aren't read.
    bucket = f"toStartOfInterval(minute, toIntervalSecond({UNIT.seconds}))"
    tables, lengths = [cube.table(grain) for grain in GRAINS], [grain.seconds for grain in GRAINS]
    # A table of buckets that are too long for the question isn't even planned: that takes longer than reading.
    span = f"toUInt32(toUnixTimestamp({_END}) - toUnixTimestamp({_START}))"
    longest = f"greatest(least({_longest_asked(cutoffs)}, {span}), {LIVE.seconds})"
    return f"""SELECT minute, {columns}
FROM {cube.all_grains}
WHERE minute >= {_START} AND minute < {_END} AND transform(_table, {tables}, {lengths}, 0) <= {longest}
AND (grain, {bucket}, build) IN ({bucket_selection(cutoffs)})"""


def rollup_views(cutoffs: Cutoffs) -> tuple[View, ...]:
    """The views of all cubes, with what retention has left."""
    some = {grain.seconds: 1 for grain in BUILT}
    return tuple(
        View(
            name=cube.name,
            select=_select(cube, cutoffs),
            comment=f"{cube.comment}; arguments: start, end, step (the longest bucket, seconds).",
            template=_select(cube, {}) + _select(cube, some),
        )
        for cube in CUBES
    )


ROLLUP_VIEWS = rollup_views({})


def source_of(cube: Cube, *, prefix: str = "") -> str:
    """The cube in a FROM clause; the query's parameters are `start`, `end` (DateTime, UTC) and `step` (seconds).

    A query over two spans reads the second one with a `prefix` before the names of its bounds.
    """
    return f"{cube.name}(start={_bound(f'{prefix}start')}, end={_bound(f'{prefix}end')}, step={_STEP})"
