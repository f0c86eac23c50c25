"""Which names there are: the busiest, for somebody who asked for none, and those that may have been meant."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.questions.question import Names, Question
from metrics_pipeline.rollups.cubes import Cube
from metrics_pipeline.rollups.views import source_of
from metrics_pipeline.runtime.timerange import TimeRange, later

RECENT_DAYS = 30
"""Names are looked for in the asked span, and in this many days up to now."""
MAX_NAMES = 2_000
_MAX_SUGGESTIONS = 5
_MAX_READING_SECONDS = 5
"""Reading ends after this time: names that were found by then are the known ones."""
_CLOSE = 0.6


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that no request has, and names that may have been meant, most likely first.

    `are_close`: they look like it; otherwise they are just some known names. `elsewhere` are services that have the
    endpoint or method, if another service was asked for.
    """

    dimension: str
    name: str
    service: str
    suggestions: tuple[str, ...]
    are_close: bool
    elsewhere: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" of {self.service}" if self.service else ""
        said = f"there is no {self.dimension} {self.name!r}{of}"
        if self.elsewhere:
            return f"{said}: ask for it with --service {' or '.join(self.elsewhere)}"
        if self.are_close:
            return f"{said}: did you mean {' or '.join(self.suggestions)}?"
        if self.suggestions:
            return f"{said}: there are {', '.join(self.suggestions)} …"
        return f"{said} in this span, nor in the last {RECENT_DAYS} days"


def busiest(client: Client, dimension: str, question: Question) -> str | None:
    """The name with the most of the question's requests; None without any."""
    sql = f"""SELECT {dimension} FROM {source_of(_cube_with(dimension, question.names))}
        WHERE {question.names.condition} GROUP BY {dimension} ORDER BY sum(requests) DESC, {dimension} LIMIT 1"""
    rows = query_rows(client, f"looking for the busiest {dimension}", sql, question.parameters)
    return str(rows[0][0]) if rows else None


def unknown_names(client: Client, names: Names, span: TimeRange, now: datetime) -> tuple[Unknown, ...]:
    """Asked names that no request has in the span nor lately; endpoints and methods are those of the asked service.

    Empty where there were no requests at all: then no name can be told to be wrong.
    """
    spans = (span, TimeRange(later(now, -timedelta(days=RECENT_DAYS)), later(now, timedelta(hours=1))))
    unknown: list[Unknown] = []
    for dimension, name in names.asked.items():
        service = names.service if dimension in ("endpoint", "method") else ""
        if service and any(u.dimension == "service" for u in unknown):
            service = ""
        found = _found(client, dimension, Names(service=service), spans)
        if found and name not in found:
            unknown.append(_judged(client, dimension, name, service, found, spans))
    return tuple(unknown)


def _judged(
    client: Client, dimension: str, name: str, service: str, found: Mapping[str, None], spans: tuple[TimeRange, ...]
) -> Unknown:
    elsewhere: tuple[str, ...] = ()
    if service:
        others = _found(client, "service", Names(**{dimension: name}), spans)
        elsewhere = tuple(others)[:_MAX_SUGGESTIONS]
    by_lower = {known.lower(): known for known in found}
    alike = get_close_matches(name.lower(), by_lower, n=_MAX_SUGGESTIONS, cutoff=_CLOSE)
    close = tuple(by_lower[known] for known in alike)
    suggestions = close or tuple(sorted(found))[:_MAX_SUGGESTIONS]
    return Unknown(dimension, name, service, suggestions, bool(close), elsewhere)


def _found(client: Client, dimension: str, names: Names, spans: tuple[TimeRange, ...]) -> dict[str, None]:
    """Names of the dimension, those of the first span first, at most MAX_NAMES of each."""
    sql = f"""SELECT DISTINCT {dimension} FROM {source_of(_cube_with(dimension, names))}
        WHERE {names.condition} AND {dimension} != '' LIMIT {{limit:UInt32}}"""
    settings = {"max_execution_time": _MAX_READING_SECONDS, "timeout_overflow_mode": "break"}
    found: dict[str, None] = {}
    for span in spans:
        parameters = {**Question(span, names).parameters, "limit": MAX_NAMES}
        rows = query_rows(client, f"looking for names of {dimension}", sql, parameters, settings)
        found |= {str(row[0]): None for row in rows}
    return found


def _cube_with(dimension: str, names: Names) -> Cube:
    """The smallest cube that has names of the dimension for the asked ones."""
    cube = replace(names, **{dimension: "any"}).cube
    if cube is None:
        raise AssertionError(f"no cube knows {dimension} and {names.asked}")
    return cube
