"""Answers as people read them, at 80 columns."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metrics_pipeline.cli.spans import short_span_text, span_text
from metrics_pipeline.questions.latency import Answer, Point
from metrics_pipeline.questions.sparkline import Columns, sparkline

_LATENCIES = (
    ("p50", "p50_ms"),
    ("p90", "p90_ms"),
    ("p95", "p95_ms"),
    ("p99", "p99_ms"),
    ("p99.9", "p999_ms"),
    ("min", "min_ms"),
    ("avg", "avg_ms"),
    ("max", "max_ms"),
)
_MANY_TIMES = 3
"""From here on a factor reads better than percent."""


def console() -> Console:
    """For what was asked for; figures keep their colour to themselves."""
    return Console(highlight=False)


def print_answer(subject: str, answer: Answer) -> None:
    """In three lines."""
    out = console()
    out.print(f"[bold]{escape(subject)}[/], {span_text(answer.span)}")
    if not answer.requests:
        out.print("  no requests")
        return
    out.print(f"  p50 {ms(answer.p50_ms)}   p95 {ms(answer.p95_ms)}   [bold]p99 {ms(answer.p99_ms)}[/]")
    out.print(f"  {answer.requests:,} requests, {answer.errors:,} errors ({percent(answer.error_rate)})")


def print_figures(answer: Answer) -> None:
    """All figures of one span."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    left, right = _LATENCIES[:5], _LATENCIES[5:]
    more = (
        ("requests", f"{answer.requests:,}"),
        ("errors", f"{answer.errors:,} ({percent(answer.error_rate)})"),
        ("apdex", _ratio(answer.apdex)),
        *((name, percent(count / answer.requests)) for name, count in answer.statuses.items() if count),
    )
    for _ in range(3):
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right")
    for number in range(max(len(left), len(right), len(more))):
        cells: list[str] = []
        for names in (left, right):
            name, field = names[number] if number < len(names) else ("", "")
            style = "[bold]{}[/]" if name == "p99" else "{}"
            cells += [style.format(name), style.format(ms(getattr(answer, field)))] if name else ["", ""]
        grid.add_row(*cells, *(more[number] if number < len(more) else ("", "")))
    console().print(grid)


def print_comparison(answer: Answer, other: Answer) -> None:
    """The figures of two spans side by side, and what differs."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column(short_span_text(answer.span), justify="right")
    table.add_column(short_span_text(other.span), justify="right", style="dim")
    table.add_column("difference", justify="right")
    table.add_row("requests", f"{answer.requests:,}", f"{other.requests:,}", _change(answer.requests, other.requests))
    table.add_row("errors", f"{answer.errors:,}", f"{other.errors:,}", _change(answer.errors, other.errors))
    rates = answer.error_rate, other.error_rate
    table.add_row("error rate", *map(percent, rates), _points(*rates))
    table.add_row("apdex", _ratio(answer.apdex), _ratio(other.apdex), _apdex_change(answer.apdex, other.apdex))
    for name, field in _LATENCIES:
        values = getattr(answer, field), getattr(other, field)
        table.add_row(name, *map(ms, values), _ms_change(*values), style="bold" if name == "p99" else "")
    console().print(table)


def print_history(points: Sequence[Point], columns: Columns) -> None:
    """p99 and requests over time, where there is more than one column."""
    if len(points) < 2:
        return
    p99s = [point.p99_ms for point in points]
    requests = [float(point.requests) if point.requests else None for point in points]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row("p99", f"[cyan]{sparkline(p99s)}[/]")
    grid.add_row("requests", f"[cyan]{sparkline(requests)}[/]")
    peak = max(points, key=lambda point: point.p99_ms or 0)
    busiest = max(points, key=lambda point: point.requests)
    at = "%a %m-%d" if columns.seconds >= 86_400 else "%H:%M" if _is_one_day(points) else "%a %H:%M"
    out = console()
    out.print(grid)
    out.print(
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


def _is_one_day(points: Sequence[Point]) -> bool:
    return points[0].start.date() == points[-1].start.date()


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(value: float, other: float) -> str:
    return f"{value - other:+,.0f}{_relative(value, other)}"


def _ms_change(value: float | None, other: float | None) -> str:
    if value is None or other is None:
        return "-"
    return f"{'-' if value < other else '+'}{ms(abs(value - other))}{_relative(value, other)}"


def _relative(value: float, other: float) -> str:
    if not other:
        return ""
    return f" ({value / other:,.1f}x)" if value > _MANY_TIMES * other else f" ({value / other - 1:+.0%})"


def _points(value: float | None, other: float | None) -> str:
    return "-" if value is None or other is None else f"{100 * (value - other):+.2f} points"


def _apdex_change(value: float | None, other: float | None) -> str:
    return "-" if value is None or other is None else f"{value - other:+.3f}"
