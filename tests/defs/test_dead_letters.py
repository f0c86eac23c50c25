"""Replays of dead letters and their check, on a real instance, broker and server."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetCheckSeverity, AssetKey, DagsterInstance, ExecuteInProcessResult, RunConfig

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.dead_letters import ReplayConfig
from metrics_pipeline.settings import Settings
from tests.worlds.events import events
from tests.worlds.pipeline import counts, drain_once, send

DEAD = AssetKey(["clickhouse", "dead_letters"])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def letters(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """20 events from ahead of their time, good by the rules in the environment, and one that never is."""
    send(settings, [*events(20, timestamp=time.time_ns() // 1_000_000 + 7_200_000), b"{"])
    drain_once(settings)
    monkeypatch.setenv("METRICS_EVENTS__MAX_FUTURE_SECONDS", "86400")
    return settings


def run(instance: DagsterInstance, *, succeeds: bool = True, **config: object) -> ExecuteInProcessResult:
    run_config = RunConfig(ops={"replay_letters": ReplayConfig(**config)}) if config else None  # type: ignore[arg-type]
    job = defs.resolve_job_def("replay_dead_letters")
    result = job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)
    assert result.success is succeeds
    return result


def observed(result: ExecuteInProcessResult) -> dict[str, object]:
    (found,) = result.get_asset_observation_events()
    observation = found.asset_observation_data.asset_observation
    assert observation.asset_key == DEAD
    return {name: value.value for name, value in observation.metadata.items()}


def test_the_job_says_what_would_happen_and_then_does_it(letters: Settings, instance: DagsterInstance) -> None:
    shown = observed(run(instance))
    assert shown["dry_run"]
    assert (shown["landed"], shown["kept_truncated"]) == (20, 1)
    assert counts(letters).raw == 0
    result = run(instance, dry_run=False, reasons=["timestamp_in_future"], when="last 1 hour")
    assert (observed(result)["letters"], observed(result)["landed"]) == (20, 20)
    landed = {
        m.asset_key.path[-1]: m.metadata["rows"].value for m in result.asset_materializations_for_node("replay_letters")
    }
    assert landed == {"raw_events": 20, "rollup_1m": 20}
    assert (counts(letters).raw, counts(letters).rollup) == (20, 20)


def test_a_wrong_filter_fails_the_run_by_name(letters: Settings, instance: DagsterInstance) -> None:
    failure = run(instance, succeeds=False, reasons=["futrue"]).failure_data_for_node("replay_letters")
    assert failure is not None
    assert "no reason 'futrue'" in (failure.user_failure_data.description or "")


def test_the_check_warns_before_letters_are_dropped(letters: Settings, instance: DagsterInstance) -> None:
    def check() -> tuple[bool, AssetCheckSeverity, object]:
        result = defs.resolve_job_def("check_dead_letters").execute_in_process(instance=instance)
        (found,) = result.get_asset_check_evaluations()
        assert found.asset_key == DEAD
        return found.passed, found.severity, found.metadata["never_replayed"].value

    assert check() == (True, AssetCheckSeverity.WARN, 21)
    with connect(letters) as client:
        client.command("ALTER TABLE dead_letters MODIFY TTL toDateTime(kafka_timestamp) + INTERVAL 1 DAY")
        client.command(
            "INSERT INTO dead_letters SELECT * REPLACE (kafka_timestamp - INTERVAL 23 HOUR AS kafka_timestamp, "
            "kafka_offset + 1000 AS kafka_offset) FROM dead_letters"
        )
    assert check() == (False, AssetCheckSeverity.WARN, 42)
