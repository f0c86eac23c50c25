"""What a panel is, and the question it asks with parameters of the server."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from metrics_pipeline.dashboards.steps import Reach, step_of
from metrics_pipeline.errors import ConfigurationError


class Kind(StrEnum):
    """How it is drawn. A time series' columns are time and lines, or time, name of the line, value."""

    TIMESERIES = "timeseries"
    TABLE = "table"
    STAT = "stat"


class Unit(StrEnum):
    """The unit of a time series' values. Columns of tables and figures have their unit in the name."""

    NONE = ""
    COUNT = "count"
    PER_SECOND = "per second"
    PERCENT = "%"
    RATIO = "0 to 1"
    MILLISECONDS = "ms"
    SECONDS = "s"


@dataclass(frozen=True, slots=True)
class Variable:
    """What a reader chooses; an empty text means all."""

    name: str
    type: str
    default: str | float
    label: str


VARIABLES = (
    Variable("service", "String", "", "Service"),
    Variable("endpoint", "String", "", "Endpoint"),
    Variable("tier", "String", "", "Tier"),
    Variable("region", "String", "", "Region"),
    Variable("price", "Float64", 0.1, "Price of a GB-month"),
)


@dataclass(frozen=True, slots=True)
class Panel:
    """A question and how its answer is drawn.

    `query` is SQL with tokens: `@t` the time of a point (of its column t, epoch seconds), `@start`, `@end` the span as
    DateTime in UTC, `@bucket`, `@step` seconds (see steps.py), and a token per variable, like `@service`.
    `span_seconds` limits what is read: the last part of a longer span.
    """

    name: str
    title: str
    description: str
    query: str
    unit: Unit = Unit.NONE
    kind: Kind = Kind.TIMESERIES
    reach: Reach = Reach.ROWS
    span_seconds: int | None = None

    @property
    def lines_by(self) -> str:
        """The column that names the lines of a series: the one that is made of `line`, if there is one."""
        found = _LINES_BY.match(self.query)
        return found[1] if found else ""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the query uses."""
        return tuple(v for v in VARIABLES if v.name in TOKEN.findall(self.query))


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Panels in the order in which they are shown."""

    name: str
    title: str
    description: str
    panels: tuple[Panel, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(v for v in VARIABLES if any(v in panel.variables for panel in self.panels))


TOKEN = re.compile(r"@([a-z]+)\b")
_LINES_BY = re.compile(r"SELECT @t, line(?:::String)? AS (\w+)")


def render(query: str, tokens: Mapping[str, str]) -> str:
    """The query with each token replaced. Raises KeyError for a token without a meaning."""
    return TOKEN.sub(lambda found: tokens[found[1]], query)


def panel_query(panel: Panel, start: datetime, end: datetime, **variables: str | float) -> tuple[str, dict[str, Any]]:
    """The panel's question about [start, end) as SQL and the values of its server-side parameters.

    Raises ConfigurationError for a variable that no panel knows.
    """
    unknown = variables.keys() - {v.name for v in VARIABLES}
    if unknown:
        raise ConfigurationError(
            f"panels have no variable {', '.join(sorted(unknown))}; known are {', '.join(v.name for v in VARIABLES)}"
        )
    start_seconds, end_seconds = int(start.timestamp()), int(end.timestamp())
    if panel.span_seconds is not None:
        start_seconds = max(start_seconds, end_seconds - panel.span_seconds)
    step = step_of(panel.reach, end_seconds - start_seconds)
    parameters: dict[str, Any] = {
        "start": start_seconds - start_seconds % step.bucket_seconds,
        "end": end_seconds if panel.reach is Reach.ROWS else -(-end_seconds // 60) * 60,
        "bucket": step.bucket_seconds,
        "step": step.step_seconds,
        **{v.name: variables.get(v.name, v.default) for v in VARIABLES},
    }
    used = set(TOKEN.findall(panel.query))
    return render(panel.query, PARAMETERS), {name: value for name, value in parameters.items() if name in used}


PARAMETERS = {
    "t": "toDateTime(t, 'UTC') AS time",
    "start": "{start:DateTime('UTC')}",
    "end": "{end:DateTime('UTC')}",
    "bucket": "{bucket:UInt32}",
    "step": "{step:UInt32}",
    **{v.name: f"{{{v.name}:{v.type}}}" for v in VARIABLES},
}
"""Token -> SQL, for clients that send values as parameters of the server."""
