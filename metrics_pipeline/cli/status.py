"""`status`: what is going on."""

from collections.abc import Mapping

import typer

from metrics_pipeline.cli.output import WARNING, answer, json_option, pairs
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.lab.local import stack
from metrics_pipeline.metrics.observe import Overview, drain_runs, look
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.dead_letters import dead_letter_warnings

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline status --json")
def status(as_json: bool = json_option("the figures as one JSON object")) -> None:
    """Lag, rates, freshness and runs: rates of 10 seconds, freshness of 60, counts of all time."""
    settings = load_settings()
    with connect(settings) as client:
        overview = look(settings, client)
        warnings = dead_letter_warnings(settings, client)
        never_replayed, _ = ClickHouseDeadLetters(client, settings.kafka.topic).never_replayed()
    dagster = stack.running().addresses.get("dagster")
    runs = drain_runs(dagster) if dagster else None
    figures = _figures(overview, runs, never_replayed)
    said = pairs({name.replace("_", " "): _said(value) for name, value in figures.items()})
    answer(as_json, figures | {"warnings": warnings}, [said, *(f"{WARNING} {warning}" for warning in warnings)])


def _said(value: object) -> str:
    """As people read it; what is not known is a dash."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(of_name)}" for name, of_name in value.items())
    if isinstance(value, list):
        return "; ".join(map(_said, value))
    return "-" if value is None else str(value)


def _figures(overview: Overview, runs: object, never_replayed: int) -> dict[str, object]:
    statistics, fresh = overview.statistics, overview.statistics.freshness
    return {
        "lag": overview.lag,
        "events_per_second": round(statistics.events_per_second, 1),
        "freshness_seconds": {"p50": fresh.p50 if fresh else None, "p99": fresh.p99 if fresh else None},
        **picked(statistics, "consumed", "inserted", "duplicates", "dead_letters"),
        "dead_letters_never_replayed": never_replayed,
        "lost_offsets": statistics.lost,
        "deferred_offsets": overview.deferred,
        "batches": statistics.batches,
        "shards": [{"shard": shard, "lag": lag} for shard, lag in enumerate(overview.shards)],
        "runs": runs,
    }
