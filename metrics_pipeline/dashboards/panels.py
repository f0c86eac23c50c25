"""All dashboards: the one set of panels that every page shows."""

from metrics_pipeline.dashboards.endpoint import ENDPOINT_DETAIL
from metrics_pipeline.dashboards.health import PIPELINE_HEALTH
from metrics_pipeline.dashboards.incident import INCIDENT_DEEP_DIVE
from metrics_pipeline.dashboards.incomplete import INCOMPLETE, INCOMPLETE_SPANS
from metrics_pipeline.dashboards.service import SERVICE_OVERVIEW

DASHBOARDS = (SERVICE_OVERVIEW, ENDPOINT_DETAIL, INCIDENT_DEEP_DIVE, PIPELINE_HEALTH)
PANELS = (INCOMPLETE, INCOMPLETE_SPANS, *(panel for dashboard in DASHBOARDS for panel in dashboard.panels))
"""Every panel once, by unique names."""

if len({panel.name for panel in PANELS}) != len(PANELS):
    raise AssertionError("each panel's name must be its own")
