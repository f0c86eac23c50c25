"""Dagster's entry: everything that the code location holds."""

import dagster as dg

from metrics_pipeline.defs.alerts import alerts
from metrics_pipeline.defs.assets import ASSETS
from metrics_pipeline.defs.canary import canary_schedule, canary_seen
from metrics_pipeline.defs.checks import audit_books, audit_schedule
from metrics_pipeline.defs.dead_letters import (
    dead_letters_check_schedule,
    dead_letters_replayed_in_time,
    replay_dead_letters_job,
)
from metrics_pipeline.defs.drift import check_rollups, drift_schedule
from metrics_pipeline.defs.freshness import check_freshness, freshness_schedule
from metrics_pipeline.defs.relay import relay
from metrics_pipeline.defs.replay import deferred_hours, replay
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retention import retain, retention_schedule
from metrics_pipeline.defs.rollups import BUILT_ASSETS, stale_rollups
from metrics_pipeline.defs.skip_to_head import backfill_deferred_job, skip_to_head_job

defs = dg.Definitions(
    assets=[*ASSETS, *BUILT_ASSETS.values(), replay, retain],
    asset_checks=[audit_books, check_rollups, dead_letters_replayed_in_time, check_freshness, canary_seen],
    # Those of schedules and sensors come with these.
    jobs=[skip_to_head_job, backfill_deferred_job, replay_dead_letters_job],
    schedules=[
        audit_schedule,
        drift_schedule,
        dead_letters_check_schedule,
        freshness_schedule,
        canary_schedule,
        retention_schedule,
    ],
    sensors=[relay, stale_rollups, deferred_hours, alerts],
    resources={"pipeline": PipelineResource()},
)
