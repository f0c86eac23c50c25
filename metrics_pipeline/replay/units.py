"""Units of rollups that a replay has changed: which can be repaired, and how. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from metrics_pipeline.rollups.grains import UNIT
from metrics_pipeline.runtime.timerange import DAY_SECONDS


@dataclass(frozen=True, slots=True)
class UnitAccount:
    """Events of a unit of rollups, as the three sources count them."""

    ledger: int = 0
    raw: int = 0
    rollup: int = 0

    @property
    def is_repairable(self) -> bool:
        """Is raw_events nearer to the ledger than the rollup? Else a repair would make the rollup forget: of a day that
        was dropped, say, and of which the topic has but a few late messages."""
        return abs(self.ledger - self.raw) <= abs(self.ledger - self.rollup)

    @property
    def is_to_be_forgotten(self) -> bool:
        """Nothing should be there, and raw_events has nothing."""
        return self.rollup > 0 and not (self.ledger or self.raw)


def unit_accounts(ledger: pl.DataFrame, raw: pl.DataFrame, rollup: pl.DataFrame) -> dict[int, UnitAccount]:
    """Figures per minute (columns minute, events), summed per unit."""
    sums: dict[int, list[int]] = {}
    for at, counts in enumerate((ledger, raw, rollup)):
        for minute, events in counts.select("minute", "events").iter_rows():
            sums.setdefault(UNIT.floor(minute), [0, 0, 0])[at] += events
    return {unit: UnitAccount(*counted) for unit, counted in sums.items()}


def spans_of(units: Iterable[int], max_gap_units: int = 0) -> list[tuple[int, int]]:
    """Spans [start, end) of units, each within a day. Neighbours share a span if at most `max_gap_units` lie between
    them."""
    spans: list[tuple[int, int]] = []
    for unit in sorted(units):
        is_near = spans and unit - spans[-1][1] <= max_gap_units * UNIT.seconds
        if is_near and spans[-1][0] // DAY_SECONDS == unit // DAY_SECONDS:
            spans[-1] = (spans[-1][0], unit + UNIT.seconds)
        else:
            spans.append((unit, unit + UNIT.seconds))
    return spans
