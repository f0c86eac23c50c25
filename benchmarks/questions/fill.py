"""Backfills 13 months of rollups, made inside the server: every state of latencies drawn for it alone.

What is stored, back from the end of the backfill:

    1m     25 hours                        10m    7 days
    1h     31 days                         1d, 7d 13 months (396 days)

and, around the starts of 7 days, 30 days and 13 months, the finer rows that the ends of a range need. rollup_builds
has every bucket of every grain of the 13 months, with builds that count all of its events, so that readers select as
many buckets as they would. Filling again adds what time has passed since.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client

from benchmarks.questions.ledger import fill_ledger
from benchmarks.questions.raw import fill_raw
from benchmarks.questions.series import EVENTS_PER_SECOND, make_series
from benchmarks.questions.server import client_of, filled_until, note_filled, running
from metrics_pipeline.rollups.cubes import CUBES, LATENCY_STATE, Cube
from metrics_pipeline.rollups.grains import BUILT, GRAINS, LIVE, UNIT, Grain
from metrics_pipeline.rollups.tables import BUILDS

HOUR, DAY = 3_600, 86_400
MONTHS_13 = 396 * DAY
RANGES_SECONDS = {
    "1 h": HOUR,
    "6 h": 6 * HOUR,
    "24 h": DAY,
    "7 d": 7 * DAY,
    "30 d": 30 * DAY,
    "13 months": 395 * DAY,
}
_SPANS = {"1m": 25 * HOUR, "10m": 7 * DAY + 2 * HOUR, "1h": 31 * DAY, "1d": MONTHS_13, "7d": MONTHS_13}
_LEDGER_DAYS = 8
_STATES_PER_INSERT = 150_000
_WORKERS = 2

_MOST_VALUES = {"1m": 400, "10m": 600, "1h": 800, "1d": 1_000, "7d": 1_500}
_MOST_VALUES_OF_GROUPS = 1_000
"""Latencies drawn for a state at most; fewer where a series has fewer requests in a bucket."""

SERIES_TABLE = """CREATE TABLE IF NOT EXISTS bench_series (cube String, service String, endpoint String, method String,
    tier String, region String, share Float64, log_median Float64, sigma Float64)
    ENGINE = MergeTree ORDER BY (cube, service, endpoint, method, region, tier)"""

_RATE_FACTOR = "(1 + 0.3 * sin({seconds} * 2 * pi() / 86400))"

_ROWS = """INSERT INTO {table} (minute, build, {dimensions}, requests, errors, status_1xx, status_2xx, status_3xx,
    status_4xx, satisfied, tolerating, latency_sum_ms, latency_min_ms, latency_max_ms, latency_ms)
SELECT toDateTime(bucket, 'UTC'), {{build:UInt64}}, {dimensions},
    toUInt64(greatest(1, round(expected * (0.9 + 0.2 * randCanonical(1))))) AS requests,
    toUInt64(requests * 0.006 * randCanonical(2)) AS errors, 0,
    requests - errors - status_3xx - status_4xx AS status_2xx,
    toUInt64(requests * 0.025 * randCanonical(3)) AS status_3xx,
    toUInt64(requests * 0.02 * randCanonical(4)) AS status_4xx,
    toUInt64((requests - errors) * arrayCount(x -> x <= 500, latencies) / length(latencies)) AS satisfied,
    toUInt64((requests - errors) * arrayCount(x -> x > 500 AND x <= 2000, latencies) / length(latencies)),
    requests * arrayAvg(latencies), arrayMin(latencies), arrayMax(latencies),
    arrayReduce('{state}', latencies)
FROM (
    SELECT *, arrayMap(i -> exp(centre + sigma * randNormal(0, 1, i)) * if(rand(i) % 2000 = 0, 12, 1),
        range(toUInt32(least({{most:UInt32}}, greatest(1, expected))))) AS latencies
    FROM (
        SELECT *, bucket, share * {{rate:Float64}} * {{length:UInt32}} * {factor} AS expected,
            log_median + 0.2 * sin(bucket / 50000 + cityHash64(service, endpoint, tier) % 7) AS centre
        FROM bench_series ARRAY JOIN range({{start:UInt32}}, {{end:UInt32}}, {{length:UInt32}}) AS bucket
        WHERE cube = {{cube:String}}
    )
)
SETTINGS max_block_size = 1024, min_insert_block_size_rows = 1000000, min_insert_block_size_bytes = 2000000000,
    max_threads = 1, max_insert_threads = 1, optimize_on_insert = 0, max_partitions_per_insert_block = 1000"""

_EVENTS = f"""INSERT INTO {BUILDS.name} (grain, minute, events)
SELECT arrayJoin({[g.seconds for g in BUILT]})::UInt32 AS grain, toDateTime(unit - unit % grain, 'UTC') AS minute,
    sum(n)::Int64
