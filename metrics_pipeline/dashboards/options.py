"""What readers may choose for each variable: the values of the span, those with the most requests first."""

from metrics_pipeline.dashboards.panel import Kind, Panel
from metrics_pipeline.dashboards.rollup_sql import source
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import ENDPOINTS, SERVICES, TOTALS, Cube

MAX_OPTIONS = 1_000


def _options(cube: Cube, name: str, where: str = "1") -> Panel:
    query = f"""SELECT {name}::String AS {name} FROM {source(cube)} WHERE {where}
GROUP BY {name} ORDER BY sum(requests) DESC LIMIT {MAX_OPTIONS}"""
    return Panel(f"options_{name}", name, "", query, kind=Kind.TABLE, reach=Reach.WHOLE)


OPTIONS = {
    "service": _options(SERVICES, "service"),
    "endpoint": _options(ENDPOINTS, "endpoint", "service = @service"),
    "tier": _options(TOTALS, "tier"),
    "region": _options(TOTALS, "region"),
}
"""Variable -> question, asked like a panel's. Its answer is one column of values."""
