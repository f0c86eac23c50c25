"""Reading what raw_events, the cubes and rollup_builds say of each unit, for rollups/drift.py to judge."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.rollups.cubes import CUBES
from metrics_pipeline.rollups.drift import Build, BuiltFigures, Count, CubeRows, Observation, UnitFigures
from metrics_pipeline.rollups.grains import BUILT, GRAINS, LIVE, UNIT, Grain
from metrics_pipeline.rollups.tables import BUCKETS
from metrics_pipeline.runtime.timerange import DAY_SECONDS

FINAL_SETTINGS: Mapping[str, Any] = {
    # Rows with the same key are in the same partition: one that is a single merged part needs no merging.
    "do_not_merge_across_partitions_select_final": 1,
}
RAW_UNIT = f"intDiv(toUnixTimestamp(timestamp), {UNIT.seconds}) * {UNIT.seconds}"
RAW_SPAN = (
    """timestamp >= toDateTime64({start:UInt32}, 3, 'UTC') AND timestamp < toDateTime64({end:UInt32}, 3, 'UTC')"""
)
"""Bounds with milliseconds, as the column has. With bounds in seconds the server's index takes `< x` for `<= x - 1`,
and skips granules that lie within the last second."""
_COARSEST = BUILT[-1]


@dataclass(slots=True)
class UnitBuilds:
    """The rows of rollup_builds in a span at one instant: grain -> bucket -> figures."""

    events: dict[Grain, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    built: dict[Grain, dict[int, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    repaired: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def mismatched(self) -> dict[tuple[Grain, int], int]:
        """Coarser buckets whose events are not the sum of their units': the difference."""
        found = {}
        for grain in BUILT[1:]:
            sums: dict[int, int] = defaultdict(int)
            for unit, events in self.events[UNIT].items():
                sums[grain.floor(unit)] += events
            for bucket in sums.keys() | self.events[grain].keys():
                if difference := self.events[grain].get(bucket, 0) - sums[bucket]:
                    found[grain, bucket] = difference
        return found


