"""Repair: units of the live grain made again from raw_events, all cubes at once.

    read rollup_builds  ->  rows of a new build, in every cube  ->  count them  ->  publish  ->  delete the old rows

Readers take the rows of a unit's newest repair, so a repair is seen whole or not at all. rollup_builds is read before
raw_events: an event that lands meanwhile is then counted there on top of what the repair counts, whether the repair's
rows have it or not, so the unit is stale and is repaired again. No order of steps can lose it.

Publishing is one insert. It corrects the events of the unit, and of each coarser bucket that holds it, by what the
repair found, and takes back the builds of these buckets, which may stem from the rows that were wrong.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.insert import delete_rows
from metrics_pipeline.clickhouse.query import query_rows, run_command
from metrics_pipeline.rollups.cubes import CUBES, METRICS, Cube
from metrics_pipeline.rollups.grains import BUILT, LIVE, UNIT, Grain
from metrics_pipeline.rollups.observing import FINAL_SETTINGS, RAW_SPAN, RAW_UNIT, RollupObserver, UnitBuilds
from metrics_pipeline.rollups.tables import BUCKETS, BUILDS, REPAIR_IS_STALE, select_from_events

MAX_UNITS = 144
MAX_EVENTS = 4_000_000
"""Repaired by one statement at most, or one unit: as many states are in memory, below a GB."""
MAX_STALE = 10_000
"""Listed by one look at most, oldest first."""

_INSERT_SETTINGS: Mapping[str, Any] = {
    **FINAL_SETTINGS,
    "max_partitions_per_insert_block": 1_000,
    # Others are waiting for the machine, nobody for a repair.
    "max_threads": 1,
    "max_bytes_before_external_group_by": 1 << 30,
}
_UNIT_OF_ROW = f"toUnixTimestamp(minute) - toUnixTimestamp(minute) % {UNIT.seconds}"
_IN_UNITS = f"""minute >= {{start:DateTime('UTC')}} AND minute < {{end:DateTime('UTC')}}
    AND {_UNIT_OF_ROW} IN {{units:Array(UInt32)}}"""


class RollupRepairer:
    """Repairs units of one database."""

    def __init__(self, client: Client, observer: RollupObserver, now_ns: Callable[[], int]) -> None:
        self._client = client
        self._observer = observer
        self._now_ns = now_ns

    def stale(self, start_seconds: int, end_seconds: int) -> list[int]:
        """Units within [start, end) that were repaired and got events since; oldest first."""
        sql = f"""SELECT toUnixTimestamp(minute) FROM {BUCKETS.name}
            WHERE grain = {UNIT.seconds} AND minute >= {{start:DateTime('UTC')}} AND minute <= {{last:DateTime('UTC')}}
                AND {REPAIR_IS_STALE}
            ORDER BY minute LIMIT {MAX_STALE}"""
        parameters = {"start": start_seconds, "last": end_seconds - UNIT.seconds}
        return [int(row[0]) for row in query_rows(self._client, "looking for stale repairs", sql, parameters)]

    def make(self, units: Sequence[int]) -> dict[int, int]:
        """Make these units (ordered, of one day) again, and publish them; returns unit -> the build's number.

        Units are left out whose cubes came out different, since events landed between them. The former rows are still
        there, for `forget`. Raises RetryableError where the server is away: what was written until then is never read.
        """
        builds = self._observer.builds(units[0], units[-1] + UNIT.seconds)
        build = max(self._now_ns(), 1 + max((builds.repaired.get(unit, (0, 0))[0] for unit in units), default=0))
        for cube in CUBES:
            self._insert(cube, units, build)
        counted = self._count(units, build)
        whole = {unit: n for unit, n in counted.items() if n is not None}
        self._publish(builds, whole, build)
        return dict.fromkeys(whole, build)

    def forget(self, builds_by_unit: Mapping[int, int], before_build: int = 0) -> None:
        """Delete the rows of other builds than those that readers take (unit -> build; of one day), so that sums over
        the tables are right: older ones, and all below `before_build`, of repairs that ended before their time.

        A late row among them is in raw_events, and rollup_builds knows that the repair lacks it.
        """
        by_build: dict[int, list[int]] = defaultdict(list)
        for unit, build in sorted(builds_by_unit.items()):
            by_build[build].append(unit)
        where = f"{_IN_UNITS} AND build != {{but:UInt64}} AND build < {{before:UInt64}}"
        for build, units in by_build.items():
            parameters = {**_span(units), "but": build, "before": max(build, before_build)}
            for cube in CUBES:
                delete_rows(self._client, cube.table(LIVE), where, parameters)

    def _insert(self, cube: Cube, units: Sequence[int], build: int) -> None:
        columns = ("minute", *cube.dimensions, *(m.name for m in METRICS))
        events = f"""raw_events FINAL
            WHERE {RAW_SPAN} AND {RAW_UNIT} IN {{units:Array(UInt32)}}"""
        sql = f"""INSERT INTO {cube.table(LIVE)} (build, {", ".join(columns)})
            SELECT {{build:UInt64}}, * FROM ({select_from_events(cube, events)})"""
        run_command(
            self._client, f"repairing {cube.table(LIVE)}", sql, {**_span(units), "build": build}, _INSERT_SETTINGS
        )

    def _count(self, units: Sequence[int], build: int) -> dict[int, int | None]:
        """Requests of each unit; None where the cubes don't agree."""
        counts = " UNION ALL ".join(
            f"""SELECT '{cube.name}' AS cube, {_UNIT_OF_ROW} AS unit, sum(requests), sum(errors)
            FROM {cube.table(LIVE)} WHERE {_IN_UNITS} AND build = {{build:UInt64}} GROUP BY unit"""
            for cube in CUBES
        )
        rows = query_rows(self._client, "counting a repair", counts, {**_span(units), "build": build})
        found: dict[int, list[tuple[int, int]]] = {unit: [] for unit in units}
        for _, unit, requests, errors in rows:
            found[int(unit)].append((int(requests), int(errors)))
        return {
            unit: (of_cubes[0][0] if of_cubes else 0)
            if len(set(of_cubes)) <= 1 and len(of_cubes) in {0, len(CUBES)}
            else None
            for unit, of_cubes in found.items()
        }

    def _publish(self, builds: UnitBuilds, whole: Mapping[int, int], build: int) -> None:
        if not whole:
            return
        moved: dict[tuple[Grain, int], int] = defaultdict(int)
        for unit, requests in whole.items():
            for grain in BUILT:
                moved[grain, grain.floor(unit)] += requests - builds.events[UNIT].get(unit, 0)
        for place, difference in builds.mismatched.items():
            if place in moved:
                moved[place] -= difference
        years: dict[int, list[list[Any]]] = defaultdict(list)
        # No build counts so few. It is newer than what others are building now from the rows that were wrong.
        taken_back = (self._now_ns(), 0)
        for (grain, bucket), delta in moved.items():
            repaired = (build, whole[bucket]) if grain is UNIT else (0, 0)
            years[_year(bucket)].append([grain.seconds, bucket, delta, taken_back, repaired])
        # The units' year last: until they are published, a repair that ended between two years is done again.
        for year in sorted(years, key=lambda y: y == _year(next(iter(whole)))):
            calling(
                "publishing a repair",
                partial(
                    self._client.insert,
                    BUILDS.name,
                    years[year],
                    column_names=["grain", "minute", "events", "built", "repaired"],
                ),
            )


def _span(units: Sequence[int]) -> dict[str, Any]:
    return {"start": units[0], "end": units[-1] + UNIT.seconds, "units": list(units)}


def _year(bucket: int) -> int:
    return datetime.fromtimestamp(bucket, UTC).year
