"""Canaries in Dagster: a check of raw_events that sends them, on a schedule of a minute."""

import dagster as dg

from metrics_pipeline.alerting.burn import Tallies, burn_rate
from metrics_pipeline.alerting.canary import send_canaries
from metrics_pipeline.alerting.rules import CANARY
from metrics_pipeline.defs.assets import RAW_EVENTS_ASSET
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import told
from metrics_pipeline.defs.shapes import scheduled
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.runtime.picked import known
from metrics_pipeline.settings import load_settings


@dg.asset_check(
    asset=RAW_EVENTS_ASSET.key,
    name=CANARY,
    description="An event per shard, sent like any, was found by a query within the freshness objective: as "
    "`metrics-pipeline canary`.",
)
def canary_seen(pipeline: PipelineResource) -> dg.AssetCheckResult:
    """A failed run is not repeated: the next one is a minute away, and the burn rate counts what was sent."""
    with told():
        found = send_canaries(pipeline.settings())
    late = ", ".join(str(sighting.canary.owner.shard) for sighting in found.late)
    # Of a canary that was not seen there is no figure.
    seconds = known({f"seconds_shard_{sighting.canary.owner.shard}": sighting.seconds for sighting in found.sightings})
    rates = rates_metadata("events", found.burn.events, found.objective_share)
    for of in found.burn.canaries:
        rates |= rates_metadata(f"canaries_shard_{of.shard}", of.tallies, found.objective_share)
    return dg.AssetCheckResult(
        passed=not late,
        # One late canary is a blip. It is an error once the alert of the burn rate fires.
        severity=dg.AssetCheckSeverity.ERROR if found.burning else dg.AssetCheckSeverity.WARN,
        description=f"not visible within {found.objective_seconds:g} s: shard {late}" if late else None,
        metadata={"objective_seconds": found.objective_seconds, **seconds, **rates},
    )


def _default_status() -> dg.DefaultScheduleStatus:
    """Dagster asks for it when the location is loaded, so the setting is read then."""
    try:
        is_on = load_settings(with_local_engines=False).canary.enabled
    except ConfigurationError:
        # Each run says by name what is wrong; a location that does not load would hide that.
        return dg.DefaultScheduleStatus.STOPPED
    return dg.DefaultScheduleStatus.RUNNING if is_on else dg.DefaultScheduleStatus.STOPPED


canary_schedule = scheduled(
    "canary",
    dg.AssetSelection.checks(canary_seen),
    "Sends an event per shard and waits until a query sees each.",
    "* * * * *",
    "Every minute. It keeps an idle topic draining. Turn it on here, or with METRICS_CANARY__ENABLED.",
    status=_default_status(),
)


def rates_metadata(source: str, tallies: Tallies, objective_share: float) -> dict[str, float]:
    """Burn rates by window, of windows that had anything."""
    return known({f"burn_rate_{w}_{source}": burn_rate(tally, objective_share) for w, tally in tallies.items()})
