"""What a backfill and a drain store in the same moment: each looks up before it sees the other's rows.

The backfill gives way. It takes its rows back, so that raw_events and the ledger count the event once, as the drain's;
the rollups, which have counted both, are repaired from raw_events. It looks twice: at once, before a merge can leave
its own row alone, and when every batch has landed that may have looked up before the backfill's rows were visible.
Batches that began later see them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from metrics_pipeline.delivery.ownership import Hold
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.event.contract import IDENTITY
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.runtime.run import Run

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Yielding:
    """`under_way` says which batches of others are open and not in the ledger, by their tokens.

    `on_taken_back` hears of events that the rollups have counted twice.
    """

    hold: Hold
    run: Run
    under_way: Callable[[], frozenset[str]]
    on_taken_back: Callable[[pl.DataFrame], None]

    def give_way(self, suspects: pl.DataFrame, landed: pl.DataFrame, ranges: Sequence[OffsetRange]) -> pl.DataFrame:
        """Those of `landed` that are stored by this batch alone; of `suspects` all others are taken back.

        Raises RetryableError if a batch elsewhere stays open for too long.
        """
        at_once = self._elsewhere(suspects, ranges)
        self._await_landed()
        elsewhere = pl.concat([at_once, self._elsewhere(suspects, ranges)])
        if not len(elsewhere):
            return landed
        found = suspects.join(elsewhere, on=IDENTITY, how="semi")
        unwanted = self.run.retry.call(lambda: self.hold.warehouse.own(found))
        if len(unwanted):
            self.run.retry.call(lambda: self._take_back(unwanted))
        kept = landed.join(elsewhere, on=IDENTITY, how="anti", maintain_order="left")
        # A merge may have taken the row before we did.
        counted = [unwanted.select(IDENTITY), landed.join(elsewhere, on=IDENTITY, how="semi").select(IDENTITY)]
        if len(doubled := pl.concat(counted).unique()):
            logger.warning("%d events were stored by others in the same moment: theirs count", len(doubled))
            self.on_taken_back(doubled)
        return kept

    def _elsewhere(self, suspects: pl.DataFrame, ranges: Sequence[OffsetRange]) -> pl.DataFrame:
        return self.run.retry.call(lambda: self.hold.warehouse.existing(suspects, ranges))

    def _take_back(self, events: pl.DataFrame) -> None:
        self.hold.ownership.prove()
        self.hold.warehouse.remove_events(events)

    def _await_landed(self) -> None:
        waited_for = self.run.retry.call(self.under_way)
        limit_seconds = self.run.retry.limit_seconds
        deadline_seconds = self.run.clock.monotonic_seconds() + limit_seconds
        while waited_for:
            if self.run.clock.monotonic_seconds() > deadline_seconds:
                raise RetryableError(
                    f"the batches {sorted(waited_for)} have been open for {limit_seconds:.0f} s, and may "
                    "hold the same events: let a drain, or `dead-letters replay`, finish them; the next "
                    "backfill goes on"
                )
            self.run.clock.sleep(_CHECK_SECONDS)
            waited_for &= self.run.retry.call(self.under_way)
