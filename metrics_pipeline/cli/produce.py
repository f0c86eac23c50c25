"""`produce`: send realistic events."""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from metrics_pipeline.cli.live import View
from metrics_pipeline.cli.output import answer, json_option
from metrics_pipeline.cli.working import stop_on_signal
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import LoadProgress
from metrics_pipeline.lab.loadgen.run import produce as run_load
from metrics_pipeline.lab.loadgen.sent import LoadSummary
from metrics_pipeline.settings import load_settings

app = typer.Typer()

_EXAMPLES = """Example: metrics-pipeline produce --events 100000 --rate 0 --sent sent.ndjson

Example: metrics-pipeline produce --duration 60 --rate 40000 --duplicates 0.02 --late 0.002 --malformed 0.001"""


@app.command(epilog=_EXAMPLES)
def produce(
    events: int | None = typer.Option(
        None, min=0, help="Messages in all, duplicates and malformed ones included; else until --duration or Ctrl-C."
    ),
    duration: float | None = typer.Option(None, help="Seconds, instead of --events."),
    rate: float = typer.Option(5_000, min=0, help="Messages per second; 0 for as fast as possible."),
    duplicates: float = typer.Option(0, help="Fraction of messages that repeat an earlier one, byte for byte."),
    late: float = typer.Option(0, help="Fraction of messages whose event is 1 second to 3 days late."),
    malformed: float = typer.Option(0, help="Fraction of messages that are no valid event; all kinds in rotation."),
    odd: float = typer.Option(0.001, help="Fraction of messages that are legal but odd; all kinds in rotation."),
    seed: int = typer.Option(0, help="The same seed gives the same traffic."),
    sent: Path | None = typer.Option(
        None, help="List the unique events that were acknowledged: NDJSON, or Parquet if the name ends so."
    ),
    as_json: bool = json_option("the summary as one JSON object"),
) -> None:
    """Send realistic events to the topic.

    Ctrl-C and SIGTERM end it early: what was sent is awaited, the file completed.

    Exit code 1 if a message was finally not acknowledged.

    All messages of an event id go to the same partition.
    """
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
    settings = load_settings()
    console = Console(stderr=True)
    view = View(console, every_seconds=10, line=_line, draw=_Bar(plan).draw)
    with stop_on_signal() as stop, view.shown(transient=True):
        # Where it is for a script, no lines either.
        show = view.show if console.is_terminal or not as_json else lambda _progress: None
        summary = run_load(plan, settings, sent, stop, show)
    for reason, count in summary.failures.items() if not as_json else ():
        typer.echo(f"{count:,} messages failed: {reason}", err=True)
    answer(as_json, summary.as_dict(), [_said(summary)], is_ok=not summary.failed)


class _Bar:
    def __init__(self, plan: LoadPlan) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} messages  {task.fields[rate]:,.0f}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        total = round((plan.duration_seconds or 0) * plan.rate) or None if plan.events is None else plan.events
        self._task = self._bar.add_task("producing", total=total, rate=0.0)

    def draw(self, _lines: Sequence[str], progress: LoadProgress | None) -> Progress:
        if progress is not None:
            what = f"producing, {progress.failed:,} failed" if progress.failed else "producing"
            self._bar.update(self._task, description=what, completed=progress.sent, rate=_rate(progress))
        return self._bar


def _line(progress: LoadProgress) -> str:
    return (
        f"{progress.elapsed_seconds:.0f} s: {progress.sent:,} messages, {_rate(progress):,.0f}/s, "
        f"{progress.outstanding:,} outstanding, {progress.failed:,} failed"
    )


def _rate(progress: LoadProgress) -> float:
    return progress.sent / progress.elapsed_seconds if progress.elapsed_seconds else 0.0


def _said(summary: LoadSummary) -> str:
    return (
        f"{summary.messages:,} messages acknowledged in {summary.elapsed_seconds:.1f} s ({summary.rate:,.0f}/s): "
        f"{summary.unique_events:,} events ({summary.late:,} late, {summary.odd:,} odd), "
        f"{summary.duplicates:,} duplicates, {summary.malformed:,} malformed"
    )
