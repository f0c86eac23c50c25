"""What tests of rollups do: put events into raw_events, and hold every answer against it."""

from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from metrics_pipeline.rollups.cubes import CUBES
from metrics_pipeline.rollups.grains import BUILT, LIVE
from metrics_pipeline.rollups.views import source_of

DAY = 86_400
HOUR = 3_600
UNIT = 600
NOON = int(datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0).timestamp()) - 2 * DAY
"""Two days ago."""

_EVENTS = """INSERT INTO raw_events
    (event_id, timestamp, service, endpoint, method, status, latency_ms, customer_id, tier, region)
    WITH (n -> cityHash64(number, n, {seconds:UInt32}, {count:UInt32})) AS random
    SELECT generateUUIDv4(),
        fromUnixTimestamp64Milli(toInt64({start:UInt32} + number % {units:UInt32} * {seconds:UInt32}) * 1000
            + random(1) % ({seconds:UInt32} * 1000)),
        concat('service-', toString(random(2) % 3)), concat('/', toString(random(3) % 3)),
        if(random(4) % 2, 'GET', 'POST'), if(random(5) % 10 = 0, 503, 200), 1 + random(6) % 1000, 'c',
        if(random(7) % 2, 'free', 'pro'), if(random(8) % 2, 'eu', 'us')
    FROM numbers({count:UInt32})"""
"""The same figures whenever it runs; only identities are new each time, so that no event repeats another one."""


def insert(client: Client, start_seconds: int, count: int, seconds: int = UNIT) -> None:
    """Events at random within [start, start + seconds), as an insert of the drain has them: one block."""
    client.command(_EVENTS, parameters={"start": start_seconds, "seconds": seconds, "count": count, "units": 1})


def insert_evenly(client: Client, start_seconds: int, *, units: int, each: int) -> None:
    """So many events in each unit from `start` on."""
    parameters = {"start": start_seconds, "seconds": UNIT, "count": units * each, "units": units}
    client.command(_EVENTS, parameters)


def assert_answers_are_raws(client: Client, start_seconds: int, end_seconds: int) -> None:
    """Every cube, from its finest and from its coarsest rows, says what raw_events says; sums of latencies rounded."""
    span = {"start": start_seconds, "end": end_seconds}
    for cube in CUBES:
        names = ", ".join(cube.dimensions)
        raw = client.query(
            f"""SELECT {names}, count(), countIf(status >= 500), round(sum(latency_ms)), min(latency_ms),
                max(latency_ms) FROM raw_events FINAL
            WHERE timestamp >= toDateTime64({{start:UInt32}}, 3, 'UTC')
                AND timestamp < toDateTime64({{end:UInt32}}, 3, 'UTC')
            GROUP BY {names} ORDER BY {names}""",
            parameters=span,
        ).result_rows
        for grain in (LIVE, BUILT[-1]):
            answer = client.query(
                f"""SELECT {names}, sum(requests), sum(errors), round(sum(latency_sum_ms)), min(latency_min_ms),
                    max(latency_max_ms) FROM {source_of(cube)} GROUP BY {names} ORDER BY {names}""",
                parameters={**span, "step": grain.seconds},
            ).result_rows
            assert answer == raw, (cube.name, grain.name)


def number(client: Client, sql: str) -> int:
    return int(client.query(sql).result_rows[0][0])
