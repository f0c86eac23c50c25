"""What a replay of hours did; in a dry run, what it would do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

import polars as pl

from metrics_pipeline.delivery.chunk import POSITION
from metrics_pipeline.kafka.intents import OffsetRange, offsets_in
from metrics_pipeline.ledger.tables import PlanStep
from metrics_pipeline.replay.hours import HourPlan
from metrics_pipeline.replay.plan import Found, inserts, of_step


@dataclass(slots=True)
class HourReport:
    """What a replay of hours did; in a dry run, what it would do.

    Offsets: `offsets` were to be looked at; `looked_at` of them were. `dropped` are in the ledger but no longer in the
    topic, `left_to_drains` have not landed yet, `deferred` were skipped by drains, and are backfilled first,
    `unaccounted` are in no row of the ledger.
    Messages: those with a `right` row, `duplicates` of others, with dead `letters` (of which a replay of dead letters
    would land `good_letters`), and `unrepaired` ones, whose rollups can't be repaired yet; mode fill leaves `other`
    events, which nobody misses: they were something else by the rules that judged them.
    Rows: `restored` had been accounted for, `added` had not, `replaced` took the place of another content, `removed`
    have no successor. Dead letters were made of messages (`dead_letters`, of them `refused` by the server), or made
    again (`restored_letters`). `recovered` chunks were left half done by an earlier replay.
    """

    hours: int = 0
    partitions: int = 0
    offsets: int = 0
    looked_at: int = 0
    dropped: int = 0
    left_to_drains: int = 0
    deferred: int = 0
    unaccounted: int = 0
    messages: int = 0
    right: int = 0
    duplicates: int = 0
    letters: int = 0
    good_letters: int = 0
    unrepaired: int = 0
    other: int = 0
    restored: int = 0
    added: int = 0
    replaced: int = 0
    removed: int = 0
    dead_letters: int = 0
    refused: int = 0
    restored_letters: int = 0
    recovered: int = 0
    units_repaired: int = 0
    units_left: int = 0
    dropped_ranges: list[OffsetRange] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, int]:
        """All counts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "dropped_ranges"}

    @property
    def changed(self) -> int:
        """Rows and dead letters that were inserted or removed."""
        rows = self.restored + self.added + self.replaced + self.removed
        return rows + self.dead_letters + self.restored_letters

    def plan(self, hours: Iterable[HourPlan]) -> None:
        for hour in hours:
            self.hours += 1
            self.partitions = max(self.partitions, len({r.partition for r in hour.ranges}))
            self.offsets += offsets_in(hour.ranges)
            self.dropped += offsets_in(hour.dropped)
            self.left_to_drains += offsets_in(hour.left_to_drains)
            self.unaccounted += offsets_in(hour.unaccounted)
            self.dropped_ranges += hour.dropped

    def find(self, found: Found, good_letters: int) -> None:
        self.messages += found.messages
        self.right += found.right
        self.duplicates += found.duplicates
        self.letters += found.letters
        self.good_letters += good_letters
        self.unrepaired += found.unrepaired

    def change(self, found: Found, plan: pl.DataFrame) -> None:
        self.other += len(found.insert) - len(inserts(plan))
        removed, added = of_step(plan, PlanStep.REMOVE), of_step(plan, PlanStep.INSERT)
        replaced = len(added.join(removed, on=POSITION, how="semi"))
        self.restored += len(of_step(plan, PlanStep.RESTORE))
        self.replaced += replaced
        self.added += len(added) - replaced
        self.removed += removed.n_unique(POSITION) - replaced
        self.dead_letters += len(of_step(plan, PlanStep.LETTER))
        self.restored_letters += len(of_step(plan, PlanStep.LOST_LETTER))


Progress = Callable[[HourReport], None]
