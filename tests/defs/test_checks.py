"""The asset checks, on a real instance, broker and server."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    DagsterInstance,
    DefaultScheduleStatus,
    RunConfig,
    build_schedule_context,
)

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.checks import AuditConfig
from metrics_pipeline.settings import Settings
from tests.worlds.events import events
from tests.worlds.pipeline import drain_once, send


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def check(instance: DagsterInstance, **config: int) -> dict[str, AssetCheckEvaluation]:
    """Run the job as the schedule does; table -> what its check found."""
    run_config = RunConfig(ops={"audit_books": AuditConfig(**config)}) if config else None
    result = defs.resolve_job_def("audit").execute_in_process(instance=instance, run_config=run_config)
    assert result.success
    return {e.asset_key.path[-1]: e for e in result.get_asset_check_evaluations()}


def test_the_checks_pass_on_exact_books_and_show_the_figures(settings: Settings, instance: DagsterInstance) -> None:
    send(settings, [*events(300), b"{"])
    drain_once(settings)
    found = check(instance)
    assert set(found) == {"raw_events", "rollup_1m"}
    assert all(e.passed for e in found.values())
    shown = {name: value.value for name, value in found["raw_events"].metadata.items()}
    assert (shown["inserted"], shown["raw_rows"], shown["rollup_requests"]) == (300, 300, 300)
    assert (shown["dead_letters"], shown["rollup_drift"]) == (1, 0)


def test_a_row_that_was_deleted_fails_the_check_of_raw_events(settings: Settings, instance: DagsterInstance) -> None:
    send(settings, events(300))
    drain_once(settings)
    with connect(settings, mutations_sync=1) as client:
        client.command("ALTER TABLE raw_events DELETE WHERE kafka_partition = 3 AND kafka_offset = 0")
    found = check(instance)["raw_events"]
    assert not found.passed
    assert found.severity is AssetCheckSeverity.ERROR
    assert "in raw_events" in (found.description or "")
    assert "minute" in str(found.metadata["problems"].value)


def test_a_tampered_rollup_fails_the_check_of_rollup_1m(settings: Settings, instance: DagsterInstance) -> None:
    send(settings, events(300))
    drain_once(settings)
    with connect(settings) as client:
        client.command("INSERT INTO rollup_1m SELECT * FROM rollup_1m LIMIT 1")
    found = check(instance)["rollup_1m"]
    assert not found.passed
    assert "in rollup_1m" in (found.description or "")


def test_a_scheduled_run_leaves_older_events_to_a_run_over_everything(
    settings: Settings, instance: DagsterInstance
) -> None:
    yesterday_ms = time.time_ns() // 1_000_000 - 86_400_000
    send(settings, events(100, timestamp=yesterday_ms))
    drain_once(settings)
    with connect(settings) as client:
        client.command("TRUNCATE TABLE rollup_1m")
    assert all(e.passed for e in check(instance).values())
    assert not any(e.passed for e in check(instance, last_minutes=0).values())


def test_the_schedule_is_on_by_default_and_requests_the_job(settings: Settings, instance: DagsterInstance) -> None:
    schedule = defs.resolve_schedule_def("audit_schedule")
    assert schedule.default_status is DefaultScheduleStatus.RUNNING
    requested = schedule.evaluate_tick(build_schedule_context(instance=instance)).run_requests
    assert requested is not None
    assert len(requested) == 1
    assert schedule.job_name == "audit"
