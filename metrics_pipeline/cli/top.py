"""`top`: which endpoints stand out."""

from collections.abc import Callable, Iterator, Sequence

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from metrics_pipeline.cli.answers import ms, percent
from metrics_pipeline.cli.latency import check_names
from metrics_pipeline.cli.output import answer, json_option
from metrics_pipeline.cli.spans import END, START, TIMEZONE, WHEN, asked_span, bounds, elapsed, now_in, span_text
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.questions.question import Names, Question
from metrics_pipeline.questions.top import MAX_ROWS, Ranking, TopRow
from metrics_pipeline.questions.top import top as find_top
from metrics_pipeline.runtime.timerange import TimeRange, compared_range, whole_minutes
from metrics_pipeline.settings import load_settings

app = typer.Typer()

_Figure = tuple[str, str, Callable[[TopRow], str]]
"""Name and style of a column, and what it says of an endpoint."""


@app.command(
    epilog="Examples: metrics-pipeline top --by slowest --when yesterday --tier enterprise;  "
    "metrics-pipeline top --by regressions --when 'last tuesday'"
)
def top(
    by: Ranking = typer.Option(
        Ranking.SLOWEST, help="p99; count of errors; or p99 and error rate against the same span a week earlier."
    ),
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    timezone: str = TIMEZONE,
    service: str = typer.Option("", help="Service; all without it."),
    tier: str = typer.Option("", help="Customer tier; all without it."),
    limit: int = typer.Option(10, min=1, max=MAX_ROWS, help="Endpoints that are listed."),
    min_requests: int = typer.Option(100, min=1, help="Leave out endpoints with fewer requests, in each span."),
    as_json: bool = json_option("the list as one JSON object"),
) -> None:
    """The slowest endpoints, those with most errors, or those that got worse within a week."""
    now = now_in(timezone)
    span, before = asked_span(when, start, end, now), None
    if by is Ranking.REGRESSIONS:
        span = elapsed(span, now)
        before = compared_range("the week before", whole_minutes(span), now)
    question = Question(span, Names(service=service, tier=tier))
    with connect(load_settings()) as client:
        rows = find_top(client, question, by, before=before, limit=limit, min_requests=min_requests)
        if not rows:
            check_names(client, question, now)
    fields = {"by": by, **bounds(question.minutes), "before": before and bounds(before), "endpoints": rows}
    answer(as_json, fields, _told(question, by, before, rows, min_requests), wraps=True)


def _told(
    question: Question, by: Ranking, before: TimeRange | None, rows: Sequence[TopRow], min_requests: int
) -> Iterator[RenderableType]:
    titles = {
        Ranking.SLOWEST: "slowest endpoints",
        Ranking.ERRORS: "endpoints with most errors",
        Ranking.REGRESSIONS: "endpoints that got worse",
    }
    of = f" of {escape(str(question.names))}" if question.names.asked else ""
    yield f"[bold]{titles[by]}[/]{of}, {span_text(question.minutes)}"
    if before is not None:
        yield f"[dim]against {span_text(before)}[/]"
    yield ""
    if rows:
        yield _table(rows, _figures(by))
    else:
        yield f"none among those with {min_requests:,} requests or more (--min-requests)"


def _table(rows: Sequence[TopRow], figures: Sequence[_Figure]) -> Table:
    columns = (Column(name, justify="right", no_wrap=True, style=style) for name, style, _ in figures)
    service = Column("service", max_width=15)
    table = Table(service, "endpoint", *columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        endpoint = f"{row.method} {row.endpoint}".strip()
        table.add_row(_cut(row.service), _cut(endpoint), *(said(row) for _, _, said in figures))
    return table


def _figures(by: Ranking) -> Sequence[_Figure]:
    """What the list goes by is bold."""
    if by is Ranking.REGRESSIONS:
        return (
            ("p99 ms", "", lambda row: _ms(row.now.p99_ms)),
            ("before", "dim", lambda row: _ms(row.before and row.before.p99_ms)),
            ("", "", lambda row: _times(row.p99_ratio)),
            ("errors", "", lambda row: percent(row.now.error_rate)),
            ("before", "dim", lambda row: percent(row.before and row.before.error_rate)),
            ("", "", lambda row: _times(row.error_rate_ratio)),
        )
    is_slowest = by is Ranking.SLOWEST
    return (
        ("p50 ms", "", lambda row: _ms(row.now.p50_ms)),
        ("p99 ms", "bold" if is_slowest else "", lambda row: _ms(row.now.p99_ms)),
        ("requests", "", lambda row: f"{row.now.requests:,}"),
        ("errors", "" if is_slowest else "bold", lambda row: f"{row.now.errors:,}"),
        ("rate", "", lambda row: percent(row.now.error_rate)),
    )


def _cut(name: str) -> Text:
    """A name that is cut where figures need the width: columns that don't wrap keep theirs."""
    return Text(name, no_wrap=True, overflow="ellipsis")


def _ms(value: float | None) -> str:
    return ms(value).removesuffix(" ms")


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"[bold red]{ratio:.1f}x[/]" if ratio >= 1.5 else f"{ratio:.1f}x"
