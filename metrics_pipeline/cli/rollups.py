"""`rollups`: what is built, building it, and whether it says what raw_events says."""

from enum import StrEnum
from math import ceil

import typer
from rich.console import Console
from rich.table import Table

from metrics_pipeline.cli.output import in_shares, print_json
from metrics_pipeline.cli.spans import END, START, TIMEZONE, WHEN, asked_span, now_in
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.rollups.drift import Drift, State
from metrics_pipeline.rollups.grains import BUILT, LIVE, grain_named
from metrics_pipeline.rollups.operate import Checked, Rebuilt, Span
from metrics_pipeline.rollups.state import GrainState, read_state
from metrics_pipeline.runtime.timerange import minute_name
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.drain import rollups as open_rollups

app = typer.Typer(no_args_is_help=True, help="Rollups: what is built, rebuilding, comparing with raw_events.")

_LONGEST_PRINT = 40

GrainName = StrEnum("GrainName", {grain.name: grain.name for grain in BUILT})  # type: ignore[misc]


@app.command(epilog="Example: metrics-pipeline rollups status;  metrics-pipeline rollups status --json")
def status(as_json: bool = typer.Option(False, "--json", help="Print the figures as one JSON object.")) -> None:
    """Per grain: closed buckets that are built, stale or not built yet, and the size of its tables.

    Whatever is not built costs readers time, and never makes an answer wrong. In the row of 1m, buckets are units of
    ten minutes that were repaired from raw_events; one that is stale lacks late events until it is repaired again.
    """
    settings = load_settings()
    with open_rollups(settings) as rollups, connect(settings) as client:
        states = read_state(client, rollups.closed_until())
    if as_json:
        print_json({state.grain: _state_fields(state) for state in states})
        return
    table = Table("grain", "built", "stale", "not built", "oldest stale", "rows", "MiB on disk", box=None)
    for state in states:
        oldest = minute_name(state.oldest_stale_seconds) if state.oldest_stale_seconds else ""
        name = f"{state.grain} (repaired)" if state.grain == LIVE.name else state.grain
        counts = [f"{n:,}" for n in (state.built, state.stale, state.not_built)]
        table.add_row(name, *counts, oldest, f"{state.rows:,}", f"{state.bytes_on_disk / (1 << 20):,.1f}")
    Console(highlight=False).print(table)


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
    as_json: bool = typer.Option(False, "--json", help="Print the figures as one JSON object."),
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
            _print_plan(counted, rollups.units_in_raw(span) if from_raw else len(rollups.stale_units(span)), as_json)
            return
        made = Rebuilt()
        with in_shares() as share_of:
            if from_raw:
                made = rollups.remake(span, force=force, progress=share_of(f"{LIVE.name} from raw_events"))
            built = rollups.rebuild(span, grains, only_stale=stale, progress=share_of("buckets"))
    _print_rebuilt(made, built, as_json)
    if made.refused or made.units_in_flux or built.units_in_flux or built.unpublished:
        raise typer.Exit(1)


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
    as_json: bool = typer.Option(False, "--json", help="Print the findings as one JSON object."),
) -> None:
    """Compare raw_events with all rollups and rollup_builds, per closed unit of ten minutes; exit 1 if any drifted.

    Also counts the rows of each build. May run while events flow: what changes meanwhile is listed as in flux,
    neither right nor wrong. Drift that was repaired is drift, too.
    """
    span = _span(when, start, end, timezone)
    with open_rollups(load_settings()) as rollups, in_shares() as share_of:
        checked = rollups.check(span, repair=repair, force=force, progress=share_of("units"))
    if as_json:
        print_json(_checked_fields(checked))
    else:
        _print_checked(checked, repair=repair)
    if not checked.is_exact:
        raise typer.Exit(1)


def _span(when: str | None, start: str | None, end: str | None, timezone: str) -> Span:
    chosen = asked_span(when, start, end, now_in(timezone))
    return Span(int(chosen.start.timestamp()), ceil(chosen.end.timestamp()))


