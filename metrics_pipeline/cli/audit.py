"""`audit`: are the books exact?"""

from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table

from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.cli.output import print_json
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.minutes import EVERYTHING, MinuteDrift, Scope
from metrics_pipeline.runtime.timerange import minute_name, spelled_range, whole_minutes
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.drain import audit as run_audit

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
    as_json: bool = typer.Option(False, "--json", help="Print the figures as one JSON object."),
) -> None:
    """Prove that every offset is accounted for and every event counts once, in raw_events and in rollup_1m.

    Compares the committed offsets, the ledger, raw_events, rollup_1m and dead_letters with each other, per partition
    and per minute of event time; exit 1 on any contradiction. May run while events flow: minutes that batches land in
    meanwhile are looked at again; if that never ends, they are listed as in flight, neither right nor wrong. Offsets
    are checked in full, also with --range.
    """
    scope = EVERYTHING if span is None else _scope(span)
    verdict = run_audit(load_settings(), scope, deep=deep)
    if as_json:
        print_json(_as_fields(verdict) | {"range": _bounds(scope)})
    else:
        _print(verdict)
    if not verdict.is_ok:
        raise typer.Exit(1)


def _as_fields(verdict: Verdict) -> dict[str, object]:
    books, ledger = verdict.books, verdict.books.ledger
    return {
        "ok": verdict.is_ok,
        "consumed": ledger.consumed,
        "inserted": ledger.inserted,
        "duplicates": ledger.duplicates,
        "dead_letters": ledger.dead_letters,
        "replayed": ledger.replayed,
        "skipped_offsets": ledger.skipped,
        "lost": [_range(r) for r in ledger.lost],
        "gaps": [_range(r) for r in (*ledger.gaps, *books.tail)],
        "deferred": {
            "offsets": verdict.deferred_offsets,
            "ranges": [_range(r) for r in books.deferred[:_LONGEST_LIST]],
        },
        "overlaps": [_range(r) for r in ledger.overlaps],
        "dead_letter_rows": sum((books.dead_letter_rows or {}).values()),
        "ledger_events": books.ledger_events,
        "raw_rows": books.raw_rows,
        "raw_doubles": books.raw_doubles,
        "rollup_requests": books.rollup_requests,
        "rollup_drift": verdict.rollup_drift,
        "drifting": books.drifting,
        "drifting_minutes": [_minute(m) for m in books.drifting_minutes],
        "minutes_in_flight": [minute_name(m) for m in books.minutes_in_flight],
        "open_batches": [{"batch": b.token, "ranges": [_range(r) for r in b.ranges]} for b in books.open_batches],
        "compared_from": minute_name(books.compared_from) if books.compared_from else None,
        "problems": list(verdict.problems),
    }


def _scope(span: str) -> Scope:
    minutes = whole_minutes(spelled_range(span, datetime.now(UTC)))
    return Scope(int(minutes.start.timestamp()), int(minutes.end.timestamp()))


def _bounds(scope: Scope) -> dict[str, str] | None:
    if scope.start_seconds is None or scope.end_seconds is None:
        return None
    return {"from": minute_name(scope.start_seconds), "to": minute_name(scope.end_seconds)}


def _range(r: OffsetRange) -> dict[str, int]:
    return {"partition": r.partition, "start": r.start, "end": r.end}


def _minute(m: MinuteDrift) -> dict[str, str | int]:
    return {
        "minute": minute_name(m.minute),
        "ledger": m.ledger,
        "raw": m.raw,
        "rollup": m.rollup,
        "doubles": m.doubles,
    }


def _print(verdict: Verdict) -> None:
    books, ledger, console = verdict.books, verdict.books.ledger, Console(highlight=False)
    table = Table(show_header=False, box=None)
    for name, value in (
        ("consumed", ledger.consumed),
        ("  inserted", ledger.inserted),
        ("  duplicates", ledger.duplicates),
        ("  dead letters", ledger.dead_letters),
        ("    landed by replays since", ledger.replayed),
        ("skipped offsets", ledger.skipped),
        ("deferred offsets", verdict.deferred_offsets),
        ("events by the ledger's minutes", books.ledger_events),
        ("rows in raw_events", books.raw_rows),
        ("requests in rollup_1m", books.rollup_requests),
    ):
        table.add_row(name, f"{value:,}")
    console.print(table)
    for problem in verdict.problems[:_LONGEST_PRINT]:
        console.print(f"[red]✗[/] {problem}", soft_wrap=True)
    if len(verdict.problems) > _LONGEST_PRINT:
        console.print(f"[red]✗[/] {len(verdict.problems) - _LONGEST_PRINT} more: --json lists them")
    _print_in_flight(console, verdict)
    _print_deferred(console, verdict)
    if books.compared_from:
        console.print(
            f"minutes before {minute_name(books.compared_from)} are not compared: their events may be dropped"
        )
    if verdict.is_ok:
        but = f", but for the {verdict.deferred_offsets:,} that are deferred" if verdict.deferred_offsets else ""
        console.print(f"[green]✓[/] exact: every offset accounted for{but}, every event counted once")


def _print_deferred(console: Console, verdict: Verdict) -> None:
    deferred = verdict.books.deferred
    if not deferred:
        return
    named = ", ".join(f"{r.partition}: {r.start} to {r.end - 1}" for r in deferred[:_LONGEST_PRINT])
    more = f" and {len(deferred) - _LONGEST_PRINT} more" if len(deferred) > _LONGEST_PRINT else ""
    console.print(
        f"[yellow]…[/] deferred: {verdict.deferred_offsets:,} offsets in {len(deferred)} ranges were skipped to be at "
        f"the head, and no backfill has landed them yet (by partition: {named}{more}): `metrics-pipeline backfill` "
        "lands them",
        soft_wrap=True,
    )


def _print_in_flight(console: Console, verdict: Verdict) -> None:
    books = verdict.books
    if books.minutes_in_flight:
        first, last = books.minutes_in_flight[0], books.minutes_in_flight[-1]
        console.print(
            f"[yellow]…[/] {len(books.minutes_in_flight)} minutes in flight, from {minute_name(first)} to "
            f"{minute_name(last)}: batches kept landing in them; audit them again later",
            soft_wrap=True,
        )
    for batch in books.open_batches if books.minutes_in_flight else ():
        ranges = ", ".join(f"{r.partition}: {r.start} to {r.end - 1}" for r in batch.ranges)
        console.print(f"[yellow]…[/] batch {batch.token} is open (offsets by partition: {ranges})", soft_wrap=True)
