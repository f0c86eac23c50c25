"""The drain: one run over one shard. The only owner of the order of steps.

    take over -> (skip to head) -> [fetch -> decode -> build]* -> deliver -> ... -> flush -> close

Two batches exist at a time: one is being built by the caller's thread, one is being delivered by a second thread.
While the second is busy and the first is full, nothing is fetched: memory is bounded whatever the lag.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from metrics_pipeline.delivery.batch import BatchBuilder, BatchLimits, MicroBatch
from metrics_pipeline.delivery.delivery import Delivery
from metrics_pipeline.delivery.ownership import Hold
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.drain.ending import Ending, Reason, Situation
from metrics_pipeline.drain.skip_to_head import SkipToHead
from metrics_pipeline.drain.takeover import Takeover
from metrics_pipeline.errors import FencedError, KafkaUnavailableError, OffsetOutOfRangeError
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.ports import Handover
from metrics_pipeline.ledger.entry import LedgerEntry, MessageCounts, weighted_quantile
from metrics_pipeline.runtime.ports import Job, Worker
from metrics_pipeline.runtime.run import Run

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
CLOSE_AFTER_SECONDS = 1.0
"""A quiet topic's last batch is closed after so long, so that its committed offset tells the truth to lag tools."""
PAUSE_AFTER_SECONDS = 1.0
"""A full batch waits so long for the one before it before partitions are paused. Pausing drops what was fetched ahead:
it is for a slow or absent server, not for every busy moment."""
RELEASE_WAIT_SECONDS = 5.0
"""A predecessor that was told of us gets so long to close its books; then it is fenced."""
RELEASE_CHECK_SECONDS = 0.05
SUCCESSOR_CHECK_SECONDS = 0.2


@dataclass(slots=True)
class DrainReport(MessageCounts):
    """What a run did."""

    reason: Reason = Reason.STOPPED
    deferred: int = 0
    """Offsets that it skipped to be at the head."""
    freshness_ms: Counter[int] = field(default_factory=Counter)
    """Events per age class (upper border, milliseconds) when they became visible."""

    def freshness_seconds(self, quantile: float) -> float:
        """Age of events when they became visible; raises ValueError if none did."""
        return weighted_quantile(self.freshness_ms, quantile) / 1000

    def add(self, entry: LedgerEntry) -> None:
        self.count(entry)
        self.deferred += entry.deferred
        self.freshness_ms.update(dict(zip(entry.freshness.upper_ms, entry.freshness.events, strict=True)))


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """How a run cuts batches, how long the log may stand still with messages left, and when the run skips to the head.

    `skip_lag_offsets`: a run that is further behind begins at the head; None: it never does.
    """

    batches: BatchLimits
    stall_seconds: float
    skip_lag_offsets: int | None = None


