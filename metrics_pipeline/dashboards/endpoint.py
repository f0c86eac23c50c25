"""Endpoint detail: one endpoint of a service by tier, and all endpoints of the service beside each other."""

from metrics_pipeline.dashboards import rollup_sql as rollups
from metrics_pipeline.dashboards.panel import Dashboard, Unit
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import ENDPOINTS

_TIER = rollups.optional("tier")
_ONE = rollups.Section("endpoint", ENDPOINTS, f"service = @service AND endpoint = @endpoint AND {_TIER}", Reach.NARROW)
_FIGURES = rollups.figures(0.5, 0.99)

ENDPOINT_DETAIL = Dashboard(
    "endpoint-detail",
    "Endpoint detail",
    "One endpoint by tier, and the endpoints of its service beside each other.",
    (
        _ONE.lines("latency", "p50, p90, p95, p99, ms", *rollups.latency(0.5, 0.9, 0.95, 0.99)),
        _ONE.lines("requests", "Requests/s", *rollups.REQUESTS),
        _ONE.lines("error_rate", "Errors, %", *rollups.ERRORS),
        _ONE.lines("apdex", "Apdex", *rollups.APDEX),
        _ONE.by("tier", "p50", "p50 by tier, ms", *rollups.latency_by(0.5)),
        _ONE.by("tier", "p99", "p99 by tier, ms", *rollups.latency_by(0.99)),
        _ONE.by("tier", "requests", "Requests/s by tier", *rollups.REQUESTS_BY),
        _ONE.by("tier", "error_rate", "Errors by tier, %", Unit.PERCENT, rollups.ERROR_PERCENT, "n failed"),
        _ONE.whole("Whole span", _FIGURES),
        rollups.ranking(ENDPOINTS, "endpoint", "Endpoints of the service", _FIGURES, f"service = @service AND {_TIER}"),
    ),
)
