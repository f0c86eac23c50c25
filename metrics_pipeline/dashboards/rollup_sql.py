"""Queries over rollups: one call of a cube's view each, since the call itself costs."""

from metrics_pipeline.rollups.cubes import (
    APDEX_THRESHOLD_MS,
    LATENCY_MERGE_FUNCTION,
    LATENCY_QUANTILES,
    QUANTILE_RELATIVE_ERROR,
    Cube,
)

ERROR_NOTE = f"Quantiles come from sketches, within {QUANTILE_RELATIVE_ERROR:.0%} of the exact value."
APDEX_NOTE = (
    f"1: every request was answered without a 5xx within {APDEX_THRESHOLD_MS} ms; "
    f"half counts what took up to {4 * APDEX_THRESHOLD_MS} ms."
)

SECONDS = "least(@bucket, toUnixTimestamp(@end) - t)"
"""The length of a point: the newest bucket may reach beyond the span's end."""
PER_SECOND = f"n / {SECONDS}"
ERROR_PERCENT = "100 * failed / n"
APDEX = "(fine + slow / 2) / n"
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


def quantile(q: float) -> str:
    return f"q[{LATENCY_QUANTILES.index(q) + 1}]"


def latency_lines(*quantiles: float) -> str:
    return ", ".join(f"{quantile(q)} AS p{q * 100:g}".replace(".", "_") for q in quantiles)


def optional(*names: str) -> str:
    """Filters that an empty value switches off."""
    return " AND ".join(f"(@{name} = '' OR {name} = @{name})" for name in names)


def source(cube: Cube) -> str:
    return f"{cube.name}(start = @start, end = @end, step = @step)"


def series(cube: Cube, lines: str, sums: str, where: str) -> str:
    """A line per column of `lines`, over the named `sums`; where only counts are drawn, down to zero."""
    fill = "" if {"q", "fine"} & set(sums.split()) or ERROR_PERCENT in lines else f" ORDER BY t {FILL}"
    return f"""SELECT @t, {lines} FROM (
    SELECT toUnixTimestamp(minute) - toUnixTimestamp(minute) % @bucket AS t, {_sums(sums)}
    FROM {source(cube)} WHERE {where} GROUP BY t{fill}
) ORDER BY t"""


def series_by(cube: Cube, dimension: str, value: str, sums: str, where: str) -> str:
    """A line per value of the dimension."""
    return f"""SELECT @t, line::String AS {dimension}, {value} AS value FROM (
    SELECT toUnixTimestamp(minute) - toUnixTimestamp(minute) % @bucket AS t, {dimension} AS line, {_sums(sums)}
    FROM {source(cube)} WHERE {where} GROUP BY t, line
) ORDER BY t, line"""


def ranking(cube: Cube, dimension: str, columns: str, sums: str, where: str) -> str:
    """A row per value of the dimension, most requests first."""
    return f"""SELECT name AS {dimension}, {columns} FROM (
    SELECT {dimension} AS name, {_sums(sums)} FROM {source(cube)} WHERE {where} GROUP BY name
) ORDER BY n DESC LIMIT 200"""


def whole(cube: Cube, columns: str, sums: str, where: str) -> str:
    """One row for the whole span, none without requests."""
    return f"""SELECT {columns} FROM (
    SELECT {_sums(sums)} FROM {source(cube)} WHERE {where}
) WHERE n > 0"""


def _sums(names: str) -> str:
    return ", ".join(f"{_SUMS[name]} AS {name}" for name in names.split())
