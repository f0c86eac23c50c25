"""The questions that are measured: each panel of each dashboard, and those about latency that a terminal asks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from benchmarks.questions.fill import DAY, HOUR, RANGES_SECONDS
from metrics_pipeline.dashboards.incident import SPAN_SECONDS as RAW_SPAN_SECONDS
from metrics_pipeline.dashboards.panel import Panel, panel_query
from metrics_pipeline.dashboards.panels import DASHBOARDS, PANELS
from metrics_pipeline.lab.loadgen.catalog import REGIONS, TIERS, endpoints
from metrics_pipeline.rollups.cubes import CUBES, ENDPOINTS, LATENCY_MERGE_FUNCTION, METRICS
from metrics_pipeline.rollups.grains import BUILT, LIVE
from metrics_pipeline.rollups.views import source_of

Query = tuple[str, dict[str, Any]]

_IN_SPAN = """timestamp >= toDateTime64({start:DateTime('UTC')}, 3)
    AND timestamp < toDateTime64({end:DateTime('UTC')}, 3)"""
_ONE = "service = {service:String} AND endpoint = {endpoint:String} AND ({tier:String} = '' OR tier = {tier:String})"
_FIGURES = ", ".join(metric.merged for metric in METRICS if metric.name != "latency_ms")
_LATENCY = f"""SELECT {_FIGURES}, {LATENCY_MERGE_FUNCTION}(latency_ms)
FROM {source_of(ENDPOINTS)} WHERE {_ONE}"""
_LATENCY_OF_RAW = f"""SELECT count(), countIf(status >= 500), quantilesExact(0.5, 0.9, 0.95, 0.99, 0.999)(latency_ms)
FROM raw_events WHERE {_ONE} AND {_IN_SPAN}"""
_RANKING_OF_RAW = f"""SELECT service, count() AS n, 100 * countIf(status >= 500) / n, quantileExact(0.99)(latency_ms)
FROM raw_events WHERE {_IN_SPAN}
GROUP BY service ORDER BY n DESC"""
_SERIES_OF_RAW = f"""SELECT toStartOfInterval(timestamp, toIntervalSecond({{bucket:UInt32}})) AS t,
    quantilesExact(0.5, 0.99)(latency_ms) FROM raw_events
WHERE service = {{service:String}} AND {_IN_SPAN}
GROUP BY t ORDER BY t"""


@dataclass(frozen=True, slots=True)
class Cell:
    """A question over a range; `panel` is None for the one of the terminal."""

    group: str
    name: str
    range_name: str
    panel: Panel | None = None

    @property
    def key(self) -> str:
        return f"{self.group}/{self.name}/{self.range_name}"

    def query(self, end_seconds: int, rng: Random) -> Query:
        """With values drawn for it; the end moves by minutes, so that no two queries are the same."""
        if self.panel is None:
            return latency_of_day(self.range_name, end_seconds, rng)
        end = end_seconds - rng.randrange(5) * 60
        names = {v.name for v in self.panel.variables} & {"service", "endpoint", "tier", "region"}
        drawn = draw(rng)
        start = datetime.fromtimestamp(end - RANGES_SECONDS[self.range_name], UTC)
        return panel_query(self.panel, start, datetime.fromtimestamp(end, UTC), **{n: drawn[n] for n in sorted(names)})


def cells() -> Iterator[Cell]:
    for panel in PANELS:
        group = next((d.name for d in DASHBOARDS if panel in d.panels), "all dashboards")
        # Panels of raw events read the same last minutes of whatever range.
        for range_name in ["1 h"] if panel.span_seconds == RAW_SPAN_SECONDS else RANGES_SECONDS:
            yield Cell(group, panel.name, range_name, panel)
    for range_name in RANGES_SECONDS:
        yield Cell("terminal", "latency of a random day", range_name)


def draw(rng: Random) -> dict[str, str]:
    endpoint = rng.choice(endpoints())
    return {
        "service": endpoint.service,
        "endpoint": endpoint.path,
        "tier": rng.choice(("", *TIERS)),
        "region": rng.choice(("", *REGIONS)),
    }


def latency_of_day(range_name: str, end_seconds: int, rng: Random) -> Query:
    """A day (or what the range is of one) at random in the last 13 months; of the range's length if it is longer."""
    length = RANGES_SECONDS[range_name]
    if length < DAY:
        start = end_seconds - length - rng.randrange(0, 24 * 60 - length // 60) * 60
    else:
        days = (RANGES_SECONDS["13 months"] - length) // DAY
        start = end_seconds - end_seconds % DAY - length - rng.randint(0, days) * DAY
    step = BUILT[-1].seconds if length > 3 * HOUR else LIVE.seconds
    names = draw(rng)
    del names["region"]
    return _LATENCY, {"start": start, "end": start + length, "step": step, **names}


def beside(end_seconds: int, range_name: str, rng: Random) -> Iterator[tuple[str, Query, Query]]:
    """(name, on rollups, on raw events), of the same values."""
    span = {"start": end_seconds - RANGES_SECONDS[range_name], "end": end_seconds}
    names = draw(rng)
    one = {name: names[name] for name in ("service", "endpoint", "tier")}
    step = BUILT[-1].seconds if range_name != "1 h" else LIVE.seconds
    yield "latency of an endpoint", (_LATENCY, {**span, **one, "step": step}), (_LATENCY_OF_RAW, {**span, **one})
    start, end = (datetime.fromtimestamp(span[name], UTC) for name in ("start", "end"))
    panels = {panel.name: panel for panel in PANELS}
    ranking = panel_query(panels["services"], start, end, tier="")
    yield "services, ranked", ranking, (_RANKING_OF_RAW, span)
    series = panel_query(panels["service_latency"], start, end, service=names["service"], tier="", region="")
    raw = {**span, "service": names["service"], "bucket": series[1]["bucket"]}
    yield "latency of a service", series, (_SERIES_OF_RAW, raw)


_CALL = re.compile(
    rf"FROM ((?:{'|'.join(c.name for c in CUBES)})\(start ?=.*?step ?= ?[^)]*\)) WHERE (.*?)(?: GROUP BY|\n\)|$)",
    re.DOTALL,
)


def states_query(sql: str) -> str | None:
    """Counts the rows whose states the query merges; None if it merges none."""
    found = _CALL.search(sql)
    if found is None or LATENCY_MERGE_FUNCTION not in sql:
        return None
    return f"SELECT count() FROM {found[1]} WHERE {found[2]}"
