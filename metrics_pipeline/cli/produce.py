"""`produce`: send realistic events."""

import signal
import threading
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from metrics_pipeline.cli.output import print_json
from metrics_pipeline.loadgen.plan import LoadPlan
from metrics_pipeline.loadgen.run import LoadProgress
from metrics_pipeline.loadgen.run import produce as run_load
from metrics_pipeline.settings import load_settings

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline produce --duration 60 --rate 40000 --duplicates 0.02 --sent sent.ndjson")
def produce(
    events: int | None = typer.Option(None, min=0, help="Messages in all."),
    duration: float | None = typer.Option(None, help="Seconds, instead of --events."),
    rate: float = typer.Option(5_000, min=0, help="Messages per second; 0 for as fast as possible."),
    duplicates: float = typer.Option(0, help="Fraction of messages that repeat an earlier one."),
    late: float = typer.Option(0, help="Fraction of events that are seconds to days late."),
    malformed: float = typer.Option(0, help="Fraction of messages that are no valid event."),
    odd: float = typer.Option(0.001, help="Fraction of events that are legal but odd."),
    seed: int = typer.Option(0, help="The same seed gives the same events."),
    sent: Path | None = typer.Option(None, help="List what was acknowledged: NDJSON, or Parquet by its ending."),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as one JSON object."),
) -> None:
    """Send realistic events to the topic. Ends with the plan, or with Ctrl-C; exit 1 if a message finally failed."""
    plan = LoadPlan(
        rate=rate,
        events=events,
        duration_seconds=duration,
        duplicates=duplicates,
        late=late,
        malformed=malformed,
        odd=odd,
        seed=seed,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    total = events if events is not None else round(duration * rate) if duration and rate else None
    with _progress() as bar:
        task = bar.add_task("producing", total=total)

        def show(progress: LoadProgress) -> None:
            bar.update(task, completed=progress.sent)

        summary = run_load(plan, load_settings(), sent, stop, show)
    if as_json:
        print_json(summary.as_dict())
    else:
        typer.echo(
            f"{summary.messages} messages acknowledged in {summary.elapsed_seconds:.1f} s ({summary.rate:,.0f}/s): "
            f"{summary.unique_events} events, {summary.duplicates} duplicates, {summary.malformed} malformed"
        )
    if summary.failed:
        raise typer.Exit(1)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} messages"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
