"""Service overview: one service from the cube by region, all services from the cubes without endpoints."""

from metrics_pipeline.dashboards import rollup_sql as rollups
from metrics_pipeline.dashboards.panel import Dashboard, Unit
from metrics_pipeline.dashboards.rollup_sql import SECONDS, STATUS_CLASSES, Section
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import REGIONS, SERVICES, TOTALS

_ONE = Section("service", REGIONS, f"service = @service AND {rollups.optional('region', 'tier')}", Reach.NARROW)
_ALL = Section("all", TOTALS, rollups.optional("region", "tier"), Reach.WIDE)
_STATUS_LINES = ", ".join((*(f"n{c} / {SECONDS} AS `{c}`" for c in STATUS_CLASSES), f"failed / {SECONDS} AS `5xx`"))
_FIGURES = rollups.figures(0.99)
_LATENCY = rollups.latency(0.5, 0.95, 0.99)
_P99_BY = rollups.latency_by(0.99)

ALL_ERRORS = _ALL.lines("error_rate", "All: errors, %", *rollups.ERRORS)
ALL_LATENCY = _ALL.lines("latency", "All: p50, p95, p99, ms", *_LATENCY)
ALL_REQUESTS_BY_TIER = _ALL.by("tier", "requests", "All: requests/s by tier", *rollups.REQUESTS_BY)
ALL_LATENCY_BY_TIER = _ALL.by("tier", "p99", "All: p99 by tier, ms", *_P99_BY)

SERVICE_OVERVIEW = Dashboard(
    "service-overview",
    "Service overview",
    "One service by tier and region, and all services beside each other.",
    (
        _ONE.lines("requests", "Requests/s", *rollups.REQUESTS),
        _ONE.lines("error_rate", "Errors, %", *rollups.ERRORS),
        _ONE.lines("latency", "p50, p95, p99, ms", *_LATENCY),
        _ONE.lines("apdex", "Apdex", *rollups.APDEX),
        _ONE.lines("status", "Requests/s by status class", Unit.PER_SECOND, _STATUS_LINES,
                   "failed " + " ".join(f"n{c}" for c in STATUS_CLASSES)),
        _ONE.by("tier", "requests", "Requests/s by tier", *rollups.REQUESTS_BY),
        _ONE.by("tier", "p99", "p99 by tier, ms", *_P99_BY),
        _ONE.by("region", "requests", "Requests/s by region", *rollups.REQUESTS_BY),
        _ONE.by("region", "p99", "p99 by region, ms", *_P99_BY),
        _ALL.whole("All services", _FIGURES),
        _ALL.lines("requests", "All: requests/s", *rollups.REQUESTS),
        ALL_ERRORS,
        ALL_LATENCY,
        ALL_REQUESTS_BY_TIER,
        ALL_LATENCY_BY_TIER,
        _ALL.by("region", "p99", "All: p99 by region, ms", *_P99_BY),
        rollups.ranking(SERVICES, "service", "Services", _FIGURES, rollups.optional("tier")),
    ),
)  # fmt: skip
