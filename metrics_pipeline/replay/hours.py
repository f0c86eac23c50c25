"""Which offsets an hour of the topic is, and the windows that it is replayed in. Pure.

An hour of a partition is [first offset of a message at or after its start, the same of its end). That grows with the
time, so hours tile the log, whatever order the times of messages have.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from metrics_pipeline.kafka.intents import Commit, OffsetRange, Watermarks
from metrics_pipeline.ledger.deferred import subtracted
from metrics_pipeline.runtime.timerange import HOUR_SECONDS

MAX_HOURS = 10_000
"""Replayed at once at most."""


MAX_WINDOW_MESSAGES = 50_000


MAX_WINDOW_PARTITIONS = 32
"""As many ranges fit into the metadata of an offset beside the search bits of refused rows."""


@dataclass(frozen=True, slots=True)
class HourPlan:
    """One hour: `ranges` are replayed.

    `dropped` were in the ledger and the topic holds them no more. `left_to_drains` have not landed yet. `unaccounted`
    are committed as done, but no ledger row accounts for them.
    """

    start_seconds: int
    ranges: tuple[OffsetRange, ...] = ()
    dropped: tuple[OffsetRange, ...] = ()
    left_to_drains: tuple[OffsetRange, ...] = ()
    unaccounted: tuple[OffsetRange, ...] = ()


def hours_around(start_seconds: int, end_seconds: int) -> range:
    """Starts of the whole hours that overlap [start, end)."""
    return range(start_seconds // HOUR_SECONDS * HOUR_SECONDS, end_seconds, HOUR_SECONDS)


def plan_hour(
    start_seconds: int,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    marks: Mapping[int, Watermarks],
    commits: Mapping[int, Commit],
    topic_id: str,
) -> HourPlan:
    """Split an hour by what drains have done.

    `starts` and `ends` are partition -> offset of the hour's borders; without one, no later message is there.
    """
    ranges, left = [], []
    for partition, held in sorted(marks.items()):
        begin = max(starts.get(partition, held.high), held.low)
        end = max(begin, min(ends.get(partition, held.high), held.high))
        commit = commits.get(partition)
        is_ours = commit is not None and commit.topic_id in {"", topic_id}
        done = min(end, max(begin, commit.offset if commit is not None and is_ours else 0))
        ranges.append(OffsetRange(partition, begin, done))
        left.append(OffsetRange(partition, done, end))
    return HourPlan(start_seconds, _some(ranges), left_to_drains=_some(left))


def with_accounts(plan: HourPlan, accounted: Iterable[OffsetRange], dropped: Iterable[OffsetRange]) -> HourPlan:
    """Only what the ledger accounts for is replayed: nobody would know of rows for the rest."""
    unaccounted = subtracted(plan.ranges, accounted)
    return replace(plan, ranges=subtracted(plan.ranges, unaccounted), dropped=tuple(dropped), unaccounted=unaccounted)


def windows(ranges: Sequence[OffsetRange]) -> Iterator[tuple[OffsetRange, ...]]:
    """Cut ranges into windows of one range per partition: a share of each, so that a window is a stretch of time."""
    for layer in _layers(ranges):
        for at in range(0, len(layer), MAX_WINDOW_PARTITIONS):
            group = layer[at : at + MAX_WINDOW_PARTITIONS]
            count = -(-sum(r.offsets for r in group) // MAX_WINDOW_MESSAGES)
            for n in range(count):
                yield _some(
                    OffsetRange(r.partition, r.start + r.offsets * n // count, r.start + r.offsets * (n + 1) // count)
                    for r in group
                )


def _layers(ranges: Sequence[OffsetRange]) -> Iterator[list[OffsetRange]]:
    """The first range of each partition, then the second ones, and so on."""
    by_partition = [list(found) for _, found in groupby(sorted(ranges), key=lambda r: r.partition)]
    for at in range(max(map(len, by_partition), default=0)):
        yield [of_partition[at] for of_partition in by_partition if at < len(of_partition)]


def _some(ranges: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    return tuple(r for r in ranges if r.offsets)
