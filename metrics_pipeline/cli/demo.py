"""`demo`: the whole pipeline under load on this machine, in one command."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import typer
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from metrics_pipeline.cli import dashboard
from metrics_pipeline.cli.answers import answer_lines
from metrics_pipeline.cli.live import View
from metrics_pipeline.cli.output import BAD, GOOD, table, tell
from metrics_pipeline.cli.working import stop_on_signal
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dashboards.builtin import LIVE
from metrics_pipeline.dashboards.links import play_url
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.local import stack
from metrics_pipeline.lab.local.demo import Demo, Frame, Outcome
from metrics_pipeline.questions.latency import ask
from metrics_pipeline.questions.names import busiest
from metrics_pipeline.questions.question import Names, Question
from metrics_pipeline.runtime.timerange import TimeRange
from metrics_pipeline.settings import Settings, clickhouse_url, load_settings

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline demo --rate 40000 --duration 60")
def demo(
    rate: float = typer.Option(5_000, min=1, help="Messages per second."),
    duration: float | None = typer.Option(None, min=1, help="Seconds; without it until Ctrl-C."),
    seed: int = typer.Option(0, help="The same seed gives the same events."),
    sent: Path | None = typer.Option(None, help="List what was sent in this file."),
) -> None:
    """Start everything, send realistic events, watch them land, then drain, audit and stop everything.

    Ends with Ctrl-C or after --duration; exit 0 only if every event that was sent is there exactly once.
    """
    console = Console()
    began = datetime.now(UTC)
    try:
        with console.status("starting Kafka, ClickHouse and Dagster") as status:
            addresses = stack.up(engines_only=False, say=status.update)
        settings = load_settings()
        links = _links(addresses, settings)
        if not console.is_terminal:
            console.print(links)
        view = View(console, every_seconds=5, line=_one_line, draw=partial(_panel, console, links))
        plan = LoadPlan(rate=rate, duration_seconds=duration, duplicates=0.02, late=0.002, malformed=0.001, seed=seed)
        with view.shown(transient=False), stop_on_signal() as stop:
            outcome = Demo(settings, lambda phase: view.say(f"{phase} …"), view.show).run(plan, sent, stop)
        tell(_told(settings, outcome, began))
    finally:
        with console.status("stopping everything"):
            stack.down()
    if not outcome.is_exact:
        raise typer.Exit(1)


def _panel(console: Console, links: Table, said: Sequence[str], frame: Frame | None) -> Panel:
    return Panel(
        Group(Text(said[-1] if said else "", style="bold"), _figures(frame) if frame else Text(""), links),
        title="metrics-pipeline",
        subtitle="Ctrl-C drains, audits and stops",
        width=min(console.width, 100),
    )


def _figures(frame: Frame) -> Table:
    statistics, fresh = frame.overview.statistics, frame.overview.statistics.freshness
    columns = Column(width=18), Column(width=22, style="cyan"), Column(width=18), Column(style="cyan")
    table = Table(*columns, show_header=False, box=None, pad_edge=False)
    freshness = f"p50 {fresh.p50:.2f} s   p99 {fresh.p99:.2f} s" if fresh else "…"
    table.add_row("events in", f"{frame.produced_per_second:,.0f} /s", "batches", f"{statistics.batches:,}")
    table.add_row("events landed", f"{frame.landed_per_second:,.0f} /s", "duplicates", f"{statistics.duplicates:,}")
    table.add_row("lag", f"{frame.overview.lag:,} events", "dead letters", f"{statistics.dead_letters:,}")
    table.add_row("freshness", freshness, "running for", f"{frame.elapsed_seconds:.0f} s")
    return table


def _one_line(frame: Frame) -> str:
    statistics, fresh = frame.overview.statistics, frame.overview.statistics.freshness
    freshness = f"{fresh.p50:.2f}/{fresh.p99:.2f} s" if fresh else "-"
    return (
        f"{frame.elapsed_seconds:5.0f} s  in {frame.produced_per_second:8,.0f}/s  "
        f"landed {frame.landed_per_second:8,.0f}/s  lag {frame.overview.lag:8,}  freshness p50/p99 {freshness}  "
        f"batches {statistics.batches:,}  duplicates {statistics.duplicates:,}  "
        f"dead letters {statistics.dead_letters:,}"
    )


def _links(addresses: dict[str, str | None], settings: Settings) -> Table:
    url = clickhouse_url(settings)
    table = Table(Column(width=18), Column(overflow="fold"), show_header=False, box=None, pad_edge=False)
    links = {"Dagster": addresses["dagster"] or "", "live dashboard": dashboard.link(url, LIVE), "SQL": play_url(url)}
    for name, link in links.items():
        table.add_row(name, Text(link.partition("#")[0], style=f"link {link}"))
    table.add_row("", Text("all dashboards: metrics-pipeline dashboard", style="dim"))
    return table


def _told(settings: Settings, outcome: Outcome, began: datetime) -> Iterator[RenderableType]:
    produced, landed, verdict = outcome.produced, outcome.landed, outcome.verdict
    counts = {
        "events": (produced["unique_events"], landed.inserted - outcome.canaries),
        "duplicates": (produced["duplicates"], landed.duplicates),
        "malformed → dead letters": (produced["malformed"], landed.dead_letters),
    }
    yield table(["", "sent", "landed"], ((name, f"{a:,}", f"{b:,}") for name, (a, b) in counts.items()))
    if fresh := landed.freshness:
        yield f"freshness, produced to visible: p50 {fresh.p50:.2f} s, p99 {fresh.p99:.2f} s, max {fresh.max:.2f} s"
    yield from (f"{BAD} {problem}" for problem in verdict.problems)
    if outcome.is_exact:
        yield f"{GOOD} exact: every event that was sent is there once, in raw_events and in rollup_1m"
    else:
        yield f"{BAD} what landed is not what was sent: run `metrics-pipeline up`, then `audit`"
    with connect(settings) as client:
        span = TimeRange(began, datetime.now(UTC) + timedelta(minutes=1))
        names = Names(tier="enterprise")
        for dimension in ("service", "endpoint"):
            names = replace(names, **{dimension: busiest(client, dimension, Question(span, names)) or ""})
        if names.service:
            yield from answer_lines(str(names), ask(client, Question(span, names)))