def _state_fields(state: GrainState) -> dict[str, object]:
    oldest = state.oldest_stale_seconds
    return {
        "built": state.built,
        "stale": state.stale,
        "not_built": state.not_built,
        "oldest_stale": minute_name(oldest) if oldest else None,
        "rows": state.rows,
        "bytes_on_disk": state.bytes_on_disk,
    }


def _print_plan(buckets: dict[str, int], units: int, as_json: bool) -> None:
    if as_json:
        print_json({"units": units, "buckets": buckets})
        return
    typer.echo(f"would make {units} units of ten minutes again from raw_events")
    for name, count in buckets.items():
        typer.echo(f"would build {count} buckets of {name}")


def _print_rebuilt(made: Rebuilt, built: Rebuilt, as_json: bool) -> None:
    refused = [minute_name(start) for start in made.refused]
    unpublished = [{"grain": grain, "start": minute_name(start)} for grain, start in built.unpublished]
    units, in_flux = made.units + built.units, made.units_in_flux + built.units_in_flux
    if as_json:
        published = {name: {"published": b.published, "in_flux": b.in_flux} for name, b in built.built.items()}
        print_json(
            {
                "units": units,
                "units_in_flux": in_flux,
                "refused_units": refused,
                "buckets": published,
                "unpublished": unpublished,
            }
        )
        return
    console = Console(highlight=False)
    if units:
        console.print(f"{units} units of ten minutes made again from raw_events")
    for name, part in built.built.items():
        waiting = f", {part.in_flux} left, since events came meanwhile" if part.in_flux else ""
        console.print(f"{name}: {part.published} buckets built{waiting}")
    if in_flux:
        console.print(f"[yellow]…[/] {in_flux} units got events during each repair: repeat the command later")
    if refused:
        console.print(
            f"[red]✗[/] {len(refused)} units left alone, the first from {refused[0]}: raw_events holds nothing of "
            "them. If that was deleted on purpose, leave them; --force makes the rollups forget them, too",
            soft_wrap=True,
        )
    if unpublished:
        first = unpublished[0]
        console.print(
            f"[red]✗[/] {len(unpublished)} buckets hold other events than rollup_builds says, the first of "
            f"{first['grain']} from {first['start']}: run `metrics-pipeline rollups check --repair` over them",
            soft_wrap=True,
        )


def _checked_fields(checked: Checked) -> dict[str, object]:
    return {
        "ok": checked.is_exact,
        "units": checked.units,
        "drifts": [_drift_fields(drift) for drift in checked.drifts],
        "late": [minute_name(start) for start in checked.late],
        "in_flux": [minute_name(start) for start in checked.in_flux],
        "gone": checked.gone,
    }


def _drift_fields(drift: Drift) -> dict[str, object]:
    return {
        "grain": drift.grain,
        "start": minute_name(drift.start_seconds),
        "tables": list(drift.tables),
        "said": drift.said,
        "state": drift.state.value,
    }


def _print_checked(checked: Checked, *, repair: bool) -> None:
    console = Console(highlight=False)
    for drift in checked.drifts[:_LONGEST_PRINT]:
        mark = "[yellow]✓[/]" if drift.state is State.REPAIRED else "[red]✗[/]"
        console.print(f"{mark} {drift}", soft_wrap=True)
    if len(checked.drifts) > _LONGEST_PRINT:
        console.print(f"[red]✗[/] {len(checked.drifts) - _LONGEST_PRINT} more: --json lists them")
    if checked.late and not repair:
        console.print(
            f"[yellow]…[/] {len(checked.late)} repaired units got events since: `rollups rebuild` repairs them"
        )
    if checked.in_flux:
        console.print(
            f"[yellow]…[/] {len(checked.in_flux)} units are in flux: batches landed in them; check them again later"
        )
    if checked.gone:
        console.print(f"[yellow]…[/] {checked.gone} units are gone from raw_events: nothing to compare them with")
    if checked.is_exact:
        console.print(f"[green]✓[/] exact: {checked.units} units, every rollup says what raw_events says")
    elif not repair:
        console.print("run it again with --repair to make the rollups say what raw_events says")
