"""`canary`: how long an event takes from produced to queryable, right now."""

import typer
from rich.console import Console

from metrics_pipeline.alerting.burn import Tallies, burn_rate
from metrics_pipeline.alerting.canary import Round, send_canaries
from metrics_pipeline.cli.output import counting, print_json
from metrics_pipeline.cli.signals import stop_on_signal
from metrics_pipeline.settings import load_settings

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline canary --limit-seconds 120 --json")
def canary(
    limit_seconds: float | None = typer.Option(
        None, max=3_600, help="Longest wait; without it the objective, METRICS_ALERTS__FRESHNESS_SECONDS."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the figures as one JSON object."),
) -> None:
    """Send one event per shard the way that all events go, and wait until a query sees each.

    Prints the seconds per shard, and how fast the freshness objective's budget burns (1: just what it allows). Exit 1
    if one was not seen in time. The events stay: service metrics-pipeline, endpoint /canary, tier canary.
    """
    settings = load_settings()
    with stop_on_signal() as stop, counting("canaries", settings.drain.shards) as show:
        found = send_canaries(
            settings, limit_seconds=limit_seconds, stop=stop.is_set, on_seen=lambda _sighting: show(advance=1)
        )
    if as_json:
        print_json(_as_fields(found))
    else:
        _print(found)
    if any(sighting.seconds is None for sighting in found.sightings):
        raise typer.Exit(1)


def _as_fields(found: Round) -> dict[str, object]:
    return {
        "ok": not found.late,
        "objective_seconds": found.objective_seconds,
        "objective_share": found.objective_share,
        "canaries": [
            {
                "shard": sighting.canary.owner.shard,
                "partition": sighting.canary.partition,
                "event_id": sighting.canary.event_id,
                "seconds": sighting.seconds,
                "is_late": sighting.is_late(found.objective_seconds),
            }
            for sighting in found.sightings
        ],
        "burn_rates": {
            "events": _rates(found, found.burn.events),
            "canaries": {of.shard: _rates(found, of.tallies) for of in found.burn.canaries},
        },
    }


def _rates(found: Round, tallies: Tallies) -> dict[str, float | None]:
    return {window: burn_rate(tally, found.objective_share) for window, tally in tallies.items()}


def _print(found: Round) -> None:
    console = Console(highlight=False)
    for sighting in found.sightings:
        said = "not seen in time" if sighting.seconds is None else f"{sighting.seconds:.2f} s"
        mark = "[red]✗[/]" if sighting.is_late(found.objective_seconds) else "[green]✓[/]"
        console.print(
            f"{mark} shard {sighting.canary.owner.shard} (partition {sighting.canary.partition}): {said}; objective "
            f"{found.objective_seconds:g} s",
            soft_wrap=True,
        )
    sources = {f"canaries of shard {of.shard}": of.tallies for of in found.burn.canaries}
    for name, tallies in {**sources, "events": found.burn.events}.items():
        rates = "  ".join(f"{window} {_rate(rate)}" for window, rate in _rates(found, tallies).items())
        console.print(f"  burn rate of {name}: {rates}", soft_wrap=True)


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"
