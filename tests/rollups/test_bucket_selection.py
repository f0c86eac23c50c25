"""Covers of random spans over buckets of which some are built, some stale: whatever is read, the answer is raw's."""

import time
from random import Random

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.rollups.building import RollupBuilder
from metrics_pipeline.rollups.cubes import CUBES
from metrics_pipeline.rollups.grains import BUILT, GRAINS
from metrics_pipeline.rollups.views import source_of
from metrics_pipeline.settings import Settings

START = 1_790_208_000 - 1_790_208_000 % 604_800
DAYS = 16
MINUTES = DAYS * 1_440
SPANS = 40

_EVENTS = """INSERT INTO raw_events (event_id, timestamp, service, endpoint, method, status, latency_ms, tier, region)
    WITH (n -> cityHash64(number, n, {count:UInt32})) AS random
    SELECT generateUUIDv4(), toDateTime64({start:UInt32} + random(1) % ({days:UInt32} * 86400), 3, 'UTC'),
        concat('service-', toString(random(2) % 3)), concat('/', toString(random(3) % 3)), 'GET', 200,
        1 + random(4) % 1000, if(random(5) % 2, 'free', 'pro'), if(random(6) % 2, 'eu', 'us')
    FROM numbers({count:UInt32})
    SETTINGS max_partitions_per_insert_block = 1000"""


def test_answers_do_not_depend_on_what_is_built_or_stale(settings: Settings) -> None:
    rng = Random(5)
    with connect(settings) as client:
        _insert(client, 20_000)
        builder = RollupBuilder(client, time.time_ns)
        for grain in BUILT:
            buckets = builder.buckets(grain, START, START + DAYS * 86_400, only_stale=True)
            chosen = sorted(rng.sample(buckets, len(buckets) * 4 // 5), key=lambda b: b.start_seconds)
            # Some of the finest do: each run of neighbours is a statement per cube.
            for _ in builder.build(grain, chosen[:60]):
                pass
        assert _differences(client, rng) == []
        # Events that come late make buckets stale; few, so that most of them stay right.
        _insert(client, 6)
        assert _differences(client, rng) == []


def _insert(client: Client, count: int) -> None:
    client.command(_EVENTS, parameters={"start": START, "days": DAYS, "count": count})


def _differences(client: Client, rng: Random) -> list[tuple[str, int, int, int]]:
    """(cube, step, start, end) of the random spans over which the cube doesn't say what raw_events says."""
    wrong = []
    for _ in range(SPANS):
        first, last = sorted(rng.sample(range(-60, MINUTES + 60), 2))
        if rng.random() < 0.3:
            first, last = first // 1_440 * 1_440, -(-last // 1_440) * 1_440
        cube, step = rng.choice(CUBES), rng.choice(GRAINS).seconds
        span = {"start": START + first * 60, "end": START + last * 60}
        raw = client.query(
            """SELECT count(), round(sum(latency_ms)), max(latency_ms) FROM raw_events
            WHERE timestamp >= {start:DateTime('UTC')} AND timestamp < {end:DateTime('UTC')}""",
            parameters=span,
        ).result_rows
        answer = client.query(
            f"SELECT sum(requests), round(sum(latency_sum_ms)), max(latency_max_ms) FROM {source_of(cube)}",
            parameters={**span, "step": step},
        ).result_rows
        if raw != answer:
            wrong.append((cube.name, step, span["start"], span["end"]))
    return wrong
