"""What jobs, schedules and metadata have in common. A run is one process: its steps work in it, one after the other."""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

RUNNING = dg.DefaultScheduleStatus.RUNNING


def asset_job(
    name: str, selection: dg.AssetSelection, description: str, tags: Mapping[str, str] | None = None
) -> UnresolvedAssetJobDefinition:
    """A job of assets, or of checks."""
    return dg.define_asset_job(
        name, selection=selection, executor_def=dg.in_process_executor, tags=tags, description=description
    )


def scheduled(
    name: str,
    work: dg.AssetSelection,
    does: str,
    cron: str,
    why: str,
    *,
    tags: Mapping[str, str] | None = None,
    status: dg.DefaultScheduleStatus = RUNNING,
    schedule: str = "",
) -> dg.ScheduleDefinition:
    """A job of its own, and its schedule, which has the job's name unless another one is given."""
    return dg.ScheduleDefinition(
        name=f"{schedule or name}_schedule",
        job=asset_job(name, work, does, tags),
        cron_schedule=cron,
        default_status=status,
        description=why,
    )


def step_job(
    step: dg.OpDefinition, name: str, description: str, tags: Mapping[str, str] | None = None
) -> dg.JobDefinition:
    """A job of one step: it is one owner of what it works on."""
    graph = dg.GraphDefinition(name=name, node_defs=[step])
    return graph.to_job(executor_def=dg.in_process_executor, tags=tags, description=description)


def record(
    context: dg.OpExecutionContext, tables: Iterable[dg.AssetSpec], metadata: Mapping[str, int | float | str]
) -> None:
    """Put what a run did on the pages of the tables, where Dagster plots it over time."""
    for table in tables:
        context.log_event(dg.AssetMaterialization(table.key, metadata=metadata))


def named(name: str, words: Iterable[str]) -> dict[str, str]:
    """Metadata of that name: these in one line; none where there are none."""
    line = ", ".join(words)
    return {name: line} if line else {}


def listed(name: str, lines: Sequence[object], most: int, where: str = "") -> dict[str, dg.MetadataValue]:
    """Metadata of that name: the first lines, and where the others are; none where there are no lines."""
    if not lines:
        return {}
    shown = [f"- {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"- {len(lines) - most} more{where}")
    return {name: dg.MetadataValue.md("\n".join(shown))}
