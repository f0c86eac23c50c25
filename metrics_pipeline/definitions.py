"""Dagster's entry: everything that the code location holds."""

from dagster import Definitions

from metrics_pipeline.defs.assets import ASSETS
from metrics_pipeline.defs.checks import audit_books, audit_job, audit_schedule
from metrics_pipeline.defs.dead_letters import (
    dead_letters_check_job,
    dead_letters_check_schedule,
    dead_letters_replayed_in_time,
    replay_dead_letters_job,
)
from metrics_pipeline.defs.drain import drain
from metrics_pipeline.defs.relay import relay
from metrics_pipeline.defs.resources import PipelineResource

defs = Definitions(
    assets=ASSETS,
    asset_checks=[audit_books, dead_letters_replayed_in_time],
    jobs=[drain, audit_job, replay_dead_letters_job, dead_letters_check_job],
    schedules=[audit_schedule, dead_letters_check_schedule],
    sensors=[relay],
    resources={"pipeline": PipelineResource()},
)