class RollupObserver:
    """Reads one database. Each source is read by one query, one after the other."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def observe(self, start_seconds: int, end_seconds: int) -> Observation:
        """All units in [start, end) with rows in any table; some days at most, to be bounded in memory."""
        span = {"start": start_seconds, "end": end_seconds}
        raw = self._raw(span)
        rows = self._rows(span)
        builds = self.builds(start_seconds, end_seconds)
        within = {u for u in builds.events[UNIT] if start_seconds <= u < end_seconds}
        mismatched = _first_units(builds.mismatched, start_seconds, end_seconds, within)
        starts = sorted(within | raw.keys() | rows[LIVE].keys() | mismatched.keys())
        days = {u // DAY_SECONDS for u in raw}
        lacking = {u // DAY_SECONDS for u in starts} - days
        days |= {day for day in lacking if self._has_raw(day * DAY_SECONDS)}
        units = tuple(
            UnitFigures(
                start,
                raw.get(start, Count()),
                _cube_rows(LIVE, rows[LIVE].get(start, {})),
                builds.events[UNIT].get(start, 0),
                *builds.repaired.get(start, (0, 0)),
                is_day_in_raw=start // DAY_SECONDS in days,
                mismatched=tuple(mismatched.get(start, ())),
            )
            for start in starts
        )
        return Observation(units, tuple(_builds(builds, rows, start_seconds, end_seconds)))

    def builds(self, start_seconds: int, end_seconds: int) -> UnitBuilds:
        """All buckets in rollup_builds that overlap [start, end), with all of their units."""
        sql = f"""SELECT grain, toUnixTimestamp(minute), events, built, repaired
            FROM {BUCKETS.name} WHERE minute >= {{start:DateTime('UTC')}} AND minute < {{end:DateTime('UTC')}}"""
        parameters = {"start": _COARSEST.floor(start_seconds), "end": _COARSEST.ceil(end_seconds)}
        grains = {grain.seconds: grain for grain in BUILT}
        builds = UnitBuilds()
        for seconds, bucket, events, built, repaired in self._query(BUCKETS.name, sql, parameters):
            grain = grains.get(int(seconds))
            if grain is None:
                continue
            builds.events[grain][int(bucket)] = int(events)
            builds.built[grain][int(bucket)] = _pair(built)
            if grain is UNIT:
                builds.repaired[int(bucket)] = _pair(repaired)
        return builds

    def _raw(self, span: Mapping[str, int]) -> dict[int, Count]:
        sql = f"""SELECT {RAW_UNIT} AS unit, count(), countIf(status >= 500) FROM raw_events FINAL
            WHERE {RAW_SPAN} GROUP BY unit"""
        return {
            int(u): Count(int(n), int(e)) for u, n, e in self._query("raw_events", sql, span, settings=FINAL_SETTINGS)
        }

    def _has_raw(self, day_seconds: int) -> bool:
        sql = f"SELECT 1 FROM raw_events WHERE {RAW_SPAN} LIMIT 1"
        return bool(self._query("raw_events", sql, {"start": day_seconds, "end": day_seconds + DAY_SECONDS}))

    def _rows(self, span: Mapping[str, int]) -> dict[Grain, dict[int, dict[str, list[Build]]]]:
        """Grain -> bucket (units for the live one) -> table -> builds."""
        parts = [
            f"""SELECT '{cube.table(grain)}' AS name, {grain.seconds} AS grain_seconds,
                toUnixTimestamp(minute) - toUnixTimestamp(minute) % {max(grain.seconds, UNIT.seconds)} AS bucket, build,
                sum(requests), sum(errors)
            FROM {cube.table(grain)}
            WHERE minute > {{start:DateTime('UTC')}} - {grain.seconds} AND minute < {{end:DateTime('UTC')}}
            GROUP BY bucket, build"""
            for cube in CUBES
            for grain in GRAINS
        ]
        grains = {grain.seconds: grain for grain in GRAINS}
        found: dict[Grain, dict[int, dict[str, list[Build]]]] = defaultdict(lambda: defaultdict(dict))
        for name, seconds, bucket, build, requests, errors in self._query(
            "the rollups", " UNION ALL ".join(parts), span
        ):
            of_table = found[grains[int(seconds)]][int(bucket)].setdefault(str(name), [])
            of_table.append(Build(int(build), Count(int(requests), int(errors))))
        return found

    def _query(
        self, table: str, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        return query_rows(self._client, f"observing {table}", sql, parameters, settings or {})


def _pair(value: Any) -> tuple[int, int]:
    """A tuple of the server, which clients read as a tuple or as a mapping."""
    first, second = value.values() if isinstance(value, Mapping) else value
    return int(first), int(second)


def _cube_rows(grain: Grain, found: Mapping[str, list[Build]]) -> tuple[CubeRows, ...]:
    return tuple(
        CubeRows(cube.table(grain), tuple(sorted(found.get(cube.table(grain), ()), key=lambda b: b.number)))
        for cube in CUBES
    )


def _first_units(
    mismatched: Mapping[tuple[Grain, int], int], start_seconds: int, end_seconds: int, units: Collection[int]
) -> dict[int, list[tuple[str, int, int]]]:
    """The first unit within the span -> the coarser buckets that hold it and are mismatched."""
    found: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for (grain, bucket), difference in sorted(mismatched.items(), key=lambda item: (item[0][0].seconds, item[0][1])):
        begin, end = max(bucket, start_seconds), min(bucket + grain.seconds, end_seconds)
        if begin < end:
            first = min((u for u in units if begin <= u < end), default=begin)
            found[first].append((grain.name, bucket, difference))
    return found


def _builds(
    builds: UnitBuilds,
    rows: Mapping[Grain, Mapping[int, Mapping[str, list[Build]]]],
    start_seconds: int,
    end_seconds: int,
) -> Iterator[BuiltFigures]:
    """The builds that readers take, of buckets that overlap the span."""
    for grain in BUILT:
        for bucket, (number, requests) in sorted(builds.built[grain].items()):
            is_current = number > 0 and requests == builds.events[grain][bucket]
            if is_current and bucket < end_seconds and bucket + grain.seconds > start_seconds:
                yield BuiltFigures(
                    grain.name, bucket, number, requests, _cube_rows(grain, rows.get(grain, {}).get(bucket, {}))
                )
