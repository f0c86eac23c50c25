"""How long the buckets of a chart are, and how coarse the rollups that it reads. Pure.

Each choice exists once, as a table of spans, for Python and for SQL: a page that knows its span only when a query runs
lets the server choose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from metrics_pipeline.rollups.grains import COARSEST_SECONDS

HOUR, DAY, WEEK = 3_600, 86_400, 604_800
MONTH = 31 * DAY


class Reach(StrEnum):
    """What a panel reads, and so how its buckets are chosen."""

    NARROW = "one service's rollups, a point per bucket"
    WIDE = "all services' rollups, a point per bucket"
    WHOLE = "rollups, one answer for the whole span"
    ROWS = "the ledger or raw events, a point per bucket"


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds: a point is `bucket_seconds` long, and rollups are read in buckets of at most `step_seconds`.

    Rollups are read from a multiple of `bucket_seconds`, so that the border of a span needs no finer rows.
    """

    bucket_seconds: int
    step_seconds: int


_Row = tuple[int, int]
_NARROW: Sequence[_Row] = ((3 * HOUR, 60), (DAY, 600), (MONTH, HOUR))
_WIDE: Sequence[_Row] = ((3 * HOUR, 60), (DAY, 600), (WEEK, HOUR))
_ROWS: Sequence[_Row] = ((HOUR // 4, 5), (HOUR, 15), (6 * HOUR, 60), (DAY, 600), (MONTH, HOUR))
_BUCKETS = {Reach.NARROW: _NARROW, Reach.WIDE: _WIDE, Reach.WHOLE: _NARROW, Reach.ROWS: _ROWS}
"""Rows of (longest span in seconds, bucket of a point). Beyond the last row a bucket is a day."""


def step_of(reach: Reach, span_seconds: int) -> Step:
    """The one choice per span."""
    bucket = next((b for limit, b in _BUCKETS[reach] if span_seconds <= limit), DAY)
    return Step(bucket, COARSEST_SECONDS if reach is Reach.WHOLE else bucket)


def bucket_sql(reach: Reach, span_sql: str) -> str:
    """`bucket_seconds` of `step_of` as an expression over that of the span in seconds."""
    cases = ", ".join(f"{span_sql} <= {limit}, {bucket}" for limit, bucket in _BUCKETS[reach])
    return f"multiIf({cases}, {DAY})"
