"""The replay of hours in Dagster: an asset with an hour per partition, so that a backfill of the UI replays hours."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from metrics_pipeline.defs.assets import DEAD_LETTERS_ASSET, EVENT_ASSETS, TOPIC
from metrics_pipeline.defs.own_runs import OwnRuns
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import in_thread, retried
from metrics_pipeline.defs.shapes import asset_job, named, record
from metrics_pipeline.defs.skip_to_head import backfill_deferred_job
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.ledger.deferred import deferred_hours as hours_of
from metrics_pipeline.replay.hours import hours_around
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.replay.report import HourReport
from metrics_pipeline.rollups.rebuilds import FIRST_DAY
from metrics_pipeline.wiring.backfill import deferred_ranges
from metrics_pipeline.wiring.replay import preview_hours, replay_hours

GROUP = "operations"
MAX_HOURS_PER_RUN = 6
"""A run costs seconds whatever it does; one that is cancelled or fails is repeated whole."""
POOL = "replay"
"""One run at a time, also of a backfill that is launched from the asset's page: the instance gives a pool one slot."""
TAGS = {"dagster/priority": "-20"}
"""Behind all others in the queue."""
TICK_SECONDS = 60
PAUSE_AFTER_FAILURE_SECONDS = 300


class ReplayConfig(dg.Config):
    """What is done with the hours of the run's partitions, as `metrics-pipeline replay` has it."""

    mode: Mode = Field(
        default=Mode.FILL,
        description="fill: insert what is missing. replace: also replace what today's rules say otherwise.",
    )
    dry_run: bool = Field(default=False, description="Only say what would be inserted and removed.")


@dg.asset(
    key=dg.AssetKey(["replay"]),
    partitions_def=dg.HourlyPartitionsDefinition(start_date=f"{FIRST_DAY}-00:00", end_offset=1),
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=MAX_HOURS_PER_RUN),
    deps=[TOPIC],
    group_name=GROUP,
    kinds={"kafka", "clickhouse"},
    pool=POOL,
    description="Reads hours of the topic once more, by the time of messages, and inserts what raw_events, "
    "dead_letters and rollups lack of them. Nothing changes where nothing is missing.",
)
def replay(context: dg.AssetExecutionContext, config: ReplayConfig, pipeline: PipelineResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """A cancel ends it cleanly, after the chunk that is under way."""
    window = context.partition_time_window
    hours = hours_around(int(window.start.timestamp()), int(window.end.timestamp()))
    with retried():
        settings = pipeline.settings()
        if config.dry_run:
            report = preview_hours(settings, hours, config.mode)
        else:
            report = in_thread(
                lambda stop: replay_hours(settings, hours, config.mode, context.run.run_id, stop=stop),
                lambda done: _record(context, done),
            )
    dropped = (f"{r.partition}:{r.start}-{r.end - 1}" for r in report.dropped_ranges[:100])
    return dg.MaterializeResult(
        metadata={
            "dry_run": config.dry_run,
            "mode": config.mode.value,
            **report.figures,
            **named("no_longer_in_the_topic", dropped),
        }
    )


replay_job = asset_job(
    "replay_hours",
    dg.AssetSelection.assets(replay),
    "Replays hours of the topic: brings raw_events, dead_letters and rollups to what it says.",
    TAGS,
)


@dg.sensor(
    job=replay_job,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Replays hours of which drains have skipped something, the newest first, one run at a time.",
)
def deferred_hours(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.RunRequest | dg.SkipReason:
    """Reads the ledger alone."""
    settings = pipeline.settings()
    try:
        hours = hours_of(deferred_ranges(settings))
    except RetryableError as error:
        return dg.SkipReason(f"{error}; the next tick tries again")
    if not hours:
        return dg.SkipReason("nothing is deferred")
    if job := _busy(OwnRuns.of_sensor(context)):
        return dg.SkipReason(f"{len(hours)} hours are deferred; a run of {job} is at it, or failed just now")
    return dg.RunRequest(partition_key=f"{datetime.fromtimestamp(hours[-1], UTC):%Y-%m-%d-%H:%M}", tags=TAGS)


def _busy(own: OwnRuns) -> str | None:
    """The job whose run lands deferred ranges right now, as backfills fence each other, or failed a moment ago."""
    for job in (replay_job.name, backfill_deferred_job.name):
        for last in own.records(job_name=job, limit=1):
            ended_ago_seconds = datetime.now(UTC).timestamp() - (last.end_time or 0.0)
            has_just_failed = last.dagster_run.is_failure and ended_ago_seconds < PAUSE_AFTER_FAILURE_SECONDS
            if has_just_failed or not last.dagster_run.is_finished:
                return job
    return None


def _record(context: dg.AssetExecutionContext, report: HourReport) -> None:
    """Put what has changed on the pages of the tables."""
    inserted = report.restored + report.added + report.replaced
    letters = report.dead_letters + report.restored_letters
    context.log.info(
        f"{report.messages} messages of {report.hours} hours: {report.restored} rows restored, {report.added} added, "
        f"{report.replaced} replaced, {report.removed} removed; {letters} dead letters; "
        f"{report.units_repaired} units of rollups repaired"
    )
    if inserted or report.removed:
        removed = report.removed + report.replaced
        record(context.op_execution_context, EVENT_ASSETS, {"rows": inserted, "removed": removed, "source": "replay"})
    if letters:
        record(context.op_execution_context, [DEAD_LETTERS_ASSET], {"rows": letters, "source": "replay"})
