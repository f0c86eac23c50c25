"""`drain` and `reset-offsets`: the pipeline without Dagster."""

from enum import StrEnum

import typer

from metrics_pipeline.cli.output import YES, answer, json_option
from metrics_pipeline.cli.working import run_id, stoppable
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.drain import DrainRun, reset_offsets, run_drain, until_caught_up, until_window_ends

app = typer.Typer()


class Edge(StrEnum):
    EARLIEST = "earliest"
    LATEST = "latest"


@app.command(epilog="Example: metrics-pipeline drain --once")
def drain(
    once: bool = typer.Option(False, "--once", help="End when all that the topic holds now has landed."),
    shard: int = typer.Option(0, min=0, help="Shard to drain; METRICS_DRAIN__SHARDS says how many there are."),
    as_json: bool = json_option("the report as one JSON object"),
) -> None:
    """Drain one shard in the foreground, without Dagster.

    Without --once it ends with its window, or when nothing arrives. SIGTERM and Ctrl-C flush, commit and exit 0.
    """
    settings = load_settings()
    run = DrainRun(run_id(), shard)
    ending = until_caught_up if once else until_window_ends(settings)
    with stoppable(f"shard {shard}") as (stop, show):
        report = run_drain(settings, run, ending, stop=stop, on_entry=lambda entry: show(advance=entry.consumed))
    counts = picked(report, "reason", "batches", "consumed", "inserted", "duplicates", "dead_letters")
    said = (
        f"{report.reason.value}: {report.consumed} messages in {report.batches} batches, "
        f"{report.inserted} inserted, {report.duplicates} duplicates, {report.dead_letters} dead letters"
    )
    answer(as_json, {**counts, "lost_offsets": report.lost, "deferred_offsets": report.deferred}, [said])


@app.command("reset-offsets", epilog="Example: metrics-pipeline reset-offsets --to earliest --yes")
def reset(
    to: Edge = typer.Option(..., help="Where every partition is to be read next."),
    yes: bool = YES,
) -> None:
    """Set the committed offsets of all shards to an end of the topic, for a topic that was deleted and recreated.

    Events that are read again are recognised as duplicates; events that are skipped are lost to the pipeline.
    """
    settings = load_settings()
    if not yes:
        typer.confirm(f"Set all offsets of {settings.kafka.topic} to {to.value}?", abort=True)
    for partition, offset in reset_offsets(settings, to_latest=to is Edge.LATEST).items():
        typer.echo(f"partition {partition}: {offset}")
