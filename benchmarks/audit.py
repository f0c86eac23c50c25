"""What an audit of many rows costs: `python benchmarks/audit.py [MILLIONS] [DAYS]`, on a server that it starts itself.

Backfills raw_events (through its view rollup_1m, too) and a ledger that agrees, some 30 bytes of disk a row, in a
temporary folder; then times audits of everything, of the last hour, and deep ones, and one after a row was deleted.
ClickHouse only: the committed offsets are those that the ledger ends with.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.audit.run import Audit
from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import storage_of
from metrics_pipeline.delivery.tables import RAW_EVENTS
from metrics_pipeline.kafka.intents import Commit
from metrics_pipeline.lab.local.clickhouse import start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program
from metrics_pipeline.ledger.minutes import EVERYTHING, Scope
from metrics_pipeline.ledger.tables import BATCHES
from metrics_pipeline.rollups.cubes import ENDPOINTS
from metrics_pipeline.rollups.grains import LIVE
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import ClickHouseSettings, LocalSettings, Settings

PARTITIONS = 8
BATCH_EVENTS = 16_000
INSERT_ROWS = 4_000_000
START_SECONDS = 1_793_664_000
ROUNDS = 3

_TIMES = "toDateTime64({start}, 3, 'UTC') + toIntervalMillisecond(intDiv(number * {span_ms}, {rows}))"

_RAW = f"""
INSERT INTO raw_events SELECT
    generateUUIDv4() AS event_id, {_TIMES} AS timestamp,
    concat('service-', toString(cityHash64(number) % 5)) AS service,
    concat('/endpoint/', toString(cityHash64(number, 1) % 8)) AS endpoint, 'GET' AS method,
    if(cityHash64(number, 2) % 100 = 0, 500, 200) AS status, (cityHash64(number, 3) % 100000) / 100 AS latency_ms,
    concat('c', toString(cityHash64(number, 4) % 10000)) AS customer_id,
    ['free', 'pro', 'enterprise'][cityHash64(number, 5) % 3 + 1] AS tier, 'eu-west-1' AS region,
    concat('web-', toString(number % 40)) AS host, map('version', '1.2.3') AS attributes,
    number % {PARTITIONS} AS kafka_partition, intDiv(number, {PARTITIONS}) AS kafka_offset,
    timestamp AS kafka_timestamp
FROM numbers({{first}}, {INSERT_ROWS})
SETTINGS min_insert_block_size_rows = {INSERT_ROWS}, min_insert_block_size_bytes = 0, optimize_on_insert = 0
"""

_LEDGER = f"""
INSERT INTO batches (batch, topic, topic_id, consumer_group, partitions, partition_start, partition_end,
    partition_consumed, partition_inserted, partition_duplicates, partition_dead_letters, partition_skipped,
    partition_lost, consumed, inserted, first_event, last_event, first_message, last_message, minutes, minute_inserted)
WITH {BATCH_EVENTS // PARTITIONS} AS each, {PARTITIONS} AS parts
SELECT hex(sipHash128(b)), 'events', 'id', 'group', range(parts), arrayWithConstant(parts, b * each),
    arrayWithConstant(parts, (b + 1) * each), arrayWithConstant(parts, each), arrayWithConstant(parts, each),
    arrayWithConstant(parts, 0), arrayWithConstant(parts, 0), arrayWithConstant(parts, 0), arrayWithConstant(parts, 0),
    each * parts, each * parts, min(first), max(last), min(first), max(last), groupArray(minute), groupArray(events)
FROM (
    SELECT intDiv(number, {BATCH_EVENTS}) AS b, toStartOfMinute({_TIMES}) AS minute, count() AS events,
        min({_TIMES}) AS first, max({_TIMES}) AS last
    FROM numbers_mt({{rows}}) GROUP BY b, minute ORDER BY b, minute
) GROUP BY b
"""


def fill(client: Client, rows: int, days: int) -> None:
    named = {"start": START_SECONDS, "span_ms": days * 86_400_000, "rows": rows}
    for first in range(0, rows, INSERT_ROWS):
        client.command(_RAW.format(first=first, **named))
    client.command(_LEDGER.format(**named))


def describe(client: Client, table: str) -> str:
    sql = f"""SELECT sum(rows), count(), sum(bytes_on_disk) FROM system.parts
        WHERE active AND database = currentDatabase() AND table = '{table}'"""
    rows, parts, size_bytes = client.query(sql).result_rows[0]
    return f"{table}: {rows:,} rows in {parts} parts, {size_bytes / 1e6:,.0f} MB"


def timed(name: str, action: Callable[[], Verdict], rounds: int = ROUNDS) -> Verdict:
    took = []
    for _ in range(rounds):
        before = time.perf_counter()
        verdict = action()
        took.append(time.perf_counter() - before)
    books = verdict.books
    print(
        f"{name:22} {' '.join(f'{seconds:6.2f}' for seconds in took)} s   {books.raw_rows:>11,} rows, "
        f"{len(verdict.problems)} problems",
        flush=True,
    )
    return verdict


def measure(client: Client, rows: int, days: int) -> None:
    books = ClickHouseBooks(client, "events", "id", "group")
    commits = {p: Commit(rows // PARTITIONS, None, "id") for p in range(PARTITIONS)}
    end_seconds = START_SECONDS + days * 86_400
    last_hour = Scope(end_seconds - 3_600, end_seconds)

    def audit(scope: Scope, *, deep: bool = False) -> Verdict:
        return Audit(books, lambda: commits, "id", SystemClock(), deep=deep).run(scope)

    assert timed("everything", lambda: audit(EVERYTHING)).is_ok
    assert timed("the last hour", lambda: audit(last_hour)).is_ok
    assert timed("the last hour, deep", lambda: audit(last_hour, deep=True)).is_ok
    assert timed("everything, deep", lambda: audit(EVERYTHING, deep=True), 1).is_ok
    client.command(f"ALTER TABLE raw_events DELETE WHERE kafka_offset = {rows // PARTITIONS // 2}")
    assert timed("a row per partition lost", lambda: audit(EVERYTHING), 1).books.drifting


def main() -> None:
    rows = (int(sys.argv[1]) if len(sys.argv) > 1 else 100) * 1_000_000
    days = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    program = clickhouse_program(cache_folder(LocalSettings()))
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as folder:
        server = start_clickhouse(program, Path(folder))
        try:
            settings = Settings(clickhouse=ClickHouseSettings(url=SecretStr(server.url), request_timeout_seconds=600))
            with connect(settings, mutations_sync=1) as client:
                schema.apply(client, storage_of(settings))
                before = time.perf_counter()
                fill(client, rows, days)
                print(f"filled in {time.perf_counter() - before:.0f} s")
                for table in (RAW_EVENTS.name, ENDPOINTS.table(LIVE), BATCHES.name):
                    print(describe(client, table))
                measure(client, rows, days)
        finally:
            server.process.stop(20)


if __name__ == "__main__":
    main()
