"""The hours of the replay as an asset, on a real instance, broker and server."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    ExecuteInProcessResult,
    RunConfig,
    RunRequest,
)

from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.replay import POOL, ReplayConfig, deferred_hours
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.backfill import deferred_ranges, skip_to_head
from tests.defs.located import located, sensor_context
from tests.worlds.hours import assert_exact, command, past_events, these_hours
from tests.worlds.pipeline import drain_once, send

REPLAY = AssetKey(["replay"])

pytestmark = pytest.mark.usefixtures("undisturbed")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def partition(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour, UTC):%Y-%m-%d-%H:%M}"


def run(instance: DagsterInstance, *, succeeds: bool = True, **config: object) -> ExecuteInProcessResult:
    """The hours of the test, in one run, as a backfill launches it."""
    hours = these_hours()
    tags = {
        "dagster/asset_partition_range_start": partition(hours[0]),
        "dagster/asset_partition_range_end": partition(hours[-1]),
    }
    run_config = RunConfig(ops={"replay": ReplayConfig(**config)})  # type: ignore[arg-type]
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, run_config=run_config, asset_selection=[REPLAY], tags=tags, raise_on_error=False
    )
    assert result.success is succeeds
    return result


def figures(result: ExecuteInProcessResult, key: AssetKey = REPLAY) -> dict[str, object]:
    found = [m for m in result.asset_materializations_for_node("replay") if m.asset_key == key]
    return {name: value.value for name, value in found[0].metadata.items()} if found else {}


def test_a_backfill_brings_back_what_was_lost(settings: Settings, instance: DagsterInstance) -> None:
    send(settings, [*past_events(200), b"{"])
    drain_once(settings)
    command(settings, "DELETE FROM raw_events WHERE kafka_offset % 4 = 0", "TRUNCATE TABLE dead_letters")
    shown = figures(run(instance, dry_run=True))
    result = run(instance)
    done = figures(result)
    assert done["restored"] == shown["restored"]
    assert (done["restored_letters"], done["messages"], done["mode"], done["dry_run"]) == (1, 201, "fill", False)
    made = [m for m in result.asset_materializations_for_node("replay") if m.asset_key != REPLAY]
    rows = {m.asset_key.path[-1]: m.metadata["rows"].value for m in made}
    assert rows["raw_events"] == rows["rollup_1m"] == done["restored"]
    assert rows["dead_letters"] == 1
    assert_exact(settings, events=200, dead=1)
    again = figures(run(instance, mode="replace"))
    assert (again["restored"], again["replaced"], again["right"]) == (0, 0, 200)


def test_hours_that_are_deferred_are_replayed_by_themselves(settings: Settings, instance: DagsterInstance) -> None:
    def tick() -> RunRequest | None:
        return next(iter(deferred_hours.evaluate_tick(sensor_context(instance)).run_requests or []), None)

    send(settings, past_events(100))
    drain_once(settings)
    assert tick() is None, "nothing is deferred"
    send(settings, past_events(200, seed=1))
    assert skip_to_head(settings, (0,), "skip to head") == 200
    requests = []
    while (request := tick()) is not None:
        requests.append(request)
        assert len(requests) <= len(these_hours())
        job = defs.resolve_job_def("replay_hours")
        elsewhere = instance.create_run_for_job(job, tags=located("elsewhere"))
        assert tick() == request, "a run of another code location is none of ours"
        queued = instance.create_run_for_job(job, tags=located(**{"dagster/partition": str(request.partition_key)}))
        assert tick() is None, "one run at a time"
        for made in (elsewhere, queued):
            instance.delete_run(made.run_id)
        done = job.execute_in_process(instance=instance, partition_key=request.partition_key, tags=located())
        assert done.success
    assert requests
    assert deferred_ranges(settings) == ()
    assert_exact(settings, events=300)


def test_a_server_that_is_away_fails_the_run_by_name(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_KAFKA__TOPIC", "no-such-topic")
    failure = run(instance, succeeds=False).failure_data_for_node("replay")
    assert failure is not None
    assert "no-such-topic" in (failure.user_failure_data.description or "")


def test_one_run_at_a_time_also_of_a_backfill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a backfill don't get the tags of a job, but their pool."""
    shutil.copy(Path(__file__).parents[2] / "dagster_home" / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with DagsterInstance.get() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        created = instance.create_run_for_job(job, asset_selection=frozenset([REPLAY]))
        assert created.run_op_concurrency is not None
        assert created.run_op_concurrency.all_pools == {POOL}
        config = instance.get_concurrency_config()
        assert (config.pool_config.default_pool_limit, config.run_queue_config.max_concurrent_runs) == (1, 20)
