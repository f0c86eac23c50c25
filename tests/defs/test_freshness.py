"""Freshness in Dagster, on a real instance, broker and server: policies and their daemon, checks, canaries."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    DagsterInstance,
    DefaultScheduleStatus,
    ExecuteInProcessResult,
    build_schedule_context,
)

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.definitions import defs
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.lab.local.dagster import start_dagster
from metrics_pipeline.rollups.grains import BUILT
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.backfill import backfill_deferred, skip_to_head
from tests.worlds.events import events
from tests.worlds.pipeline import drain_once, send
from tests.worlds.rollups import DAY, NOON, insert
from tests.worlds.waiting import await_

CUBES = ("rollup", "rollup_regions", "rollup_services", "rollup_totals")
LIVE = {"raw_events", *(f"{cube}_1m" for cube in CUBES)}
STATES = """{ assetNodes { assetKey { path } freshnessStatusInfo { freshnessStatus }
    internalFreshnessPolicy { ... on TimeWindowFreshnessPolicy { warnWindowSeconds failWindowSeconds } } } }"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings) as made:
        yield made


def run(instance: DagsterInstance, job: str) -> ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)


def checks(instance: DagsterInstance, job: str) -> dict[str, AssetCheckEvaluation]:
    """Table -> what its check found."""
    result = run(instance, job)
    assert result.success
    return {e.asset_key.path[-1]: e for e in result.get_asset_check_evaluations()}


def figures(evaluation: AssetCheckEvaluation) -> dict[str, object]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def materialized(instance: DagsterInstance) -> set[str]:
    graph = defs.resolve_asset_graph()
    return {
        key.path[-1] for key in graph.get_all_asset_keys() if instance.get_latest_materialization_event(key) is not None
    }


def test_what_drains_and_builds_write_has_a_policy_and_rare_things_have_none() -> None:
    graph = defs.resolve_asset_graph()
    windows = {
        key.path[-1]: policy.fail_window.to_timedelta().total_seconds()
        for key in graph.get_all_asset_keys()
        if (policy := graph.get(key).freshness_policy) is not None
    }
    live = dict.fromkeys(LIVE, 3_600)
    built = {f"{cube}_{grain.name}": grain.seconds + 2 * DAY for cube in CUBES for grain in BUILT}
    assert windows == {**live, **built}


def test_fresh_events_pass_with_their_figures_and_waiting_ones_fail(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, events(300))
    drain_once(settings)
    found = checks(instance, "freshness")
    assert set(found) == {"raw_events", *(f"rollup_{grain.name}" for grain in BUILT)}
    assert all(e.passed for e in found.values())
    shown = figures(found["raw_events"])
    assert (shown["lag_offsets"], shown["objective_seconds"]) == (0, 30)
    assert float(str(shown["freshness_p99_seconds"])) > 0
    assert shown["burn_rate_1h_events"] == 0
    monkeypatch.setenv("METRICS_ALERTS__FRESHNESS_SECONDS", "0.001")
    late = checks(instance, "freshness")["raw_events"]
    assert (late.passed, late.severity) == (False, AssetCheckSeverity.ERROR), "all burn: that is critical"
    assert "objective 0.001 s" in (late.description or "")
    assert materialized(instance) == set(), "drain runs report by themselves"


def test_an_idle_topic_stays_fresh_and_one_where_events_wait_does_not(
    settings: Settings, instance: DagsterInstance
) -> None:
    send(settings, events(10))
    waiting = checks(instance, "freshness")["raw_events"]
    assert (waiting.passed, waiting.severity) == (False, AssetCheckSeverity.ERROR)
    assert "10 offsets wait" in (waiting.description or "")
    assert materialized(instance) == set()
    drain_once(settings)
    with connect(settings, mutations_sync=1) as client:
        # As if all that had landed ten minutes ago.
        client.command("CREATE TABLE earlier AS batches")
        client.command("INSERT INTO earlier SELECT * REPLACE (visible_at - 600 AS visible_at) FROM batches")
        client.command("EXCHANGE TABLES earlier AND batches")
    assert checks(instance, "freshness")["raw_events"].passed
    assert materialized(instance) == LIVE


def test_a_topic_of_which_a_backlog_is_deferred_is_not_reported_as_fresh(
    settings: Settings, instance: DagsterInstance
) -> None:
    send(settings, events(10))
    skip_to_head(settings, (0,), "a-run")
    found = checks(instance, "freshness")["raw_events"]
    assert (figures(found)["lag_offsets"], figures(found)["deferred_offsets"]) == (0, 10)
    assert materialized(instance) == set()
    backfill_deferred(settings, None, "a-run")
    assert figures(checks(instance, "freshness")["raw_events"])["deferred_offsets"] == 0
    assert materialized(instance) == LIVE


