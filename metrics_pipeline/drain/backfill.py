"""The backfill: what a skip to head skipped lands, exactly once, while drains go on at the head.

    resume -> [what is deferred -> lost ones -> (read -> deliver)*]* -> close

Batches go through the delivery protocol as a drain's do, but their offsets' intents stand in a side group of one owner:
of two backfills the newer one fences the older, and finishes the batch that it left open. What is deferred is read from
the ledger after that, never remembered. Each batch lies within one hour that was skipped.

Two batches exist at a time: one is being read by the caller's thread, one is being delivered by a second thread.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from metrics_pipeline.delivery.batch import BatchLimits, MicroBatch, lost_batch
from metrics_pipeline.delivery.delivery import Delivery
from metrics_pipeline.delivery.ownership import Hold
from metrics_pipeline.delivery.yielding import Yielding
from metrics_pipeline.drain.ranges import RangeReader, already_lost
from metrics_pipeline.drain.takeover import Takeover
from metrics_pipeline.errors import OffsetOutOfRangeError
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OffsetRange, offsets_in
from metrics_pipeline.ledger.deferred import DeferredEntry, deferred_within
from metrics_pipeline.ledger.entry import LedgerEntry, MessageCounts, minutes_of
from metrics_pipeline.runtime.ports import Job, Worker
from metrics_pipeline.runtime.run import Run

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class BackfillReport(MessageCounts):
    """What a backfill did, in offsets and messages. `total` was deferred when it began, `left` is deferred still.

    `taken_back` events were stored by others in the same moment; the rollups count them twice in `doubled_minutes`
    (epoch seconds).
    """

    total: int = 0
    backfilled: int = 0
    left: int = 0
    taken_back: int = 0
    doubled_minutes: set[int] = field(default_factory=set)

    def take_back(self, events: pl.DataFrame) -> None:
        self.taken_back += len(events)
        self.doubled_minutes.update(minutes_of(events["timestamp"]).starts_seconds)

    def add(self, entry: LedgerEntry) -> None:
        self.count(entry)
        self.backfilled += offsets_in(a.range for a in entry.accounts)


class Backfill:
    """One backfill.

    `deferred` reads from the ledger what is deferred now; `under_way` tells the tokens of batches that others hold.
    """

    def __init__(
        self,
        hold: Hold,
        run: Run,
        rules: Rules,
        limits: BatchLimits,
        worker: Worker,
        deferred: Callable[[], tuple[DeferredEntry, ...]],
        under_way: Callable[[], frozenset[str]],
        on_progress: Callable[[BackfillReport], None],
    ) -> None:
        self._log = hold.log
        self._run = run
        self._rules = rules
        self._limits = limits
        self._worker = worker
        self._deferred = deferred
        self._on_progress = on_progress
        self.report = BackfillReport()
        self._delivery = Delivery(hold, run, Yielding(hold, run, under_way, self.report.take_back))
        self._takeover = Takeover(hold, run, rules, self._delivery, self.report.add)
        self._delivering: Job[LedgerEntry] | None = None

    def run(self, ranges: Sequence[OffsetRange] | None) -> None:
        """Land what is deferred within `ranges` (None: all of it), or until `stop` says so; nothing is left half done.

        Raises FencedError if another backfill took over, and what the adapters raise; a repeat goes on from there.
        """
        self._takeover.resume()
        deferred = self._read_deferred(ranges)
        # With what an earlier backfill had begun.
        self.report.total = self.report.backfilled + sum(entry.offsets for entry in deferred)
        try:
            while deferred and not self._run.stop():
                backfilled_before = self.report.backfilled
                for entry in deferred:
                    self._backfill(entry)
                self._join()
                deferred = self._read_deferred(ranges)
                if self.report.backfilled == backfilled_before:
                    break
        finally:
            if self._delivering is not None:
                self._delivering.wait()
        self._delivery.close()
        self.report.left = sum(entry.offsets for entry in deferred)

    def _read_deferred(self, ranges: Sequence[OffsetRange] | None) -> tuple[DeferredEntry, ...]:
        deferred = self._run.retry.call(self._deferred)
        return deferred if ranges is None else deferred_within(deferred, ranges)

    def _backfill(self, entry: DeferredEntry) -> None:
        for ranges in _one_per_partition(entry.ranges):
            if self._run.stop():
                return
            marks = self._run.retry.call(lambda of=ranges: self._log.watermarks([r.partition for r in of]))  # type: ignore[misc]
            lost = already_lost(ranges, marks)
            if lost:
                gone = tuple(OffsetRange(p, r.start, r.start + lost[p]) for r in ranges if (p := r.partition) in lost)
                logger.error("lost to the topic's retention while they were deferred: %s", gone)
                self._deliver(lost_batch(gone))
            left = (OffsetRange(r.partition, r.start + lost.get(r.partition, 0), r.end) for r in ranges)
            self._read(tuple(r for r in left if r.offsets))

    def _read(self, ranges: Sequence[OffsetRange]) -> None:
        reader = RangeReader(self._log, self._run, self._rules, ranges)
        try:
            while not reader.is_done and not self._run.stop():
                self._deliver(reader.next(self._limits))
        except OffsetOutOfRangeError as error:
            # The next reading of what is deferred finds the offsets lost.
            logger.warning("%s", error)

    def _deliver(self, batch: MicroBatch) -> None:
        """Begin to, when the one before has landed."""
        self._join()
        self._delivering = self._worker.start(partial(self._delivery.deliver, batch, self._rules))

    def _join(self) -> None:
        """Take the result of the delivery on its way; raises what it raised."""
        if self._delivering is not None:
            self._delivering.wait()
            delivered, self._delivering = self._delivering, None
            self.report.add(delivered.result())
            self._on_progress(self.report)


def _one_per_partition(ranges: Sequence[OffsetRange]) -> Iterator[tuple[OffsetRange, ...]]:
    """Parts of `ranges` that can be read side by side."""
    left = list(ranges)
    while left:
        first = {r.partition: r for r in reversed(left)}
        yield tuple(first[p] for p in sorted(first))
        left = [r for r in left if first[r.partition] != r]
