"""The commands `rollups …`, in this process, on a real server."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.runtime.timerange import minute_name
from metrics_pipeline.settings import Settings
from tests.worlds.rollups import HOUR, NOON, assert_answers_are_raws, insert, number

DAY = f"{datetime.fromtimestamp(NOON, UTC):%Y-%m-%d}"
BOUNDS = ("--from", minute_name(NOON), "--to", minute_name(NOON + 2 * HOUR))

pytestmark = pytest.mark.usefixtures("undisturbed")


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """With two hours of events."""
    with connect(settings, mutations_sync=1) as made:
        insert(made, NOON, 2_000, 2 * HOUR)
        yield made


def call(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["rollups", *arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def parsed(*arguments: str, code: int = 0) -> Any:
    return json.loads(call(*arguments, "--json", code=code))


def test_status_and_rebuild(client: Client) -> None:
    assert parsed("status")["10m"]["not_built"] == 12
    plan = parsed("rebuild", "--when", DAY, "--dry-run")
    assert plan == {"units": 0, "buckets": {"10m": 12, "1h": 2, "1d": 1, "7d": plan["buckets"]["7d"]}}
    assert parsed("status")["10m"]["built"] == 0, "a dry run builds nothing"
    done = parsed("rebuild", "--when", DAY, "--grain", "10m", "--grain", "1h")
    assert done["buckets"] == {"10m": {"published": 12, "in_flux": 0}, "1h": {"published": 2, "in_flux": 0}}
    assert parsed("rebuild", "--when", DAY, "--stale")["buckets"]["10m"]["published"] == 0
    insert(client, NOON, 1)
    state = parsed("status")["10m"]
    assert (state["built"], state["stale"], state["oldest_stale"]) == (11, 1, minute_name(NOON))
    assert "10m" in call("status")
    assert_answers_are_raws(client, NOON, NOON + 2 * HOUR)


def test_check_exits_1_on_drift_and_repairs(client: Client) -> None:
    assert parsed("check", *BOUNDS)["ok"]
    client.command(f"ALTER TABLE rollup_1m DELETE WHERE minute < toDateTime({NOON + 600}, 'UTC')")
    found = parsed("check", *BOUNDS, code=1)
    assert [(d["start"], d["tables"], d["state"]) for d in found["drifts"]] == [
        (minute_name(NOON), ["rollup_1m"], "found")
    ]
    assert "--repair" in call("check", *BOUNDS, code=1)
    assert "repaired" in call("check", *BOUNDS, "--repair", code=1)
    assert "exact" in call("check", "--when", DAY)
    assert_answers_are_raws(client, NOON, NOON + 2 * HOUR)


def test_rebuild_from_raw_makes_all_rows_again(client: Client) -> None:
    client.command("TRUNCATE TABLE rollup_1m")
    assert parsed("rebuild", *BOUNDS, "--from-raw", "--dry-run")["units"] == 12
    done = parsed("rebuild", *BOUNDS, "--from-raw")
    assert (done["units"], done["refused_units"], done["unpublished"]) == (12, [], [])
    assert number(client, "SELECT sum(requests) FROM rollup_1m") == 2_000
    client.command("TRUNCATE TABLE raw_events")
    refused = parsed("rebuild", *BOUNDS, "--from-raw", code=1)
    assert refused["refused_units"][0] == minute_name(NOON)
    assert "--force" in call("rebuild", *BOUNDS, "--from-raw", code=1)


def test_a_bucket_that_contradicts_the_books_is_named(client: Client) -> None:
    client.command("TRUNCATE TABLE rollup_1m")
    assert "rollups check --repair" in call("rebuild", *BOUNDS, code=1)


def test_a_span_must_be_given(settings: Settings) -> None:
    done = CliRunner().invoke(app, ["rollups", "check"])
    assert isinstance(done.exception, ConfigurationError)


@pytest.mark.parametrize("command", ["status", "rebuild", "check"])
def test_every_command_has_an_example(command: str) -> None:
    assert f"metrics-pipeline rollups {command}" in call(command, "--help").replace("\n", " ")
