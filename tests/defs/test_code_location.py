"""The code location, on a real instance, broker and server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, RunRequest

from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.relay import relay
from metrics_pipeline.settings import Settings
from tests.defs.located import HERE, located, sensor_context
from tests.worlds.events import events
from tests.worlds.pipeline import assert_exact, send
from tests.worlds.waiting import await_


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def launches(instance: DagsterInstance) -> list[RunRequest]:
    return list(relay.evaluate_tick(sensor_context(instance)).run_requests or [])


def first_launch(instance: DagsterInstance) -> RunRequest:
    """A tick may find the broker still loading its groups; the relay's answer is the next tick."""
    (request,) = await_("the relay launches a run", lambda: launches(instance))
    return request


def test_it_loads_in_a_fresh_interpreter() -> None:
    """All of it, as a code server does: definitions may contradict each other."""
    script = "from metrics_pipeline.definitions import defs; defs.get_repository_def().load_all_definitions()"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0


def test_the_asset_graph_shows_topic_and_tables() -> None:
    graph = defs.resolve_asset_graph()
    topic = AssetKey(["kafka", "events"])
    raw = AssetKey(["clickhouse", "raw_events"])
    assert graph.get(raw).parent_keys == {topic}
    assert graph.get(AssetKey(["clickhouse", "rollup_1m"])).parent_keys == {raw}
    assert graph.get(AssetKey(["clickhouse", "dead_letters"])).parent_keys == {topic}


def test_a_run_drains_its_window_and_reports_to_the_assets(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_DRAIN__IDLE_SECONDS", "1")
    sent = events(200)
    send(settings, [*sent, *sent[:10], b"{"])
    request = first_launch(instance)
    result = defs.resolve_job_def("drain").execute_in_process(
        run_config=request.run_config, instance=instance, tags=located(**request.tags)
    )
    assert result.success
    reported = {m.asset_key.path[-1]: m.metadata for m in result.asset_materializations_for_node("drain_shard")}
    assert reported["raw_events"]["rows"].value == 200
    assert reported["rollup_1m"]["duplicates"].value == 10
    assert reported["dead_letters"]["rows"].value == 1
    assert reported["raw_events"]["freshness_p99_seconds"].value > 0
    assert_exact(settings, events=200, dead=1)
    assert launches(instance) == [], "an idle topic costs no runs"


def test_a_wrong_setting_fails_the_run_at_once_and_by_name(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_DRAIN__SHARDS", "none")
    result = defs.resolve_job_def("drain").execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("drain_shard")
    assert failure is not None
    assert "METRICS_DRAIN__SHARDS" in (failure.user_failure_data.description or "")


def test_a_failed_run_backs_off_and_is_tried_again(settings: Settings, instance: DagsterInstance) -> None:
    send(settings, events(10))
    request = first_launch(instance)
    drain = defs.resolve_job_def("drain")

    def fails(location: str) -> None:
        tags = located(location, **request.tags)
        run = instance.create_run_for_job(drain, run_config=request.run_config, tags=tags)
        instance.report_run_failed(run)
        assert instance.get_run_by_id(run.run_id).status == DagsterRunStatus.FAILURE

    fails("elsewhere")
    assert launches(instance) == [request], "another code location's failures are its own"
    fails(HERE)
    assert launches(instance) == []
