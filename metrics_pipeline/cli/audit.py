"""`audit`: are the books exact?"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import typer
from rich.console import RenderableType

from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.cli.output import BAD, GOOD, LATER, answer, first_of, json_option, pairs
from metrics_pipeline.cli.spans import whole_seconds
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.minutes import EVERYTHING, Scope
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.timerange import minute_name, spelled_range, whole_minutes
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.audit import audit as run_audit

app = typer.Typer()

_LONGEST_PRINT = 20
_LONGEST_LIST = 1_000


@app.command(
    epilog="Examples: metrics-pipeline audit;  metrics-pipeline audit --range 2026-11-03T10:00..2026-11-03T11:00;  "
    "metrics-pipeline audit --range 'last 30 minutes' --json;  metrics-pipeline audit --range yesterday --deep"
)
def audit(
    span: str | None = typer.Option(
        None,
        "--range",
        metavar="FROM..TO",
        help="Event time to audit, UTC unless it says otherwise; also 'yesterday', 'last 30 minutes' … Everything "
        "without it.",
    ),
    deep: bool = typer.Option(
        False, "--deep", help="Also prove that no event is stored twice while another one of its minute is missing."
    ),
    as_json: bool = json_option("the figures as one JSON object"),
) -> None:
    """Prove that every offset is accounted for and every event counts once, in raw_events and in rollup_1m.

    Compares the committed offsets, the ledger, raw_events, rollup_1m and dead_letters with each other, per partition
    and per minute of event time; exit 1 on any contradiction. May run while events flow: minutes that batches land in
    meanwhile are looked at again; if that never ends, they are listed as in flight, neither right nor wrong. Offsets
    are checked in full, also with --range.
    """
    scope = EVERYTHING if span is None else Scope(*whole_seconds(whole_minutes(spelled_range(span, datetime.now(UTC)))))
    verdict = run_audit(load_settings(), scope, deep=deep)
    answer(as_json, _as_fields(verdict) | {"range": _bounds(scope)}, _told(verdict), is_ok=verdict.is_ok)


def _as_fields(verdict: Verdict) -> dict[str, object]:
    books, ledger = verdict.books, verdict.books.ledger
    return {
        "ok": verdict.is_ok,
        **picked(ledger.counts, "consumed", "inserted", "duplicates", "dead_letters"),
        "replayed": ledger.replayed,
        "skipped_offsets": ledger.counts.skipped,
        "lost": ledger.lost,
        "gaps": (*ledger.gaps, *books.tail),
        "deferred": {"offsets": verdict.deferred_offsets, "ranges": books.deferred[:_LONGEST_LIST]},
        "overlaps": ledger.overlaps,
        "dead_letter_rows": sum(books.dead_letter_rows.values()),
        **picked(books, "ledger_events", "raw_rows", "raw_doubles", "rollup_requests", "rollup_drift", "drifting"),
        "drifting_minutes": [asdict(m) | {"minute": minute_name(m.minute)} for m in books.drifting_minutes],
        "minutes_in_flight": [minute_name(m) for m in books.minutes_in_flight],
        "open_batches": [{"batch": b.token, "ranges": b.ranges} for b in books.open_batches],
        "compared_from": minute_name(books.compared_from) if books.compared_from else None,
        "problems": verdict.problems,
    }


def _bounds(scope: Scope) -> dict[str, str] | None:
    if scope.start_seconds is None or scope.end_seconds is None:
        return None
    return {"from": minute_name(scope.start_seconds), "to": minute_name(scope.end_seconds)}


def _told(verdict: Verdict) -> Iterator[RenderableType]:
    books, ledger = verdict.books, verdict.books.ledger
    counts = {
        "consumed": ledger.counts.consumed,
        "  inserted": ledger.counts.inserted,
        "  duplicates": ledger.counts.duplicates,
        "  dead letters": ledger.counts.dead_letters,
        "    landed by replays since": ledger.replayed,
        "skipped offsets": ledger.counts.skipped,
        "deferred offsets": verdict.deferred_offsets,
        "events by the ledger's minutes": books.ledger_events,
        "rows in raw_events": books.raw_rows,
        "requests in rollup_1m": books.rollup_requests,
    }
    yield pairs({name: f"{count:,}" for name, count in counts.items()})
    yield from first_of([f"{BAD} {problem}" for problem in verdict.problems], _LONGEST_PRINT)
    yield from _in_flight(verdict)
    yield from _deferred(verdict)
    if books.compared_from:
        yield f"minutes before {minute_name(books.compared_from)} are not compared: their events may be dropped"
    if verdict.is_ok:
        but = f", but for the {verdict.deferred_offsets:,} that are deferred" if verdict.deferred_offsets else ""
        yield f"{GOOD} exact: every offset accounted for{but}, every event counted once"


def _deferred(verdict: Verdict) -> Iterator[str]:
    deferred = verdict.books.deferred
    if deferred:
        more = f" and {len(deferred) - _LONGEST_PRINT} more" if len(deferred) > _LONGEST_PRINT else ""
        yield (
            f"{LATER} deferred: {verdict.deferred_offsets:,} offsets in {len(deferred)} ranges were skipped to be at "
            f"the head, and no backfill has landed them yet (by partition: {_named(deferred[:_LONGEST_PRINT])}{more}): "
            "`metrics-pipeline backfill` lands them"
        )


def _in_flight(verdict: Verdict) -> Iterator[str]:
    minutes = verdict.books.minutes_in_flight
    if minutes:
        yield (
            f"{LATER} {len(minutes)} minutes in flight, from {minute_name(minutes[0])} to {minute_name(minutes[-1])}: "
            "batches kept landing in them; audit them again later"
        )
    for batch in verdict.books.open_batches if minutes else ():
        yield f"{LATER} batch {batch.token} is open (offsets by partition: {_named(batch.ranges)})"


def _named(ranges: Sequence[OffsetRange]) -> str:
    return ", ".join(f"{r.partition}: {r.start} to {r.end - 1}" for r in ranges)
