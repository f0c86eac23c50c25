"""Retention as a daily asset: the tables by the policy, and Dagster's runs and logs of this code location."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from metrics_pipeline.defs.assets import DEAD_LETTERS_ASSET, RAW_EVENTS_ASSET
from metrics_pipeline.defs.own_runs import OwnRuns
from metrics_pipeline.defs.replay import GROUP
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import retried
from metrics_pipeline.defs.rollups import POOL, TAGS
from metrics_pipeline.defs.shapes import listed, scheduled
from metrics_pipeline.retention.plan import Costs
from metrics_pipeline.retention.policy import RunsPolicy
from metrics_pipeline.retention.report import Report
from metrics_pipeline.wiring.retention import load_policy, retention

RETENTION = dg.AssetKey("retention")
NOTHING_STUCK = "nothing_stuck"
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_PAGE = 500
_MAX_PAGES = 400
"""Of runs that are looked at by one run of retention."""
_SHOWN = 50


class RetentionConfig(dg.Config):
    """What one run of retention does."""

    dry_run: bool = Field(default=False, description="Only say what would be dropped and pruned, and what stays.")


@dg.asset(
    key=RETENTION,
    # All tables of rollups, too, but a graph with all their lines is none to look at.
    deps=[RAW_EVENTS_ASSET.key, DEAD_LETTERS_ASSET.key],
    group_name=GROUP,
    kinds={"clickhouse"},
    pool=POOL,
    check_specs=[
        dg.AssetCheckSpec(
            NOTHING_STUCK,
            asset=RETENTION,
            description="Whether all that the policy keeps no longer could go; docs/runbooks/retention.md helps.",
        )
    ],
    description="Drops what the policy keeps no longer, as `metrics-pipeline retention`, and old runs of its own.",
)
def retain(
    context: dg.AssetExecutionContext, config: RetentionConfig, pipeline: PipelineResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """A run that ends anywhere is resumed by the next one."""
    with retried():
        settings = pipeline.settings()
        with retention(settings) as work:
            report = work.run(dry_run=config.dry_run)
        own = OwnRuns.of_run(context.instance, context.run)
        pruned = prune_runs(own, load_policy(settings).runs, context.run.run_id, dry_run=config.dry_run)
    for warning in report.warnings:
        context.log.warning(warning)
    for refused in report.refused:
        (context.log.info if refused.is_waiting else context.log.warning)(str(refused))
    stuck = dg.AssetCheckResult(
        check_name=NOTHING_STUCK,
        passed=not report.stuck,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"stuck": len(report.stuck), **listed("stays", report.stuck, _SHOWN)},
    )
    return dg.MaterializeResult(metadata=_metadata(report, pruned), check_results=[stuck])


retention_schedule = scheduled(
    "enforce_retention",
    dg.AssetSelection.assets(retain),
    "Drops what the policy keeps no longer.",
    "42 3 * * *",
    "Daily, when the partitions of the day that just ended its time may go.",
    # It builds what is stale first, and so takes its turn with rebuilds.
    tags=TAGS,
    schedule="retention",
)


def prune_runs(own: OwnRuns, policy: RunsPolicy, this_run_id: str, *, dry_run: bool = False) -> Counter[str]:
    """Delete runs of ours that ended and are older than the policy keeps those of their job; job -> how many."""
    # First all of them: a page begins behind a run that must still be there.
    old = list(islice(_old_runs(own, policy, this_run_id), policy.most))
    for record in [] if dry_run else old:
        _forget(own.instance, record.dagster_run.run_id)
    return Counter(record.dagster_run.job_name for record in old)


def _old_runs(own: OwnRuns, policy: RunsPolicy, this_run_id: str) -> Iterator[dg.RunRecord]:
    now = datetime.now(UTC)
    before = now - timedelta(days=min((policy.days, *policy.jobs.values())))
    cursor = None
    for _ in range(_MAX_PAGES):
        page = own.records(statuses=_ENDED, created_before=before, limit=_PAGE, ascending=True, cursor=cursor)
        for record in page:
            run = record.dagster_run
            is_old = record.create_timestamp < now - timedelta(days=policy.days_of(run.job_name))
            if is_old and run.run_id != this_run_id:
                yield record
        if len(page) < _PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _forget(instance: dg.DagsterInstance, run_id: str) -> None:
    """With what deleting a run leaves: its output, and, where a storage has a file for each run, an empty one."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
    path_of = getattr(instance.event_log_storage, "path_for_shard", None)
    if path_of is not None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path_of(run_id)}{suffix}").unlink(missing_ok=True)


def _metadata(report: Report, pruned: Counter[str]) -> Mapping[str, Any]:
    done = Counter((item.action, item.table) for item in report.done)
    lines = [f"{action} {count} of {table}" for (action, table), count in sorted(done.items())]
    return {
        "dry_run": report.is_dry,
        "bytes_freed": report.bytes_freed,
        "partitions": len(report.done),
        "refused": len(report.refused),
        "runs_pruned": pruned.total(),
        "price_of_13_months": round(report.costs.price, 2),
        "costs": _costs(report.costs),
        **listed("what", lines, len(lines)),
        **listed("stays", report.refused, _SHOWN),
        **({"pruned": dict(pruned)} if pruned else {}),
        **listed("warnings", report.warnings, len(report.warnings)),
    }


def _costs(costs: Costs) -> dg.MetadataValue:
    names = ("table", "bytes", "bytes_per_day", "days", "steady_bytes", "price_per_month")
    records = [
        dg.TableRecord({n: v if isinstance(v := getattr(cost, n), str) else round(v, 2) for n in names})
        for cost in costs.tables
    ]
    schema = dg.TableSchema([dg.TableColumn(n, "string" if n == "table" else "float") for n in names])
    return dg.MetadataValue.table(records=records, schema=schema)
