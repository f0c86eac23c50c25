"""The question that the pipeline exists for: latency of an endpoint, for a tier, over a span of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.questions.question import RAW, Names, Question
from metrics_pipeline.questions.sparkline import Columns
from metrics_pipeline.rollups.cubes import (
    LATENCY_MERGE_FUNCTION,
    LATENCY_QUANTILES,
    METRICS,
    QUANTILE_RELATIVE_ERROR,
    Cube,
)
from metrics_pipeline.rollups.views import source_of
from metrics_pipeline.runtime.timerange import TimeRange

_RAW_QUANTILES = f"quantilesExact({', '.join(map(str, LATENCY_QUANTILES))})({RAW}.latency_ms)"
_START, _END = "{start:DateTime('UTC')}", "{end:DateTime('UTC')}"
_IN_SPAN = f"timestamp >= toDateTime64({_START}, 3) AND timestamp < toDateTime64({_END}, 3)"
"""In the column's own precision: against whole seconds, the server's index takes `< x` for `<= x - 1 s`."""
_RAW_SETTINGS = {"do_not_merge_across_partitions_select_final": 1}
"""Rows with the same key are in the same partition."""
_FIGURES = tuple(metric for metric in METRICS if metric.name != "latency_ms")


@dataclass(frozen=True, slots=True)
class Answer:
    """Figures of the requests in `span`, whole minutes; what has no value without requests is None then.

    `source` is the view or table that was read; quantiles are off by `relative_error` at most. `errors` are requests
    with a status of 500 and more; apdex is (satisfied + tolerating / 2) / requests.
    """

    span: TimeRange
    source: str
    relative_error: float
    requests: int
    errors: int
    status_1xx: int
    status_2xx: int
    status_3xx: int
    status_4xx: int
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    min_ms: float | None
    avg_ms: float | None
    max_ms: float | None
    apdex: float | None

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None

    @property
    def statuses(self) -> dict[str, int]:
        """Status class -> requests."""
        return {
            "1xx": self.status_1xx,
            "2xx": self.status_2xx,
            "3xx": self.status_3xx,
            "4xx": self.status_4xx,
            "5xx": self.errors,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of one column of time; p99 is None without requests."""

    start: datetime
    requests: int
    errors: int
    p99_ms: float | None


def ask(client: Client, question: Question, *, exact: bool = False) -> Answer:
    """Read the smallest rollup that knows the asked dimensions; raw events with `exact`, or if none knows them all."""
    cube = None if exact else question.names.cube
    sql = f"SELECT {_figures(cube)} {_rows_of(question.names, cube)}"
    (row,) = query_rows(client, "asking for latency", sql, question.parameters, _RAW_SETTINGS)
    return _answer(question.minutes, cube, row)


def history(client: Client, question: Question, columns: Columns, *, exact: bool = False) -> tuple[Point, ...]:
    """The same, per column of the question's minutes; all columns are there, also those without requests."""
    cube = None if exact else question.names.cube
    starts = [int(start.timestamp()) for start in columns.starts]
    time, figures = "minute", f"sum(requests), sum(errors), {LATENCY_MERGE_FUNCTION}(latency_ms)"
    if cube is None:
        time, figures = "timestamp", f"count(), countIf(status >= 500), {_RAW_QUANTILES}"
    sql = f"""SELECT roundDown(toUnixTimestamp({time}), {{columns:Array(UInt32)}}) AS start, {figures}
        {_rows_of(question.names, cube)} GROUP BY start"""
    parameters = {**question.parameters, "step": columns.step_seconds, "columns": starts}
    rows = query_rows(client, "asking for latency over time", sql, parameters, _RAW_SETTINGS)
    found = {int(row[0]): row[1:] for row in rows}
    return tuple(_point(start, found.get(seconds)) for start, seconds in zip(columns.starts, starts, strict=True))


def _rows_of(names: Names, cube: Cube | None) -> str:
    if cube is None:
        return f"FROM {RAW} FINAL WHERE {_IN_SPAN} AND {names.condition}"
    return f"FROM {source_of(cube)} WHERE {names.condition}"


def _figures(cube: Cube | None) -> str:
    """The sums, least and greatest of METRICS in their order, then the quantiles."""
    if cube is None:
        return ", ".join((*(m.from_events for m in _FIGURES), _RAW_QUANTILES))
    return ", ".join((*(m.merged for m in _FIGURES), f"{LATENCY_MERGE_FUNCTION}(latency_ms)"))


def _answer(span: TimeRange, cube: Cube | None, row: Sequence[Any]) -> Answer:
    figures = dict(zip((m.name for m in _FIGURES), row, strict=False))
    requests = int(figures["requests"])

    def known(value: float) -> float | None:
        return float(value) if requests else None

    p50, p90, p95, p99, p999 = map(known, row[-1])
    counts = {name: int(figures[name]) for name in ("errors", "status_1xx", "status_2xx", "status_3xx", "status_4xx")}
    satisfied, tolerating = int(figures["satisfied"]), int(figures["tolerating"])
    return Answer(
        span=span,
        source=RAW if cube is None else cube.name,
        relative_error=0.0 if cube is None else QUANTILE_RELATIVE_ERROR,
        requests=requests,
        **counts,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        min_ms=known(figures["latency_min_ms"]),
        avg_ms=float(figures["latency_sum_ms"]) / requests if requests else None,
        max_ms=known(figures["latency_max_ms"]),
        apdex=(satisfied + tolerating / 2) / requests if requests else None,
    )


def _point(start: datetime, row: Sequence[Any] | None) -> Point:
    if row is None or not row[0]:
        return Point(start, 0, 0, None)
    requests, errors, quantiles = row
    return Point(start, int(requests), int(errors), float(quantiles[LATENCY_QUANTILES.index(0.99)]))
