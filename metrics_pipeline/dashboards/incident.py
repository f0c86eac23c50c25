"""Incident deep dive: raw events of one service, where rollups don't say enough. Always over a short span."""

from metrics_pipeline.dashboards.panel import Dashboard, Kind, Panel, Unit
from metrics_pipeline.dashboards.rollup_sql import POINT, SECONDS, WITHIN, optional

SPAN_SECONDS = 900
"""Of a longer span the last part is read: a busy service has millions of raw events in it."""
MAX_ROWS = 100
MAX_LINES = 8

_NOTE = f"From raw events, quantiles are exact; of the last {SPAN_SECONDS // 60} minutes of a longer span."
_WHERE = f"""service = @service AND {WITHIN.format("timestamp")}
    AND {optional("endpoint", "tier", "region")}"""
_T = POINT.format("timestamp")
_EVENT = (
    "timestamp, endpoint, method, status, round(latency_ms, 1) AS latency, tier, region, host, "
    "attributes['version'] AS version, customer_id, toString(event_id) AS event_id"
)
_VERSION = "attributes['version']"


def _rows(name: str, title: str, where: str, order: str) -> Panel:
    query = f"SELECT {_EVENT} FROM raw_events WHERE {_WHERE}{where} ORDER BY {order} LIMIT {MAX_ROWS}"
    return Panel(name, title, _NOTE, query, Unit.MILLISECONDS, Kind.TABLE, span_seconds=SPAN_SECONDS)


def _ranking(name: str, title: str, expression: str) -> Panel:
    query = f"""SELECT name, requests, 100 * errors / requests AS error_percent,
    q[1] AS p50_ms, q[2] AS p99_ms, max_ms FROM (
    SELECT {expression} AS name, count() AS requests, countIf(status >= 500) AS errors,
        quantilesExact(0.5, 0.99)(latency_ms) AS q, max(latency_ms) AS max_ms
    FROM raw_events WHERE {_WHERE} GROUP BY name ORDER BY errors DESC, q[2] DESC LIMIT {MAX_ROWS}
) ORDER BY errors DESC, p99_ms DESC"""
    return Panel(name, title, f"{_NOTE} Most errors first.", query, kind=Kind.TABLE, span_seconds=SPAN_SECONDS)


def _lines(name: str, title: str, unit: Unit, lines: str) -> Panel:
    query = f"SELECT @t, {lines} FROM (SELECT *, {_T} FROM raw_events WHERE {_WHERE}) GROUP BY t ORDER BY t"
    return Panel(name, title, _NOTE, query, unit, span_seconds=SPAN_SECONDS)


def _by(name: str, title: str, unit: Unit, expression: str, column: str, value: str) -> Panel:
    """A line for each of the values that occur most."""
    most = f"""SELECT {expression} FROM raw_events WHERE {_WHERE}
        GROUP BY {expression} ORDER BY count() DESC LIMIT {MAX_LINES}"""
    query = f"""SELECT @t, line AS {column}, {value} AS value FROM (
    SELECT {_T}, {expression}::String AS line, status, latency_ms FROM raw_events
    WHERE {_WHERE} AND {expression} IN ({most})
) GROUP BY t, line ORDER BY t, line"""
    note = f"{_NOTE} The {MAX_LINES} with the most requests."
    return Panel(name, title, note, query, unit, span_seconds=SPAN_SECONDS)


_ERROR_PERCENT = "100 * countIf(status >= 500) / count()"

INCIDENT_DEEP_DIVE = Dashboard(
    "incident-deep-dive",
    "Incident deep dive",
    f"Raw events of one service, {SPAN_SECONDS // 60} minutes at most: what is slow or fails, and what that shares.",
    (
        _lines("raw_requests", "Requests/s, errors/s", Unit.PER_SECOND,
               f"count() / {SECONDS} AS requests, countIf(status >= 500) / {SECONDS} AS errors"),
        _lines("raw_latency", "p50, p99, slowest, ms", Unit.MILLISECONDS,
               "quantileExact(0.5)(latency_ms) AS p50, quantileExact(0.99)(latency_ms) AS p99, "
               "max(latency_ms) AS slowest"),
        _by("raw_p99_by_host", "p99 by host, ms", Unit.MILLISECONDS, "host", "host", "quantileExact(0.99)(latency_ms)"),
        _by("raw_p99_by_version", "p99 by version, ms", Unit.MILLISECONDS, _VERSION, "version",
            "quantileExact(0.99)(latency_ms)"),
        _by("raw_errors_by_endpoint", "Errors by endpoint, %", Unit.PERCENT, "endpoint", "endpoint",
            _ERROR_PERCENT),
        _by("raw_errors_by_version", "Errors by version, %", Unit.PERCENT, _VERSION, "version",
            _ERROR_PERCENT),
        _rows("slowest_requests", "Slowest requests", "", "latency_ms DESC"),
        _rows("latest_errors", "Latest errors", " AND status >= 500", "timestamp DESC"),
        _ranking("by_host", "Hosts", "host"),
        _ranking("by_version", "Versions", _VERSION),
        _ranking("by_customer", "Customers", "customer_id"),
    ),
)  # fmt: skip
