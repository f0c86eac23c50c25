"""Endpoint detail: one endpoint of a service by tier, and all endpoints of the service beside each other."""

from metrics_pipeline.dashboards.panel import Dashboard, Unit
from metrics_pipeline.dashboards.rollup_sql import (
    APDEX,
    APDEX_NOTE,
    ERROR_NOTE,
    ERROR_PERCENT,
    ERRORS,
    P99,
    PER_SECOND,
    REQUESTS,
    Section,
    latency_lines,
    optional,
    quantile,
    ranking,
)
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import ENDPOINTS

_ONE = Section(
    "endpoint", ENDPOINTS, f"service = @service AND endpoint = @endpoint AND {optional('tier')}", Reach.NARROW
)
_FIGURES = f"n AS requests, {ERROR_PERCENT} AS error_percent, {quantile(0.5)} AS p50_ms, {quantile(0.99)} AS p99_ms"
_LATENCY = latency_lines(0.5, 0.9, 0.95, 0.99)

ENDPOINT_DETAIL = Dashboard(
    "endpoint-detail",
    "Endpoint detail",
    "One endpoint by tier, and the endpoints of its service beside each other.",
    (
        _ONE.lines("latency", "p50, p90, p95, p99, ms", Unit.MILLISECONDS, _LATENCY, "q", ERROR_NOTE),
        _ONE.lines("requests", "Requests/s", *REQUESTS),
        _ONE.lines("error_rate", "Errors, %", *ERRORS),
        _ONE.lines("apdex", "Apdex", Unit.RATIO, f"{APDEX} AS apdex", "n fine slow", APDEX_NOTE),
        _ONE.by("tier", "p50", "p50 by tier, ms", Unit.MILLISECONDS, quantile(0.5), "q", ERROR_NOTE),
        _ONE.by("tier", "p99", "p99 by tier, ms", *P99),
        _ONE.by("tier", "requests", "Requests/s by tier", Unit.PER_SECOND, PER_SECOND, "n"),
        _ONE.by("tier", "error_rate", "Errors by tier, %", Unit.PERCENT, ERROR_PERCENT, "n failed"),
        _ONE.whole("Whole span", _FIGURES),
        ranking(
            ENDPOINTS,
            "endpoint",
            "Endpoints of the service",
            _FIGURES,
            f"service = @service AND {optional('tier')}",
        ),
    ),
)
