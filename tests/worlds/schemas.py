"""What tests of schema changes do: want another schema than this version's, and look at what came of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.objects import Column, SchemaObject, Table
from metrics_pipeline.delivery.tables import event_column
from metrics_pipeline.event.contract import promoted
from metrics_pipeline.schema import all as schema

_ROOT = Path(__file__).parents[2]
STORAGE = Storage(10_000)
VERSION = promoted("version", comment="Version of the service")

_EVENTS = """INSERT INTO raw_events (event_id, timestamp, service, endpoint, status, latency_ms, attributes)
    SELECT generateUUIDv4(), toDateTime64({day:String}, 3, 'UTC') + number % 86400, 'checkout', '/', 200, 1,
        map('version', toString(number % 3)) FROM numbers({count:UInt32})"""


def table(name: str) -> Table:
    return next(o for o in schema.OBJECTS if isinstance(o, Table) and o.name == name)


def want(monkeypatch: pytest.MonkeyPatch, *objects: SchemaObject) -> None:
    """Another version of the schema: these instead of those of the same names."""
    new = {o.name: o for o in objects}
    monkeypatch.setattr(schema, "OBJECTS", tuple(new.get(o.name, o) for o in schema.OBJECTS))


def with_column(name: str, change: Callable[[Column], Column], of: str = "raw_events") -> Table:
    """The table with one of its columns changed."""
    return replace(table(of), columns=tuple(change(c) if c.name == name else c for c in table(of).columns))


def without_column(name: str, of: str = "raw_events") -> Table:
    return replace(table(of), columns=tuple(c for c in table(of).columns if c.name != name))


def with_version() -> Table:
    """raw_events of a version that promoted an attribute."""
    raw = table("raw_events")
    return replace(raw, columns=(*raw.columns, event_column(VERSION)))


def insert(client: Client, day: str, count: int) -> None:
    """Events of one day, as a drain of the version before inserts them: it names its columns."""
    client.command(_EVENTS, parameters={"day": day, "count": count})


def rows(client: Client, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.query(sql).result_rows]


def commands(client: Client) -> list[str]:
    """Of all mutations, whether they are done or not."""
    sql = "SELECT command FROM system.mutations WHERE database = currentDatabase() ORDER BY mutation_id"
    return [command.replace("`", "") for (command,) in rows(client, sql)]


def next_version(change: str, *arguments: str) -> str:
    """Run a command of another version in a process of its own; returns what it printed."""
    command = [sys.executable, "-m", "benchmarks.next_version", change, *arguments]
    done = subprocess.run(command, cwd=_ROOT, env=os.environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
