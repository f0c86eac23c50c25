"""Live events before the backlog, in Dagster: a job that lets drains go on at the head, and one that backfills the
rest."""

from collections.abc import Callable
from typing import TypeVar

from dagster import (
    AssetMaterialization,
    AssetObservation,
    Config,
    OpExecutionContext,
    in_process_executor,
    job,
    op,
)
from pydantic import Field

from metrics_pipeline.defs.assets import DEAD_LETTERS_ASSET, LIVE_ASSETS, RAW_EVENTS_ASSET
from metrics_pipeline.defs.interruptible import in_thread
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import retried
from metrics_pipeline.drain.backfill import BackfillReport
from metrics_pipeline.ledger.entry import BACKFILL
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.backfill import backfill_deferred, preview_skip_to_head, shards_of, skip_to_head

_T = TypeVar("_T")


class SkipToHeadConfig(Config):
    """As `metrics-pipeline skip-to-head` has it."""

    shard: int | None = Field(default=None, ge=0, description="Of this shard alone; of all without it.")
    dry_run: bool = Field(default=True, description="Only say what would be skipped. Turn it off to skip it.")


@op
def skip_backlog(context: OpExecutionContext, config: SkipToHeadConfig, pipeline: PipelineResource) -> None:
    """Fence the drains, record the backlog as deferred, and let the next drains start at the head."""
    settings = pipeline.settings()
    shards = shards_of(settings, config.shard)

    def work(stop: Callable[[], bool]) -> int:
        if config.dry_run:
            return sum(entry.offsets for entry in preview_skip_to_head(settings, shards))
        return skip_to_head(settings, shards, context.run_id, stop=stop)

    def record(deferred: int) -> None:
        context.log.info(f"{deferred:,} offsets {'would be' if config.dry_run else 'are'} deferred")
        metadata = {"dry_run": config.dry_run, "deferred_offsets": deferred}
        context.log_event(AssetObservation(RAW_EVENTS_ASSET.key, metadata=metadata))

    _done(work, record)


@op
def backfill_backlog(context: OpExecutionContext, pipeline: PipelineResource) -> None:
    """Land what is deferred, exactly once, beside the drains. A cancel finishes the batch under way."""
    settings = pipeline.settings()
    _done(lambda stop: _backfill(context, settings, stop), lambda report: _record(context, report))


@job(
    name="skip_to_head",
    executor_def=in_process_executor,
    description="Lets drains go on at the head, and leaves the backlog to `backfill_deferred`. By default it only says "
    "what it would skip.",
    tags={"dagster/priority": "110"},
)
def skip_to_head_job() -> None:
    """One op: the relay starts the drains again."""
    skip_backlog()


@job(
    name="backfill_deferred",
    executor_def=in_process_executor,
    description="Lands what drains skipped to be at the head.",
    # Behind the live drains in the queue.
    tags={"dagster/priority": "-10"},
)
def backfill_deferred_job() -> None:
    """One op: a backfill is one owner of the side group."""
    backfill_backlog()


def _backfill(context: OpExecutionContext, settings: Settings, stop: Callable[[], bool]) -> BackfillReport:
    def show(report: BackfillReport) -> None:
        context.log.debug(f"{report.backfilled:,} of {report.total:,} offsets backfilled")

    return backfill_deferred(settings, None, context.run_id, stop=stop, on_progress=show)


def _done(work: Callable[[Callable[[], bool]], _T], record: Callable[[_T], None]) -> None:
    with retried():
        in_thread(work, record)


def _record(context: OpExecutionContext, report: BackfillReport) -> None:
    context.log.info(
        f"{report.backfilled:,} of {report.total:,} offsets backfilled: {report.inserted} inserted, "
        f"{report.duplicates} duplicates, {report.dead_letters} dead letters, {report.lost} lost"
    )
    shared: dict[str, int | str] = {"source": BACKFILL, "left": report.left}
    if report.inserted:
        landed = {"rows": report.inserted, "duplicates": report.duplicates, **shared}
        for spec in (RAW_EVENTS_ASSET, *LIVE_ASSETS.values()):
            context.log_event(AssetMaterialization(spec.key, metadata=landed))
    if report.dead_letters or report.lost:
        dead = {"rows": report.dead_letters, "lost_offsets": report.lost, **shared}
        context.log_event(AssetMaterialization(DEAD_LETTERS_ASSET.key, metadata=dead))
