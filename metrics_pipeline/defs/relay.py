"""The relay sensor: starts drain runs so that draining never stops while events arrive."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from metrics_pipeline.defs.drain import DrainConfig, drain
from metrics_pipeline.defs.own_runs import OwnRuns, failed_since_success
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.drain.relay import ActiveRun, Launch, RelayPolicy, ShardState, plan_launches
from metrics_pipeline.drain.shards import shard_owner
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.kafka.intents import Owner
from metrics_pipeline.kafka.lag import PartitionLag, read_lag
from metrics_pipeline.settings import kafka_address

TICK_SECONDS = 5
SHARD_TAG = "metrics/shard"
"""With the number of shards: runs under another number are no predecessors, a new run fences them."""
LEAD_SECONDS = 10
"""A tick may come 5 s late, and a run takes some 5 s to warm up."""
_RUNS_LOOKED_AT = 20


@dg.sensor(
    job=drain,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts the next drain run of each shard shortly before the present one's window ends.",
)
def relay(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult | dg.SkipReason:
    """Reads offsets, never payloads, and commits nothing."""
    settings = pipeline.settings()
    try:
        lags = read_lag(kafka_address(settings), settings.kafka)
    except RetryableError as error:
        return dg.SkipReason(f"{error}; the next tick tries again")
    owners = [shard_owner(settings, shard, tuple(lags)) for shard in range(settings.drain.shards)]
    own = OwnRuns.of_sensor(context)
    states = [_state_of(own, owner, [lags[p] for p in owner.partitions(lags)]) for owner in owners]
    window_seconds = settings.drain.window_seconds
    policy = RelayPolicy(window_seconds, settings.drain.handover_seconds, min(LEAD_SECONDS, window_seconds / 2))
    launches = plan_launches(states, policy)
    if not launches:
        behind = (f"shard {s.shard}: {s.lag} offsets behind, {len(s.active)} active runs" for s in states)
        return dg.SkipReason("; ".join(behind))
    return dg.SensorResult(run_requests=[_request(launch, settings.drain.shards) for launch in launches])


def _request(launch: Launch, shards: int) -> dg.RunRequest:
    config = DrainConfig(shard=launch.shard, shards=shards, has_predecessor=launch.has_predecessor)
    return dg.RunRequest(
        run_config=dg.RunConfig(ops={"drain_shard": config}),
        # Live drains go before everything else in the queue.
        tags={
            SHARD_TAG: str(Owner(shards, launch.shard)),
            "metrics/launched": launch.reason,
            "dagster/priority": "100",
        },
    )


def _state_of(own: OwnRuns, owner: Owner, lags: Sequence[PartitionLag]) -> ShardState:
    now_seconds = datetime.now(UTC).timestamp()
    records = own.records(job_name=drain.name, tags={SHARD_TAG: str(owner)}, limit=_RUNS_LOOKED_AT)
    failed = failed_since_success(records)
    return ShardState(
        shard=owner.shard,
        lag=sum(lag.offsets for lag in lags),
        has_open_intent=any(lag.commit is not None and lag.commit.intent is not None for lag in lags),
        active=tuple(
            ActiveRun(r.dagster_run.run_id, now_seconds - r.create_timestamp.timestamp())
            for r in records
            if not r.dagster_run.is_finished
        ),
        failures=len(failed),
        failed_ago_seconds=now_seconds - (failed[0].end_time or now_seconds) if failed else float("inf"),
    )
