"""Live events before the backlog, in Dagster: a job that lets drains go on at the head, and one that backfills the
rest."""

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from metrics_pipeline.defs.assets import DEAD_LETTERS_ASSET, EVENT_ASSETS, RAW_EVENTS_ASSET
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import in_thread, retried
from metrics_pipeline.defs.shapes import record, step_job
from metrics_pipeline.drain.backfill import BackfillReport
from metrics_pipeline.ledger.entry import BACKFILL
from metrics_pipeline.wiring.backfill import backfill_deferred, preview_skip_to_head, shards_of, skip_to_head


class SkipToHeadConfig(dg.Config):
    """As `metrics-pipeline skip-to-head` has it."""

    shard: int | None = Field(default=None, ge=0, description="Of this shard alone; of all without it.")
    dry_run: bool = Field(default=True, description="Only say what would be skipped. Turn it off to skip it.")


@dg.op
def skip_backlog(context: dg.OpExecutionContext, config: SkipToHeadConfig, pipeline: PipelineResource) -> None:
    """Fence the drains, record the backlog as deferred, and let the next drains start at the head."""
    settings = pipeline.settings()
    shards = shards_of(settings, config.shard)

    def work(stop: Callable[[], bool]) -> int:
        if config.dry_run:
            return sum(entry.offsets for entry in preview_skip_to_head(settings, shards))
        return skip_to_head(settings, shards, context.run_id, stop=stop)

    def say(deferred: int) -> None:
        context.log.info(f"{deferred:,} offsets {'would be' if config.dry_run else 'are'} deferred")
        metadata = {"dry_run": config.dry_run, "deferred_offsets": deferred}
        context.log_event(dg.AssetObservation(RAW_EVENTS_ASSET.key, metadata=metadata))

    with retried():
        in_thread(work, say)


@dg.op
def backfill_backlog(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Land what is deferred, exactly once, beside the drains. A cancel finishes the batch under way."""
    settings = pipeline.settings()

    def show(report: BackfillReport) -> None:
        context.log.debug(f"{report.backfilled:,} of {report.total:,} offsets backfilled")

    with retried():
        in_thread(
            lambda stop: backfill_deferred(settings, None, context.run_id, stop=stop, on_progress=show),
            lambda report: _record(context, report),
        )


skip_to_head_job = step_job(
    skip_backlog,
    "skip_to_head",
    "Lets drains go on at the head, and leaves the backlog to `backfill_deferred`. By default it only says what it "
    "would skip.",
    {"dagster/priority": "110"},
)
backfill_deferred_job = step_job(
    backfill_backlog,
    "backfill_deferred",
    "Lands what drains skipped to be at the head.",
    # Behind the live drains in the queue.
    {"dagster/priority": "-10"},
)


def _record(context: dg.OpExecutionContext, report: BackfillReport) -> None:
    context.log.info(
        f"{report.backfilled:,} of {report.total:,} offsets backfilled: {report.inserted} inserted, "
        f"{report.duplicates} duplicates, {report.dead_letters} dead letters, {report.lost} lost"
    )
    shared: dict[str, int | str] = {"source": BACKFILL, "left": report.left}
    if report.inserted:
        record(context, EVENT_ASSETS, {"rows": report.inserted, "duplicates": report.duplicates, **shared})
    if report.dead_letters or report.lost:
        record(context, [DEAD_LETTERS_ASSET], {"rows": report.dead_letters, "lost_offsets": report.lost, **shared})
