"""The panels for the pages that every ClickHouse server has: /dashboard draws series, /play shows tables.

On /dashboard each parameter of a query is a box for its value, and a chart is a query whose first column is the time
in epoch seconds. It draws nothing else, so tables and single figures are links to /play.
"""

from collections.abc import Mapping

from metrics_pipeline.dashboards.health import DURATIONS, EVENTS_IN, FRESHNESS, PIPELINE_HEALTH
from metrics_pipeline.dashboards.incident import INCIDENT_DEEP_DIVE
from metrics_pipeline.dashboards.incomplete import INCOMPLETE
from metrics_pipeline.dashboards.names import named_query
from metrics_pipeline.dashboards.panel import VARIABLES, Dashboard, Kind, Panel
from metrics_pipeline.dashboards.service import (
    ALL_ERRORS,
    ALL_LATENCY,
    ALL_LATENCY_BY_TIER,
    ALL_REQUESTS_BY_TIER,
)

DEFAULT_SECONDS = 900

LIVE = Dashboard(
    "live",
    "Live",
    "What a running pipeline does, whatever services there are.",
    (
        EVENTS_IN,
        FRESHNESS,
        ALL_REQUESTS_BY_TIER,
        ALL_LATENCY,
        ALL_LATENCY_BY_TIER,
        ALL_ERRORS,
        DURATIONS,
        INCOMPLETE,
    ),
)


def builtin_query(panel: Panel) -> str:
    """With parameters `seconds`, the span up to the end of the present second, and one per variable."""
    end = "toUnixTimestamp(now()) + 1"
    return named_query(
        panel,
        time="t::INT AS t",
        start=f"{end} - {{seconds:UInt32}}",
        end=end,
        variables={v.name: f"{{{v.name}:{v.type}}}" for v in VARIABLES},
    )


def charts(dashboard: Dashboard) -> tuple[Panel, ...]:
    """The dashboard's panels that /dashboard can draw. Incomplete minutes come first where it is about events."""
    drawn = tuple(panel for panel in dashboard.panels if panel.kind is Kind.TIMESERIES)
    return drawn if INCOMPLETE in drawn or dashboard is PIPELINE_HEALTH else (INCOMPLETE, *drawn)


def tables(dashboard: Dashboard) -> tuple[Panel, ...]:
    """The dashboard's panels that /dashboard can't draw."""
    return tuple(panel for panel in dashboard.panels if panel.kind is not Kind.TIMESERIES)


def parameters(panels: tuple[Panel, ...], seconds: int, variables: Mapping[str, str]) -> dict[str, str]:
    """The values of the boxes: of the span, and of the variables that the panels use."""
    used = (v for v in VARIABLES if any(v in panel.variables for panel in panels))
    return {"seconds": str(seconds), **{v.name: variables.get(v.name, str(v.default)) for v in used}}


def needed_names(dashboard: Dashboard) -> tuple[str, ...]:
    """Variables whose panels show nothing without a name; a deep dive begins with all endpoints."""
    needed = ("service",) if dashboard is INCIDENT_DEEP_DIVE else ("service", "endpoint")
    return tuple(v.name for v in dashboard.variables if v.name in needed)
