"""Which endpoints stand out: the slowest, those with most errors, those that got worse. One query each."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.questions.question import Question, bounds
from metrics_pipeline.rollups.cubes import ENDPOINTS, LATENCY_MERGE_FUNCTION, LATENCY_QUANTILES
from metrics_pipeline.rollups.views import source_of
from metrics_pipeline.runtime.timerange import TimeRange, whole_minutes

MAX_ROWS = 1_000
SMOOTHING_ERRORS = 5
"""Added to both counts of errors before rates are compared, so that two errors after none are no great regression."""

_P50 = LATENCY_QUANTILES.index(0.5) + 1
_P99 = LATENCY_QUANTILES.index(0.99) + 1
_BY = "service, endpoint, method"
_MERGE_IF = LATENCY_MERGE_FUNCTION.replace("Merge(", "MergeIf(", 1)


class Ranking(StrEnum):
    """What puts an endpoint on top."""

    SLOWEST = "slowest"
    ERRORS = "errors"
    REGRESSIONS = "regressions"


@dataclass(frozen=True, slots=True)
class Period:
    """Figures of an endpoint over one span."""

    requests: int
    errors: int
    p50_ms: float
    p99_ms: float

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests


@dataclass(frozen=True, slots=True)
class TopRow:
    """An endpoint; `before` and the ratios are those of a regression, now to before."""

    service: str
    endpoint: str
    method: str
    now: Period
    before: Period | None = None
    p99_ratio: float | None = None
    error_rate_ratio: float | None = None


def top(
    client: Client,
    question: Question,
    ranking: Ranking,
    *,
    before: TimeRange | None = None,
    limit: int = 10,
    min_requests: int = 100,
) -> tuple[TopRow, ...]:
    """The first `limit` endpoints, per method, with at least `min_requests` in the span.

    Regressions compare with the span `before`, need `min_requests` in both, and come in the order of the greater of
    their two ratios. The question may name what ENDPOINTS keeps apart: no region. At most MAX_ROWS.
    """
    parameters: dict[str, Any] = {
        **question.parameters,
        "limit": min(limit, MAX_ROWS),
        "min_requests": max(min_requests, 1),
    }
    if ranking is not Ranking.REGRESSIONS:
        rows = query_rows(client, "ranking endpoints", _ranked(question, ranking), parameters)
        return tuple(TopRow(row[0], row[1], row[2], _period(row[3:])) for row in rows)
    if before is None:
        raise ValueError("a regression needs a span before")
    parameters |= bounds(whole_minutes(before), "before_")
    rows = query_rows(client, "ranking endpoints", _regressed(question), parameters)
    return tuple(
        TopRow(row[0], row[1], row[2], _period(row[3:7]), _period(row[7:11]), row[11], row[12]) for row in rows
    )


def _ranked(question: Question, ranking: Ranking) -> str:
    order = "p99 DESC" if ranking is Ranking.SLOWEST else "e DESC, e / n DESC"
    only = "AND e > 0" if ranking is Ranking.ERRORS else ""
    return f"""SELECT {_BY}, sum(requests) AS n, sum(errors) AS e,
        {LATENCY_MERGE_FUNCTION}(latency_ms) AS q, q[{_P50}], q[{_P99}] AS p99
        FROM {source_of(ENDPOINTS)} WHERE {question.names.condition}
        GROUP BY {_BY} HAVING n >= {{min_requests:UInt64}} {only}
        ORDER BY {order}, {_BY} LIMIT {{limit:UInt32}}"""


def _regressed(question: Question) -> str:
    columns = f"{_BY}, requests, errors, latency_ms"
    rows = " UNION ALL ".join(
        f"SELECT {columns}, {is_now} AS is_now FROM {source_of(ENDPOINTS, prefix=prefix)} "
        f"WHERE {question.names.condition}"
        for is_now, prefix in ((1, ""), (0, "before_"))
    )
    figures = ", ".join(
        f"sumIf(requests, {condition}) AS n_{name}, sumIf(errors, {condition}) AS e_{name}, "
        f"{_MERGE_IF}(latency_ms, {condition}) AS q_{name}"
        for name, condition in (("now", "is_now"), ("before", "NOT is_now"))
    )

    def rate(name: str) -> str:
        return f"(e_{name} + {SMOOTHING_ERRORS}) / n_{name}"

    return f"""SELECT {_BY}, n_now, e_now, q_now[{_P50}], q_now[{_P99}],
            n_before, e_before, q_before[{_P50}], q_before[{_P99}],
            q_now[{_P99}] / q_before[{_P99}] AS p99_ratio, {rate("now")} / ({rate("before")}) AS error_rate_ratio
        FROM (SELECT {_BY}, {figures} FROM ({rows}) GROUP BY {_BY})
        WHERE n_now >= {{min_requests:UInt64}} AND n_before >= {{min_requests:UInt64}} AND q_before[{_P99}] > 0
            AND greatest(p99_ratio, error_rate_ratio) > 1
        ORDER BY greatest(p99_ratio, error_rate_ratio) DESC, {_BY} LIMIT {{limit:UInt32}}"""


def _period(figures: Sequence[Any]) -> Period:
    requests, errors, *_, p50, p99 = figures
    return Period(int(requests), int(errors), float(p50), float(p99))
