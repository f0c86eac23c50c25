"""`rollups`: what is built, building it, and whether it says what raw_events says."""

from collections.abc import Iterator, Mapping
from enum import StrEnum

import typer

from metrics_pipeline.cli.output import BAD, GOOD, LATER, answer, first_of, json_option, table
from metrics_pipeline.cli.spans import END, START, TIMEZONE, WHEN, asked_span, now_in, whole_seconds
from metrics_pipeline.cli.working import in_shares
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.rollups.drift import State
from metrics_pipeline.rollups.grains import BUILT, LIVE, grain_named
from metrics_pipeline.rollups.operate import Checked, Rebuilt, Span
from metrics_pipeline.rollups.state import GrainState, read_state
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.timerange import minute_name
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.rollups import rollups as open_rollups

app = typer.Typer(no_args_is_help=True, help="Rollups: what is built, rebuilding, comparing with raw_events.")

_LONGEST_PRINT = 40

GrainName = StrEnum("GrainName", {grain.name: grain.name for grain in BUILT})  # type: ignore[misc]


@app.command(epilog="Example: metrics-pipeline rollups status;  metrics-pipeline rollups status --json")
def status(as_json: bool = json_option("the figures as one JSON object")) -> None:
    """Per grain: closed buckets that are built, stale or not built yet, and the size of its tables.

    Whatever is not built costs readers time, and never makes an answer wrong. In the row of 1m, buckets are units of
    ten minutes that were repaired from raw_events; one that is stale lacks late events until it is repaired again.
    """
    settings = load_settings()
    with open_rollups(settings) as rollups, connect(settings) as client:
        states = read_state(client, rollups.closed_until())
    columns = ["grain", "built", "stale", "not built", "oldest stale", "rows", "MiB on disk"]
    answer(as_json, {s.grain: _state_fields(s) for s in states}, [table(columns, map(_state_row, states))])


