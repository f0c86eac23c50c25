"""Dead letters in Dagster: a job that replays them, and a check that warns before they are dropped."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from metrics_pipeline.alerting.rules import REPLAYED_IN_TIME
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dead_letters.judge import letter_filter
from metrics_pipeline.dead_letters.replay import ReplayReport
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.defs.assets import DEAD_LETTERS_ASSET, RAW_EVENTS_ASSET, ROLLUP_1M_ASSET
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import in_thread, retried, told
from metrics_pipeline.defs.shapes import record, scheduled, step_job
from metrics_pipeline.runtime.picked import known
from metrics_pipeline.runtime.timerange import minute_name, spelled_range
from metrics_pipeline.wiring.dead_letters import dead_letter_warnings, preview_dead_letters, replay_dead_letters


class ReplayConfig(dg.Config):
    """Which dead letters, as `metrics-pipeline dead-letters replay` has it."""

    reasons: list[str] = Field(default=[], description="Reasons by the rules that judged them last; any without.")
    services: list[str] = Field(default=[], description="Services; any without.")
    when: str = Field(
        default="",
        description="Time of the messages, UTC: 'yesterday', 'last 30 minutes', 2026-11-03T10:00..2026-11-03T12:00; "
        "any without.",
    )
    dry_run: bool = Field(default=True, description="Only say what would land and what stays. Turn it off to replay.")


@dg.op
def replay_letters(context: dg.OpExecutionContext, config: ReplayConfig, pipeline: PipelineResource) -> None:
    """Land what is good by today's rules, exactly once; keep the rest with the new reason. A cancel ends it cleanly."""
    with retried():
        settings = pipeline.settings()
        span = spelled_range(config.when, datetime.now(UTC)) if config.when else None
        wanted = letter_filter(config.reasons, config.services, span)
        if config.dry_run:
            _record(context, preview_dead_letters(settings, wanted))
        else:
            in_thread(
                lambda stop: replay_dead_letters(settings, wanted, context.run_id, stop=stop),
                lambda report: _record(context, report),
            )


replay_dead_letters_job = step_job(
    replay_letters,
    "replay_dead_letters",
    "Replays dead letters by today's rules. As configured by default it only says what would happen.",
    # Behind the live drains in the queue.
    {"dagster/priority": "-10"},
)


@dg.asset_check(
    asset=DEAD_LETTERS_ASSET.key,
    name=REPLAYED_IN_TIME,
    description="Warns before Kafka or the table drops dead letters that were never replayed.",
)
def dead_letters_replayed_in_time(pipeline: PipelineResource) -> dg.AssetCheckResult:
    """As the warnings of `metrics-pipeline status`."""
    settings = pipeline.settings()
    with told(), connect(settings) as client:
        warnings = dead_letter_warnings(settings, client)
        never_replayed, oldest_ms = ClickHouseDeadLetters(client, settings.kafka.topic).never_replayed()
    oldest = None if oldest_ms is None else minute_name(oldest_ms // 1_000)
    return dg.AssetCheckResult(
        passed=not warnings,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(warnings) or None,
        metadata=known({"never_replayed": never_replayed, "oldest": oldest}),
    )


dead_letters_check_schedule = scheduled(
    "check_dead_letters",
    dg.AssetSelection.checks(dead_letters_replayed_in_time),
    "Warns before dead letters are dropped that were never replayed.",
    "17 * * * *",
    "Hourly: the warning comes days before the loss.",
)


def _record(context: dg.OpExecutionContext, report: ReplayReport) -> None:
    bad = sum(report.kept.values())
    kept = ", ".join(f"{reason} {letters}" for reason, letters in report.kept.items())
    context.log.info(
        f"{'' if report.is_dry else 'replayed '}{report.looked_at} dead letters: {report.landed} good, "
        f"{report.duplicates} stored already as another message, {bad} bad{f' ({kept})' if kept else ''}, "
        f"{report.waiting} of batches on their way"
    )
    figures = {**report.figures, "kept": bad, **{f"kept_{reason}": n for reason, n in report.kept.items()}}
    context.log_event(dg.AssetObservation(DEAD_LETTERS_ASSET.key, metadata=figures))
    if report.landed and not report.is_dry:
        record(context, (RAW_EVENTS_ASSET, ROLLUP_1M_ASSET), {"rows": report.landed, "source": "dead_letters"})