class Drain:
    """Drains partitions of a log into a warehouse until an ending, or the run's `stop`, says so.

    `on_entry` hears, in the caller's thread, of each landed batch.
    """

    def __init__(
        self,
        hold: Hold,
        run: Run,
        rules: Rules,
        policy: DrainPolicy,
        handover: Handover,
        worker: Worker,
        on_entry: Callable[[LedgerEntry], None],
    ) -> None:
        self._log = hold.log
        self._run = run
        self._rules = rules
        self._policy = policy
        self._handover = handover
        self._worker = worker
        self._on_entry = on_entry
        self._delivery = Delivery(hold, run)
        self._takeover = Takeover(hold, run, rules, self._delivery, on_entry)
        self._skip_to_head = SkipToHead(hold.log, run, rules, self._delivery, policy.skip_lag_offsets, on_entry)
        self._builder = BatchBuilder({}, policy.batches)
        self._delivering: Job[LedgerEntry | None] | None = None
        self._last_message_seconds = 0.0
        self._full_since_seconds: float | None = None
        self._is_paused = False
        self._successor: str | None = None
        self._successor_checked_seconds = 0.0

    def run(self, partitions: Sequence[int], ending: Ending, *, has_predecessor: bool) -> Reason:
        """Drain until the end; on return everything fetched has landed and no intent is open.

        Raises RetryableError when an engine stayed away for too long (the intent that stays open is recovered by the
        next run), StopError when somebody has to act.
        """
        if has_predecessor:
            self._takeover.rehearse(partitions)
            self._await_release()
        try:
            self._read_from(self._skip_to_head.ahead(self._takeover.start(partitions)))
            reason = self._pump(ending)
            self._flush()
        except FencedError as error:
            logger.info("%s", error)
            return Reason.FENCED
        finally:
            self._join()
        if self._successor is not None:
            self._handover.release(self._successor)
        return reason

    def _await_release(self) -> None:
        """Tell the predecessor that we are ready, and let it close its books; it may be gone, so not for long."""
        self._handover.announce()
        deadline_seconds = self._run.clock.monotonic_seconds() + RELEASE_WAIT_SECONDS
        while not self._handover.is_released():
            if self._run.clock.monotonic_seconds() > deadline_seconds or self._run.stop():
                logger.warning("the predecessor did not close its books in %.0f s, fencing it", RELEASE_WAIT_SECONDS)
                return
            self._run.clock.sleep(RELEASE_CHECK_SECONDS)

    def _read_from(self, positions: dict[int, int]) -> None:
        self._log.assign(positions)
        self._builder = BatchBuilder(dict(positions), self._policy.batches)
        self._is_paused = False
        self._full_since_seconds = None

    def _pump(self, ending: Ending) -> Reason:
        started_seconds = self._last_message_seconds = self._run.clock.monotonic_seconds()
        while True:
            self._reap()
            now_seconds = self._run.clock.monotonic_seconds()
            if self._run.stop():
                return Reason.STOPPED
            reason = ending.reason(
                Situation(
                    now_seconds=now_seconds,
                    started_seconds=started_seconds,
                    last_message_seconds=self._last_message_seconds,
                    positions=self._builder.positions,
                    successor_is_ready=self._successor_is_ready,
                )
            )
            if reason is not None:
                return reason
            if now_seconds - self._last_message_seconds > self._policy.stall_seconds and not self._delivering:
                raise KafkaUnavailableError(
                    f"no message for {self._policy.stall_seconds:.0f} s though the topic goes on behind "
                    f"{self._builder.positions}: check the brokers; the next run goes on from there"
                )
            if self._delivering is not None and self._builder.is_full:
                self._hold(now_seconds)
            else:
                self._fetch()
                self._deliver_if_due()

    def _fetch(self) -> None:
        if self._is_paused:
            self._log.resume()
            self._is_paused = False
        self._full_since_seconds = None
        self._run.observe(Step.FETCH)
        try:
            fetched = self._log.poll(self._builder.room_events, self._builder.room_bytes, POLL_SECONDS)
        except OffsetOutOfRangeError as error:
            logger.warning("%s", error)
            self._flush()
            self._read_from(self._takeover.skip_lost(self._builder.positions))
            return
        now_seconds = self._run.clock.monotonic_seconds()
        if len(fetched.messages):
            self._last_message_seconds = now_seconds
            self._builder.add(fetched.messages, self._rules.decode(fetched.messages), now_seconds)
        self._builder.advance(fetched.ends, now_seconds)

    def _hold(self, now_seconds: float) -> None:
        """Backpressure: the batch in hand is full and the one before it is still on its way."""
        if self._full_since_seconds is None:
            self._full_since_seconds = now_seconds
        elif now_seconds - self._full_since_seconds > PAUSE_AFTER_SECONDS and not self._is_paused:
            logger.info("pausing the partitions until the batch on its way has landed")
            self._log.pause()
            self._is_paused = True
        self._last_message_seconds = now_seconds
        if self._delivering is not None:
            self._delivering.wait(POLL_SECONDS)

    def _deliver_if_due(self) -> None:
        self._reap()
        if self._delivering is not None:
            return
        now_seconds = self._run.clock.monotonic_seconds()
        if self._builder.is_due(now_seconds):
            self._delivering = self._worker.start(partial(self._delivery.deliver, self._cut(), self._rules))
        elif self._delivery.has_unclosed_batch and self._is_quiet(now_seconds):
            self._delivering = self._worker.start(self._delivery.close)

    def _cut(self) -> MicroBatch:
        """The batch in hand; the next one begins where it ends."""
        batch = self._builder.build()
        self._builder = BatchBuilder(self._builder.positions, self._policy.batches)
        return batch

    def _is_quiet(self, now_seconds: float) -> bool:
        return self._builder.is_empty and now_seconds - self._last_message_seconds > CLOSE_AFTER_SECONDS

    def _flush(self) -> None:
        """Land what is in hand and close."""
        self._join()
        self._reap()
        if not self._builder.is_empty:
            self._on_entry(self._delivery.deliver(self._cut(), self._rules))
        self._delivery.close()

    def _reap(self) -> None:
        """Take the result of a finished delivery; raises what it raised."""
        if self._delivering is not None and self._delivering.is_done():
            delivered, self._delivering = self._delivering, None
            entry = delivered.result()
            if entry is not None:
                self._on_entry(entry)

    def _join(self) -> None:
        """Let the delivery on its way come to its end, whatever that is."""
        if self._delivering is not None:
            self._delivering.wait()

    def _successor_is_ready(self) -> bool:
        now_seconds = self._run.clock.monotonic_seconds()
        if self._successor is None and now_seconds - self._successor_checked_seconds >= SUCCESSOR_CHECK_SECONDS:
            self._successor_checked_seconds = now_seconds
            self._successor = self._handover.successor()
        return self._successor is not None
