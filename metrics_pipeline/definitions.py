"""Dagster's entry: everything that the code location holds."""

from dagster import Definitions

from metrics_pipeline.defs.alerts import alerts
from metrics_pipeline.defs.assets import ASSETS
from metrics_pipeline.defs.checks import audit_books, audit_job, audit_schedule
from metrics_pipeline.defs.drain import drain
from metrics_pipeline.defs.relay import relay
from metrics_pipeline.defs.resources import PipelineResource

defs = Definitions(
    assets=ASSETS,
    asset_checks=[audit_books],
    jobs=[drain, audit_job],
    schedules=[audit_schedule],
    sensors=[relay, alerts],
    resources={"pipeline": PipelineResource()},
)
