"""`canary`: how long an event takes from produced to queryable, right now."""

from collections.abc import Iterator

import typer

from metrics_pipeline.alerting.burn import Tallies, burn_rate
from metrics_pipeline.alerting.canary import Round, send_canaries
from metrics_pipeline.cli.output import BAD, GOOD, answer, json_option
from metrics_pipeline.cli.working import stoppable
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.settings import load_settings

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline canary --limit-seconds 120 --json")
def canary(
    limit_seconds: float | None = typer.Option(
        None, max=3_600, help="Longest wait; without it the objective, METRICS_ALERTS__FRESHNESS_SECONDS."
    ),
    as_json: bool = json_option("the figures as one JSON object"),
) -> None:
    """Send one event per shard the way that all events go, and wait until a query sees each.

    Prints the seconds per shard, and how fast the freshness objective's budget burns (1: just what it allows). Exit 1
    if one was not seen in time. The events stay: service metrics-pipeline, endpoint /canary, tier canary.
    """
    settings = load_settings()
    with stoppable("canaries", settings.drain.shards) as (stop, show):
        found = send_canaries(settings, limit_seconds=limit_seconds, stop=stop, on_seen=lambda _: show(advance=1))
    answer(as_json, _as_fields(found), _told(found), is_ok=all(s.seconds is not None for s in found.sightings))


def _as_fields(found: Round) -> dict[str, object]:
    return {
        "ok": not found.late,
        "objective_seconds": found.objective_seconds,
        "objective_share": found.objective_share,
        "canaries": [
            {
                "shard": sighting.canary.owner.shard,
                **picked(sighting.canary, "partition", "event_id"),
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


def _told(found: Round) -> Iterator[str]:
    for sighting in found.sightings:
        said = "not seen in time" if sighting.seconds is None else f"{sighting.seconds:.2f} s"
        mark = BAD if sighting.is_late(found.objective_seconds) else GOOD
        shard, partition = sighting.canary.owner.shard, sighting.canary.partition
        yield f"{mark} shard {shard} (partition {partition}): {said}; objective {found.objective_seconds:g} s"
    sources = {f"canaries of shard {of.shard}": of.tallies for of in found.burn.canaries}
    for name, tallies in {**sources, "events": found.burn.events}.items():
        rates = _rates(found, tallies).items()
        said = "  ".join(f"{window} {'-' if rate is None else f'{rate:.1f}'}" for window, rate in rates)
        yield f"  burn rate of {name}: {said}"
