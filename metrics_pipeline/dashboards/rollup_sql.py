"""Queries over rollups: one call of a cube's view each, since the call itself costs. And the panels that ask them."""

from collections.abc import Iterable
from dataclasses import dataclass

from metrics_pipeline.dashboards.panel import Kind, Panel, Unit
from metrics_pipeline.dashboards.steps import Reach
from metrics_pipeline.rollups.cubes import (
    APDEX_THRESHOLD_MS,
    LATENCY_MERGE_FUNCTION,
    LATENCY_QUANTILES,
    QUANTILE_RELATIVE_ERROR,
    Cube,
)

ERROR_NOTE = f"Quantiles come from sketches, within {QUANTILE_RELATIVE_ERROR:.0%} of the exact value."
_APDEX_NOTE = (
    f"1: every request was answered without a 5xx within {APDEX_THRESHOLD_MS} ms; half counts what took up to "
    f"{4 * APDEX_THRESHOLD_MS} ms."
)

SECONDS = "least(@bucket, toUnixTimestamp(@end) - t)"
"""The length of a point: the newest bucket may reach beyond the span's end."""
ERROR_PERCENT = "100 * failed / n"
WITHIN = "{0} >= toDateTime64(@start, 3) AND {0} < toDateTime64(@end, 3)"
"""In the column's own precision: against whole seconds, the server's index takes `< x` for `<= x - 1 s`."""
POINT = "toUnixTimestamp({0}) - toUnixTimestamp({0}) % @bucket AS t"
"""The time of the point that a column of time falls into."""
FILL = """WITH FILL FROM toUnixTimestamp(@start) - toUnixTimestamp(@start) % @bucket
        TO toUnixTimestamp(@end) STEP @bucket"""
"""Adds points of zero where there are no rows: else a line would join the points before and after the gap."""
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx")

_SUMS = {
    "n": "sum(requests)",
    "failed": "sum(errors)",
    "fine": "sum(satisfied)",
    "slow": "sum(tolerating)",
    "q": f"{LATENCY_MERGE_FUNCTION}(latency_ms)",
    **{f"n{c}": f"sum(status_{c})" for c in STATUS_CLASSES},
}
"""Short name -> sum. No short name is a column's, so that no alias hides a column."""
_FIGURES = "n failed q"
"""The sums of panels about whole spans."""


def quantile(q: float) -> str:
    return f"q[{LATENCY_QUANTILES.index(q) + 1}]"


def optional(*names: str) -> str:
    """Filters that an empty value switches off."""
    return " AND ".join(f"(@{name} = '' OR {name} = @{name})" for name in names)


def source(cube: Cube) -> str:
    return f"{cube.name}(start = @start, end = @end, step = @step)"


REQUESTS_BY = (Unit.PER_SECOND, f"n / {SECONDS}", "n")
REQUESTS = (Unit.PER_SECOND, f"n / {SECONDS} AS requests", "n")
ERRORS = (Unit.PERCENT, f"{ERROR_PERCENT} AS errors", "n failed", "Requests with a status of 500 or above.")
APDEX = (Unit.RATIO, "(fine + slow / 2) / n AS apdex", "n fine slow", _APDEX_NOTE)


def latency(*quantiles: float) -> tuple[Unit, str, str, str]:
    return Unit.MILLISECONDS, _latencies(quantiles), "q", ERROR_NOTE


def latency_by(q: float) -> tuple[Unit, str, str, str]:
    return Unit.MILLISECONDS, quantile(q), "q", ERROR_NOTE


def figures(*quantiles: float) -> str:
    """Columns of panels about whole spans."""
    return f"n AS requests, {ERROR_PERCENT} AS error_percent, {_latencies(quantiles, '_ms')}"


def _latencies(quantiles: Iterable[float], suffix: str = "") -> str:
    return ", ".join(f"{quantile(q)} AS p{q * 100:g}{suffix}".replace(".", "_") for q in quantiles)


@dataclass(frozen=True, slots=True)
class Section:
    """Time series of the same requests. `name` begins the panels' names; lines and values are made of `sums`, which are
    given by their short names.
    """

    name: str
    cube: Cube
    where: str
    reach: Reach

    def lines(self, name: str, title: str, unit: Unit, lines: str, sums: str, description: str = "") -> Panel:
        """A line per column of `lines`; where only counts are drawn, down to zero."""
        fill = "" if {"q", "fine"} & set(sums.split()) or ERROR_PERCENT in lines else f" ORDER BY t {FILL}"
        query = f"""SELECT @t, {lines} FROM (
    SELECT {POINT.format("minute")}, {_sums(sums)}
    FROM {source(self.cube)} WHERE {self.where} GROUP BY t{fill}
) ORDER BY t"""
        return Panel(f"{self.name}_{name}", title, description, query, unit, reach=self.reach)

    def by(
        self, dimension: str, name: str, title: str, unit: Unit, value: str, sums: str, description: str = ""
    ) -> Panel:
        """A line per value of the dimension."""
        query = f"""SELECT @t, line::String AS {dimension}, {value} AS value FROM (
    SELECT {POINT.format("minute")}, {dimension} AS line, {_sums(sums)}
    FROM {source(self.cube)} WHERE {self.where} GROUP BY t, line
) ORDER BY t, line"""
        return Panel(f"{self.name}_{name}_by_{dimension}", title, description, query, unit, reach=self.reach)

    def whole(self, title: str, columns: str) -> Panel:
        """One row for the whole span, none without requests."""
        query = f"""SELECT {columns} FROM (
    SELECT {_sums(_FIGURES)} FROM {source(self.cube)} WHERE {self.where}
) WHERE n > 0"""
        note = f"Over the whole span. {ERROR_NOTE}"
        return Panel(f"{self.name}_figures", title, note, query, kind=Kind.STAT, reach=Reach.WHOLE)


def ranking(cube: Cube, dimension: str, title: str, columns: str, where: str) -> Panel:
    """A row per value of the dimension, most requests first."""
    query = f"""SELECT name AS {dimension}, {columns} FROM (
    SELECT {dimension} AS name, {_sums(_FIGURES)} FROM {source(cube)} WHERE {where} GROUP BY name
) ORDER BY n DESC LIMIT 200"""
    note = f"Over the whole span, most requests first. {ERROR_NOTE}"
    return Panel(f"{dimension}s", title, note, query, kind=Kind.TABLE, reach=Reach.WHOLE)


def _sums(names: str) -> str:
    return ", ".join(f"{_SUMS[name]} AS {name}" for name in names.split())
