"""The skip to head: a run that is far behind begins at the head, and puts what it skips on record as deferred.

What it skips is cut at the hours of Kafka's time: hour h of a partition is what lies from its first message at h or
later to its first one at h + 1 or later, in whatever order times are. Each hour is a batch of the delivery protocol
that holds nothing, with an intent and a ledger entry of its own: a crash in between leaves the later hours unskipped.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from metrics_pipeline.delivery.batch import deferred_batch
from metrics_pipeline.delivery.delivery import Delivery
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.kafka.ports import Log
from metrics_pipeline.ledger.deferred import DeferredEntry
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.runtime.retry import Retry
from metrics_pipeline.runtime.run import Run
from metrics_pipeline.runtime.timerange import HOUR_SECONDS

logger = logging.getLogger(__name__)

MAX_ENTRIES = 5_000
"""Most entries of one skip to head: 200 days of hours. The last entry takes the rest, which no real backlog has."""
_LAST_MINUTE = (1 << 32) // 60
_HOUR_MINUTES = HOUR_SECONDS // 60
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class SkipToHead:
    """Skips where a shard is more than `lag_offsets` behind; None: never. `on_entry` hears of each skipped hour."""

    log: Log
    run: Run
    rules: Rules
    delivery: Delivery
    lag_offsets: int | None
    on_entry: Callable[[LedgerEntry], None]

    def ahead(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Partition -> where to read next: the head, or `positions` where they are near enough."""
        reached = dict(positions)
        if self.lag_offsets is None:
            return reached
        marks = self.run.retry.call(lambda: self.log.watermarks(sorted(positions)))
        heads = {p: max(marks[p].high, position) for p, position in positions.items()}
        lag = sum(heads[p] - position for p, position in positions.items())
        if lag <= self.lag_offsets:
            return reached
        logger.warning("%d offsets behind: skipping them, they are deferred until a backfill has landed them", lag)
        for entry in skipped_hours(self.log, self.run.retry, positions, heads, self.run.clock.now_ms()):
            if self.run.stop():
                break
            self.on_entry(self.delivery.deliver(deferred_batch(entry), self.rules))
            reached |= {r.partition: r.end for r in entry.ranges}
        return reached


def skipped_hours(
    log: Log, retry: Retry, positions: Mapping[int, int], heads: Mapping[int, int], now_ms: int
) -> Iterator[DeferredEntry]:
    """What lies between `positions` and `heads` (partition -> offset), by hours, the oldest first.

    `now_ms` is about where the last hour is: off by much, it takes some more questions.
    """
    behind = {p: OffsetRange(p, position, heads[p]) for p, position in positions.items() if position < heads[p]}
    if behind:
        yield from _Hours(log, retry, behind, now_ms).entries()


class _Hours:
    """Cuts ranges at hours. Finds the times of their ends by bisection: nothing is read of the messages."""

    def __init__(self, log: Log, retry: Retry, ranges: Mapping[int, OffsetRange], now_ms: int) -> None:
        self._log = log
        self._retry = retry
        self._starts = {p: r.start for p, r in ranges.items()}
        self._ends = {p: r.end for p, r in ranges.items()}
        self._now = min(max(now_ms // _MINUTE_MS, 1), _LAST_MINUTE - 1)

    def entries(self) -> Iterator[DeferredEntry]:
        messages = self._at(0)
        if messages == self._ends:
            return  # Control records alone: nothing to skip.
        first = _last_where(lambda minute: self._at(minute) == messages, self._now)
        end = _last_where(lambda minute: self._at(minute) != self._ends, self._now) + 1
        reached = self._starts
        hours = self._split(first // _HOUR_MINUTES, -(-end // _HOUR_MINUTES), messages, self._ends)
        for number, (hour, hour_ends) in enumerate(hours, 1):
            is_last = number == MAX_ENTRIES
            ends = self._ends if is_last else hour_ends
            yield DeferredEntry(
                tuple(OffsetRange(p, reached[p], ends[p]) for p in sorted(ends) if reached[p] < ends[p]),
                max(first, hour * _HOUR_MINUTES) * _MINUTE_MS,
                (end if is_last else min(end, (hour + 1) * _HOUR_MINUTES)) * _MINUTE_MS - 1,
            )
            if is_last:
                return
            reached = ends

    def _split(
        self, first: int, end: int, starts: dict[int, int], ends: dict[int, int]
    ) -> Iterator[tuple[int, dict[int, int]]]:
        """(hour, offsets behind it) of the hours in [first, end) that hold anything; `starts` and `ends` are theirs."""
        if starts == ends:
            return
        if end - first <= 1:
            yield first, ends
            return
        middle = (first + end) // 2
        between = self._at(middle * _HOUR_MINUTES)
        yield from self._split(first, middle, starts, between)
        yield from self._split(middle, end, between, ends)

    def _at(self, minute: int) -> dict[int, int]:
        """Partition -> first offset at that minute or later, within what is skipped."""
        found = self._retry.call(lambda: self._log.offsets_at(sorted(self._ends), minute * _MINUTE_MS))
        return {p: min(max(found.get(p, end), self._starts[p]), end) for p, end in self._ends.items()}


def _last_where(holds: Callable[[int], bool], near: int) -> int:
    """The last minute of which it holds, if it holds of all before; 0 where of none. It is sought around `near`."""
    low, high = _around(holds, near)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _around(holds: Callable[[int], bool], near: int) -> tuple[int, int]:
    """A minute of which it holds, or the first one, and a later one of which it doesn't, or the last."""
    step = 1
    if holds(near):
        low = near
        while low + step < _LAST_MINUTE and holds(low + step):
            low, step = low + step, 2 * step
        return low, min(low + step, _LAST_MINUTE)
    high = near
    while high - step > 0 and not holds(high - step):
        high, step = high - step, 2 * step
    return max(0, high - step), high