@app.command(
    epilog="Examples: metrics-pipeline rollups rebuild --when yesterday;  metrics-pipeline rollups rebuild "
    "--from 2026-11-01 --to 2026-11-08 --grain 1h --stale;  metrics-pipeline rollups rebuild --from-raw --from "
    "2026-11-03T10:00 --to 2026-11-03T11:00"
)
def rebuild(
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    timezone: str = TIMEZONE,
    grain: list[GrainName] | None = typer.Option(None, help="Grain to build, may be repeated; all without it."),
    stale: bool = typer.Option(False, "--stale", help="Only buckets without a right build."),
    from_raw: bool = typer.Option(
        False,
        "--from-raw",
        help=f"First make the rows of {LIVE.name}, of which all else is built, again from raw_events.",
    ),
    force: bool = typer.Option(
        False, "--force", help="With --from-raw: also where raw_events holds nothing any more. The rollups forget it."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be built, and build nothing."),
    as_json: bool = json_option("the figures as one JSON object"),
) -> None:
    """Build the closed buckets that a span of time overlaps, and repair what got events after a repair.

    Readers see each bucket's build whole or not at all, so it may run at any time, also twice, also while events flow.
    Exit 1 if something was left undone.
    """
    span = _span(when, start, end, timezone)
    grains = tuple(grain_named(name.value) for name in grain) if grain else BUILT
    with open_rollups(load_settings()) as rollups:
        if dry_run:
            plan = rollups.planned(span, grains, only_stale=stale)
            counted = {grain.name: len(buckets) for grain, buckets in plan.items()}
            units = rollups.units_in_raw(span) if from_raw else len(rollups.stale_units(span))
            answer(as_json, {"units": units, "buckets": counted}, _told_plan(counted, units))
            return
        made = Rebuilt()
        with in_shares() as share_of:
            if from_raw:
                made = rollups.remake(span, force=force, progress=share_of(f"{LIVE.name} from raw_events"))
            built = rollups.rebuild(span, grains, only_stale=stale, progress=share_of("buckets"))
    is_ok = not (made.refused or made.units_in_flux or built.units_in_flux or built.unpublished)
    done = made + built
    answer(as_json, _rebuilt_fields(done), _told_rebuilt(done), is_ok=is_ok)


@app.command(
    epilog="Examples: metrics-pipeline rollups check --when 'last 3 hours';  metrics-pipeline rollups check --when "
    "yesterday --repair"
)
def check(
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    timezone: str = TIMEZONE,
    repair: bool = typer.Option(False, "--repair", help="Repair what drifted."),
    force: bool = typer.Option(
        False, "--force", help="With --repair: also where raw_events holds nothing any more. The rollups forget it."
    ),
    as_json: bool = json_option("the findings as one JSON object"),
) -> None:
    """Compare raw_events with all rollups and rollup_builds, per closed unit of ten minutes; exit 1 if any drifted.

    Also counts the rows of each build. May run while events flow: what changes meanwhile is listed as in flux,
    neither right nor wrong. Drift that was repaired is drift, too.
    """
    span = _span(when, start, end, timezone)
    with open_rollups(load_settings()) as rollups, in_shares() as share_of:
        checked = rollups.check(span, repair=repair, force=force, progress=share_of("units"))
    answer(as_json, _checked_fields(checked), _told_checked(checked, repair=repair), is_ok=checked.is_exact)


def _span(when: str | None, start: str | None, end: str | None, timezone: str) -> Span:
    return Span(*whole_seconds(asked_span(when, start, end, now_in(timezone))))


def _state_fields(state: GrainState) -> dict[str, object]:
    return {
        **picked(state, "built", "stale", "not_built"),
        "oldest_stale": _oldest_stale(state) or None,
        **picked(state, "rows", "bytes_on_disk"),
    }


def _state_row(state: GrainState) -> list[str]:
    name = f"{state.grain} (repaired)" if state.grain == LIVE.name else state.grain
    counts = [f"{n:,}" for n in (state.built, state.stale, state.not_built)]
    size = f"{state.bytes_on_disk / (1 << 20):,.1f}"
    return [name, *counts, _oldest_stale(state), f"{state.rows:,}", size]


def _oldest_stale(state: GrainState) -> str:
    return minute_name(state.oldest_stale_seconds) if state.oldest_stale_seconds else ""


def _told_plan(buckets: Mapping[str, int], units: int) -> Iterator[str]:
    yield f"would make {units} units of ten minutes again from raw_events"
    yield from (f"would build {count} buckets of {name}" for name, count in buckets.items())


def _rebuilt_fields(done: Rebuilt) -> dict[str, object]:
    return {
        **picked(done, "units", "units_in_flux"),
        "refused_units": [minute_name(start) for start in done.refused],
        "buckets": {name: picked(built, "published", "in_flux") for name, built in done.built.items()},
        "unpublished": [{"grain": grain, "start": minute_name(start)} for grain, start in done.unpublished],
    }


def _told_rebuilt(done: Rebuilt) -> Iterator[str]:
    if done.units:
        yield f"{done.units} units of ten minutes made again from raw_events"
    for name, part in done.built.items():
        waiting = f", {part.in_flux} left, since events came meanwhile" if part.in_flux else ""
        yield f"{name}: {part.published} buckets built{waiting}"
    if done.units_in_flux:
        yield f"{LATER} {done.units_in_flux} units got events during each repair: repeat the command later"
    if done.refused:
        yield (
            f"{BAD} {len(done.refused)} units left alone, the first from {minute_name(done.refused[0])}: raw_events "
            "holds nothing of them. If that was deleted on purpose, leave them; --force makes the rollups forget them, "
            "too"
        )
    if done.unpublished:
        grain, start = done.unpublished[0]
        yield (
            f"{BAD} {len(done.unpublished)} buckets hold other events than rollup_builds says, the first of {grain} "
            f"from {minute_name(start)}: run `metrics-pipeline rollups check --repair` over them"
        )


def _checked_fields(checked: Checked) -> dict[str, object]:
    return {
        "ok": checked.is_exact,
        "units": checked.units,
        "drifts": [
            {"grain": d.grain, "start": minute_name(d.start_seconds), **picked(d, "tables", "said", "state")}
            for d in checked.drifts
        ],
        "late": [minute_name(start) for start in checked.late],
        "in_flux": [minute_name(start) for start in checked.in_flux],
        "gone": checked.gone,
    }


def _told_checked(checked: Checked, *, repair: bool) -> Iterator[str]:
    drifts = [f"{'[yellow]✓[/]' if d.state is State.REPAIRED else BAD} {d}" for d in checked.drifts]
    yield from first_of(drifts, _LONGEST_PRINT)
    if checked.late and not repair:
        yield f"{LATER} {len(checked.late)} repaired units got events since: `rollups rebuild` repairs them"
    if checked.in_flux:
        yield f"{LATER} {len(checked.in_flux)} units are in flux: batches landed in them; check them again later"
    if checked.gone:
        yield f"{LATER} {checked.gone} units are gone from raw_events: nothing to compare them with"
    if checked.is_exact:
        yield f"{GOOD} exact: {checked.units} units, every rollup says what raw_events says"
    elif not repair:
        yield "run it again with --repair to make the rollups say what raw_events says"