def test_buckets_that_nobody_builds_fail_the_check_of_their_grain(client: Client, instance: DagsterInstance) -> None:
    insert(client, NOON, 100)
    found = checks(instance, "freshness")
    assert {table for table, e in found.items() if not e.passed} >= {"rollup_10m", "rollup_1h", "rollup_1d"}
    assert found["rollup_10m"].severity is AssetCheckSeverity.WARN
    assert "1 buckets have no build 3,600 s after their end" in (found["rollup_10m"].description or "")
    assert figures(found["rollup_1h"])["buckets_not_built"] == 1


def test_without_an_engine_the_run_fails_and_says_why(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_KAFKA__TOPIC", "no-such-topic")
    for job in ("freshness", "canary"):
        result = run(instance, job)
        assert not result.success
        failure = next(e for e in result.all_events if e.is_step_failure)
        assert "METRICS_KAFKA__TOPIC" in str(failure.step_failure_data.user_failure_data), job


def test_a_canary_that_was_drained_passes_with_its_seconds(settings: Settings, instance: DagsterInstance) -> None:
    with drained_beside(settings):
        found = checks(instance, "canary")["raw_events"]
    assert found.passed
    shown = figures(found)
    assert float(str(shown["seconds_shard_0"])) > 0
    assert shown["burn_rate_5m_canaries_shard_0"] == 0


def test_canaries_that_nobody_drains_fail_and_become_an_error_once_the_budget_burns(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_ALERTS__FRESHNESS_SECONDS", "0.3")
    severities = []
    for _ in range(3):
        found = checks(instance, "canary")["raw_events"]
        assert not found.passed
        assert found.description == "not visible within 0.3 s: shard 0"
        severities.append(found.severity)
    assert severities == [AssetCheckSeverity.WARN, AssetCheckSeverity.WARN, AssetCheckSeverity.ERROR]


def test_the_schedule_of_canaries_is_off_unless_a_setting_turns_it_on(instance: DagsterInstance) -> None:
    schedule = defs.resolve_schedule_def("canary_schedule")
    assert schedule.default_status is DefaultScheduleStatus.STOPPED
    assert schedule.job_name == "canary"
    assert len(schedule.evaluate_tick(build_schedule_context(instance=instance)).run_requests or ()) == 1
    say = "from metrics_pipeline.defs.canary import canary_schedule; print(canary_schedule.default_status.value)"
    for value, status in (("true", "RUNNING"), ("perhaps", "STOPPED")):
        done = subprocess.run(
            [sys.executable, "-c", say],
            env={**os.environ, "METRICS_CANARY__ENABLED": value},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert done.stdout.strip() == status
    checks_schedule = defs.resolve_schedule_def("freshness_schedule")
    assert checks_schedule.default_status is DefaultScheduleStatus.RUNNING


def test_the_ui_shows_policies_and_the_state_after_a_drain(settings: Settings, tmp_path: Path) -> None:
    send(settings, events(50))
    environment = {"METRICS_DRAIN__IDLE_SECONDS": "1", "FRESHNESS_DAEMON_INTERVAL_SECONDS": "1"}
    stack = start_dagster(tmp_path / "dagster", tmp_path / "home", environment)
    try:
        await_("live tables are healthy", lambda: is_healthy(ask(stack.url), LIVE), 120, seen=lambda: ask(stack.url))
        states = ask(stack.url)
    finally:
        for process in reversed(stack.processes):
            process.stop(30)
    assert states["raw_events"]["policy"] == {"warnWindowSeconds": 900, "failWindowSeconds": 3_600}
    assert states["rollup_7d"]["policy"]["failWindowSeconds"] == 9 * DAY
    assert (states["rollup_7d"]["status"], states["dead_letters"]["status"]) == ("UNKNOWN", None)


def is_healthy(states: dict[str, dict[str, object]], tables: set[str]) -> bool:
    return {states[table]["status"] for table in tables} == {"HEALTHY"}


def ask(url: str) -> dict[str, dict[str, object]]:
    request = urllib.request.Request(  # noqa: S310 - the UI that the test started
        f"{url}/graphql", json.dumps({"query": STATES}).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        nodes = json.load(answer)["data"]["assetNodes"]
    return {
        node["assetKey"]["path"][-1]: {
            "status": node["freshnessStatusInfo"] and node["freshnessStatusInfo"]["freshnessStatus"],
            "policy": node["internalFreshnessPolicy"],
        }
        for node in nodes
    }


@contextmanager
def drained_beside(settings: Settings) -> Iterator[None]:
    """Drains once, beside the test, as soon as anything waits."""

    def work() -> None:
        address = kafka_address(settings)
        await_("something was sent", lambda: sum(lag.offsets for lag in read_lag(address, settings.kafka).values()))
        drain_once(settings)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result(60)
