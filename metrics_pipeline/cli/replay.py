"""`replay`: hours of the topic once more, so that raw_events and rollups say what it says."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple

import typer

from metrics_pipeline.cli.output import LATER, YES, answer, json_option, tell
from metrics_pipeline.cli.spans import END, START, TIMEZONE, WHEN, asked_span, now_in, whole_seconds
from metrics_pipeline.cli.working import carefully, counting, run_id, stoppable
from metrics_pipeline.replay.hours import hours_around
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.replay.report import HourReport
from metrics_pipeline.runtime.timerange import HOUR_SECONDS, minute_name
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.replay import preview_hours, replay_hours

app = typer.Typer()


@app.command(
    epilog="Examples: metrics-pipeline replay --from 2026-11-03T10:00 --to 2026-11-03T12:00 --dry-run;  "
    "metrics-pipeline replay --when yesterday --mode replace"
)
def replay(
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    timezone: str = TIMEZONE,
    mode: Mode = typer.Option(
        Mode.FILL, help="fill: insert what is missing. replace: also remove what today's rules say otherwise."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be inserted and removed."),
    yes: bool = YES,
    as_json: bool = json_option("one JSON object"),
) -> None:
    """Read the topic once more and bring raw_events, dead_letters and rollups to what it says.

    By the time of messages, in whole hours around the span. At a terminal it says first what would happen, and asks;
    elsewhere, or with --yes or --json, it begins at once. May run beside drains, be interrupted and be repeated: a
    second replay changes nothing. One at a time, the newest wins.
    """
    settings = load_settings()
    span = asked_span(when, start, end, now_in(timezone))
    hours = hours_around(*whole_seconds(span))
    first, end_of_last = (name.removesuffix("Z") for name in _bounds(hours).values())
    tell([f"hours of messages: {first} to {end_of_last} UTC, {len(hours)} in all"], to_stderr=as_json)

    def look() -> HourReport:
        with counting("looking") as show:
            return preview_hours(settings, hours, mode, lambda r: show(r.looked_at, r.offsets))

    def act() -> HourReport:
        with stoppable("replaying") as (stop, show):
            return replay_hours(
                settings, hours, mode, run_id(), stop=stop, on_progress=lambda r: show(r.looked_at, r.offsets)
            )

    carefully(
        look,
        act,
        lambda report, is_dry: answer(as_json, _fields(report, hours, mode, is_dry), _told(report, mode, is_dry)),
        lambda shown: f"Change {shown.changed:,} rows?" if shown.changed else "",
        dry_run=dry_run,
        asks=not (as_json or yes),
    )


def _bounds(hours: Sequence[int]) -> dict[str, str]:
    return {"from": minute_name(hours[0]), "to": minute_name(hours[-1] + HOUR_SECONDS)}


def _fields(report: HourReport, hours: Sequence[int], mode: Mode, is_dry: bool) -> dict[str, object]:
    return {
        "dry_run": is_dry,
        "mode": mode.value,
        **_bounds(hours),
        **report.figures,
        "dropped_ranges": [astuple(r) for r in report.dropped_ranges],
    }


def _told(report: HourReport, mode: Mode, is_dry: bool) -> Iterator[str]:
    would = "would be " if is_dry else ""
    yield (
        f"{report.messages:,} messages at {report.looked_at:,} offsets of {report.partitions} partitions: "
        f"{report.right:,} right, {report.duplicates:,} duplicates, {report.letters:,} dead letters"
    )
    changes = [
        (report.restored, f"rows {would}restored: they were lost"),
        (report.added, f"rows {would}added: by the rules of before they were something else"),
        (report.replaced, f"rows {would}replaced: their content was another"),
        (report.removed, f"rows {would}removed: their messages are no events, or duplicates"),
        (report.dead_letters, f"dead letters {would}made of messages that are no events"),
        (report.restored_letters, f"dead letters {would}made again: they were lost"),
        (report.refused, "rows were refused by the server, and are dead letters now"),
        (report.units_repaired, "units of ten minutes repaired in the rollups"),
    ]
    yield from (f"  {count:,} {words}" for count, words in changes if count)
    if not report.changed and not report.recovered and report.looked_at == report.offsets:
        yield "  nothing to change"
    yield from (f"{LATER} {line}" for line in _left(report, mode))


def _left(report: HourReport, mode: Mode) -> Iterator[str]:
    """What the replay does nothing about, and why."""
    if report.dropped:
        ranges = ", ".join(f"{r.partition}:{r.start}-{r.end - 1}" for r in report.dropped_ranges[:8])
        more = ", …" if len(report.dropped_ranges) > 8 else ""
        yield f"{report.dropped:,} offsets are no longer in the topic, so can't be replayed: {ranges}{more}"
    if report.left_to_drains:
        yield f"{report.left_to_drains:,} offsets have not landed yet: they are left to the drains"
    if report.deferred:
        yield f"{report.deferred:,} offsets were deferred, since drains skipped them: they are backfilled first"
    if report.unaccounted:
        yield f"{report.unaccounted:,} offsets are in no row of the ledger: `metrics-pipeline audit` names them"
    if report.good_letters:
        yield f"{report.good_letters:,} dead letters are good by today's rules: `metrics-pipeline dead-letters replay`"
    if report.unrepaired:
        yield f"{report.unrepaired:,} messages are too fresh to repair their rollups: replay again in 15 minutes"
    if report.other and mode is Mode.FILL:
        yield (
            f"{report.other:,} events were something else by the rules that judged them: --mode replace puts that right"
        )
    if report.units_left:
        yield (
            f"{report.units_left:,} units of rollups were left: events came meanwhile, or the topic holds too few of "
            "theirs; `metrics-pipeline rollups check` says what is in them"
        )
    if report.recovered:
        yield "what an earlier replay left half done was finished first"
