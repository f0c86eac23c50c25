"""A row of characters that shows how a figure went, and the columns of time that it has. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from metrics_pipeline.rollups.grains import GRAINS, UNIT
from metrics_pipeline.runtime.timerange import DAY_SECONDS, HOUR_SECONDS, TimeRange, later, midnight

MAX_COLUMNS = 60
"""Fits a terminal of 80 characters with a label beside it."""

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None]) -> str:
    """One bar per value, from zero to the greatest one; a blank where there is none (None)."""
    most = max((v for v in values if v is not None), default=0.0) or 1.0
    return "".join(" " if v is None else _BARS[min(int(v / most * len(_BARS)), len(_BARS) - 1)] for v in values)


@dataclass(frozen=True, slots=True)
class Columns:
    """`starts` (aware, in order) begin columns of `seconds`; the first and the last may be cut by the span."""

    starts: tuple[datetime, ...]
    seconds: int

    @property
    def width(self) -> str:
        """In words, like "3 hours"."""
        length, unit = next(
            (s, u) for s, u in ((DAY_SECONDS, "day"), (HOUR_SECONDS, "hour"), (60, "minute")) if self.seconds >= s
        )
        count = self.seconds // length
        return unit if count == 1 else f"{count} {unit}s"

    @property
    def step_seconds(self) -> int:
        """The longest buckets of rollups that these columns consist of."""
        cutoffs = [int(start.timestamp()) for start in self.starts[1:]]
        return max(g.seconds for g in GRAINS if all(cutoff % g.seconds == 0 for cutoff in cutoffs))


def columns_of(span: TimeRange, limit: int = MAX_COLUMNS) -> Columns:
    """Ten minutes each within a span below 6 hours, hours up to 7 days, else days; several of them beyond `limit`.

    They begin with the clock of the span's zone, also with its days of 23 and 25 hours. Columns of several days begin
    with days of UTC, and all others at multiples of ten minutes of UTC, so that they consist of few long buckets.
    """
    unit = UNIT.seconds
    if span.seconds >= 6 * HOUR_SECONDS:
        unit = HOUR_SECONDS if span.seconds <= 7 * DAY_SECONDS + HOUR_SECONDS else DAY_SECONDS
    seconds = unit * max(1, -(-int(span.seconds) // (unit * limit)))
    while len(columns := _columns(span, seconds, unit)) > limit:
        seconds += unit
    return Columns(columns, seconds)


def _columns(span: TimeRange, seconds: int, unit: int) -> tuple[datetime, ...]:
    grid = DAY_SECONDS if seconds > unit == DAY_SECONDS else UNIT.seconds
    first = midnight(span.start, span.start.tzinfo)
    inner = []
    for number in range(1, int(span.seconds + 2 * DAY_SECONDS) // seconds + 1):
        step = timedelta(seconds=number * seconds)
        # Days are steps of the calendar, shorter columns are steps of time.
        start = first + step if unit == DAY_SECONDS else later(first, step)
        start = later(start, -timedelta(seconds=start.timestamp() % grid))
        if span.start.timestamp() < start.timestamp() < span.end.timestamp():
            inner.append(start)
    return (span.start, *inner)
