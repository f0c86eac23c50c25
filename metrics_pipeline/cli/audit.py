"""`audit`: are the books exact?"""

import typer
from rich.console import Console
from rich.table import Table

from metrics_pipeline.assembly import audit as run_audit
from metrics_pipeline.cli.output import print_json
from metrics_pipeline.core.audit import Verdict
from metrics_pipeline.core.offsets import OffsetRange
from metrics_pipeline.settings import load_settings

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline audit --json")
def audit(
    as_json: bool = typer.Option(False, "--json", help="Print the figures as one JSON object."),
) -> None:
    """Prove that every offset is accounted for and every event counts once, in raw_events and in rollup_1m.

    Compares the ledger with the committed offsets and the tables; exit 1 on any contradiction. While events flow, the
    batch on its way can look like one: audit a drained pipeline, or repeat it.
    """
    verdict = run_audit(load_settings())
    if as_json:
        print_json(_as_json(verdict))
    else:
        _print(verdict)
    if not verdict.is_ok:
        raise typer.Exit(1)


def _as_json(verdict: Verdict) -> dict[str, object]:
    books = verdict.books
    return {
        "ok": verdict.is_ok,
        "consumed": books.consumed,
        "inserted": books.inserted,
        "duplicates": books.duplicates,
        "dead_letters": books.dead_letters,
        "skipped_offsets": books.skipped,
        "lost": [_range(r) for r in books.lost],
        "gaps": [_range(r) for r in books.gaps],
        "overlaps": [_range(r) for r in books.overlaps],
        "raw_rows": books.raw_rows,
        "raw_doubles": books.raw_doubles,
        "rollup_requests": books.rollup_requests,
        "rollup_drift": verdict.rollup_drift,
        "problems": list(verdict.problems),
    }


def _range(r: OffsetRange) -> dict[str, int]:
    return {"partition": r.partition, "start": r.start, "end": r.end}


def _print(verdict: Verdict) -> None:
    books, console = verdict.books, Console()
    table = Table(show_header=False, box=None)
    for name, value in (
        ("consumed", books.consumed),
        ("  inserted", books.inserted),
        ("  duplicates", books.duplicates),
        ("  dead letters", books.dead_letters),
        ("skipped offsets", books.skipped),
        ("rows in raw_events", books.raw_rows),
        ("requests in rollup_1m", books.rollup_requests),
    ):
        table.add_row(name, f"{value:,}")
    console.print(table)
    for problem in verdict.problems:
        console.print(f"[red]✗[/] {problem}")
    if verdict.is_ok:
        console.print("[green]✓[/] exact: every offset accounted for, every event counted once")
