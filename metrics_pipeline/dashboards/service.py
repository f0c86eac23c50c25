"""Service overview: one service from the cube by region, all services from the cubes without endpoints."""

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
    SECONDS,
    STATUS_CLASSES,
    Section,
    latency_lines,
    optional,
    quantile,
    ranking,
)
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import REGIONS, SERVICES, TOTALS

_ONE = Section("service", REGIONS, f"service = @service AND {optional('region', 'tier')}", Reach.NARROW)
_ALL = Section("all", TOTALS, optional("region", "tier"), Reach.WIDE)
_STATUS_LINES = ", ".join((*(f"n{c} / {SECONDS} AS `{c}`" for c in STATUS_CLASSES), f"failed / {SECONDS} AS `5xx`"))
_FIGURES = f"n AS requests, {ERROR_PERCENT} AS error_percent, {quantile(0.99)} AS p99_ms"
_LATENCY = (Unit.MILLISECONDS, latency_lines(0.5, 0.95, 0.99), "q", ERROR_NOTE)

ALL_ERRORS = _ALL.lines("error_rate", "All: errors, %", *ERRORS)
ALL_LATENCY = _ALL.lines("latency", "All: p50, p95, p99, ms", *_LATENCY)
ALL_REQUESTS_BY_TIER = _ALL.by("tier", "requests", "All: requests/s by tier", Unit.PER_SECOND, PER_SECOND, "n")
ALL_LATENCY_BY_TIER = _ALL.by("tier", "p99", "All: p99 by tier, ms", *P99)

SERVICE_OVERVIEW = Dashboard(
    "service-overview",
    "Service overview",
    "One service by tier and region, and all services beside each other.",
    (
        _ONE.lines("requests", "Requests/s", *REQUESTS),
        _ONE.lines("error_rate", "Errors, %", *ERRORS),
        _ONE.lines("latency", "p50, p95, p99, ms", *_LATENCY),
        _ONE.lines("apdex", "Apdex", Unit.RATIO, f"{APDEX} AS apdex", "n fine slow", APDEX_NOTE),
        _ONE.lines("status", "Requests/s by status class", Unit.PER_SECOND, _STATUS_LINES,
                   "failed " + " ".join(f"n{c}" for c in STATUS_CLASSES)),
        _ONE.by("tier", "requests", "Requests/s by tier", Unit.PER_SECOND, PER_SECOND, "n"),
        _ONE.by("tier", "p99", "p99 by tier, ms", *P99),
        _ONE.by("region", "requests", "Requests/s by region", Unit.PER_SECOND, PER_SECOND, "n"),
        _ONE.by("region", "p99", "p99 by region, ms", *P99),
        _ALL.whole("All services", _FIGURES),
        _ALL.lines("requests", "All: requests/s", *REQUESTS),
        ALL_ERRORS,
        ALL_LATENCY,
        ALL_REQUESTS_BY_TIER,
        ALL_LATENCY_BY_TIER,
        _ALL.by("region", "p99", "All: p99 by region, ms", *P99),
        ranking(SERVICES, "service", "Services", _FIGURES, optional("tier")),
    ),
)  # fmt: skip
