"""Building the coarser grains: each from finer rows, a range of buckets at a time.

    rows of the new build, in every cube  ->  count them  ->  publish: one row per bucket in rollup_builds

Readers take the newest published build of a bucket if it counts every event, so a build is seen whole or not at all, a
repeated or interrupted one changes no answer, and an event that arrives meanwhile makes the bucket stale, never wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.insert import delete_rows
from metrics_pipeline.clickhouse.query import query_rows, run_command
from metrics_pipeline.rollups.cubes import CUBES, METRICS, Cube
from metrics_pipeline.rollups.grains import GRAINS, Grain
from metrics_pipeline.rollups.tables import BUCKETS, BUILDS, IS_STALE
from metrics_pipeline.rollups.views import source_of

MAX_BUCKETS = 36
"""Built by one statement at most: some 100,000 states of a large company, a fraction of a GB."""
MAX_LISTED = 100_000
"""Listed by one look at most, oldest first."""
SUPERSEDED_SECONDS = 3_600
"""Rows of a build that a newer one replaced, or that was not published, are kept this long: far longer than a query
that began before, or a build of one chunk, takes."""

_IN_SPAN = "minute >= {start:DateTime('UTC')} AND minute < {end:DateTime('UTC')}"

_INSERT_SETTINGS = {"max_partitions_per_insert_block": 1_000, "max_threads": 1}
"""One thread: nobody waits for a build, since readers take finer rows meanwhile."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket by its start, epoch seconds, with the events that raw_events was given for it."""

    start_seconds: int
    events: int


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did, in buckets. A bucket is in flux if its events were not all counted: some arrived meanwhile."""

    published: int = 0
    in_flux: int = 0
    requests: int = 0

    def __add__(self, other: "Built") -> "Built":
        return Built(self.published + other.published, self.in_flux + other.in_flux, self.requests + other.requests)


class RollupBuilder:
    """Builds buckets of one database's rollups. Any number may work at once."""

    def __init__(self, client: Client, now_ns: Callable[[], int]) -> None:
        self._client = client
        self._now_ns = now_ns

    def buckets(self, grain: Grain, start_seconds: int, end_seconds: int, *, only_stale: bool) -> list[Bucket]:
        """Buckets with events that lie within [start, end), oldest first.

        With `only_stale` those that have no build, or one that doesn't count all events.
        """
        stale = f"AND {IS_STALE}" if only_stale else ""
        sql = f"""SELECT toUnixTimestamp(minute), events FROM {BUCKETS.name}
            WHERE grain = {{grain:UInt32}} AND minute >= {{start:DateTime('UTC')}}
                AND minute <= {{last:DateTime('UTC')}} AND events > 0 {stale}
            ORDER BY minute LIMIT {MAX_LISTED}"""
        parameters = {"grain": grain.seconds, "start": start_seconds, "last": end_seconds - grain.seconds}
        return [Bucket(*map(int, row)) for row in query_rows(self._client, "looking for buckets", sql, parameters)]

    def build(self, grain: Grain, buckets: Sequence[Bucket]) -> Iterator[Built]:
        """Build these buckets, ordered by start; yields after each chunk of them, for progress.

        Raises RetryableError where the server is away; what was written until then is never read.
        """
        for chunk in _chunks(buckets, grain):
            # A number per chunk: rows whose number is old are taken for those of a build that broke off.
            build = self._now_ns()
            for cube in CUBES:
                self._insert(cube, grain, chunk, build)
            counted = self._count(grain, chunk, build)
            whole = {
                b.start_seconds: b.events for b in chunk if counted.get(b.start_seconds) == [b.events] * len(CUBES)
            }
            self._publish(grain, whole, build)
            yield Built(len(whole), len(chunk) - len(whole), sum(whole.values()))

    def prune(self, grain: Grain, start_seconds: int, end_seconds: int) -> None:
        """Delete rows in buckets of [start, end) that no reader takes: of builds that were replaced or broke off.

        Where the newest build is young, nothing is deleted: a query may still read what it replaced.
        """
        newest = f"""SELECT minute, max(built).1 AS newest FROM {BUILDS.name}
            WHERE grain = {{grain:UInt32}} AND {_IN_SPAN} GROUP BY minute"""
        where = f"""{_IN_SPAN} AND build < {{before:UInt64}} AND (minute, build) NOT IN ({newest})
            AND minute NOT IN (SELECT minute FROM ({newest}) WHERE newest >= {{before:UInt64}})"""
        parameters = {
            "grain": grain.seconds,
            "start": start_seconds,
            "end": end_seconds,
            "before": self._now_ns() - SUPERSEDED_SECONDS * 1_000_000_000,
        }
        for cube in CUBES:
            delete_rows(self._client, cube.table(grain), where, parameters)

    def _insert(self, cube: Cube, grain: Grain, chunk: Sequence[Bucket], build: int) -> None:
        dimensions = ", ".join(cube.dimensions)
        sql = f"""INSERT INTO {cube.table(grain)} (minute, build, {dimensions}, {", ".join(m.name for m in METRICS)})
            SELECT toDateTime({_start_of("rows.minute", grain)}, 'UTC') AS bucket, {{build:UInt64}}, {dimensions},
                {", ".join(m.merged for m in METRICS)}
            FROM {source_of(cube)} AS rows
            WHERE {_start_of("rows.minute", grain)} IN {{buckets:Array(UInt32)}}
            GROUP BY bucket, {dimensions}"""
        parameters = {
            **_span(grain, chunk),
            "step": GRAINS[GRAINS.index(grain) - 1].seconds,
            "build": build,
            "buckets": [b.start_seconds for b in chunk],
        }
        run_command(self._client, f"building {cube.table(grain)}", sql, parameters, _INSERT_SETTINGS)

    def _count(self, grain: Grain, chunk: Sequence[Bucket], build: int) -> dict[int, list[int]]:
        """Requests of each bucket, a figure for each cube that has rows of it."""
        counts = " UNION ALL ".join(
            f"""SELECT toUnixTimestamp(minute) AS start, sum(requests) AS n FROM {cube.table(grain)}
            WHERE {_IN_SPAN} AND build = {{build:UInt64}}
            GROUP BY start"""
            for cube in CUBES
        )
        rows = query_rows(self._client, "counting a build", counts, {**_span(grain, chunk), "build": build})
        found: dict[int, list[int]] = {}
        for start, requests in rows:
            found.setdefault(int(start), []).append(int(requests))
        return found

    def _publish(self, grain: Grain, whole: Mapping[int, int], build: int) -> None:
        if not whole:
            return
        rows = [[grain.seconds, start, (build, requests)] for start, requests in whole.items()]
        calling(
            "publishing a build",
            lambda: self._client.insert(BUILDS.name, rows, column_names=["grain", "minute", "built"]),
        )


def _start_of(column: str, grain: Grain) -> str:
    return f"toUnixTimestamp({column}) - toUnixTimestamp({column}) % {grain.seconds}"


def _span(grain: Grain, chunk: Sequence[Bucket]) -> dict[str, Any]:
    return {"start": chunk[0].start_seconds, "end": chunk[-1].start_seconds + grain.seconds}


def _chunks(buckets: Sequence[Bucket], grain: Grain) -> Iterator[Sequence[Bucket]]:
    """Neighbours together, so that one statement reads little that it doesn't build."""
    begin = 0
    for at in range(1, len(buckets) + 1):
        is_end = at == len(buckets)
        if (
            is_end
            or at - begin == MAX_BUCKETS
            or buckets[at].start_seconds > buckets[at - 1].start_seconds + grain.seconds
        ):
            yield buckets[begin:at]
            begin = at
