"""The question that the pipeline exists for: latency of an endpoint, for a tier, over a span of time."""

from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.rollups.cubes import LATENCY_MERGE_FUNCTION
from metrics_pipeline.core.timerange import TimeRange, whole_minutes

QUANTILES = (0.5, 0.95, 0.99)

_FILTER = """
    {time_column} >= {{start:DateTime64(3, 'UTC')}} AND {time_column} < {{end:DateTime64(3, 'UTC')}}
    AND ({{service:String}} = '' OR service = {{service:String}})
    AND ({{endpoint:String}} = '' OR endpoint = {{endpoint:String}})
    AND ({{tier:String}} = '' OR tier = {{tier:String}})"""

_FROM_ROLLUP = f"""SELECT sum(requests), sum(errors), {LATENCY_MERGE_FUNCTION}(latency_ms)
    FROM rollup_1m WHERE """ + _FILTER.format(time_column="minute")

_FROM_RAW = """SELECT count(), countIf(status >= 500), quantilesExact(0.5, 0.9, 0.95, 0.99, 0.999)(latency_ms)
    FROM raw_events FINAL WHERE """ + _FILTER.format(time_column="timestamp")


@dataclass(frozen=True, slots=True)
class Question:
    """Whose latency, when. An empty name means all."""

    span: TimeRange
    service: str = ""
    endpoint: str = ""
    tier: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Quantiles are None where there was no request."""

    span: TimeRange
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


def ask(client: Client, question: Question, *, exact: bool = False) -> Answer:
    """From rollup_1m, over whole minutes, within the sketch's relative error; with `exact` from raw_events."""
    span = question.span if exact else whole_minutes(question.span)
    parameters: dict[str, Any] = {
        "start": span.start,
        "end": span.end,
        "service": question.service,
        "endpoint": question.endpoint,
        "tier": question.tier,
    }
    sql = _FROM_RAW if exact else _FROM_ROLLUP
    rows = calling("asking for latency", lambda: client.query(sql, parameters=parameters).result_rows)
    requests, errors, (p50, _, p95, p99, _) = rows[0]
    known = int(requests) > 0
    return Answer(
        span,
        int(requests),
        int(errors),
        float(p50) if known else None,
        float(p95) if known else None,
        float(p99) if known else None,
    )


def busiest(client: Client, span: TimeRange, *, tier: str) -> tuple[str, str] | None:
    """The service and endpoint with the most requests of a tier; None without any."""
    sql = """SELECT service, endpoint FROM rollup_1m
        WHERE minute >= {start:DateTime64(3, 'UTC')} AND minute < {end:DateTime64(3, 'UTC')} AND tier = {tier:String}
        GROUP BY service, endpoint ORDER BY sum(requests) DESC LIMIT 1"""
    parameters = {"start": span.start, "end": span.end, "tier": tier}
    rows = calling("looking for the busiest endpoint", lambda: client.query(sql, parameters=parameters).result_rows)
    return (str(rows[0][0]), str(rows[0][1])) if rows else None
