"""The audit as asset checks on the tables, on a schedule."""

import time
from collections.abc import Iterator, Sequence

import dagster as dg
from pydantic import Field

from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.defs.assets import RAW_EVENTS_ASSET, ROLLUP_1M_ASSET
from metrics_pipeline.defs.resources import PipelineResource
from metrics_pipeline.defs.retries import retried
from metrics_pipeline.defs.shapes import listed, named, scheduled
from metrics_pipeline.ledger.minutes import EVERYTHING, Scope
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.timerange import MINUTE_SECONDS, minute_name
from metrics_pipeline.wiring.audit import audit as run_audit

CHECK_NAME = "exact"
EVERY_MINUTES = 10
LAST_MINUTES = 60
"""Longer than the interval, so that minutes that were in flight are judged by a later check."""
_PROVEN = {
    RAW_EVENTS_ASSET.key: "Every offset is accounted for, and every event is there once: as `metrics-pipeline audit`.",
    ROLLUP_1M_ASSET.key: "Every minute counts the events that raw_events holds.",
}
_PROBLEMS_SHOWN = 20
_RETRIES = dg.RetryPolicy(max_retries=2, delay=20, backoff=dg.Backoff.EXPONENTIAL)


class AuditConfig(dg.Config):
    """What one run of the checks covers."""

    last_minutes: int = Field(
        default=LAST_MINUTES,
        ge=0,
        description="Minutes of event time, up to now; 0: everything. Ranges of offsets are always checked in full.",
    )
    deep: bool = Field(default=False, description="Also compare the identities of all events.")


@dg.multi_asset_check(
    name="audit_books",
    specs=[dg.AssetCheckSpec(CHECK_NAME, asset=key, description=proven) for key, proven in _PROVEN.items()],
)
def audit_books(config: AuditConfig, pipeline: PipelineResource) -> Iterator[dg.AssetCheckResult]:
    """One audit answers both checks; it may run while events flow."""
    with retried(_RETRIES):
        verdict = run_audit(pipeline.settings(), _scope(config.last_minutes), deep=config.deep)
    yield _result(RAW_EVENTS_ASSET, verdict, verdict.problems)
    yield _result(ROLLUP_1M_ASSET, verdict, verdict.rollup_problems)


audit_schedule = scheduled(
    "audit",
    dg.AssetSelection.checks(audit_books),
    "Checks that nothing was lost and nothing counts twice.",
    f"*/{EVERY_MINUTES} * * * *",
    f"Audits the last {LAST_MINUTES} minutes of event time, and all ranges of offsets.",
)


def _scope(last_minutes: int) -> Scope:
    """Open at its end: producers' clocks may be ahead."""
    if not last_minutes:
        return EVERYTHING
    this_minute = int(time.time()) // MINUTE_SECONDS
    return Scope(start_seconds=(this_minute - last_minutes) * MINUTE_SECONDS)


def _result(spec: dg.AssetSpec, verdict: Verdict, problems: Sequence[str]) -> dg.AssetCheckResult:
    books = verdict.books
    return dg.AssetCheckResult(
        asset_key=spec.key,
        check_name=CHECK_NAME,
        passed=not problems,
        severity=dg.AssetCheckSeverity.ERROR,
        description=problems[0] if problems else None,
        metadata={
            **picked(books.ledger.counts, "inserted", "duplicates", "dead_letters"),
            "replayed": books.ledger.replayed,
            **picked(books, "ledger_events", "raw_rows", "rollup_requests", "rollup_drift"),
            "drifting_minutes": books.drifting,
            "minutes_in_flight": len(books.minutes_in_flight),
            **listed("problems", problems, _PROBLEMS_SHOWN, ": `metrics-pipeline audit --json` lists them"),
            **named("in_flight", map(minute_name, books.minutes_in_flight[:_PROBLEMS_SHOWN])),
        },
    )
