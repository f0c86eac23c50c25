"""Which rebuilds of rollups are to be launched: policy apart from its state. Pure.

A run costs seconds of a core whatever it builds, and readers take finer rows until then: so it's one run per partition
for all of its grains, and not again soon.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from metrics_pipeline.rollups.grains import BUILT, LIVE, UNIT, Grain, grain_named
from metrics_pipeline.runtime.timerange import DAY_SECONDS, WEEK_SECONDS

FIRST_DAY = "2024-01-01"
FIRST_WEEK = "2024-01-04"
"""Buckets of a week start on Thursdays, as 1970-01-01 was one."""


@dataclass(frozen=True, slots=True, order=True)
class Stale:
    """A closed bucket without a right build, or (of the live grain) a repaired unit that lacks events."""

    start_seconds: int
    grain: str


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A day, or a week for grains longer than a day, UTC."""

    start_seconds: int
    seconds: int

    @property
    def key(self) -> str:
        return f"{datetime.fromtimestamp(self.start_seconds, UTC):%Y-%m-%d}"

    @property
    def is_known(self) -> bool:
        return self.key >= (FIRST_WEEK if self.seconds == WEEK_SECONDS else FIRST_DAY)


@dataclass(frozen=True, slots=True)
class RecentRun:
    """A run that builds a partition."""

    is_active: bool
    has_failed: bool
    created_ago_seconds: float


@dataclass(frozen=True, slots=True)
class RebuildPolicy:
    """Limits. A partition is young if it ended less than two days ago, or did not end yet."""

    max_launches: int = 4
    max_partitions: int = 50
    """Looked at in one tick."""
    young_seconds: float = 300
    """Between two runs of a young partition: late events come to it all the time."""
    old_seconds: float = 3_600
    max_backoff_seconds: float = 21_600


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Build what is stale of these grains in the partition."""

    partition: Partition
    grains: tuple[str, ...]


def partition_seconds(grain: Grain) -> int:
    """Length of the partitions in which a grain is rebuilt."""
    return DAY_SECONDS if grain.seconds <= DAY_SECONDS else WEEK_SECONDS


def plan_rebuilds(
    stale: Iterable[Stale],
    runs_of: Callable[[Rebuild], Sequence[RecentRun]],
    now_seconds: float,
    policy: RebuildPolicy = RebuildPolicy(),
) -> list[Rebuild]:
    """What to launch now, oldest partition first; `runs_of` has the last runs of a partition, newest first."""
    grains: dict[Partition, set[str]] = {}
    for bucket in sorted(stale):
        # A repair belongs to the run that builds the finest grain.
        name = UNIT.name if bucket.grain == LIVE.name else bucket.grain
        seconds = partition_seconds(grain_named(name))
        partition = Partition(bucket.start_seconds // seconds * seconds, seconds)
        grains.setdefault(partition, set()).add(name)
    launches: list[Rebuild] = []
    known = [partition for partition in sorted(grains) if partition.is_known]
    for partition in known[: policy.max_partitions]:
        wanted = Rebuild(partition, tuple(g.name for g in BUILT if g.name in grains[partition]))
        if len(launches) < policy.max_launches and _is_due(partition, runs_of(wanted), now_seconds, policy):
            launches.append(wanted)
    return launches


def _is_due(partition: Partition, runs: Sequence[RecentRun], now_seconds: float, policy: RebuildPolicy) -> bool:
    if any(run.is_active for run in runs):
        return False
    if not runs:
        return True
    is_young = partition.start_seconds + partition.seconds > now_seconds - 2 * DAY_SECONDS
    wait_seconds = policy.young_seconds if is_young else policy.old_seconds
    failures = next((n for n, run in enumerate(runs) if not run.has_failed), len(runs))
    return runs[0].created_ago_seconds >= min(wait_seconds * (1 << failures), policy.max_backoff_seconds)
