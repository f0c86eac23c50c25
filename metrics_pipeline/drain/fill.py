"""The fill: what a jump skipped lands, exactly once, while drains go on at the head.

    resume -> [what is owed -> lost ones -> (read -> deliver)*]* -> close

Batches go through the delivery protocol as a drain's do, but their offsets' intents stand in a side group of one owner:
of two fills the newer fences the older, and finishes the batch that it left open. What is owed is read from the ledger
after that, never remembered. Each batch lies within one hour that was skipped.

Two batches exist at a time: one is being read by the caller's thread, one is being delivered by a second thread.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from metrics_pipeline.delivery.batch import BatchLimits, MicroBatch, lost_batch
from metrics_pipeline.delivery.delivery import Delivery
from metrics_pipeline.drain.ranges import RangeReader, already_lost
from metrics_pipeline.drain.takeover import Takeover
from metrics_pipeline.errors import OffsetOutOfRangeError
from metrics_pipeline.event.decode import EventLimits
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.kafka.ports import Log
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.ledger.owed import OwedEntry, owed_within
from metrics_pipeline.runtime.ports import Clock, Job, Worker
from metrics_pipeline.runtime.retry import Retry

logger = logging.getLogger("metrics_pipeline.fill")


@dataclass(slots=True)
class FillReport:
    """What a fill did, in offsets and messages. `total` was owed when it began, `left` is owed still.

    `taken_back` events were stored by others in the same moment.
    """

    total: int = 0
    filled: int = 0
    left: int = 0
    batches: int = 0
    consumed: int = 0
    inserted: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    lost: int = 0
    taken_back: int = 0

    def add(self, entry: LedgerEntry) -> None:
        self.batches += 1
        self.filled += sum(a.range.offsets for a in entry.accounts)
        self.consumed += entry.consumed
        self.inserted += entry.inserted
        self.duplicates += entry.duplicates
        self.dead_letters += entry.dead_letters
        self.lost += entry.lost


class Fill:
    """One fill. `owed` reads from the ledger what is owed now."""

    def __init__(
        self,
        log: Log,
        delivery: Delivery,
        takeover: Takeover,
        owed: Callable[[], tuple[OwedEntry, ...]],
        clock: Clock,
        worker: Worker,
        retry: Retry,
        batch_limits: BatchLimits,
        event_limits: EventLimits,
        report: FillReport,
        *,
        stop: Callable[[], bool],
        on_progress: Callable[[FillReport], None],
    ) -> None:
        self._log = log
        self._delivery = delivery
        self._takeover = takeover
        self._owed = owed
        self._clock = clock
        self._worker = worker
        self._retry = retry
        self._batch_limits = batch_limits
        self._event_limits = event_limits
        self._report = report
        self._stop = stop
        self._on_progress = on_progress
        self._delivering: Job[LedgerEntry] | None = None

    def run(self, ranges: Sequence[OffsetRange] | None) -> None:
        """Fill what is owed within `ranges` (None: all of it), or until `stop` says so; nothing is left half done.

        Raises FencedError if another fill took over, and what the adapters raise; a repeat goes on from there.
        """
        self._takeover.resume()
        owed = self._read_owed(ranges)
        # With what an earlier fill had begun.
        self._report.total = self._report.filled + sum(entry.offsets for entry in owed)
        try:
            while owed and not self._stop():
                filled_before = self._report.filled
                for entry in owed:
                    self._fill(entry)
                self._join()
                owed = self._read_owed(ranges)
                if self._report.filled == filled_before:
                    break
        finally:
            if self._delivering is not None:
                self._delivering.wait()
        self._delivery.close()
        self._report.left = sum(entry.offsets for entry in owed)

    def _read_owed(self, ranges: Sequence[OffsetRange] | None) -> tuple[OwedEntry, ...]:
        owed = self._retry.call(self._owed)
        return owed if ranges is None else owed_within(owed, ranges)

    def _fill(self, entry: OwedEntry) -> None:
        for ranges in _one_per_partition(entry.ranges):
            if self._stop():
                return
            marks = self._retry.call(lambda of=ranges: self._log.watermarks([r.partition for r in of]))  # type: ignore[misc]
            lost = already_lost(ranges, marks)
            if lost:
                gone = tuple(OffsetRange(p, r.start, r.start + lost[p]) for r in ranges if (p := r.partition) in lost)
                logger.error("lost to the topic's retention while they were owed: %s", gone)
                self._deliver(lost_batch(gone))
            left = (OffsetRange(r.partition, r.start + lost.get(r.partition, 0), r.end) for r in ranges)
            self._read(tuple(r for r in left if r.offsets))

    def _read(self, ranges: Sequence[OffsetRange]) -> None:
        reader = RangeReader(self._log, self._clock, self._retry, self._event_limits, ranges)
        try:
            while not reader.is_done and not self._stop():
                self._deliver(reader.next(self._batch_limits))
        except OffsetOutOfRangeError as error:
            # What is owed is read anew, and found lost.
            logger.warning("%s", error)

    def _deliver(self, batch: MicroBatch) -> None:
        """Begin to, when the one before has landed."""
        self._join()
        self._delivering = self._worker.start(partial(self._delivery.deliver, batch))

    def _join(self) -> None:
        """Take the result of the delivery on its way; raises what it raised."""
        if self._delivering is not None:
            self._delivering.wait()
            delivered, self._delivering = self._delivering, None
            self._report.add(delivered.result())
            self._on_progress(self._report)


def _one_per_partition(ranges: Sequence[OffsetRange]) -> Iterator[tuple[OffsetRange, ...]]:
    """Parts of `ranges` that can be read side by side."""
    left = list(ranges)
    while left:
        first = {r.partition: r for r in reversed(left)}
        yield tuple(first[p] for p in sorted(first))
        left = [r for r in left if first[r.partition] != r]