FROM (
    SELECT m - m % {UNIT.seconds} AS unit,
        sum(toUInt64({{rate:Float64}} * 60 * {_RATE_FACTOR.format(seconds="m")})) AS n
    FROM (SELECT arrayJoin(range({{start:UInt32}}, {{end:UInt32}}, 60)) AS m) GROUP BY unit
) GROUP BY grain, minute"""

_PUBLISH = f"""INSERT INTO {BUILDS.name} (grain, minute, built)
SELECT grain, minute, ({{build:UInt64}}, toUInt64(sum(events))) FROM {BUILDS.name}
WHERE toUnixTimestamp(minute) + grain <= {{end:UInt32}} AND toUnixTimestamp(minute) >= {{first:UInt32}}
GROUP BY grain, minute HAVING max(built).1 = 0"""


@dataclass(frozen=True, slots=True)
class Window:
    """Buckets of a grain to make, epoch seconds."""

    grain: Grain
    start_seconds: int
    end_seconds: int


def windows(end_seconds: int, done_until: int | None) -> Iterator[Window]:
    """What to make for a backfill that ends at `end_seconds`; the rest since `done_until` for one that is there."""
    for grain in GRAINS:
        end = grain.floor(end_seconds)
        if done_until is not None:
            yield Window(grain, max(grain.floor(done_until), end - _SPANS[grain.name]), end)
            continue
        yield Window(grain, grain.floor(end - _SPANS[grain.name]), end)
        for seconds in RANGES_SECONDS.values():
            cutoff = end_seconds - seconds
            if cutoff < end_seconds - _SPANS[grain.name] and grain.seconds < DAY:
                wide = {"1m": 1_200, "10m": 2 * HOUR, "1h": DAY + 2 * HOUR}[grain.name]
                yield Window(grain, grain.floor(cutoff - UNIT.seconds), grain.floor(cutoff + wide + 2 * HOUR))


def fill_rollups(client: Client, end_seconds: int, done_until: int | None) -> None:
    """Everything up to `end_seconds`, whole minutes; builds are published when their rows are there."""
    build = time.time_ns()
    _store_series(client)
    start = done_until if done_until is not None else LIVE.floor(end_seconds - MONTHS_13)
    client.command(_EVENTS, parameters={"rate": EVENTS_PER_SECOND, "start": start, "end": end_seconds})
    for window in windows(end_seconds, done_until):
        for cube in CUBES:
            before = time.monotonic()
            _make(client, cube, window, build)
            hours = (window.end_seconds - window.start_seconds) / HOUR
            print(f"{cube.table(window.grain):22} {hours:8.1f} h in {time.monotonic() - before:5.1f} s", flush=True)
    client.command(_PUBLISH, parameters={"build": build, "end": end_seconds, "first": end_seconds - MONTHS_13})


def _store_series(client: Client) -> None:
    client.command(SERIES_TABLE)
    client.command("TRUNCATE TABLE bench_series")
    names = ("service", "endpoint", "method", "tier", "region")
    rows = [
        [s.cube, *(s.dimensions.get(name, "") for name in names), s.share, s.log_median, s.sigma] for s in make_series()
    ]
    client.insert("bench_series", rows, column_names=["cube", *names, "share", "log_median", "sigma"])


def _make(client: Client, cube: Cube, window: Window, build: int) -> None:
    grain = window.grain
    series = client.query("SELECT count() FROM bench_series WHERE cube = {c:String}", {"c": cube.name}).result_rows[0][
        0
    ]
    step = max(1, _STATES_PER_INSERT // series) * grain.seconds
    sql = _ROWS.format(
        table=cube.table(grain),
        dimensions=", ".join(cube.dimensions),
        state=LATENCY_STATE.replace("quantilesDD(", "quantilesDDState(", 1),
        factor=_RATE_FACTOR.format(seconds="bucket") if grain.seconds < DAY else "1",
    )
    is_group = "service" not in cube.dimensions
    parameters = {
        "cube": cube.name,
        "build": 0 if grain is LIVE else build,
        "length": grain.seconds,
        "rate": float(EVENTS_PER_SECOND),
        "most": _MOST_VALUES_OF_GROUPS if is_group else _MOST_VALUES[grain.name],
    }

    def insert(start: int) -> None:
        span = {"start": start, "end": min(start + step, window.end_seconds)}
        client.command(sql, parameters={**parameters, **span})

    with ThreadPoolExecutor(_WORKERS) as workers:
        list(workers.map(insert, range(window.start_seconds, window.end_seconds, step)))


def describe(client: Client) -> list[tuple[str, int, int, int]]:
    """(table, rows, parts, bytes on disk) of what is stored, and print it."""
    sql = """SELECT table, sum(rows), count(), sum(bytes_on_disk) FROM system.parts
        WHERE active AND database = currentDatabase() AND table NOT LIKE 'bench%' GROUP BY table ORDER BY table"""
    stored = [(str(t), int(r), int(p), int(b)) for t, r, p, b in client.query(sql).result_rows]
    for table, rows, parts, size_bytes in stored:
        print(
            f"{table:22} {rows:>12,} rows {parts:4} parts {size_bytes / 1e6:8,.0f} MB  {size_bytes / rows:6.0f} B/row"
        )
    print(f"{'all':22} {sum(b for *_, b in stored) / 1e9:.2f} GB")
    return stored


def fill(home: Path, *, raw_hours: float, raw_rate: int) -> None:
    """Fill the home's server, or bring it up to now."""
    with running(home) as server, client_of(server) as client:
        before, done_until = time.monotonic(), filled_until(home)
        end_seconds = LIVE.floor(int(time.time()))
        fill_rollups(client, end_seconds, done_until)
        note_filled(home, end_seconds)
        print(f"rollups filled in {time.monotonic() - before:.0f} s", flush=True)
        if done_until is None:
            fill_ledger(client, end_seconds, _LEDGER_DAYS)
        if done_until is None and raw_hours:
            fill_raw(client, end_seconds, raw_hours, raw_rate)
        print(f"filled in {time.monotonic() - before:.0f} s")
        describe(client)
