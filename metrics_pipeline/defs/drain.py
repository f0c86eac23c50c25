"""The drain job: one run drains one shard for one window."""

import dagster as dg
from pydantic import Field

from metrics_pipeline.defs.assets import DEAD_LETTERS_ASSET, EVENT_ASSETS
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import in_thread, retried
from metrics_pipeline.defs.shapes import record, step_job
from metrics_pipeline.drain.drain import DrainReport
from metrics_pipeline.errors import StuckClientError
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_window_ends


class DrainConfig(dg.Config):
    """What one run drains."""

    shard: int = Field(default=0, ge=0, description="Shard to drain.")
    shards: int | None = Field(
        default=None, ge=1, description="How many shards there are; without it METRICS_DRAIN__SHARDS."
    )
    has_predecessor: bool = Field(
        default=False,
        description="Another run may be draining the shard: announce ourselves and wait for it.",
    )


@dg.op
def drain_shard(context: dg.OpExecutionContext, config: DrainConfig, pipeline: PipelineResource) -> None:
    """Drain one shard until its window ends. A cancel or SIGTERM flushes and commits first."""
    with retried():
        settings = pipeline.settings(shards=config.shards)
        run = DrainRun(context.run_id, config.shard, has_predecessor=config.has_predecessor)
        try:
            in_thread(
                lambda stop: run_drain(settings, run, until_window_ends(settings), stop=stop),
                lambda report: _record(context, config.shard, report),
            )
        except StuckClientError as error:
            raise dg.Failure(str(error)) from error


drain = step_job(drain_shard, "drain", "Drains a shard of the topic into ClickHouse for one window.")


def _record(context: dg.OpExecutionContext, shard: int, report: DrainReport) -> None:
    context.log.info(
        f"shard {shard}: {report.reason}; {report.consumed} messages in {report.batches} batches, "
        f"{report.inserted} inserted, {report.duplicates} duplicates, {report.dead_letters} dead letters"
    )
    if report.lost:
        context.log.error(
            f"{report.lost} offsets were dropped by the topic's retention before they were read: the ledger has "
            "the ranges, `metrics-pipeline audit` lists them"
        )
    if report.deferred:
        context.log.warning(
            f"{report.deferred} offsets were skipped to be at the head: they are deferred until the job "
            "backfill_deferred, or `metrics-pipeline backfill`, has landed them"
        )
    shared = {"shard": shard, "run_ended": report.reason.value, "batches": report.batches}
    landed: dict[str, int | float | str] = {"rows": report.inserted, "duplicates": report.duplicates, **shared}
    if report.freshness_ms:
        landed |= {
            "freshness_p50_seconds": report.freshness_seconds(0.5),
            "freshness_p99_seconds": report.freshness_seconds(0.99),
            "freshness_max_seconds": report.freshness_seconds(1.0),
        }
    record(context, EVENT_ASSETS, landed)
    record(context, [DEAD_LETTERS_ASSET], {"rows": report.dead_letters, "lost_offsets": report.lost, **shared})
