"""Grains of rollups: how long a bucket is. Pure.

Buckets start at multiples of their length since 1970-01-01T00:00:00Z, so each holds whole buckets of every finer grain,
whatever time zone a reader lives in. A day of a zone is then some buckets of a day, an hour and ten minutes together.
"""

from dataclasses import dataclass
from itertools import pairwise

from metrics_pipeline.runtime.timerange import DAY_SECONDS, HOUR_SECONDS


@dataclass(frozen=True, slots=True)
class Grain:
    """A length of buckets; `partition_days` is how many days one partition of its tables holds."""

    name: str
    seconds: int
    partition_days: int

    def floor(self, moment_seconds: int) -> int:
        """Start of the bucket that holds the moment, epoch seconds."""
        return moment_seconds - moment_seconds % self.seconds

    def ceil(self, moment_seconds: int) -> int:
        """The first start of a bucket at or after the moment, epoch seconds."""
        return -(-moment_seconds // self.seconds) * self.seconds


LIVE = Grain("1m", 60, partition_days=1)
"""Fed by each insert into raw_events; every other grain is built from finer ones."""

BUILT = (
    Grain("10m", 600, partition_days=7),
    Grain("1h", HOUR_SECONDS, partition_days=28),
    Grain("1d", DAY_SECONDS, partition_days=448),
    Grain("7d", 604_800, partition_days=448),
)
"""Finest first. Another grain is another line here."""

GRAINS = (LIVE, *BUILT)
COARSEST_SECONDS = GRAINS[-1].seconds
"""What an answer over a whole span may read where it can: the ends of the span are read from finer buckets."""
UNIT = BUILT[0]
"""The finest buckets whose events are counted apart, and so the unit of staleness, drift and repair."""

SETTLE_SECONDS = 120
"""A bucket is closed this long after its end: until then many events are still to come."""

if any(coarse.seconds % fine.seconds for fine, coarse in pairwise(GRAINS)):
    raise AssertionError("each grain must hold whole buckets of the next finer one")


def grain_named(name: str) -> Grain:
    """Raises KeyError for an unknown name."""
    return {grain.name: grain for grain in GRAINS}[name]
