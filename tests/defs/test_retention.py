"""Retention in Dagster, on a real instance and server: the asset, its schedule, old runs and their files."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    RunConfig,
    RunsFilter,
    job,
    op,
)
from dagster._core.storage.runs.schema import RunsTable

from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.own_runs import LABEL_TAG, OwnRuns
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retention import NOTHING_STUCK, RETENTION, RetentionConfig, prune_runs, retention_schedule
from metrics_pipeline.retention.policy import RunsPolicy
from metrics_pipeline.settings import Settings
from tests.defs.located import HERE, located, own_runs


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@op
def speak() -> None:
    print("said")


@job(name="drain")
def drain_like() -> None:
    speak()


@job(name="other")
def other() -> None:
    speak()


def run_of(  # type: ignore[no-untyped-def]
    instance: DagsterInstance, made_job, days_ago: float, tags: Mapping[str, str] | None = None
) -> str:
    """A run that ended, with its logs; made older in the storage, since no clock can be turned back."""
    run_id = made_job.execute_in_process(instance=instance, tags=located() if tags is None else tags).run_id
    made_at = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days_ago)
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        connection.execute(RunsTable.update().where(RunsTable.c.run_id == run_id).values(create_timestamp=made_at))
    return run_id


def runs(instance: DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs(RunsFilter())}


def files_of(instance: DagsterInstance, run_id: str) -> list[Path]:
    return [path for path in Path(instance.root_directory).rglob("*") if run_id in str(path) and path.is_file()]


def test_runs_go_when_they_are_older_than_their_job_is_kept(instance: DagsterInstance) -> None:
    policy = RunsPolicy(days=30, jobs={"drain": 3, "kept": 400})
    old_drain, young_drain = run_of(instance, drain_like, 3.1), run_of(instance, drain_like, 2.9)
    old, young = run_of(instance, other, 31), run_of(instance, other, 29)
    active = instance.create_run_for_job(other, status=DagsterRunStatus.STARTED, tags=located()).run_id
    own = own_runs(instance)
    assert files_of(instance, old)
    assert prune_runs(own, policy, "", dry_run=True) == {"drain": 1, "other": 1}
    assert runs(instance) == {old_drain, young_drain, old, young, active}
    assert prune_runs(own, policy, "") == {"drain": 1, "other": 1}
    assert runs(instance) == {young_drain, young, active}
    for run_id in (old_drain, old):
        assert files_of(instance, run_id) == []
    assert instance.all_logs(young)
    assert prune_runs(own, policy, "") == {}


def test_runs_of_others_stay_whatever_their_jobs_are_called(instance: DagsterInstance) -> None:
    policy = RunsPolicy(days=1, jobs={}, most=2)
    others = {
        run_of(instance, made_job, days, tags)
        for days in (40, 30)
        for made_job in (drain_like, other)
        for tags in (located("elsewhere"), {LABEL_TAG: f"theirs@{HERE}"}, {})
    }
    ours = {run_of(instance, drain_like, 5), run_of(instance, drain_like, 4)}
    assert prune_runs(OwnRuns(instance, None), policy, "") == {}, "nothing says whose the runs without a label are"
    assert runs(instance) == others | ours
    assert prune_runs(own_runs(instance), policy, "") == {"drain": 2}, "others don't count towards the most"
    assert runs(instance) == others


def test_one_run_of_retention_prunes_so_many_the_oldest_first_and_not_itself(instance: DagsterInstance) -> None:
    ids = [run_of(instance, drain_like, 10 - number) for number in range(5)]
    policy = RunsPolicy(days=1, jobs={}, most=2)
    assert prune_runs(own_runs(instance), policy, ids[0]).total() == 2
    assert runs(instance) == {ids[0], ids[3], ids[4]}


def test_the_asset_says_what_it_did(settings: Settings, instance: DagsterInstance) -> None:
    old, elsewhere = run_of(instance, drain_like, 5), run_of(instance, drain_like, 5, located("elsewhere"))
    made = defs.resolve_job_def("enforce_retention")
    for dry_run in (True, False):
        result = made.execute_in_process(
            run_config=RunConfig(ops={"retention": RetentionConfig(dry_run=dry_run)}),
            instance=instance,
            resources={"pipeline": PipelineResource()},
            tags=located(),
        )
        (event,) = result.asset_materializations_for_node("retention")
        shown = {name: value.value for name, value in event.metadata.items()}
        assert (shown["dry_run"], shown["runs_pruned"], shown["refused"]) == (dry_run, 1, 0)
        assert (old in runs(instance)) is dry_run
        assert elsewhere in runs(instance)
        assert result.run_id in runs(instance)


def test_the_asset_depends_on_the_tables_and_is_scheduled() -> None:
    node = defs.resolve_asset_graph().get(RETENTION)
    assert {key.path[-1] for key in node.parent_keys} == {"raw_events", "dead_letters"}
    assert {key.name for key in defs.resolve_asset_graph().asset_check_keys if key.asset_key == RETENTION} == {
        NOTHING_STUCK
    }
    assert retention_schedule.default_status is DefaultScheduleStatus.RUNNING
