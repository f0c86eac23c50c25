"""Runs and ticks as of a code location: what a daemon gives them, and what tests in one process lack."""

from dagster import DagsterInstance, RepositoryDefinition, SensorEvaluationContext
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import RegisteredCodeLocationOrigin

from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.own_runs import LABEL_TAG, OwnRuns
from metrics_pipeline.defs.resources import PipelineResource

HERE = "metrics_pipeline"


def label(location: str = HERE) -> str:
    return f"{SINGLETON_REPOSITORY_NAME}@{location}"


def located(location: str = HERE, **tags: str) -> dict[str, str]:
    """The tags of a run that the location launched."""
    return {LABEL_TAG: label(location), **tags}


def own_runs(instance: DagsterInstance, location: str = HERE) -> OwnRuns:
    return OwnRuns(instance, label(location))


def sensor_context(
    instance: DagsterInstance,
    *,
    location: str | None = HERE,
    cursor: str | None = None,
    repository: RepositoryDefinition | None = None,
) -> SensorEvaluationContext:
    repository = repository or defs.get_repository_def()
    return SensorEvaluationContext(
        instance_ref=None,
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=cursor,
        repository_name=repository.name,
        repository_def=repository,
        instance=instance,
        resources={"pipeline": PipelineResource()},
        code_location_origin=RegisteredCodeLocationOrigin(location) if location else None,
    )
