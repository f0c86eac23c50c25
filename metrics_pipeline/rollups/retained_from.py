"""How far back tables are whole: the moments that the table retained_from holds. Pure.

Retention notes a moment before it drops anything older, and never where an event may still land. So what lies before it
is final: longer buckets replace the rows that are gone, and nothing has to be counted again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

from metrics_pipeline.rollups.grains import BUILT, GRAINS, LIVE, Grain
from metrics_pipeline.runtime.timerange import TimeRange

RAW, DEAD_LETTERS, LEDGER = "raw_events", "dead_letters", "batches"

REPLACED_BY: Mapping[str, Grain] = {fine.name: coarse for fine, coarse in pairwise(GRAINS)}
"""Grain whose rows were dropped -> the buckets that are read instead."""


@dataclass(frozen=True, slots=True)
class RetainedFrom:
    """Name of a table, or of a grain -> epoch seconds: rows of times before this may be gone. Absent: none is."""

    until: Mapping[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int:
        return self.until.get(name, 0)

    @property
    def compared_from(self) -> int:
        """Before this, raw_events can't be compared with rollups any more, nor can a unit be made again; and no event
        may land, since a second copy of it would not be recognised."""
        return max(self.of(RAW), self.of(LIVE.name))

    @property
    def cutoffs(self) -> Mapping[int, int]:
        """Length of buckets -> epoch seconds: buckets that start before have no finer rows any more."""
        return {REPLACED_BY[fine].seconds: until for fine, until in sorted(self.until.items()) if fine in REPLACED_BY}

    def buildable_from(self, grain: Grain) -> int:
        """Buckets of a grain that start earlier lack rows to be built from."""
        return max((self.of(fine) for fine, coarse in REPLACED_BY.items() if coarse is grain), default=0)


NOTHING_DROPPED = RetainedFrom()


def _standing(retained_from: RetainedFrom, moment_seconds: int) -> Grain | None:
    """The shortest buckets that are left of that moment; None where all are."""
    found = [grain for grain in BUILT if moment_seconds < retained_from.buildable_from(grain)]
    return found[-1] if found else None


def _part(asked: TimeRange, start_seconds: int, end_seconds: int) -> TimeRange:
    offset = int(asked.start.timestamp())
    return TimeRange(
        asked.start + timedelta(seconds=start_seconds - offset), asked.start + timedelta(seconds=end_seconds - offset)
    )
