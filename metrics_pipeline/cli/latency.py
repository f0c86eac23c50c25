"""`latency`: p99 of this endpoint, for this tier, last Tuesday."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any

import typer
from clickhouse_connect.driver.client import Client
from rich.console import RenderableType
from rich.markup import escape

from metrics_pipeline.cli.answers import comparison, figures, history_lines
from metrics_pipeline.cli.output import WARNING, answer, json_option, tell
from metrics_pipeline.cli.spans import END, START, TIMEZONE, WHEN, asked_span, bounds, elapsed, now_in, span_text
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.questions import completeness
from metrics_pipeline.questions.completeness import Incomplete, incomplete_minutes
from metrics_pipeline.questions.latency import Answer, Point, ask, history
from metrics_pipeline.questions.names import unknown_names
from metrics_pipeline.questions.question import RAW, Names, Question
from metrics_pipeline.questions.sparkline import Columns, columns_of
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.timerange import TimeRange, compared_range, whole_minutes
from metrics_pipeline.settings import load_settings

app = typer.Typer()

_QUIET_SECONDS = 60
_SAID = {
    completeness.DEAD_LETTERS: f"more than {completeness.DEAD_LETTER_SHARE:.0%} of the messages were no valid events "
    "(dead_letters has them)",
    completeness.LOST: "the topic dropped messages before they were read",
    completeness.DEFERRED: "drains went on at the head, and a backfill has yet to land what they skipped",
    completeness.LAG: "the drain is behind right now: ask again later",
    completeness.DROPPED: "retention dropped them, or all but what an override keeps",
    **{
        reason: f"retention dropped what is finer, so they are not in the answer: choose whole buckets of {grain.name}"
        for grain, reason in completeness.COARSE.items()
    },
}


@dataclass(frozen=True, slots=True)
class Findings:
    answer: Answer
    points: Sequence[Point]
    columns: Columns
    incomplete: Sequence[Incomplete]
    incomplete_other: Sequence[Incomplete] = ()
    answer_compared: Answer | None = None
    """Answer about the elapsed part of the span, if that is what the other span is compared with."""
    other: Answer | None = None


@app.command(
    epilog="Example: metrics-pipeline latency --service checkout --endpoint /cart/:id/pay --tier enterprise "
    "--when 'last tuesday' --compare 'the tuesday before'"
)
def latency(
    service: str = typer.Option("", help="Service; all without it."),
    endpoint: str = typer.Option("", help="Endpoint; all without it."),
    tier: str = typer.Option("", help="Customer tier; all without it."),
    region: str = typer.Option("", help="Region; all without it."),
    method: str = typer.Option("", help="Method; all without it."),
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    timezone: str = TIMEZONE,
    compare: str | None = typer.Option(
        None, help="Another span: 'the day before', 'the tuesday before', 'last week', 'before', '2026-11-03' …"
    ),
    exact: bool = typer.Option(False, "--exact", help="From the raw events: exact quantiles, slower."),
    as_json: bool = json_option("the answer as one JSON object"),
) -> None:
    """Requests, errors, apdex and latency quantiles over a span of time, in whole minutes.

    Exit code 2 for an unknown name, with names that may have been meant.
    """
    now = now_in(timezone)
    question = Question(asked_span(when, start, end, now), Names(service, endpoint, tier, region, method))
    asked = whole_minutes(elapsed(question.span, now))
    other = None if compare is None else compared_range(compare, asked, now)
    with connect(load_settings()) as client:
        findings = _find(client, question, other, now, exact=exact)
        if not findings.answer.requests:
            check_names(client, question, now)
        answer(as_json, _as_fields(findings), _told(question, findings), wraps=True)
        if not as_json:
            of_other = _warnings(findings.incomplete_other, " of the span compared with")
            said = chain(_warnings(findings.incomplete), of_other, _quiet(client, question, now))
            tell(said, to_stderr=True, wraps=True)


def check_names(client: Client, question: Question, now: datetime) -> None:
    """Raises ConfigurationError if a name of the question is unknown."""
    unknown = unknown_names(client, question.names, question.span, now)
    if unknown:
        raise ConfigurationError("; ".join(map(str, unknown)))


def _find(client: Client, question: Question, other: TimeRange | None, now: datetime, *, exact: bool) -> Findings:
    columns = columns_of(question.minutes)
    found = ask(client, question, exact=exact)
    points = history(client, question, columns, exact=exact) if found.requests else ()
    incomplete = partial(incomplete_minutes, client, of_raw=found.source == RAW)
    findings = Findings(found, points, columns, incomplete(question.minutes))
    if other is None:
        return findings
    part = elapsed(question.span, now)
    return replace(
        findings,
        incomplete_other=incomplete(whole_minutes(other)),
        answer_compared=found if part == question.span else ask(client, Question(part, question.names), exact=exact),
        other=ask(client, Question(other, question.names), exact=exact),
    )


def _told(question: Question, findings: Findings) -> Iterator[RenderableType]:
    found, compared, other = findings.answer, findings.answer_compared, findings.other
    yield f"[bold]{escape(str(question.names))}[/]\n{span_text(found.span)}"
    if compared is not None and other is not None:
        why = "" if compared.span == found.span else " (the span isn't over)"
        yield f"[dim]compared with {span_text(other.span)}{why}[/]\n"
        yield comparison(compared, other)
    elif found.requests:
        yield ""
        yield figures(found)
    else:
        yield "\nno requests"
        return
    yield ""
    yield from history_lines(findings.points, findings.columns)
    yield f"\n[dim]{_origin(question.names, found)}[/]"


def _origin(names: Names, answer: Answer) -> str:
    if answer.source != RAW:
        return f"from {answer.source}: counts are exact, quantiles within {answer.relative_error:.0%}"
    why = f", as no rollup keeps {' and '.join(names.asked)} apart" if names.cube is None else ""
    return f"from {RAW}, exact{why}"


def _warnings(incomplete: Sequence[Incomplete], of: str = "") -> Iterator[str]:
    for part in incomplete:
        if part.reason != completeness.NOT_OVER:
            minutes = f"1 minute{of} is" if part.minutes == 1 else f"{part.minutes:,} minutes{of} are"
            yield f"{WARNING} {minutes} incomplete ({_extent(part)}): {_SAID[part.reason]}"


def _extent(part: Incomplete) -> str:
    first, last = part.first, part.last
    if first == last:
        return f"{first:%Y-%m-%d %H:%M} UTC"
    return f"{first:%Y-%m-%d %H:%M} to {last:{'%H:%M' if first.date() == last.date() else '%Y-%m-%d %H:%M'}} UTC"


def _quiet(client: Client, question: Question, now: datetime) -> Iterator[str]:
    if question.span.end < now - timedelta(seconds=_QUIET_SECONDS):
        return
    landed = completeness.newest_landing(client)
    if landed is not None and landed < datetime.now(UTC) - timedelta(seconds=_QUIET_SECONDS):
        yield (
            f"{WARNING} nothing landed since {landed:%Y-%m-%d %H:%M:%S} UTC: either there is no traffic, or nobody "
            "drains it; `metrics-pipeline status` says which"
        )


def _as_fields(findings: Findings) -> dict[str, Any]:
    fields = answer_fields(findings.answer)
    counts = ("requests", "errors", "p99_ms")
    fields["history"] = [{"from": point.start, **picked(point, *counts)} for point in findings.points]
    fields["incomplete"] = findings.incomplete
    if findings.answer_compared is not None and findings.other is not None:
        asked, other = answer_fields(findings.answer_compared), answer_fields(findings.other)
        fields["compared"] = {
            "this": asked,
            "other": other,
            "difference": _difference(asked, other),
            "incomplete_other": findings.incomplete_other,
        }
    return fields


def answer_fields(answer: Answer) -> dict[str, Any]:
    """The answer for scripts; null where there is no value without requests."""
    counts = {k: v for k, v in asdict(answer).items() if k not in ("span", "source", "relative_error")}
    return {
        **bounds(answer.span),
        **counts,
        "status_5xx": answer.errors,
        "error_rate": answer.error_rate,
        "source": answer.source,
        "relative_error": answer.relative_error,
    }


def _difference(asked: dict[str, Any], other: dict[str, Any]) -> dict[str, float | None]:
    figures = (k for k in asked if k not in ("from", "to", "source", "relative_error"))
    return {k: None if asked[k] is None or other[k] is None else asked[k] - other[k] for k in figures}
