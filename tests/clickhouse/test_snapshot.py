"""A table that is read twice in one query: the views of rollups read the books so, and rely on the same rows."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.settings import Settings, clickhouse_url

SETTING = "enable_shared_storage_snapshot_in_query"
TWICE = """SELECT one.n, other.n FROM (SELECT count() AS n FROM growing WHERE number > 0) AS one,
    (SELECT sum(number) AS n FROM growing WHERE number > 0) AS other"""


def read_twice(settings: Settings, **server_settings: Any) -> tuple[int, int]:
    """What each reading counts while rows of 1 are inserted; the server waits before it begins one."""
    slow = {"merge_tree_storage_snapshot_sleep_ms": 500, **server_settings}
    with connect(settings) as reader, connect(settings) as writer, ThreadPoolExecutor(1) as pool:
        writer.command("CREATE TABLE growing (number UInt64) ENGINE = MergeTree ORDER BY number")
        reading = pool.submit(lambda: reader.query(TWICE, settings=slow).result_rows[0])
        while not reading.done():
            writer.command("INSERT INTO growing VALUES (1)")
        one, other = reading.result()
        return int(one), int(other)


def test_our_client_reads_the_same_rows_twice(settings: Settings) -> None:
    one, other = read_twice(settings)
    assert one == other > 0


def test_without_the_setting_it_would_not(settings: Settings) -> None:
    one, other = read_twice(settings, **{SETTING: 0})
    assert 0 < one < other


@pytest.mark.parametrize("column", ["value", "default"])
def test_whoever_sets_nothing_gets_it(settings: Settings, column: str) -> None:
    """Grafana and the server's own pages do."""
    base, _, database = clickhouse_url(settings).rpartition("/")
    query = f"SELECT {column} FROM system.settings WHERE name = '{SETTING}'".replace(" ", "%20")
    with urllib.request.urlopen(f"{base}/?database={database}&query={query}", timeout=30) as answer:  # noqa: S310 - our own loopback address
        assert answer.read() == b"1\n"
