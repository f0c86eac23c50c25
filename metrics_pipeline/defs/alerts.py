"""The alert sensor: signals of runs and checks come from Dagster's instance, all others from `alerting`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from pydantic import TypeAdapter, ValidationError

from metrics_pipeline.alerting.run import Copy, evaluate
from metrics_pipeline.alerting.signals import CheckSignal, RunSignal
from metrics_pipeline.defs.own_runs import OwnRuns, failed_since_success
from metrics_pipeline.defs.relay import SHARD_TAG
from metrics_pipeline.defs.resources import PipelineResource

TICK_SECONDS = 30
RUNS_WINDOW = timedelta(hours=1)
"""Runs that ended within this time are looked at; what failed before has an alert state already."""
MAX_RUNS = 500
_CHECKS_LOOKED_AT = 100
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_COPY = TypeAdapter(Copy)


@dg.sensor(
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks for what is wrong and notifies METRICS_ALERTS__DESTINATIONS; launches nothing.",
)
def alerts(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SkipReason:
    """The cursor is a copy of the alert states, for while ClickHouse is away."""
    own = OwnRuns.of_sensor(context)
    runs = read_runs(own, datetime.now(UTC))
    repository = context.repository_def
    checks = read_checks(own, sorted(repository.asset_graph.asset_check_keys) if repository else ())
    found = evaluate(pipeline.settings(), runs, checks, _copy(context.cursor))
    context.update_cursor(_COPY.dump_json(found.copy).decode())
    for notification in found.notifications:
        context.log.warning(f"{notification.unsent}: {notification.alert.summary}")
    for delivery in found.deliveries:
        if delivery.problem is not None:
            context.log.warning(f"the alert did not reach {delivery.destination}: {delivery.problem}")
    firing = found.copy.alert_states.firing
    problems = "; ".join(state.alert.key for state in firing[:5])
    return dg.SkipReason(f"{len(firing)} firing: {problems}" if firing else "nothing is wrong")


def read_runs(own: OwnRuns, now: datetime) -> tuple[RunSignal, ...]:
    """How the newest runs of each job (and shard, or partition) ended; those under way say nothing."""
    ended = own.records(statuses=_ENDED, updated_after=now - RUNS_WINDOW, limit=MAX_RUNS)
    # Sorting is stable: the one that ended last comes first within its group.
    ordered = sorted(sorted(ended, key=lambda record: record.end_time or 0, reverse=True), key=_group)
    return tuple(_run_signal(own.instance, group, list(records)) for group, records in groupby(ordered, key=_group))


def read_checks(own: OwnRuns, keys: Sequence[dg.AssetCheckKey]) -> tuple[CheckSignal, ...]:
    """The newest result of each check; one that is being evaluated, or never was, says nothing."""
    if not keys:
        return ()
    storage = own.instance.event_log_storage
    latest = storage.get_latest_asset_check_execution_by_key(keys)
    ours = own.among({record.run_id for record in latest.values()})
    found = []
    for key, newest in latest.items():
        record = newest if newest.run_id in ours else _newest_of_ours(own, key)
        if record and isinstance(evaluation := record.evaluation, dg.AssetCheckEvaluation):
            found.append(
                CheckSignal(
                    name=f"{key.asset_key.path[-1]} {key.name}",
                    passed=evaluation.passed,
                    is_error=evaluation.severity is dg.AssetCheckSeverity.ERROR,
                    description=evaluation.description or "",
                    run_id=record.run_id,
                )
            )
    return tuple(found)


def _newest_of_ours(own: OwnRuns, key: dg.AssetCheckKey) -> AssetCheckExecutionRecord | None:
    """Another code location may have a check of the same key."""
    records = own.instance.event_log_storage.get_asset_check_execution_history(key, limit=_CHECKS_LOOKED_AT)
    ours = own.among({record.run_id for record in records})
    return next((record for record in records if record.run_id in ours), None)


def _group(record: dg.RunRecord) -> tuple[str, str]:
    run = record.dagster_run
    shard, partition = run.tags.get(SHARD_TAG), run.tags.get("dagster/partition")
    return run.job_name, f"shard {shard}" if shard else partition or ""


def _run_signal(instance: dg.DagsterInstance, group: tuple[str, str], records: Sequence[dg.RunRecord]) -> RunSignal:
    failed = failed_since_success(records)
    if not failed:
        return RunSignal(*group, failures=0)
    newest = failed[0].dagster_run.run_id
    return RunSignal(*group, len(failed), newest, _error(instance, newest))


def _error(instance: dg.DagsterInstance, run_id: str) -> str:
    """The words of the step that failed, else those of the run."""
    kinds = (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE)
    events = (entry.dagster_event for kind in kinds for entry in instance.all_logs(run_id, of_type=kind))
    return next((said for event in events if event and (said := _words(event))), "")


def _words(event: dg.DagsterEvent) -> str | None:
    if event.event_type is not dg.DagsterEventType.STEP_FAILURE:
        return event.message
    data = event.step_failure_data
    described = data.user_failure_data.description if data.user_failure_data else None
    return described or (data.error.message if data.error else None)


def _copy(cursor: str | None) -> Copy:
    try:
        return _COPY.validate_json(cursor) if cursor else Copy()
    except ValidationError:
        # Another version wrote it. The table alert_log has all states but those of an outage of ClickHouse.
        return Copy()
