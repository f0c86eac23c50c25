"""Dead letters in Dagster: a job that replays them, and a check that warns before they are dropped."""

from collections.abc import Mapping
from datetime import UTC, datetime

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetMaterialization,
    AssetObservation,
    AssetSelection,
    Config,
    DefaultScheduleStatus,
    Failure,
    OpExecutionContext,
    ScheduleDefinition,
    asset_check,
    define_asset_job,
    in_process_executor,
    job,
    op,
)
from pydantic import Field

from metrics_pipeline.alerting.rules import REPLAYED_IN_TIME
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dead_letters.judge import LetterFilter, letter_filter
from metrics_pipeline.dead_letters.replay import ReplayReport
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.defs.assets import DEAD_LETTERS_ASSET, RAW_EVENTS_ASSET, ROLLUP_1M_ASSET
from metrics_pipeline.defs.interruptible import in_thread
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import retried
from metrics_pipeline.errors import PipelineError
from metrics_pipeline.runtime.timerange import spelled_range
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.dead_letters import dead_letter_warnings, preview_dead_letters, replay_dead_letters

CHECK_NAME = REPLAYED_IN_TIME


class ReplayConfig(Config):
    """Which dead letters, as `metrics-pipeline dead-letters replay` has it."""

    reasons: list[str] = Field(default=[], description="Reasons by the rules that judged them last; any without.")
    services: list[str] = Field(default=[], description="Services; any without.")
    when: str = Field(
        default="",
        description="Time of the messages, UTC: 'yesterday', 'last 30 minutes', 2026-11-03T10:00..2026-11-03T12:00; "
        "any without.",
    )
    dry_run: bool = Field(default=True, description="Only say what would land and what stays. Turn it off to replay.")


@op
def replay_letters(context: OpExecutionContext, config: ReplayConfig, pipeline: PipelineResource) -> None:
    """Land what is good by today's rules, exactly once; keep the rest with the new reason. A cancel ends it cleanly."""
    with retried():
        settings, wanted = pipeline.settings(), _filter(config)
        if config.dry_run:
            shown = preview_dead_letters(settings, wanted)
            context.log.info(f"{shown.looked_at} dead letters: {_told(shown)}")
            context.log_event(AssetObservation(DEAD_LETTERS_ASSET.key, metadata=_metadata(shown)))
        else:
            _replay(context, settings, wanted)


@job(
    name="replay_dead_letters",
    executor_def=in_process_executor,
    description="Replays dead letters by today's rules. As configured by default it only says what would happen.",
    # Behind the live drains in the queue.
    tags={"dagster/priority": "-10"},
)
def replay_dead_letters_job() -> None:
    """One op: a replay is one owner of the side group."""
    replay_letters()


@asset_check(
    asset=DEAD_LETTERS_ASSET.key,
    name=CHECK_NAME,
    description="Warns before Kafka or the table drops dead letters that were never replayed.",
)
def dead_letters_replayed_in_time(pipeline: PipelineResource) -> AssetCheckResult:
    """As the warnings of `metrics-pipeline status`."""
    settings = pipeline.settings()
    try:
        with connect(settings) as client:
            warnings = dead_letter_warnings(settings, client)
            never_replayed, oldest_ms = ClickHouseDeadLetters(client, settings.kafka.topic).never_replayed()
    except PipelineError as error:
        raise Failure(str(error)) from error
    oldest = (
        {} if oldest_ms is None else {"oldest": f"{datetime.fromtimestamp(oldest_ms / 1_000, UTC):%Y-%m-%dT%H:%MZ}"}
    )
    return AssetCheckResult(
        passed=not warnings,
        severity=AssetCheckSeverity.WARN,
        description="; ".join(warnings) or None,
        metadata={"never_replayed": never_replayed, **oldest},
    )


dead_letters_check_job = define_asset_job(
    "check_dead_letters",
    selection=AssetSelection.checks(dead_letters_replayed_in_time),
    executor_def=in_process_executor,
    description="Warns before dead letters are dropped that were never replayed.",
)

dead_letters_check_schedule = ScheduleDefinition(
    name="check_dead_letters_schedule",
    job=dead_letters_check_job,
    cron_schedule="17 * * * *",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Hourly: the warning comes days before the loss.",
)


def _filter(config: ReplayConfig) -> LetterFilter:
    span = spelled_range(config.when, datetime.now(UTC)) if config.when else None
    return letter_filter(config.reasons, config.services, span)


def _replay(context: OpExecutionContext, settings: Settings, wanted: LetterFilter) -> None:
    in_thread(
        lambda stop: replay_dead_letters(settings, wanted, context.run_id, stop=stop),
        lambda report: _record(context, report),
    )


def _record(context: OpExecutionContext, report: ReplayReport) -> None:
    context.log.info(f"replayed {report.looked_at} dead letters: {_told(report)}")
    context.log_event(AssetObservation(DEAD_LETTERS_ASSET.key, metadata=_metadata(report)))
    if report.landed:
        for spec in (RAW_EVENTS_ASSET, ROLLUP_1M_ASSET):
            context.log_event(
                AssetMaterialization(spec.key, metadata={"rows": report.landed, "source": "dead_letters"})
            )


def _told(report: ReplayReport) -> str:
    kept = ", ".join(f"{reason} {letters}" for reason, letters in report.kept.items())
    return (
        f"{report.landed} good, {report.duplicates} stored already as another message, "
        f"{sum(report.kept.values())} bad{f' ({kept})' if kept else ''}, {report.waiting} of batches on their way"
    )


def _metadata(report: ReplayReport) -> Mapping[str, int]:
    return {
        **report.figures,
        "kept": sum(report.kept.values()),
        **{f"kept_{reason}": letters for reason, letters in report.kept.items()},
    }
