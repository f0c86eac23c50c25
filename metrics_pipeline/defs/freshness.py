"""Whether events are visible in time and rollups are built in time, as asset checks on a schedule."""

import time
from collections.abc import Iterator

import dagster as dg

from metrics_pipeline.alerting.catalogue import FRESHNESS_KINDS
from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.rules import FRESH
from metrics_pipeline.alerting.run import look
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.defs.assets import EVENT_ASSETS, RAW_EVENTS_ASSET
from metrics_pipeline.defs.canary import rates_metadata
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import told
from metrics_pipeline.defs.shapes import record, scheduled
from metrics_pipeline.ledger.reading_deferred import read_deferred
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.rollups.cubes import ENDPOINTS
from metrics_pipeline.rollups.grains import BUILT, SETTLE_SECONDS, Grain, grain_named
from metrics_pipeline.rollups.state import GrainState, read_state
from metrics_pipeline.rollups.tables import table_of
from metrics_pipeline.runtime.picked import known
from metrics_pipeline.settings import AlertSettings, Settings

EVERY_MINUTES = 5


def _key(grain: Grain) -> dg.AssetKey:
    """One cube speaks for all: their buckets are published together."""
    return dg.AssetKey(["clickhouse", table_of(ENDPOINTS, grain).name])


@dg.multi_asset_check(
    name="check_freshness",
    specs=[
        dg.AssetCheckSpec(
            FRESH,
            asset=RAW_EVENTS_ASSET.key,
            description="Events are visible within the objective, and none wait for longer: as `metrics-pipeline "
            "alerts status`.",
        ),
        *(
            dg.AssetCheckSpec(
                FRESH,
                asset=_key(grain),
                description="Every closed bucket was built within METRICS_ALERTS__ROLLUPS_SECONDS of its end, in all "
                f"cubes of {grain.name}.",
            )
            for grain in BUILT
        ),
    ],
    # A grain's check also runs with what builds it.
    can_subset=True,
)
def check_freshness(
    context: dg.AssetCheckExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.AssetCheckResult]:
    """What the alert sensor judges, by the same objectives, with its figures. A failed run is not repeated: the next
    one is minutes away."""
    with told():
        settings = pipeline.settings()
        selected = {key.asset_key for key in context.selected_asset_check_keys}
        if RAW_EVENTS_ASSET.key in selected:
            yield _of_events(context, settings)
        for state in _states(settings) if selected - {RAW_EVENTS_ASSET.key} else ():
            if _key(grain_named(state.grain)) in selected:
                yield _of_grain(state, settings.alerts)


freshness_schedule = scheduled(
    "freshness",
    dg.AssetSelection.checks(check_freshness),
    "Says whether events are visible in time and rollups are built in time.",
    f"*/{EVERY_MINUTES} * * * *",
    "The alert sensor notifies sooner; this keeps the figures, and the state of an idle topic.",
)


def _states(settings: Settings) -> tuple[GrainState, ...]:
    """Of the built grains, as of buckets that ended long enough ago."""
    with connect(settings) as client:
        return read_state(client, int(time.time()) - SETTLE_SECONDS - settings.alerts.rollups_seconds)[1:]


def _of_events(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
    objectives = settings.alerts
    signals, judgement = look(settings)
    partitions, flow = signals.partitions, signals.flow
    if partitions is None or flow is None:
        problems = "; ".join(engine.problem for engine in signals.engines if engine.problem)
        raise dg.Failure(problems or "the signals could not be read: the log says why", allow_retries=False)
    lag = sum(partition.lag for partition in partitions)
    # What drains skipped counts as no lag, and its events are not visible.
    with connect(settings) as client:
        skipped = read_deferred(client, LedgerScope(settings.kafka.topic, settings.kafka.group))
    deferred = sum(entry.offsets for entry in skipped)
    is_quiet = flow.landed_ago_seconds is None or flow.landed_ago_seconds > EVERY_MINUTES * 60
    # Nothing waits and no drain run reports: the tables are complete, and nothing else would say so.
    if is_quiet and not lag and not deferred:
        record(context.op_execution_context, EVENT_ASSETS, {"rows": 0, "lag_offsets": 0})
    found = [alert for alert in judgement.alerts if alert.kind in FRESHNESS_KINDS]
    figures: dict[str, float | None] = {
        "lag_offsets": lag,
        "deferred_offsets": deferred,
        "objective_seconds": objectives.freshness_seconds,
        "freshness_p99_seconds": flow.freshness_p99_seconds,
        "landed_ago_seconds": flow.landed_ago_seconds,
    }
    if signals.burn is not None:
        figures |= rates_metadata("events", signals.burn.events, objectives.freshness_share)
    is_critical = any(alert.severity is Severity.CRITICAL for alert in found)
    return dg.AssetCheckResult(
        asset_key=RAW_EVENTS_ASSET.key,
        check_name=FRESH,
        passed=not found,
        severity=dg.AssetCheckSeverity.ERROR if is_critical else dg.AssetCheckSeverity.WARN,
        description="; ".join(alert.summary for alert in found) or None,
        metadata=known(figures),
    )


def _of_grain(state: GrainState, objectives: AlertSettings) -> dg.AssetCheckResult:
    """Stale buckets are no failure: late events make some at any time, and the sensor rebuilds them at its pace."""
    waits = f"{state.not_built:,} buckets have no build {objectives.rollups_seconds:,} s after their end"
    return dg.AssetCheckResult(
        asset_key=_key(grain_named(state.grain)),
        check_name=FRESH,
        passed=not state.not_built,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{waits}: is the sensor `stale_rollups` on, and do its runs succeed?" if state.not_built else None,
        metadata={
            "buckets_built": state.built,
            "buckets_stale": state.stale,
            "buckets_not_built": state.not_built,
            "objective_seconds": objectives.rollups_seconds,
        },
    )
