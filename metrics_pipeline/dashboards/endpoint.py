"""Endpoint detail: one endpoint of a service by tier, and all endpoints of the service beside each other."""

from metrics_pipeline.dashboards.panel import Dashboard, Kind, Panel, Unit
from metrics_pipeline.dashboards.rollup_sql import (
    APDEX,
    APDEX_NOTE,
    ERROR_NOTE,
    ERROR_PERCENT,
    PER_SECOND,
    latency_lines,
    optional,
    quantile,
    ranking,
    series,
    series_by,
    whole,
)
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import ENDPOINTS

_ONE = f"service = @service AND endpoint = @endpoint AND {optional('tier')}"
_FIGURES = f"n AS requests, {ERROR_PERCENT} AS error_percent, {quantile(0.5)} AS p50_ms, {quantile(0.99)} AS p99_ms"


def _lines(name: str, title: str, unit: Unit, lines: str, sums: str, description: str = "") -> Panel:
    query = series(ENDPOINTS, lines, sums, _ONE)
    return Panel(f"endpoint_{name}", title, description, Kind.TIMESERIES, unit, Reach.NARROW, query)


def _by_tier(name: str, title: str, unit: Unit, value: str, sums: str, description: str = "") -> Panel:
    query = series_by(ENDPOINTS, "tier", value, sums, _ONE)
    name = f"endpoint_{name}_by_tier"
    return Panel(name, title, description, Kind.TIMESERIES, unit, Reach.NARROW, query)


ENDPOINT_DETAIL = Dashboard(
    "endpoint-detail",
    "Endpoint detail",
    "One endpoint by tier, and the endpoints of its service beside each other.",
    (
        _lines("latency", "p50, p90, p95, p99, ms", Unit.MILLISECONDS, latency_lines(0.5, 0.9, 0.95, 0.99), "q",
               ERROR_NOTE),
        _lines("requests", "Requests/s", Unit.PER_SECOND, f"{PER_SECOND} AS requests", "n"),
        _lines("error_rate", "Errors, %", Unit.PERCENT, f"{ERROR_PERCENT} AS errors", "n failed",
               "Requests with a status of 500 or above."),
        _lines("apdex", "Apdex", Unit.RATIO, f"{APDEX} AS apdex", "n fine slow", APDEX_NOTE),
        _by_tier("p50", "p50 by tier, ms", Unit.MILLISECONDS, quantile(0.5), "q", ERROR_NOTE),
        _by_tier("p99", "p99 by tier, ms", Unit.MILLISECONDS, quantile(0.99), "q", ERROR_NOTE),
        _by_tier("requests", "Requests/s by tier", Unit.PER_SECOND, PER_SECOND, "n"),
        _by_tier("error_rate", "Errors by tier, %", Unit.PERCENT, ERROR_PERCENT, "n failed"),
        Panel(
            "endpoint_figures", "Whole span", f"Over the whole span. {ERROR_NOTE}",
            Kind.STAT, Unit.NONE, Reach.WHOLE, whole(ENDPOINTS, _FIGURES, "n failed q", _ONE),
        ),
        Panel(
            "endpoints", "Endpoints of the service", f"Over the whole span, most requests first. {ERROR_NOTE}",
            Kind.TABLE, Unit.NONE, Reach.WHOLE,
            ranking(ENDPOINTS, "endpoint", _FIGURES, "n failed q", f"service = @service AND {optional('tier')}"),
        ),
    ),
)  # fmt: skip
