"""The benchmark's own ClickHouse server, whose data stay in the home folder between runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import storage_of
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer, start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import ClickHouseSettings, LocalSettings, Settings

_STATE = "filled.json"


@contextmanager
def running(home: Path) -> Iterator[ClickHouseServer]:
    """The server of that home, stopped at the end."""
    server = start_clickhouse(clickhouse_program(cache_folder(LocalSettings())), home / "clickhouse")
    try:
        yield server
    finally:
        server.process.stop(60)


@contextmanager
def client_of(server: ClickHouseServer, **server_settings: Any) -> Iterator[Client]:
    """A client whose requests may take long; the schema is there."""
    settings = Settings(clickhouse=ClickHouseSettings(url=SecretStr(server.url), request_timeout_seconds=3_600))
    with connect(settings, **server_settings) as client:
        schema.apply(client, storage_of(settings))
        yield client


def filled_until(home: Path) -> int | None:
    """End of what is filled, epoch seconds; None before the first fill."""
    file = home / _STATE
    return int(json.loads(file.read_text())["end_seconds"]) if file.exists() else None


def note_filled(home: Path, end_seconds: int) -> None:
    (home / _STATE).write_text(json.dumps({"end_seconds": end_seconds}))
