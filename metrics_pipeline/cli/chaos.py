"""`chaos`: the pipeline under load and faults, and whether it was exact all the same."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from metrics_pipeline.cli.output import print_json
from metrics_pipeline.cli.signals import stop_on_signal
from metrics_pipeline.lab.chaos.report import as_json as report_as_json
from metrics_pipeline.lab.chaos.report import as_markdown, command_of, rows_of, summary_of
from metrics_pipeline.lab.chaos.run import ChaosOptions, Outcome, run_chaos

app = typer.Typer()

_PLAIN_EVERY_SECONDS = 10
_LAST_LINES = 12
_EXAMPLES = """Example: metrics-pipeline chaos --seconds 600 --seed 1

Example: METRICS_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 METRICS_CLICKHOUSE__URL=http://user:password@clickhouse:8123/
metrics-pipeline chaos --seconds 300"""


@app.command(epilog=_EXAMPLES)
def chaos(
    seconds: float = typer.Option(600, min=10, help="How long faults are injected."),
    seed: int = typer.Option(1, min=0, help="The same seed gives the same load and the same plan of faults."),
    rate: float = typer.Option(2_000, min=1, help="Messages per second, bursts apart."),
    folder: Path | None = typer.Option(None, help="Keep logs and data here; else in a temporary folder."),
    keep: bool = typer.Option(False, "--keep", help="Leave folder, topic and database at the end."),
    report: Path | None = typer.Option(None, help="Write the table of faults to this file, as Markdown."),
    as_json: bool = typer.Option(False, "--json", help="Print the account as one JSON object."),
) -> None:
    """Inject faults into real engines and real drains under load, let things settle, and compare what landed with
    what was sent: every event once, in raw_events and in the rollup.

    Without addresses in the settings it starts engines of its own and kills those, too. With
    METRICS_KAFKA__BOOTSTRAP_SERVERS and METRICS_CLICKHOUSE__URL set it uses that cluster, in a topic and a database of
    its own, which it drops at the end, and injects what needs no hold on the engines' processes.

    Ctrl-C ends the faults early, settles and compares. Exit 1 unless all is exact; the logs stay then.
    """
    where = folder.absolute() if folder is not None else None
    options = ChaosOptions(seconds=seconds, seed=seed, rate=rate, folder=where, keep=keep)
    with stop_on_signal() as stop, _View(Console(stderr=as_json)).live() as view:
        outcome = run_chaos(options, stop, view.say, view.show)
    if report is not None:
        report.write_text(as_markdown(outcome))
    if as_json:
        print_json(report_as_json(outcome))
    else:
        _print(Console(), outcome)
    if not outcome.is_exact:
        raise typer.Exit(1)
    if folder is None and not keep:
        shutil.rmtree(outcome.world.folder, ignore_errors=True)


class _View:
    """The latest lines and figures on a terminal; elsewhere every line, and figures now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[str] = []
        self._figures = ""
        self._live: Live | None = None
        self._said_seconds = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def live(self) -> Iterator["_View"]:
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield self

    def say(self, line: str) -> None:
        with self._lock:
            if self._live is None:
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)
            else:
                self._lines = [*self._lines, line][-_LAST_LINES:]
                self._live.update(self._render())

    def show(self, elapsed_seconds: float, figures: str) -> None:
        with self._lock:
            self._figures = figures
            if self._live is not None:
                self._live.update(self._render())
            elif elapsed_seconds - self._said_seconds >= _PLAIN_EVERY_SECONDS:
                self._said_seconds = elapsed_seconds
                self._console.print(figures, highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> Table:
        table = Table(show_header=False, box=None)
        for line in self._lines:
            table.add_row(line, style="dim")
        table.add_row(self._figures, style="bold")
        return table


def _print(console: Console, outcome: Outcome) -> None:
    table = Table("fault", "injected", "seen while it alone lasted, or right after", box=None)
    for row in rows_of(outcome):
        if row.injected or row.missed:
            missed = f" (missed {row.missed})" if row.missed else ""
            table.add_row(row.kind, f"{row.injected}{missed}", row.seen_text)
    console.print(table)
    console.print(summary_of(outcome), highlight=False, soft_wrap=True)
    for problem in outcome.problems:
        console.print(f"[red]✗[/] {problem}", soft_wrap=True)
    if outcome.is_exact:
        console.print("[green]✓[/] exact: every event that was sent is there once, with its values, and counted once")
    else:
        topic = outcome.world.settings.kafka.topic
        console.print(f"logs: {outcome.world.folder}; topic and database {topic} stay", soft_wrap=True)
        console.print(f"the same plan again: {command_of(outcome)}", soft_wrap=True)
