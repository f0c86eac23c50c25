"""Answers as people read them, at 80 columns."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, zip_longest

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Column, Table

from metrics_pipeline.cli.output import right
from metrics_pipeline.cli.spans import short_span_text, span_text
from metrics_pipeline.questions.latency import Answer, Point
from metrics_pipeline.questions.sparkline import Columns, sparkline

_LATENCIES = {
    name: f"{name.replace('.', '')}_ms" for name in ("p50", "p90", "p95", "p99", "p99.9", "min", "avg", "max")
}
_MANY_TIMES = 3
"""From here on a factor reads better than percent."""


def answer_lines(subject: str, answer: Answer) -> Iterator[str]:
    """In three lines."""
    yield f"[bold]{escape(subject)}[/], {span_text(answer.span)}"
    if not answer.requests:
        yield "  no requests"
        return
    yield f"  p50 {ms(answer.p50_ms)}   p95 {ms(answer.p95_ms)}   [bold]p99 {ms(answer.p99_ms)}[/]"
    yield f"  {answer.requests:,} requests, {answer.errors:,} errors ({percent(answer.error_rate)})"


def figures(answer: Answer) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    latencies = [_bold_p99(name, ms(getattr(answer, field))) for name, field in _LATENCIES.items()]
    more = [
        ("requests", f"{answer.requests:,}"),
        ("errors", f"{answer.errors:,} ({percent(answer.error_rate)})"),
        ("apdex", _ratio(answer.apdex)),
        *((name, percent(count / answer.requests)) for name, count in answer.statuses.items() if count),
    ]
    for _ in range(3):
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right")
    for row in zip_longest(latencies[:5], latencies[5:], more, fillvalue=("", "")):
        grid.add_row(*chain.from_iterable(row))
    return grid


def comparison(answer: Answer, other: Answer) -> Table:
    this, difference = right(short_span_text(answer.span), "difference")
    before = Column(short_span_text(other.span), justify="right", style="dim")
    table = Table("", this, before, difference, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("requests", "errors"):
        counts = getattr(answer, name), getattr(other, name)
        table.add_row(name, *(f"{count:,}" for count in counts), _change(*counts))
    rates = answer.error_rate, other.error_rate
    table.add_row("error rate", *map(percent, rates), _difference(*rates, lambda by: f"{100 * by:+.2f} points"))
    apdexes = answer.apdex, other.apdex
    table.add_row("apdex", *map(_ratio, apdexes), _difference(*apdexes, lambda by: f"{by:+.3f}"))
    for name, field in _LATENCIES.items():
        values = getattr(answer, field), getattr(other, field)
        table.add_row(name, *map(ms, values), _ms_change(*values), style="bold" if name == "p99" else "")
    return table


def history_lines(points: Sequence[Point], columns: Columns) -> Iterator[RenderableType]:
    """p99 and requests over time, where there is more than one column."""
    if len(points) < 2:
        return
    p99s = [point.p99_ms for point in points]
    requests = [float(point.requests) if point.requests else None for point in points]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row("p99", f"[cyan]{sparkline(p99s)}[/]")
    grid.add_row("requests", f"[cyan]{sparkline(requests)}[/]")
    yield grid
    peak = max(points, key=lambda point: point.p99_ms or 0)
    busiest = max(points, key=lambda point: point.requests)
    is_one_day = points[0].start.date() == points[-1].start.date()
    at = "%a %m-%d" if columns.seconds >= 86_400 else "%H:%M" if is_one_day else "%a %H:%M"
    yield (
        f"[dim]per {columns.width}: p99 up to {ms(peak.p99_ms)} ({peak.start:{at}}), "
        f"requests up to {busiest.requests:,} ({busiest.start:{at}})[/]"
    )


def ms(value: float | None) -> str:
    """Milliseconds, or a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f} ms" if value >= 1_000 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def percent(share: float | None) -> str:
    """A share as percent, or a dash."""
    return "-" if share is None else f"{share:.2%}"


def _bold_p99(name: str, value: str) -> tuple[str, str]:
    return (f"[bold]{name}[/]", f"[bold]{value}[/]") if name == "p99" else (name, value)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(value: float, other: float) -> str:
    return f"{value - other:+,.0f}{_relative(value, other)}"


def _ms_change(value: float | None, other: float | None) -> str:
    return _difference(
        value, other, lambda by: f"{'-' if by < 0 else '+'}{ms(abs(by))}{_relative(value or 0, other or 0)}"
    )


def _relative(value: float, other: float) -> str:
    if not other:
        return ""
    return f" ({value / other:,.1f}x)" if value > _MANY_TIMES * other else f" ({value / other - 1:+.0%})"


def _difference(value: float | None, other: float | None, said: Callable[[float], str]) -> str:
    return "-" if value is None or other is None else said(value - other)
