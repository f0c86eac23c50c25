"""`skip-to-head` and `backfill`: live events before the backlog, and the backlog later."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table

from metrics_pipeline.cli.output import counting, print_json
from metrics_pipeline.cli.signals import stop_on_signal
from metrics_pipeline.drain.backfill import BackfillReport
from metrics_pipeline.ledger.deferred import DeferredEntry
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.backfill import (
    backfill_deferred,
    deferred_ranges,
    preview_skip_to_head,
    shards_of,
    skip_to_head,
)

app = typer.Typer()

_SHOWN_HOURS = 48
_DRY_RUN = typer.Option(False, "--dry-run", help="Only say what would be done.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.command(
    "skip-to-head",
    epilog="Examples: metrics-pipeline skip-to-head --dry-run;  metrics-pipeline skip-to-head --shard 0 --yes",
)
def skip(
    shard: int | None = typer.Option(None, min=0, help="Of this shard alone; of all without it."),
    dry_run: bool = _DRY_RUN,
    yes: bool = typer.Option(False, "--yes", help="Don't ask."),
    as_json: bool = _JSON,
) -> None:
    """Let drains go on at the head of the topic now, and leave the backlog to `backfill`.

    Shows what would be skipped, and asks. A drain that is running is fenced and ends; the next one starts at the head.
    What is skipped is recorded as deferred, by hours of Kafka's time: audit and charts name it until it is backfilled.
    """
    settings = load_settings()
    shards, console = shards_of(settings, shard), Console(highlight=False, stderr=as_json)
    entries = preview_skip_to_head(settings, shards)
    if dry_run and as_json:
        print_json({"dry_run": True, **_as_fields(entries)})
        return
    _print(console, entries, "would be skipped")
    if dry_run or not entries:
        return
    if not yes:
        typer.confirm("Skip them for now?", abort=True, err=True)
    offsets = sum(entry.offsets for entry in entries)
    with stop_on_signal() as stop, counting("skipping", offsets) as show:
        deferred = skip_to_head(
            settings,
            shards,
            f"cli-{uuid.uuid4()}",
            stop=stop.is_set,
            on_entry=lambda entry: show(advance=entry.deferred),
        )
    if as_json:
        print_json({"dry_run": False, "deferred_offsets": deferred})
    else:
        console.print(f"{deferred:,} offsets are deferred; `metrics-pipeline backfill` lands them")


@app.command(epilog="Examples: metrics-pipeline backfill --dry-run;  metrics-pipeline backfill")
def backfill(dry_run: bool = _DRY_RUN, as_json: bool = _JSON) -> None:
    """Land what `skip-to-head` (or METRICS_DRAIN__SKIP_TO_HEAD_LAG_OFFSETS) skipped, exactly once, beside the drains.

    May be interrupted and repeated; one at a time, the newest wins. Ctrl-C and SIGTERM finish the batch under way.
    """
    settings = load_settings()
    console = Console(highlight=False, stderr=as_json)
    if dry_run:
        entries = deferred_ranges(settings)
        if as_json:
            print_json({"dry_run": True, **_as_fields(entries)})
        else:
            _print(console, entries, "are deferred")
        return
    with stop_on_signal() as stop, counting("backfilling") as show:
        report = backfill_deferred(
            settings,
            None,
            f"cli-{uuid.uuid4()}",
            stop=stop.is_set,
            on_progress=lambda report: show(completed=report.backfilled, total=report.total),
        )
    if as_json:
        print_json({"dry_run": False, **_report(report)})
        return
    console.print(f"{report.backfilled:,} of {report.total:,} offsets backfilled: {report.consumed:,} messages")
    for name, value in list(_report(report).items())[4:]:
        console.print(f"  {value:,} {name.replace('_', ' ')}")


def _as_fields(entries: Sequence[DeferredEntry]) -> dict[str, object]:
    return {
        "offsets": sum(entry.offsets for entry in entries),
        "hours": [
            {
                "hour": _hour(entry),
                "first": _moment(entry.first_ms),
                "last": _moment(entry.last_ms),
                "offsets": entry.offsets,
                "ranges": [{"partition": r.partition, "start": r.start, "end": r.end} for r in entry.ranges],
            }
            for entry in entries
        ],
    }


def _report(report: BackfillReport) -> dict[str, int]:
    return {
        "deferred": report.total,
        "backfilled": report.backfilled,
        "batches": report.batches,
        "consumed": report.consumed,
        "inserted": report.inserted,
        "duplicates": report.duplicates,
        "dead_letters": report.dead_letters,
        "lost_offsets": report.lost,
        "taken_back": report.taken_back,
        "left": report.left,
    }


def _print(console: Console, entries: Sequence[DeferredEntry], what: str) -> None:
    offsets = sum(entry.offsets for entry in entries)
    if not entries:
        console.print("no offsets " + what)
        return
    span = f"{_moment(entries[0].first_ms)} to {_moment(entries[-1].last_ms)}"
    console.print(f"{offsets:,} offsets of {_partitions(entries)} partitions {what}, of {span} by Kafka's time")
    table = Table(box=None)
    table.add_column("hour, UTC")
    for name in ("partitions", "offsets"):
        table.add_column(name, justify="right")
    for entry in entries[:_SHOWN_HOURS]:
        table.add_row(_hour(entry), str(_partitions([entry])), f"{entry.offsets:,}")
    console.print(table)
    if len(entries) > _SHOWN_HOURS:
        console.print(f"… and {len(entries) - _SHOWN_HOURS} more hours: --json lists them")


def _partitions(entries: Iterable[DeferredEntry]) -> int:
    return len({r.partition for entry in entries for r in entry.ranges})


def _hour(entry: DeferredEntry) -> str:
    return f"{datetime.fromtimestamp(entry.hour_seconds, UTC):%Y-%m-%dT%H:%MZ}"


def _moment(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
