"""The built grains as partitioned assets, and the sensor that rebuilds what late events made stale."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import dagster as dg
from pydantic import Field

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.defs.assets import LIVE_ASSETS, ROLLUPS_GROUP, built_policy, table_spec
from metrics_pipeline.defs.own_runs import OwnRuns
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import retried
from metrics_pipeline.defs.shapes import asset_job
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.rollups.cubes import CUBES
from metrics_pipeline.rollups.grains import BUILT, SETTLE_SECONDS, Grain, grain_named
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.rollups.rebuilds import (
    FIRST_DAY,
    FIRST_WEEK,
    Rebuild,
    RecentRun,
    partition_seconds,
    plan_rebuilds,
)
from metrics_pipeline.rollups.shards import RollupsOfShards
from metrics_pipeline.rollups.state import read_stale
from metrics_pipeline.rollups.tables import table_of
from metrics_pipeline.runtime.timerange import DAY_SECONDS, WEEK_SECONDS
from metrics_pipeline.wiring.rollups import rollups as open_rollups

TICK_SECONDS = 120
MAX_STALE = 10_000
"""Looked at in one tick: a day has 169 buckets of its grains."""
_RUNS_LOOKED_AT = 10
TAGS = {"dagster/priority": "-10", "metrics/rollups": "1"}
"""Drains go first; dagster.yaml lets one run of rollups work at a time."""
POOL = "rollups"
"""Likewise for backfills that are launched from an asset's page: their runs have no tags of ours."""

_PARTITIONS = {
    # One partition ahead of the last whole one: today has closed buckets.
    DAY_SECONDS: dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1),
    WEEK_SECONDS: dg.WeeklyPartitionsDefinition(start_date=FIRST_WEEK, day_offset=4, end_offset=1),
}


class BuildConfig(dg.Config):
    """How a partition is built."""

    only_stale: bool = Field(
        default=False, description="Only buckets without a build that counts all events, instead of all closed ones."
    )


def _op_name(grain: str) -> str:
    return f"build_rollups_{grain}"


def _built_assets(grain: Grain, specs: Sequence[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The tables of a grain: one step builds the buckets of all cubes, since they are published together."""

    @dg.multi_asset(
        name=_op_name(grain.name),
        specs=specs,
        partitions_def=_PARTITIONS[partition_seconds(grain)],
        # A run costs seconds whatever it builds: 400 days are not 400 runs.
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
        description=f"Builds the closed buckets of {grain.name}, from the next finer rows.",
    )
    def build(
        context: dg.AssetExecutionContext, config: BuildConfig, pipeline: PipelineResource
    ) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        window = context.partition_time_window
        span = Span(int(window.start.timestamp()), int(window.end.timestamp()))
        began = time.monotonic()
        with retried(), open_rollups(pipeline.settings()) as rollups:
            figures = _build(rollups, grain, span, config, context.log.warning)
        figures["seconds"] = round(time.monotonic() - began, 3)
        for spec in specs:
            yield dg.MaterializeResult(asset_key=spec.key, metadata=figures)

    return build


def _build(
    rollups: RollupsOfShards, grain: Grain, span: Span, config: BuildConfig, warn: Callable[[str], None]
) -> dict[str, int | float]:
    done = rollups.rebuild(span, (grain,), only_stale=config.only_stale)
    built = done.built[grain.name]
    drifts = 0
    if done.unpublished:
        # No event came meanwhile, so rollup_builds and rows contradict: the check finds out where, and repairs it.
        starts = [start for _, start in done.unpublished]
        checked = rollups.check(Span(min(starts), max(starts) + grain.seconds), repair=True)
        drifts = len(checked.drifts)
        for drift in checked.drifts:
            warn(str(drift))
        built += rollups.rebuild(span, (grain,)).built[grain.name]
    return {
        "buckets_published": built.published,
        "buckets_in_flux": built.in_flux,
        "requests": built.requests,
        "units_repaired": done.units,
        "drifts": drifts,
    }


def _all_built() -> dict[str, dg.AssetsDefinition]:
    finer, found = dict(LIVE_ASSETS), {}
    for grain in BUILT:
        spec = partial(table_spec, group=ROLLUPS_GROUP, freshness=built_policy(grain))
        finer = {cube: spec(table_of(cube, grain), finer[cube]) for cube in CUBES}
        found[grain.name] = _built_assets(grain, tuple(finer.values()))
    return found


BUILT_ASSETS = _all_built()
"""Name of the grain -> the assets of its tables."""

REBUILD_JOBS = {
    seconds: asset_job(
        f"rebuild_rollups_{name}",
        dg.AssetSelection.assets(*(BUILT_ASSETS[g.name] for g in BUILT if partition_seconds(g) == seconds)),
        f"Builds rollups, {name}.",
        TAGS,
    )
    for seconds, name in ((DAY_SECONDS, "daily"), (WEEK_SECONDS, "weekly"))
}


@dg.sensor(
    jobs=list(REBUILD_JOBS.values()),
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Builds closed buckets that have no build yet, or that late events made stale: one run per partition.",
)
def stale_rollups(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult | dg.SkipReason:
    """Reads rollup_builds alone."""
    now_seconds = datetime.now(UTC).timestamp()
    try:
        with connect(pipeline.settings()) as client:
            stale = read_stale(client, int(now_seconds) - SETTLE_SECONDS, MAX_STALE)
    except RetryableError as error:
        return dg.SkipReason(f"{error}; the next tick tries again")
    own = OwnRuns.of_sensor(context)
    rebuilds = plan_rebuilds(stale, lambda rebuild: _runs_of(own, rebuild, now_seconds), now_seconds)
    if not rebuilds:
        return dg.SkipReason(f"{len(stale)} buckets to build, none of them due" if stale else "everything is built")
    return dg.SensorResult(run_requests=[_request(rebuild) for rebuild in rebuilds])


def _request(rebuild: Rebuild) -> dg.RunRequest:
    return dg.RunRequest(
        job_name=REBUILD_JOBS[rebuild.partition.seconds].name,
        partition_key=rebuild.partition.key,
        asset_selection=[key for grain in rebuild.grains for key in BUILT_ASSETS[grain].keys],
        run_config=dg.RunConfig(ops={_op_name(grain): BuildConfig(only_stale=True) for grain in rebuild.grains}),
        tags=TAGS,
    )


def _runs_of(own: OwnRuns, rebuild: Rebuild, now_seconds: float) -> list[RecentRun]:
    """The last runs of the partition, whoever launched them: a day and a week may have the same key."""
    keys = {
        key
        for name, assets in BUILT_ASSETS.items()
        if partition_seconds(grain_named(name)) == rebuild.partition.seconds
        for key in assets.keys
    }
    records = own.records(tags={"dagster/partition": rebuild.partition.key}, limit=_RUNS_LOOKED_AT)
    return [
        RecentRun(
            is_active=not record.dagster_run.is_finished,
            has_failed=record.dagster_run.is_failure,
            created_ago_seconds=now_seconds - record.create_timestamp.timestamp(),
        )
        for record in records
        if keys & set(record.dagster_run.asset_selection or ())
        or record.dagster_run.job_name == REBUILD_JOBS[rebuild.partition.seconds].name
    ]
