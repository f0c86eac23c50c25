"""Service overview: one service from the cube by region, all services from the cubes without endpoints."""

from metrics_pipeline.dashboards.panel import Dashboard, Kind, Panel, Unit
from metrics_pipeline.dashboards.rollup_sql import (
    APDEX,
    APDEX_NOTE,
    ERROR_NOTE,
    ERROR_PERCENT,
    PER_SECOND,
    SECONDS,
    STATUS_CLASSES,
    latency_lines,
    optional,
    quantile,
    ranking,
    series,
    series_by,
    whole,
)
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import REGIONS, SERVICES, TOTALS, Cube

_ONE = f"service = @service AND {optional('region', 'tier')}"
_ALL = optional("region", "tier")
_STATUS_LINES = ", ".join((*(f"n{c} / {SECONDS} AS `{c}`" for c in STATUS_CLASSES), f"failed / {SECONDS} AS `5xx`"))
_FIGURES = f"n AS requests, {ERROR_PERCENT} AS error_percent, {quantile(0.99)} AS p99_ms"


def _one(name: str, title: str, unit: Unit, lines: str, sums: str, description: str = "") -> Panel:
    query = series(REGIONS, lines, sums, _ONE)
    return Panel(f"service_{name}", title, description, Kind.TIMESERIES, unit, Reach.NARROW, query)


def _one_by(dimension: str, name: str, title: str, unit: Unit, value: str, sums: str, description: str = "") -> Panel:
    query = series_by(REGIONS, dimension, value, sums, _ONE)
    name = f"service_{name}_by_{dimension}"
    return Panel(name, title, description, Kind.TIMESERIES, unit, Reach.NARROW, query)


def _all(name: str, title: str, unit: Unit, lines: str, sums: str, description: str = "") -> Panel:
    query = series(TOTALS, lines, sums, _ALL)
    return Panel(f"all_{name}", title, description, Kind.TIMESERIES, unit, Reach.WIDE, query)


def _all_by(dimension: str, name: str, title: str, unit: Unit, value: str, sums: str, description: str = "") -> Panel:
    query = series_by(TOTALS, dimension, value, sums, _ALL)
    name = f"all_{name}_by_{dimension}"
    return Panel(name, title, description, Kind.TIMESERIES, unit, Reach.WIDE, query)


def _stat(cube: Cube, name: str, title: str, description: str) -> Panel:
    query = whole(cube, _FIGURES, "n failed q", _ALL)
    return Panel(name, title, description, Kind.STAT, Unit.NONE, Reach.WHOLE, query)


ALL_REQUESTS = _all("requests", "All: requests/s", Unit.PER_SECOND, f"{PER_SECOND} AS requests", "n")
ALL_ERRORS = _all(
    "error_rate", "All: errors, %", Unit.PERCENT, f"{ERROR_PERCENT} AS errors", "n failed",
    "Requests with a status of 500 or above.",
)  # fmt: skip
ALL_LATENCY = _all(
    "latency", "All: p50, p95, p99, ms", Unit.MILLISECONDS, latency_lines(0.5, 0.95, 0.99), "q", ERROR_NOTE
)
ALL_REQUESTS_BY_TIER = _all_by("tier", "requests", "All: requests/s by tier", Unit.PER_SECOND, PER_SECOND, "n")
_P99 = (Unit.MILLISECONDS, quantile(0.99), "q", ERROR_NOTE)
ALL_LATENCY_BY_TIER = _all_by("tier", "p99", "All: p99 by tier, ms", *_P99)
ALL_LATENCY_BY_REGION = _all_by("region", "p99", "All: p99 by region, ms", *_P99)

SERVICE_OVERVIEW = Dashboard(
    "service-overview",
    "Service overview",
    "One service by tier and region, and all services beside each other.",
    (
        _one("requests", "Requests/s", Unit.PER_SECOND, f"{PER_SECOND} AS requests", "n"),
        _one("error_rate", "Errors, %", Unit.PERCENT, f"{ERROR_PERCENT} AS errors", "n failed",
             "Requests with a status of 500 or above."),
        _one("latency", "p50, p95, p99, ms", Unit.MILLISECONDS, latency_lines(0.5, 0.95, 0.99), "q", ERROR_NOTE),
        _one("apdex", "Apdex", Unit.RATIO, f"{APDEX} AS apdex", "n fine slow", APDEX_NOTE),
        _one("status", "Requests/s by status class", Unit.PER_SECOND, _STATUS_LINES,
             "failed " + " ".join(f"n{c}" for c in STATUS_CLASSES)),
        _one_by("tier", "requests", "Requests/s by tier", Unit.PER_SECOND, PER_SECOND, "n"),
        _one_by("tier", "p99", "p99 by tier, ms", *_P99),
        _one_by("region", "requests", "Requests/s by region", Unit.PER_SECOND, PER_SECOND, "n"),
        _one_by("region", "p99", "p99 by region, ms", *_P99),
        _stat(TOTALS, "all_figures", "All services", f"Over the whole span. {ERROR_NOTE}"),
        ALL_REQUESTS,
        ALL_ERRORS,
        ALL_LATENCY,
        ALL_REQUESTS_BY_TIER,
        ALL_LATENCY_BY_TIER,
        ALL_LATENCY_BY_REGION,
        Panel(
            "services", "Services", f"Over the whole span, most requests first. {ERROR_NOTE}",
            Kind.TABLE, Unit.NONE, Reach.WHOLE,
            ranking(SERVICES, "service", _FIGURES, "n failed q", optional("tier")),
        ),
    ),
)  # fmt: skip
