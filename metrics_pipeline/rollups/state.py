"""What is built, by rollup_builds, and what the tables take on disk."""

from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ddl.storage_views import PARTS
from metrics_pipeline.rollups.cubes import CUBES
from metrics_pipeline.rollups.grains import BUILT, GRAINS, LIVE, UNIT, Grain
from metrics_pipeline.rollups.rebuilds import Stale
from metrics_pipeline.rollups.retained_from_store import CUTOFFS
from metrics_pipeline.rollups.tables import BUCKETS, REPAIR_IS_STALE

_BUCKETS = f"""SELECT grain AS length, toUnixTimestamp(minute) AS start, events AS n, built AS newest,
        repaired AS repair, start + length <= {{closed:UInt32}} AS is_closed,
        newest.1 > 0 AND newest.2 = n AS is_right, newest.2 > 0 AND NOT is_right AS is_stale,
        {REPAIR_IS_STALE} AS is_stale_repair
    FROM {BUCKETS.name} WHERE n > 0 OR is_stale_repair"""
"""One row per bucket with events, and shard. A build that a repair took back counts nothing, and is as good as none."""


@dataclass(frozen=True, slots=True)
class GrainState:
    """Closed buckets with events of one grain, and the size of its tables. Of the live grain: repairs, in units."""

    grain: str
    built: int
    stale: int
    not_built: int
    oldest_stale_seconds: int | None
    rows: int
    bytes_on_disk: int


def read_state(client: Client, closed_until: int) -> tuple[GrainState, ...]:
    """Per grain, finest first. Buckets that end later than `closed_until` don't count."""
    sql = f"""SELECT length, countIf(is_right), countIf(is_stale), countIf(NOT is_right AND NOT is_stale),
            minIf(start, is_stale), countIf(length = {UNIT.seconds} AND repair.1 > 0 AND NOT is_stale_repair),
            countIf(length = {UNIT.seconds} AND is_stale_repair),
            minIf(start, length = {UNIT.seconds} AND is_stale_repair)
        FROM ({_BUCKETS}) WHERE is_closed GROUP BY length"""
    rows = query_rows(client, "reading rollup_builds", sql, {"closed": closed_until})
    of_grain = {int(row[0]): [int(n) for n in row[1:]] for row in rows}
    sizes = _sizes(client)
    _, _, _, _, repaired, stale, oldest = of_grain.get(UNIT.seconds, [0] * 7)
    states = [GrainState(LIVE.name, repaired, stale, 0, oldest or None, *sizes[LIVE])]
    for grain in BUILT:
        built, stale, none, oldest, *_ = of_grain.get(grain.seconds, [0] * 7)
        states.append(GrainState(grain.name, built, stale, none, oldest or None, *sizes[grain]))
    return tuple(states)


def read_stale(client: Client, closed_until: int, limit: int) -> list[Stale]:
    """What is to be built or repaired, `limit` at most, oldest first; nothing that lacks the rows to be built from."""
    sql = f"""SELECT start, length, is_right, is_stale_repair FROM ({_BUCKETS})
        WHERE is_closed AND (NOT is_right OR is_stale_repair) AND start >= {CUTOFFS}[length]
        ORDER BY start, length LIMIT {{limit:UInt32}}"""
    rows = query_rows(client, "looking for stale rollups", sql, {"closed": closed_until, "limit": limit})
    names = {grain.seconds: grain.name for grain in BUILT}
    found = []
    for start, length, is_right, is_stale_repair in rows:
        if is_stale_repair and int(length) == UNIT.seconds:
            found.append(Stale(int(start), LIVE.name))
        if not is_right and int(length) in names:
            found.append(Stale(int(start), names[int(length)]))
    return found


def _sizes(client: Client) -> dict[Grain, tuple[int, int]]:
    """Rows and bytes of all cubes' tables, by grain."""
    sql = f"""SELECT table, sum(rows), sum(bytes_on_disk) FROM {PARTS.name}
        WHERE table IN {{tables:Array(String)}} GROUP BY table"""
    tables = {cube.table(grain): grain for cube in CUBES for grain in GRAINS}
    rows = query_rows(client, "reading the sizes of rollups", sql, {"tables": list(tables)})
    sizes = dict.fromkeys(GRAINS, (0, 0))
    for table, count, size in rows:
        grain = tables[str(table)]
        sizes[grain] = (sizes[grain][0] + int(count), sizes[grain][1] + int(size))
    return sizes
