"""`chaos`: the pipeline under load and faults, and whether it was exact all the same."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from metrics_pipeline.cli.live import View
from metrics_pipeline.cli.output import BAD, GOOD, answer, json_option, table
from metrics_pipeline.cli.working import stop_on_signal
from metrics_pipeline.lab.chaos.report import as_json as report_as_json
from metrics_pipeline.lab.chaos.report import as_markdown, command_of, rows_of, summary_of
from metrics_pipeline.lab.chaos.run import ChaosOptions, Outcome, run_chaos

app = typer.Typer()

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
    as_json: bool = json_option("the account as one JSON object"),
) -> None:
    """Inject faults into real engines and real drains under load, let things settle, and compare what landed with
    what was sent: every event once, in raw_events and in the rollup.

    Without addresses in the settings it starts engines of its own and kills those, too. With
    METRICS_KAFKA__BOOTSTRAP_SERVERS and METRICS_CLICKHOUSE__URL set it uses that cluster, in a topic and a database of
    its own, which it drops at the end, and injects what needs no hold on the engines' processes.

    Ctrl-C ends the faults early, settles and compares. Exit 1 unless all is exact; the logs stay then.
    """
    options = ChaosOptions(seconds=seconds, seed=seed, rate=rate, folder=folder and folder.absolute(), keep=keep)
    view: View[_Progress] = View(Console(stderr=as_json), every_seconds=10, line=lambda now: now.figures, draw=_drawn)
    with stop_on_signal() as stop, view.shown(transient=True):
        outcome = run_chaos(options, stop, view.say, lambda *progress: view.show(_Progress(*progress)))
    if report is not None:
        report.write_text(as_markdown(outcome))
    answer(as_json, report_as_json(outcome), _told(outcome), is_ok=outcome.is_exact)
    if folder is None and not keep:
        shutil.rmtree(outcome.world.folder, ignore_errors=True)


class _Progress(NamedTuple):
    elapsed_seconds: float
    figures: str


def _drawn(said: Sequence[str], progress: _Progress | None) -> Table:
    drawn = Table(show_header=False, box=None)
    for line in said:
        drawn.add_row(line, style="dim")
    if progress is not None:
        drawn.add_row(progress.figures, style="bold")
    return drawn


def _told(outcome: Outcome) -> Iterator[RenderableType]:
    tried = (row for row in rows_of(outcome) if row.injected or row.missed)
    rows = ((r.kind, f"{r.injected}{f' (missed {r.missed})' if r.missed else ''}", r.seen_text) for r in tried)
    yield table(["fault", "injected", "seen while it alone lasted, or right after"], rows)
    yield summary_of(outcome)
    yield from (f"{BAD} {problem}" for problem in outcome.problems)
    if outcome.is_exact:
        yield f"{GOOD} exact: every event that was sent is there once, with its values, and counted once"
    else:
        yield f"logs: {outcome.world.folder}; topic and database {outcome.world.settings.kafka.topic} stay"
        yield f"the same plan again: {command_of(outcome)}"
