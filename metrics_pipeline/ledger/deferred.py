"""Offsets that a drain skipped to be at the head of the topic, and that are deferred until a backfill has landed them.
Pure.

A *skip to head* writes ledger rows that cover nothing: each names ranges of one wall-clock hour of Kafka's time. What
else the ledger covers of them, since then or ever, is not deferred.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from metrics_pipeline.kafka.intents import OffsetRange, offsets_in
from metrics_pipeline.runtime.timerange import HOUR_SECONDS

GROUP_SUFFIX = ".deferred"
"""The side group whose offsets hold the open batch of a backfill, and whose owner may backfill."""


@dataclass(frozen=True, slots=True)
class DeferredEntry:
    """Skipped ranges whose messages Kafka has of one hour: of [first_ms, last_ms], within whole minutes."""

    ranges: tuple[OffsetRange, ...]
    first_ms: int
    last_ms: int

    @property
    def offsets(self) -> int:
        return offsets_in(self.ranges)

    @property
    def hour_seconds(self) -> int:
        """Start of the hour, epoch seconds."""
        return self.first_ms // 1_000 // HOUR_SECONDS * HOUR_SECONDS


def deferred_hours(entries: Iterable[DeferredEntry]) -> tuple[int, ...]:
    """The hours of which something is deferred, in order: epoch seconds of their starts."""
    return tuple(sorted({entry.hour_seconds for entry in entries}))


def still_deferred(entries: Iterable[DeferredEntry], covered: Iterable[OffsetRange]) -> tuple[DeferredEntry, ...]:
    """What of `entries` is not covered, each offset once; entries of which nothing is left are dropped."""
    known = _by_partition(merged(covered))
    left = []
    for entry in entries:
        ranges = _outside(entry.ranges, known)
        for r in ranges:
            known[r.partition] = merged((*known.get(r.partition, ()), r))
        if ranges:
            left.append(replace(entry, ranges=ranges))
    return tuple(left)


def deferred_within(entries: Iterable[DeferredEntry], ranges: Iterable[OffsetRange]) -> tuple[DeferredEntry, ...]:
    """What of `entries` lies within `ranges`."""
    wanted = merged(ranges)
    found = (replace(entry, ranges=intersected(entry.ranges, wanted)) for entry in entries)
    return tuple(entry for entry in found if entry.ranges)


def merged(ranges: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """The same offsets in as few ranges as there can be, in order; empty ones are dropped."""
    found: list[OffsetRange] = []
    for r in sorted(ranges):
        if not r.offsets:
            continue
        if found and found[-1].partition == r.partition and r.start <= found[-1].end:
            found[-1] = OffsetRange(r.partition, found[-1].start, max(found[-1].end, r.end))
        else:
            found.append(r)
    return tuple(found)


def around(ranges: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """One range per partition, from the first of its offsets to the last."""
    spans: dict[int, OffsetRange] = {}
    for r in ranges:
        known = spans.get(r.partition, r)
        spans[r.partition] = OffsetRange(r.partition, min(known.start, r.start), max(known.end, r.end))
    return tuple(spans.values())


def subtracted(ranges: Iterable[OffsetRange], covered: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """The offsets of `ranges` that `covered` lacks."""
    return _outside(ranges, _by_partition(merged(covered)))


def intersected(ranges: Iterable[OffsetRange], others: Iterable[OffsetRange]) -> tuple[OffsetRange, ...]:
    """The offsets that both have."""
    whole = merged(ranges)
    return subtracted(whole, subtracted(whole, others))


def _by_partition(ordered: Iterable[OffsetRange]) -> dict[int, tuple[OffsetRange, ...]]:
    return {p: tuple(found) for p, found in groupby(ordered, key=lambda r: r.partition)}


def _outside(ranges: Iterable[OffsetRange], holes: Mapping[int, tuple[OffsetRange, ...]]) -> tuple[OffsetRange, ...]:
    return tuple(piece for r in merged(ranges) for piece in _without(r, holes.get(r.partition, ())))


def _without(whole: OffsetRange, holes: Sequence[OffsetRange]) -> Iterator[OffsetRange]:
    """`holes` are merged ones of its partition."""
    start = whole.start
    for hole in holes[bisect_right(holes, start, key=lambda h: h.end) :]:
        if hole.start >= whole.end:
            break
        if hole.start > start:
            yield OffsetRange(whole.partition, start, hole.start)
        start = max(start, hole.end)
    if start < whole.end:
        yield OffsetRange(whole.partition, start, whole.end)
