"""A server that is killed in the middle of an insert over many days, and the repeat of the insert."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.delivery.warehouse import ClickHouseWarehouse
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer, start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import LocalSettings, load_settings
from tests.models.clickhouse import Row, Server
from tests.models.scheduler import Scheduler
from tests.worlds.events import encode, event

DAY_MS = 86_400_000
NOON_MS = 1_793_448_000_000
DAYS, PER_DAY = 60, 400
PROGRAM = clickhouse_program(cache_folder(LocalSettings()))


def many_days() -> pl.DataFrame:
    random_ = random.Random(3)
    values: list[bytes | None] = [
        encode(event(random_, timestamp=NOON_MS - (n % DAYS) * DAY_MS)) for n in range(DAYS * PER_DAY)
    ]
    count = len(values)
    limits = EventLimits(max_age_ms=400 * DAY_MS, max_future_ms=0)
    return decode(Messages([0] * count, list(range(count)), [NOON_MS] * count, values), limits).events


def per_partition(client: Client, sql: str) -> dict[str, int]:
    return {str(key): int(count) for key, count in client.query(sql).result_rows}


FED = {
    "raw_events": "SELECT toYYYYMMDD(timestamp) AS p, count() FROM raw_events GROUP BY p",
    "rollup_1m": "SELECT toDate(minute) AS p, sum(requests) FROM rollup_1m GROUP BY p",
    "rollup_totals_1m": "SELECT toDate(minute) AS p, sum(requests) FROM rollup_totals_1m GROUP BY p",
    "rollup_builds": "SELECT toYear(minute) AS p, sum(events) FROM rollup_builds GROUP BY p",
}
"""What an insert backfills, counted per partition."""


def state(client: Client) -> dict[str, dict[str, int]]:
    return {table: per_partition(client, sql) for table, sql in FED.items()}


def restarted(server: ClickHouseServer, folder: Path) -> ClickHouseServer:
    return start_clickhouse(PROGRAM, folder, preferred_port=urlsplit(server.url).port)


@pytest.mark.engines
def test_parts_land_whole_or_not_and_the_repeat_adds_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = many_days()
    folder = tmp_path / "clickhouse"
    server = start_clickhouse(PROGRAM, folder)
    try:
        monkeypatch.setenv("METRICS_CLICKHOUSE__URL", server.url)
        settings = load_settings()
        with connect(settings) as client:
            schema.apply(client, Storage(10_000))
            started = time.monotonic()
            insert_into(client, events, "whole")()
            whole_seconds = time.monotonic() - started
            whole = state(client)
        cut = 0
        for attempt in range(5):
            with connect(settings) as client:
                for table in FED:
                    client.command(f"TRUNCATE TABLE {table}")
                token = f"token {attempt}"
                insert = threading.Thread(target=_suppressed(insert_into(client, events, token)))
                insert.start()
                time.sleep(whole_seconds * (attempt + 2) / 8)  # The moment is the test's input, not a wait.
                server.process.kill()
                insert.join(60)
            server = restarted(server, folder)
            with connect(settings) as client:
                landed = state(client)
                print("killed: " + ", ".join(f"{len(landed[t])} of {len(whole[t])} parts of {t}" for t in FED))
                cut += landed not in ({table: {} for table in FED}, whole)
                for table in FED:
                    assert landed[table].items() <= whole[table].items(), "a part lands whole or not"
                for _ in range(2):
                    insert_into(client, events, token)()
                    assert state(client) == whole
        print(f"{cut} of 5 kills cut an insert in two")
    finally:
        server.process.stop(20)


def test_the_model_cuts_an_insert_at_any_part_and_its_repeat_adds_all_but_what_a_token_outlived() -> None:
    rows = [Row(("s", "/", NOON_MS - day * DAY_MS, f"{day}"), 0, day, 200, 0) for day in range(40)]
    seen: Counter[tuple[bool, bool, str]] = Counter()
    for seed in range(200):
        scheduler, said = Scheduler(seed), list[str]()
        scheduler.trace = said.append
        server = Server(scheduler, 1_000)
        scheduler.spawn("insert", lambda: server.insert_raw(rows, "token"))  # noqa: B023 - run before the next one
        scheduler.spawn("kill", server.kill, after_seconds=scheduler.random.random() * 0.5)
        scheduler.run()
        outlived = next((table for line in said for table in FED if f"{table}/" in line and "lacks" in line), "")
        seen[len(server.raw) in (0, 40), server.rollup.total() in (0, 40), outlived] += 1
        scheduler.spawn("repeat", lambda: server.insert_raw(rows, "token"))  # noqa: B023
        scheduler.run()
        assert len(server.raw) == 40 - (outlived == "raw_events")
        assert server.rollup.total() == 40 or outlived == "rollup_1m"
    assert {outlived for _, _, outlived in seen} == {"", "raw_events", "rollup_1m"}
    assert len(seen) > 3, "some kills cut it, some don't"


def insert_into(client: Client, events: pl.DataFrame, token: str) -> Callable[[], None]:
    return lambda: ClickHouseWarehouse(
        client, lambda: nullcontext((client,)), "t", "t", "g", Storage(10_000)
    ).insert_events(events, token)


def _suppressed(action: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with suppress(Exception):
            action()

    return run
