"""What tests of rollups do: put events into raw_events, and hold every answer against it."""

from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.rollups.cubes import CUBES
from metrics_pipeline.clickhouse.rollups.views import source_of
from metrics_pipeline.core.grains import BUILT, LIVE

DAY = 86_400
HOUR = 3_600
UNIT = 600
NOON = int(datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0).timestamp()) - 2 * DAY
"""Two days ago."""

_EVENTS = """INSERT INTO raw_events
    (event_id, timestamp, service, endpoint, method, status, latency_ms, customer_id, tier, region)
    SELECT generateUUIDv4(),
        fromUnixTimestamp64Milli(toInt64({start:UInt32}) * 1000 + number * {step:UInt32} * 1000
            + rand(1) % ({seconds:UInt32} * 1000)),
        concat('service-', toString(rand(2) % 3)), concat('/', toString(rand(3) % 3)), if(rand(4) % 2, 'GET', 'POST'),
        if(rand(5) % 10 = 0, 503, 200), 1 + rand(6) % 1000, 'c', if(rand(7) % 2, 'free', 'pro'),
        if(rand(8) % 2, 'eu', 'us')
    FROM numbers({count:UInt32})"""


def insert(client: Client, start_seconds: int, count: int, seconds: int = UNIT) -> None:
    """Random events within [start, start + seconds), as an insert of the drain has them: one block."""
    client.command(_EVENTS, parameters={"start": start_seconds, "seconds": seconds, "count": count, "step": 0})


def insert_evenly(client: Client, start_seconds: int, *, units: int, each: int) -> None:
    """So many events in each unit from `start` on."""
    parameters = {"start": start_seconds, "seconds": UNIT, "count": units * each, "units": units}
    client.command(_EVENTS.replace("number * {step:UInt32}", f"number % {{units:UInt32}} * {UNIT}"), parameters)


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
