"""The tables of rollups, the views that feed the finest grain, and rollup_builds, which says what was built."""

from metrics_pipeline.ddl.change import Work
from metrics_pipeline.ddl.objects import Column, MaterializedView, Table, Union, View
from metrics_pipeline.rollups.cubes import CUBES, METRICS, Cube
from metrics_pipeline.rollups.grains import BUILT, GRAINS, LIVE, UNIT, Grain

INSTANT = "DateTime('UTC')"
_INDEX_GRANULARITY = 256
"""A question reads few rows, each with a state of some 500 bytes: large granules would make it read mostly others'."""
BUILD = "Tuple(build UInt64, requests UInt64)"

BUILDS = Table(
    name="rollup_builds",
    engine="AggregatingMergeTree",
    partition_by="toYear(minute)",
    order_by=("grain", "minute"),
    columns=(
        Column("grain", "UInt32", comment="Length of the bucket, seconds"),
        Column("minute", INSTANT, "Delta, ZSTD(1)", "First minute of the bucket"),
        Column(
            "events", "SimpleAggregateFunction(sum, Int64)", "T64, ZSTD(1)", "Events that raw_events was given for it"
        ),
        Column("built", f"SimpleAggregateFunction(max, {BUILD})", comment="Newest build, and what it counts"),
        Column(
            "repaired",
            f"SimpleAggregateFunction(max, {BUILD})",
            comment=f"Newest repair of {LIVE.name}, in rows of {UNIT.name}",
        ),
    ),
    comment="Which build of each bucket readers take; one that misses events is stale, and finer rows are read. "
    f"Buckets of {', '.join(grain.name for grain in BUILT)}.",
    work_before_comment=Work.COUNT_BUCKETS,
)

_REPAIRS = f"FROM {BUILDS.name} WHERE grain = {UNIT.seconds} GROUP BY minute HAVING max(repaired).1 > 0"
_UNIT_OF_ROW = f"toStartOfInterval(minute, INTERVAL {UNIT.seconds} SECOND)"
CURRENT_ROWS = f"""(build = 0 AND {_UNIT_OF_ROW} NOT IN (SELECT minute {_REPAIRS})
    OR build > 0 AND ({_UNIT_OF_ROW}, build) IN (SELECT minute, max(repaired).1 {_REPAIRS}))"""
"""A condition on rows of the live grain: as they came, or of their unit's newest repair, so those that readers take."""

BUILDS_VIEW = MaterializedView(
    name=f"{BUILDS.name}_view",
    target=BUILDS.name,
    select=f"""SELECT
    arrayJoin({[g.seconds for g in BUILT]})::UInt32 AS grain,
    toDateTime(unit - unit % grain, 'UTC') AS minute,
    sum(events)::Int64 AS events
FROM (
    SELECT intDiv(toUnixTimestamp(timestamp), {UNIT.seconds}) * {UNIT.seconds} AS unit, count() AS events
    FROM raw_events
    GROUP BY unit
)
GROUP BY grain, minute""",
    comment=f"Counts for {BUILDS.name} the events of each insert into raw_events.",
)


def table_of(cube: Cube, grain: Grain) -> Table:
    """The table that holds the cube at that grain."""
    places = (
        Column("grain", "UInt32", "T64, ZSTD(1)", "Length of the bucket, seconds", str(grain.seconds)),
        Column("minute", INSTANT, "Delta, ZSTD(1)", "First minute of the bucket"),
        Column("build", "UInt64", "T64, ZSTD(1)", f"0: as events came; else see {BUILDS.name}"),
    )
    dimensions = tuple(Column(name, "LowCardinality(String)") for name in cube.dimensions)
    return Table(
        name=cube.table(grain),
        engine="AggregatingMergeTree",
        partition_by=f"toStartOfInterval(minute, INTERVAL {grain.partition_days} DAY)",
        order_by=(*cube.key, "build", "grain", *cube.added),
        primary_key=cube.key,
        columns=(*places, *dimensions, *(Column(m.name, m.type, m.codec, m.comment) for m in METRICS)),
        comment=f"{cube.comment} of {grain.name}.",
        index_granularity=_INDEX_GRANULARITY,
        is_made_of_events=True,
    )


def select_from_events(cube: Cube, source: str) -> str:
    """Rows of the live grain, made of raw events; all columns but `grain` and `build`."""
    dimensions = ", ".join(cube.dimensions)
    metrics = ",\n    ".join(f"{m.from_events} AS {m.name}" for m in METRICS)
    return f"""SELECT
    toStartOfMinute(timestamp) AS minute, {dimensions},
    {metrics}
FROM {source}
GROUP BY minute, {dimensions}"""


def _feed(cube: Cube) -> MaterializedView:
    target = cube.table(LIVE)
    return MaterializedView(
        name=f"{target}_view",
        target=target,
        select=select_from_events(cube, "raw_events"),
        comment=f"Feeds {target} from each insert into raw_events.",
    )


def _all_grains(cube: Cube) -> Union:
    tables = tuple(table_of(cube, grain) for grain in GRAINS)
    return Union(cube.all_grains, tables, f"{cube.comment}, all grains; read it through the view {cube.name}.")


ROLLUP_1M = table_of(CUBES[0], LIVE)
ROLLUP_TABLES = tuple(table_of(cube, grain) for cube in CUBES for grain in GRAINS)
ROLLUP_UNIONS = tuple(_all_grains(cube) for cube in CUBES)
ROLLUP_FEEDS = (*(_feed(cube) for cube in CUBES), BUILDS_VIEW)


BUCKETS = View(
    "rollup_buckets",
    f"""SELECT grain, minute, sum(events) AS events, max(built) AS built, max(repaired) AS repaired
FROM {BUILDS.name} GROUP BY grain, minute""",
    "Buckets of rollups: events that there are, newest build, newest repair; of a cluster, one row for each shard.",
)


IS_STALE = "built.2 != events"
"""Of rows of rollup_buckets with events: there is no build, or one that doesn't count them all."""
REPAIR_IS_STALE = "(repaired.1 > 0 AND repaired.2 != events)"
"""Of its rows of units: they got events since their repair."""
