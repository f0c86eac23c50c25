"""`skip-to-head` and `backfill`: live events before the backlog, and the backlog later."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import typer
from rich.console import RenderableType

from metrics_pipeline.cli.output import YES, answer, json_option, print_json, right, table, tell
from metrics_pipeline.cli.working import run_id, stoppable
from metrics_pipeline.ledger.deferred import DeferredEntry
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.timerange import minute_name
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
_JSON = json_option("one JSON object")


@app.command(
    "skip-to-head",
    epilog="Examples: metrics-pipeline skip-to-head --dry-run;  metrics-pipeline skip-to-head --shard 0 --yes",
)
def skip(
    shard: int | None = typer.Option(None, min=0, help="Of this shard alone; of all without it."),
    dry_run: bool = _DRY_RUN,
    yes: bool = YES,
    as_json: bool = _JSON,
) -> None:
    """Let drains go on at the head of the topic now, and leave the backlog to `backfill`.

    Shows what would be skipped, and asks. A drain that is running is fenced and ends; the next one starts at the head.
    What is skipped is recorded as deferred, by hours of Kafka's time: audit and charts name it until it is backfilled.
    """
    settings = load_settings()
    shards = shards_of(settings, shard)
    entries = preview_skip_to_head(settings, shards)
    if dry_run and as_json:
        print_json({"dry_run": True, **_as_fields(entries)})
        return
    tell(_told(entries, "would be skipped"), to_stderr=as_json)
    if dry_run or not entries:
        return
    if not yes:
        typer.confirm("Skip them for now?", abort=True, err=True)
    with stoppable("skipping", sum(entry.offsets for entry in entries)) as (stop, show):
        deferred = skip_to_head(
            settings, shards, run_id(), stop=stop, on_entry=lambda entry: show(advance=entry.deferred)
        )
    said = f"{deferred:,} offsets are deferred; `metrics-pipeline backfill` lands them"
    answer(as_json, {"dry_run": False, "deferred_offsets": deferred}, [said])


@app.command(epilog="Examples: metrics-pipeline backfill --dry-run;  metrics-pipeline backfill")
def backfill(dry_run: bool = _DRY_RUN, as_json: bool = _JSON) -> None:
    """Land what `skip-to-head` (or METRICS_DRAIN__SKIP_TO_HEAD_LAG_OFFSETS) skipped, exactly once, beside the drains.

    May be interrupted and repeated; one at a time, the newest wins. Ctrl-C and SIGTERM finish the batch under way.
    """
    settings = load_settings()
    if dry_run:
        entries = deferred_ranges(settings)
        answer(as_json, {"dry_run": True, **_as_fields(entries)}, _told(entries, "are deferred"))
        return
    with stoppable("backfilling") as (stop, show):
        report = backfill_deferred(
            settings, None, run_id(), stop=stop, on_progress=lambda r: show(r.backfilled, r.total)
        )
    became = {
        **picked(report, "inserted", "duplicates", "dead_letters"),
        "lost_offsets": report.lost,
        **picked(report, "taken_back", "left"),
    }
    counts = {"deferred": report.total, **picked(report, "backfilled", "batches", "consumed"), **became}
    said = f"{report.backfilled:,} of {report.total:,} offsets backfilled: {report.consumed:,} messages"
    lines = [said, *(f"  {count:,} {name.replace('_', ' ')}" for name, count in became.items())]
    answer(as_json, {"dry_run": False, **counts}, lines)


def _as_fields(entries: Sequence[DeferredEntry]) -> dict[str, object]:
    return {
        "offsets": sum(entry.offsets for entry in entries),
        "hours": [
            {
                "hour": minute_name(entry.hour_seconds),
                "first": _moment(entry.first_ms),
                "last": _moment(entry.last_ms),
                "offsets": entry.offsets,
                "ranges": entry.ranges,
            }
            for entry in entries
        ],
    }


def _told(entries: Sequence[DeferredEntry], what: str) -> Iterator[RenderableType]:
    if not entries:
        yield "no offsets " + what
        return
    span = f"{_moment(entries[0].first_ms)} to {_moment(entries[-1].last_ms)}"
    offsets = sum(entry.offsets for entry in entries)
    yield f"{offsets:,} offsets of {_partitions(entries)} partitions {what}, of {span} by Kafka's time"
    rows = ((minute_name(e.hour_seconds), str(_partitions([e])), f"{e.offsets:,}") for e in entries[:_SHOWN_HOURS])
    yield table(["hour, UTC", *right("partitions", "offsets")], rows)
    if len(entries) > _SHOWN_HOURS:
        yield f"… and {len(entries) - _SHOWN_HOURS} more hours: --json lists them"


def _partitions(entries: Iterable[DeferredEntry]) -> int:
    return len({r.partition for entry in entries for r in entry.ranges})


def _moment(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
