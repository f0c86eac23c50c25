"""Raw events beside the rollups, for the same question on both; put in past the views, which would count them again."""

from math import log

from clickhouse_connect.driver.client import Client

from metrics_pipeline.lab.loadgen.catalog import endpoints

_ROWS_PER_INSERT = 4_000_000
_DRAWS = 1 << 15

_ROWS = f"""INSERT INTO bench_raw_events SELECT
    generateUUIDv7() AS event_id,
    toDateTime64({{start:UInt32}} + number / {{rate:UInt32}}, 3, 'UTC') AS timestamp,
    service, endpoint, method, if(rand(2) % 1000 < 3, 500, 200) AS status,
    round(exp(log_median + sigma * randNormal(0, 1)), 3) AS latency_ms,
    concat('c', toString(rand(4) % 5000)) AS customer_id,
    multiIf(rand(5) % 100 < 70, 'free', rand(5) % 100 < 83, 'pro', 'enterprise') AS tier,
    multiIf(rand(6) % 100 < 40, 'eu-west-1', rand(6) % 100 < 60, 'us-east-1', rand(6) % 100 < 60, 'ap-southeast-1',
        'sa-east-1') AS region,
    concat('web-', toString(rand(7) % 48)) AS host, map('version', '4.19.1') AS attributes,
    number % 8 AS kafka_partition, intDiv(number, 8) AS kafka_offset, timestamp AS kafka_timestamp
FROM (SELECT number, toUInt32(rand(1) % {_DRAWS}) AS draw FROM numbers({{first:UInt64}}, {{rows:UInt64}})) AS drawn
JOIN bench_draws USING draw
SETTINGS min_insert_block_size_rows = {_ROWS_PER_INSERT}, min_insert_block_size_bytes = 0, optimize_on_insert = 0,
    max_threads = 2, max_insert_threads = 1"""


def fill_raw(client: Client, end_seconds: int, hours: float, events_per_second: int) -> None:
    """`hours` of events that end at `end_seconds`, attached as partitions: no view sees them."""
    _store_draws(client)
    client.command("DROP TABLE IF EXISTS bench_raw_events")
    client.command("CREATE TABLE bench_raw_events AS raw_events")
    rows = round(hours * 3_600 * events_per_second)
    start = end_seconds - round(hours * 3_600)
    for first in range(0, rows, _ROWS_PER_INSERT):
        count = min(_ROWS_PER_INSERT, rows - first)
        client.command(_ROWS, {"start": start, "rate": events_per_second, "first": first, "rows": count})
    sql = """SELECT DISTINCT partition_id FROM system.parts
        WHERE active AND database = currentDatabase() AND table = 'bench_raw_events'"""
    for (partition,) in client.query(sql).result_rows:
        client.command(f"ALTER TABLE raw_events ATTACH PARTITION ID '{partition}' FROM bench_raw_events")
    client.command("DROP TABLE bench_raw_events")


def _store_draws(client: Client) -> None:
    """Endpoints as often as their weight says."""
    client.command(
        "CREATE TABLE IF NOT EXISTS bench_draws (draw UInt32, service String, endpoint String, method String, "
        "log_median Float64, sigma Float64) ENGINE = MergeTree ORDER BY draw"
    )
    client.command("TRUNCATE TABLE bench_draws")
    rows: list[list[object]] = []
    known, seen = endpoints(), 0.0
    total = sum(e.weight for e in known)
    for e in known:
        seen += e.weight
        entries = max(1, round(seen / total * _DRAWS) - len(rows))
        rows += [[len(rows) + i, e.service, e.path, e.method, log(e.median_ms), e.sigma] for i in range(entries)]
    names = ["draw", "service", "endpoint", "method", "log_median", "sigma"]
    client.insert("bench_draws", rows[:_DRAWS], column_names=names)
