"""What rollups hold: the cubes (which dimensions stay apart) and the metrics (what is counted in each row)."""

from dataclasses import dataclass

from metrics_pipeline.rollups.grains import Grain

QUANTILE_RELATIVE_ERROR = 0.01
LATENCY_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
LATENCY_STATE = f"quantilesDD({QUANTILE_RELATIVE_ERROR}, {', '.join(map(str, LATENCY_QUANTILES))})"
LATENCY_MERGE_FUNCTION = LATENCY_STATE.replace("quantilesDD(", "quantilesDDMerge(", 1)
_LATENCY_STATE_FUNCTION = LATENCY_STATE.replace("quantilesDD(", "quantilesDDState(", 1)
_LATENCY_MERGE_STATE_FUNCTION = LATENCY_STATE.replace("quantilesDD(", "quantilesDDMergeState(", 1)

APDEX_THRESHOLD_MS = 500
"""Faster is satisfied, up to four times that is tolerated; a failed request is neither."""


@dataclass(frozen=True, slots=True)
class Cube:
    """Rows for each combination of `dimensions`.

    `by_time` puts the time first in the sorting key: for questions about all services, which read whole buckets.
    `added` are the last of the dimensions, which tables from before got later: they end the sorting key, since that is
    where a table in use can take them in, and are not in the primary key.
    """

    name: str
    dimensions: tuple[str, ...]
    comment: str
    by_time: bool = False
    added: tuple[str, ...] = ()

    def table(self, grain: Grain) -> str:
        return f"{self.name}_{grain.name}"

    @property
    def all_grains(self) -> str:
        """Name of the table that reads all grains as one."""
        return f"{self.name}_all_grains"

    @property
    def key(self) -> tuple[str, ...]:
        """What questions filter by, as the primary key."""
        first = tuple(name for name in self.dimensions if name not in self.added)
        return ("minute", *first) if self.by_time else (*first, "minute")


ENDPOINTS = Cube(
    "rollup", ("service", "endpoint", "method", "tier"), "One state per service, endpoint, method, tier and bucket"
)
REGIONS = Cube("rollup_regions", ("service", "region", "tier"), "One state per service, region, tier and bucket")
SERVICES = Cube("rollup_services", ("service", "tier"), "One state per service, tier and bucket", by_time=True)
TOTALS = Cube("rollup_totals", ("region", "tier"), "One state per region, tier and bucket", by_time=True)

CUBES = (ENDPOINTS, REGIONS, SERVICES, TOTALS)
"""Another cube is another line here; another dimension of one is named among its `dimensions` and its `added`.

Each is as small as its questions allow: a state costs 4 microseconds to merge."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of every cube: its type, its value from raw events, and how rows are put together.

    Only total functions: a view that throws would block every insert.
    """

    name: str
    type: str
    from_events: str
    combine: str
    codec: str = ""
    comment: str = ""

    @property
    def merged(self) -> str:
        return f"{self.combine}({self.name})"


def _count(name: str, condition: str, comment: str) -> Metric:
    value = f"countIf({condition})" if condition else "count()"
    return Metric(name, "SimpleAggregateFunction(sum, UInt64)", value, "sum", "T64, ZSTD(1)", comment)


def _latency(function: str) -> Metric:
    kind = f"SimpleAggregateFunction({function}, Float64)"
    return Metric(f"latency_{function}_ms", kind, f"{function}(raw_events.latency_ms)", function)


_IS_ANSWERED = "status < 500"

METRICS = (
    _count("requests", "", ""),
    _count("errors", "status >= 500", "Requests with status >= 500"),
    _count("status_1xx", "status < 200", ""),
    _count("status_2xx", "status >= 200 AND status < 300", ""),
    _count("status_3xx", "status >= 300 AND status < 400", ""),
    _count("status_4xx", "status >= 400 AND status < 500", ""),
    _count(
        "satisfied",
        f"{_IS_ANSWERED} AND raw_events.latency_ms <= {APDEX_THRESHOLD_MS}",
        f"Apdex: no error and at most {APDEX_THRESHOLD_MS} ms",
    ),
    _count(
        "tolerating",
        f"{_IS_ANSWERED} AND raw_events.latency_ms > {APDEX_THRESHOLD_MS} "
        f"AND raw_events.latency_ms <= {4 * APDEX_THRESHOLD_MS}",
        f"Apdex: no error and at most {4 * APDEX_THRESHOLD_MS} ms, but not satisfied",
    ),
    _latency("sum"),
    _latency("min"),
    _latency("max"),
    Metric(
        "latency_ms",
        f"AggregateFunction({LATENCY_STATE}, Float64)",
        f"{_LATENCY_STATE_FUNCTION}(raw_events.latency_ms)",
        _LATENCY_MERGE_STATE_FUNCTION,
        "ZSTD(1)",
        f"Quantiles {', '.join(map(str, LATENCY_QUANTILES))}, relative error {QUANTILE_RELATIVE_ERROR}",
    ),
)
