"""Canaries in Dagster: a check of raw_events that sends them, on a schedule of a minute."""

from collections.abc import Mapping

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetSelection,
    DefaultScheduleStatus,
    Failure,
    ScheduleDefinition,
    asset_check,
    define_asset_job,
    in_process_executor,
)

from metrics_pipeline.alerting.burn import Tallies, burn_rate
from metrics_pipeline.alerting.canary import Round, send_canaries
from metrics_pipeline.alerting.rules import CANARY
from metrics_pipeline.defs.assets import RAW_EVENTS_ASSET
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.errors import ConfigurationError, PipelineError
from metrics_pipeline.settings import load_settings


@asset_check(
    asset=RAW_EVENTS_ASSET.key,
    name=CANARY,
    description="An event per shard, sent like any, was found by a query within the freshness objective: as "
    "`metrics-pipeline canary`.",
)
def canary_seen(pipeline: PipelineResource) -> AssetCheckResult:
    """A failed run is not repeated: the next one is a minute away, and the burn rate counts what was sent."""
    try:
        found = send_canaries(pipeline.settings())
    except PipelineError as error:
        raise Failure(str(error), allow_retries=False) from error
    late = ", ".join(str(sighting.canary.owner.shard) for sighting in found.late)
    return AssetCheckResult(
        passed=not late,
        # One late canary is a blip. It is an error once the alert of the burn rate fires.
        severity=AssetCheckSeverity.ERROR if found.burning else AssetCheckSeverity.WARN,
        description=f"not visible within {found.objective_seconds:g} s: shard {late}" if late else None,
        metadata=_metadata(found),
    )


canary_job = define_asset_job(
    "canary",
    selection=AssetSelection.checks(canary_seen),
    executor_def=in_process_executor,
    description="Sends an event per shard and waits until a query sees each.",
)


def _default_status() -> DefaultScheduleStatus:
    """Dagster asks for it when the location is loaded, so the setting is read then."""
    try:
        is_on = load_settings(with_local_engines=False).canary.enabled
    except ConfigurationError:
        # Each run says by name what is wrong; a location that does not load would hide that.
        return DefaultScheduleStatus.STOPPED
    return DefaultScheduleStatus.RUNNING if is_on else DefaultScheduleStatus.STOPPED


canary_schedule = ScheduleDefinition(
    name="canary_schedule",
    job=canary_job,
    cron_schedule="* * * * *",
    default_status=_default_status(),
    description="Every minute. It keeps an idle topic draining. Turn it on here, or with METRICS_CANARY__ENABLED.",
)


def _metadata(found: Round) -> Mapping[str, float]:
    """Figures that Dagster plots over time; of a canary that was not seen there is none."""
    seconds = {
        f"seconds_shard_{sighting.canary.owner.shard}": sighting.seconds
        for sighting in found.sightings
        if sighting.seconds is not None
    }
    rates = rates_metadata("events", found.burn.events, found.objective_share)
    for of in found.burn.canaries:
        rates |= rates_metadata(f"canaries_shard_{of.shard}", of.tallies, found.objective_share)
    return {"objective_seconds": found.objective_seconds, **seconds, **rates}


def rates_metadata(source: str, tallies: Tallies, objective_share: float) -> dict[str, float]:
    """Burn rates by window, of windows that had anything."""
    rates = {window: burn_rate(tally, objective_share) for window, tally in tallies.items()}
    return {f"burn_rate_{window}_{source}": rate for window, rate in rates.items() if rate is not None}
