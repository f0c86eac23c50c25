"""Drift of the rollups as asset checks, on a schedule: found, said, and repaired."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from metrics_pipeline.defs.assets import LIVE_ASSETS
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import retried
from metrics_pipeline.defs.rollups import TAGS
from metrics_pipeline.defs.shapes import listed, named, scheduled
from metrics_pipeline.rollups.cubes import CUBES, ENDPOINTS, Cube
from metrics_pipeline.rollups.drift import Drift, State
from metrics_pipeline.rollups.grains import GRAINS
from metrics_pipeline.rollups.operate import Checked, Span
from metrics_pipeline.rollups.tables import BUILDS
from metrics_pipeline.runtime.timerange import minute_name
from metrics_pipeline.wiring.rollups import rollups as open_rollups

CHECK_NAME = "drift"
LAST_HOURS = 3
"""Longer than the interval, so that a later check judges units that were in flux."""
_SHOWN = 20


class DriftConfig(dg.Config):
    """What one run of the checks covers, and what it does about drift."""

    last_hours: int = Field(default=LAST_HOURS, ge=1, le=400 * 24, description="Hours of event time, up to now.")
    repair: bool = Field(default=True, description="Repair what drifted, and say what it was.")


@dg.multi_asset_check(
    name="check_rollups",
    specs=[
        dg.AssetCheckSpec(
            CHECK_NAME,
            asset=spec.key,
            description=f"Every closed unit of {cube.name} says what raw_events says, at every grain.",
        )
        for cube, spec in LIVE_ASSETS.items()
    ],
)
def check_rollups(config: DriftConfig, pipeline: PipelineResource) -> Iterator[dg.AssetCheckResult]:
    """One look answers the checks of all cubes; it may run while events flow."""
    with retried(), open_rollups(pipeline.settings()) as rollups:
        end = rollups.closed_until()
        checked = rollups.check(Span(end - config.last_hours * 3_600, end), repair=config.repair)
    for cube in CUBES:
        yield _result(cube, checked)


drift_schedule = scheduled(
    "drift",
    dg.AssetSelection.checks(check_rollups),
    "Compares raw_events with the rollups and repairs what drifted.",
    # Not on the hour, when everything else runs.
    "7 * * * *",
    f"Checks the closed units of the last {LAST_HOURS} hours.",
    tags=TAGS,
)


def _result(cube: Cube, checked: Checked) -> dg.AssetCheckResult:
    drifts = [drift for drift in checked.drifts if _concerns(drift, cube)]
    is_repaired = all(drift.state is State.REPAIRED for drift in drifts)
    return dg.AssetCheckResult(
        asset_key=LIVE_ASSETS[cube].key,
        check_name=CHECK_NAME,
        passed=not drifts,
        severity=dg.AssetCheckSeverity.WARN if is_repaired else dg.AssetCheckSeverity.ERROR,
        description=str(drifts[0]) if drifts else None,
        metadata={
            "units": checked.units,
            "drifts": len(drifts),
            "late_units": len(checked.late),
            "units_in_flux": len(checked.in_flux),
            **listed("drifted", drifts, _SHOWN),
            **named("in_flux", map(minute_name, checked.in_flux[:_SHOWN])),
        },
    )


def _concerns(drift: Drift, cube: Cube) -> bool:
    """rollup_builds serves all cubes: what drifts in it alone is said once."""
    tables = {cube.table(grain) for grain in GRAINS}
    return bool(tables & set(drift.tables)) or (cube is ENDPOINTS and set(drift.tables) <= {BUILDS.name})
