"""Rollups in Dagster, on a real instance and server: partitions, backfills, the sensor, the checks."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunConfig,
    RunRequest,
    build_schedule_context,
    materialize,
)

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.drift import DriftConfig
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.rollups import BUILT_ASSETS, BuildConfig, stale_rollups
from metrics_pipeline.rollups.grains import BUILT
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.defs.located import located, sensor_context
from tests.worlds.rollups import DAY, HOUR, NOON, assert_answers_are_raws, insert, number

CUBES = ("rollup", "rollup_regions", "rollup_services", "rollup_totals")

pytestmark = pytest.mark.usefixtures("undisturbed")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings, mutations_sync=1) as made:
        yield made


def key_of(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def published(client: Client, grain: int) -> int:
    return number(client, f"SELECT uniq(minute) FROM rollup_builds WHERE grain = {grain} AND built.2 > 0")


def tick(instance: DagsterInstance) -> list[RunRequest]:
    return list(stale_rollups.evaluate_tick(sensor_context(instance)).run_requests or [])


def execute(instance: DagsterInstance, request: RunRequest) -> None:
    job = defs.resolve_job_def(request.job_name or "").get_subset(asset_selection=set(request.asset_selection or ()))
    result = job.execute_in_process(
        run_config=request.run_config,
        partition_key=request.partition_key,
        tags=located(**request.tags),
        instance=instance,
    )
    assert result.success


def test_each_grain_depends_on_the_next_finer_one_of_its_cube() -> None:
    graph = defs.resolve_asset_graph()
    for cube in CUBES:
        names = [f"{cube}_{grain}" for grain in ("1m", *(g.name for g in BUILT))]
        parents = [graph.get(AssetKey(["clickhouse", name])).parent_keys for name in names]
        assert parents == [{AssetKey(["clickhouse", name])} for name in ("raw_events", *names[:-1])]
    partitions = graph.get(AssetKey(["clickhouse", "rollup_7d"])).partitions_def
    assert partitions is not None
    assert {
        int(datetime.fromisoformat(k + "T00:00Z").timestamp()) % 604_800 for k in partitions.get_partition_keys()
    } == {0}, "buckets of a week begin where partitions do"
    days = graph.get(AssetKey(["clickhouse", "rollup_1h"])).partitions_def
    assert days is not None
    assert key_of(int(time.time())) in days.get_partition_keys()


def test_a_partition_is_built_and_says_what_it_did(client: Client, instance: DagsterInstance) -> None:
    insert(client, NOON, 500, 2 * HOUR)
    result = materialize(
        [BUILT_ASSETS["1h"]],
        partition_key=key_of(NOON),
        instance=instance,
        resources={"pipeline": PipelineResource()},
    )
    assert result.success
    made = {m.asset_key.path[-1]: m for m in result.asset_materializations_for_node("build_rollups_1h")}
    assert set(made) == {f"{cube}_1h" for cube in CUBES}
    shown = {name: value.value for name, value in made["rollup_1h"].metadata.items()}
    assert (shown["buckets_published"], shown["buckets_in_flux"], shown["requests"]) == (2, 0, 500)
    assert published(client, 3_600) == 2
    assert_answers_are_raws(client, NOON, NOON + 2 * HOUR)


def test_a_backfill_over_many_partitions_is_one_run(client: Client, instance: DagsterInstance) -> None:
    insert(client, NOON - 5 * DAY, 500, 6 * DAY)
    result = materialize(
        [BUILT_ASSETS["1d"]],
        tags={
            "dagster/asset_partition_range_start": key_of(NOON - 5 * DAY),
            "dagster/asset_partition_range_end": key_of(NOON + DAY),
        },
        instance=instance,
        resources={"pipeline": PipelineResource()},
    )
    assert result.success
    assert published(client, 86_400) == 7
    assert len(instance.get_materialized_partitions(AssetKey(["clickhouse", "rollup_1d"]))) == 7
    assert_answers_are_raws(client, NOON - 5 * DAY, NOON + DAY)


def test_the_sensor_requests_what_is_stale_and_nothing_twice(client: Client, instance: DagsterInstance) -> None:
    assert stale_rollups.default_status is DefaultSensorStatus.RUNNING
    assert tick(instance) == []
    old = NOON - 8 * DAY
    insert(client, NOON, 200, HOUR)
    insert(client, old, 200, HOUR)
    requests = {(r.job_name, r.partition_key): r for r in tick(instance)}
    days = {("rebuild_rollups_daily", key_of(old)), ("rebuild_rollups_daily", key_of(NOON))}
    assert days <= set(requests)
    assert {job for job, _ in set(requests) - days} <= {"rebuild_rollups_weekly"}
    for request in requests.values():
        execute(instance, request)
    assert (published(client, 600), published(client, 3_600), published(client, 86_400)) == (12, 2, 2)
    assert tick(instance) == []
    insert(client, old, 1)
    assert tick(instance) == [], "its run was just now"
    with DagsterInstance.ephemeral() as later:
        again = [r for r in tick(later) if r.job_name == "rebuild_rollups_daily"]
        assert [r.partition_key for r in again] == [key_of(old)]
        assert {key.path[-1] for key in again[0].asset_selection or ()} == {
            f"{cube}_{grain}" for cube in CUBES for grain in ("10m", "1h", "1d")
        }
        daily, partition = defs.resolve_job_def("rebuild_rollups_daily"), {"dagster/partition": key_of(old)}
        for others in (partition, located("elsewhere", **partition)):
            later.create_run_for_job(daily, tags=others)
        assert [r.partition_key for r in tick(later) if r.job_name == daily.name] == [key_of(old)], "not runs of ours"
        later.create_run_for_job(daily, tags=located(**partition))
        assert [r for r in tick(later) if r.job_name == "rebuild_rollups_daily"] == [], "it is on its way"
        execute(instance, again[0])
    assert_answers_are_raws(client, old, old + HOUR)


def test_the_run_of_a_day_repairs_what_got_events_after_a_repair(
    settings: Settings, client: Client, instance: DagsterInstance
) -> None:
    insert(client, NOON, 200, HOUR)
    with open_rollups(settings) as rollups:
        rollups.remake(Span(NOON, NOON + HOUR))
        rollups.rebuild(Span(NOON - DAY, NOON + DAY))
        insert(client, NOON, 3)
        assert rollups.stale_units(Span(NOON, NOON + HOUR)) == [NOON]
        (request,) = [r for r in tick(instance) if r.job_name == "rebuild_rollups_daily"]
        execute(instance, request)
        assert rollups.stale_units(Span(NOON, NOON + HOUR)) == []
    assert_answers_are_raws(client, NOON, NOON + HOUR)


def test_a_bucket_that_cannot_be_published_is_checked_and_mended(client: Client, instance: DagsterInstance) -> None:
    insert(client, NOON, 500, HOUR)
    client.command("TRUNCATE TABLE rollup_totals_1m")
    result = materialize(
        [BUILT_ASSETS["1h"]],
        partition_key=key_of(NOON),
        instance=instance,
        resources={"pipeline": PipelineResource()},
    )
    (shown,) = {
        (m.metadata["buckets_published"].value, m.metadata["drifts"].value)
        for m in result.asset_materializations_for_node("build_rollups_1h")
    }
    assert shown[1] == 6
    assert_answers_are_raws(client, NOON, NOON + HOUR)
    assert published(client, 3_600) == 1


def check(instance: DagsterInstance, *, repair: bool) -> dict[str, AssetCheckEvaluation]:
    run_config = RunConfig(ops={"check_rollups": DriftConfig(last_hours=96, repair=repair)})
    result = defs.resolve_job_def("drift").execute_in_process(instance=instance, run_config=run_config)
    assert result.success
    return {e.asset_key.path[-1]: e for e in result.get_asset_check_evaluations()}


def test_the_check_says_what_drifted_and_repairs_it(client: Client, instance: DagsterInstance) -> None:
    insert(client, NOON, 500, HOUR)
    assert all(e.passed for e in check(instance, repair=True).values())
    client.command(f"ALTER TABLE rollup_regions_1m DELETE WHERE minute < toDateTime({NOON + 600}, 'UTC')")
    for repair, severity in ((False, AssetCheckSeverity.ERROR), (True, AssetCheckSeverity.WARN)):
        found = check(instance, repair=repair)
        assert {name for name, e in found.items() if not e.passed} == {"rollup_regions_1m"}
        assert found["rollup_regions_1m"].severity is severity
        assert "rollup_regions_1m counts 0" in (found["rollup_regions_1m"].description or "")
    assert all(e.passed for e in check(instance, repair=True).values())
    assert_answers_are_raws(client, NOON, NOON + HOUR)


def test_drift_that_has_no_source_left_is_an_error(client: Client, instance: DagsterInstance) -> None:
    insert(client, NOON, 500)
    client.command("TRUNCATE TABLE raw_events")
    client.command("ALTER TABLE rollup_1m UPDATE requests = requests + 1 WHERE 1")
    found = check(instance, repair=True)["rollup_1m"]
    assert (found.passed, found.severity) == (False, AssetCheckSeverity.ERROR)
    assert "--force" in (found.description or "")


def test_the_schedule_is_on_by_default_and_requests_one_run(settings: Settings, instance: DagsterInstance) -> None:
    schedule = defs.resolve_schedule_def("drift_schedule")
    assert schedule.default_status is DefaultScheduleStatus.RUNNING
    requested = schedule.evaluate_tick(build_schedule_context(instance=instance)).run_requests
    assert requested is not None
    assert len(requested) == 1


def test_runs_ask_for_stale_buckets_only_where_they_say_so() -> None:
    assert BuildConfig().only_stale is False
    assert DriftConfig().repair is True
